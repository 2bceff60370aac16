"""The NTK of a finite network, `K[i, c, j, d] = sum_p df_c(x_i)/dp df_d(x_j)/dp`: its Gram, and products without it.

Dense layers need no gradients (their part of the kernel is a product of two small Grams), convolutions need those of
single filters, everything else falls back to explicit gradients (`kdlib.kernels.structure`). The Gram is computed in
blocks, symmetric blocks once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from kdlib.kernels.engine import FEATURE_BYTES, block_size, engine_of, padded, split


def empirical_ntk(
    network, params, x1, x2=None, *, outputs="full", dtype=None, block=None, memory=FEATURE_BYTES, structured=True,
    precision="highest", mesh=None, progress=True,
):  # fmt: skip
    """The Gram of a finite network.

    Parameters
    ----------
    network
        anything with `apply(params, inputs)`, or such a function; `inputs` `(n, ...)`, outputs `(n, C)` or `(n,)`. It is
        analysed once for all parameters of the same shapes: all that varies must be in `params`.
    params
        its parameters, a pytree of arrays; those that are not of floating-point numbers are constants. Of flax
        variables with several collections only "params" are differentiated.
    x1, x2
        inputs, of floating-point numbers or integers; `x2=None` means `x1`, and then the result is exactly symmetric.
    outputs
        "full": every pair of outputs. "sum": `sum_c K[i, c, j, c]` (not the mean that neural-tangents' trace_axes give).
    dtype
        of parameters, inputs and result, float32 or float64; by default that of the parameters.
    block
        examples in a block; by default chosen from the size of the result and of the features. Memory beside the
        result is that of a few blocks of it, the features of two, their gradients of one layer, and `memory`; and, when
        a network is first seen, of the Jacobian of two inputs.
    memory
        bytes in which the features of all examples may be kept.
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
    if outputs not in ("full", "sum"):
        raise ValueError(f'outputs must be "full" or "sum", not {outputs!r}')
    x1 = np.asarray(x1)
    symmetric = x2 is None
    x2 = x1 if symmetric else np.asarray(x2)
    if x1.shape[1:] != x2.shape[1:] or not len(x1) or not len(x2):
        raise ValueError(f"x1 and x2 must hold inputs of one shape, not {x1.shape} and {x2.shape}")
    if block is not None and block < 1:
        raise ValueError(f"block must be at least 1, not {block}")
    x1, x2 = (x.astype(np.result_type(x1, x2), copy=False) for x in (x1, x2))
    probe = x1[:2] if symmetric or len(x1) > 1 else np.concatenate([x1, x2[:1]])
    longest = max(len(x1), len(x2))
    size_of = lambda engine: min(block, longest) if block else block_size(engine, longest, symmetric, outputs)
    engine = engine_of(network, params, probe, outputs, dtype, structured, precision, mesh, size_of)
    width = engine.outputs if outputs == "full" else 1
    sizes = [min(size_of(engine), len(x)) for x in (x1, x2)]
    if mesh is not None:
        sizes = [-(-size // mesh.size) * mesh.size for size in sizes]  # whole rows for every device
    gram = np.empty((len(x1) * width, len(x2) * width), engine.dtype)
    rows, columns = (range(0, len(x), size) for x, size in zip((x1, x2), sizes, strict=True))
    pairs = [(i, j) for i in rows for j in columns if not symmetric or j >= i]
    keep = engine.plan.kept * (len(x1) + (0 if symmetric else len(x2))) <= memory
    kept = {}

    def features_of(side, start):
        source = x1 if side == 0 or symmetric else x2
        key = (0 if symmetric else side, start)
        if key not in kept:
            size = sizes[side]
            found = engine.features(padded(source[start : start + size], size), sharded=True)
            if not keep:
                return found
            kept[key] = found
        return kept[key]

    def block_of(i, j):
        nonlocal last
        if last is None or last[0] != i:
            last = (i, features_of(0, i))
        if symmetric and i == j and mesh is None:
            return engine.contract(last[1], None, outputs)
        other = last[1] if symmetric and i == j else features_of(1, j)
        if mesh is not None:  # rows stay spread over the devices, every device has all columns
            other = jax.device_put(other, NamedSharding(mesh, PartitionSpec()))
        return engine.contract(last[1], other, outputs)

    last = None
    shown = tqdm(pairs, desc="NTK blocks", disable=not progress or len(pairs) < 12)
    for (i, j), values in _ahead(shown, block_of):
        a, b = slice(i * width, (i + sizes[0]) * width), slice(j * width, (j + sizes[1]) * width)
        values = values[: gram[a].shape[0], : gram[:, b].shape[1]]
        if not np.isfinite(values).all():
            raise ValueError(
                "the kernel is not finite: look at the parameters and at inputs "
                f"{i} to {i + sizes[0]}, {j} to {j + sizes[1]}"
            )
        if symmetric and i == j:  # rounding makes the two triangles differ in the last bit
            values = np.tril(values) + np.tril(values, -1).T
        elif symmetric:
            gram[b, a] = values.T
        gram[a, b] = values
    return gram if outputs == "sum" else gram.reshape(len(x1), width, len(x2), width)


def _ahead(pairs, block_of):
    """`(pair, its block)`, one after another; the next is being computed while one is put into its place."""
    pairs = iter(pairs)
    waiting = next(pairs)
    block = block_of(*waiting)
    for pair in pairs:
        following = block_of(*pair)
        yield waiting, np.asarray(block)
        waiting, block = pair, following
    yield waiting, np.asarray(block)


def explain(network, params, x, *, dtype=None):
    """How each parameter is handled, for inputs `x`, `(n, ...)`: `{path: "layer" or the reason}`."""
    engine = engine_of(network, params, np.asarray(x), "full", dtype, True, "highest", None)
    leaves = jax.tree_util.tree_flatten_with_path(split(params)[0])[0]
    paths = [
        jax.tree_util.keystr(path) for path, leaf in leaves if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    ]
    found = dict.fromkeys(range(len(paths)), "layer") | {
        i: f"explicit: {engine.plan.structure.reasons[i]}" for i in engine.plan.structure.explicit
    }
    return {path: found[i] for i, path in enumerate(paths)}
