"""Fold the code behind the pages: one bar below each figure or row of checks, however many cells made it.

A cell tagged `open` teaches by its code and stays as it is. Neighbouring cells with nothing between them are one run:
their outputs come first, then one folded bar with all of their code. Its last line leads on: to the checks of the same
section, to the run that made the page and, where the cells read the campaign's tables, to the trainings behind those.
It is an ordinary `<details>`: it opens without a script, and a browser's search finds what is in it.
"""

import ast
import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

CARD = re.compile(
    r'<details class="check[^>]* id="(check-[^"]+)"><summary><strong>([^<]+)'
)


class Folded(nodes.Element):
    """Code behind a bar."""


def _open(_translator, node):
    _translator.body.append(
        f'<details class="code-behind"><summary>{node["summary"]}</summary>\n'
    )


def _close(_translator, node):
    links = [f'<a href="#{card}">{name}</a>' for name, card in node["checks"]]
    lines = [f"checks of this section: {', '.join(links)}"] if links else []
    lines.append('<a href="ledger.html#the-run">the run</a>')
    if node["campaign"]:
        lines.append('<a href="experiments.html#the-trainings">the trainings</a>')
    _translator.body.append(f'<p class="of-run">{" · ".join(lines)}</p></details>\n')


def checks_of(section) -> dict[str, str]:
    """The cards of a section, or else of the one it is part of: `{statement: address of its first card}`.

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
    return {name: card for card, name in reversed(cards)}


def _section_of(node):
    while not isinstance(node, nodes.section):
        node = node.parent
    return node


def reads_campaign(cells: list[str]) -> list[bool]:
    """Of each cell, in order, whether it reads the campaign's tables, or a name that such a cell has made."""
    made, found = set(), []
    for cell in cells:
        names = [one for one in ast.walk(ast.parse(cell)) if isinstance(one, ast.Name)]
        stored = {one.id for one in names if isinstance(one.ctx, ast.Store)}
        read = {one.id for one in names} - stored
        found.append("results.campaign(" in cell or bool(read & made))
        made = made | stored if found[-1] else made - stored
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
        self.campaign = dict(zip(sources, reads_campaign(texts), strict=True))
        parents = {
            node.parent
            for node in self.document.findall(nodes.container)
            if _is_folded(node)
        }
        for parent in parents:
            self._fold(parent)

    def _fold(self, parent):
        children, sources = [], []

        def close():
            if sources:
                cells = f"Code ({len(sources)} cells)" if len(sources) > 1 else "Code"
                checks = list(checks_of(parent).items())
                campaign = any(self.campaign[source] for source in sources)
                bar = Folded(summary=cells, checks=checks, campaign=campaign)
                bar.extend(sources)
                children.append(bar)
                sources.clear()

        for child in list(parent.children):
            if not _is_folded(child):
                if not isinstance(child, (nodes.comment, nodes.target)):
                    close()
                children.append(child)
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
    app.add_post_transform(FoldCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
