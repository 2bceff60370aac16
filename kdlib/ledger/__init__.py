"""The ledger: checks with their broken twins (`checks`), what they are about (`statements`, `chapters`), and its
`pages`.
"""

from kdlib.ledger.chapters import Chapter, chapter, chapters
from kdlib.ledger.checks import NOT_REPRODUCED, VERDICTS, CheckFailed, Ledger, Record, Twin, read_records
from kdlib.ledger.pages import claim_verdict, claims_report, claims_table, evidence_table, table
from kdlib.ledger.statements import CLAIMS, STATEMENTS, Claim, Statement

__all__ = [
    "CLAIMS",
    "NOT_REPRODUCED",
    "STATEMENTS",
    "VERDICTS",
    "Chapter",
    "CheckFailed",
    "Claim",
    "Ledger",
    "Record",
    "Statement",
    "Twin",
    "chapter",
    "chapters",
    "claim_verdict",
    "claims_report",
    "claims_table",
    "evidence_table",
    "read_records",
    "table",
]
