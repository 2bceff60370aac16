"""One way to state a check, to see it fail when it must, and to record it.

A check compares a measured quantity with what a theorem says it is (`identity`), is bounded by (`bound`) or grows
like (`rate`), or with what a paper claims (`observation`). Every check carries its *broken twin*: the same comparison
after one hypothesis has been violated on purpose (or, where a formula is at stake, one part of it changed). A check
that fails, or whose twin does not, stops the notebook::

    ledger = Ledger(chapter=3, seeds=[0, 1], n=512)
    ledger.bound("R2", "on the circle", measured=risk, reference=bound,
                 hypotheses={"K is positive definite": True},
                 twin=Twin("the teacher is outside the space", measured=risk_2, reference=bound_2))

Each call adds to the chapter's JSON file in the records folder and returns a `Record`, which a notebook shows as a
card. A new `Ledger` begins the chapter's file anew, so no check that a notebook no longer makes survives there.
"""

from __future__ import annotations

import html
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from kdlib.provenance import ROOT, device_name, provenance
from kdlib.statements import CHAPTERS, CLAIMS, STATEMENTS

VERDICTS = {
    "identity": "proved exactly",
    "bound": "bound holds",
    "rate": "rate fitted",
    "observation": "observed",
}
NOT_REPRODUCED = "not reproduced"
CONDITIONAL = "holds only under conditions"
ROW_HEADS = ("check", "verdict", "slack (min … max)", "broken twin", "run", "code")  # the columns of `_row`
VACUOUS = "bound holds, but says nothing: vacuous in every trial"


class CheckFailed(AssertionError):
    """A check failed, its hypotheses do not hold, or its broken twin passed."""


@dataclass(frozen=True)
class Twin:
    """The same comparison with one hypothesis violated. `broken` says which; the arrays are as in the check."""

    broken: str
    measured: object
    reference: object


@dataclass(frozen=True)
class Record:
    """What one check found; the fields are those of its JSON file.

    `slack` summarises, over the trials, how much room was left: the tolerance less the error (identity), the reference
    less the measured value (bound), the distance of the prediction from the edge of the interval (rate, observation).
    `claims` are the numbers of the papers' claims that the check bears on: by default those that name its statement.
    `tightness` is the range of reference / measured over a bound's trials, `vacuous` the share of trials whose bound
    on a probability is one or more.
    """

    id: str
    title: str
    kind: str
    verdict: str
    passed: bool
    chapter: int
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

    def __repr__(self):
        twin = "fails, as it must" if self.twin["failed"] else "PASSES: the check cannot fail"
        return f"{self.id} ({self.title}): {self.verdict}; broken twin ({self.twin['broken']}): {twin}"

    def _repr_html_(self):
        number, text = _number, html.escape
        compared = {
            "identity": f"largest error {number(self.tolerance - self.slack['min'])}, tolerance {number(self.tolerance)}",
            "bound": f"slack {number(self.slack['min'])} to {number(self.slack['max'])}"
            + (f", tolerance {number(self.tolerance)}" if self.tolerance else ""),
            "rate": f"slope in [{number(self.measured['min'])}, {number(self.measured['max'])}], "
            f"predicted {number(self.reference['min'])}",
            "observation": f"interval [{number(self.measured['min'])}, {number(self.measured['max'])}], "
            f"claimed to exceed {number(self.reference['min'])}",
        }[self.kind]
        if self.tightness:
            compared += f", bound / measured {number(self.tightness['min'])} to {number(self.tightness['max'])}"
        if self.vacuous is not None:
            compared += f", vacuous in {number(100 * self.vacuous)} % of trials"
        twin = "fails, as it must" if self.twin["failed"] else "passes: the check cannot fail"
        hypotheses = ", ".join(self.hypotheses) or "none to check"
        note = f" {_marked(self.note)}" if self.note else ""
        return (
            f'<div class="check check-{"passed" if self.passed else "failed"}"><strong>{text(self.id)}</strong> '
            f"{text(self.title)}: <strong>{text(self.verdict)}</strong> ({_count(self.trials)}; {compared}).{note}<br>"
            f"Hypotheses checked: {text(hypotheses)}. Broken twin — {_marked(self.twin['broken'])} — <em>{twin}</em> "
            f"(worst slack {number(self.twin['slack']['min'])}).<br><small>{text(self.dtype)}, n = {text(self.n)}, "
            f"seeds {text(_seeds(self.seeds))}, <code>{text(self.code)}</code></small></div>"
        )


