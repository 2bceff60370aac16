"""Keep a formula and its punctuation on one line: browsers break between the two.

What touches a short formula in a sentence (a comma, a bracket, "-th") is joined with it. Long formulas stay as they
are: on a phone they have a line of their own.
"""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

SHORT = 60  # characters of a formula's source
BEFORE = re.compile(r"(?<!\S)\S{1,8}$")
AFTER = re.compile(r"^\S{1,12}(?!\S)")


class Joined(SphinxPostTransform):
    """After all other words and numbers have got their links."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_options):
        """Join what touches each inline formula."""
        for formula in list(self.document.findall(nodes.math)):
            _join(formula)


def _join(formula):
    if len(formula.astext()) > SHORT:
        return
    parent = formula.parent
    place = parent.index(formula)
    before = parent[place - 1] if place else None
    after = parent[place + 1] if place + 1 < len(parent) else None
    opening = _mark(BEFORE, before)
    closing = _mark(AFTER, after)
    if not (opening or closing):
        return
    joined = nodes.inline(classes=["joined"])
    parent.replace(formula, joined)
    if opening:
        parent.replace(before, nodes.Text(str(before)[: -len(opening)]))
    if closing:
        parent.replace(after, nodes.Text(str(after)[len(closing) :]))
    joined += [nodes.Text(opening), formula, nodes.Text(closing)]


def _mark(pattern, node) -> str:
    """What a text has at the formula's side, if it is one."""
    found = pattern.search(str(node)) if isinstance(node, nodes.Text) else None
    return found.group(0) if found else ""


def setup(app):
    """Add the transform."""
    app.add_post_transform(Joined)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
