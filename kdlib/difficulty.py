"""How hard is this teacher for this student? Everything the book has for a reader's own pair, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlib.labels.effective import minimiser
from kdlib.labels.loss import DistillationLoss, TemperatureScaling
from kdlib.margin import MarginBound, achieved_margins, margin_bound
from kdlib.path import interpolation_path
from kdlib.tools.arrays import integer, logits_and_labels, number, real_array
from kdlib.tools.files import read_array


@dataclass(frozen=True)
class Difficulty:
    """Of a teacher for a student, on a sample. Made by `difficulty`.

    Attributes
    ----------
    examples, outputs
        `n` and `C`.
    teacher_error, corrected, spoiled
        shares of the sample: where the teacher is wrong; of those, where the effective label is right (H1); and where
        it is wrong although the teacher was right.
    sizes
        `(k,)` numbers of examples, up to `n`: nested samples.
    teacher, labels
        `(k,)` supervision complexity of the effective logits, and of the hard labels at the same mean square.
    noise
        `(repeats, k)`: complexity after permuting the targets over images: same values, no relation to the inputs.
    growth
        exponent of the teacher's complexity between half the sample and all of it, the mean data inefficiency (D1) of
        the window: noise has one or more (D6); below one the margin bound's complexity term falls with each example
        (B2).
    relative
        the teacher's complexity over the noise's mean, at `n`: one is as hard as noise.
    certificate
        `kdlib.margin.MarginBound` (S5) of the student that fits the effective logits by ridge regression.
    ridge
        in units of the mean diagonal, of the certified student; the complexities have none.
    """

    examples: int
    outputs: int
    teacher_error: float
    corrected: float
    spoiled: float
    sizes: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray
    noise: np.ndarray
    growth: float
    relative: float
    certificate: MarginBound
    ridge: float

    @property
    def verdict(self) -> str:
        """In words. The one choice in it: "easy" is a tenth of the noise's complexity."""
        if self.growth >= 1 or self.relative >= 0.9:
            return "as hard as noise: this student learns these answers by heart"
        return "easy" if self.relative < 0.1 else "learnable, but hard: it needs many examples"


