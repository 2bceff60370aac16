"""A check as pages show it: one line, all of it when it is opened; and how numbers are written there.

Each card has an address of its own, `CHAPTER.html#check-...`; in the ledger it has none, and leads there.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
from typing import TYPE_CHECKING

from kdlib.ledger.chapters import chapter
from kdlib.ledger.statements import STATEMENTS

if TYPE_CHECKING:
    from kdlib.ledger.checks import Record

NO_EFFECT = ("null", "same")  # kinds of an observation's twin
GREEK = {"sigma": "σ", "rho": "ρ", "pi": "π", "gamma": "γ"}
STATES = ("holds", "for", "against", "undecided", "vacuous")  # a page's style gives each a mark and a colour


def state(record: Record) -> str:
    """One of `STATES`: of a check "holds", or "vacuous" where its bound says nothing in any trial; or an outcome."""
    if record.outcome:
        return record.outcome
    return "vacuous" if record.vacuous == 1 else "holds"


def address(record: Record) -> str:
    """The id of the record's card on its chapter's page."""
    return f"check-{record.id.lower()}-{hashlib.sha256(record.title.encode()).hexdigest()[:6]}"


def card(record: Record, *, elsewhere: bool = False) -> str:
    """One check as HTML: a line, and folded what was compared. `elsewhere`: on another page than its chapter's."""
    facts = _facts(record)
    identity = "" if elsewhere else f' id="{address(record)}"'
    # What was observed of data is no verdict on a theorem: on its page it goes by the claims that it bears on.
    about = record.id
    if record.kind == "observation" and record.claims and not elsewhere:
        about = _claims(record)
    return (
        f'<details class="check state-{state(record)}"{identity}><summary><strong>{about}</strong> '
        f'{typeset(record.title)} <span class="facts">{" · ".join(facts)}</span></summary>'
        f"<p>{_body(record)}</p><p><small>{html.escape(record.dtype)}, n = {html.escape(record.n)}, seeds "
        f"{html.escape(seeds_in_words(record.seeds))}{_by(record)} {_links(record, elsewhere)}</small></p></details>"
    )


def _claims(record: Record) -> str:
    """`claim 4`, `claims 6, 7 and 9`: those that a record bears on."""
    *others, last = map(str, record.claims)
    return f"claims {', '.join(others)} and {last}" if others else f"claim {last}"


def _facts(record: Record) -> list[str]:
    """What the line says besides the title."""
    if record.kind == "evidence":
        return [f"<b>{record.outcome}</b>", effect(record)]
    facts = [f"<b>{html.escape(record.outcome or record.verdict)}</b>"]
    if record.kind == "observation":
        low, high = number(record.measured["min"]), number(record.measured["max"])
        unit = f"{typeset(record.unit)} " if record.unit else ""
        facts.append(f"{unit}[{low}, {high}], claimed above {number(record.reference['min'])}")
    elif record.trials > 1:
        facts.append(count(record.trials))
    without_effect = record.twin["kind"] in NO_EFFECT
    if record.outcome in ("", "for") and not without_effect:
        name = "wrong formula" if record.twin["kind"] == "formula" else "twin"
        facts.append(f"{name} fails" if record.twin["failed"] else f"{name.upper()} PASSES")
    if record.kind != "observation":
        facts.append(f"notices {noticed(record)}")
    return facts


def _body(record: Record) -> str:
    note = f" {marked(record.note)}" if record.note else ""
    if record.kind == "evidence":
        claims = f" On {_claims(record)}." if record.claims else ""
        return f"A contrast of workflow/experiments.yaml: {effect(record)}.{claims}{note}"
    compared = {
        "identity": f"largest error {number(record.tolerance - record.slack['min'])}, tolerance "
        f"{number(record.tolerance)}",
        "bound": f"slack {number(record.slack['min'])} to {number(record.slack['max'])}"
        + (f", tolerance {number(record.tolerance)}" if record.tolerance else ""),
        "rate": f"slope in [{number(record.measured['min'])}, {number(record.measured['max'])}], "
        f"predicted {number(record.reference['min'])}, tolerance {number(record.tolerance)}",
        "observation": f"{typeset(record.unit) or 'interval'} [{number(record.measured['min'])}, "
        f"{number(record.measured['max'])}], claimed to exceed {number(record.reference['min'])}; {_seen(record)}",
    }[record.kind]
    if record.tightness:
        compared += f"; bound / measured {number(record.tightness['min'])} to {number(record.tightness['max'])}"
    if record.vacuous is not None:
        compared += f"; vacuous in {number(100 * record.vacuous)} % of trials"
    hypotheses = ", ".join(record.hypotheses)
    checked = f" Hypotheses checked: {typeset(hypotheses)}." if hypotheses else ""
    return f"{count(record.trials)}: {compared}.{note} {_power(record)}{checked} {_twin(record)}"


def _twin(record: Record) -> str:
    """What the check's twin broke, and that it failed."""
    broken = marked(record.twin["broken"])
    if record.twin["kind"] in NO_EFFECT:
        how = "is zero by construction" if record.twin["kind"] == "same" else "is zero"
        return f"Where there should be nothing to see ({broken}) the effect {how}."
    if record.twin["kind"] == "formula":
        name = "Wrong formula, in place of a broken twin"
    else:
        name = "Broken twin" if record.outcome in ("", "for") else "Compared with"
    verdict = "fails, as it must" if record.twin["failed"] else "passes: the check cannot fail"
    return f"{name}: {broken}; it <em>{verdict}</em> (worst slack {number(record.twin['slack']['min'])})."


