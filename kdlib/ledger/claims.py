"""What the records say about a paper's claim: a word, and a sentence with the counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from kdlib.ledger.checks import EVIDENCE, Record
from kdlib.ledger.comparing import Outcome
from kdlib.ledger.statements import CLAIMS, Claim
from kdlib.tools.intervals import holm


@dataclass(frozen=True)
class Answer:
    """Made by `answer`.

    Attributes
    ----------
    verdict
        of a claim: "for", "against", "both ways", "undecided", or "a theorem" where nothing but its statements bears on
        it; "for in part" or "against in part" where some part of it has nothing decided; of a doubt: "stands",
        "answered", "partly answered", "undecided". "not checked" without records.
    sentence
        the counts that it is put together from.
    outcomes
        `{outcome: how many}` of the pieces of evidence, corrected together.
    checks
        how many checks of its statements pass.
    parts
        the same counts for each part of the claim, if it has any.
    """

    verdict: str
    sentence: str
    outcomes: dict[str, int]
    checks: int
    parts: dict[str, dict[str, int]] = field(default_factory=dict)


def answer(claim: Claim, records: list[Record], *, delta: float = 0.05) -> Answer:
    """What these records say about a claim.

    Its pieces of evidence (observations and contrasts of experiments) are corrected together (Holm): one that is
    decided by itself only is undecided. A check of a theorem is no evidence for what the claim says about data. Of a
    doubt, evidence counts *for the doubt*, and the checks of its statements are what answers it.
    """
    about = [record for record in records if claim.number in record.claims]
    evidence = [record for record in about if record.kind in EVIDENCE]
    checks = [record for record in about if record.kind not in EVIDENCE and record.passed]
    told = [record for record in evidence if record.outcome != "vacuous"]
    adjusted = holm([1.0 if record.p is None else record.p for record in told])
    decided = [
        (record, "undecided" if p >= delta else record.outcome) for record, p in zip(told, adjusted, strict=True)
    ]
    decided += [(record, "vacuous") for record in evidence if record.outcome == "vacuous"]
    outcomes = _count(decided)
    parts = {
        part: _count([(record, outcome) for record, outcome in decided if _is_on(record, named)])
        for part, named in claim.parts.items()
    }
    said = _sentence(claim, evidence, outcomes, parts, checks)
    return Answer(_verdict(claim, outcomes, parts, len(checks)), said, outcomes, len(checks), parts)


def tally(records: list[Record]) -> dict[str, int]:
    """The outcomes of all claims' evidence, each corrected within its claim; what bears on two claims counts twice."""
    answers = [answer(claim, records) for claim in CLAIMS]
    return {outcome: sum(one.outcomes[outcome] for one in answers) for outcome in get_args(Outcome)}


def _count(decided: list[tuple[Record, str]]) -> dict[str, int]:
    return {name: sum(outcome == name for _, outcome in decided) for name in get_args(Outcome)}


def _is_on(record: Record, named: tuple[str, ...]) -> bool:
    """Whether a part of a claim names this record: by its id, and by words of its title if it says any."""
    pairs = (name.partition(": ") for name in named)
    return any(record.id == identity and words in record.title for identity, _, words in pairs)


def _verdict(claim: Claim, outcomes: dict[str, int], parts: dict[str, dict[str, int]], checks: int) -> str:
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
        whole = all(part["for"] or part["against"] for part in parts.values())
        return "both ways" if pro and contra else ("for" if pro else "against") + ("" if whole else " in part")
    return "undecided" if any(outcomes.values()) else "a theorem"


def _sentence(
    claim: Claim, evidence: list[Record], outcomes: dict[str, int], parts: dict[str, dict[str, int]],
    checks: list[Record],
) -> str:  # fmt: skip
    said = []
    if evidence:
        called = {"for": "for the doubt", "against": "against it"} if claim.doubt else {}
        counts = lambda found: ", ".join(
            f"{number} {called.get(name, name)}" for name, number in found.items() if number
        )
        said.append(f"Evidence: {counts(outcomes)}" + (", corrected together." if len(evidence) > 1 else "."))
        said += [f"{part[0].upper()}{part[1:]}: {counts(found) or 'nothing asked'}." for part, found in parts.items()]
    if checks:
        text = "1 check of its statements passes"
        if len(checks) > 1:
            text = f"{len(checks)} checks of its statements pass"
        shares = [record.vacuous for record in checks if record.vacuous is not None]
        if shares:
            text += f"; the bounds among them say nothing in {100 * np.mean(shares):.0f} % of their trials, on average"
        said.append(f"{text}.")
    return " ".join(said)
