"""The book's one visual style: colour-blind safe (Okabe and Ito), readable on a phone and on a dark page."""

from __future__ import annotations

import html
import json
import textwrap

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.lines import Line2D

# Okabe & Ito's palette without its yellow (too pale on white), in the order in which it is best told apart.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000",
)  # fmt: skip


def use_style():
    """Set matplotlib's defaults for every figure of a notebook."""
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")
    except ImportError:  # outside a notebook
        pass
    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 3.6),
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "lines.linewidth": 2.0,
            "legend.frameon": False,
            "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK])
            + cycler(linestyle=["-", "--", "-.", ":", "-", "--", "-."]),
        }
    )


def panels(count, *, height=3.4, width=3.7, **options):
    """`count` panels side by side, as a flat list: `figure, axes`."""
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False, **options)
    return figure, list(axes[0])


def table(heads, rows):
    """An HTML table that scrolls inside its own box on a narrow screen; shown by a notebook."""
    from IPython.display import HTML

    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return HTML(f'<div class="figure-table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def moving(name, data, *, replaces=""):
    """A figure that moves on the built page, by the book's own script; shown by a notebook as a sentence.

    `name` is that of its description in `book/_static/interactives.js`, `data` what it is drawn from (numbers are kept
    to five digits), `replaces` the static figure that stands for it in print.
    """
    from IPython.display import HTML

    content = json.dumps(rounded(data), separators=(",", ":")).replace("</", "<\\/")
    return HTML(
        f'<div class="interactive" data-figure="{html.escape(name)}" data-replaces="{html.escape(replaces)}">'
        f'<p class="interactive-elsewhere">On the built page this figure moves.</p>'
        f'<script type="application/json">{content}</script></div>'
    )


def rounded(data):
    """Numbers, in lists and dictionaries, to five digits; arrays as lists."""
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [rounded(value) for value in data]
    if hasattr(data, "tolist"):
        return rounded(data.tolist())
    return float(f"{data:.5g}") if isinstance(data, float) else data


def interval(axis, x, held_out, *, label, color, marker=None):
    """An estimate over `x` with its interval as a band; `held_out` is a `kdlib.bounds.HeldOut`."""
    axis.plot(x, held_out.estimate, color=color, label=label, marker=marker, linestyle="-", markersize=4)
    axis.fill_between(x, held_out.lower, held_out.upper, color=color, alpha=0.2, linewidth=0)


def spread(axis, place, values, ends, *, color):
    """Single values as dots along a horizontal line at `place`, over a bar from end to end of an interval."""
    axis.plot(ends, [place, place], "-", color=color, linewidth=5, alpha=0.35, solid_capstyle="butt")
    axis.plot(values, [place] * len(values), "o", color=color, markersize=4)


OUTCOMES = {"for": GREEN, "against": VERMILION, "undecided": BLACK, "vacuous": SKY}
MARKS = {
    "for": "o",
    "against": "X",
    "undecided": "s",
    "vacuous": "d",
}  # so that colour is not all that tells them apart


def forest(groups, *, unit, width=4.2):
    """A forest plot: one panel for each of `groups`, `{title: [(label, values, (low, high), outcome)]}`; its figure.

    Two lines for each entry, its label above: so it is narrow enough for a phone. The mean is marked by its outcome,
    the interval is a bar, single values are dots. `unit` is that of all panels, which then share their axis, or
    `{title: unit}`. Without any groups a figure that says so.
    """
    if not groups:
        figure, axis = plt.subplots(figsize=(width, 0.6))
        axis.set_axis_off()
        axis.text(0, 0.5, "None of these contrasts has been evaluated in this build.", va="center")
        return figure
    counts = [len(entries) for entries in groups.values()]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(width, 0.8 * sum(counts) + 1.0 * len(groups) + 0.4), squeeze=False,
        sharex=isinstance(unit, str),
        gridspec_kw={"height_ratios": [count + 0.3 for count in counts]},
    )  # fmt: skip
    for axis, (title, entries) in zip(axes[:, 0], groups.items(), strict=True):
        axis.set(ylim=(len(entries) - 0.6, -0.85), yticks=[])
        axis.axvline(0, color=BLACK, linewidth=1)
        axis.grid(axis="y", visible=False)
        axis.set_title("\n".join(textwrap.wrap(title, 46)), fontsize=11, loc="left")
        beside = {"transform": axis.get_yaxis_transform(), "va": "bottom", "fontsize": 9.5, "linespacing": 1.05}
        beside["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # over the line at zero
        for place, (label, values, ends, outcome) in enumerate(entries):
            spread(axis, place, values, ends, color=OUTCOMES[outcome])
            axis.plot(sum(values) / len(values), place, MARKS[outcome], color=OUTCOMES[outcome], markersize=7)
            whole = label.replace(" = ", "\u00a0=\u00a0")  # not broken
            lines = [line for part in whole.split("\n") for line in textwrap.wrap(part, 58)]
            axis.text(0.005, place - 0.22, "\n".join(lines), **beside)
        axis.tick_params(labelbottom=True, labelsize=10)
        axis.set_xlabel(f"against  ←  {unit if isinstance(unit, str) else unit[title]}  →  for", fontsize=10)
    seen = {outcome for entries in groups.values() for *_, outcome in entries}
    handles = [
        Line2D([], [], linestyle="", marker=MARKS[name], color=OUTCOMES[name], label=name)
        for name in OUTCOMES
        if name in seen
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9)
    return figure
