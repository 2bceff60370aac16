"""Data inefficiency (D1-D6): how fast the norm that a student needs grows with the number of examples.

It starts from squared norms `||w_n||^2 = v_n^T K_n^{-1} v_n` over `n`, one row a seed, as
`kdlib.path.InterpolationPath.squared_norm` gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import brentq

from kdlib.path import interpolation_path
from kdlib.tools.arrays import gram_matrix, integer, number, positive_spectrum, real_array


@dataclass(frozen=True)
class DataInefficiency:
    """D1 for every `n` of a norm path, with bootstrap intervals. Made by `data_inefficiency`.

    Attributes
    ----------
    n
        `1..N-1`.
    estimate, lower, upper
        `I(n)`, `(N-1,)`, and the ends of its interval: percentiles over resampled seeds, each `n` on its own.
    logarithmic
        the other natural form, `n (ln sqrt(E||w_{n+1}||^2) - ln sqrt(E||w_n||^2)) = (n/2) ln(1 + I(n)/n)`, `(N-1,)`.
    per_sample
        `I(n)` of each seed by itself, without the expectations, `(seeds, N-1)`.
    mean
        `E||w_n||^2` for `n = 1..N`, `(N,)`: the average over seeds.
    resampled
        `(resamples, N)`: the same average over resampled seeds.
    delta
        each interval is of nominal level `1 - delta`.
    """

    n: np.ndarray
    estimate: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    logarithmic: np.ndarray
    per_sample: np.ndarray
    mean: np.ndarray
    resampled: np.ndarray
    delta: float

    def between(self, sizes: Sequence[int]):
        """The slope of `ln E||w_n||^2` in `ln n` between successive `sizes`: `(slope, lower, upper)`, one entry less.

        It is the average of `n ln(1 + I(n)/n)` over each window with weights `1/n`: `I(n)` with its noise smoothed.
        """
        ends = _sizes(sizes, len(self.mean))
        slope = _window_slopes(self.mean[None], ends)[0]
        return slope, *self._ends(_window_slopes(self.resampled, ends))

    def difference(self, other: DataInefficiency, sizes: Sequence[int]):
        """`between(sizes)` of this less that of `other`, with intervals for the difference: `(difference, lower,
        upper)`.

        Both must come from the same seeds in the same order and be made with the same `resamples` and `seed`, so that
        the resampled averages are paired.
        """
        ends = _sizes(sizes, min(len(self.mean), len(other.mean)))
        slopes = [_window_slopes(np.vstack([result.mean, result.resampled]), ends) for result in (self, other)]
        gap = slopes[0] - slopes[1]
        return gap[0], *self._ends(gap[1:])

    def power_law(self, sizes: Sequence[int]) -> tuple[float, float, tuple[float, float]]:
        """Fit `I(n) = a n^{-b}` to the windows between `sizes` (D3).

        Returns
        -------
        `(a, b, (lower, upper))`: amplitude, exponent, and the exponent's bootstrap interval.

        Raises
        ------
        ValueError
            the norm does not grow in some window, so that no power law fits.
        """
        ends = _sizes(sizes, len(self.mean))
        windows = _window_slopes(np.vstack([self.mean, self.resampled]), ends)
        if not (windows[0] > 0).all():
            i = int(np.argmin(windows[0]))
            raise ValueError(f"E||w_n||^2 does not grow between n = {ends[i]} and {ends[i + 1]}: no power law to fit")
        centres = np.log(np.sqrt(ends[1:] * ends[:-1]))
        fits = np.polyfit(centres, np.log(np.maximum(windows, 1e-300)).T, 1)
        lower, upper = self._ends(-fits[0, 1:])
        return float(np.exp(fits[1, 0])), float(-fits[0, 0]), (float(lower), float(upper))

    def _ends(self, resampled):
        return np.quantile(resampled, [self.delta / 2, 1 - self.delta / 2], axis=0)


def data_inefficiency(squared_norms, *, delta: float = 0.05, resamples: int = 1000, seed: int = 0) -> DataInefficiency:
    """D1: `I(n) = n (E||w_{n+1}||^2 - E||w_n||^2) / E||w_n||^2` for all `n < N`.

    Parameters
    ----------
    squared_norms
        `(seeds, N)`: `||w_n||^2` for `n = 1..N`, one row for each independent draw of the inputs (and of the label
        noise). Two rows at least: with fewer than about ten the intervals are too short, as bootstrap intervals are;
        with heavy tails, where the supervision jumps, they stay so for longer (the chapter on teachers measures it).
    delta
        of the intervals, each `n` on its own.
    resamples, seed
        of the bootstrap over rows.

    Returns
    -------
    `DataInefficiency`.

    Raises
    ------
    ValueError
        a wrong shape, fewer than two seeds, or norms that are not finite or not positive.
    """
    norms = real_array("squared_norms", squared_norms, ndim=2)
    if norms.shape[1] < 2:
        raise ValueError(f"squared_norms must have shape (seeds, N) with N >= 2, not {norms.shape}")
    if len(norms) < 2:
        raise ValueError("an expectation with an interval needs at least two seeds: stack their norm paths as rows")
    if norms.min() < 0 or norms[:, 0].min() <= 0:
        raise ValueError("squared norms must be finite and not negative, and ||w_1||^2 positive in every draw (D1)")
    delta = number("delta", delta, least=1e-12, below=1)
    resamples = integer("resamples", resamples, least=1, most=10**6)
    draws = np.random.default_rng(seed).multinomial(len(norms), np.full(len(norms), 1 / len(norms)), size=resamples)
    mean, resampled = norms.mean(axis=0), draws @ norms / len(norms)
    inefficiency = _inefficiency(mean)
    lower, upper = np.quantile(_inefficiency(resampled), [delta / 2, 1 - delta / 2], axis=0)
    n = np.arange(1, norms.shape[1])
    return DataInefficiency(
        n=n,
        estimate=inefficiency,
        lower=lower,
        upper=upper,
        logarithmic=n / 2 * np.log1p(inefficiency / n),
        per_sample=_inefficiency(norms),
        mean=mean,
        resampled=resampled,
        delta=delta,
    )


def noise_norm(gram) -> np.ndarray:
    """`E||w_n||^2` of labels that are noise of mean zero and variance one, for `n = 1..N`, at these inputs: `tr
    K_n^{-1}`.

    The expectation over the noise is exact; the inputs, `(N, N)` through their Gram, and their order are fixed (D6).
    """
    factor = np.linalg.cholesky(_positive(gram))
    inverse_factor = solve_triangular(factor, np.eye(len(factor)), lower=True)
    return np.cumsum(np.einsum("ij,ij->i", inverse_factor, inverse_factor))


def noise_inefficiency(gram, covariance=None) -> float:
    """D6: `I(n)` of pure noise at `n = N - 1`, averaged exactly over the noise *and* over which example comes last.

    Parameters
    ----------
    gram
        `(N, N)`, positive definite.
    covariance
        of the labels, `E[v v^T]`, `(N, N)`; the identity by default (the scale drops out of `I`).

    Returns
    -------
    A float. D6 says: at least one, for every Gram, if the covariance is a multiple of the identity. (The inputs in a
    random order are exchangeable, which is all that the proof uses of "independent and identically distributed".)
    """
    inverse = np.linalg.inv(_positive(gram))
    if len(inverse) < 2:
        raise ValueError("data inefficiency compares two sample sizes: give a gram of two examples at least")
    moment = np.eye(len(inverse))
    if covariance is not None:
        moment = gram_matrix("covariance", covariance, len(inverse))
        positive_spectrum("covariance", moment)
    # Leaving example i out changes v^T K^{-1} v by (K^{-1} v)_i^2 / (K^{-1})_ii.
    total = np.sum(inverse * moment)
    steps = np.sum((inverse @ moment) * inverse, axis=1) / np.diagonal(inverse)
    before = total - steps.mean()
    return float((len(inverse) - 1) * (total - before) / before)


def _positive(gram) -> np.ndarray:
    """A checked Gram; NotPositiveDefiniteError, as of `interpolation_path`, if it is singular to working precision."""
    gram = gram_matrix("gram", gram)
    positive_spectrum("gram", gram)
    interpolation_path(gram, np.zeros(len(gram)))
    return gram


def learning_threshold(eigenvalues, n: float) -> float:
    """The `kappa` with `sum_k mu_k / (mu_k + kappa) = n`: directions with `mu_k` well above it are learnt from `n`
    examples.

    `eigenvalues` are those of the kernel's integral operator, each as often as it occurs; more than `n` of them
    must be positive.
    """
    eigenvalues, n = _checked_spectrum(eigenvalues), number("n", n, least=1e-12)
    positive = eigenvalues[eigenvalues > 0]
    if not 0 < n < len(positive):
        raise ValueError(f"n must be positive and below the number of positive eigenvalues, {len(positive)}, not {n}")

    def excess(log_kappa):
        return np.sum(positive / (positive + np.exp(log_kappa))) - n

    low, high = np.log(positive.min()) - 50, np.log(positive.sum() / n) + 1
    return math.exp(cast(float, brentq(excess, low, high, xtol=1e-12)))


def expected_squared_norm(eigenvalues, energies, n) -> np.ndarray:
    """An estimate of `E||w_n||^2` from the kernel's spectrum: `sum_k energy_k / (mu_k + kappa_n)`.

    It replaces the random projection on the span of the examples by its *deterministic equivalent*, and is asymptotic:
    compare it with samples before relying on it.

    Parameters
    ----------
    eigenvalues, energies
        `mu_k` and the squared coefficient of the supervision in eigenfunction `k`, both `(modes,)`.
    n
        an integer or several.

    Returns
    -------
    Array of the shape of `n`.
    """
    eigenvalues = _checked_spectrum(eigenvalues)
    energies = real_array("energies", energies, shape=eigenvalues.shape)
    if energies.size and energies.min() < 0:
        raise ValueError(f"energies are squares: none may be negative, like {energies.min():g}")
    norm = lambda size: np.sum(energies / (eigenvalues + learning_threshold(eigenvalues, size)))
    return np.array([norm(size) for size in np.ravel(n)]).reshape(np.shape(n))


def _checked_spectrum(eigenvalues) -> np.ndarray:
    """A kernel's eigenvalues; those that rounding made negative are zero."""
    eigenvalues = real_array("eigenvalues", eigenvalues, ndim=1)
    if eigenvalues.size and eigenvalues.min() < -1e-10 * np.abs(eigenvalues).max():
        raise ValueError(f"a kernel has no negative eigenvalue, like {eigenvalues.min():g}")
    return np.maximum(eigenvalues, 0.0)


def _inefficiency(norms: np.ndarray) -> np.ndarray:
    """D1 along the last axis of `(..., N)` expected squared norms."""
    n = np.arange(1, norms.shape[-1])
    return n * np.diff(norms, axis=-1) / norms[..., :-1]


def _window_slopes(norms: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.diff(np.log(norms[:, sizes - 1]), axis=1) / np.diff(np.log(sizes))


def _sizes(sizes: Sequence[int] | np.ndarray, largest: int) -> np.ndarray:
    array = np.asarray(sizes)
    ascending = array.ndim == 1 and len(array) > 1 and (np.diff(array) > 0).all()
    if not ascending or not np.issubdtype(array.dtype, np.integer) or array[0] < 1 or array[-1] > largest:
        raise ValueError(f"sizes must be ascending integers in 1..{largest}, two at least")
    return array