def difficulty(
    gram, teacher_logits, labels, *, soft_ratio: float = 1.0, temperature: float = 1.0,
    temperature_scaling: TemperatureScaling = "none", ridge: float = 1e-2, delta: float = 0.05, repeats: int = 5,
    seed: int = 0,
) -> Difficulty:  # fmt: skip
    """How hard a teacher's answers are for a student with this kernel.

    Parameters
    ----------
    gram
        the student's kernel on the sample, without a ridge: `(n, C, n, C)` or `(nC, nC)` of a finite network
        (`kdlib.kernels.empirical_ntk`), or `(n, n)` shared by all outputs (`kdlib.kernels.analytic_ntk`).
    teacher_logits, labels
        `(n, C)`, `C >= 2`, and integers `(n,)`. A teacher that was trained on these examples is fine: the certificate
        is S5 with the true labels. A *kernel* that was trained on them voids it.
    soft_ratio, temperature, temperature_scaling
        of the distillation, as in `kdlib.labels.effective_logits`.
    ridge
        of the certified student, in units of the mean diagonal.
    delta
        the certificate fails with at most this probability.
    repeats, seed
        of the random assignments behind `noise`.

    Returns
    -------
    `Difficulty`.

    Raises
    ------
    ValueError
        shapes that do not fit; fewer than eight examples.
    kdlib.path.NotPositiveDefiniteError
        a kernel that is singular to working precision: two equal inputs, or outputs that no parameter moves.
    """
    loss = DistillationLoss(soft_ratio, temperature, temperature_scaling)
    logits, labels = logits_and_labels(real_array("teacher_logits", teacher_logits, ndim=2), labels)
    n, c = logits.shape
    if n < 8:
        raise ValueError(f"at least 8 examples are needed, not {n}")
    ridge, delta = number("ridge", ridge, above=0), number("delta", delta, least=1e-12, below=1)
    repeats = integer("repeats", repeats, least=1)
    gram = real_array("gram", gram)
    if gram.shape not in ((n, n), (n * c, n * c), (n, c, n, c)):
        raise ValueError(f"gram must be {(n, n)}, {(n * c, n * c)} or {(n, c, n, c)}, not {gram.shape}")
    if gram.shape != (n, n):
        gram = gram.reshape(n * c, n * c)
    width = len(gram) // n
    effective = minimiser(loss, logits, labels)
    effective = effective - effective.mean(axis=1, keepdims=True)
    if not np.abs(effective).max() > 1e-12 * max(1.0, np.abs(logits).max()):
        raise ValueError(
            "the teacher says the same about every class of every example: there is nothing to learn from it"
        )
    hard = np.eye(c)[labels] - 1 / c
    hard *= np.sqrt(np.mean(effective**2) / np.mean(hard**2))
    sizes = np.unique(np.linspace(n // 4, n, 4).astype(int))
    draw = np.random.default_rng(seed)
    shuffled = [effective[draw.permutation(n)] for _ in range(repeats)]

    # One factor serves all targets and all nested samples (R5): the norms are running sums.
    stacked = [targets if width == 1 else targets.reshape(-1, 1) for targets in (effective, hard, *shuffled)]
    coefficients = interpolation_path(gram, np.concatenate(stacked, axis=1)).coefficients.reshape(
        n * width, 2 + repeats, -1
    )
    norms = np.cumsum(np.sum(coefficients**2, axis=2), axis=0)[width - 1 :: width].T  # (targets, examples)
    teacher, noise, half = norms[0, sizes - 1], norms[2:, sizes - 1], n // 2
    if not norms[0, half - 1]:
        raise ValueError(
            "the teacher says the same about every class of each of the first half of the examples, so that nothing "
            "grows: give the examples in a random order"
        )
    wrong, still = achieved_margins(logits, labels) <= 0, achieved_margins(effective, labels) <= 1e-12
    return Difficulty(
        examples=n, outputs=c, teacher_error=float(wrong.mean()),
        corrected=float((wrong & ~still).sum() / max(wrong.sum(), 1)), spoiled=float((~wrong & still).mean()),
        sizes=sizes, teacher=teacher, labels=norms[1, sizes - 1], noise=noise,
        growth=float(np.log(norms[0, -1] / norms[0, half - 1]) / np.log(n / half)),
        relative=float(teacher[-1] / noise[:, -1].mean()),
        certificate=_certified(gram, effective, labels, ridge, delta), ridge=ridge,
    )  # fmt: skip


def _certified(gram: np.ndarray, targets: np.ndarray, labels: np.ndarray, ridge: float, delta: float) -> MarginBound:
    """S5 for kernel ridge regression on the targets; margins on a fixed grid, in units of one."""
    n, c = targets.shape
    y = targets if len(gram) == n else targets.ravel()
    alpha = np.linalg.solve(gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram)), y)
    values = (gram @ alpha).reshape(n, c)
    norm = float(np.sqrt(np.sum(alpha * (gram @ alpha))))
    return margin_bound(gram, values, labels, margins=2.0 ** np.arange(-6, 9), delta=delta, norm=norm)


def read_logits(path: str | Path, examples: int) -> np.ndarray:
    """Teacher's logits from a file: `.npy`, or text with one row for each example, comma-separated.

    `(examples, C)` float64. Nothing is unpickled; rows that do not fit or are not finite are refused.
    """
    path = Path(path)
    found = read_array(path) if path.suffix == ".npy" else read_array(path, text=True)
    if found.ndim != 2 or len(found) != examples or not np.issubdtype(found.dtype, np.floating):
        raise ValueError(
            f"{path} holds {found.dtype} of shape {found.shape}, not ({examples}, C) floating-point logits"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"{path}: row {int(np.argwhere(~np.isfinite(found))[0, 0])} is not finite")
    return found.astype(np.float64)
