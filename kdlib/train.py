"""Training of finite networks: for now, a binary teacher by logistic loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax


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