@dataclass
class Ledger:
    """The checks of one chapter.

    Attributes
    ----------
    chapter
        its number in the book.
    n, seeds, dtype
        of the runs, unless a check says otherwise.
    folder
        of the JSON file; by default `records_folder()`.
    """

    chapter: int
    n: object = ""
    seeds: list = field(default_factory=list)
    dtype: str = "float64"
    folder: Path | None = None
    records: list[Record] = field(default_factory=list, init=False)

    def identity(self, id, title, measured, reference, *, tolerance, **about):
        """`measured` equals `reference` in every entry: `abs(measured - reference) <= tolerance * max(1, abs(reference))`."""
        return self._check("identity", id, title, measured, reference, tolerance=tolerance, **about)

    def bound(self, id, title, measured, reference, *, tolerance=0.0, **about):
        """`measured <= reference + tolerance` in every trial; `measured < reference` with `strict=True`.

        `probability=True`: the reference bounds a probability; say where it is vacuous (one or more).
        """
        return self._check("bound", id, title, measured, reference, tolerance=tolerance, **about)

    def rate(self, id, title, interval, predicted, *, tolerance=0.0, **about):
        """The predicted slope lies in the fitted `interval = (low, high)`, widened by `tolerance`."""
        return self._check("rate", id, title, interval, predicted, tolerance=tolerance, **about)

    def observation(self, id, title, interval, threshold=0.0, **about):
        """A claim about data: the whole `interval = (low, high)` of an effect lies above `threshold`.

        An effect that does not is a finding, not an error: its verdict is "not reproduced". Its twin is a case in
        which there is nothing to observe.
        """
        return self._check("observation", id, title, interval, threshold, tolerance=0.0, strict=True, **about)

    def _check(
        self, kind, id, title, measured, reference, *, tolerance, twin, hypotheses=None, code="", note="",
        n=None, seeds=None, dtype=None, probability=False, strict=False, claims=None,
    ):  # fmt: skip
        if CHAPTERS.get(self.chapter, (None,))[0] is None:
            raise ValueError(
                f"chapter {self.chapter} has no notebook in kdlib.statements.CHAPTERS: name it there first"
            )
        if id not in STATEMENTS:
            raise ValueError(f"no statement {id!r}: the ids are {', '.join(STATEMENTS)}")
        hypotheses = {name: bool(holds) for name, holds in (hypotheses or {}).items()}
        measured, reference, slack = _compare(kind, measured, reference, tolerance)
        twin_measured, twin_reference, twin_slack = _compare(kind, twin.measured, twin.reference, tolerance)
        if not (np.isfinite(twin_measured).all() and np.isfinite(twin_reference).all()):
            raise ValueError(f"{id} ({title}): the twin must fail by its numbers, and some of them are not finite")
        enough = np.greater if strict else np.greater_equal
        passed, twin_failed = bool(enough(slack, 0).all()), not bool(enough(twin_slack, 0).all())
        vacuous = float(np.mean(reference >= 1)) if probability else None
        verdict = NOT_REPRODUCED if not passed else VACUOUS if vacuous == 1 else VERDICTS[kind]
        acceptable = passed or kind == "observation"  # an observation may come out against its claim
        sound = acceptable and all(hypotheses.values()) and twin_failed
        ratio = _tightness(measured, reference) if kind == "bound" else np.array([])
        record = Record(
            id=id,
            title=title,
            kind=kind,
            verdict=verdict if sound else "FAILED",
            passed=passed and sound,
            chapter=self.chapter,
            code=code,
            hypotheses=hypotheses,
            trials=int(slack.size),
            measured=_summary(measured),
            reference=_summary(reference),
            slack=_summary(slack),
            tolerance=float(tolerance),
            tightness=_summary(ratio) if ratio.size else None,
            vacuous=vacuous,
            twin={"broken": twin.broken, "failed": twin_failed, "slack": _summary(twin_slack)},
            dtype=dtype or self.dtype,
            n=str(self.n if n is None else n),
            seeds=[int(seed) for seed in (self.seeds if seeds is None else seeds)],
            device=device_name(),
            note=note,
            claims=[claim.number for claim in CLAIMS if id in claim.statements] if claims is None else list(claims),
            provenance=provenance(),
        )
        if any((record.id, record.title) == (other.id, other.title) for other in self.records):
            raise ValueError(f"{id} has a check titled {title!r} already")
        self.records.append(record)
        _write(self.records, Path(self.folder or records_folder()) / f"{CHAPTERS[self.chapter][0]}.json")
        if unmet := [name for name, holds in hypotheses.items() if not holds]:
            raise CheckFailed(f"{id} ({title}): hypothesis not met: {'; '.join(unmet)}")
        if not acceptable:
            raise CheckFailed(f"{id} ({title}) fails: worst slack {slack.min():.3g} over {slack.size} comparisons")
        if not twin_failed:
            raise CheckFailed(f"{id} ({title}) cannot fail: it also passes when {twin.broken}")
        return record


