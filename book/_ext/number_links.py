"""Each number in the text leads to the code that made it: the folded cell that glued it, on the same page.

The reader's second click is at the end of that cell's bar: the run (`folded_code`).
"""

import re

from docutils import nodes
from myst_nb.ext.glue.roles import PasteTextRole
from sphinx.transforms.post_transforms import SphinxPostTransform

GLUED = re.compile(r"""\bglue\(\s*(f?)(["'])(.*?)\2""", re.DOTALL)
BY_VARIABLE = re.compile(r"""\bglue\(\s*(?!f?["'])""")


class NumberRole(PasteTextRole):
    """`glue:text`, whose nodes remember their key."""

    def run(self):
        """The number as myst-nb pastes it."""
        pasted, messages = super().run()
        for node in pasted:
            if isinstance(node, nodes.inline):
                node["key"] = self.text.rsplit(":", 1)[0]
        return pasted, messages


def patterns(source: str) -> list[re.Pattern]:
    """The keys that a cell glues; what an f-string fills in is any text, and so is a variable."""
    found = []
    for formatted, _quote, key in GLUED.findall(source):
        parts = re.split(r"\{[^{}]*\}", key) if formatted else [key]
        found.append(re.compile(".+".join(map(re.escape, parts))))
    if BY_VARIABLE.search(source):
        found.append(re.compile(".+"))
    return found


class LinkNumbers(SphinxPostTransform):
    """Before the cells fold (150)."""

    default_priority = 140
    formats = ("html",)

    def run(self, **_options):
        """Give the cells that glue an address, and make each number a link to its own."""
        cells = []
        for k, node in enumerate(self.document.findall(nodes.container)):
            if node.get("nb_element") == "cell_code_source" and (
                found := patterns(node.astext())
            ):
                cells.append((f"code-{k}", node, found))
        for number in list(self.document.findall(nodes.inline)):
            if "key" not in number:
                continue
            made_by = [
                (-max(len(pattern.pattern) for pattern in fitting), name, cell)
                for name, cell, found in cells
                if (fitting := [one for one in found if one.fullmatch(number["key"])])
            ]
            if not made_by:
                continue
            _, name, cell = min(made_by, key=lambda one: one[:2])  # the closest fit
            if name not in cell["ids"]:
                cell["ids"].append(name)
            link = nodes.reference(
                "", "", refuri=f"#{name}", classes=["number"], internal=True
            )
            number.replace_self(link)
            link.append(number)


def setup(app):
    """Put the role in the place of myst-nb's, and add the transform."""
    app.connect(
        "config-inited",
        lambda app, _config: app.add_role_to_domain(
            "glue", "text", NumberRole(), override=True
        ),
    )
    app.add_post_transform(LinkNumbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
