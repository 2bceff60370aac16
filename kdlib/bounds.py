"""The transfer risk bounds: how often the student's sign differs from the teacher's.

R2 and R3 are the same event with two lengths `s(x)`: the teacher is doubtful where::

    |z_t(x)| <= s(x) sqrt(||w*||^2 - ||w_n||^2),

`s(x) = ||phi(x)||` for the angle bound and `s(x) = sigma_n(x)`, the power function, for the sharper one. Each bound
is the probability of its event, estimated on held-out inputs with an exact (Clopper-Pearson) interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdlib.path import InterpolationPath
from kdlib.tools.arrays import instance, number, real_array
from kdlib.tools.intervals import clopper_pearson, mean_interval

__all__ = [
    "HeldOut",
    "angle_bound",
    "clopper_pearson",
    "in_common",
    "mean_interval",
    "oracle_bound",
    "power_function_bound",
    "transfer_angle",
    "transfer_risk",
]


@dataclass(frozen=True)
class HeldOut:
    """A probability estimated on `trials` held-out inputs, for each `n` of the path.

    Attributes
    ----------
    n
        `(k,)` integers, the sample sizes quoted together.
    estimate, lower, upper
        `(k,)`. All `k` intervals hold at once with probability at least `1 - delta`.
    trials, delta
        number of held-out inputs; the probability that some interval fails.
    """

    n: np.ndarray
    estimate: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    trials: int
    delta: float


def transfer_risk(
    path: InterpolationPath, teacher_logits, *, n: Sequence[int] | None = None, delta: float = 0.05, offset=0.0
) -> HeldOut:
    """`R_n = P[sgn z_n(x) != sgn z_t(x)]`, measured on the path's held-out inputs.

    With an `offset` the student is `f_0 + z_n`, and the path's targets are `z_t - f_0`. R2 and R3 hold for it as they
    stand, with `squared_norm` that of `z_t - f_0` and the whole `z_t` as `teacher_logits`.

    Parameters
    ----------
    path
        `kdlib.path.InterpolationPath` with `cross`.
    teacher_logits
        `(M,)`, the teacher's `z_t` on the held-out inputs.
    n
        sample sizes quoted together (`delta` is split over them); None for all of `1..N`.
    offset
        `f_0` on the held-out inputs, `(M,)`, or a number.
    """
    sizes, teacher = _sizes(path, n), _teacher(path, teacher_logits)
    start = real_array("offset", offset)
    start = np.full(len(teacher), float(start)) if start.ndim == 0 else real_array("offset", start, shape=teacher.shape)
    return _held_out(np.sign(path.predict(sizes) + start[:, None]) != np.sign(teacher)[:, None], sizes, delta)


def angle_bound(
    path: InterpolationPath, teacher_logits, squared_norm: float, *, n: Sequence[int] | None = None, delta: float = 0.05
) -> HeldOut:
    """R2, the transfer risk bound of Ji & Zhu: `R_n <= p(pi/2 - alpha_n)`, for each `n`.

    Parameters
    ----------
    path
        `kdlib.path.InterpolationPath` with `cross` and `diagonal`, its targets the teacher's logits.
    teacher_logits
        `(M,)`, `z_t` on the held-out inputs, which must be independent of the training inputs.
    squared_norm
        `||w*||^2` of the realisable teacher `z_t(x) = <phi(x), w*>` (or an upper bound on it).
    n
        sample sizes quoted together (`delta` is split over them); None for all of `1..N`.

    Returns
    -------
    `HeldOut`: the probability of the event above with `s = ||phi(x)||`.

    Raises
    ------
    ValueError
        `squared_norm` below some `||w_n||^2`, which contradicts R1: the teacher is not of that norm.
    """
    return _doubt(path, teacher_logits, squared_norm, n, delta, lambda _: np.sqrt(_diagonal(path))[:, None])


def power_function_bound(
    path: InterpolationPath, teacher_logits, squared_norm: float, *, n: Sequence[int] | None = None, delta: float = 0.05
) -> HeldOut:
    """R3: `R_n <= P[|z_t(x)| <= sigma_n(x) sqrt(||w*||^2 - ||w_n||^2)]`, for each `n`. Never worse than R2.

    Arguments, result and errors as in `angle_bound`.
    """
    instance("path", path, InterpolationPath)
    return _doubt(path, teacher_logits, squared_norm, n, delta, path.power_function)


def transfer_angle(path: InterpolationPath, squared_norm: float) -> np.ndarray:
    """`alpha_n = angle(w_n, w*)` in radians for `n = 1..N`, from `cos alpha_n = ||w_n|| / ||w*||` (R1)."""
    squared_norm = number("squared_norm", squared_norm, above=0)
    student = _scalar_norms(path)
    _room(student, squared_norm, np.arange(1, len(path) + 1))
    return np.arccos(np.sqrt(np.clip(student / squared_norm, 0.0, 1.0)))


def oracle_bound(
    path: InterpolationPath, teacher_logits, *, n: Sequence[int] | None = None, delta: float = 0.05,
    bound: Callable[..., HeldOut] = power_function_bound,
) -> HeldOut:  # fmt: skip
    """R6: a bound for a teacher that is *not* in the student's space, with the student of all `N` as the oracle.

    `R_n <= P[sgn z_N != sgn z_t] + bound(n | N)`, where `bound` (R2 or R3) treats `z_N`, of norm `||w_N||`, as the
    teacher. Half of `delta` goes to each term, and is split there over the quoted `n`.

    Returns
    -------
    `HeldOut`, its estimate and ends the sums of the two terms', cut at one.
    """
    largest, sizes, delta = len(path), _sizes(path, n), number("delta", delta, least=1e-12, below=1)
    squared_norm = float(_scalar_norms(path)[-1])
    outside = transfer_risk(path, teacher_logits, n=[largest], delta=delta / 2)
    inside = bound(path, path.predict(largest), squared_norm, n=sizes, delta=delta / 2)
    return HeldOut(
        n=sizes,
        estimate=np.minimum(outside.estimate + inside.estimate, 1.0),
        lower=np.minimum(outside.lower + inside.lower, 1.0),
        upper=np.minimum(outside.upper + inside.upper, 1.0),
        trials=inside.trials,
        delta=delta,
    )


def in_common(first, second) -> int:
    """How many inputs of the first set, `(n, ...)`, are in the second, `(m, ...)`, equal in every number.

    What every bound on unseen inputs supposes: the teacher, and all that is fixed beforehand, has not seen the sample,
    and nobody the inputs that it is judged on. Zero where that is so.
    """
    first, second = real_array("first", first), real_array("second", second)
    if not (first.ndim and second.ndim) or first.shape[1:] != second.shape[1:]:
        raise ValueError(f"inputs of one shape are compared, not {first.shape[1:]} and {second.shape[1:]}")
    seen = {one.tobytes() for one in second + 0.0}  # a zero has one sign
    return sum(one.tobytes() in seen for one in first + 0.0)


def _doubt(
    path: InterpolationPath, teacher_logits, squared_norm: float, n, delta: float,
    length: Callable[[np.ndarray], np.ndarray],
) -> HeldOut:  # fmt: skip
    n, teacher = _sizes(path, n), _teacher(path, teacher_logits)
    squared_norm = number("squared_norm", squared_norm, least=0)
    student = _scalar_norms(path)[n - 1]
    gap = _room(student, squared_norm, n)
    doubtful = np.abs(teacher)[:, None] <= length(n) * np.sqrt(np.maximum(gap, 0.0))
    return _held_out(doubtful, n, delta)


def _room(student: np.ndarray, squared_norm: float, n: np.ndarray) -> np.ndarray:
    """`||w*||^2 - ||w_n||^2` at each `n`; ValueError where it is negative beyond rounding (R1)."""
    gap = squared_norm - student
    worst = int(np.argmin(gap))
    if not gap[worst] >= -1e-8 * student[worst]:
        raise ValueError(
            f"squared_norm {squared_norm:.6g} is below ||w_n||^2 = {student[worst]:.6g} at n = {n[worst]}: the teacher "
            "is not in the student's space with that norm (R1). For such a teacher use `oracle_bound` (R6)"
        )
    return gap


def _held_out(events: np.ndarray, n: np.ndarray, delta: float) -> HeldOut:
    trials, delta = len(events), number("delta", delta, least=1e-12, below=1)
    successes = events.sum(axis=0)
    lower, upper = clopper_pearson(successes, trials, delta / len(n))
    return HeldOut(n=n, estimate=successes / trials, lower=lower, upper=upper, trials=trials, delta=delta)


def _sizes(path: InterpolationPath, n) -> np.ndarray:
    instance("path", path, InterpolationPath)
    sizes = np.arange(1, len(path) + 1) if n is None else np.atleast_1d(np.asarray(n))
    if sizes.size == 0 or not np.issubdtype(sizes.dtype, np.integer) or sizes.min() < 1 or sizes.max() > len(path):
        raise ValueError(f"n must hold integers in 1..{len(path)}")
    return sizes


def _teacher(path: InterpolationPath, teacher_logits) -> np.ndarray:
    if path.cross_factor is None:
        raise ValueError("the bounds are measured on held-out inputs: make the path with `cross`")
    teacher = real_array("teacher_logits", teacher_logits)
    if teacher.shape != (len(path.cross_factor),):
        raise ValueError(f"teacher_logits must have shape (M,), one per row of the path's `cross`, not {teacher.shape}")
    return teacher


def _scalar_norms(path: InterpolationPath) -> np.ndarray:
    if instance("path", path, InterpolationPath).squared_norm.ndim != 1:
        raise ValueError("the transfer risk bounds are for one scalar teacher: targets of shape (N,)")
    return path.squared_norm


def _diagonal(path: InterpolationPath) -> np.ndarray:
    if path.diagonal is None:
        raise ValueError("the bounds need k(x, x) of the held-out inputs: make the path with `diagonal`")
    return path.diagonal
