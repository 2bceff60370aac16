"""Where a figure is cut for a phone."""

import importlib.util
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from kdlib.tools import plots
from kdlib.tools.provenance import ROOT

spec = importlib.util.spec_from_file_location("side_by_side", ROOT / "book" / "_ext" / "side_by_side.py")
side_by_side = importlib.util.module_from_spec(spec)
spec.loader.exec_module(side_by_side)


def ink(figure):
    """A figure's ink as the book's pictures have it."""
    kept = io.BytesIO()
    figure.savefig(kept, dpi=200, bbox_inches="tight")
    plt.close(figure)
    return np.asarray(Image.open(kept).convert("L")) < side_by_side.INK


@pytest.fixture
def panels():
    """Panels in a row, drawn in the book's style."""

    def drawn(count=3, legend=None, **options):
        with plt.rc_context():
            plots.use_style()
            figure, axes = plots.panels(count, **options)
            for number, axis in enumerate(axes):
                axis.plot([0, 1], [0, number + 1], label=f"line {number}")
                axis.set(xlabel="examples", title=f"panel {number}")
            axes[0].set_ylabel("share")
            if legend:
                figure.legend(*axes[0].get_legend_handles_labels(), loc=f"outside {legend}")
            return ink(figure)

    return drawn


def test_panels_are_cut_between_and_nothing_is_lost(panels):
    found = panels()
    parts = side_by_side.parts(found)
    assert [len(boxes) for boxes in parts] == [1, 1, 1]
    shown = sum(int(found[box.top : box.bottom, box.left : box.right].sum()) for boxes in parts for box in boxes)
    assert shown == found.sum()  # all ink, once


def test_a_panel_that_shares_its_axis_borrows_the_numbers(panels):
    parts = side_by_side.parts(panels(sharey=True))
    assert [len(boxes) for boxes in parts] == [1, 2, 2]
    labels, panel = parts[1]
    assert labels.left == 0 and labels.right < 0.5 * (panel.right - panel.left)
    assert labels.top <= labels.first < labels.last <= labels.bottom


def test_a_legend_in_the_middle_stands_by_itself(panels):
    found = panels(2, "lower center")
    last = side_by_side.parts(found)[-1]
    inked = np.flatnonzero(found[last[0].top :].any(axis=0))
    assert len(last) == 1 and last[0].left <= inked[0] and last[0].right > inked[-1]
    assert last[0].right - last[0].left < 0.5 * found.shape[1]  # so that its text is not made small


def test_one_panel_is_left_alone():
    figure, axis = plt.subplots()
    axis.plot([0, 1], [0, 1])
    assert side_by_side.parts(ink(figure)) == []
    assert side_by_side.parts(np.zeros((300, 600), bool)) == []


def test_the_name_of_an_axis_at_the_right_stays_with_its_panel():
    """The gap between an axis' numbers and its name is no gutter: cut there, the name would be the next panel's."""
    with plt.rc_context():
        plots.use_style()
        figure, axes = plots.panels(2, width=4.3)
        figure.get_layout_engine().set(w_pad=0.15)
        for axis in axes:
            axis.plot([1, 2, 3])
            axis.set_ylabel("at the left")
            axis.twinx().set(ylabel="at the right", yticks=(0, 0.5, 1))
        found = ink(figure)
    first, second = (boxes[-1] for boxes in side_by_side.parts(found))
    assert first.right == second.left
    # two equal panels: their gutter is in the middle, a name's gap is not
    inked = np.flatnonzero(found.any(axis=0))
    assert abs(first.right - (inked[0] + inked[-1]) / 2) < 0.01 * found.shape[1]
