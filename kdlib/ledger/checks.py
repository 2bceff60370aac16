"""One way to state a check, to see it fail when it must, and to record it.

A check compares a measured quantity with what a theorem says it is (`identity`), is bounded by (`bound`) or grows
like (`rate`): it tests code, constants and hypotheses, and passes or stops the notebook. An `observation` is evidence
on what a paper claims: for it, against it, or undecided. Each carries its *broken twin*: the same comparison after one
hypothesis has been violated on purpose. Where none can be (algebra), it carries a *wrong formula* instead, which is
counted apart. A check whose twin passes stops the notebook, too::

    ledger = Ledger("transfer_risk", seeds=[0, 1], n=512)
    ledger.bound("R2", "on the circle", measured=risk, reference=bound,
                 hypotheses={"K is positive definite": True},
                 twin=Twin("the teacher is outside the space", measured=risk_2, reference=bound_2))

Each call adds to the chapter's JSON file in the records folder and returns a `Record`, which a notebook shows as a
card. The first check of a new `Ledger` begins the chapter's file anew, so no check that a notebook no longer makes
survives there.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from kdlib.ledger.cards import card
from kdlib.ledger.chapters import chapter, chapters
from kdlib.ledger.comparing import (
    Kind,
    Outcome,
    compared,
    directions_of,
    noticed_at,
    observed,
    summary,
    tightness_of,
    verdict_of,
)
from kdlib.ledger.statements import CLAIMS, STATEMENTS
from kdlib.tools.arrays import choice, number, real_array
from kdlib.tools.files import own_records_folder, records_folder, write_whole
from kdlib.tools.provenance import ROOT, device_name, provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

EVIDENCE = ("observation", "evidence")  # kinds of records that are for or against a claim; the others are checks


class CheckFailed(AssertionError):
    """A check failed, its hypotheses do not hold, or its broken twin passed."""


@dataclass(frozen=True)
class Twin:
    """The same comparison with one hypothesis violated. `broken` says which; the arrays are as in the check."""

    broken: str
    measured: object
    reference: object


class SameTwice(Twin):
    """In place of an observation's twin: the same thing twice, with other draws. Its mean is zero by construction."""


class WrongFormula(Twin):
    """In place of a twin where there is no hypothesis to violate: the statement with one part of it changed."""


@dataclass(frozen=True)
class Record:
    """What one check found; the fields are those of its JSON file.

    `slack` summarises, over the trials, how much room was left: the tolerance less the error (identity), the reference
    less the measured value (bound), the distance of the prediction from the edge of the interval (rate, observation).
    `claims` are the numbers of the papers' claims that the check bears on: by default those that name its statement.
    `tightness` is the range of reference / measured over a bound's trials (of a probability, those whose bound is below
    one), `vacuous` the share of trials whose bound on a probability is one or more; the power leaves them out, too.
    `directions` is the power of a check: the factor by which its reference, as a whole, may be wrong in each direction
    before the check fails (None: never noticed); of a bound there is one, too small, since one that is too large holds.
    `parts` has that factor for each part by itself (None: not noticed at a hundred).
    `twin` holds what was broken, whether it failed, its slack, and its kind: "hypothesis" or "formula"; of an
    observation "null" where there turned out to be no effect at all, "same" where there could be none. Of observations
    and experiments (kind "evidence"), `outcome` is one of `Outcome`, `p` the two-sided p-value of no effect, `power`
    the smallest effect that the design sees four times in five, and `passed` only says that it is *for*. Experiments
    have no twin: null experiments do that work.
    """

    id: str
    title: str
    kind: str
    verdict: str
    passed: bool
    chapter: str
    code: str
    hypotheses: dict
    trials: int
    measured: dict
    reference: dict
    slack: dict
    tolerance: float
    tightness: dict | None
    vacuous: float | None
    twin: dict
    dtype: str
    n: str
    seeds: list
    device: str
    note: str = ""
    claims: list = field(default_factory=list)
    provenance: dict = field(default_factory=dict)
    outcome: str = ""
    power: float | None = None
    directions: dict = field(default_factory=dict)
    p: float | None = None
    parts: dict = field(default_factory=dict)
    unit: str = ""

    @property
    def notices(self) -> float | None:
        """The factor that the check notices in every direction; None where there is none."""
        return None if None in self.directions.values() else max(self.directions.values(), default=None)

    def __repr__(self):
        if self.kind == "evidence":
            return f"{self.id} ({self.title}): {self.outcome}; would have shown: {self.power:.3g}"
        twin = "fails, as it must" if self.twin["failed"] else "PASSES: the check cannot fail"
        name = "wrong formula" if self.twin["kind"] == "formula" else "broken twin"
        return f"{self.id} ({self.title}): {self.verdict}; {name} ({self.twin['broken']}): {twin}"

    def _repr_html_(self):
        return card(self)


