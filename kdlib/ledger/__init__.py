"""The ledger: checks with their broken twins (`checks`), what they are about (`statements`, `chapters`), and its
`pages`.
"""

from kdlib.ledger.chapters import Chapter, chapter, chapters
from kdlib.ledger.checks import EVIDENCE, CheckFailed, Ledger, Record, SameTwice, Twin, WrongFormula, read_records
from kdlib.ledger.claims import Answer, answer, tally
from kdlib.ledger.graph import edges, picture, uses
from kdlib.ledger.pages import claims_report, claims_table, evidence_table, filters, table
from kdlib.ledger.statements import CLAIMS, STATEMENTS, Claim, Statement

__all__ = [
    "CLAIMS",
    "EVIDENCE",
    "STATEMENTS",
    "Answer",
    "Chapter",
    "CheckFailed",
    "Claim",
    "Ledger",
    "Record",
    "SameTwice",
    "Statement",
    "Twin",
    "WrongFormula",
    "answer",
    "chapter",
    "chapters",
    "claims_report",
    "claims_table",
    "edges",
    "evidence_table",
    "filters",
    "picture",
    "read_records",
    "table",
    "tally",
    "uses",
]
