"""The NTK of a finite network, `K[i, c, j, d] = sum_p df_c(x_i)/dp df_d(x_j)/dp`: its Gram, and products without it.

Dense layers need no gradients (their part of the kernel is a product of two small Grams), convolutions need those of
single filters, everything else falls back to explicit gradients (`kdlib.kernels.structure`). The Gram is computed in
blocks, symmetric blocks once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from kdlib.kernels.structure import analyse

FEATURE_BYTES = 2**30  # features of all examples are kept if they fit, and computed again for each block if not


class CrossExampleError(ValueError):
    """The network's output for one input depends on the other inputs of the batch: it has no NTK between inputs."""


@dataclass(frozen=True)
class _Plan:
    """A network's decomposition and compiled functions, for all parameters and inputs of the same shapes.

    Attributes
    ----------
    forms
        how each layer is contracted: "product" (one position), "pairs" (of positions) or "gradient".
    features
        compiled: `(leaves, fixed, inputs) -> (products, pairs, gradients)`.
    """

    structure: object
    forms: tuple
    per_example: object  # f(leaves, fixed, x)
    features: object
    bytes_per_example: int


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
            return jnp.asarray(x, self.dtype)
        spec = PartitionSpec(self.mesh.axis_names[0]) if sharded else PartitionSpec()
        return jax.device_put(np.asarray(x, self.dtype), NamedSharding(self.mesh, spec))

    def features(self, batch, *, sharded):
        """What of a batch enters products; see `_Plan.features`."""
        with jax.default_matmul_precision(self.precision):
            return self.plan.features(self.leaves, self.fixed, self.place(batch, sharded=sharded))

    def contract(self, first, second, outputs):
        """The block of the Gram between two batches, from their features."""
        with jax.default_matmul_precision(self.precision):
            return _products(first, second, outputs)


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
        its parameters, a pytree of floating-point arrays. Of flax variables with several collections only "params" are
        differentiated.
    x1, x2
        inputs; `x2=None` means `x1`, and then the result is exactly symmetric.
    outputs
        "full": every pair of outputs. "sum": `sum_c K[i, c, j, c]` (not the mean that neural-tangents' trace_axes give).
    dtype
        of the computation and of the result; by default that of the parameters.
    block
        examples in a block; by default chosen from the size of the result and of the features. Memory beside the
        result is bounded by the features and gradients of two blocks, and `memory`.
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
    probe = x1[:2] if symmetric or len(x1) > 1 else np.concatenate([x1, x2[:1]])
    engine = _engine(network, params, probe, outputs, dtype, structured, precision, mesh)
    width = engine.outputs if outputs == "full" else 1
    block = block or _block(engine, max(len(x1), len(x2)), symmetric, outputs)
    if mesh is not None:
        block = -(-block // mesh.size) * mesh.size  # whole rows for every device
    gram = np.empty((len(x1) * width, len(x2) * width), engine.dtype)
    rows, columns = range(0, len(x1), block), range(0, len(x2), block)
    pairs = [(i, j) for i in rows for j in columns if not symmetric or j >= i]
    keep = engine.plan.bytes_per_example * (len(x1) + (0 if symmetric else len(x2))) <= memory
    kept = {}

    def features_of(side, start):
        source = x1 if side == 0 or symmetric else x2
        key = (0 if symmetric else side, start)
        if key not in kept:
            found = engine.features(_padded(source[start : start + block], block), sharded=True)
            if not keep:
                return found
            kept[key] = found
        return kept[key]

    last = None
    for i, j in tqdm(pairs, desc="NTK blocks", disable=not progress or len(pairs) < 12):
        if last is None or last[0] != i:
            last = (i, features_of(0, i))
        other = last[1] if symmetric and i == j else features_of(1, j)
        if mesh is not None:  # rows stay spread over the devices, every device has all columns
            other = jax.device_put(other, NamedSharding(mesh, PartitionSpec()))
        values = np.asarray(engine.contract(last[1], other, outputs))
        a, b = slice(i * width, (i + block) * width), slice(j * width, (j + block) * width)
        values = values[: gram[a].shape[0], : gram[:, b].shape[1]]
        if not np.isfinite(values).all():
            raise ValueError(
                f"the kernel is not finite: look at the parameters and at inputs {i} to {i + block}, {j} to {j + block}"
            )
        gram[a, b] = values
        if symmetric and i == j:  # rounding makes the two triangles differ in the last bit
            gram[a, b] = np.tril(values) + np.tril(values, -1).T
        elif symmetric:
            gram[b, a] = values.T
    return gram if outputs == "sum" else gram.reshape(len(x1), width, len(x2), width)


def explain(network, params, x):
    """How each parameter is handled, for one input `x` of a batch `(n, ...)`: `{path: "layer" or the reason}`."""
    engine = _engine(network, params, np.asarray(x), "full", None, True, "highest", None)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(_split(params)[0])[0]]
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


def _engine(network, params, probe, outputs, dtype, structured, precision, mesh):
    trained, rest = _split(params)
    leaves, tree = jax.tree.flatten(trained)
    fixed, fixed_tree = jax.tree.flatten(rest)
    if not leaves:
        raise ValueError("params holds no arrays: nothing to differentiate")
    dtype = np.dtype(dtype or jnp.result_type(*leaves))
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, not {dtype}")
    cast = lambda leaf: jnp.asarray(leaf, dtype) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) else leaf
    leaves, fixed = [cast(leaf) for leaf in leaves], [cast(leaf) for leaf in fixed]
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in (*leaves, *map(jnp.asarray, fixed)))
    key = (network, tree, fixed_tree, shapes, probe.shape[1:], dtype, outputs, structured)
    try:
        hash(key)
    except TypeError:  # a network that cannot be told from others is analysed anew
        key = object()
    if key not in _PLANS:
        apply = network.apply if hasattr(network, "apply") else network

        def batched(leaves, fixed, x):
            restored = jax.tree.unflatten(tree, leaves)
            other = jax.tree.unflatten(fixed_tree, fixed)
            return apply(restored if other is None else {"params": restored, **other}, x)

        while len(_PLANS) >= 32:
            _PLANS.pop(next(iter(_PLANS)))
        _PLANS[key] = _plan(batched, leaves, fixed, jnp.asarray(probe[:2], dtype), outputs, structured)
    return _Engine(_PLANS[key], leaves, fixed, dtype, precision, mesh)


