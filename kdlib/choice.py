"""Which teacher, which checkpoint, which temperature? Ranked for one student before it is trained.

The student is a kernel: it fits the effective logits of each candidate by ridge regression. Each example of the sample
is left out in turn, and the candidate is judged by how often that student then errs at it, against the true label (D9
with a ridge). One factorisation of the kernel serves all candidates, all ridges and all examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np
from scipy.stats import binom

from kdlib.labels.effective import minimiser
from kdlib.labels.loss import DistillationLoss, TemperatureScaling
from kdlib.path import interpolation_path
from kdlib.tools.arrays import gram_matrix, logits_and_labels, number, positive_spectrum, real_array
from kdlib.tools.intervals import clopper_pearson, holm

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # over the number of examples and the mean diagonal
REFERENCE = 1e-3  # the ridge at which complexities are compared
LABELS = "labels alone"


@dataclass(frozen=True)
class Candidate:
    """A teacher at a temperature and a soft ratio, for the student that is asked about.

    Attributes
    ----------
    teacher, temperature, soft_ratio
        "labels alone" has the temperature one and the soft ratio zero.
    error, low, high
        share of the examples at which the student of all others errs, and the exact interval of a binomial share with
        that many errors (the examples' students depend on each other: a guide, no guarantee).
    against_best
        p-value of "no difference from the best": McNemar's exact test on the examples where only one of the two
        errs, corrected for all pairs of candidates. One for the best.
    ridge
        over the number of examples and the mean diagonal: the one of `RIDGES` with the fewest errors.
    teacher_error
        of the teacher's own answers on the sample; zero for the labels.
    corrected
        share of its errors at which the effective label is right (H1); NaN without errors.
    complexity
        supervision complexity of the effective logits (with the ridge `REFERENCE`), over what random signs of the
        same size have on average: one is as hard as noise.
    growth
        exponent of that complexity between half the sample and all of it (D1); noise has one or more.
    """

    teacher: str
    temperature: float
    soft_ratio: float
    error: float
    low: float
    high: float
    against_best: float
    ridge: float
    teacher_error: float
    corrected: float
    complexity: float
    growth: float


@dataclass(frozen=True)
class Choice:
    """Candidates from the fewest errors to the most. Made by `choose`; `print` shows the table.

    Attributes
    ----------
    candidates
        ranked; among equals the one whose teacher errs less comes first. The labels alone are one of them.
    examples
        of the sample.
    level
        below which a difference from the best counts.
    """

    candidates: tuple[Candidate, ...]
    examples: int
    level: float

    @property
    def best(self) -> Candidate:
        """The first one. Look at `ties` before you act on it."""
        return self.candidates[0]

    @property
    def ties(self) -> tuple[Candidate, ...]:
        """The best, and all that this sample cannot tell from it."""
        return tuple(one for one in self.candidates if one.against_best > self.level)

    @property
    def advice(self) -> str:
        """In words."""
        teachers = sorted({one.teacher for one in self.ties})
        if LABELS in teachers:
            return (
                f"no difference from the labels alone is visible on {self.examples} examples: no teacher here is known "
                "to help this student"
            )
        if len(self.ties) == 1:
            return f"{_named(self.best)}: all others are worse on these {self.examples} examples"
        return (
            f"{_named(self.best)} is first, but {len(self.ties) - 1} more cannot be told from it on {self.examples} "
            f"examples: {', '.join(teachers)}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each candidate, with `tied`."""
        return [{**asdict(one), "tied": one in self.ties} for one in self.candidates]

    def _table(self) -> list[tuple[str, ...]]:
        """Heads, and a line for each candidate; without the settings in which no two teachers differ."""
        heads = "teacher", "T", "soft", "error left out", "vs best", "its error", "corrected", "complexity", "growth"
        lines = [
            (
                one.teacher, f"{one.temperature:g}", f"{one.soft_ratio:g}",
                f"{one.error:.3f} [{one.low:.3f}, {one.high:.3f}]",
                "not told apart" if one.against_best > self.level else f"p = {one.against_best:.1g}",
                f"{one.teacher_error:.3f}", "" if np.isnan(one.corrected) else f"{one.corrected:.2f}",
                f"{one.complexity:.3f}", f"{one.growth:.2f}",
            )
            for one in self.candidates
        ]  # fmt: skip
        taught = [line for line in lines if line[0] != LABELS]
        settings = {"T", "soft", "corrected"}
        kept = [i for i, head in enumerate(heads) if head not in settings or len({line[i] for line in taught}) > 1]
        return [tuple(line[i] for i in kept) for line in (heads, *lines)]

    def __str__(self) -> str:
        lines = self._table()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([*(line.rstrip() for line in table), "", self.advice])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        whole = lambda word: escape(word).replace(" ", "\u00a0")  # an interval stays on its line
        cells = lambda line, tag: "<tr>" + "".join(f"<{tag}>{whole(word)}</{tag}>" for word in line) + "</tr>"
        heads, *lines = self._table()
        body = "".join(cells(line, "td") for line in lines)
        table = f"<table><thead>{cells(heads, 'th')}</thead><tbody>{body}</tbody></table>"
        advice = self.advice[0].upper() + self.advice[1:]
        return f'<div><div class="figure-table">{table}</div><p class="advice">{escape(advice)}.</p></div>'


def choose(
    gram, teachers: Mapping[str, Any], labels, *, temperatures: Sequence[float] = (1.0,),
    soft_ratios: Sequence[float] = (1.0,), temperature_scaling: TemperatureScaling = "squared", level: float = 0.05,
) -> Choice:  # fmt: skip
    """Rank teachers, temperatures and soft ratios for a student with this kernel.

    It ranks by what a student that stays with this kernel would do. A network that learns features of its own leaves
    it: on those of the campaign the teacher's own error (`Candidate.teacher_error`) ordered teachers better (the page
    "Which teacher?").

    Parameters
    ----------
    gram
        the student's kernel on the sample: `(n, n)` shared by all outputs, or `(n, C, n, C)` or `(nC, nC)` of a finite
        network. It must not have been trained on the sample.
    teachers
        `{name: logits}`, each `(n,)` with labels of -1 and 1, or `(n, C)` with integers. Checkpoints of one teacher are
        teachers. One that was trained on these examples looks better than it is: prefer other examples.
    labels
        `(n,)`, the truth.
    temperatures, soft_ratios
        to try with each teacher; soft ratios in (0, 1]. With a soft ratio of one this student's targets are the
        teacher's logits at every temperature: only one temperature is listed.
    temperature_scaling
        of the loss, as in `kdlib.labels.effective_logits`.
    level
        a candidate whose corrected p-value is above it is not told from the best.

    Raises
    ------
    ValueError, TypeError
        what does not fit, is not finite or not symmetric; fewer than 16 examples; no teacher.
    """
    if not isinstance(teachers, Mapping) or not teachers:
        raise TypeError("teachers must be a dictionary of names and logits, with one teacher at least")
    if LABELS in teachers:
        raise ValueError(f"no teacher can be called {LABELS!r}: that is the student without one")
    level = number("level", level, above=0, below=1)
    temperatures, soft_ratios = tuple(temperatures), tuple(soft_ratios)
    if not temperatures or not soft_ratios:
        raise ValueError("temperatures and soft_ratios must have one entry at least: there is nothing to try")
    if len(set(map(str, teachers))) < len(teachers):
        raise ValueError(f"two teachers have the same name as text: {', '.join(map(repr, teachers))}")
    named = {str(name): logits_and_labels(real_array(str(name), logits), labels, name=str(name))
             for name, logits in teachers.items()}  # fmt: skip
    if len({logits.shape for logits, _ in named.values()}) > 1:
        raise ValueError(f"teachers of different shapes: {', '.join(f'{n} {v.shape}' for n, (v, _) in named.items())}")
    first, labels = next(iter(named.values()))
    n, outputs = len(first), 1 if first.ndim == 1 else first.shape[1]
    if n < 16:
        raise ValueError(f"at least 16 examples are needed, not {n}")
    gram, width = _square(gram, n, outputs)
    settings = [(LABELS, 1.0, 0.0, _hard(labels, outputs))]
    losses = [
        DistillationLoss(ratio, temperature, temperature_scaling)
        for ratio in soft_ratios
        for temperature in (temperatures if ratio != 1 else temperatures[:1])
    ]
    for name, (logits, _) in named.items():
        for loss in losses:
            goal = minimiser(loss, logits, labels).reshape(n, outputs)
            settings.append((name, loss.temperature, loss.soft_ratio, goal))
    targets = np.stack([row[3] for row in settings], axis=1)  # (n, candidates, outputs)
    spectrum, modes = positive_spectrum("gram", gram)
    said, ridges = _left_out(spectrum, modes, targets, labels)
    wrong = _wrong(said, labels)
    complexity, growth = _complexities(gram, spectrum, targets)
    errors = wrong.sum(axis=0)
    of_one = lambda outputs_of: _wrong(outputs_of.reshape(n, 1, outputs), labels)[:, 0]
    own = {LABELS: np.zeros(n, bool), **{name: of_one(logits) for name, (logits, _) in named.items()}}
    order = np.lexsort(([own[row[0]].sum() for row in settings], errors))
    p_values = _against(wrong, order[0])
    found = []
    for i in order:
        name, temperature, ratio, goal = settings[i]
        teacher_wrong, right = own[name], ~of_one(goal)
        low, high = clopper_pearson(int(errors[i]), n)
        found.append(
            Candidate(
                name, float(temperature), float(ratio), errors[i] / n, float(low), float(high), float(p_values[i]),
                ridges[i], float(teacher_wrong.mean()),
                float(right[teacher_wrong].mean()) if teacher_wrong.any() else float("nan"),
                float(complexity[i]), float(growth[i]),
            )
        )  # fmt: skip
    return Choice(tuple(found), n, level)


def _named(one: Candidate) -> str:
    return f"{one.teacher} (T = {one.temperature:g}, soft ratio {one.soft_ratio:g})"


def _square(gram: Any, n: int, outputs: int) -> tuple[np.ndarray, int]:
    """The kernel as a matrix, and how many of its rows are one example's."""
    gram = real_array("gram", gram)
    wide = n * outputs
    if gram.shape not in ((n, n), (wide, wide), (n, outputs, n, outputs)):
        raise ValueError(f"gram must be {(n, n)}, {(wide, wide)} or {(n, outputs, n, outputs)}, not {gram.shape}")
    side = n if gram.shape == (n, n) else wide
    return gram_matrix("gram", gram.reshape(side, side)), side // n


def _hard(labels: np.ndarray, outputs: int) -> np.ndarray:
    """Labels as targets, `(n, outputs)`, centred over the classes."""
    return labels[:, None] if outputs == 1 else np.eye(outputs)[labels] - 1 / outputs


def _wrong(said: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(n, candidates)`: whether outputs `(n, candidates, outputs)` err; a tie is an error."""
    if said.shape[2] == 1:
        return said[:, :, 0] * labels[:, None] <= 0
    true = np.take_along_axis(said, labels[:, None, None], axis=2)
    return np.sum(said >= true, axis=2) > 1


def _left_out(
    spectrum: np.ndarray, modes: np.ndarray, targets: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, list[float]]:
    """What each example's left-out student says there, at the ridge with the fewest errors of each candidate.

    With `G = (K + ridge)^{-1}` and `a = G t` it says `t_i - G_ii^{-1} a_i`; `G_ii` is a block where the kernel is not
    shared by the outputs.
    """
    n, candidates, outputs = targets.shape
    width = len(modes) // n
    flat = targets.reshape(n, -1) if width == 1 else targets.transpose(0, 2, 1).reshape(n * outputs, candidates)
    rotated, by_example = modes.T @ flat, modes.reshape(n, width, -1)
    best = np.full(candidates, n + 1)
    said, ridges = np.empty_like(targets), [0.0] * candidates
    for ridge in RIDGES:
        inverse = 1 / (np.maximum(spectrum, 0) + ridge * n * spectrum.mean())
        blocks = np.einsum("ick,k,idk->icd", by_example, inverse, by_example, optimize=True)
        dual = (modes @ (inverse[:, None] * rotated)).reshape(n, width, -1)
        moved = np.linalg.solve(blocks, dual)
        moved = moved.reshape(n, candidates, outputs) if width == 1 else moved.transpose(0, 2, 1)
        outcome = targets - moved
        errors = _wrong(outcome, labels).sum(axis=0)
        for i in np.flatnonzero(errors < best):
            best[i], said[:, i], ridges[i] = errors[i], outcome[:, i], ridge
    return said, ridges


def _complexities(gram: np.ndarray, spectrum: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(candidates,)` complexity over that of random signs, and its growth, of centred targets."""
    n, candidates, outputs = targets.shape
    centred = targets if outputs == 1 else targets - targets.mean(axis=2, keepdims=True)
    width, ridge = len(gram) // n, REFERENCE * n * spectrum.mean()
    ridged = gram + ridge * np.eye(len(gram))
    flat = centred.reshape(n, -1) if width == 1 else centred.transpose(0, 2, 1).reshape(n * outputs, candidates)
    path = interpolation_path(ridged, flat)
    sums = np.cumsum(path.coefficients.reshape(n, -1, candidates, outputs if width == 1 else 1) ** 2, axis=0)
    norms = sums.sum(axis=(1, 3)).astype(float)  # (n, candidates)
    size = np.sum(centred**2, axis=(0, 2))
    inverse_trace = float(np.sum(1 / (np.maximum(spectrum, 0) + ridge)))
    half = n // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = norms[-1] / (size * inverse_trace / len(gram))
        growth = np.log(norms[-1] / norms[half - 1]) / np.log(n / half)
    return relative, growth


def _against(wrong: np.ndarray, best: int) -> np.ndarray:
    """`(candidates,)` p-values of "no difference from the best", two-sided, corrected; one for the best.

    The best is found by looking, so that any pair of candidates might have been compared: Holm's correction times half
    their number. (Holm's alone tells 20 equal candidates apart in a fifth of all samples.)
    """
    only_other = np.sum(wrong & ~wrong[:, [best]], axis=0)
    only_best = np.sum(~wrong & wrong[:, [best]], axis=0)
    trials = only_other + only_best
    plain = np.minimum(1.0, 2 * binom.cdf(np.minimum(only_other, only_best), trials, 0.5))
    others = np.arange(wrong.shape[1]) != best
    corrected = np.ones(wrong.shape[1])
    if others.any():
        corrected[others] = np.minimum(1.0, len(corrected) / 2 * holm(plain[others]))
    return corrected
