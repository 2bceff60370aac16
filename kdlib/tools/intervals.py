"""Intervals: of a probability from counts, of a mean from seeds."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, chi2, norm
from scipy.stats import t as student_t

from kdlib.tools.arrays import integer, number, real_array


def clopper_pearson(successes, trials: int, delta: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """The exact two-sided interval of level `1 - delta` for a binomial probability: `(lower, upper)` arrays."""
    delta = number("delta", delta, least=1e-100, below=1)
    trials = integer("trials", trials, least=1)
    successes = real_array("successes", successes)
    if np.any(successes < 0) or np.any(successes > trials) or np.any(successes != np.round(successes)):
        raise ValueError(f"successes must be whole numbers in 0..{trials}, the number of trials")
    lower = np.where(successes > 0, beta.ppf(delta / 2, np.maximum(successes, 1), trials - successes + 1), 0.0)
    upper = np.where(successes < trials, beta.ppf(1 - delta / 2, successes + 1, np.maximum(trials - successes, 1)), 1.0)
    return lower, upper


def mean_interval(values, delta: float = 0.05) -> tuple[float, float]:
    """Student-t interval of level `1 - delta` for a mean over seeds: `(lower, upper)` floats.

    Parameters
    ----------
    values
        `(seeds,)`; or `(cases, seeds)`, where cases and seeds are both random draws: the variance of the mean is then
        the sum of what the means by seed and the means by case show. Its degrees of freedom are those of the fewer:
        never too many, whichever vary more.
    """
    delta = number("delta", delta, least=1e-12, below=1)
    values = real_array("values", values, ndim=(1, 2))
    if values.shape[-1] < 2 or (values.ndim == 2 and len(values) < 2):
        raise ValueError(
            "an interval needs values of shape (seeds,) or (cases, seeds), two seeds at least and two cases, not "
            f"{values.shape}"
        )
    by_seed = values if values.ndim == 1 else values.mean(axis=0)
    means = [by_seed] if values.ndim == 1 else [by_seed, values.mean(axis=1)]
    variances = np.array([of.var(ddof=1) / len(of) for of in means])
    half = student_t.ppf(1 - delta / 2, min(map(len, means)) - 1) * np.sqrt(variances.sum())
    return float(by_seed.mean() - half), float(by_seed.mean() + half)


def detectable(error: float, freedom: int, level: float, power: float = 0.8) -> float:
    """The effect that a two-sided test at `level` sees with probability `power`.

    Parameters
    ----------
    error
        standard error of the effect.
    freedom
        degrees of freedom of that error, of Student's test (by its noncentral law); 0 if it is known, of a normal one.
    """
    error, freedom = number("error", error, least=0), integer("freedom", freedom, least=0)
    level, power = number("level", level, above=0, below=1), number("power", power, above=level, below=1)
    if not freedom:
        return error * float(norm.ppf(1 - level / 2) + norm.ppf(power))
    # The noncentral law as a mean over the error's own chance, by quadrature: SciPy's is NaN far out
    places, weights = np.polynomial.legendre.leggauss(200)
    estimated = np.sqrt(chi2.ppf((1 + places) / 2, freedom) / freedom) * student_t.ppf(1 - level / 2, freedom)
    missed = lambda effect: weights @ norm.cdf(estimated - effect) / 2 - (1 - power)
    return error * float(brentq(missed, 0.0, estimated.max() + 10))  # pyright: ignore[reportArgumentType]


def holm(p_values) -> np.ndarray:
    """`(k,)` p-values corrected for being several (Holm 1979): at least the given ones, at most one."""
    p = real_array("p_values", p_values, ndim=1)
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"p_values must lie between 0 and 1, not {p.min():g} to {p.max():g}")
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected
