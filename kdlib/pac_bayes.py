"""Certificates to the first power of the sample size: S8 for two classes, S9 for several.

A student `f` stands for the mean of a Gaussian process: a draw `h` of `GP(mu f / ||f||, k)` differs from one of `GP(0,
k)`, the prior, by the relative entropy `mu^2 / 2`. If `f` errs at an example, half of the draws do; so `P(Y f <= 0) <=
2 q`, and PAC-Bayes (Langford & Shawe-Taylor 2002; Maurer 2004) bounds `q` by its mean on the sample::

    kl(qhat || q) <= (mu^2 / 2 + log(2 sqrt(n) / delta)) / n

for every student and every `mu` at once, with probability at least `1 - delta`: neither ridge nor supervision nor `mu`
costs anything. So the student may be chosen for its certificate: `least_certificate` does.

The factor two is that of a draw that has to be right. If it has to be right by `theta` of its standard deviations,
then at an error of `f` it fails with probability `Phi(theta)` or more, not one half: `P(Y f <= 0) <= q / Phi(theta)`,
with the `q` of that margin. Each `theta` is fixed before the sample, and a grid of them costs its logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_ndtr, ndtr, xlogy

from kdlib.tools.arrays import gram_matrix, integer, kernel_diagonal, logits_and_labels, number, real_array

MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0)  # `theta`: at zero the factor is two, at 1 it is 1.19
SCALES = np.geomspace(0.1, 300.0, 24)  # of `mu`, to begin the search with: any is allowed
RIDGES = (0.001, 0.01, 0.1)  # over `n` and the mean diagonal: where a search begins
NODES = 64  # of the Gauss-Hermite sum


@dataclass(frozen=True)
class PacBayesBound:
    """S8 or S9 for one student. Made by `pac_bayes_bound`.

    Attributes
    ----------
    gibbs
        upper bound on the probability that a draw around the student errs, or is right by less than `margin`.
    empirical
        its share of the sample.
    scale
        `mu`, the one with the smallest bound; with a prior mean `norm / prior_scale`. The relative entropy is half
        its square.
    delta
        the bound holds with probability `1 - delta`, for all students, scales and margins at once.
    margin
        `theta`, in standard deviations of a draw: the one of those given with the smallest bound.
    """

    gibbs: float
    empirical: float
    scale: float
    delta: float
    margin: float = 0.0

    @property
    def value(self) -> float:
        """The bound on the student's error, `gibbs / Phi(margin)`: twice that of a draw if the margin is zero; at most
        one."""
        return min(1.0, self.gibbs / float(ndtr(self.margin)))

    @property
    def vacuous(self) -> bool:
        """Whether the bound says nothing."""
        return self.value >= 1


def pac_bayes_bound(
    values, labels, *, norm: float, diagonal: Any = 1.0, delta: float = 0.05, prior=None, prior_scale: float = 1.0,
    choices: int = 1, margins: Sequence[float] = MARGINS,
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
    margins
        `theta`, not negative, fixed before the sample: the best is taken, and their number is paid for. `(0,)` for S8
        and S9 with the factor two, whose `gibbs` is the error of a draw.

    Raises
    ------
    ValueError
        a norm that no function with these values can have: `|f(x)| <= ||f|| sqrt(k(x, x))`.
    """
    values, labels = logits_and_labels(values, labels, name="values")
    n = len(values)
    diagonal = real_array("diagonal", diagonal)
    diagonal = kernel_diagonal("diagonal", np.full(n, diagonal) if diagonal.ndim == 0 else diagonal, n)
    delta, norm = number("delta", delta, least=1e-12, below=1), number("norm", norm, above=0)
    prior_scale, choices = number("prior_scale", prior_scale, above=0), integer("choices", choices, least=1)
    margins = _margins(margins)
    start = np.zeros_like(values) if prior is None else real_array("prior", prior, shape=values.shape)
    values, start = _centred(values), _centred(start)
    moved = np.sqrt(np.sum((values - start).reshape(n, -1) ** 2, axis=1))
    if np.any(moved > norm * np.sqrt(diagonal) * (1 + 1e-6) + 1e-12):
        worst = int(np.argmax(moved - norm * np.sqrt(diagonal)))
        raise ValueError(
            f"norm is {norm:g}, but a function of that norm moves by at most norm * sqrt(k(x, x)) = "
            f"{norm * np.sqrt(diagonal[worst]):g} at an input, and at example {worst} the values move by "
            f"{moved[worst]:g}: give ||f - f_0|| of the same kernel"
        )
    means = _in_deviations(values / norm, diagonal)
    entropy = _entropy(n, delta, choices * len(margins))
    found = []
    for margin in margins:

        def at(scale: float, margin: float = margin) -> tuple[float, float]:
            """`(gibbs, empirical)`."""
            empirical = float(_draw_errors(scale * means, labels, diagonal, margin).mean())
            return _largest(empirical, (scale**2 / 2 + entropy) / n), empirical

        scale = _best_scale(lambda scale: at(scale)[0]) if prior is None else norm / prior_scale
        found.append(PacBayesBound(*at(scale), scale, delta, margin))
    return min(found, key=lambda bound: bound.gibbs / ndtr(bound.margin))


