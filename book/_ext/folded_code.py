"""Fold the code behind the pages: one bar below each figure or row of checks, however many cells made it.

A cell tagged `open` teaches by its code and stays as it is. Neighbouring cells with nothing between them are one run:
their outputs come first, then one folded bar with all of their code, an ordinary `<details>`: it opens without a
script, and a browser's search finds what is in it. A line at its end, and below an open cell, leads on: to the checks
of the same section, to the run that made the page and, where the code reads the campaign's tables, to the trainings
behind them and the contrasts that it compares; where it reads a committed table, to that table, whose rows say what
made them.
"""

import ast
import html
import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from kdlib.tools.provenance import ROOT

CARD = re.compile(
    r'<details class="check[^>]* id="(check-[^"]+)"><summary><strong>([^<]+)</strong>(.*?)<span class="facts"'
)
TAG = re.compile("<[^>]+>")
PUBLISHED = re.compile(r'results\.published\(\s*"(\w+)",\s*"(\w+)"')
CAMPAIGN = re.compile(r'results\.campaign\(\s*"(\w+)"')
COMPARED = "contrasts.of_scales("
EXPERIMENT = re.compile(r'"(X\d+)"')
MOST = 5  # cards of a statement beside its first that a line leads to


class Folded(nodes.Element):
    """Code behind a bar."""


class Onward(nodes.Element):
    """The line below code that leads on."""


def _open(_translator, node):
    _translator.body.append(
        f'<details class="code-behind"><summary>{node["summary"]}</summary>\n'
    )


def _close(_translator, _node):
    _translator.body.append("</details>\n")


def _lead_on(_translator, node):
    links = []
    for name, (first, *others) in node["checks"]:
        more = [
            _link(card, str(k), f"{name}: {title}")
            for k, (card, title) in enumerate(others[:MOST], 2)
        ]
        more += ["…"] * (len(others) > MOST)
        also = f" ({', '.join(more)})" if more else ""
        links.append(_link(first[0], name, f"{name}: {first[1]}") + also)
    lines = [f"checks of this section: {', '.join(links)}"] if links else []
    for table in node["tables"]:
        place = f"../_static/tables/{table}.csv"
        lines.append(f'the committed table <a href="{place}">{table}</a>')
    if node["contrasts"]:
        asked = [
            f'<a href="ledger.html#ledger-{name.lower()}">{name}</a>'
            for name in node["contrasts"]
        ]
        lines.append(f"the contrasts of {', '.join(asked)}")
    if node["trainings"]:
        lines.append('<a href="experiments.html#the-trainings">the trainings</a>')
    lines.append('<a href="ledger.html#the-run">the run</a>')
    _translator.body.append(f'<p class="of-run">{" · ".join(lines)}</p>\n')


def _link(card, text, title):
    title = html.escape(title)
    return f'<a href="#{card}" title="{title}" aria-label="{title}">{text}</a>'


def checks_of(section) -> dict[str, list[tuple[str, str]]]:
    """The cards of a section, or else of the one it is part of: `{statement: (address, title) of its cards}`.

    The page's own section, that of its title, is no part that tells anything.
    """
    cards = [
        found
        for raw in section.findall(nodes.raw)
        if _section_of(raw) is section
        for found in CARD.findall(raw.astext())
    ]
    if not cards and isinstance(section.parent.parent, nodes.section):
        return checks_of(section.parent)
    found: dict[str, list[tuple[str, str]]] = {}
    for card, name, title in cards:
        said = html.unescape(TAG.sub("", title)).strip()
        found.setdefault(name, []).append((card, said))
    return found


def _section_of(node):
    while not isinstance(node, nodes.section):
        node = node.parent
    return node


def sources_of(cells: list[str]) -> list[set[str]]:
    """Of each cell, in order, what it reads of the experiments, or what made a name that it reads: SCALE/NAME for a
    committed table, the campaign's among them, X1 for the contrasts of an experiment."""
    made: dict[str, set[str]] = {}
    found = []
    for cell in cells:
        tree = list(ast.walk(ast.parse(cell)))
        names = [one for one in tree if isinstance(one, ast.Name)]
        stored = {one.id for one in names if isinstance(one.ctx, ast.Store)}
        stored |= {one.name for one in tree if isinstance(one, ast.FunctionDef)}
        stored |= {one.arg for one in tree if isinstance(one, ast.arg)}
        sources = {f"{scale}/{name}" for name, scale in PUBLISHED.findall(cell)}
        for name in CAMPAIGN.findall(cell):
            sources |= {
                f"{path.parent.name}/{name}"
                for path in (ROOT / "results").glob(f"*/{name}.csv")
            }
        if COMPARED in cell:
            sources |= set(EXPERIMENT.findall(cell))
        for name in {one.id for one in names} - stored:
            sources |= made.get(name, set())
        found.append(sources)
        made |= dict.fromkeys(stored, sources)
    return found


def _is_folded(node) -> bool:
    """Whether a node is a code cell whose code folds: it is not to stay open."""
    is_cell = (
        isinstance(node, nodes.container)
        and node.get("nb_element") == "cell_code"
        and node.children
    )
    return bool(is_cell) and "tag_open" not in node["classes"]


class FoldCode(SphinxPostTransform):
    """Before myst-nb hides cells itself (199)."""

    default_priority = 150
    formats = ("html",)

    def run(self, **_options):
        """Take the sources out of each run of cells and put them behind one bar."""
        sources = [
            node
            for node in self.document.findall(nodes.container)
            if node.get("nb_element") == "cell_code_source"
        ]
        texts = [source.astext() for source in sources]
        self.read = dict(zip(sources, sources_of(texts), strict=True))
        self.standing = [
            source.parent
            for source in sources
            if "tag_open" in source.parent["classes"]
        ]
        parents = {
            node.parent
            for node in self.document.findall(nodes.container)
            if _is_folded(node)
        }
        for parent in parents:
            self._fold(parent)

    def _onward(self, section, sources):
        read = set().union(*(self.read[source] for source in sources))
        tables = sorted(one for one in read if "/" in one)
        return Onward(
            checks=list(checks_of(section).items()),
            contrasts=sorted(read - set(tables)),
            tables=tables,
            trainings=any(table.endswith(("/runs", "/along")) for table in tables),
        )

    def _fold(self, parent):
        children, sources = [], []

        def close():
            if sources:
                cells = f"Code ({len(sources)} cells)" if len(sources) > 1 else "Code"
                bar = Folded(summary=cells)
                bar.extend([*sources, self._onward(parent, sources)])
                children.append(bar)
                sources.clear()

        for child in list(parent.children):
            if not _is_folded(child):
                if not isinstance(child, (nodes.comment, nodes.target)):
                    close()
                children.append(child)
                if child in self.standing:
                    child.insert(1, self._onward(parent, [child.children[0]]))
                continue
            if child.children[0].get("nb_element") == "cell_code_source":
                source = child.children[0]
                child.remove(source)
                sources.append(source)
            child["hide_mode"] = None
            if child.children:
                children.append(child)
        close()
        parent.children = []
        parent.extend(children)


def setup(app):
    """Add the bar and the transform."""
    app.add_node(Folded, html=(_open, _close))
    app.add_node(Onward, html=(_lead_on, lambda _translator, _node: None))
    app.add_post_transform(FoldCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
