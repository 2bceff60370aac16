"""Certificates to the first power of the sample size: S8 for two classes, S9 for several.

A student `f` stands for the mean of a Gaussian process: a draw `h` of `GP(mu f / ||f||, k)` differs from one of `GP(0,
k)`, the prior, by the relative entropy `mu^2 / 2`. If `f` errs at an example, half of the draws do; so `P(Y f <= 0) <=
2 q`, and PAC-Bayes (Langford & Shawe-Taylor 2002; Maurer 2004) bounds `q` by its mean on the sample::

    kl(qhat || q) <= (mu^2 / 2 + log(2 sqrt(n) / delta)) / n

for every student and every `mu` at once, with probability at least `1 - delta`: neither ridge nor supervision nor `mu`
costs anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, xlogy

from kdlib.tools.arrays import integer, kernel_diagonal, logits_and_labels, number, real_array

SCALES = np.geomspace(0.1, 300.0, 24)  # of `mu`, to begin the search with: any is allowed
NODES = 64  # of the Gauss-Hermite sum


@dataclass(frozen=True)
class PacBayesBound:
    """S8 or S9 for one student. Made by `pac_bayes_bound`.

    Attributes
    ----------
    gibbs
        upper bound on the error of a draw around the student.
    empirical
        that error on the sample.
    scale
        `mu`, the one with the smallest bound; with a prior mean `norm / prior_scale`. The relative entropy is half
        its square.
    delta
        the bound holds with probability `1 - delta`, for all students and scales at once.
    """

    gibbs: float
    empirical: float
    scale: float
    delta: float

    @property
    def value(self) -> float:
        """The bound on the student's error: twice that of a draw, at most one."""
        return min(1.0, 2 * self.gibbs)

    @property
    def vacuous(self) -> bool:
        """Whether the bound says nothing."""
        return self.value >= 1


def pac_bayes_bound(
    values, labels, *, norm: float, diagonal=1.0, delta: float = 0.05, prior=None, prior_scale: float = 1.0,
    choices: int = 1,
) -> PacBayesBound:  # fmt: skip
    """S8 (two classes) or S9 (several): a bound on a student's error by its norm and its margins.

    The kernel, the prior mean and its scale must be fixed before the sample is seen, or be one of `choices` that are.

    Parameters
    ----------
    values
        the student's outputs on the sample: `(n,)`, or `(n, C)` for `C` classes with the kernel `k` times the identity;
        these are centred over the classes here.
    labels
        `(n,)`: in {-1, 1}, or integers in `0..C-1`.
    norm
        `||f||` in the kernel's space, above zero; of an interpolant the root of its supervision complexity. With a
        prior mean `||f - f_0||`. (For several classes that of the centred outputs, which is never larger.)
    diagonal
        `k(x, x)` on the sample: `(n,)`, or one number for a normalised kernel.
    delta
        the bound fails with at most this probability.
    prior
        `f_0` on the sample, of the shape of `values`, which include it. Then the scale is not free: a free one would
        certify another function than `f`.
    prior_scale
        `s > 0`, fixed before the sample; used with a prior mean only. A grid of several costs `choices`.
    choices
        how many combinations of kernel, prior mean and scale the caller chose from after seeing the sample.

    Raises
    ------
    ValueError
        a norm that no function with these values can have: `|f(x)| <= ||f|| sqrt(k(x, x))`.
    """
    values, labels = logits_and_labels(values, labels, name="values")
    n = len(values)
    diagonal = kernel_diagonal("diagonal", np.broadcast_to(np.asarray(diagonal, float), (n,)), n)
    delta, norm = number("delta", delta, above=0, below=1), number("norm", norm, above=0)
    prior_scale, choices = number("prior_scale", prior_scale, above=0), integer("choices", choices, least=1)
    start = np.zeros_like(values) if prior is None else real_array("prior", prior, shape=values.shape)
    if values.ndim == 2:
        values, start = (array - array.mean(axis=1, keepdims=True) for array in (values, start))
    moved = np.sqrt(np.sum((values - start).reshape(n, -1) ** 2, axis=1))
    if np.any(moved > norm * np.sqrt(diagonal) * (1 + 1e-6) + 1e-12):
        worst = int(np.argmax(moved - norm * np.sqrt(diagonal)))
        raise ValueError(
            f"norm is {norm:g}, but a function of that norm moves by at most norm * sqrt(k(x, x)) = "
            f"{norm * np.sqrt(diagonal[worst]):g} at an input, and at example {worst} the values move by "
            f"{moved[worst]:g}: give ||f - f_0|| of the same kernel"
        )
    entropy = np.log(2 * np.sqrt(n) * choices / delta)
    unit = np.divide(1, norm * np.sqrt(diagonal), out=np.zeros(n), where=diagonal > 0)
    means = values * (unit if values.ndim == 1 else unit[:, None])

    def at(scale: float) -> tuple[float, float]:
        """`(gibbs, empirical)`."""
        empirical = _draw_errors(scale * means, labels, diagonal)
        return _largest(empirical, (scale**2 / 2 + entropy) / n), empirical

    if prior is None:
        coarse = min(SCALES, key=lambda scale: at(scale)[0])
        near = np.log(coarse) + np.array([-1, 1]) * np.log(SCALES[1] / SCALES[0])
        scale = float(np.exp(minimize_scalar(lambda log: at(np.exp(log))[0], bounds=near, method="bounded").x))  # pyright: ignore[reportAttributeAccessIssue]
        scale = min(scale, float(coarse), key=lambda scale: at(scale)[0])
    else:
        scale = norm / prior_scale
    gibbs, empirical = at(scale)
    return PacBayesBound(gibbs, empirical, scale, delta)


def _draw_errors(means: np.ndarray, labels: np.ndarray, diagonal: np.ndarray) -> float:
    """Mean probability that a draw errs, around means in units of its standard deviation; no output of a draw with
    `k(x, x) = 0` varies: it is one half for two classes, one for several."""
    if means.ndim == 1:
        return float(np.where(diagonal > 0, ndtr(-labels * means), 0.5).mean())
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    true = np.take_along_axis(means, labels[:, None], axis=1)
    ahead = true - means  # (n, C)
    right = np.zeros(len(means))
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        chances = ndtr(node + ahead)
        np.put_along_axis(chances, labels[:, None], 1.0, axis=1)
        right += weight * chances.prod(axis=1)
    return float(np.where(diagonal > 0, 1 - right, 1.0).mean())


def _largest(empirical: float, budget: float) -> float:
    """The largest `q` with `kl(empirical || q) <= budget`, from above: bisection, sixty halvings."""
    low, high = empirical, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        kl = xlogy(empirical, empirical / middle) + xlogy(1 - empirical, (1 - empirical) / (1 - middle))
        low, high = (middle, high) if kl <= budget else (low, middle)
    return float(high)
