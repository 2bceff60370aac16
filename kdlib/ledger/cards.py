"""A check as a notebook shows it: its card, as HTML, and how numbers are written there."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdlib.ledger.checks import Record


def card(record: Record) -> str:
    """One check as a notebook shows it, as HTML."""
    text = html.escape
    if record.kind == "evidence":
        return _evidence_card(record)
    compared = {
        "identity": f"largest error {number(record.tolerance - record.slack['min'])}, tolerance "
        f"{number(record.tolerance)}",
        "bound": f"slack {number(record.slack['min'])} to {number(record.slack['max'])}"
        + (f", tolerance {number(record.tolerance)}" if record.tolerance else ""),
        "rate": f"slope in [{number(record.measured['min'])}, {number(record.measured['max'])}], "
        f"predicted {number(record.reference['min'])}, tolerance {number(record.tolerance)}",
        "observation": f"interval [{number(record.measured['min'])}, {number(record.measured['max'])}], "
        f"claimed to exceed {number(record.reference['min'])}, could have seen {number(record.power or 0.0)} more",
    }[record.kind]
    if record.tightness:
        compared += f", bound / measured {number(record.tightness['min'])} to {number(record.tightness['max'])}"
    if record.vacuous is not None:
        compared += f", vacuous in {number(100 * record.vacuous)} % of trials"
    twin = "fails, as it must" if record.twin["failed"] else "passes: the check cannot fail"
    hypotheses = ", ".join(record.hypotheses) or "none to check"
    note = f" {marked(record.note)}" if record.note else ""
    return (
        f'<div class="check check-{"passed" if record.passed else "failed"}"><strong>{text(record.id)}</strong> '
        f"{text(record.title)}: <strong>{text(record.verdict)}</strong> ({count(record.trials)}; {compared}).{note}<br>"
        f"{noticed(record)}Hypotheses checked: {text(hypotheses)}. Broken twin — "
        f"{marked(record.twin['broken'])} — <em>{twin}</em> "
        f"(worst slack {number(record.twin['slack']['min'])}).<br><small>{text(record.dtype)}, n = {text(record.n)}, "
        f"seeds {text(seeds_in_words(record.seeds))}{_by(record)}</small></div>"
    )


def _by(record: Record) -> str:
    """The function that did the work, where one is named."""
    return f", <code>{html.escape(record.code)}</code>" if record.code else ""


def noticed(record: Record) -> str:
    """The power of a check in a sentence; empty for an observation."""
    if record.kind == "observation":
        return ""
    if record.notices is None:
        return "No factor on the right side would be noticed: it is zero. "
    if record.notices == 1:
        return "Notices any change of its right side. "
    if record.notices >= 2:
        return f"Notices only a right side that is wrong by a factor of {number(record.notices)} or more. "
    return f"Notices a right side that is wrong by {number(100 * (record.notices - 1))} % or more. "


def _evidence_card(record: Record) -> str:
    note = f" {marked(record.note)}" if record.note else ""
    claims = f" on claim {' and '.join(map(str, record.claims))}" if record.claims else ""
    return (
        f'<div class="check evidence-{record.outcome}"><strong>{html.escape(record.id)}</strong> '
        f"{html.escape(record.title)}: <strong>{record.outcome}</strong>{claims} ({effect(record)}).{note}<br>"
        f"<small>{html.escape(record.dtype)}, n = {html.escape(record.n)}, seeds "
        f"{html.escape(seeds_in_words(record.seeds))}{_by(record)}</small></div>"
    )


def effect(record: Record) -> str:
    """Of evidence: the mean effect, its interval, and what the design could have seen."""
    low, mean, high = (number(record.measured[name]) for name in ("min", "median", "max"))
    return f"{mean} [{low}, {high}]; could have seen {number(record.power or 0.0)}"


def count(value: int, what: str = "comparison") -> str:
    """`1 comparison`, `1,280 comparisons`."""
    return f"{value:,} {what}{'' if value == 1 else 's'}"


def seeds_in_words(seeds: list[int]) -> str:
    """`0, 3, 10 to 40`: runs of consecutive seeds are shortened."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs) or "none"


def number(value: float) -> str:
    """Three digits, marked so that tests can leave numbers at the level of rounding out of a comparison."""
    return f"<data>{value:.3g}</data>"


def marked(note: str) -> str:
    """A note, its numbers marked like those of `number`."""
    return re.sub(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", r"<data>\g<0></data>", html.escape(note, quote=False))
