"""What the student is trained on: soft labels, hard labels, and the effective logits of their mixture.

The loss of one example (Ji & Zhu 2020) is::

    l(z) = rho c_T H(s(z_t / T), s(z / T)) + (1 - rho) H(y_g, s(z)),

with `rho` the soft ratio, `T` the temperature, `z_t` the teacher's logit, `y_g` the hard label, `s` the sigmoid
(softmax for more than two classes) and `c_T` = 1 (``temperature_scaling="none"``) or T^2 (``"squared"``).
Statements E1-E4 of the book live here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, log_softmax, logsumexp, sigmoid, softmax

ROWS_AT_ONCE = 64  # in the loops of the multi-class solver
MAX_STEPS = 200  # of the safeguarded Newton iterations; bisection alone needs about 70


def effective_logits(teacher_logits, labels, *, soft_ratio, temperature=1.0, temperature_scaling="none"):
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
    float64 JAX array of the shape of `teacher_logits`. Rows of `(n, C)` are centred: they sum to zero, since the
    minimiser is unique up to a constant. Accurate to 1e-10 (relative where the logit exceeds one).

    Raises
    ------
    ValueError
        logits not finite, labels of the wrong kind, soft ratio or temperature out of range.
    """
    logits, labels = _checked(teacher_logits, labels)
    ratio, temperature, c_t = _checked_loss(soft_ratio, temperature, temperature_scaling)
    if ratio == 1.0:
        return logits if logits.ndim == 1 else logits - logits.mean(axis=-1, keepdims=True)
    # q weighs the hard label against the soft one: the stationarity condition depends on nothing else.
    log_q = np.log1p(-ratio) - np.log(ratio) + np.log(temperature) - np.log(c_t)
    if logits.ndim == 1:
        return labels * _binary_root(labels * logits, log_q, temperature)
    corrected = is_corrected(
        logits, labels, soft_ratio=soft_ratio, temperature=temperature, temperature_scaling=temperature_scaling
    )
    return _multiclass_roots(logits, labels, corrected, log_q, temperature)


def is_corrected(teacher_logits, labels, *, soft_ratio, temperature=1.0, temperature_scaling="none"):
    """Whether the effective label is the true one: the closed form E4, no root is solved for.

    Same arguments and errors as `effective_logits`; returns a boolean array `(n,)`. True for every example whose
    effective logit of the true class exceeds all others, also where the teacher was right to begin with. An exact
    tie counts as not corrected.
    """
    logits, labels = _checked(teacher_logits, labels)
    ratio, temperature, c_t = _checked_loss(soft_ratio, temperature, temperature_scaling)
    if ratio == 1.0:  # then the effective logits are the teacher's, and the softmax must not round a lead away
        return _leads(logits, labels)
    if logits.ndim == 1:
        excess = -jnp.tanh(labels * logits / (2 * temperature))
    else:
        p = softmax(logits / temperature, axis=-1)
        true = jnp.take_along_axis(p, labels[:, None], axis=-1)[:, 0]
        excess = jnp.max(_without_true(p, labels), axis=-1) - true
    return (1 - ratio) > ratio * (c_t / temperature) * excess


def label_jump(*, soft_ratio, temperature=1.0, temperature_scaling="none"):
    """Half the jump of the effective logit across a perfect teacher's decision boundary (E3).

    `z_eff(0+) = h`, `z_eff(0-) = -h`; the returned float is `h >= 0`, zero only at soft ratio one. It is the
    effective logit of a teacher that cannot tell.
    """
    return float(
        effective_logits(
            np.zeros(1),
            np.ones(1),
            soft_ratio=soft_ratio,
            temperature=temperature,
            temperature_scaling=temperature_scaling,
        )[0]
    )


def correction_threshold(*, temperature=1.0, temperature_scaling="none"):
    """The largest soft ratio that corrects every error of every teacher with finite logits (E4): T / (T + c_T)."""
    _, temperature, c_t = _checked_loss(1.0, temperature, temperature_scaling)
    return temperature / (temperature + c_t)


