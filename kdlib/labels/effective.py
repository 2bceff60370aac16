"""Effective logits: what a student learns from a mixture of soft and hard labels (statements E1-E4).

The functions take `soft_ratio`, `temperature` and `temperature_scaling` by name and make a `DistillationLoss` of them;
`minimiser` is for callers that have one.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

from kdlib.labels.loss import DistillationLoss, TemperatureScaling
from kdlib.tools.arrays import logits_and_labels

ROWS_AT_ONCE = 2048  # of the multi-class solver, so that its arrays stay in the processor's cache
MAX_STEPS = 200  # of the safeguarded Newton iterations; bisection alone needs about 70


def effective_logits(
    teacher_logits, labels, *, soft_ratio: float, temperature: float = 1.0,
    temperature_scaling: TemperatureScaling = "none",
) -> np.ndarray:  # fmt: skip
    """The unique minimiser of the distillation loss of each example (E1).

    Parameters
    ----------
    teacher_logits
        array, `(n,)` for a binary teacher, `(n, C)` for `C >= 2` classes. Finite.
    labels
        `(n,)`. In {-1, 1} for a binary teacher, integers in `0..C-1` otherwise.
    soft_ratio
        `rho` in (0, 1]. At `rho = 0` the loss has no minimiser.
    temperature
        `T > 0`.
    temperature_scaling
        ``"none"`` (`c_T = 1`) or ``"squared"`` (`c_T = T^2`).

    Returns
    -------
    float64 array of the shape of `teacher_logits`. Rows of `(n, C)` are centred: they sum to zero, since the minimiser
    is unique up to a constant. Accurate to 1e-10 (relative where the logit exceeds one).

    Raises
    ------
    ValueError, TypeError
        logits not finite, labels of the wrong kind, soft ratio or temperature out of range.
    """
    return minimiser(DistillationLoss(soft_ratio, temperature, temperature_scaling), teacher_logits, labels)


def minimiser(loss: DistillationLoss, teacher_logits, labels) -> np.ndarray:
    """The effective logits of a `DistillationLoss` (E1), where its `gradient` is zero: see `effective_logits`."""
    logits, labels = logits_and_labels(teacher_logits, labels)
    _has_minimiser(loss)
    if loss.soft_ratio == 1.0:
        return logits.copy() if logits.ndim == 1 else logits - logits.mean(axis=-1, keepdims=True)
    # q weighs the hard label against the soft one: the stationarity condition depends on nothing else.
    ratio, temperature = loss.soft_ratio, loss.temperature
    log_q = float(np.log1p(-ratio) - np.log(ratio) + np.log(temperature) - np.log(loss.temperature_factor))
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):  # ends of brackets
        if logits.ndim == 1:
            return labels * _binary_root(labels * logits, log_q, temperature)
        corrected = _is_corrected(loss, logits, labels)
        found = np.empty_like(logits)
        for start in range(0, len(logits), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            found[rows] = _multiclass_roots(logits[rows], labels[rows], corrected[rows], log_q, temperature)
        return found


def is_corrected(
    teacher_logits, labels, *, soft_ratio: float, temperature: float = 1.0,
    temperature_scaling: TemperatureScaling = "none",
) -> np.ndarray:  # fmt: skip
    """Whether the effective label is the true one: the closed form E4, no root is solved for.

    Same arguments and errors as `effective_logits`; returns a boolean array `(n,)`. True for every example whose
    effective logit of the true class exceeds all others, also where the teacher was right to begin with. An exact
    tie counts as not corrected.
    """
    loss = DistillationLoss(soft_ratio, temperature, temperature_scaling)
    logits, labels = logits_and_labels(teacher_logits, labels)
    _has_minimiser(loss)
    return _is_corrected(loss, logits, labels)


def _is_corrected(loss: DistillationLoss, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ratio, temperature = loss.soft_ratio, loss.temperature
    if ratio == 1.0:  # then the effective logits are the teacher's, and the softmax must not round a lead away
        return _leads(logits, labels)
    if logits.ndim == 1:
        excess = -np.tanh(labels * logits / (2 * temperature))
    else:
        p = softmax(logits / temperature, axis=-1)
        true = np.take_along_axis(p, labels[:, None], axis=-1)[:, 0]
        excess = _without_true(p, labels).max(axis=-1) - true
    return (1 - ratio) > ratio * (loss.temperature_factor / temperature) * excess


def label_jump(
    *, soft_ratio: float, temperature: float = 1.0, temperature_scaling: TemperatureScaling = "none"
) -> float:
    """Half the jump of the effective logit across a perfect teacher's decision boundary (E3).

    `z_eff(0+) = h`, `z_eff(0-) = -h`; the returned float is `h >= 0`, zero only at soft ratio one. It is the
    effective logit of a teacher that cannot tell.
    """
    return float(minimiser(DistillationLoss(soft_ratio, temperature, temperature_scaling), np.zeros(1), np.ones(1))[0])


def correction_threshold(*, temperature: float = 1.0, temperature_scaling: TemperatureScaling = "none") -> float:
    """The largest soft ratio that corrects every error of every teacher with finite logits (E4): T / (T + c_T)."""
    loss = DistillationLoss(1.0, temperature, temperature_scaling)
    return loss.temperature / (loss.temperature + loss.temperature_factor)


def _has_minimiser(loss: DistillationLoss) -> None:
    if loss.soft_ratio == 0:
        raise ValueError("soft_ratio must be in (0, 1], not 0.0: without a soft label the loss has no minimiser (E1)")


def _log1mexp(x):
    """log(1 - exp(-x)) for x > 0, accurate at both ends."""
    return np.where(x < np.log(2.0), np.log(-np.expm1(-x)), np.log1p(-np.exp(-x)))


def _newton_in_bracket(value_and_slope, low, high, tolerance):
    """Root of an increasing function in [low, high], elementwise: Newton, and bisection where Newton would leave.

    Every third step bisects where the bracket has not halved since, so the worst case is that of bisection. An entry is
    done after a Newton step below `tolerance(x, entries)` (the next one would be of the order of its square), or when
    its bracket has closed; `value_and_slope(x, entries)` is asked for those that are not done, by their indices.
    """
    root = 0.5 * low + 0.5 * high
    active, x, width = np.arange(len(root)), root.copy(), high - low
    low, high = low.copy(), high.copy()
    for i in range(MAX_STEPS):
        value, slope = value_and_slope(x, active)
        low = np.where(value <= 0, x, low)
        high = np.where(value >= 0, x, high)
        newton = x - value / slope
        slow = (i % 3 == 2) & (high - low > 0.5 * width)
        accept = (newton >= low) & (newton <= high) & ~slow
        new = np.where(accept, newton, 0.5 * low + 0.5 * high)
        width = high - low if i % 3 == 2 else width
        scale = np.maximum(1.0, np.abs(new))
        done = (accept & (np.abs(new - x) <= tolerance(new, active))) | (high - low <= 1e-16 * scale)
        root[active] = x = new
        if done.all():
            break
        if done.any():
            active, x, low, high, width = (array[~done] for array in (active, x, low, high, width))
    return root


def _binary_root(a, log_q, temperature):
    """Effective logit `u` of teacher logits `a`, both signed so that the true label is +1.

    Stationarity reads s(u/T) - s(a/T) = q s(-u). Since s(b) - s(a) = s(b) s(-a) (1 - e^{-(b-a)}) exactly, its
    logarithm has no cancellation at any size of the logits:

        log(1 - e^{-(u-a)/T}) + log s(u/T) + log s(-a/T) - log s(-u) - log q = 0,

    increasing in u. Each bracket below follows from log 1/2 <= log s(x) - min(x, 0) <= 0 (and log(1 - 1/e) > -1/2).
    """
    constant = log_expit(-a / temperature) - log_q

    def value_and_slope(u, entries):
        gap = np.maximum((u - a[entries]) / temperature, np.finfo(float).tiny)
        value = _log1mexp(gap) + log_expit(u / temperature) - log_expit(-u) + constant[entries]
        slope = 1 / np.expm1(gap) / temperature + expit(-u / temperature) / temperature + expit(u)
        return value, slope

    right = a >= 0
    scaled = np.where(right, log_q + a / temperature, log_q)
    wrong_stays = ~right & (value_and_slope(np.zeros_like(a), slice(None))[0] >= 0)
    low = np.where(right, np.maximum(a, scaled - 0.7), np.maximum(0.0, log_q - 0.7))
    high = np.where(right, np.maximum(a + temperature, scaled + 2), np.maximum(temperature, log_q + 2))
    low = np.where(wrong_stays, np.maximum(a, temperature * (log_q - 0.7)), low)
    high = np.where(wrong_stays, np.minimum(0.0, np.maximum(a + temperature, temperature * (log_q + 2))), high)

    def tolerance(u, entries):
        # Near `a` the function is a logarithm: a step may be short because `u` is far too near. So it is held against
        # the gap, too, as far as this can be told from `a`.
        scale = np.maximum(1.0, np.abs(u))
        return np.maximum(np.minimum(1e-13 * scale, 1e-3 * (u - a[entries])), 1e-15 * scale)

    return _newton_in_bracket(value_and_slope, low, high, tolerance)


def _multiclass_roots(teacher_logits, labels, corrected, log_q, temperature):
    """Effective logits `(n, C)`, centred.

    Divide the loss by rho c_T / T, write p = softmax(z_t / T), A = logsumexp(z / T), and choose the free constant
    so that logsumexp(z) = 0. Then each class j other than the true one y satisfies, on its own,

        exp(z_j / T - A) + q exp(z_j) = p_j,          for y: ... = p_y + q,

    increasing in z_j: given A, every z_j is a scalar root. What is left is one equation in A, and A lies in
    [-log(C) / T, log C]. Two forms of it are equivalent, and E4 tells which one is well conditioned: if y leads,
    take z_y from logsumexp(z) = 0 and solve logsumexp(z / T) = A; otherwise solve logsumexp(z) = 0.
    """
    n, classes = teacher_logits.shape
    is_true = np.equal(np.arange(classes)[None, :], labels[:, None])
    log_p = log_softmax(teacher_logits / temperature, axis=-1)
    target = np.where(is_true, np.logaddexp(log_p, log_q), log_p)

    latest = None  # (A, z, dz/dA) of the call before: a few rows' roots from those of a nearby A

    def logits_given(big_a, rows):
        # log(exp(z/T - A) + q exp(z)) = target is convex and increasing in z; from the right Newton is monotone, and
        # one step from anywhere leads to the right.
        nonlocal latest
        wanted, shift = target[rows], big_a[:, None]
        z = right = np.minimum(temperature * (wanted + shift), wanted - log_q)
        if latest is not None:
            z = latest[1][rows] + latest[2][rows] * (shift - latest[0][rows])
        for _ in range(MAX_STEPS):
            soft, hard = z / temperature - shift, z + log_q
            share = expit(soft - hard)
            step = (np.logaddexp(soft, hard) - wanted) / (share / temperature + 1 - share)
            z = np.minimum(z - step, right)
            if (np.abs(step) <= 1e-9 * np.maximum(1.0, np.abs(z))).all():  # the next one is of the order of its square
                break
        share = expit(z / temperature - shift - z - log_q)
        slope = share / (share / temperature + 1 - share)
        if latest is None:
            latest = np.empty((n, 1)), np.empty((n, classes)), np.empty((n, classes))
        for kept, new in zip(latest, (shift, z, slope), strict=True):
            kept[rows] = new
        return z, slope

    def with_true_from_sum(z, slope, rows):
        """z_y and its slope from logsumexp(z) = 0; z_y = -inf where the other classes alone exceed the sum."""
        others = np.where(is_true[rows], -np.inf, z)
        rest = np.exp(_logsumexp(others))[:, None]
        z_true = np.where(rest < 1, np.log1p(-np.minimum(rest, 1.0)), -np.inf)
        slope_true = -np.sum(np.exp(others) * slope, axis=-1, keepdims=True) / (1 - rest)
        return np.where(is_true[rows], z_true, z), np.where(is_true[rows], slope_true, slope)

    def value_and_slope(big_a, rows):
        z, slope = logits_given(big_a, rows)
        filled, filled_slope = with_true_from_sum(z, slope, rows)
        rows_feasible: np.ndarray = np.all(
            np.isfinite(filled), axis=-1, keepdims=True
        )  # where it is not, A is too large
        feasible = rows_feasible[:, 0]
        over_t = np.where(rows_feasible, filled / temperature, 0.0)
        leading = np.where(feasible, big_a - _logsumexp(over_t), 1.0)
        weighted = np.where(rows_feasible, softmax(over_t, axis=-1) * filled_slope, 0.0)
        leading_slope = np.where(feasible, 1 - weighted.sum(axis=-1) / temperature, 0.0)
        value = np.where(corrected[rows], leading, _logsumexp(z))
        return value, np.where(corrected[rows], leading_slope, np.sum(softmax(z, axis=-1) * slope, axis=-1))

    low = np.full(n, -np.log(classes) / temperature - 1e-9)
    high = np.full(n, np.log(classes) + 1e-9)
    big_a = _newton_in_bracket(
        value_and_slope, low, high, lambda x, _: 1e-10 / max(1.0, temperature) * np.maximum(1.0, np.abs(x))
    )
    z, slope = logits_given(big_a, slice(None))
    z = np.where(corrected[:, None], with_true_from_sum(z, slope, slice(None))[0], z)
    return z - z.mean(axis=-1, keepdims=True)


def _logsumexp(z: np.ndarray) -> np.ndarray:
    """Over the last axis; scipy's, which also knows complex numbers and weights, takes five times as long."""
    top = z.max(axis=-1)
    return top + np.log(np.exp(z - top[:, None]).sum(axis=-1))


def _without_true(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.where(np.arange(p.shape[-1]) == labels[:, None], -np.inf, p)


def _leads(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if logits.ndim == 1:
        return labels * logits > 0
    true = np.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return true > _without_true(logits, labels).max(axis=-1)
