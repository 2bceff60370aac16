"""The NTK of a finite network, `K[i, c, j, d] = sum_p df_c(x_i)/dp df_d(x_j)/dp`: its Gram, and products without it.

Dense layers need no gradients (their part of the kernel is a product of two small Grams), convolutions need those of
single filters, everything else falls back to explicit gradients (`kdlib.kernels.structure`). The Gram is computed in
blocks, symmetric blocks once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from kdlib.kernels.contraction import bytes_of, compiled_features, contract, forms_of, on_host
from kdlib.kernels.structure import analyse

FEATURE_BYTES = 2**30  # features of all examples are kept if they fit, and computed again for each block if not
BATCH_BYTES = 2**24  # on a CPU features are made of few examples at a time, near what its caches hold
BLOCK_ROWS = 2048  # of the Gram, at most


class CrossExampleError(ValueError):
    """The network's output for one input depends on the other inputs of the batch: it has no NTK between inputs."""


@dataclass(frozen=True)
class _Plan:
    """A network's decomposition and compiled functions, for all parameters and inputs of the same shapes.

    Attributes
    ----------
    per_example
        `f(leaves, fixed, x)`.
    features
        compiled: `(leaves, fixed, inputs) -> Features`.
    forms
        how each layer is contracted, see `kdlib.kernels.contraction`.
    kept, made, late
        bytes an example: of its features, of making them, of its largest gradient that is made late.
    """

    structure: object
    per_example: object
    features: object
    forms: tuple
    kept: int
    made: int
    late: int