def distillation_loss(logits, teacher_logits, labels, *, soft_ratio, temperature=1.0, temperature_scaling="none"):
    """The distillation loss of each example, `(n,)`; the `l` of section E1.

    Shapes and errors as in `effective_logits`, with `logits` of the shape of `teacher_logits`. Accepts soft ratio zero.
    """
    logits = jnp.asarray(logits, jnp.float64)
    teacher_logits, labels = _checked(teacher_logits, labels)
    ratio, temperature, c_t = _checked_loss(soft_ratio, temperature, temperature_scaling, allow_zero=True)
    if logits.ndim == 1:
        p = sigmoid(teacher_logits / temperature)
        soft = -p * log_sigmoid(logits / temperature) - (1 - p) * log_sigmoid(-logits / temperature)
        return ratio * c_t * soft - (1 - ratio) * log_sigmoid(labels * logits)
    p = softmax(teacher_logits / temperature, axis=-1)
    soft = -jnp.sum(p * log_softmax(logits / temperature, axis=-1), axis=-1)
    hard = -jnp.take_along_axis(log_softmax(logits, axis=-1), labels[:, None], axis=-1)[:, 0]
    return ratio * c_t * soft + (1 - ratio) * hard


def loss_gradient(logits, teacher_logits, labels, *, soft_ratio, temperature=1.0, temperature_scaling="none"):
    """Derivative of each example's distillation loss with respect to its logits; the `g` of E1.

    Shapes as in `effective_logits`; the result has the shape of `logits`. Also accepts soft ratio zero. Written as
    the loss is, by plain subtraction: the reference that the solver is checked against.
    """
    logits = jnp.asarray(logits, jnp.float64)
    teacher_logits, labels = _checked(teacher_logits, labels)
    ratio, temperature, c_t = _checked_loss(soft_ratio, temperature, temperature_scaling, allow_zero=True)
    weight = ratio * c_t / temperature
    if logits.ndim == 1:
        soft = sigmoid(logits / temperature) - sigmoid(teacher_logits / temperature)
        return weight * soft + (1 - ratio) * (sigmoid(logits) - (1 + labels) / 2)
    soft = softmax(logits / temperature, axis=-1) - softmax(teacher_logits / temperature, axis=-1)
    hard = softmax(logits, axis=-1) - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return weight * soft + (1 - ratio) * hard


def _log1mexp(x):
    """log(1 - exp(-x)) for x > 0, accurate at both ends."""
    return jnp.where(x < np.log(2.0), jnp.log(-jnp.expm1(-x)), jnp.log1p(-jnp.exp(-x)))


def _newton_in_bracket(value_and_slope, low, high, tolerance):
    """Root of an increasing function in [low, high], elementwise: Newton, and bisection where Newton would leave.

    Every third step bisects where the bracket has not halved since, so the worst case is that of bisection. Stops
    after a Newton step below `tolerance` (the next one would be of the order of its square), or when the bracket
    has closed.
    """

    def step(state):
        i, low, high, x, width, _ = state
        value, slope = value_and_slope(x)
        low = jnp.where(value <= 0, x, low)
        high = jnp.where(value >= 0, x, high)
        newton = x - value / slope
        slow = (i % 3 == 2) & (high - low > 0.5 * width)
        accept = (newton >= low) & (newton <= high) & ~slow
        new = jnp.where(accept, newton, 0.5 * low + 0.5 * high)
        width = jnp.where(i % 3 == 2, high - low, width)
        scale = jnp.maximum(1.0, jnp.abs(new))
        done = (accept & (jnp.abs(new - x) <= tolerance * scale)) | (high - low <= 1e-16 * scale)
        return i + 1, low, high, new, width, jnp.all(done)

    state = (0, low, high, 0.5 * low + 0.5 * high, high - low, jnp.asarray(False))
    return jax.lax.while_loop(lambda s: (s[0] < MAX_STEPS) & ~s[5], step, state)[3]


