"""Fold the code behind the pages: one bar below each figure or row of checks, however many cells made it.

A cell tagged `open` teaches by its code and stays as it is. Neighbouring cells with nothing between them are one run:
their outputs come first, then one folded bar with all of their code, and a link to what they were run with. It is an
ordinary `<details>`: it opens without a script, and a browser's search finds what is in it.
"""

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform


class Folded(nodes.Element):
    """Code behind a bar."""


def _open(_translator, node):
    _translator.body.append(
        f'<details class="code-behind"><summary>{node["summary"]}</summary>\n'
    )


def _close(_translator, _node):
    _translator.body.append(
        '<p class="of-run"><a href="ledger.html#the-run">the run</a></p></details>\n'
    )


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
                bar = Folded(summary=cells)
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
