"""Finite students of growing width in NTK parametrisation, and what C2 compares them by. All in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdlib.kernels.finite.gram import empirical_ntk
from kdlib.labels.loss import DistillationLoss
from kdlib.tools.arrays import integer, logits_and_labels, real_array
from kdlib.training.loop import train
from kdlib.training.ntk_parametrised import Architecture, NTKParametrised
from kdlib.training.recipe import Recipe
from kdlib.training.teacher import CachedLogits


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
    architecture: Architecture, inputs: Any, held_out: Any, teacher_logits: Any, labels: Any, *, loss: DistillationLoss,
    width: int, seed: int, steps: int = 1000, momentum: float = 0.95, remove_initial: bool = True,
    output_scale: float = 1.0, kernel_inputs: int | None = None,
) -> WideStudent:  # fmt: skip
    """Train a finite binary student on the distillation loss by full-batch gradient descent (C2).

    Nesterov's momentum shortens the way; in the linear regime it does not change where it leads, because every step
    stays in the span of the features. The learning rate is one over the largest curvature at initialisation.

    Parameters
    ----------
    architecture
        `kdlib.kernels.FullyConnected` or `Convolutional`.
    inputs, held_out
        `(n, ...)` and `(m, ...)`, as the architecture takes them.
    teacher_logits, labels, loss
        `(n,)`, `(n,)` in {-1, 1}, and what is descended.
    width, seed
        of the network; the seed draws its weights.
    steps, momentum
        of the training.
    remove_initial
        subtract the network's random output at initialisation, `f_0`, so that the student starts from zero.
    output_scale
        as in `kdlib.training.NTKParametrised`.
    kernel_inputs
        compute the empirical kernels, on the training inputs and this many held-out ones; None: do not.
    """
    x, x_held = np.asarray(inputs, np.float64), np.asarray(held_out, np.float64)
    teacher, signs = logits_and_labels(real_array("teacher_logits", teacher_logits, ndim=1), labels)
    seed = integer("seed", seed, least=0)
    if kernel_inputs is not None:
        kernel_inputs = integer("kernel_inputs", kernel_inputs, least=0, most=len(x_held))
    steps, network = integer("steps", steps, least=1), NTKParametrised(architecture, width, output_scale)
    initial = network.init(jax.random.key(seed), x[:1])
    curvature = float(_largest_eigenvalue(network, initial, jnp.asarray(x))) * loss.largest_curvature
    recipe = Recipe(
        epochs=steps, batch_size=len(x), learning_rate=len(x) / curvature, schedule="constant", weight_decay=0.0,
        momentum=momentum, loss=loss, remove_initial=remove_initial, precision="float64", seed=seed,
    )  # fmt: skip
    trained = train(network, recipe, x, signs, teacher=CachedLogits.in_order(teacher))
    outputs = trained.logits(x)
    kernels: list[np.ndarray | None] = [None, None]
    if kernel_inputs is not None:
        both = np.concatenate([x, x_held[:kernel_inputs]])
        kernels = [
            empirical_ntk(network, v, both, outputs="sum", progress=False) for v in (initial, trained.variables())
        ]
    return WideStudent(
        outputs=outputs,
        held_out=trained.logits(x_held),
        initial_kernel=kernels[0],
        final_kernel=kernels[1],
        gradient_norm=float(np.linalg.norm(loss.gradient(outputs, teacher, signs))),
        parameters=sum(w.size for w in jax.tree.leaves(initial)),
    )


@partial(jax.jit, static_argnums=0)
def _largest_eigenvalue(network: NTKParametrised, variables: Any, x: jax.Array) -> jax.Array:
    """Of the kernel, by power iteration without the kernel; ten percent added."""
    outputs = lambda variables: network.apply(variables, x)
    pull = jax.vjp(outputs, variables)[1]

    def step(_, v):
        product = jax.jvp(outputs, (variables,), pull(v))[1]
        return product / jnp.linalg.norm(product)

    v = jax.lax.fori_loop(0, 30, step, jnp.ones(len(x)) / jnp.sqrt(len(x)))
    return 1.1 * jnp.linalg.norm(jax.jvp(outputs, (variables,), pull(v))[1])
