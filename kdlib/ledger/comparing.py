"""What a check compares, and what its numbers say then: slack, verdict, power, an observation's outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from kdlib.tools.arrays import number
from kdlib.tools.intervals import detectable

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["identity", "bound", "rate", "observation", "evidence"]
Outcome = Literal["for", "against", "undecided", "vacuous"]  # of evidence

VACUOUS = "holds, but says nothing: vacuous in every trial"
FACTORS = (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 30, 100)  # tried on each part of a right side


def compared(kind: Kind, measured, reference, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat float arrays (measured, reference, slack); a check passes where the slack is not negative.

    What is not finite never passes.
    """
    measured, reference = np.atleast_1d(np.asarray(measured, float)), np.asarray(reference, float)
    if measured.size == 0:
        raise ValueError("nothing was compared: the arrays are empty")
    if kind in ("rate", "observation"):
        if measured.shape != (2,) or reference.ndim != 0:
            raise ValueError(f"a {kind} compares an interval (low, high) with one number")
        ends = np.array([reference - measured[0], measured[1] - reference]) + tolerance
        slack = measured[:1] - reference if kind == "observation" else ends.min(keepdims=True)
    else:
        measured, reference = (array.ravel() for array in np.broadcast_arrays(measured, reference))
        with np.errstate(invalid="ignore"):
            slack = reference - measured + tolerance
        if kind == "identity":
            slack = tolerance - np.abs(measured - reference) / np.maximum(1.0, np.abs(reference))
    finite = np.isfinite(measured).all() and np.isfinite(reference).all()
    return measured, np.atleast_1d(reference), slack if finite else np.full_like(slack, -np.inf)


def observed(
    measured: np.ndarray,
    reference: np.ndarray,
    freedom: int,
    level: float,
    null_error: float | None,
    estimate: float | None,
) -> tuple[Outcome, float, float]:
    """`(outcome, power, p)` of an interval of a level and a threshold; without degrees of freedom by a normal law.

    An interval without width, but for rounding, tells no spread: all seeds agreeing is then the evidence, as in a sign
    test.
    """
    if not np.isfinite(measured).all():
        raise ValueError(f"an observation needs a finite interval, not {measured.tolist()}")
    low, high = measured - reference
    outcome = "for" if low > 0 else "against" if high < 0 else "undecided"
    effect = abs((low + high) / 2 if estimate is None else float(estimate) - float(reference[0]))
    law = student_t(freedom) if freedom > 0 else norm
    error = float((high - low) / 2 / law.ppf((1 + level) / 2))
    if null_error is not None:
        null_error = number("null_error", null_error, above=0)
        seen = detectable(max(error, null_error), 0, 1 - level)
        return outcome, seen, float(2 * norm.sf(effect / null_error))
    if error <= 1e-12 * effect:
        return outcome, 0.0, 0.5**freedom if effect else 1.0
    return outcome, detectable(error, max(freedom, 0), 1 - level), float(2 * law.sf(effect / error))


def verdict_of(kind: Kind, tolerance: float, vacuous: float | None) -> str:
    """What a check that passed says, in words; the proof itself is in the text."""
    if kind == "identity":
        if tolerance >= 1e-3:
            return f"equal within {tolerance:g}"
        return f"identity to {tolerance:.0e}" if tolerance else "identity, exact"
    if kind == "rate":
        return "prediction in the interval" + (f", widened by {tolerance:g}" if tolerance else "")
    if vacuous == 1:
        return VACUOUS
    return "holds, with slack" + (f"; vacuous in {100 * vacuous:.0f} % of trials" if vacuous else "")


def directions_of(
    kind: Kind, measured: np.ndarray, reference: np.ndarray, tolerance: float
) -> dict[str, float | None]:  # fmt: skip
    """In each direction the factor, above one, by which the reference may be wrong before the check fails; None where
    it never does. Empty where a factor means nothing: a reference of zero, signs, counts, truth values.

    A bound that is too large holds, so that only one that is too small can be noticed (a negative one: too negative).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "bound":  # shrunk by this factor, the reference is below what was measured
            factors = np.where(reference > 0, reference / (measured - tolerance), (measured - tolerance) / reference)
            factors = factors[((measured > tolerance) & (reference > 0)) | ((measured < tolerance) & (reference < 0))]
            return {"too small": float(np.maximum(factors, 1.0).min())} if factors.size else {}
        if kind == "rate":
            low, high = sorted((np.sign(reference[0]) * measured).tolist())
            low, high, slope = low - tolerance, high + tolerance, abs(reference[0])
            if not slope:
                return {}
            return {"too steep": float(high / slope), "too flat": float(slope / low) if low > 0 else None}
        if not tolerance and (reference == np.round(reference)).all():
            return {}
        known = reference != 0
        room, off = tolerance * np.maximum(1.0, np.abs(reference)), np.sign(reference) * (measured - reference)
        larger, smaller = (((room + sign * off) / np.abs(reference))[known] for sign in (1, -1))
        if not known.any():
            return {}
        least = float(np.maximum(smaller, 0.0).min())
        return {
            "too large": 1 + float(np.maximum(larger, 0.0).min()),
            "too small": 1 / (1 - least) if least < 1 else None,
        }


def noticed_at(
    kind: Kind, part: Callable[[float], tuple] | np.ndarray, measured: np.ndarray, reference: np.ndarray,
    tolerance: float, told: np.ndarray | slice,
) -> float | None:  # fmt: skip
    """The first of `FACTORS` by which a part of the right side can be too small before the check fails in one of the
    trials `told`, if one is.
    """
    for factor in FACTORS:
        again = part(factor) if callable(part) else (measured, reference - np.ravel(part) * (1 - 1 / factor))
        if (compared(kind, *again, tolerance)[2][told] < 0).any():
            return float(factor)
    return None


def tightness_of(measured: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """reference / measured where that is a number."""
    usable = (measured > 0) & np.isfinite(measured) & np.isfinite(reference)
    return reference[usable] / measured[usable]


def summary(values) -> dict[str, float]:
    values = np.asarray(values, float)
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