@dataclass(frozen=True)
class CertifiedStudent:
    """The student that `least_certificate` found: `f = f_0 + sum_i coefficients_i k(., x_i)`.

    Attributes
    ----------
    bound
        its certificate.
    coefficients
        `(n,)` or `(n, C)`: new inputs have the outputs `cross @ coefficients`, `cross` `(m, n)`, and `f_0` of them.
    norm
        `||f - f_0||`.
    prior_scale
        of those given the one with the smallest certificate; 1 without a prior mean.
    """

    bound: PacBayesBound
    coefficients: np.ndarray
    norm: float
    prior_scale: float


def least_certificate(
    gram, labels, *, delta: float = 0.05, prior=None, prior_scales: Sequence[float] = (1.0,), choices: int = 1,
    margins: Sequence[float] = MARGINS, steps: int = 100,
) -> CertifiedStudent:  # fmt: skip
    """A student with as small a bound by S8 or S9 as a search over all functions finds: L-BFGS on the bound itself.

    The bound is one event for every student, so the search costs nothing; what it costs to try several margins and
    scales is paid here. It is a local minimum, from the best of a few ridge students (or the prior mean) on: a valid
    certificate wherever it ends.

    Parameters
    ----------
    gram
        `(n, n)`, symmetric, positive semi-definite, of a kernel fixed before the sample.
    labels
        `(n,)`: in {-1, 1}, or integers in `0..C-1` (the kernel times the identity).
    delta, prior, choices, margins
        as in `pac_bayes_bound`, `prior` with the labels' shape, `(n,)` or `(n, C)`.
    prior_scales
        a grid fixed before the sample; used with a prior mean only.
    steps
        of the search, at most, for each margin and scale.
    """
    gram = gram_matrix("gram", gram)
    n = len(gram)
    given = real_array("labels", labels, shape=(n,))
    if (given == 1).all() and prior is None:
        raise ValueError("labels are all 1, of two classes or of several: give a prior mean of their shape, zeros do")
    start = np.zeros(n if np.any(given == -1) else (n, max(2, int(given.max()) + 1)))
    start, labels = logits_and_labels(start if prior is None else prior, labels, name="prior")
    start = _centred(start)
    steps = integer("steps", steps, least=1)
    margins, diagonal = _margins(margins), np.diag(gram)
    scales = (1.0,) if prior is None else tuple(number("prior_scales", scale, above=0) for scale in prior_scales)
    if not scales:
        raise ValueError("prior_scales must hold one scale at least")
    entropy = _entropy(n, delta, choices * len(margins) * len(scales))
    root = cholesky(gram + 1e-10 * diagonal.mean() * np.eye(n), lower=True)

    def objective(flat: np.ndarray, margin: float, scale: float) -> tuple[float, np.ndarray]:
        """The bound of `f_0 + scale * root @ u`, over `Phi(margin)`, and its gradient in `u`."""
        u = flat.reshape(start.shape)
        problem = _in_deviations(start / scale + root @ u, diagonal), labels, diagonal, margin
        empirical, budget = float(_draw_errors(*problem).mean()), float(flat @ flat / 2 + entropy) / n
        slopes = _error_slopes(*problem)
        q = min(_largest(empirical, budget), 1 - 1e-12)
        per_budget = q * (1 - q) / max(q - empirical, 1e-12)
        per_empirical = per_budget * (np.log((1 - empirical) / (1 - q)) - np.log(max(empirical, 1e-300) / q))
        gradient = per_empirical * (root.T @ _in_deviations(slopes, diagonal)) / n + per_budget * u / n
        return q / ndtr(margin), np.ravel(gradient) / ndtr(margin)

    # Without a prior mean the bound of the zero function is one, and flat: ridge students are where to begin
    targets = labels if start.ndim == 1 else _centred(np.eye(start.shape[1])[labels])
    ridges = () if prior is not None else n * diagonal.mean() * np.array(RIDGES)
    directions = [root.T @ cho_solve(cho_factor(gram + ridge * np.eye(n)), targets) for ridge in ridges]
    begins = [np.ravel(size * u / np.linalg.norm(u)) for u in directions for size in SCALES]
    found = []
    for scale in scales:
        for margin in margins:
            bound_of = lambda u, margin=margin, scale=scale: objective(u, margin, scale)[0]
            begin = min(begins, key=bound_of) if begins else np.zeros(start.size)
            options = dict(maxiter=steps, maxcor=20, ftol=1e-10, gtol=1e-10)
            result = minimize(objective, begin, (margin, scale), "L-BFGS-B", jac=True, options=options)
            found.append((float(result.fun), scale, result.x.reshape(start.shape)))
    _, scale, u = min(found, key=lambda row: row[0])
    coefficients = scale * solve_triangular(root, u, trans=1, lower=True)
    moved = gram @ coefficients  # of the kernel itself, without what made the root possible
    norm = float(np.sqrt(max(np.sum(coefficients * moved), np.finfo(float).tiny)))
    bound = pac_bayes_bound(
        start + moved, labels, norm=norm, diagonal=diagonal, delta=delta, prior=None if prior is None else start,
        prior_scale=scale, choices=choices * len(scales), margins=margins,
    )  # fmt: skip
    return CertifiedStudent(bound, coefficients, norm, scale)