@dataclass(frozen=True)
class _Engine:
    """A plan with its parameters and its place."""

    plan: _Plan
    leaves: list
    fixed: list
    dtype: np.dtype
    precision: str
    mesh: object = None

    @property
    def outputs(self):
        return self.plan.structure.outputs

    def place(self, x, *, sharded):
        """`x` on the device, or over the devices of the mesh (its first axis), or on each of them."""
        if self.mesh is None:
            return _typed(x, self.dtype)
        spec = PartitionSpec(self.mesh.axis_names[0]) if sharded else PartitionSpec()
        return jax.device_put(_typed(x, self.dtype), NamedSharding(self.mesh, spec))

    @property
    def hosted(self):
        """Whether features are kept on the host: on one CPU."""
        return self.mesh is None and jax.default_backend() == "cpu"

    def batch(self, n):
        """Of how many of `n` inputs features are made at a time."""
        most = max(4, min(256, BATCH_BYTES // max(1, self.plan.made))) if self.hosted else n
        return -(-n // -(-n // most))

    def features(self, inputs, *, sharded):
        """`Features` of inputs."""
        size, whole = self.batch(len(inputs)), None
        for k in range(0, len(inputs), size):
            with jax.default_matmul_precision(self.precision):
                part = self.place(_padded(inputs[k : k + size], size), sharded=sharded)
                found = self.plan.features(self.leaves, self.fixed, part)
            if size == len(inputs):
                return on_host(found) if self.hosted else found
            if whole is None:
                whole = jax.tree.map(lambda a: np.empty((len(inputs), *a.shape[1:]), a.dtype), found)
            for target, source in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
                target[k : k + size] = np.asarray(source)[: len(target) - k]
        return whole._replace(products=jax.tree.map(jnp.asarray, whole.products))

    def contract(self, first, second, outputs):
        """The block of the Gram between two batches, from their features; `second` is None for one with itself."""
        with jax.default_matmul_precision(self.precision):
            return contract(first, second, outputs, hosted=self.hosted)


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
    x1, x2 = (x.astype(np.result_type(x1, x2)) for x in (x1, x2))
    probe = x1[:2] if symmetric or len(x1) > 1 else np.concatenate([x1, x2[:1]])
    longest = max(len(x1), len(x2))
    size_of = lambda engine: min(block, longest) if block else _block(engine, longest, symmetric, outputs)
    engine = _engine(network, params, probe, outputs, dtype, structured, precision, mesh, size_of)
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
            found = engine.features(_padded(source[start : start + size], size), sharded=True)
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
    engine = _engine(network, params, np.asarray(x), "full", dtype, True, "highest", None)
    leaves = jax.tree_util.tree_flatten_with_path(_split(params)[0])[0]
    paths = [
        jax.tree_util.keystr(path) for path, leaf in leaves if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    ]
    found = dict.fromkeys(range(len(paths)), "layer") | {
        i: f"explicit: {engine.plan.structure.reasons[i]}" for i in engine.plan.structure.explicit
    }
    return {path: found[i] for i, path in enumerate(paths)}


# --- analysis ----------------------------------------------------------------------------------------------------


def _split(params):
    """What is differentiated, and what is not: of flax variables all collections but "params"."""
    if hasattr(params, "keys") and "params" in params and len(params) > 1:
        return params["params"], {name: value for name, value in params.items() if name != "params"}
    return params, None


def _engine(network, params, probe, outputs, dtype, structured, precision, mesh, size_of=lambda engine: 2):
    """The engine of a network; `size_of` it: of how many inputs features will be asked first."""
    trained, rest = _split(params)
    everything, tree = jax.tree.flatten(trained)
    other, rest_tree = jax.tree.flatten(rest)
    floating = [jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) for leaf in everything]
    if any(jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.complexfloating) for leaf in everything):
        raise ValueError("params holds complex arrays: the NTK of real parameters is meant")
    leaves = [leaf for leaf, moves in zip(everything, floating, strict=True) if moves]
    constants = [leaf for leaf, moves in zip(everything, floating, strict=True) if not moves]
    if not leaves:
        raise ValueError("params holds no floating-point arrays: nothing to differentiate")
    dtype = np.dtype(dtype or jnp.result_type(*leaves))
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, not {dtype}; pass dtype=np.float32 to compute in it")
    leaves = [jnp.asarray(leaf, dtype) for leaf in leaves]
    fixed = [_typed(leaf, dtype) for leaf in (*constants, *other)]
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in (*leaves, *fixed))
    probe = _typed(probe[np.arange(2) % len(probe)], dtype)
    asked = (probe.shape[1:], probe.dtype, dtype, outputs, structured, precision)
    key = (network, tree, rest_tree, tuple(floating), shapes, asked)
    try:
        hash(key)
    except TypeError:  # a network that cannot be told from others is analysed anew
        key = object()
    if key not in _PLANS:
        apply = network.apply if hasattr(network, "apply") else network

        def batched(leaves, fixed, x):
            trained, constants = iter(leaves), iter(fixed)
            restored = jax.tree.unflatten(tree, [next(trained if moves else constants) for moves in floating])
            other = jax.tree.unflatten(rest_tree, list(constants))
            given = apply(restored if other is None else {"params": restored, **other}, x)
            if not hasattr(given, "astype"):
                raise ValueError(f"the network must give one array, not a {type(given).__name__}")
            return given.astype(dtype)  # what it computes in itself is its own

        while len(_PLANS) >= 32:
            _PLANS.pop(next(iter(_PLANS)))
        with jax.default_matmul_precision(precision):  # a product of parameters alone keeps what it is traced with
            _PLANS[key] = _plan(batched, leaves, fixed, probe, outputs, structured, size_of)
    if mesh is not None:
        leaves, fixed = jax.device_put((leaves, fixed), NamedSharding(mesh, PartitionSpec()))
    return _Engine(_PLANS[key], leaves, fixed, dtype, precision, mesh)


_PLANS = {}  # the latest, so that a second call compiles nothing


def _typed(x, dtype):
    """`x` as an array: of `dtype` if it is of floating-point numbers, and as it is (tokens, pixels) if not."""
    x = jnp.asarray(x)
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _plan(batched, leaves, fixed, probe, outputs, structured, size_of):
    """Analyse a network, check the analysis on two inputs, and fall back to explicit gradients if it does not hold."""
    dtype = leaves[0].dtype

    def per_example(leaves, fixed, x):
        alone = batched(leaves, fixed, x[None])
        if not alone.ndim:
            raise ValueError("the network must keep the axis of examples, of one example too: it gives a scalar")
        return alone[0]

    @jax.jit
    def both_ways(leaves, fixed, x):
        return batched(leaves, fixed, x), jax.vmap(per_example, in_axes=(None, None, 0))(leaves, fixed, x)

    leaves, probe = _perturbed(both_ways, leaves, fixed, probe)
    together, apart = both_ways(leaves, fixed, probe)
    if together.ndim not in (1, 2) or len(together) != len(probe):
        raise ValueError(f"the network must give (n,) or (n, C) outputs for n inputs, not {together.shape}")
    _refuse_mixing(together, apart, dtype)
    for attempt in dict.fromkeys((structured, False)):
        structure = analyse(per_example, leaves, fixed, probe[0], structured=attempt)
        shapes = jax.eval_shape(structure.features, leaves, fixed, probe[0])
        forms = forms_of(shapes, structure.outputs, outputs)
        size = bytes_of(shapes, forms, structure.outputs, dtype)
        plan = _Plan(structure, per_example, compiled_features(structure, forms, outputs), forms, *size)
        engine = _Engine(plan, leaves, fixed, dtype, "highest")
        if not attempt or _agrees(engine, probe, outputs, engine.batch(size_of(engine))):
            return plan
        warnings.warn(
            "the layers of this network do not add up to its Jacobian: all gradients are explicit", stacklevel=4
        )


