"""The Gram of a finite network's NTK, `K[i, c, j, d] = sum_p df_c(x_i)/dp df_d(x_j)/dp`.

Dense layers need no gradients (their part of the kernel is a product of two small Grams), convolutions need those of
single filters, everything else falls back to explicit gradients (`kdlib.kernels.finite.layers`). The Gram is computed
in blocks, symmetric blocks once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from kdlib.kernels.finite.features import Array, Features, Kind
from kdlib.kernels.finite.prepared import (
    FEATURE_BYTES,
    Engine,
    Network,
    Options,
    block_size,
    checked_inputs,
    engine_of,
    padded,
    split,
)
from kdlib.tools.arrays import choice, integer, number


def empirical_ntk(
    network: Network, params: Any, x1: Any, x2: Any = None, *, outputs: Kind = "full", dtype: Any = None,
    block: int | None = None, memory: float = FEATURE_BYTES, structured: bool = True, precision: str = "highest",
    mesh: Mesh | None = None, progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """The Gram of a finite network.

    Parameters
    ----------
    network
        anything with `apply(params, inputs)`, or such a function; `inputs` `(n, ...)`, outputs `(n, C)` or `(n,)`. It
        is analysed once for all parameters of the same shapes: all that varies must be in `params`.
    params
        its parameters, a pytree of arrays; those that are not of floating-point numbers are constants. Of flax
        variables with several collections only "params" are differentiated.
    x1, x2
        inputs, of floating-point numbers or integers; `x2=None` means `x1`, and then the result is exactly symmetric.
    outputs
        "full": every pair of outputs. "sum": `sum_c K[i, c, j, c]` (not the mean, as of neural-tangents' trace_axes).
    dtype
        of parameters, inputs and result, float32 or float64; by default that of the parameters.
    block
        examples in a block; by default chosen from the size of the result and of the features. Memory beside the
        result is that of a few blocks of it, the features of two, their gradients of one layer, and `memory`; and, when
        a network is first seen, of the Jacobian of two inputs.
    memory
        bytes in which the features of all examples may be stored; where they do not fit, those of a block are computed
        whenever it is its turn.
    structured
        False: explicit gradients for all parameters, the general way; slow, and what the rest is checked against.
    precision
        of matrix products, as in `jax.default_matmul_precision`. On a GPU "highest" means no TF32.
    mesh
        a `jax.sharding.Mesh` with one axis: the rows of each block are spread over its devices.
    progress
        show a progress bar when there are more than a few blocks.

    Returns
    -------
    NumPy array `(n1, C, n2, C)` or `(n1, n2)`.

    Raises
    ------
    CrossExampleError
        the network mixes examples (batch normalisation in training mode, for one).
    ValueError
        shapes or options that do not fit, or values that are not finite.
    """
    kind: Kind = choice("outputs", outputs, get_args(Kind))
    block = None if block is None else integer("block", block, least=1)
    memory = number("memory", memory, least=0)
    symmetric = x2 is None
    x1, x2 = _same_kind(x1, x1 if x2 is None else x2)
    probe = x1[:2] if symmetric or len(x1) > 1 else np.concatenate([x1, x2[:1]])
    longest = max(len(x1), len(x2))
    size_of = lambda engine: min(block, longest) if block else block_size(engine, longest, symmetric, kind)
    engine = engine_of(network, params, probe, Options(kind, dtype, structured, precision, mesh), size_of)
    gram = _gram(_blocks_of(engine, kind, x1, None if symmetric else x2, size_of(engine), memory), progress)
    return gram if kind == "sum" else gram.reshape(len(x1), engine.outputs, len(x2), engine.outputs)


def explain(network: Network, params: Any, x: Any, *, dtype: Any = None) -> dict[str, str]:
    """How each parameter is handled, for inputs `x`, `(n, ...)`: `{path: "layer" or the reason}`."""
    structure = engine_of(network, params, checked_inputs("x", x), Options(dtype=dtype)).plan.structure
    leaves = jax.tree_util.tree_flatten_with_path(split(params)[0])[0]
    differentiated = [path for path, leaf in leaves if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)]
    return {
        jax.tree_util.keystr(path): f"explicit: {structure.reasons[i]}" if i in structure.explicit else "layer"
        for i, path in enumerate(differentiated)
    }


def _same_kind(x1: Any, x2: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both inputs, checked, as arrays of one type."""
    same = x2 is x1
    x1 = checked_inputs("x1", x1)
    x2 = x1 if same else checked_inputs("x2", x2)
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(f"x1 and x2 must hold inputs of one shape, not {x1.shape[1:]} and {x2.shape[1:]}")
    dtype = np.result_type(x1, x2)
    return x1.astype(dtype, copy=False), x2.astype(dtype, copy=False)


@dataclass(frozen=True)
class _Side:
    """The examples of a Gram's rows, or of its columns, in blocks of one size.

    Attributes
    ----------
    stored
        features by where their block starts; None if they are computed whenever they are asked for.
    """

    engine: Engine
    inputs: np.ndarray
    size: int
    stored: dict[int, Features] | None

    @property
    def starts(self) -> range:
        """Where blocks start."""
        return range(0, len(self.inputs), self.size)

    def features(self, start: int) -> Features:
        """Of the block that starts there, filled up to its size."""
        if self.stored is not None and start in self.stored:
            return self.stored[start]
        inputs = padded(self.inputs[start : start + self.size], self.size)
        features = self.engine.features(inputs, sharded=True)
        if self.stored is not None:
            self.stored[start] = features
        return features


class _Blocks(NamedTuple):
    """The blocks of a Gram; `columns` is `rows` where it is symmetric."""

    engine: Engine
    kind: Kind
    rows: _Side
    columns: _Side

    @property
    def symmetric(self) -> bool:
        return self.columns is self.rows

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where blocks start; of a symmetric Gram those on and above the diagonal."""
        return [(i, j) for i in self.rows.starts for j in self.columns.starts if not self.symmetric or j >= i]

    def computed(self) -> Iterator[tuple[tuple[int, int], Array]]:
        """`(place, block)`, row by row: the features of a row are computed once."""
        start, mine = None, None
        for i, j in self.places:
            if mine is None or start != i:
                start, mine = i, self.rows.features(i)
            yield (i, j), self._contracted(mine, i, j)

    def _contracted(self, mine: Features, i: int, j: int) -> Array:
        mesh, diagonal = self.engine.mesh, self.symmetric and i == j
        if diagonal and mesh is None:
            return self.engine.contract(mine, None, self.kind)
        other = mine if diagonal else self.columns.features(j)
        if mesh is not None:  # rows stay spread over the devices, every device has all columns
            other = jax.device_put(other, NamedSharding(mesh, PartitionSpec()))
        return self.engine.contract(mine, other, self.kind)


def _blocks_of(engine: Engine, kind: Kind, x1: np.ndarray, x2: np.ndarray | None, size: int, memory: float) -> _Blocks:
    """Blocks of `size` examples; features are stored if those of all examples fit `memory`."""
    count = len(x1) + (0 if x2 is None else len(x2))
    store = engine.plan.memory.features * count <= memory

    def side(x: np.ndarray) -> _Side:
        devices = 1 if engine.mesh is None else engine.mesh.size
        whole = -(-min(size, len(x)) // devices) * devices  # whole rows for every device
        return _Side(engine, x, whole, {} if store else None)

    rows = side(x1)
    return _Blocks(engine, kind, rows, rows if x2 is None else side(x2))


def _gram(blocks: _Blocks, progress: bool) -> np.ndarray:
    """All blocks in their places, `(n1 C, n2 C)` or `(n1, n2)`."""
    rows, columns, count = blocks.rows, blocks.columns, len(blocks.places)
    width = blocks.engine.outputs if blocks.kind == "full" else 1
    gram = np.empty((len(rows.inputs) * width, len(columns.inputs) * width), blocks.engine.dtype)
    shown = tqdm(blocks.computed(), desc="NTK blocks", total=count, disable=not progress or count < 12)
    for (i, j), values in _ahead(iter(shown)):
        a, b = slice(i * width, (i + rows.size) * width), slice(j * width, (j + columns.size) * width)
        values = values[: gram[a].shape[0], : gram[:, b].shape[1]]
        if not np.isfinite(values).all():
            raise ValueError(
                "the kernel is not finite: look at the parameters and at inputs "
                f"{i} to {i + rows.size}, {j} to {j + columns.size}"
            )
        if blocks.symmetric and i == j:  # rounding makes the two triangles differ in the last bit
            values = np.tril(values) + np.tril(values, -1).T
        elif blocks.symmetric:
            gram[b, a] = values.T
        gram[a, b] = values
    return gram


def _ahead(blocks: Iterator[tuple[tuple[int, int], Array]]) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """The same; the next block is being computed while one is put into its place."""
    place, block = next(blocks)
    for following in blocks:
        yield place, np.asarray(block)
        place, block = following
    yield place, np.asarray(block)
