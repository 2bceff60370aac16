"""How the book hangs together, from its sources: claims, the statements that bear on them, what proofs use, the code.

Claims and experiments are left, statements in the middle, functions right. A statement is joined with those that its
proof names. Every node is a link; a page's script lights up what is joined with one that is chosen.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise

from kdlib.ledger.cards import state
from kdlib.ledger.chapters import chapter, chapters
from kdlib.ledger.checks import EVIDENCE, Record, read_records
from kdlib.ledger.claims import answer
from kdlib.ledger.statements import CLAIMS, STATEMENTS
from kdlib.tools.provenance import ROOT

ROW, TOP = 21, 34  # pixels: a node's height, the heads above them
COLUMNS = {"claim": 4, "statement": 304, "code": 684}  # where each column begins
WIDTH = 960
_MARKS = {"holds": "✓", "for": "▲", "against": "✗", "undecided": "◐", "vacuous": "○", "unchecked": "·"}
_VERDICTS = {"for": "for", "a theorem": "holds", "answered": "holds", "against": "against", "stands": "against"}


@lru_cache(maxsize=1)
def uses() -> dict[str, tuple[str, ...]]:
    """`{statement: the statements that its proof names}`, read from the chapters."""
    found = {}
    for name in chapters():
        cells = json.loads((ROOT / "book" / f"{name}.ipynb").read_text())["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        blocks = re.findall(r"```\{prf:(\w+)\}[^\n]*\n(.*?)\n```", text, re.S)
        for (_, head), following in pairwise([*blocks, ("", "")]):
            label = re.search(r":label: (\w+)", head)
            if label is None or label.group(1).upper() not in STATEMENTS or following[0] != "proof":
                continue
            statement = label.group(1).upper()
            names = re.findall(r"\{prf:ref\}`(\w+)`|\b([A-Z]\d)\b", following[1])
            named = {(reference or plain).upper() for reference, plain in names}
            found[statement] = tuple(one for one in STATEMENTS if one in named and one != statement)
    return found


def edges(records: list[Record]) -> list[tuple[str, str]]:
    """Pairs of names of nodes that are joined: claims and what bears on them, proofs, statements and their code."""
    pairs = [(f"claim {claim.number}", statement) for claim in CLAIMS for statement in claim.statements]
    pairs += [(f"claim {number}", r.id) for r in records if r.kind == "evidence" for number in r.claims]
    pairs += [(statement, other) for statement, others in uses().items() for other in others]
    pairs += [(r.id, r.code) for r in records if r.code and r.id in STATEMENTS]
    return list(dict.fromkeys(pairs))


def picture(records: list[Record] | None = None) -> str:
    """The map as HTML: an SVG in a box that scrolls by itself on a narrow screen."""
    records = read_records() if records is None else records
    places, drawn = {}, []

    def node(column: str, row: float, name: str, text: str, link: str, what: str, full: str):
        places[name] = (COLUMNS[column], TOP + ROW * row, column)
        x, y, _ = places[name]
        drawn.append(
            f'<a href="{html.escape(link)}" class="state-{what}" data-node="{html.escape(name)}"><title>'
            f'{html.escape(full)}</title><text x="{x}" y="{y + 14}"><tspan class="mark">{_MARKS[what]}</tspan> '
            f"{html.escape(text)}</text></a>"
        )

    experiments = sorted({r.id for r in records if r.kind == "evidence"}, key=lambda name: (len(name), name))
    for row, (name, statement) in enumerate(STATEMENTS.items()):
        found = Counter(state(r) for r in records if r.id == name and r.kind not in EVIDENCE)
        what = _worst(found) if found else "unchecked"
        node(
            "statement", row, name, f"{name}  {_cut(statement.title, 52)}", f"{statement.chapter}.html#{name.lower()}",
            what, f"{name}: {statement.title} (chapter {chapter(statement.chapter).number}). {_said(found)}",
        )  # fmt: skip
    for row, claim in enumerate(CLAIMS):
        said = answer(claim, records).verdict
        node(
            "claim", row, f"claim {claim.number}", f"({claim.number}) {claim.short}",
            f"ledger.html#claim-{claim.number}", _VERDICTS.get(said, "undecided"),
            f"{claim.text} ({claim.source}). Verdict: {said}.",
        )  # fmt: skip
    for row, name in enumerate(experiments, start=len(CLAIMS) + 3):
        found = Counter(r.outcome for r in records if r.id == name)
        node(
            "claim", row, name, f"{name}  {_said(found)}", f"ledger.html#ledger-{name.lower()}", _worst(found),
            f"Experiment {name}: {_said(found)}",
        )  # fmt: skip
    functions = list(dict.fromkeys(r.code for r in records if r.code and r.id in STATEMENTS))
    step = max(1.0, (len(STATEMENTS) - 1) / max(1, len(functions) - 1))
    for row, name in enumerate(functions):
        node("code", row * step, name, name.removeprefix("kdlib."), f"api.html#{name}", "unchecked", name)
    height = int(max(y for _, y, _ in places.values()) + 2 * ROW)
    lines = "".join(_edge(places, one, other) for one, other in edges(records) if one in places and other in places)
    heads = "".join(
        f'<text class="head" x="{x}" y="20">{text}</text>'
        for x, text in zip(COLUMNS.values(), ("Claims and experiments", "Statements", "Code"), strict=True)
    )
    return (
        '<div class="map"><input type="search" aria-label="words on the map" placeholder="words, say: kernel" hidden>'
        f'<div class="map-box"><svg viewBox="0 0 {WIDTH} {height}" role="group" aria-label="Map of claims, '
        f'statements and code">{heads}<g class="edges">{lines}</g>{"".join(drawn)}</svg></div></div>'
    )


def _edge(places: dict, one: str, other: str) -> str:
    """A curve between columns; within a column, an arc left of it."""
    (x1, y1, first), (x2, y2, second) = places[one], places[other]
    y1, y2 = y1 + 10, y2 + 10
    if first == second:
        bend = 14 + min(50, abs(y2 - y1) / 9)
        path = f"M{x1 - 3} {y1:.0f}C{x1 - bend:.0f} {y1:.0f} {x1 - bend:.0f} {y2:.0f} {x1 - 3} {y2:.0f}"
    else:
        start = {"claim": 284, "statement": 664}[first]
        middle = (start + x2) / 2
        path = f"M{start} {y1:.0f}C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {x2 - 4} {y2:.0f}"
    return f'<path d="{path}" data-from="{html.escape(one)}" data-to="{html.escape(other)}"/>'


def _worst(found: Counter) -> str:
    """The state that a reader should not miss."""
    return next(one for one in ("against", "undecided", "for", "holds", "vacuous") if found[one])


def _said(found: Counter) -> str:
    return ", ".join(f"{number} {one}" for one, number in sorted(found.items())) or "no check"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " …"
