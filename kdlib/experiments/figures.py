"""Figures that more than one page shows of the campaign's tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.experiments.along import KERNELS, TARGETS
from kdlib.experiments.results import Rows, case_of
from kdlib.tools import plots

COLOURS = dict(zip(TARGETS, (plots.BLACK, plots.PURPLE, plots.VERMILION, plots.BLUE), strict=True))
STYLES = dict(zip(TARGETS, ("--", ":", "-.", "-"), strict=True))
NAMES = {
    "labels": "labels", "random": "labels in random order", "offline": "the offline teacher",
    "online": "the online teacher",
}  # fmt: skip


def complexity_along(cases: Mapping[str, Rows]) -> Figure:
    """Adjusted complexity against the share of the training: `{title: rows of the table along}`, two panels each.

    Left the own kernel, right the initial one; a thick line is the mean over seeds, thin ones are single seeds.
    """
    figure, axes = plt.subplots(len(cases), 2, figsize=(7.2, 3.0 * len(cases) + 0.5), squeeze=False, sharey="row")
    for (left, right), (title, rows) in zip(axes, cases.items(), strict=True):
        whole = title.replace(" = ", "\u00a0=\u00a0")  # not to be broken
        for axis, kernel in ((left, KERNELS[0]), (right, KERNELS[1])):
            for target in TARGETS:
                lines = _by_seed([row for row in rows if (row["kernel"], row["target"]) == (kernel, target)])
                look = {"color": COLOURS[target], "linestyle": STYLES[target]}
                for line in lines.values():
                    axis.plot(*zip(*sorted(line.items()), strict=True), **look, alpha=0.35, linewidth=0.8)
                shares = sorted(set.intersection(*(set(line) for line in lines.values())))
                means = [np.mean([line[share] for line in lines.values()]) for share in shares]
                axis.plot(shares, means, **look, marker="o", markersize=4, label=NAMES[target])
            axis.set(yscale="log", xlabel="share of the student's training")
            axis.set_title(
                "\n".join([*textwrap.wrap(whole, 46), f"{kernel} kernel"]),
                fontsize=8.5,  # narrower than its panel
            )
        left.set_ylabel("adjusted complexity")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=9)
    return figure


def alignment(ends: Sequence[Mapping[str, Any]]) -> Figure:
    """Kernel alignment against fidelity, and against accuracy: rows of `kdlib.experiments.results.at_the_end`.

    A colour for each method, a shape for each case (`kdlib.experiments.results.case_of`).
    """
    figure, axes = plots.panels(2, height=3.9)
    # Round and round: with more of them than shapes or colours some look alike, but none is left out
    shapes = dict(zip(sorted({case_of(row) for row in ends}), cycle("os^Dv<>PX*"), strict=False))
    palette = cycle((plots.BLACK, plots.VERMILION, plots.BLUE, plots.GREEN, plots.PURPLE))
    colours = dict(zip(sorted({row["method"] for row in ends}), palette, strict=False))
    for axis, column, title in zip(
        axes,
        ("train_fidelity", "test_accuracy"),
        ("fidelity on training images", "accuracy on test images"),
        strict=True,
    ):
        for case, shape in shapes.items():
            for method, colour in colours.items():
                own = [row for row in ends if (case_of(row), row["method"]) == (case, method)]
                x, y = ([row[name] for row in own] for name in ("kernel_alignment", column))
                axis.plot(x, y, shape, color=colour, alpha=0.75)
        axis.set(xlabel="alignment of the kernels", ylabel=title)
    named = [Line2D([], [], color=colour, marker="_", ls="", mew=5, label=name) for name, colour in colours.items()]
    named += [Line2D([], [], color="grey", marker=shape, ls="", label=case) for case, shape in shapes.items()]
    figure.legend(handles=named, loc="outside lower left", ncols=2, fontsize=8)
    return figure


def by_checkpoint(rows: Rows) -> Figure:
    """Students' accuracy against the share of its training after which the teacher was stopped: rows of X2 and X7.

    One panel for each teacher, noise and student, a line for each temperature (mean over seeds; dots are seeds), the
    students on labels as a dashed line.
    """
    cases: dict[str, dict[Any, dict[Any, float]]] = {}
    for row in rows:
        if row["role"] == "student" and row["experiment"].partition("-")[0] in ("X2", "X7"):
            noise = f", {100 * row['noise']:.0f} % noise" if row["noise"] else ""
            lines = cases.setdefault(f"{row['network']} by {row['teacher_network']}{noise}", {})
            if row["method"] == "baseline":
                lines.setdefault("labels", {})[row["seed"]] = 100 * row["test_accuracy"]
            elif row["method"] in ("stopped", "offline"):
                place = (row["teacher_share"], row["seed"])
                lines.setdefault(f"T = {row['temperature']:g}", {})[place] = 100 * row["test_accuracy"]
    return _lines(cases, "share of the teacher's training")


def by_soft_ratio(rows: Rows) -> Figure:
    """Students' accuracy against the soft ratio: rows of X5, a panel for each stop of the teacher."""
    cases: dict[str, dict[Any, dict[Any, float]]] = {}
    labels = {}
    for row in rows:
        if row["role"] == "student" and row["experiment"] == "X5":
            if row["method"] == "baseline":
                labels[row["seed"]] = 100 * row["test_accuracy"]
                continue
            end = "at its end" if row["teacher_share"] == 1 else f"after {row['teacher_share']:g}"
            lines = cases.setdefault(f"{row['network']} by {row['teacher_network']} {end}", {})
            place = (row["soft_ratio"], row["seed"])
            lines.setdefault(f"T = {row['temperature']:g}", {})[place] = 100 * row["test_accuracy"]
    return _lines({title: {**lines, "labels": labels} for title, lines in cases.items()}, "soft ratio")