@jax.jit
def _binary_root(a, log_q, temperature):
    """Effective logit `u` of teacher logits `a`, both signed so that the true label is +1.

    Stationarity reads s(u/T) - s(a/T) = q s(-u). Since s(b) - s(a) = s(b) s(-a) (1 - e^{-(b-a)}) exactly, its
    logarithm has no cancellation at any size of the logits:

        log(1 - e^{-(u-a)/T}) + log s(u/T) + log s(-a/T) - log s(-u) - log q = 0,

    increasing in u. Each bracket below follows from log 1/2 <= log s(x) - min(x, 0) <= 0 (and log(1 - 1/e) > -1/2).
    """
    constant = log_sigmoid(-a / temperature) - log_q

    def value_and_slope(u):
        gap = jnp.maximum((u - a) / temperature, np.finfo(float).tiny)
        value = _log1mexp(gap) + log_sigmoid(u / temperature) - log_sigmoid(-u) + constant
        slope = 1 / jnp.expm1(gap) / temperature + sigmoid(-u / temperature) / temperature + sigmoid(u)
        return value, slope

    right = a >= 0
    scaled = jnp.where(right, log_q + a / temperature, log_q)
    wrong_stays = ~right & (value_and_slope(jnp.zeros_like(a))[0] >= 0)
    low = jnp.where(right, jnp.maximum(a, scaled - 0.7), jnp.maximum(0.0, log_q - 0.7))
    high = jnp.where(right, jnp.maximum(a + temperature, scaled + 2), jnp.maximum(temperature, log_q + 2))
    low = jnp.where(wrong_stays, jnp.maximum(a, temperature * (log_q - 0.7)), low)
    high = jnp.where(wrong_stays, jnp.minimum(0.0, jnp.maximum(a + temperature, temperature * (log_q + 2))), high)
    return _newton_in_bracket(value_and_slope, low, high, tolerance=1e-13)


@jax.jit
def _multiclass_roots(teacher_logits, labels, corrected, log_q, temperature):
    """Rows in groups: a vectorised loop runs until its slowest row has converged, so that row should hold up few."""
    one = lambda row: _multiclass_root(*row, log_q, temperature)
    return jax.lax.map(one, (teacher_logits, labels, corrected), batch_size=ROWS_AT_ONCE)


def _multiclass_root(teacher_logits, label, corrected, log_q, temperature):
    """Effective logits `(C,)` of one example, centred.

    Divide the loss by rho c_T / T, write p = softmax(z_t / T), A = logsumexp(z / T), and choose the free constant
    so that logsumexp(z) = 0. Then each class j other than the true one y satisfies, on its own,

        exp(z_j / T - A) + q exp(z_j) = p_j,          for y: ... = p_y + q,

    increasing in z_j: given A, every z_j is a scalar root. What is left is one equation in A, and A lies in
    [-log(C) / T, log C]. Two forms of it are equivalent, and E4 tells which one is well conditioned: if y leads,
    take z_y from logsumexp(z) = 0 and solve logsumexp(z / T) = A; otherwise solve logsumexp(z) = 0.
    """
    classes = teacher_logits.shape[-1]
    is_true = jnp.arange(classes) == label
    log_p = log_softmax(teacher_logits / temperature)
    target = jnp.where(is_true, jnp.logaddexp(log_p, log_q), log_p)

    def logits_given(big_a):
        # log(exp(z/T - A) + q exp(z)) = target is convex and increasing in z; from the right Newton is monotone.
        def step(state):
            i, z, _ = state
            soft, hard = z / temperature - big_a, z + log_q
            share = sigmoid(soft - hard)
            new = z - (jnp.logaddexp(soft, hard) - target) / (share / temperature + 1 - share)
            return i + 1, jnp.minimum(new, z), jnp.all(z - new <= 1e-15 * jnp.maximum(1.0, jnp.abs(z)))

        start = jnp.minimum(temperature * (target + big_a), target - log_q)
        z = jax.lax.while_loop(lambda s: (s[0] < MAX_STEPS) & ~s[2], step, (0, start, jnp.asarray(False)))[1]
        share = sigmoid(z / temperature - big_a - z - log_q)
        return z, share / (share / temperature + 1 - share)

    def with_true_from_sum(z, slope):
        """z_y and its slope from logsumexp(z) = 0; z_y = -inf where the other classes alone exceed the sum."""
        others = jnp.where(is_true, -jnp.inf, z)
        rest = jnp.exp(logsumexp(others))
        z_true = jnp.where(rest < 1, jnp.log1p(-jnp.minimum(rest, 1.0)), -jnp.inf)
        return jnp.where(is_true, z_true, z), jnp.where(is_true, -(jnp.exp(others) @ slope) / (1 - rest), slope)

    def value_and_slope(big_a):
        z, slope = logits_given(big_a)
        filled, filled_slope = with_true_from_sum(z, slope)
        feasible = jnp.isfinite(filled).all()
        leading = jnp.where(feasible, big_a - logsumexp(filled / temperature), 1.0)  # infeasible: A is too large
        leading_slope = jnp.where(feasible, 1 - softmax(filled / temperature) @ filled_slope / temperature, 0.0)
        value = jnp.where(corrected, leading, logsumexp(z))
        return value, jnp.where(corrected, leading_slope, softmax(z) @ slope)

    low = jnp.asarray(-np.log(classes) / temperature - 1e-9)
    high = jnp.asarray(np.log(classes) + 1e-9)
    big_a = _newton_in_bracket(value_and_slope, low, high, tolerance=1e-10 / jnp.maximum(1.0, temperature))
    z, slope = logits_given(big_a)
    z = jnp.where(corrected, with_true_from_sum(z, slope)[0], z)
    return z - jnp.mean(z)


