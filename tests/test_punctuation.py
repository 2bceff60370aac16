"""A formula and its comma on one line."""

import importlib.util

import pytest
from docutils import nodes

from kdlib.tools.provenance import ROOT

spec = importlib.util.spec_from_file_location("punctuation", ROOT / "book" / "_ext" / "punctuation.py")
punctuation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(punctuation)


@pytest.mark.parametrize(
    "before, formula, after, joined",
    [
        ("the norm (of ", "w", "), and so on", "w),"),
        ("so (", "n", ") grows", "(n)"),
        ("the ", "n", "-th example", "n-th"),
        ("non-", "n", " words", "non-n"),
        ("of ", "K", " and", None),
        ("of ", "K", "", None),
        ("of ", "K" * 100, ".", None),
    ],
)
def test_what_touches_a_short_formula_is_joined(before, formula, after, joined):
    parts = [nodes.Text(before), nodes.math(formula, formula), *([nodes.Text(after)] if after else [])]
    paragraph = nodes.paragraph("", "", *parts)
    punctuation._join(paragraph[1])
    assert paragraph.astext() == before + formula + after  # nothing is lost
    found = [part.astext() for part in paragraph.findall(nodes.inline)]
    assert found == ([joined] if joined else [])


def test_two_formulas_share_no_mark():
    paragraph = nodes.paragraph("", "", nodes.math("a", "a"), nodes.Text("/"), nodes.math("b", "b"), nodes.Text("."))
    for formula in list(paragraph.findall(nodes.math)):
        punctuation._join(formula)
    assert paragraph.astext() == "a/b."