def _perturbed(both_ways, leaves, fixed, probe):
    """Parameters and inputs near the given ones, but in general position.

    At a layer of zeros, or twice the same input, a wrong analysis would pass; and the plan serves other parameters too.
    """
    draw = np.random.default_rng(0)

    def moved(a):
        a = np.asarray(a)
        if not np.issubdtype(a.dtype, np.floating):  # tokens: only made to differ
            return jnp.asarray(
                a if (a[0] != a[1]).any() else np.stack([a[0], np.roll(a[0].ravel(), 1).reshape(a[0].shape)])
            )
        return jnp.asarray(a + 0.05 * (float(np.abs(a).mean()) + 0.02) * draw.normal(size=a.shape), a.dtype)

    changed = [moved(leaf) for leaf in leaves], moved(probe)
    return changed if np.isfinite(both_ways(changed[0], fixed, changed[1])[0]).all() else (leaves, probe)


def _refuse_mixing(together, apart, dtype):
    if not np.isfinite(together).all():
        raise ValueError("the network's outputs are not finite: look at its parameters and inputs")
    scale = np.abs(apart).max() + np.finfo(dtype).tiny
    difference = float(np.abs(np.asarray(together) - np.asarray(apart)).max() / scale)
    if not difference < 1e3 * np.finfo(dtype).eps:
        raise CrossExampleError(
            f"the network's outputs change by {difference:.1e} (relative) when inputs are given one by one: a layer mixes "
            "the examples of a batch. Apply it in inference mode (batch normalisation: use_running_average=True)"
        )


def _agrees(engine, probe, outputs, size):
    """Whether the decomposition gives what explicit Jacobians give, for two inputs (of a batch of `size`)."""
    n, c = len(probe), engine.outputs

    @jax.jit
    def jacobian(leaves, fixed, x):
        _, pull = jax.vjp(lambda leaves: engine.plan.per_example(leaves, fixed, x).ravel(), leaves)
        return [rows.reshape(c, -1) for rows in jax.vmap(pull)(jnp.eye(c, dtype=engine.dtype))[0]]

    expected = np.zeros((n * c, n * c))
    with jax.default_matmul_precision("highest"):
        jacobians = [jacobian(engine.leaves, engine.fixed, x) for x in probe]
        for rows in zip(*jacobians, strict=True):  # parameter by parameter: in float64 the whole may be large
            both = np.concatenate([np.asarray(row, np.float64) for row in rows])
            expected += both @ both.T
    expected = expected.reshape(n, c, n, c)
    features = engine.features(_padded(np.asarray(probe), size), sharded=False)
    features = jax.tree.map(lambda a: a[:n], features)
    found = np.asarray(engine.contract(features, None, outputs), np.float64)
    if outputs == "sum":
        expected = np.einsum("icjc->ij", expected)
    error = np.abs(found - expected.reshape(found.shape)).max()
    return bool(error <= 1e4 * np.finfo(engine.dtype).eps * np.abs(expected).max())


def _padded(batch, size):
    """Repeat the last input up to `size`, so that every block has one compiled shape."""
    return np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)]) if len(batch) < size else batch


def _block(engine, n, symmetric, outputs):
    """Examples in a block: at most a gigabyte of features; eight blocks along a symmetric Gram, if they are not small."""
    plan = engine.plan
    needed = plan.kept + plan.late if engine.hosted else max(plan.kept + plan.late, plan.made)
    limit = max(1, FEATURE_BYTES // max(1, needed))
    width, least = (engine.outputs, 640) if outputs == "full" else (1, 256)  # rows below which products are slow
    rows = min(max(n * width // 8, least), BLOCK_ROWS) if symmetric else BLOCK_ROWS
    block = int(max(1, min(-(-rows // width), limit, n)))
    return -(-n // -(-n // block))  # all of one size, or nearly