_PLANS = {}  # the latest, so that a second call compiles nothing


def _plan(batched, leaves, fixed, probe, outputs, structured):
    """Analyse a network, check the analysis on two inputs, and fall back to explicit gradients if it does not hold."""

    def per_example(leaves, fixed, x):
        return batched(leaves, fixed, x[None])[0]

    leaves, probe = _perturbed(batched, leaves, fixed, probe)
    together = batched(leaves, fixed, probe)
    if together.ndim not in (1, 2) or len(together) != len(probe):
        raise ValueError(f"the network must give (n,) or (n, C) outputs for n inputs, not {together.shape}")
    _refuse_mixing(together, jax.vmap(per_example, in_axes=(None, None, 0))(leaves, fixed, probe), probe.dtype)
    for attempt in dict.fromkeys((structured, False)):
        structure = analyse(per_example, leaves, fixed, probe[0], structured=attempt)
        shapes = jax.eval_shape(structure.features, leaves, fixed, probe[0])
        forms = _forms(shapes, structure.outputs, outputs)
        size = _bytes(shapes, forms, structure.outputs, probe.dtype)
        plan = _Plan(structure, forms, per_example, _compiled_features(structure, forms, outputs), size)
        if not attempt or _agrees(_Engine(plan, leaves, fixed, probe.dtype, "highest"), probe, outputs):
            return plan
        warnings.warn(
            "the layers of this network do not add up to its Jacobian: all gradients are explicit", stacklevel=4
        )


def _perturbed(batched, leaves, fixed, probe):
    """Parameters and inputs near the given ones, but in general position.

    At a layer of zeros, or twice the same input, a wrong analysis would pass; and the plan serves other parameters too.
    """
    draw = np.random.default_rng(0)

    def moved(a):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        return a + jnp.asarray(0.05 * (float(jnp.abs(a).mean()) + 0.02) * draw.normal(size=a.shape), a.dtype)

    changed = [moved(leaf) for leaf in leaves], moved(probe)
    return changed if np.isfinite(batched(changed[0], fixed, changed[1])).all() else (leaves, probe)


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


def _agrees(engine, probe, outputs):
    """Whether the decomposition gives what explicit Jacobians give, for two inputs."""
    n, c = len(probe), engine.outputs

    def jacobian(x):
        _, pull = jax.vjp(lambda leaves: engine.plan.per_example(leaves, engine.fixed, x).ravel(), engine.leaves)
        rows = jax.vmap(pull)(jnp.eye(c, dtype=engine.dtype))[0]
        return jnp.concatenate([row.reshape(c, -1) for row in rows], axis=1)

    with jax.default_matmul_precision("highest"):
        explicit = np.concatenate([np.asarray(jax.jit(jacobian)(x), np.float64) for x in probe])
    expected = (explicit @ explicit.T).reshape(n, c, n, c)
    features = engine.features(np.asarray(probe), sharded=False)
    found = np.asarray(engine.contract(features, features, outputs), np.float64)
    if outputs == "sum":
        expected = np.einsum("icjc->ij", expected)
    error = np.abs(found - expected.reshape(found.shape)).max()
    return bool(error <= 1e4 * np.finfo(engine.dtype).eps * np.abs(expected).max())


