"""The ledger's pages, as HTML: the papers' claims, the statements, the experiments' contrasts, and their map.

A row is one line; what it rests on is folded. Rows name their state, so that a page can show some of them only.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping

from kdlib.ledger.cards import STATES, card, count, number, state
from kdlib.ledger.chapters import chapter
from kdlib.ledger.checks import EVIDENCE, Record, read_records
from kdlib.ledger.claims import answer
from kdlib.ledger.statements import CLAIMS, STATEMENTS


def table(records: list[Record] | None = None) -> str:
    """Every statement as a row with its checks folded."""
    records = read_records() if records is None else records
    rows = []
    for statement in STATEMENTS.values():
        about = [record for record in records if record.id == statement.id and record.kind != "evidence"]
        shown = [record for record in about if record.kind not in EVIDENCE or not record.claims]
        badge = "new here" if statement.new_here else "definition" if statement.definition else ""
        name = html.escape(statement.title) + (f' <span class="new-here">{badge}</span>' if badge else "")
        what = "" if statement.definition else " and its proof"
        proof = f'<p><a href="{statement.chapter}.html#{statement.id.lower()}">{statement.id}{what}</a></p>'
        # What was observed of the data is no verdict on a theorem: it is with the claims that it bears on.
        claims = sorted({claim for record in about for claim in record.claims if record.kind in EVIDENCE})
        links = ", ".join(f'<a href="#claim-{claim}">claim {claim}</a>' for claim in claims)
        observed = f"<p>Observed of the data: see {links}.</p>" if claims else ""
        rows.append(
            _row(
                f"ledger-{statement.id.lower()}",
                statement.id,
                name,
                shown,
                proof + observed,
                "observed" if claims else "no check",
            )
        )
    return _rows(rows)


def evidence_table(records: list[Record] | None = None, titles: Mapping[str, str] | None = None) -> str:
    """Every experiment as a row with its contrasts folded: outcome, effect, and what the design could have seen.

    `titles`: `{id: title}`, for the lines.
    """
    records = [record for record in (read_records() if records is None else records) if record.kind == "evidence"]
    rows = []
    for name in sorted({record.id for record in records}, key=lambda name: (len(name), name)):
        about = [record for record in records if record.id == name]
        where = ", ".join(sorted({chapter(record.chapter).link for record in about}))
        title = html.escape((titles or {}).get(name, ""))
        rows.append(_row(f"ledger-{name.lower()}", name, title or where, about, f"<p>In {where}.</p>" if title else ""))
    return _rows(rows)


def filters() -> str:
    """A bar with which a page shows the rows of some states only, or with some words; hidden without a script."""
    boxes = "".join(f'<label class="state-{one}"><input type="checkbox" value="{one}"> {one}</label>' for one in STATES)
    return (
        f'<div class="ledger-filter" hidden>{boxes}<input type="search" aria-label="words in a row" '
        'placeholder="words, say: kernel"><output></output></div>'
    )


def claims_table(records: list[Record] | None = None) -> str:
    """The papers' claims as an HTML table: verdict, and what it rests on."""
    records = read_records() if records is None else records
    rows = []
    for claim in CLAIMS:
        found = answer(claim, records)
        cells = (
            f'<a href="ledger.html#claim-{claim.number}">{claim.number}</a>',
            html.escape(claim.source),
            html.escape(claim.text),
            f"<strong>{html.escape(found.verdict)}</strong>",
            ", ".join(f"{number} {outcome}" for outcome, number in found.outcomes.items() if number),
            str(found.checks or ""),
            ", ".join(_statement_link(statement) for statement in claim.statements),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = "".join(
        f"<th>{head}</th>" for head in ("", "from", "claim", "verdict", "evidence", "checks passed", "statements")
    )
    return (
        f'<div class="figure-table"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def claims_report(records: list[Record] | None = None) -> str:
    """Every claim with its verdict, the counts and, folded, each record that it rests on, as HTML."""
    records = read_records() if records is None else records
    parts = []
    for claim in CLAIMS:
        found = answer(claim, records)
        about = [record for record in records if claim.number in record.claims]
        ratios = [record.tightness for record in about if record.tightness and record.vacuous is not None]
        tight = ""
        if ratios:
            low, high = min(ratio["min"] for ratio in ratios), max(ratio["max"] for ratio in ratios)
            tight = f" Bound / measured: {number(low)} to {number(high)}."
        condition = f" {html.escape(claim.condition)}" if claim.condition else ""
        # A check is under its statement; what was observed of the data is here.
        observed = [record for record in about if record.kind in EVIDENCE]
        statements = sorted({record.id for record in about if record.kind not in EVIDENCE}, key=list(STATEMENTS).index)
        links = ", ".join(f'<a href="#ledger-{name.lower()}">{name}</a>' for name in statements)
        checked = f"<p>{count(len(about) - len(observed), 'check')}: {links}</p>" if statements else ""
        summary = f"{count(len(about) - len(observed), 'check')}, {count(len(observed), 'observation')}"
        folded = f"<details><summary>{summary}</summary>{checked}{_cards(observed)}</details>" if about else ""
        parts.append(
            f'<div class="claim ledger-row" id="claim-{claim.number}" data-states="{_states(observed)}"><p>'
            f"<strong>({claim.number})</strong> {html.escape(claim.text)} <em>{html.escape(claim.source)}</em><br>"
            f"Verdict: <strong>{html.escape(found.verdict)}</strong>. {html.escape(found.sentence)}"
            f"{tight}{condition}</p>{folded}</div>"
        )
    return "".join(parts)


def _statement_link(statement: str) -> str:
    return f'<a href="{STATEMENTS[statement].chapter}.html#{statement.lower()}">{statement}</a>'


def _row(identity: str, name: str, title: str, about: list[Record], head: str = "", none: str = "no check") -> str:
    """A statement or an experiment in one line: a mark for each record, by state; the records folded."""
    states = Counter(state(record) for record in about)
    marks = "".join(
        f'<span class="marks state-{one}" title="{states[one]} {one}"><i></i>{states[one]}</span>'
        for one in STATES
        if states[one]
    )
    return (
        f'<details class="ledger-row" id="{identity}" data-states="{_states(about)}"><summary>'
        f'<strong>{name}</strong> <span>{title}</span> <span class="counts">{marks or none}</span></summary>'
        f"{head}{_cards(about)}</details>"
    )


def _states(records: list[Record]) -> str:
    return " ".join(sorted({state(record) for record in records})) or "unchecked"


def _rows(rows: list[str]) -> str:
    return f'<div class="ledger-rows">{"".join(rows)}</div>'


def _cards(records: list[Record]) -> str:
    return "".join(card(record, elsewhere=True) for record in records)