def _lines(cases: Mapping[str, Mapping[str, Mapping[Any, float]]], across: str) -> Figure:
    """`{title: {line: {(x, seed): y}}}`, and the line "labels" as `{seed: y}`."""
    count = -(-len(cases) // 2)
    figure, axes = plt.subplots(count, 2, figsize=(7.2, 2.9 * count + 0.5), squeeze=False, sharey=True)
    colours = (plots.BLUE, plots.VERMILION, plots.GREEN, plots.PURPLE)
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    for axis, (title, lines) in zip(axes.flat, cases.items(), strict=False):
        if labels := lines.get("labels"):
            axis.axhline(np.mean(list(labels.values())), color=plots.BLACK, linestyle="--", linewidth=1, label="labels")
        drawn = sorted(name for name in lines if name != "labels")
        for name, colour in zip(drawn, colours, strict=False):
            axis.plot(*zip(*((x, y) for (x, _), y in lines[name].items()), strict=True), ".", color=colour, alpha=0.5)
            places = sorted({x for x, _ in lines[name]})
            means = [np.mean([y for (x, _), y in lines[name].items() if x == place]) for place in places]
            axis.plot(places, means, color=colour, label=name)
        axis.set(xlabel=across)
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy (%)")
    return figure


def three_terms(tables: Mapping[str, Rows]) -> Figure:
    """The terms of the bound along the teacher's training, stacked, and the errors: `{scale: rows of the table terms}`.

    One panel for each scale and pair of classes; means over seeds.
    """
    cases: dict[tuple[str, str], list] = {}
    for scale, rows in tables.items():
        for row in rows:
            cases.setdefault((scale, row["classes"]), []).append(row)
    lines = -(-len(cases) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(7.6, 3.3 * lines + 0.9), squeeze=False, sharey=True)
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    for axis, ((scale, classes), rows) in zip(axes.flat, cases.items(), strict=False):
        shares = sorted({row["share"] for row in rows})
        mean = {
            name: [np.mean([row[name] for row in rows if row["share"] == share]) for share in shares]
            for name in (*_TERMS, *_ERRORS)
        }
        shaded = (plots.SKY, plots.ORANGE, plots.PURPLE, "0.8")
        axis.stackplot(
            shares, *(mean[name] for name in _TERMS), labels=list(_TERMS.values()), colors=shaded, alpha=0.55
        )
        for (name, label), colour in zip(_ERRORS.items(), (plots.BLUE, plots.VERMILION, plots.BLACK), strict=True):
            axis.plot(shares, mean[name], color=colour, marker="o", markersize=3.5, label=label)
        axis.axhline(1, color=plots.BLACK, linewidth=0.8, linestyle=":")
        axis.set(
            xlabel="share of the teacher's training", title=f"{classes}\n({rows[0]['examples']:.0f} examples, {scale})",
        )  # fmt: skip
        axis.title.set_fontsize(9)
    for axis in axes[:, 0]:
        axis.set_ylabel("errors; the bound")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=11)
    return figure


_TERMS = {
    "teacher_term": "teacher's error (upper end)", "margin_term": "margin term", "complexity_term": "complexity term",
    "confidence_term": "confidence term",
}  # fmt: skip
_ERRORS = {"teacher_error": "error of the teacher", "error": "of the kernel student", "network_error": "of the network"}


def _by_seed(rows: Rows) -> dict[Any, dict[float, float]]:
    """`{seed: {share: adjusted}}`."""
    found: dict[Any, dict[float, float]] = {}
    for row in rows:
        found.setdefault(row["seed"], {})[row["share"]] = row["adjusted"]
    return found
