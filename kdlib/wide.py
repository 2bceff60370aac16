"""Finite students of growing width in NTK parametrisation, and what C2 compares them by.

In float64: neural-tangents' layers scale their weights by double-precision constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from kdlib.labels import distillation_loss, loss_gradient


@dataclass(frozen=True)
class WideStudent:
    """A student before and after full-batch training. Made by `train_wide`.

    Attributes
    ----------
    outputs
        `(n,)` on the training inputs at the end, less `f_0` where that was removed.
    held_out
        `(m,)` on the held-out inputs, likewise.
    initial_kernel, final_kernel
        the empirical NTK on the training inputs and the first few held-out ones, before and after; None if not
        asked for.
    gradient_norm
        Euclidean norm of the loss's gradient with respect to the outputs at the end: zero at convergence.
    parameters
        number of weights.
    """

    outputs: np.ndarray
    held_out: np.ndarray
    initial_kernel: np.ndarray | None
    final_kernel: np.ndarray | None
    gradient_norm: float
    parameters: int


def train_wide(
    architecture, inputs, held_out, teacher_logits, labels, *, width, seed, steps=1000, momentum=0.95,
    remove_initial=True, output_scale=1.0, kernel_inputs=None, **loss,
):  # fmt: skip
    """Train a finite binary student on the summed distillation loss by full-batch gradient descent (C2).

    Nesterov's momentum shortens the way; in the linear regime it does not change where it leads, because every step
    stays in the span of the features. The learning rate is one over the largest curvature at initialisation.

    Parameters
    ----------
    architecture
        `kdlib.kernels.FullyConnected` or `Convolutional`.
    inputs, held_out
        `(n, ...)` and `(m, ...)`, as the architecture takes them.
    teacher_logits, labels, **loss
        `(n,)`, `(n,)` in {-1, 1}, and the loss, as in `kdlib.labels.distillation_loss`.
    width, seed
        of the network; the seed draws its weights.
    steps, momentum
        of the training.
    remove_initial
        subtract the network's random output at initialisation, `f_0`, so that the student starts from zero.
    output_scale
        multiplies the output. The theory has one; a scale that falls with the width like `width^{-1/2}` leaves the
        linear regime (the kernels are those of the scaled output).
    kernel_inputs
        compute the empirical kernels, on the training inputs and this many held-out ones; None: do not.

    Returns
    -------
    `WideStudent`.
    """
    x, x_held = jnp.asarray(inputs, jnp.float64), jnp.asarray(held_out, jnp.float64)
    both, n = jnp.concatenate([x, x_held]), len(x)
    teacher, signs = jnp.asarray(teacher_logits, jnp.float64), jnp.asarray(labels, jnp.float64)
    distillation_loss(np.zeros(n), teacher, signs, **loss)  # refuses what it cannot use, before any work
    initialise, output, descend, kernel, largest = _compiled(architecture, width, steps, momentum, tuple(loss.items()))
    _, weights = initialise(jax.random.key(seed), (-1, *x.shape[1:]))
    weights = jax.tree.map(lambda w: w.astype(jnp.float64), weights)
    seen = None if kernel_inputs is None else both[: n + kernel_inputs]
    initial = None if seen is None else kernel(weights, seen, output_scale)
    start = output(weights, both, output_scale) if remove_initial else jnp.zeros(len(both))
    curvature = largest(weights, x, output_scale) * _largest_curvature(**loss)
    trained = descend(weights, x, start[:n], teacher, signs, output_scale, curvature)
    outputs = np.asarray(output(trained, both, output_scale) - start)
    return WideStudent(
        outputs=outputs[:n],
        held_out=outputs[n:],
        initial_kernel=None if seen is None else np.asarray(initial),
        final_kernel=None if seen is None else np.asarray(kernel(trained, seen, output_scale)),
        gradient_norm=float(np.linalg.norm(loss_gradient(outputs[:n], teacher, signs, **loss))),
        parameters=sum(w.size for w in jax.tree.leaves(weights)),
    )


@lru_cache(maxsize=16)
def _compiled(architecture, width, steps, momentum, loss):
    """What `train_wide` runs, compiled once for all seeds: initialise, output, descend, kernel, largest eigenvalue."""
    initialise, apply, _ = architecture.layers(width=width)
    output = jax.jit(lambda w, a, scale: scale * apply(w, a)[:, 0])

    @jax.jit
    def descend(weights, x, start, teacher, labels, scale, curvature):
        def loss_of(w):
            return distillation_loss(output(w, x, scale) - start, teacher, labels, **dict(loss)).sum()

        def step(_, state):
            w, velocity = state
            gradient = jax.grad(loss_of)(jax.tree.map(lambda w, v: w + momentum * v, w, velocity))
            velocity = jax.tree.map(lambda v, g: momentum * v - g / curvature, velocity, gradient)
            return jax.tree.map(jnp.add, w, velocity), velocity

        return jax.lax.fori_loop(0, steps, step, (weights, jax.tree.map(jnp.zeros_like, weights)))[0]

    @jax.jit
    def kernel(weights, x, scale):
        """Empirical NTK of the scalar output, `(len(x), len(x))`, from the Jacobian of each weight array in turn."""
        jacobian = jax.jacrev(output)(weights, x, scale)
        rows = [part.reshape(len(x), -1) for part in jax.tree.leaves(jacobian)]
        return sum(part @ part.T for part in rows)

    @jax.jit
    def largest(weights, x, scale):
        """The largest eigenvalue of the kernel, by power iteration without the kernel; ten percent added."""
        of_weights = lambda w: output(w, x, scale)
        pull = jax.vjp(of_weights, weights)[1]

        def step(_, v):
            product = jax.jvp(of_weights, (weights,), pull(v))[1]
            return product / jnp.linalg.norm(product)

        v = jax.lax.fori_loop(0, 30, step, jnp.ones(len(x)) / jnp.sqrt(len(x)))
        return 1.1 * jnp.linalg.norm(jax.jvp(of_weights, (weights,), pull(v))[1])

    return initialise, output, descend, kernel, largest


def _largest_curvature(*, soft_ratio, temperature=1.0, temperature_scaling="none"):
    """An upper bound on the second derivative of one example's binary loss: each cross-entropy has at most 1/4."""
    c_t = temperature**2 if temperature_scaling == "squared" else 1.0
    return 0.25 * (soft_ratio * c_t / temperature**2 + 1 - soft_ratio)
