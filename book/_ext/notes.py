"""Hover notes: the first time that a page uses a word of the glossary, the word leads there and carries its note.

The glossary page is the one source; chapters are written without markup for it.
"""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

GLOSSARY = "book/glossary"
# Where words stay as they are.
CLOSED = (
    nodes.title,
    nodes.reference,
    nodes.literal,
    nodes.math,
    nodes.raw,
    nodes.literal_block,
    nodes.caption,
)


def notes_of(env) -> dict[str, tuple[str, str]]:
    """`{word: (id, note)}` of the glossary."""
    found = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        note = item.next_node(nodes.definition).astext().strip().replace("\n", " ")
        for term in item.findall(nodes.term):
            found[term.astext().lower()] = (term["ids"][0], note)
    return found


class Notes(SphinxPostTransform):
    """After references are resolved."""

    default_priority = 400
    formats = ("html",)

    def run(self, **_options):
        """Join each word with its note, once a page."""
        name = self.env.docname
        if name in (GLOSSARY, "book/references") or not name.startswith("book/"):
            return
        left = notes_of(self.env)
        for text in list(self.document.findall(nodes.Text)):
            if not left:
                return
            if self._is_open(text):
                self._join(text, left)

    @staticmethod
    def _is_open(text) -> bool:
        above, inside = text.parent, False
        while above is not None:
            if isinstance(above, CLOSED):
                return False
            inside = inside or isinstance(above, nodes.paragraph)
            above = above.parent
        return inside

    def _join(self, text, left):
        words = "|".join(
            re.escape(word) for word in sorted(left, key=len, reverse=True)
        )
        match = re.search(rf"\b({words})(?:s|es)?\b", str(text), re.I)
        if match is None:
            return
        identity, note = left.pop(match.group(1).lower())
        before, word, after = (
            str(text)[: match.start()],
            match.group(0),
            str(text)[match.end() :],
        )
        link = nodes.reference(
            "",
            word,
            refuri=f"glossary.html#{identity}",
            internal=True,
            reftitle=note,
            classes=["note"],
        )
        rest = nodes.Text(after)
        text.parent.replace(text, [nodes.Text(before), link, rest])
        if after:
            self._join(rest, left)


def setup(app):
    """Add the transform."""
    app.add_post_transform(Notes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
