"""Variables of networks as files: MessagePack, written whole or not at all; nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from msgpack.exceptions import UnpackException

from kdlib.tools.files import sealed, unsealed, write_whole
from kdlib.training.networks import Network

# What MessagePack and flax say of bytes that are not theirs
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, MemoryError, UnpackException)


class SavedCheckpoints(Mapping[int, Any]):
    """`{step: variables}` of a training, each read from `folder/STEP.msgpack` when it is asked for.

    `shape` is that of one input with the axis of examples, `(1, height, width, channels)`.
    """

    def __init__(self, network: Network, folder: Path, steps: tuple[int, ...], shape: tuple[int, ...]):
        self.network, self.folder, self.steps, self.shape = network, Path(folder), steps, shape

    def __getitem__(self, step: int) -> Any:
        if step not in self.steps:
            raise KeyError(step)
        return read_variables(self.network, self.path(step), self.shape)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def path(self, step: int) -> Path:
        """Of the file."""
        return self.folder / f"{step}.msgpack"

    def save(self, step: int, variables: Any) -> None:
        """Write a checkpoint's file."""
        save_variables(self.path(step), variables)


def save_variables(path: str | Path, variables: Any) -> None:
    """Write variables as MessagePack; the file appears whole or not at all."""
    write_whole(path, sealed(serialization.to_bytes(variables)))


def read_variables(network: Network, path: str | Path, shape: tuple[int, ...]) -> Any:
    """Variables of `network` for images of `shape` `(1, height, width, channels)`. Nothing is unpickled."""
    template = _template(network, tuple(shape))
    try:
        variables = serialization.from_bytes(template, unsealed(path, Path(path).read_bytes()))
    except DAMAGE as error:
        raise ValueError(f"{path} does not hold the variables of {network}: {error}") from None
    for have, want in zip(jax.tree.leaves(variables), jax.tree.leaves(template), strict=True):
        if np.shape(have) != want.shape:
            raise ValueError(f"{path} does not fit {network}: an array is {np.shape(have)}, not {want.shape}")
    return jax.tree.map(jnp.asarray, variables)


@lru_cache(maxsize=16)
def _template(network: Network, shape: tuple[int, ...]) -> Any:
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