def _margins(margins: Sequence[float]) -> tuple[float, ...]:
    if not len(margins):
        raise ValueError("margins must hold one number at least")
    return tuple(number("margins", margin, least=0) for margin in margins)


def _centred(values: np.ndarray) -> np.ndarray:
    """Over the classes, where there are several: the same decisions, and never a larger norm."""
    return values if values.ndim == 1 else values - values.mean(axis=1, keepdims=True)


def _entropy(n: int, delta: float, choices: int) -> float:
    """What confidence and choices add to the relative entropy."""
    return float(np.log(2 * np.sqrt(n) * choices / delta))


def _in_deviations(values: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """Values in units of a draw's standard deviation at each example; zero where a draw does not vary."""
    unit = np.divide(1, np.sqrt(diagonal), out=np.zeros(len(diagonal)), where=diagonal > 0)
    return values * (unit if values.ndim == 1 else unit[:, None])


def _best_scale(gibbs: Callable[[float], float]) -> float:
    coarse = float(min(SCALES, key=gibbs))
    near = np.log(coarse) + np.array([-1, 1]) * np.log(SCALES[1] / SCALES[0])
    fine = float(np.exp(minimize_scalar(lambda log: gibbs(float(np.exp(log))), bounds=near, method="bounded").x))  # pyright: ignore[reportAttributeAccessIssue]
    return min(fine, coarse, key=gibbs)


def _draw_errors(means: np.ndarray, labels: np.ndarray, diagonal: np.ndarray, margin: float) -> np.ndarray:
    """`(n,)` probabilities that a draw is not right by `margin`.

    Means are in units of the standard deviation, as the margin is (for several classes that of the difference of two
    outputs). Where `k(x, x) = 0` no draw varies: the probability is one, or one half for two classes and no margin.
    """
    if means.ndim == 1:
        return np.where(diagonal > 0, ndtr(margin - labels * means), 0.5 if margin == 0 else 1.0)
    right = sum(weight * ndtr(below).prod(axis=1) for weight, below in _below(means, labels, margin))
    return np.where(diagonal > 0, 1 - right, 1.0)


def _error_slopes(means: np.ndarray, labels: np.ndarray, diagonal: np.ndarray, margin: float) -> np.ndarray:
    """Of `_draw_errors` in the means, of the means' shape."""
    if means.ndim == 1:
        slopes = -labels * np.exp(-((labels * means - margin) ** 2) / 2) / np.sqrt(2 * np.pi)
        return np.where(diagonal > 0, slopes, 0.0)
    slopes = np.zeros_like(means)
    for weight, below in _below(means, labels, margin):
        logs = log_ndtr(below)
        chance = weight * np.exp(logs.sum(axis=1, keepdims=True))
        slopes += chance * np.exp(-(below**2) / 2 - logs) / np.sqrt(2 * np.pi)
    np.put_along_axis(slopes, labels[:, None], -slopes.sum(axis=1, keepdims=True), axis=1)
    return np.where(diagonal[:, None] > 0, slopes, 0.0)


def _below(means: np.ndarray, labels: np.ndarray, margin: float) -> Iterator[tuple[float, np.ndarray]]:
    """For each node of the Gauss-Hermite sum over the true class's draw: its weight, and `(n, C)` how far above each
    other class's mean it is, less the margin (infinite for the true class)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    ahead = np.take_along_axis(means, labels[:, None], axis=1) - means - np.sqrt(2) * margin
    np.put_along_axis(ahead, labels[:, None], np.inf, axis=1)
    return ((weight, node + ahead) for node, weight in zip(nodes, weights / weights.sum(), strict=True))


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
