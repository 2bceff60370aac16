"""Margin bounds through supervision complexity: S3, S4 and S5. S8 and S9 (`pac_bayes_bound`, `least_certificate`) are
in `kdlib.pac_bayes`.

With probability at least `1 - delta` over the sample, for *every* student `f = f_0 + h`, `h` in the kernel's space::

    P(margin <= 0) <= mean ramp(margin / gamma) + 2 m B_0 sqrt(tr K) / (gamma n) + c sqrt(log(2 m (m + 1) G / delta) /
    (2 n)),

`m = max(1, ceil(||h|| / B_0))` the norm level and `c = 3`; for several classes 4 in place of 2. `G` counts what was
selected after seeing the sample (margins, kernels, offsets, units). Ridges and supervisions do not count: the bound is
uniform over students. Where the kernel's diagonal is the same number for every input, `tr K` is not random: then `c =
1`, and the 2 inside the logarithm goes (the chapter's proof).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdlib.complexity.supervision import supervision_complexity
from kdlib.pac_bayes import CertifiedStudent, PacBayesBound, least_certificate, pac_bayes_bound
from kdlib.tools.arrays import gram_matrix, integer, kernel_diagonal, logits_and_labels, number, real_array
from kdlib.tools.intervals import clopper_pearson

__all__ = [
    "CertifiedStudent", "DistillationBound", "MarginBound", "PacBayesBound", "distillation_bound", "least_certificate",
    "margin_bound", "pac_bayes_bound",
]  # fmt: skip


@dataclass(frozen=True)
class MarginBound:
    """The terms of S3 or S5 for each margin of the grid. Made by `margin_bound`.

    Attributes
    ----------
    margins, ramp, complexity
        `(G,)`: the margins, the mean ramp loss and the complexity term at each.
    confidence
        the third term, the same for all margins.
    norm, level
        `||h||` and `m`.
    delta
        the bound holds for all margins, norms and paid choices at once with probability `1 - delta`.
    """

    margins: np.ndarray
    ramp: np.ndarray
    complexity: np.ndarray
    confidence: float
    norm: float
    level: int
    delta: float

    @property
    def total(self) -> np.ndarray:
        """The bound at each margin, `(G,)`."""
        return self.ramp + self.complexity + self.confidence

    @property
    def best(self) -> int:
        """Index of the margin with the smallest bound."""
        return int(np.argmin(self.total))

    @property
    def value(self) -> float:
        """The smallest bound over the grid; the union over its margins is paid for."""
        return float(self.total[self.best])

    def divided(self, **divisors: float) -> float:
        """The bound if terms named `ramp`, `complexity` or `confidence` were smaller by these factors, at the margin
        that would then be best: what the power of a check is measured with."""
        terms = {"ramp": self.ramp, "complexity": self.complexity, "confidence": self.confidence}
        return float(np.min(sum(term / divisors.get(name, 1) for name, term in terms.items())))

    @property
    def vacuous(self) -> bool:
        """Whether the bound says nothing: one or more."""
        return self.value >= 1


def margin_bound(
    gram, values, labels, *, margins, delta: float, norm: float | None = None, offset=None, unit: float = 1.0,
    choices: int = 1, constant_diagonal: bool = False,
) -> MarginBound:  # fmt: skip
    """S3 for two classes, S5 for several: a bound on the error of a student, each term returned separately.

    Everything but `values` and `norm` must be fixed before the sample is seen: kernel, offset, margins, unit; or it
    must be one of `choices` that are.

    Parameters
    ----------
    gram
        `(n, n)`, or `(nC, nC)` for a kernel across outputs; of it only the trace enters the bound if `norm` is given.
    values
        the student's outputs on the sample: `(n,)`, or `(n, C)` for `C` classes.
    labels
        `(n,)`: in {-1, 1}, or integers in `0..C-1`.
    margins
        the grid of `gamma > 0`.
    delta
        the bound fails with at most this probability.
    norm
        `||f - f_0||` in the kernel's space. None: that of the interpolant of `values - offset`, by the supervision
        complexity (S1); a student that does not interpolate has a smaller one.
    offset
        `f_0` on the sample, of the shape of `values`, or a number; zero if it is not given. `values` include it. Given
        together with `norm` it lets a norm be refused that is too small for `values - offset`.
    unit
        `B_0`: the norm is paid for in whole multiples of it.
    choices
        how many combinations of kernel, offset and unit the caller chose from after seeing the sample. Margins and
        norms are counted here; students (ridges, supervisions) need not be paid for.
    constant_diagonal
        the kernel has `k(x, x)` equal for *all* inputs, not only on this sample (a normalised kernel).

    Returns
    -------
    `MarginBound`.
    """
    values, labels = logits_and_labels(values, labels, name="values")
    margins = np.atleast_1d(real_array("margins", margins))
    if margins.ndim != 1 or not margins.size or not (margins > 0).all():
        raise ValueError("margins must be positive, one at least")
    delta, unit = number("delta", delta, least=1e-12, below=1), number("unit", unit, above=0)
    choices = integer("choices", choices, least=1)
    n, outputs = len(values), values.shape[1] if values.ndim == 2 else 1
    gram = gram_matrix("gram", gram)
    if len(gram) not in (n, n * outputs):
        raise ValueError(f"gram must be (n, n) or (nC, nC) for values of shape {values.shape}, not {gram.shape}")
    diagonal = kernel_diagonal("the diagonal of gram", np.diagonal(gram), len(gram))
    if constant_diagonal and np.ptp(diagonal) > 1e-9 * np.abs(diagonal).max():
        raise ValueError("constant_diagonal: the diagonal of this gram is not constant; normalise the kernel")
    trace = float(diagonal.sum()) * (outputs if len(diagonal) == n else 1)
    start = np.zeros(()) if offset is None else real_array("offset", offset)
    if start.shape not in ((), values.shape):
        raise ValueError(f"offset must be a number or have the shape of values, {values.shape}, not {start.shape}")
    moved = values - start
    if norm is None:
        norm = float(np.sqrt(supervision_complexity(gram, moved).value))
    norm = number("norm", norm, least=0)
    if offset is not None:
        _check_norm(norm, moved if len(gram) == n else moved.ravel(), gram)
    level = max(1, int(np.ceil(norm / unit - 1e-12)))
    achieved, factor = achieved_margins(values, labels), 2 if values.ndim == 1 else 4
    count = (1 if constant_diagonal else 2) * level * (level + 1) * len(margins) * choices
    return MarginBound(
        margins=margins,
        ramp=np.clip(1 - achieved[None] / margins[:, None], 0, 1).mean(axis=1),
        complexity=factor * level * unit * np.sqrt(trace) / (margins * n),
        confidence=float((1 if constant_diagonal else 3) * np.sqrt(np.log(count / delta) / (2 * n))),
        norm=norm,
        level=level,
        delta=delta,
    )


def achieved_margins(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(n,)`: by how much the label's output is above the others (S5); of signs, `labels * values` (S3). An example is
    wrong where it is not positive."""
    if values.ndim == 1:
        return labels * values
    true = np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    others = np.where(np.arange(values.shape[1]) == labels[:, None], -np.inf, values)
    return true - others.max(axis=1)