@dataclass
class Ledger:
    """The checks of one chapter.

    Attributes
    ----------
    chapter
        its name in `_toc.yml`.
    n, seeds, dtype
        of the runs, unless a check says otherwise.
    level
        of the intervals of observations, unless one says otherwise.
    folder
        of the JSON file; by default `own_records_folder()`.
    """

    chapter: str
    n: Any = ""
    seeds: list = field(default_factory=list)
    dtype: str = "float64"
    level: float = 0.95
    folder: Path | None = None
    records: list[Record] = field(default_factory=list, init=False)

    def __post_init__(self):
        chapter(self.chapter)  # refuses a name that is not in the book

    def identity(self, statement: str, title: str, measured, reference, *, tolerance: float, **about) -> Record:
        """`measured` equals `reference` in every entry: `abs(measured - reference) <= tolerance * max(1,
        abs(reference))`.
        """
        return self._check("identity", statement, title, measured, reference, tolerance=tolerance, **about)

    def bound(self, statement: str, title: str, measured, reference, *, tolerance: float = 0.0, **about) -> Record:
        """`measured <= reference + tolerance` in every trial; `measured < reference` with `strict=True`.

        `probability=True`: the reference bounds a probability; say where it is vacuous (one or more).
        `critical=True`: it is a test's critical value; a factor on it means nothing, and the power is that of `parts`.

        `parts`: of what the right side is made, by name, so that the check's power is known for each by itself. A part
        is a term of the reference (an array, which is divided), or a function of the factor by which the part is made
        smaller, which gives `(measured, reference)` again: for what stands in an exponent or in a product.
        """
        return self._check("bound", statement, title, measured, reference, tolerance=tolerance, **about)

    def rate(self, statement: str, title: str, interval, predicted, *, tolerance: float = 0.0, **about) -> Record:
        """The predicted slope lies in the fitted `interval = (low, high)`, widened by `tolerance`."""
        return self._check("rate", statement, title, interval, predicted, tolerance=tolerance, **about)

    def observation(
        self, statement: str, title: str, interval, threshold: float = 0.0, *, level: float | None = None,
        null_error: float | None = None, estimate: float | None = None, **about,
    ) -> Record:  # fmt: skip
        """A claim about data: an effect, with its `interval = (low, high)`, exceeds `threshold`.

        It is "for" the claim where the whole interval lies above, "against" where it lies below, else "undecided": each
        is a finding, none an error. Its p-value and power are those of Student's law with this interval, whose level
        is `level` (the ledger's, if it is not said), and one degree of freedom less than there are seeds; with a single
        seed (an interval over cases), of a normal law. If every seed gave the same number, the p-value is that of a
        sign test. Where the spread depends on the effect, as a correlation's does, `null_error` is the standard error
        that it has without any effect: the p-value is then of a normal law with that error, the power of one with the
        larger error of the two, since it is the interval that decides. `estimate` is the effect where it is not the
        interval's middle. Its twin is a case in which there is nothing to observe. `unit` says what the interval is of.
        """
        return self._check(
            "observation", statement, title, interval, threshold, tolerance=0.0, strict=True,
            level=self.level if level is None else level, null_error=null_error, estimate=estimate, **about,
        )  # fmt: skip

    def evidence(
        self, experiment: str, title: str, differences, *, outcome: Outcome, power: float, interval, p: float,
        claims: list[int] | tuple[int, ...] = (), code: str = "", note: str = "", n: Any = None, seeds=None,
        dtype: str | None = None, unit: str = "",
    ) -> Record:  # fmt: skip
        """What an experiment says about a claim: an outcome that was reached by a rule fixed before it ran.

        Parameters
        ----------
        experiment
            its id: X and a number.
        differences
            `(seeds,)` effects.
        outcome, power, interval, p
            as `kdlib.experiments.contrasts.Evidence` has them: "for", "against", "undecided" or "vacuous"; the smallest
            effect that could have been seen; the interval of the mean effect; its p-value, not corrected.
        unit
            of the effects.
        """
        if not re.fullmatch(r"X\d+", experiment):
            raise ValueError(f"evidence needs an experiment's id, X and a number, not {experiment!r}")
        choice("outcome", outcome, get_args(Outcome))
        differences = real_array("differences", differences, ndim=1)
        low, high = (float(end) for end in interval)
        record = Record(
            id=experiment, title=title, kind="evidence", verdict=outcome, passed=outcome == "for",
            chapter=self.chapter, code=code, hypotheses={}, trials=len(differences),
            measured={"min": low, "median": float(np.mean(differences)), "max": high}, reference=summary(0.0),
            slack=summary(differences), tolerance=0.0, tightness=None, vacuous=None, twin={},
            dtype=dtype or self.dtype, n=str(self.n if n is None else n),
            seeds=[int(seed) for seed in (self.seeds if seeds is None else seeds)], device=device_name(), note=note,
            claims=_known(claims), provenance=provenance(ROOT / "book" / f"{self.chapter}.ipynb"),
            outcome=outcome, power=number("power", power, least=0), p=number("p", p, least=0, most=1), unit=unit,
        )  # fmt: skip
        self._keep(record)
        return record

    def _keep(self, record: Record) -> None:
        """Add a record to the chapter's file; a second one of the same name is refused."""
        if any((record.id, record.title) == (other.id, other.title) for other in self.records):
            raise ValueError(f"{record.id} has a check titled {record.title!r} already")
        self.records.append(record)
        entries = [asdict(record) for record in self.records]
        path = Path(self.folder or own_records_folder()) / f"{self.chapter}.json"
        write_whole(path, json.dumps(entries, indent=1, ensure_ascii=False))

    def _check(
        self, kind: Kind, statement: str, title: str, measured, reference, *, tolerance: float, twin: Twin,
        hypotheses: dict[str, Any] | None = None, code: str = "", note: str = "", n: Any = None, seeds=None,
        dtype: str | None = None, probability: bool = False, strict: bool = False, claims: list[int] | None = None,
        parts: Mapping[str, Any] | None = None, unit: str = "", critical: bool = False, level: float = 0.95,
        null_error: float | None = None, estimate: float | None = None,
    ) -> Record:  # fmt: skip
        if statement not in STATEMENTS:
            raise ValueError(f"no statement {statement!r}: the ids are {', '.join(STATEMENTS)}")
        hypotheses = {name: bool(holds) for name, holds in (hypotheses or {}).items()}
        measured, reference, slack = compared(kind, measured, reference, tolerance)
        twin_measured, twin_reference, twin_slack = compared(kind, twin.measured, twin.reference, tolerance)
        if not (np.isfinite(twin_measured).all() and np.isfinite(twin_reference).all()):
            raise ValueError(
                f"{statement} ({title}): the twin must fail by its numbers, and some of them are not finite"
            )
        enough = np.greater if strict else np.greater_equal
        passed, twin_failed = bool(enough(slack, 0).all()), not bool(enough(twin_slack, 0).all())
        vacuous = float(np.mean(reference >= 1)) if probability else None
        told = reference < 1 if probability else slice(None)  # trials whose bound says anything
        runs = self.seeds if seeds is None else seeds
        outcome, power, p = "", None, None
        if kind == "observation":
            level = number("level", level, above=0, below=1)
            outcome, power, p = observed(measured, reference, len(runs) - 1, level, null_error, estimate)
        verdict = outcome or verdict_of(kind, tolerance, vacuous)
        acceptable = passed or kind == "observation"  # an observation may come out against its claim
        sound = acceptable and all(hypotheses.values()) and twin_failed
        ratio = tightness_of(measured[told], reference[told]) if kind == "bound" else np.array([])
        record = Record(
            id=statement,
            title=title,
            kind=kind,
            verdict=verdict if sound else "FAILED",
            passed=passed and sound,
            chapter=self.chapter,
            code=code,
            hypotheses=hypotheses,
            trials=int(slack.size),
            measured=summary(measured),
            reference=summary(reference),
            slack=summary(slack),
            tolerance=float(tolerance),
            tightness=summary(ratio) if ratio.size else None,
            vacuous=vacuous,
            twin={
                "broken": twin.broken, "failed": twin_failed, "slack": summary(twin_slack),
                "kind": _kind_of_twin(kind, twin, twin_measured),
            },
            dtype=dtype or self.dtype,
            n=str(self.n if n is None else n),
            seeds=[int(seed) for seed in runs],
            device=device_name(),
            note=note,
            claims=[claim.number for claim in CLAIMS if statement in claim.statements]
            if claims is None
            else _known(claims),
            provenance=provenance(ROOT / "book" / f"{self.chapter}.ipynb"),
            outcome=outcome, power=power, p=p, unit=unit,
            directions=directions_of(kind, measured[told], reference[told], tolerance)
            if passed and kind != "observation" and vacuous != 1 and not critical
            else {},
            parts={
                name: noticed_at(kind, part, measured, reference, tolerance, told)
                for name, part in (parts or {}).items()
            },
        )  # fmt: skip
        self._keep(record)
        if unmet := [name for name, holds in hypotheses.items() if not holds]:
            raise CheckFailed(f"{statement} ({title}): hypothesis not met: {'; '.join(unmet)}")
        if not acceptable:
            raise CheckFailed(
                f"{statement} ({title}) fails: worst slack {slack.min():.3g} over {slack.size} comparisons"
            )
        if not twin_failed:
            raise CheckFailed(f"{statement} ({title}) cannot fail: it also passes when {twin.broken}")
        return record


