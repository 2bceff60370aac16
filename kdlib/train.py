"""Training of finite networks: classifiers, distilled or not, and wide binary ones in NTK parametrisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from kdlib.labels import distillation_loss


@dataclass(frozen=True)
class TrainedNetwork:
    """A network and the parameters that were kept along its training.

    Attributes
    ----------
    network
        the flax module.
    checkpoints
        `{step: parameters}`, in the order of the steps; the last one is the end of the training.
    losses
        `(steps,)`, the mean loss of each step's batch before the step.
    """

    network: object
    checkpoints: dict[int, dict]
    losses: np.ndarray

    @property
    def steps(self):
        """The steps that were kept, ascending."""
        return tuple(self.checkpoints)

    def logits(self, images, *, step=None, block=2000):
        """Logits `(n, outputs)` in float64 after `step` steps (one of `steps`; None: at the end)."""
        step = self.steps[-1] if step is None else step
        if step not in self.checkpoints:
            raise ValueError(f"no checkpoint of step {step}: kept were {', '.join(map(str, self.steps))}")
        forward, parameters = _forward(self.network), self.checkpoints[step]
        blocks = [images[i : i + block] for i in range(0, len(images), block)]
        return np.concatenate(
            [np.asarray(forward(parameters, jnp.asarray(x, jnp.float32)), np.float64) for x in blocks]
        )


def train_network(
    network, images, labels, *, epochs, teacher_logits=None, soft_ratio=None, temperature=1.0,
    temperature_scaling="none", batch_size=64, learning_rate=2e-3, seed=0, keep=(), progress=False,
):  # fmt: skip
    """Train on labels, or distil a teacher, with Adam and a cosine-decayed learning rate; in float32.

    The images stay on the device, and a step is one compiled call. (Not a `lax.scan` over steps: XLA's CPU backend
    runs convolutions inside loops tens of times slower.) Deterministic for a seed on one device.

    Parameters
    ----------
    network
        a module of `kdlib.networks`, or anything with their `init` and `apply`.
    images, labels
        `(n, height, width, channels)` and integers `(n,)`.
    epochs
        passes over the images; the last, incomplete batch of each is left out. May be a fraction.
    teacher_logits, soft_ratio, temperature, temperature_scaling
        `(n, C)`, row by row for the images, and the loss, as in `kdlib.labels.distillation_loss`; without a teacher
        the loss is the labels' cross-entropy.
    batch_size, learning_rate, seed
        of the training; the seed also draws the initial weights.
    keep
        steps after which the parameters are kept (0: the initial ones), besides the last.
    progress
        show a progress bar.
    """
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    if (teacher_logits is None) != (soft_ratio is None):
        raise ValueError("distillation needs both teacher_logits and soft_ratio; training on labels neither")
    if len(labels) != len(images) or (teacher_logits is not None and len(teacher_logits) != len(images)):
        raise ValueError("images, labels and teacher_logits must have one row for each example")
    if not 1 <= batch_size <= len(images):
        raise ValueError(f"batch_size must be in 1..{len(images)}, not {batch_size}")
    per_epoch = len(images) // batch_size
    steps = max(1, round(epochs * per_epoch))
    if unkept := [step for step in keep if not 0 <= step <= steps]:
        raise ValueError(f"keep must hold steps in 0..{steps}, not {unkept}")
    convention = dict(soft_ratio=soft_ratio, temperature=temperature, temperature_scaling=temperature_scaling)
    teacher = None
    if teacher_logits is not None:
        distillation_loss(teacher_logits, teacher_logits, labels, **convention)  # refuses what it cannot use
        teacher = jnp.asarray(teacher_logits, jnp.float64)
    step_once, optimiser = _step(network, learning_rate, steps, tuple(convention.items()))
    key, order = jax.random.key(seed), np.random.default_rng(seed)
    parameters = network.init(key, images[:1])
    state, losses = optimiser.init(parameters), []
    checkpoints = {0: parameters} if 0 in keep else {}
    for step in tqdm(range(1, steps + 1), desc="training", disable=not progress):
        first = (step - 1) % per_epoch * batch_size
        if first == 0:
            rows = order.permutation(len(images))
        batch = rows[first : first + batch_size]
        parameters, state, loss = step_once(parameters, state, batch, images, labels, teacher)
        losses.append(loss)
        if step in keep or step == steps:
            checkpoints[step] = parameters
    return TrainedNetwork(network, checkpoints, np.asarray(jnp.stack(losses), np.float64))


@lru_cache(maxsize=32)
def _forward(network):
    return jax.jit(network.apply)


@lru_cache(maxsize=32)
def _step(network, learning_rate, steps, convention):
    """The compiled step and its optimiser: compiled once for all seeds and data of one shape."""
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss_of(parameters, images, labels, teacher):
        logits = network.apply(parameters, images)
        if teacher is None:
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return distillation_loss(logits, teacher, labels, **dict(convention)).mean()

    @jax.jit
    def step_once(parameters, state, rows, images, labels, teacher):
        batch = images[rows], labels[rows], None if teacher is None else teacher[rows]
        loss, gradient = jax.value_and_grad(loss_of)(parameters, *batch)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, loss

    return step_once, optimiser


def train_binary(architecture, images, signs, *, width, steps, batch_size=64, learning_rate=0.01, seed=0):
    """A finite network of `architecture` trained with Adam on the logistic loss; its logit function.

    Parameters
    ----------
    architecture
        `kdlib.kernels.FullyConnected` or `Convolutional`.
    images, signs
        `(n, ...)` and `(n,)` in {-1, 1}. Computed in float64: neural-tangents' layers scale their weights
        by double-precision constants, which turns float32 into float64 on the way.
    width, steps, batch_size, learning_rate, seed
        of the network and of its training; deterministic for a seed.

    Returns
    -------
    A function from images `(m, ...)` to float64 logits `(m,)`.
    """
    initialise, apply, _ = architecture.layers(width=width)
    flat = len(np.shape(images)) > 2 and not hasattr(architecture, "pooling")

    def as_input(x):
        x = jnp.asarray(x, jnp.float64)
        return x.reshape(len(x), -1) if flat else x

    x, y = as_input(images), jnp.asarray(signs, jnp.float64)
    key, order_key = jax.random.split(jax.random.key(seed))
    _, params = initialise(key, (-1, *x.shape[1:]))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    optimiser = optax.adam(learning_rate)

    @jax.jit
    def step(params, state, rows):
        loss = lambda p: jnp.mean(jax.nn.softplus(-y[rows] * apply(p, x[rows])[:, 0]))
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    for rows in np.asarray(jax.random.randint(order_key, (steps, batch_size), 0, len(x))):
        params, state = step(params, state, rows)
    return lambda inputs: np.asarray(apply(params, as_input(inputs))[:, 0], np.float64)
