"""A network made ready for its empirical NTK: analysed once, checked against explicit Jacobians, and compiled.

An `Engine` is a network's plan (for all parameters and inputs of the same shapes) with its parameters, its precision and
its place; it makes the features of inputs and contracts them to blocks of the Gram.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kdlib.kernels.contraction import bytes_of, compiled_features, contract, forms_of, on_host
from kdlib.kernels.structure import analyse

FEATURE_BYTES = 2**30  # features of all examples are kept if they fit, and made again for each block if not
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
class Engine:
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
                part = self.place(padded(inputs[k : k + size], size), sharded=sharded)
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


def split(params):
    """What is differentiated, and what is not: of flax variables all collections but "params"."""
    if hasattr(params, "keys") and "params" in params and len(params) > 1:
        return params["params"], {name: value for name, value in params.items() if name != "params"}
    return params, None


def engine_of(network, params, probe, outputs, dtype, structured, precision, mesh, size_of=lambda engine: 2):
    """The engine of a network; `size_of` it: of how many inputs features will be asked first."""
    trained, rest = split(params)
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
    return Engine(_PLANS[key], leaves, fixed, dtype, precision, mesh)


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
    half = re.search(r"\bb?f16\[", str(jax.make_jaxpr(batched)(leaves, fixed, probe)))  # somewhere in the network
    unit = 1e-5 if half else np.finfo(dtype).eps  # half precision: checked to a few percent
    _refuse_mixing(together, apart, 1e3 * unit)
    for attempt in dict.fromkeys((structured, False)):
        structure = analyse(per_example, leaves, fixed, probe[0], structured=attempt)
        shapes = jax.eval_shape(structure.features, leaves, fixed, probe[0])
        forms = forms_of(shapes, structure.outputs, outputs)
        size = bytes_of(shapes, forms, structure.outputs, dtype)
        plan = _Plan(structure, per_example, compiled_features(structure, forms, outputs), forms, *size)
        engine = Engine(plan, leaves, fixed, dtype, "highest")
        if not attempt or _agrees(engine, probe, outputs, engine.batch(size_of(engine)), 1e4 * unit):
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


def _refuse_mixing(together, apart, tolerance):
    if not np.isfinite(together).all():
        raise ValueError("the network's outputs are not finite: look at its parameters and inputs")
    scale = np.abs(apart).max() + np.finfo(apart.dtype).tiny
    difference = float(np.abs(np.asarray(together) - np.asarray(apart)).max() / scale)
    if not difference < tolerance:
        raise CrossExampleError(
            f"the network's outputs change by {difference:.1e} (relative) when inputs are given one by one: a layer mixes "
            "the examples of a batch. Apply it in inference mode (batch normalisation: use_running_average=True)"
        )


def _agrees(engine, probe, outputs, size, tolerance):
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
    features = engine.features(padded(np.asarray(probe), size), sharded=False)
    features = jax.tree.map(lambda a: a[:n], features)
    found = np.asarray(engine.contract(features, None, outputs), np.float64)
    if outputs == "sum":
        expected = np.einsum("icjc->ij", expected)
    error = np.abs(found - expected.reshape(found.shape)).max()
    return bool(error <= tolerance * np.abs(expected).max())


def padded(batch, size):
    """Repeat the last input up to `size`, so that every block has one compiled shape."""
    return np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)]) if len(batch) < size else batch


def block_size(engine, n, symmetric, outputs):
    """Examples in a block: at most a gigabyte of features; eight blocks along a symmetric Gram, if they are not small."""
    plan = engine.plan
    needed = plan.kept + plan.late if engine.hosted else max(plan.kept + plan.late, plan.made)
    limit = max(1, FEATURE_BYTES // max(1, needed))
    width, least = (engine.outputs, 640) if outputs == "full" else (1, 256)  # rows below which products are slow
    rows = min(max(n * width // 8, least), BLOCK_ROWS) if symmetric else BLOCK_ROWS
    block = int(max(1, min(-(-rows // width), limit, n)))
    return -(-n // -(-n // block))  # all of one size, or nearly
