"""The NTK of a finite network without its Gram: products, diagonal, trace and rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from kdlib.kernels.finite.features import squared_norms
from kdlib.kernels.finite.prepared import FEATURE_BYTES, Engine, Network, Options, checked_inputs, engine_of, padded
from kdlib.tools.arrays import integer, real_array


class LinearOperator(Protocol):
    """A symmetric matrix by its products, as far as `certified_supervision_complexity` makes use of one."""

    dtype: np.dtype

    def __call__(self, v: Any, /) -> np.ndarray:
        """The product with a vector."""
        ...

    @property
    def trace(self) -> float:
        """The sum of its diagonal."""
        ...

    def rows(self, examples: Sequence[int], /) -> np.ndarray:
        """Those of some examples."""
        ...


class NTKOperator(LinearOperator):
    """`v -> K v = J (J^T v)` of a network on fixed inputs. Made by `ntk_operator`.

    Attributes
    ----------
    examples, outputs
        `n` and `C`; vectors have `n C` entries, ordered like `targets.ravel()`.
    dtype
        of the network's computation. Products are returned in float64, good to the rounding of this.
    products
        how many there have been.
    """

    def __init__(self, engine: Engine, x: np.ndarray, batch: int, progress: bool) -> None:
        self._engine, self._progress = engine, progress
        self.examples, self.outputs, self.dtype = len(x), engine.outputs, engine.dtype
        self.products, self._batch = 0, batch
        self._batches = [engine.place(padded(x[i : i + batch], batch), sharded=True) for i in range(0, len(x), batch)]

        def forward(leaves: Any, inputs: Any) -> jax.Array:
            outputs = jax.vmap(engine.plan.per_example, in_axes=(None, None, 0))(leaves, engine.fixed, inputs)
            return outputs.reshape(batch, -1)

        def pull(leaves: Any, inputs: Any, cotangents: Any) -> Any:
            return jax.vjp(lambda leaves: forward(leaves, inputs), leaves)[1](cotangents)[0]

        def push(leaves: Any, inputs: Any, tangents: Any) -> jax.Array:
            return jax.jvp(lambda leaves: forward(leaves, inputs), (leaves,), (tangents,))[1]

        def push_by_transposition(leaves: Any, inputs: Any, tangents: Any) -> jax.Array:
            cotangents = jax.ShapeDtypeStruct((batch, self.outputs), self.dtype)
            transposed = jax.linear_transpose(lambda c: pull(leaves, inputs, c), cotangents)
            return transposed(tangents)[0]

        self._pull, self._push = jax.jit(pull), jax.jit(push)
        self._push_by_transposition = jax.jit(push_by_transposition)
        self._add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    @property
    def shape(self) -> tuple[int, int]:
        """`(n C, n C)`."""
        return self.examples * self.outputs, self.examples * self.outputs

    def __call__(self, v: Any, /) -> np.ndarray:
        """`K v`, float64, of the shape of `v`: `(n C,)` or `(n, C)`."""
        v = np.asarray(v)
        real_array("v", v)
        if v.shape not in ((self.shape[0],), (self.examples, self.outputs)):
            raise ValueError(f"v must have shape ({self.shape[0]},) or {(self.examples, self.outputs)}, not {v.shape}")
        scale = np.abs(v).max() or 1.0  # so that float32 neither overflows nor underflows
        blocks = (v.reshape(self.examples, self.outputs) / scale).astype(self.dtype)
        total, leaves = None, self._engine.leaves
        with jax.default_matmul_precision(self._engine.precision):
            for k, inputs in enumerate(self._batches):
                part = self._pull(leaves, inputs, self._rows(blocks, k))
                total = part if total is None else self._add(total, part)
            try:
                pushed = [np.asarray(self._push(leaves, inputs, total)) for inputs in self._batches]
            except TypeError:  # a layer with a derivative of its own (jax.custom_vjp) has no forward mode
                self._push = self._push_by_transposition
                pushed = [np.asarray(self._push(leaves, inputs, total)) for inputs in self._batches]
        self.products += 1
        return (np.concatenate(pushed)[: self.examples].astype(np.float64) * scale).reshape(v.shape)

    def _rows(self, blocks: np.ndarray, k: int) -> jax.Array:
        """Rows of batch `k`; those that only pad the last batch are zero."""
        rows = blocks[k * self._batch : (k + 1) * self._batch]
        padding = np.zeros((self._batch - len(rows), self.outputs), rows.dtype)
        return self._engine.place(np.concatenate([rows, padding]), sharded=True)

    @cached_property
    def diagonal(self) -> np.ndarray:
        """`K[ic, ic]`, `(n, C)`, exactly: the squared norms of the gradients."""
        norms = []
        for inputs in self._parts("diagonal"):
            features = self._engine.features(inputs, sharded=False)
            with jax.default_matmul_precision(self._engine.precision):
                norms.append(np.asarray(squared_norms(features), np.float64))
        return np.concatenate(norms)[: self.examples]

    @property
    def trace(self) -> float:
        """`tr K`, by exact squared gradients, summed in float64."""
        return float(self.diagonal.sum())

    def rows(self, examples: Sequence[int], /) -> np.ndarray:
        """`K[examples]`, `(len(examples) C, n C)`: all outputs of some examples against everything."""
        numbers = [integer("examples", i, least=0, most=self.examples - 1) for i in examples]
        if not numbers:
            return np.empty((0, self.shape[1]), self.dtype)
        chosen = np.stack([np.asarray(self._batches[i // self._batch][i % self._batch]) for i in numbers])
        blocks, size = [], self._size()
        for start in range(0, len(chosen), size):
            mine = self._engine.features(chosen[start : start + size], sharded=False)
            row = []
            for inputs in self._parts("rows"):
                others = self._engine.features(inputs, sharded=False)
                row.append(np.asarray(self._engine.contract(mine, others, "full")))
            blocks.append(np.concatenate(row, axis=1)[:, : self.shape[1]])
        return np.concatenate(blocks)

    def _size(self) -> int:
        """How many examples' features (with late gradients of one layer) fit `FEATURE_BYTES`."""
        memory = self._engine.plan.memory
        return max(1, min(self._batch, FEATURE_BYTES // max(1, memory.features + memory.late)))

    def _parts(self, description: str) -> Iterator[np.ndarray]:
        """The batches, in parts whose features fit `FEATURE_BYTES`."""
        size = -(-self._batch // -(-self._batch // self._size()))
        starts = [(k, i) for k in range(len(self._batches)) for i in range(0, self._batch, size)]
        for k, i in tqdm(starts, desc=description, disable=not self._progress or len(starts) < 12):
            yield np.asarray(self._batches[k])[i : i + size]


def ntk_operator(
    network: Network, params: Any, x: Any, *, batch: int = 256, dtype: Any = None, precision: str = "highest",
    mesh: Mesh | None = None, progress: bool = True,
) -> NTKOperator:  # fmt: skip
    """Products with the NTK of a finite network, for inputs whose Gram is too large to form.

    Parameters
    ----------
    network, params, dtype, precision, mesh
        as in `empirical_ntk`; with a mesh the products spread every batch over its devices.
    x
        inputs `(n, ...)`.
    batch
        examples at a time in a product: its memory is that of one training step on as many, and of all inputs.
    progress
        show progress bars of rows and diagonal.

    Returns
    -------
    `NTKOperator`, which `certified_supervision_complexity` takes.
    """
    x = checked_inputs("x", x)
    batch = min(integer("batch", batch, least=1), len(x))
    engine = engine_of(network, params, x, Options(dtype=dtype, precision=precision, mesh=mesh))
    if mesh is not None:
        batch = -(-batch // mesh.size) * mesh.size
    return NTKOperator(engine, x, batch, progress)