def _check_norm(norm: float, moved: np.ndarray, gram: np.ndarray) -> None:
    """ValueError if no function of this norm moves so far: `||v||^4 <= norm^2 v' K v` by Cauchy-Schwarz."""
    square, reach = float(np.sum(moved**2)), float(np.sum(moved * (gram @ moved)))
    if square > (1 + 1e-6) * norm * np.sqrt(max(reach, 0.0)):
        raise ValueError(
            f"norm {norm:g} is too small: under this kernel no function of that norm takes the values less the offset, "
            "which need " + (f"{square / np.sqrt(reach):g} at least" if reach > 0 else "another kernel")
        )


@dataclass(frozen=True)
class DistillationBound:
    """S4: the teacher's error and the student's distance from the teacher. Made by `distillation_bound`.

    Attributes
    ----------
    teacher
        upper end of the exact interval of the teacher's error, on examples that it has not seen.
    transfer
        `MarginBound` of the student against the teacher's decisions.
    """

    teacher: float
    transfer: MarginBound

    @property
    def value(self) -> float:
        """The bound on the student's error, at most one."""
        return min(1.0, self.teacher + self.transfer.value)


def distillation_bound(
    gram, values, teacher_logits, *, teacher_errors: int, teacher_trials: int, teacher_saw_these_examples: bool,
    margins,
    delta: float, **options,
) -> DistillationBound:  # fmt: skip
    """S4: the student's error is at most the teacher's plus the student's disagreement with the teacher.

    Half of `delta` goes to each term.

    Parameters
    ----------
    gram, values, margins, **options
        as in `margin_bound`.
    teacher_logits
        of the shape of `values`: what the teacher says about the sample.
    teacher_errors, teacher_trials
        the teacher's errors on an independent, labelled sample: neither its training set nor this one.
    teacher_saw_these_examples
        whether the teacher, its stopping time or its temperature was fitted on the `n` examples. If so the bound does
        not hold (the chapter has a counterexample), and this is an error.
    """
    if not isinstance(teacher_saw_these_examples, (bool, np.bool_)) or teacher_saw_these_examples:
        raise ValueError(
            "S4 needs a teacher that is independent of these examples, its stopping time and temperature included. For "
            "a teacher fitted on them, bound the student against the true labels: "
            "margin_bound(gram, values, labels, ...)"
        )
    teacher = real_array("teacher_logits", teacher_logits, shape=np.shape(values))
    decisions = np.where(teacher > 0, 1.0, -1.0) if teacher.ndim == 1 else teacher.argmax(axis=1)
    upper = float(clopper_pearson(teacher_errors, teacher_trials, delta)[1])  # one-sided at delta / 2
    return DistillationBound(upper, margin_bound(gram, values, decisions, margins=margins, delta=delta / 2, **options))
