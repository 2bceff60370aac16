"""How hard supervision is for a student: supervision complexity (section 6), data inefficiency (section 4).

The latter starts from squared norms `||w_n||^2 = v_n^T K_n^{-1} v_n` over `n`, one row a seed, as
`kdlib.path.InterpolationPath.squared_norm` gives them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import brentq

from kdlib.certified import CertifiedComplexity, certified_supervision_complexity
from kdlib.path import interpolation_path

__all__ = [
    "CertifiedComplexity",
    "Complexity",
    "DataInefficiency",
    "adjusted_supervision_complexity",
    "certified_supervision_complexity",
    "data_inefficiency",
    "expected_squared_norm",
    "learning_threshold",
    "noise_inefficiency",
    "noise_norm",
    "supervision_complexity",
]


@dataclass(frozen=True)
class Complexity:
    """The supervision complexity of one set of targets. Made by `supervision_complexity`.

    Attributes
    ----------
    value
        `v^T (K + ridge I)^{-1} v`: without a ridge the squared norm of the minimum-norm interpolant (S1).
    trace
        `tr K` over all outputs, without the ridge.
    examples
        `n`.
    ridge
        what was added to the diagonal: zero unless the caller asked for it.
    """

    value: float
    trace: float
    examples: int
    ridge: float

    @property
    def adjusted(self):
        """`A(v) = sqrt(SC(v) tr K) / n`: the complexity term of the margin bound, up to its constant and the margin."""
        return float(np.sqrt(self.value * self.trace)) / self.examples


def supervision_complexity(gram, targets, *, ridge=0.0):
    """`v^T (K + ridge I)^{-1} v`, the supervision complexity of Harutyunyan et al. (S1).

    Parameters
    ----------
    gram
        `(n, n)`: one kernel, shared by all outputs; or `(nC, nC)` or `(n, C, n, C)` for `C` outputs with a kernel
        across them, ordered as `targets.ravel()`.
    targets
        `(n,)` or `(n, C)`.
    ridge
        added to the diagonal. It makes the value smaller: it is reported in the result, and none is added unasked.

    Returns
    -------
    `Complexity`: value, adjusted value, trace, ridge.

    Raises
    ------
    ValueError
        shapes that do not fit, entries that are not finite, a negative ridge.
    kdlib.path.NotPositiveDefiniteError
        a Gram that is singular to working precision.
    """
    gram, targets = np.asarray(gram, np.float64), np.asarray(targets, np.float64)
    if targets.ndim not in (1, 2):
        raise ValueError(f"targets must have shape (n,) or (n, C), not {targets.shape}")
    if not (np.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge must be finite and not negative, not {ridge}")
    n, outputs = len(targets), targets.size // max(len(targets), 1)
    shared = gram.shape == (n, n)
    if gram.shape not in ((n, n), (n * outputs, n * outputs), (n, outputs, n, outputs)):
        raise ValueError(
            f"gram must have shape {(n, n)}, {(n * outputs,) * 2} or {(n, outputs) * 2} for targets of shape "
            f"{targets.shape}, not {gram.shape}"
        )
    if not shared:
        gram, targets = gram.reshape(n * outputs, n * outputs), targets.ravel()
    trace = float(np.trace(gram)) * (outputs if shared else 1)
    shifted = gram if ridge == 0 else gram + ridge * np.eye(len(gram))
    value = float(np.sum(interpolation_path(shifted, targets).coefficients ** 2))
    return Complexity(value=value, trace=trace, examples=n, ridge=float(ridge))


def adjusted_supervision_complexity(gram, targets, *, ridge=0.0):
    """`sqrt(SC(v) tr K) / n`, a float. Arguments and errors as in `supervision_complexity`."""
    return supervision_complexity(gram, targets, ridge=ridge).adjusted


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

    def between(self, sizes):
        """The slope of `ln E||w_n||^2` in `ln n` between successive `sizes`: `(slope, lower, upper)`, one entry less.

        It is the average of `n ln(1 + I(n)/n)` over each window with weights `1/n`: `I(n)` with its noise smoothed.
        """
        sizes = _sizes(sizes, len(self.mean))
        slope = _window_slopes(self.mean[None], sizes)[0]
        return slope, *self._ends(_window_slopes(self.resampled, sizes))

    def difference(self, other, sizes):
        """`between(sizes)` of this less that of `other`, with intervals for the difference: `(difference, lower, upper)`.

        Both must come from the same seeds in the same order and be made with the same `resamples` and `seed`, so that
        the resampled averages are paired.
        """
        sizes = _sizes(sizes, min(len(self.mean), len(other.mean)))
        slopes = [_window_slopes(np.vstack([result.mean, result.resampled]), sizes) for result in (self, other)]
        gap = slopes[0] - slopes[1]
        return gap[0], *self._ends(gap[1:])

    def power_law(self, sizes):
        """Fit `I(n) = a n^{-b}` to the windows between `sizes` (D3).

        Returns
        -------
        `(a, b, (lower, upper))`: amplitude, exponent, and the exponent's bootstrap interval.

        Raises
        ------
        ValueError
            the norm does not grow in some window, so that no power law fits.
        """
        sizes = _sizes(sizes, len(self.mean))
        windows = _window_slopes(np.vstack([self.mean, self.resampled]), sizes)
        if not (windows[0] > 0).all():
            i = int(np.argmin(windows[0]))
            raise ValueError(f"E||w_n||^2 does not grow between n = {sizes[i]} and {sizes[i + 1]}: no power law to fit")
        centres = np.log(np.sqrt(sizes[1:] * sizes[:-1]))
        fits = np.polyfit(centres, np.log(np.maximum(windows, 1e-300)).T, 1)
        lower, upper = self._ends(-fits[0, 1:])
        return float(np.exp(fits[1, 0])), float(-fits[0, 0]), (float(lower), float(upper))

    def _ends(self, resampled):
        return np.quantile(resampled, [self.delta / 2, 1 - self.delta / 2], axis=0)


def data_inefficiency(squared_norms, *, delta=0.05, resamples=1000, seed=0):
    """D1: `I(n) = n (E||w_{n+1}||^2 - E||w_n||^2) / E||w_n||^2` for all `n < N`.

    Parameters
    ----------
    squared_norms
        `(seeds, N)`: `||w_n||^2` for `n = 1..N`, one row for each independent draw of the inputs (and of the label
        noise). Two rows at least: with fewer than about ten the intervals are too short, as bootstrap intervals are.
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
    norms = np.asarray(squared_norms, np.float64)
    if norms.ndim != 2 or norms.shape[1] < 2:
        raise ValueError(f"squared_norms must have shape (seeds, N) with N >= 2, not {norms.shape}")
    if len(norms) < 2:
        raise ValueError("an expectation with an interval needs at least two seeds: stack their norm paths as rows")
    if not np.isfinite(norms).all() or norms.min() < 0 or norms[:, 0].mean() <= 0:
        raise ValueError("squared norms must be finite and not negative, and E||w_1||^2 positive (D1)")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), not {delta}")
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