def read_records(folder=None) -> list[Record]:
    """All records of a folder, in the order of the statements."""
    order = list(STATEMENTS)
    paths = sorted(Path(folder or records_folder()).glob("*.json"))
    records = [Record(**entry) for path in paths for entry in json.loads(path.read_text())]
    return sorted(records, key=lambda record: (order.index(record.id), record.chapter, record.title))


def records_folder() -> Path:
    """Where records are kept: `$KDLIB_RECORDS`, or `_build/quick/records` of the repository."""
    return Path(os.environ.get("KDLIB_RECORDS") or ROOT / "_build" / "quick" / "records")


def table(records=None) -> str:
    """The ledger as an HTML table: every statement, with its checks or the chapter it waits for."""
    records = read_records() if records is None else records
    rows = []
    for statement in STATEMENTS.values():
        checks = [record for record in records if record.id == statement.id]
        name = html.escape(statement.title) + (' <span class="new-here">new here</span>' if statement.new_here else "")
        if not checks:
            rows.append(
                f'<tr class="waiting"><td>{statement.id}</td><td>{name}</td>'
                f'<td colspan="6">not yet: chapter {statement.chapter}, {html.escape(CHAPTERS[statement.chapter][1])}</td></tr>'
            )
            continue
        # Where a statement is proved: its theorem is labelled with its id.
        proof = _statement_link(statement.id)
        for i, record in enumerate(checks):
            head = f'<td rowspan="{len(checks)}">{proof}</td><td rowspan="{len(checks)}">{name}</td>' if i == 0 else ""
            rows.append(f'<tr class="{"passed" if record.passed else "failed"}">{head}{_row(record)}</tr>')
    heads = "".join(f"<th>{head}</th>" for head in ("id", "statement", *ROW_HEADS))
    return f'<div class="ledger"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def claim_verdict(claim, records) -> str:
    """One claim's verdict in words, from the verdicts of the checks that bear on it."""
    checks = [record for record in records if claim.number in record.claims]
    waiting = sorted({STATEMENTS[id].chapter for id in claim.statements if all(record.id != id for record in records)})
    if not checks:
        return f"not yet: {_chapters(waiting)}"
    failed = [record for record in checks if not record.passed]
    empirical = [record for record in checks if record.kind == "observation"]
    if failed:
        verdict = NOT_REPRODUCED if len(failed) == len(empirical) else CONDITIONAL
    else:
        verdict = "; ".join(text for kind, text in VERDICTS.items() if any(record.kind == kind for record in checks))
    return verdict + (f" (still to come: {_chapters(waiting)})" if waiting else "")


