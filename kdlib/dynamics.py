"""How the linearised student gets to its limit."""

from __future__ import annotations

import jax
import numpy as np
from scipy.integrate import solve_ivp

from kdlib.labels import loss_gradient


def distillation_flow(features, initial_output, teacher_logits, labels, times, *, start=None, tolerance=1e-11, **loss):
    """Gradient flow of the linearised student on the summed distillation loss, integrated in weight space (C1).

    `dw/dt = -sum_i phi(x_i) dl_i/dz(f_0(x_i) + <phi(x_i), dw>)`.

    Parameters
    ----------
    features : `phi(X)`, `(n, D)` for a scalar student, `(n, C, D)` for `C` outputs. A Cholesky factor of a Gram serves.
    initial_output : `f_0(X)`, `(n,)` or `(n, C)`.
    teacher_logits, labels, **loss : as in `kdlib.labels.loss_gradient`.
    times : increasing, from 0.
    start : `dw` at time 0, `(D,)`; zero by default, as C1 asks.
    tolerance : relative, of the integrator (scipy's LSODA, which copes with stiff spectra).

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
    solution = solve_ivp(velocity, span, start, "LSODA", times, rtol=tolerance, atol=tolerance * 1e-2)
    if not solution.success:
        raise RuntimeError(f"the flow could not be integrated to time {times[-1]}: {solution.message}")
    return solution.y.T
