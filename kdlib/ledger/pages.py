"""The ledger's pages, as HTML: the table of statements, the papers' claims with what they rest on."""

from __future__ import annotations

import html

from kdlib.ledger.cards import count, effect, marked, number, seeds_in_words
from kdlib.ledger.chapters import chapter
from kdlib.ledger.checks import EVIDENCE, Record, read_records
from kdlib.ledger.claims import answer
from kdlib.ledger.statements import CLAIMS, STATEMENTS

ROW_HEADS = ("check", "verdict", "slack (min … max)", "notices", "broken twin", "run", "code")  # the columns of `_row`


def table(records: list[Record] | None = None) -> str:
    """The ledger as an HTML table: every statement with its checks."""
    records = read_records() if records is None else records
    rows = []
    for statement in STATEMENTS.values():
        checks = [record for record in records if record.id == statement.id]
        name = html.escape(statement.title) + (' <span class="new-here">new here</span>' if statement.new_here else "")
        # Where a statement is proved: its theorem is labelled with its id.
        proof = _statement_link(statement.id)
        if not checks:
            rows.append(f'<tr><td>{proof}</td><td>{name}</td><td colspan="7">no check</td></tr>')
        for i, record in enumerate(checks):
            head = f'<td rowspan="{len(checks)}">{proof}</td><td rowspan="{len(checks)}">{name}</td>' if i == 0 else ""
            rows.append(f'<tr class="{"passed" if record.passed else "failed"}">{head}{_row(record)}</tr>')
    heads = "".join(f"<th>{head}</th>" for head in ("id", "statement", *ROW_HEADS))
    return f'<div class="ledger"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def evidence_table(records: list[Record] | None = None) -> str:
    """The experiments' contrasts as an HTML table: outcome, effect, and what the design could have seen."""
    records = [record for record in (read_records() if records is None else records) if record.kind == "evidence"]
    text = html.escape
    rows = "".join(
        f'<tr class="evidence-{record.outcome}"><td>{record.id}</td><td>{text(record.title)} '
        f"({chapter(record.chapter).link})</td><td>{record.outcome}</td><td>{effect(record)}</td>"
        f"<td>{', '.join(map(str, record.claims))}</td><td>{text(record.dtype)}; n = {text(record.n)}; seeds "
        f"{text(seeds_in_words(record.seeds))}</td></tr>"
        for record in records
    )
    heads = ("id", "contrast", "outcome", "effect", "claim", "run")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="ledger"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


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
        about = [record for record in records if claim.number in record.claims and record.kind != "evidence"]
        ratios = [record.tightness for record in about if record.tightness and record.vacuous is not None]
        tight = ""
        if ratios:
            low, high = min(ratio["min"] for ratio in ratios), max(ratio["max"] for ratio in ratios)
            tight = f" Bound / measured: {number(low)} to {number(high)}."
        condition = f" {html.escape(claim.condition)}" if claim.condition else ""
        body = "".join(f'<tr class="{"passed" if r.passed else "failed"}"><td>{r.id}</td>{_row(r)}</tr>' for r in about)
        heads = "".join(f"<th>{head}</th>" for head in ("id", *ROW_HEADS))
        table_of = f'<div class="ledger"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        observations = sum(record.kind in EVIDENCE for record in about)
        folded = (
            f"<details><summary>{count(len(about) - observations, 'check')}, {count(observations, 'observation')}"
            f"</summary>{table_of}</details>"
            if about
            else ""
        )
        parts.append(
            f'<div class="claim" id="claim-{claim.number}"><p><strong>({claim.number})</strong> '
            f"{html.escape(claim.text)} <em>{html.escape(claim.source)}</em><br>Verdict: "
            f"<strong>{html.escape(found.verdict)}</strong>. {html.escape(found.sentence)}"
            f"{tight}{condition}</p>{folded}</div>"
        )
    return "".join(parts)


def _statement_link(statement: str) -> str:
    return f'<a href="{STATEMENTS[statement].chapter}.html#{statement.lower()}">{statement}</a>'


def _row(record: Record) -> str:
    text, where = html.escape, chapter(record.chapter).link
    slack = f"{number(record.slack['min'])} … {number(record.slack['max'])}"
    if record.tightness:
        slack += f"<br>bound / measured {number(record.tightness['min'])} … {number(record.tightness['max'])}"
    if record.vacuous is not None:
        slack += f"<br>vacuous: {number(100 * record.vacuous)} %"
    run = (
        f"{text(record.dtype)}; n = {text(record.n)}; seeds {text(seeds_in_words(record.seeds))}; {text(record.device)}"
    )
    code = f'<a href="api.html#{text(record.code)}"><code>{text(record.code)}</code></a>' if record.code else ""
    note = f"<br><small>{marked(record.note)}</small>" if record.note else ""
    notices = "" if record.kind == "observation" else _noticed(record.notices)
    twin = f"{marked(record.twin['broken'])}: {'fails' if record.twin['failed'] else 'PASSES'}"
    return (
        f"<td>{text(record.title)} ({where}; {count(record.trials)}){note}</td><td>{text(record.verdict)}</td>"
        f"<td>{slack}</td><td>{notices}</td><td>{twin}</td><td>{run}</td><td>{code}</td>"
    )


def _noticed(factor: float | None) -> str:
    if factor is None:
        return "nothing"
    if factor == 1:
        return "any change"
    return f"a factor of {number(factor)}" if factor >= 2 else f"{number(100 * (factor - 1))} %"
