"""A step of training, by JAX: one compiled call. The loop asks an engine for it; PyTorch's is in `pytorch_step`."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdlib.training.networks import Network
from kdlib.training.recipe import Recipe


class Engine(Protocol):
    """Takes steps of one training, from the variables and moments that it was given last.

    Attributes
    ----------
    variables
        of the network, in flax's form, after the steps taken.
    moments
        of the optimiser, a tree of the engine's own form.
    chunk
        steps that it likes to take in one call.
    """

    chunk: int

    @property
    def variables(self) -> Any: ...

    @property
    def moments(self) -> Any: ...

    def restore(self, variables: Any, moments: Any) -> None:
        """Go on from these."""
        ...

    def steps(self, rows: np.ndarray, number: int, rates: np.ndarray, teacher: Any) -> Any:
        """Steps on rows `(k, batch)` of the inputs, `k` one or `chunk`; the loss before each, `(k,)`.

        `number` is the first step's and tells the augmentation, `rates` `(k,)` are the learning rates, `teacher` is
        what `Supervision.at` gives.
        """
        ...


class JaxEngine:
    """An `Engine` whose steps are one compiled call. `offset` `(n, ...)` is subtracted from the outputs.

    On a GPU small networks wait for Python between two steps: many in one call do not. On a CPU XLA's convolutions are
    slow inside a loop, and a step takes long enough.
    """

    chunk = 1 if jax.default_backend() == "cpu" else 32

    def __init__(
        self, network: Network, recipe: Recipe, variables: Any, inputs: np.ndarray, labels: np.ndarray,
        teacher_network: Network | None, offset: Any = None,
    ):  # fmt: skip
        self._step, self._many, optimiser = compiled_step(network, recipe, teacher_network)
        self.variables, self.moments = variables, optimiser.init(variables["params"])
        self._data, self._offset = (jnp.asarray(inputs), jnp.asarray(labels)), offset
        self._key = jax.random.key(recipe.seed + 1)

    def restore(self, variables: Any, moments: Any) -> None:
        self.variables, self.moments = variables, moments

    def steps(self, rows: np.ndarray, number: int, rates: np.ndarray, teacher: Any) -> list[jax.Array] | jax.Array:
        one = len(rows) == 1
        take, batch, rate = (self._step, rows[0], float(rates[0])) if one else (self._many, rows, rates)
        self.variables, self.moments, loss = take(
            self.variables, self.moments, batch, self._key, np.uint32(number), rate, *self._data, teacher, self._offset
        )
        return [loss] if one else loss


def compiled_step(network: Network, recipe: Recipe, teacher_network: Network | None = None):
    """`(step, many, optimiser)`, compiled once for all data of one shape, seeds, learning rates and numbers of epochs.

    `step(variables, moments, rows, key, number, rate, inputs, labels, teacher, offset) -> (variables, moments, loss)`;
    `many` takes `(k, batch)` rows and `(k,)` rates, and `number` is that of the first.
    """
    return _compiled_step(network, replace(recipe, epochs=1, batch_size=1, learning_rate=1.0, seed=0), teacher_network)


@lru_cache(maxsize=32)
def _compiled_step(network: Any, recipe: Recipe, teacher_network: Any):
    direction = (
        optax.scale_by_adam() if recipe.optimiser == "adam" else optax.trace(decay=recipe.momentum, nesterov=True)
    )
    decay = [optax.add_decayed_weights(recipe.weight_decay)] if recipe.weight_decay else []
    optimiser = optax.chain(*decay, direction)
    if recipe.precision == "bfloat16":
        network = network.clone(dtype=jnp.bfloat16)
    dtype = jnp.float64 if recipe.precision == "float64" else jnp.float32

    def loss_of(params, rest, inputs, labels, teacher_logits, offset):
        outputs, rest = apply_training(network, {"params": params, **rest}, inputs)
        outputs = outputs.astype(dtype)
        if offset is not None:
            outputs = outputs - offset
        if teacher_logits is not None and recipe.loss is not None:
            losses = recipe.loss.values(outputs, teacher_logits, labels)
        elif outputs.ndim == 1:
            losses = -jax.nn.log_sigmoid(labels * outputs)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        return losses.mean().astype(dtype), rest

    @jax.jit
    def step_once(variables, moments, rows, key, number, rate, inputs, labels, teacher, offset):
        batch = batch_of(recipe.augment, inputs, rows, key, number)
        logits = None
        if teacher_network is not None:
            logits = jax.lax.stop_gradient(teacher_network.apply(teacher, batch))
        elif teacher is not None:
            logits = teacher[rows]
        params, rest = variables["params"], {name: value for name, value in variables.items() if name != "params"}
        removed = None if offset is None else offset[rows]
        (loss, rest), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            params, rest, batch, labels[rows], logits, removed
        )
        updates, moments = optimiser.update(gradient, moments, params)
        updates = jax.tree.map(lambda update: jnp.asarray(-rate, update.dtype) * update, updates)
        return {"params": optax.apply_updates(params, updates), **rest}, moments, loss

    @jax.jit
    def many(variables, moments, rows, key, number, rates, inputs, labels, teacher, offset):
        def body(carried, now):
            batch, k, rate = now
            variables, moments, loss = step_once(*carried, batch, key, k, rate, inputs, labels, teacher, offset)
            return (variables, moments), loss

        numbers = number + jnp.arange(len(rows), dtype=jnp.uint32)
        (variables, moments), losses = jax.lax.scan(body, (variables, moments), (rows, numbers, rates))
        return variables, moments, losses

    return step_once, many, optimiser


@partial(jax.jit, static_argnums=0)
def batch_of(augment: str, inputs: jax.Array, rows: Any, key: jax.Array, number: Any) -> jax.Array:
    """The inputs of a step, augmented as `Recipe.augment` says; the same for every engine."""
    batch = inputs[rows]
    return augmented(batch, jax.random.fold_in(key, number)) if augment == "crop-flip" else batch


def apply_training(network: Any, variables: Any, inputs: Any) -> tuple[Any, dict[str, Any]]:
    """Outputs in training mode, and what of the variables is not trained, after the batch."""
    if "batch_stats" not in variables:
        return network.apply(variables, inputs), {}
    outputs, changed = network.apply(variables, inputs, training=True, mutable=["batch_stats"])
    return outputs, jax.tree.map(
        lambda new, old: new.astype(old.dtype), dict(changed), {"batch_stats": variables["batch_stats"]}
    )


def augmented(images: jax.Array, key: jax.Array, shift: int = 4) -> jax.Array:
    """Each image shifted by up to `shift` pixels (what leaves the frame is lost, zeros come in), every other
    mirrored.
    """
    n, height, width, channels = images.shape
    for_shift, for_mirror = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    corners = jax.random.randint(for_shift, (n, 2), 0, 2 * shift + 1)
    cut = lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))
    moved = jax.vmap(cut)(padded, corners)
    mirrored = jax.random.bernoulli(for_mirror, 0.5, (n, 1, 1, 1))
    return jnp.where(mirrored, moved[:, :, ::-1], moved)
