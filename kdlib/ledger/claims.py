"""What the records say about a paper's claim: a word, and a sentence with the counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from kdlib.ledger.checks import EVIDENCE, Outcome, Record
from kdlib.ledger.statements import Claim
from kdlib.tools.intervals import holm


@dataclass(frozen=True)
class Answer:
    """Made by `answer`.

    Attributes
    ----------
    verdict
        of a claim: "for", "against", "both ways", "undecided", or "a theorem" where nothing but its statements bears on
        it; of a doubt: "stands", "answered", "partly answered", "undecided". "not checked" without records.
    sentence
        the counts that it is put together from.
    outcomes
        `{outcome: how many}` of the pieces of evidence, corrected together.
    checks
        how many checks of its statements pass.
    """

    verdict: str
    sentence: str
    outcomes: dict[str, int]
    checks: int


def answer(claim: Claim, records: list[Record], *, delta: float = 0.05) -> Answer:
    """What these records say about a claim.

    Its pieces of evidence (observations and contrasts of experiments) are corrected together (Holm): one that is
    decided by itself only is undecided. A check of a theorem is no evidence for what the claim says about data. Of a
    doubt, evidence counts *for the doubt*, and the checks of its statements are what answers it.
    """
    about = [record for record in records if claim.number in record.claims]
    evidence = [record for record in about if record.kind in EVIDENCE]
    checks = [record for record in about if record.kind not in EVIDENCE and record.passed]
    outcomes = dict.fromkeys(get_args(Outcome), 0)
    told = [record for record in evidence if record.outcome != "vacuous"]
    for record, p in zip(told, holm([1.0 if record.p is None else record.p for record in told]), strict=True):
        outcomes["undecided" if p >= delta else record.outcome] += 1
    outcomes["vacuous"] = len(evidence) - len(told)
    said = _sentence(claim, evidence, outcomes, checks)
    return Answer(_verdict(claim, outcomes, len(checks)), said, outcomes, len(checks))


def _verdict(claim: Claim, outcomes: dict[str, int], checks: int) -> str:
    pro, contra = outcomes["for"] > 0, outcomes["against"] > 0
    if not (checks or any(outcomes.values())):
        return "not checked"
    if claim.doubt:
        if pro:
            return "partly answered" if checks or contra else "stands"
        if contra or (checks and not outcomes["undecided"]):
            return "answered"
        return "partly answered" if checks else "undecided"
    if pro or contra:
        return "both ways" if pro and contra else "for" if pro else "against"
    return "undecided" if any(outcomes.values()) else "a theorem"


def _sentence(claim: Claim, evidence: list[Record], outcomes: dict[str, int], checks: list[Record]) -> str:
    said = []
    if evidence:
        called = {"for": "for the doubt", "against": "against it"} if claim.doubt else {}
        counts = ", ".join(f"{number} {called.get(name, name)}" for name, number in outcomes.items() if number)
        said.append(f"Evidence: {counts}" + (", corrected together." if len(evidence) > 1 else "."))
    if checks:
        text = "1 check of its statements passes"
        if len(checks) > 1:
            text = f"{len(checks)} checks of its statements pass"
        shares = [(record.vacuous, record.trials) for record in checks if record.vacuous is not None]
        if shares:
            nothing = np.average([share for share, _ in shares], weights=[trials for _, trials in shares])
            text += f"; the bounds among them say nothing in {100 * nothing:.0f} % of their trials"
        said.append(f"{text}.")
    return " ".join(said)