def _forms(shapes, outputs, kind):
    """The cheaper way to contract each layer, by counting multiplications for a pair of examples."""
    forms = []
    for rows, columns in zip(shapes[0], shapes[1], strict=True):
        (positions, inputs), width = rows.shape, columns.shape[-1]
        c2 = outputs**2 if kind == "full" else outputs
        pairs = positions**2 * (inputs + outputs * width) + c2 * positions * width
        forms.append("product" if positions == 1 else "pairs" if pairs < c2 * inputs * width else "gradient")
    return tuple(forms)


# --- features and their products ---------------------------------------------------------------------------------


def _compiled_features(structure, forms, outputs):
    # The order of a gradient's entries is free; these are the ones that need no transposition of the result.
    if outputs == "full":
        gradient_of = lambda a, d: jnp.einsum("scm,sk->cmk", jnp.transpose(d, (1, 0, 2)), a)
    else:
        gradient_of = lambda a, d: jnp.einsum("sk,csm->kcm", a, d)

    def of_one(leaves, fixed, x):
        rows, columns, flat = structure.features(leaves, fixed, x)
        products = [(a[0], d[:, 0]) for a, d, form in zip(rows, columns, forms, strict=True) if form == "product"]
        pairs = [(a, d) for a, d, form in zip(rows, columns, forms, strict=True) if form == "pairs"]
        # One array for all small parameters; those of convolutions stay apart, copying them would take as long as making them.
        gradients = [jnp.concatenate(flat, axis=1)] if flat else []
        gradients += [
            gradient_of(a, d).reshape(structure.outputs, -1)
            for a, d, form in zip(rows, columns, forms, strict=True)
            if form == "gradient"
        ]
        return products, pairs, gradients

    return jax.jit(jax.vmap(of_one, in_axes=(None, None, 0)))


@partial(jax.jit, static_argnames="outputs")
def _products(first, second, outputs):
    """The block `(n1 C, n2 C)`, or `(n1, n2)` summed over outputs, from the features of two batches."""
    (products1, pairs1, gradients1), (products2, pairs2, gradients2) = first, second
    n1, n2, c, dtype = _sizes(first), _sizes(second), _outputs(first), jax.tree.leaves(first)[0].dtype

    def merged(d):
        return d.reshape((len(d) * c, d.shape[2]) if outputs == "full" else (len(d), c * d.shape[2]))

    total = jnp.zeros((n1, c, n2, c) if outputs == "full" else (n1, n2), dtype)
    for g1, g2 in zip(gradients1, gradients2, strict=True):
        total = total + (merged(g1) @ merged(g2).T).reshape(total.shape)
    spread = (lambda k: k[:, None, :, None]) if outputs == "full" else (lambda k: k)
    for (a1, d1), (a2, d2) in zip(products1, products2, strict=True):
        cotangents = merged(d1) @ merged(d2).T
        total = total + spread(a1 @ a2.T) * cotangents.reshape(total.shape)
    for (a1, d1), (a2, d2) in zip(pairs1, pairs2, strict=True):
        between = jnp.einsum("isk,jtk->isjt", a1, a2)
        middle = jnp.einsum("isjt,icsm->ijctm", between, d1)
        total = total + jnp.einsum("ijctm,jdtm->icjd" if outputs == "full" else "ijctm,jctm->ij", middle, d2)
    return total.reshape(n1 * c, n2 * c) if outputs == "full" else total


def _sizes(features):
    return len(jax.tree.leaves(features)[0])


def _outputs(features):
    products, pairs, gradients = features
    return (gradients[0] if gradients else (products or pairs)[0][1]).shape[1]


def _bytes(shapes, forms, outputs, dtype):
    """Bytes of the features of one example."""
    rows, columns, flat = shapes
    numbers = sum(np.prod(g.shape) for g in flat)
    for a, d, form in zip(rows, columns, forms, strict=True):
        one = a.shape[1] * d.shape[-1] * outputs if form == "gradient" else np.prod(a.shape) + np.prod(d.shape)
        numbers += one
    return int(numbers) * dtype.itemsize


def _padded(batch, size):
    """Repeat the last input up to `size`, so that every block has one compiled shape."""
    return np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)]) if len(batch) < size else batch


def _block(engine, n, symmetric, outputs):
    """Examples in a block: at most a gigabyte of features; eight blocks along a symmetric Gram, if they are not small."""
    limit = max(1, FEATURE_BYTES // max(1, engine.plan.bytes_per_example))
    width, least = (engine.outputs, 160) if outputs == "full" else (1, 256)  # rows below which products are slow
    wanted = max(-(-n // 8), -(-least // width)) if symmetric else max(1, 4096 // width)
    block = int(max(1, min(wanted, limit, n)))
    return -(-n // -(-n // block))  # all of one size, or nearly