def _without_true(p, labels):
    return jnp.where(jnp.arange(p.shape[-1]) == labels[:, None], -jnp.inf, p)


def _leads(logits, labels):
    if logits.ndim == 1:
        return labels * logits > 0
    true = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return true > jnp.max(_without_true(logits, labels), axis=-1)


def _checked(teacher_logits, labels):
    if isinstance(teacher_logits, jax.core.Tracer) or isinstance(labels, jax.core.Tracer):
        return jnp.asarray(teacher_logits, jnp.float64), labels  # inside a compiled step: its caller has checked
    # In NumPy, so that the checks also run while JAX traces a function around fixed teacher logits and labels.
    logits, labels = np.asarray(teacher_logits, np.float64), np.asarray(labels)
    if logits.ndim not in (1, 2) or (logits.ndim == 2 and logits.shape[1] < 2):
        raise ValueError(f"teacher_logits must have shape (n,) or (n, C) with C >= 2, not {logits.shape}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must have shape {logits.shape[:1]}, one per row of teacher_logits, not {labels.shape}"
        )
    if not np.isfinite(logits).all():
        row = np.argmin(np.isfinite(logits).reshape(len(logits), -1).all(axis=1))
        raise ValueError(f"teacher_logits must be finite; row {row} is {logits[row]}")
    if logits.ndim == 1:
        if not (np.abs(labels) == 1).all():
            raise ValueError("labels of a binary teacher must be -1 or 1; map {0, 1} by 2 * y - 1")
        return jnp.asarray(logits), jnp.asarray(labels, jnp.float64)
    if not np.issubdtype(labels.dtype, np.integer) or ((labels < 0) | (labels >= logits.shape[1])).any():
        raise ValueError(f"labels must be integers in 0..{logits.shape[1] - 1}, the columns of teacher_logits")
    return jnp.asarray(logits), jnp.asarray(labels)


def _checked_loss(soft_ratio, temperature, temperature_scaling, allow_zero=False):
    ratio, temperature = float(soft_ratio), float(temperature)
    if not (0 < ratio <= 1 or (allow_zero and ratio == 0)):
        raise ValueError(
            f"soft_ratio must be in (0, 1], not {ratio}: without a soft label the loss has no minimiser (E1)"
        )
    if not (temperature > 0 and np.isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
    if temperature_scaling not in ("none", "squared"):
        raise ValueError(f'temperature_scaling must be "none" or "squared", not {temperature_scaling!r}')
    return ratio, temperature, 1.0 if temperature_scaling == "none" else temperature**2