def claims_table(records=None) -> str:
    """The papers' claims as an HTML table: verdict, and how the checks behind each one came out."""
    records = read_records() if records is None else records
    rows = []
    for claim in CLAIMS:
        checks = [record for record in records if claim.number in record.claims]
        count = f"{sum(record.passed for record in checks)} of {len(checks)}" if checks else ""
        cells = (
            f'<a href="13_ledger.html#claim-{claim.number}">{claim.number}</a>',
            html.escape(claim.source),
            html.escape(claim.text),
            f"<strong>{html.escape(claim_verdict(claim, records))}</strong>",
            count,
            ", ".join(_statement_link(id) for id in claim.statements),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("", "from", "claim", "verdict", "checks passed", "statements"))
    return (
        f'<div class="figure-table"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def claims_report(records=None) -> str:
    """Every claim with its verdict and, folded, each check that it rests on and the run behind it, as HTML."""
    records = read_records() if records is None else records
    parts = []
    for claim in CLAIMS:
        checks = [record for record in records if claim.number in record.claims]
        ratios = [record.tightness for record in checks if record.tightness and record.vacuous is not None]
        tight = ""
        if ratios:
            low, high = min(ratio["min"] for ratio in ratios), max(ratio["max"] for ratio in ratios)
            tight = f" Bound / measured: {_number(low)} to {_number(high)}."
        conditional = claim_verdict(claim, records).startswith(CONDITIONAL)
        condition = f" {html.escape(claim.condition)}" if conditional else ""
        body = "".join(
            f'<tr class="{"passed" if r.passed else "failed"}"><td>{r.id}</td>{_row(r)}</tr>' for r in checks
        )
        heads = "".join(f"<th>{head}</th>" for head in ("id", *ROW_HEADS))
        table_of = f'<div class="ledger"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        passed = sum(record.passed for record in checks)
        folded = (
            f"<details><summary>{_count(len(checks), 'check')}, {passed} passed</summary>{table_of}</details>"
            if checks
            else ""
        )
        parts.append(
            f'<div class="claim" id="claim-{claim.number}"><p><strong>({claim.number})</strong> {html.escape(claim.text)} '
            f"<em>{html.escape(claim.source)}</em><br>Verdict: <strong>{html.escape(claim_verdict(claim, records))}</strong>."
            f"{condition}{tight}</p>{folded}</div>"
        )
    return "".join(parts)


def _chapters(numbers):
    return ", ".join(f"chapter {number}" for number in numbers)


def _statement_link(id):
    notebook, _ = CHAPTERS[STATEMENTS[id].chapter]
    return f'<a href="{notebook}.html#{id.lower()}">{id}</a>' if notebook else id


def _row(record):
    text, number = html.escape, _number
    notebook, _ = CHAPTERS[record.chapter]
    where = f'<a href="{notebook}.html">chapter {record.chapter}</a>'
    slack = f"{number(record.slack['min'])} … {number(record.slack['max'])}"
    if record.tightness:
        slack += f"<br>bound / measured {number(record.tightness['min'])} … {number(record.tightness['max'])}"
    if record.vacuous is not None:
        slack += f"<br>vacuous: {number(100 * record.vacuous)} %"
    run = f"{text(record.dtype)}; n = {text(record.n)}; seeds {text(_seeds(record.seeds))}; {text(record.device)}"
    code = f'<a href="api.html#{text(record.code)}"><code>{text(record.code)}</code></a>' if record.code else ""
    note = f"<br><small>{_marked(record.note)}</small>" if record.note else ""
    twin = f"{_marked(record.twin['broken'])}: {'fails' if record.twin['failed'] else 'PASSES'}"
    return (
        f"<td>{text(record.title)} ({where}; {_count(record.trials)}){note}</td><td>{text(record.verdict)}</td>"
        f"<td>{slack}</td><td>{twin}</td><td>{run}</td><td>{code}</td>"
    )


def _compare(kind, measured, reference, tolerance):
    """Flat float arrays (measured, reference, slack); a check passes where the slack is not negative.

    What is not finite never passes.
    """
    measured, reference = np.atleast_1d(np.asarray(measured, float)), np.asarray(reference, float)
    if measured.size == 0:
        raise ValueError("nothing was compared: the arrays are empty")
    if kind in ("rate", "observation"):
        if measured.shape != (2,) or reference.ndim != 0:
            raise ValueError(f"a {kind} compares an interval (low, high) with one number")
        ends = np.array([reference - measured[0], measured[1] - reference]) + tolerance
        slack = measured[:1] - reference if kind == "observation" else ends.min(keepdims=True)
    else:
        measured, reference = (array.ravel() for array in np.broadcast_arrays(measured, reference))
        with np.errstate(invalid="ignore"):
            slack = reference - measured + tolerance
        if kind == "identity":
            slack = tolerance - np.abs(measured - reference) / np.maximum(1.0, np.abs(reference))
    finite = np.isfinite(measured).all() and np.isfinite(reference).all()
    return measured, np.atleast_1d(reference), slack if finite else np.full_like(slack, -np.inf)


def _tightness(measured, reference):
    """reference / measured where that is a number."""
    usable = (measured > 0) & np.isfinite(measured) & np.isfinite(reference)
    return reference[usable] / measured[usable]


def _summary(values):
    values = np.asarray(values, float)
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}


def _count(number, what="comparison"):
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _seeds(seeds):
    """`0, 3, 10 to 40`: runs of consecutive seeds are shortened."""
    runs = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs) or "none"


def _number(value):
    """Three digits, marked so that tests can leave numbers at the level of rounding out of a comparison."""
    return f"<data>{value:.3g}</data>"


def _marked(note):
    """A note, its numbers marked like those of `_number`."""
    return re.sub(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", r"<data>\g<0></data>", html.escape(note, quote=False))


def _write(records, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")  # so that a killed run never leaves half a file
    temporary.write_text(json.dumps([asdict(record) for record in records], indent=1, ensure_ascii=False))
    temporary.replace(path)