def _links(record: Record, elsewhere: bool) -> str:
    parts = []
    if elsewhere:
        where = chapter(record.chapter)
        place = (
            "" if record.kind == "evidence" else f"#{address(record)}"
        )  # contrasts are drawn there, many in one plot
        parts.append(f'<a href="{where.name}.html{place}">in chapter {where.number}</a>')
    if record.id in STATEMENTS and not elsewhere:
        statement = STATEMENTS[record.id]
        what = "" if statement.definition else " and its proof"
        parts.append(f'<a href="{statement.chapter}.html#{record.id.lower()}">{record.id}{what}</a>')
        parts.append(f'<a href="ledger.html#ledger-{record.id.lower()}">in the ledger</a>')
    parts.append('<a href="ledger.html#the-run">the run</a>')
    return "".join(f" · {part}" for part in parts)


def _by(record: Record) -> str:
    """The function that did the work; without one the page has done it itself."""
    name = html.escape(record.code)
    return f' · <a href="api.html#{name}"><code>{name}</code></a>' if name else " · computed by its page, below it"


def _power(record: Record) -> str:
    """The power of a check in sentences; empty for an observation."""
    if record.kind == "observation":
        return ""
    factors = record.directions
    if record.vacuous == 1:
        whole = "It says nothing, and so it notices nothing."
    elif _exact(record):
        whole = "Signs, counts or truth values are compared, and any that differs is noticed"
        whole += "." if record.parts else "; how far off what decides them may be, it does not tell."
    elif not factors and record.parts:
        whole = ""
    elif not factors:
        whole = f"A factor would not show, since one side is zero: the check notices {noticed(record)}."
    elif record.notices == 1:
        whole = "Notices any change of its right side."
    else:
        seen = {direction: factor for direction, factor in factors.items() if factor is not None}
        if record.kind == "identity" and record.notices is not None:
            seen = {"wrong": record.notices}
        ways = " or ".join(f"{direction} by {_off(factor)}" for direction, factor in seen.items())
        never = "".join(f"; never one that is {direction}" for direction in factors if factors[direction] is None)
        only = "only " if record.notices is None or record.notices >= 2 else ""
        whole = f"Notices {only}a right side that is {ways}, or more{never}."
    if not record.parts:
        return whole
    parts = "; ".join(
        f"{typeset(name)}: {'not even by 100' if factor is None else f'by {number(factor)}'}"
        for name, factor in record.parts.items()
    )
    return f"{whole} One part alone is noticed when it is wrong, too small if nothing is said: {parts}."


def noticed(record: Record) -> str:
    """The power of a check in a few words: what it notices in every direction."""
    if record.vacuous == 1:
        return "nothing"
    if _exact(record):
        return "any that differs"
    if not record.directions and record.parts:
        return "see its parts"
    if not record.directions:
        room = record.slack["min"]
        return f"an error of {number(room)}" if room > 0 else "any excess"
    if record.notices is None:
        return "one direction only"
    if record.notices == 1:
        return "any change"
    digits = int(-math.log10(record.notices - 1) + 1e-6)
    return f"the {number(digits)}th digit" if digits > 3 else _off(record.notices)


def _exact(record: Record) -> bool:
    """Whether signs, counts or truth values are compared, of which a factor means nothing."""
    return record.kind == "identity" and not record.tolerance and not record.directions


def _off(factor: float) -> str:
    """How far off a factor is: in percent where that is much the same up and down."""
    return f"a factor of {number(factor)}" if factor >= 1.2 else f"{number(100 * (factor - 1))} %"


def effect(record: Record) -> str:
    """Of evidence: the mean effect, its interval, and what the design could have seen; nothing of what was the same."""
    if record.outcome == "vacuous":
        return "the same number of both for every seed, so that there was nothing to see"
    low, mean, high = (number(record.measured[name]) for name in ("min", "median", "max"))
    unit = f" {html.escape(record.unit)}" if record.unit else ""
    return f"{mean} [{low}, {high}]{unit}, before correction; {'after it ' * bool(record.power)}{_seen(record)}"


def _seen(record: Record) -> str:
    """How large an effect would have had to be."""
    if not record.power:
        return "every seed gave the same number"
    beyond = " beyond that" if record.kind == "observation" else ""
    return f"an effect of {number(record.power)}{beyond} would show four times in five, were this the true spread"


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
    return re.sub(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", r"<data>\g<0></data>", typeset(note))


def typeset(text: str) -> str:
    """Text as HTML: plain formulas like `E R_n <= c s^q` with their indices, exponents and signs."""
    shown = html.escape(text, quote=False)
    shown = re.sub(r"(?<![\w.])([A-Za-z]{1,2})_(\w+)", r"\1<sub>\2</sub>", shown)
    shown = re.sub(r"\^\(([^)]+)\)|\^(-?\w+)", lambda found: f"<sup>{found[1] or found[2]}</sup>", shown)
    for plain, sign in {"&gt;=": "≥", "&lt;=": "≤", "sqrt(": "√("}.items():
        shown = shown.replace(plain, sign)
    return re.sub(r"\b(sigma|rho|pi|gamma)\b", lambda found: GREEK[found[0]], shown)