def read_records(folder: str | Path | None = None) -> list[Record]:
    """All records of a folder, in the order of the statements; evidence after them, by experiment.

    Of another version's records, what this one does not know is left out.
    """
    paths = [path for path in sorted(Path(folder or records_folder()).glob("*.json")) if path.stem in chapters()]
    entries = [entry for path in paths for entry in json.loads(path.read_text(encoding="utf-8"))]
    known = Record.__dataclass_fields__
    records = [Record(**{name: value for name, value in entry.items() if name in known}) for entry in entries]
    places = list(chapters())
    return sorted(records, key=lambda record: (*_order(record.id), places.index(record.chapter), record.title))


def _known(claims) -> list[int]:
    """Numbers of claims; ValueError where the papers have no such claim."""
    numbers = {claim.number for claim in CLAIMS}
    if unknown := sorted(set(claims) - numbers):
        raise ValueError(f"claims {unknown}: there are {min(numbers)} to {max(numbers)}")
    return list(claims)


def _order(name: str) -> tuple[int, int]:
    if name in STATEMENTS:
        return 0, list(STATEMENTS).index(name)
    return 1, int(name[1:])  # an experiment's


def _kind_of_twin(kind: Kind, twin: Twin, measured: np.ndarray) -> str:
    if isinstance(twin, SameTwice):
        return "same"
    if kind == "observation" and abs(measured.sum()) < 1e-9 * max(1.0, np.ptp(measured)):
        return "null"
    return "formula" if isinstance(twin, WrongFormula) else "hypothesis"
