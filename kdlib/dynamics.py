"""How the linearised student gets to its limit."""

from __future__ import annotations

import jax
import numpy as np
from scipy.integrate import solve_ivp

from kdlib.labels import distillation_loss, effective_logits, loss_gradient


def distillation_flow(features, initial_output, teacher_logits, labels, times, *, start=None, tolerance=1e-11, **loss):
    """Gradient flow of the linearised student on the summed distillation loss, integrated in weight space (C1).

    `dw/dt = -sum_i phi(x_i) dl_i/dz(f_0(x_i) + <phi(x_i), dw>)`.

    Parameters
    ----------
    features
        `phi(X)`, `(n, D)` for a scalar student, `(n, C, D)` for `C` outputs. A Cholesky factor of a Gram serves.
    initial_output
        `f_0(X)`, `(n,)` or `(n, C)`.
    teacher_logits, labels, **loss
        as in `kdlib.labels.loss_gradient`.
    times
        increasing, from 0.
    start
        `dw` at time 0, `(D,)`; zero by default, as C1 asks.
    tolerance
        relative, of the integrator (scipy's LSODA, which copes with stiff spectra).

    Returns
    -------
    `dw` at each time, `(len(times), D)`.
    """
    features, initial_output = np.asarray(features, float), np.asarray(initial_output, float)
    flat = features.reshape(-1, features.shape[-1])

    @jax.jit
    def velocity(_, weights):
        outputs = initial_output + (flat @ weights).reshape(initial_output.shape)
        return -flat.T @ loss_gradient(outputs, teacher_logits, labels, **loss).ravel()

    start = np.zeros(flat.shape[1]) if start is None else np.asarray(start, float)
    span = (times[0], times[-1])
    jacobian = jax.jit(jax.jacfwd(velocity, argnums=1))
    solution = solve_ivp(velocity, span, start, "LSODA", times, rtol=tolerance, atol=tolerance * 1e-2, jac=jacobian)
    if not solution.success:
        raise RuntimeError(f"the flow could not be integrated to time {times[-1]}: {solution.message}")
    return solution.y.T


def excess_loss(outputs, teacher_logits, labels, **loss):
    """`L(z) - L*`: the summed loss of `outputs`, `(n,)` or `(n, C)`, above its minimum at the effective logits (C1)."""
    least = distillation_loss(effective_logits(teacher_logits, labels, **loss), teacher_logits, labels, **loss)
    return float(np.sum(distillation_loss(outputs, teacher_logits, labels, **loss) - least))


def strong_convexity(outputs, teacher_logits, labels, **loss):
    """The `m` of C1 for a binary teacher: the least curvature of any example's loss on the sublevel set of `outputs`.

    On `{L <= L(outputs)}` no example's loss exceeds its minimum by more than the total excess. That bounds its logit,
    and the curvature of a cross-entropy falls as the logit moves away from zero.
    """
    allowed = excess_loss(outputs, teacher_logits, labels, **loss)
    target = np.asarray(effective_logits(teacher_logits, labels, **loss))
    least = np.asarray(distillation_loss(target, teacher_logits, labels, **loss))

    def within(z):
        return np.asarray(distillation_loss(z, teacher_logits, labels, **loss)) - least <= allowed

    reach = 0.0
    for side in (-1.0, 1.0):  # bisect for the end of each example's sublevel set, on each side of its minimum
        near, far = np.zeros_like(target), np.ones_like(target)
        while (out := within(target + side * far)).any():
            far = np.where(out, 2 * far, far)
        for _ in range(60):
            middle = (near + far) / 2
            inside = within(target + side * middle)
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        reach = max(reach, float(np.abs(target + side * far).max()))
    one = dict(teacher_logits=np.zeros(1), labels=np.ones(1), **loss)  # the curvature depends on the logit alone
    return float(jax.grad(lambda z: loss_gradient(z[None], **one)[0])(reach))