def noise_norm(gram):
    """`E||w_n||^2` of labels that are noise of mean zero and variance one, for `n = 1..N`, at these inputs: `tr K_n^{-1}`.

    The expectation over the noise is exact; the inputs, `(N, N)` through their Gram, and their order are fixed (D6).
    """
    gram = np.asarray(gram, np.float64)
    inverse_factor = solve_triangular(np.linalg.cholesky(gram), np.eye(len(gram)), lower=True)
    return np.cumsum(np.einsum("ij,ij->i", inverse_factor, inverse_factor))


def noise_inefficiency(gram, covariance=None):
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
    inverse = np.linalg.inv(np.asarray(gram, np.float64))
    moment = np.eye(len(inverse)) if covariance is None else np.asarray(covariance, np.float64)
    # Leaving example i out changes v^T K^{-1} v by (K^{-1} v)_i^2 / (K^{-1})_ii.
    total = np.sum(inverse * moment)
    steps = np.sum((inverse @ moment) * inverse, axis=1) / np.diagonal(inverse)
    before = total - steps.mean()
    return float((len(inverse) - 1) * (total - before) / before)


def learning_threshold(eigenvalues, n):
    """The `kappa` with `sum_k mu_k / (mu_k + kappa) = n`: directions with `mu_k` well above it are learnt from `n` examples.

    `eigenvalues` are those of the kernel's integral operator, each as often as it occurs; more than `n` of them
    must be positive.
    """
    eigenvalues = np.asarray(eigenvalues, np.float64)
    positive = eigenvalues[eigenvalues > 0]
    if not 0 < n < len(positive):
        raise ValueError(f"n must be positive and below the number of positive eigenvalues, {len(positive)}, not {n}")

    def excess(log_kappa):
        return np.sum(positive / (positive + np.exp(log_kappa))) - n

    low, high = np.log(positive.min()) - 50, np.log(positive.sum() / n) + 1
    return float(np.exp(brentq(excess, low, high, xtol=1e-12)))


def expected_squared_norm(eigenvalues, energies, n):
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
    eigenvalues, energies = np.asarray(eigenvalues, np.float64), np.asarray(energies, np.float64)
    norm = lambda size: np.sum(energies / (eigenvalues + learning_threshold(eigenvalues, size)))
    return np.array([norm(size) for size in np.ravel(n)]).reshape(np.shape(n))


def _inefficiency(norms):
    """D1 along the last axis of `(..., N)` expected squared norms."""
    n = np.arange(1, norms.shape[-1])
    return n * np.diff(norms, axis=-1) / norms[..., :-1]


def _window_slopes(norms, sizes):
    return np.diff(np.log(norms[:, sizes - 1]), axis=1) / np.diff(np.log(sizes))


def _sizes(sizes, largest):
    sizes = np.asarray(sizes)
    ascending = sizes.ndim == 1 and len(sizes) > 1 and (np.diff(sizes) > 0).all()
    if not ascending or not np.issubdtype(sizes.dtype, np.integer) or sizes[0] < 1 or sizes[-1] > largest:
        raise ValueError(f"sizes must be ascending integers in 1..{largest}, two at least")
    return sizes
