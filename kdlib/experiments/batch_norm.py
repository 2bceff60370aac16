"""How far the kernel of a network in inference mode is from what training with batch statistics does.

With batch normalisation a network is two functions: in inference mode, with fixed statistics, each output depends on
its own image; in training mode on the whole batch. The kernels of this book are those of inference mode. A step of
gradient descent follows the gradient of the *training* function; so even the smallest step moves the inference outputs
otherwise than their kernel says, and the difference does not vanish with the step, as it does without normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdlib.tools.arrays import class_labels, real_array
from kdlib.training.networks import Network
from kdlib.training.step import apply_training


@dataclass(frozen=True)
class StepAgainstKernel:
    """One step of gradient descent, and what the inference-mode kernel predicts of it. Made by `step_against_kernel`.

    Attributes
    ----------
    rates
        `(k,)` learning rates of the step.
    error
        `(k,)` norm of (change of the outputs less its prediction) over the norm of the change; statistics held fixed.
    with_statistics
        `(k,)` the same where the step also moves the running statistics, as training does.
    cosine
        `(k,)` of the angle between change and prediction, statistics held fixed.
    """

    rates: np.ndarray
    error: np.ndarray
    with_statistics: np.ndarray
    cosine: np.ndarray


def step_against_kernel(
    network: Network, variables: Any, images, labels, others, *, rates: Sequence[float]
) -> StepAgainstKernel:
    """The change of the outputs on other images by one step on a batch, against `-rate K(others, batch) gradient`.

    Computed in float64. `K` is the NTK of inference mode, applied without being formed: a vector-Jacobian product on
    the batch, then a Jacobian-vector product on the others.

    Parameters
    ----------
    network, variables
        with `batch_stats`, or without: then the error vanishes with the rate.
    images, labels
        the batch, `(n, ...)` and integers `(n,)`, whose mean cross-entropy the step descends.
    others
        `(m, ...)` images on which the outputs are looked at.
    rates
        of the step, each by itself.
    """
    images, others = real_array("images", images), real_array("others", others)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
    labels = class_labels(labels, len(images), jax.eval_shape(network.apply, variables, images).shape[1])
    start, predicted, slope, moved = _first_order(network, variables, images, labels, others)
    errors, with_statistics, cosines = [], [], []
    for rate in np.asarray(rates, float):
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, variables["params"], slope)
        change = np.asarray(_outputs(network, {**variables, "params": params}, others) - start)
        expected = -rate * np.asarray(predicted)
        errors.append(np.linalg.norm(change - expected) / np.linalg.norm(change))
        cosines.append(np.sum(change * expected) / (np.linalg.norm(change) * np.linalg.norm(expected)))
        change = np.asarray(_outputs(network, {"params": params, **moved}, others) - start)
        with_statistics.append(np.linalg.norm(change - expected) / np.linalg.norm(change))
    return StepAgainstKernel(np.asarray(rates, float), *map(np.array, (errors, with_statistics, cosines)))


@partial(jax.jit, static_argnums=0)
def _outputs(network: Network, variables: Any, inputs: jax.Array) -> jax.Array:
    return network.apply(variables, inputs)


@partial(jax.jit, static_argnums=0)
def _first_order(network: Network, variables: Any, images: jax.Array, labels: jax.Array, others: jax.Array):
    """Outputs on the others; what the kernel says of their change for a rate of minus one; the training function's
    gradient; the statistics after the batch.
    """
    params, rest = variables["params"], {name: value for name, value in variables.items() if name != "params"}
    outputs = lambda p, x: network.apply({"params": p, **rest}, x)
    before, pull = jax.vjp(lambda p: outputs(p, images), params)
    gradient = (jax.nn.softmax(before) - jax.nn.one_hot(labels, before.shape[1])) / len(images)
    start, predicted = jax.jvp(lambda p: outputs(p, others), (params,), pull(gradient))

    def loss(p):
        found, after = apply_training(network, {"params": p, **rest}, images)
        return optax.softmax_cross_entropy_with_integer_labels(found, labels).mean(), after

    slope, moved = jax.grad(loss, has_aux=True)(params)
    return start, predicted, slope, moved
