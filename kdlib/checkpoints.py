"""Variables and states of networks as files: MessagePack, written whole or not at all; nothing is unpickled."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization


def save_variables(path, variables):
    """Write variables as MessagePack; the file appears whole or not at all."""
    write(Path(path), serialization.to_bytes(variables))


def read_variables(network, path, shape):
    """Variables of `network` for images of `shape` `(1, height, width, channels)`. Nothing is unpickled."""
    template = _template(network, tuple(shape))
    try:
        found = serialization.from_bytes(template, Path(path).read_bytes())
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} does not hold the variables of {network}: {error}") from None
    for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(template), strict=True):
        if np.shape(have) != want.shape:
            raise ValueError(f"{path} does not fit {network}: an array is {np.shape(have)}, not {want.shape}")
    return jax.tree.map(jnp.asarray, found)


@lru_cache(maxsize=16)
def _template(network, shape):
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def write(path, content):
    """Atomically, and on the disk before the name changes: neither a kill nor a power cut leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    with open(partial, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
