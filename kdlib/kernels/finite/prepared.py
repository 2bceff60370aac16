"""Traces, verifies and compiles a network for its empirical NTK.

An `Engine` is a network's plan (for all parameters and inputs of the same shapes) with its parameters, its precision
and its place; it computes the features of inputs and contracts them to blocks of the Gram.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdlib.kernels.finite.features import (
    Array,
    Features,
    Form,
    Kind,
    Memory,
    compiled_features,
    contract,
    forms_of,
    memory_of,
    on_host,
)
from kdlib.kernels.finite.layers import Structure, analyse
from kdlib.tools.arrays import real_array

FEATURE_BYTES = 2**30  # features of all examples are stored if they fit, and computed anew for each block if not
BATCH_BYTES = 2**24  # on a CPU features are computed of few examples at a time, near what its caches hold
BLOCK_ROWS = 2048  # of the Gram, at most
PLANS = 32  # the latest are stored, so that a second call compiles nothing
CHECKED_AT_ONCE = 4096  # inputs, whose float64 copy is looked through


class CrossExampleError(ValueError):
    """The network's output for one input depends on the other inputs of the batch: it has no NTK between inputs."""


@runtime_checkable
class HasApply(Protocol):
    """A network as an object, such as a flax module."""

    def apply(self, params: Any, inputs: Any, /) -> Any:
        """Outputs `(n, C)`, or `(n,)`, of inputs `(n, ...)`."""
        ...


Network = HasApply | Callable[[Any, Any], Any]  # what has `apply(params, inputs)`, or is such a function


class Options(NamedTuple):
    """What an engine is prepared for, see `kdlib.kernels.empirical_ntk`; `kind` is what it calls `outputs`."""

    kind: Kind = "full"
    dtype: Any = None
    structured: bool = True
    precision: str = "highest"
    mesh: Mesh | None = None


@dataclass(frozen=True)
class Plan:
    """A network's decomposition and compiled functions, for all parameters and inputs of the same shapes.

    Attributes
    ----------
    structure
        how each parameter enters.
    per_example
        `(leaves, fixed, x) -> outputs` of one input.
    features
        compiled: `(leaves, fixed, inputs) -> Features`.
    forms
        how each layer is contracted, see `kdlib.kernels.finite.features`.
    memory
        of one example.
    """

    structure: Structure
    per_example: Callable[[Any, Any, Any], jax.Array]
    features: Callable[..., Features]
    forms: tuple[Form, ...]
    memory: Memory


@dataclass(frozen=True)
class Engine:
    """A plan with its parameters and its place."""

    plan: Plan
    leaves: list[jax.Array]
    fixed: list[jax.Array]
    dtype: np.dtype
    precision: str
    mesh: Mesh | None = None

    @property
    def outputs(self) -> int:
        """`C`, how many the network has."""
        return self.plan.structure.outputs

    @property
    def hosted(self) -> bool:
        """Whether features are stored on the host: on one CPU."""
        return self.mesh is None and jax.default_backend() == "cpu"

    def place(self, x: Any, *, sharded: bool) -> jax.Array:
        """`x` on the device, or over the devices of the mesh (its first axis), or on each of them."""
        if self.mesh is None:
            return _typed(x, self.dtype)
        spec = PartitionSpec(self.mesh.axis_names[0]) if sharded else PartitionSpec()
        return jax.device_put(_typed(x, self.dtype), NamedSharding(self.mesh, spec))

    def batch(self, n: int) -> int:
        """How many of `n` inputs go through the network at a time."""
        most = max(4, min(256, BATCH_BYTES // max(1, self.plan.memory.computation))) if self.hosted else n
        return -(-n // -(-n // most))

    def features(self, inputs: np.ndarray, *, sharded: bool) -> Features:
        """`Features` of inputs."""
        size = self.batch(len(inputs))
        part = self._of_batch(inputs[:size], sharded)
        if size == len(inputs):
            return on_host(part) if self.hosted else part
        whole = jax.tree.map(lambda a: np.empty((len(inputs), *a.shape[1:]), a.dtype), part)
        for start in range(0, len(inputs), size):
            if start:
                part = self._of_batch(padded(inputs[start : start + size], size), sharded)
            for target, source in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
                target[start : start + size] = np.asarray(source)[: len(target) - start]
        return whole._replace(products=jax.tree.map(jnp.asarray, whole.products))

    def _of_batch(self, inputs: np.ndarray, sharded: bool) -> Features:
        with jax.default_matmul_precision(self.precision):
            return self.plan.features(self.leaves, self.fixed, self.place(inputs, sharded=sharded))

    def contract(self, first: Features, second: Features | None, kind: Kind) -> Array:
        """The block of the Gram between two batches, from their features; `second` is None for one with itself."""
        with jax.default_matmul_precision(self.precision):
            return contract(first, second, kind, hosted=self.hosted)


def checked_inputs(name: str, value: Any) -> np.ndarray:
    """Inputs `(n, ...)`, `n >= 1`, finite, in their own type: floating-point numbers, or integers (tokens, pixels)."""
    inputs = np.asarray(value)
    if not inputs.ndim or not len(inputs):
        raise ValueError(f"{name} must have shape (n, ...) with n >= 1, not {inputs.shape}")
    if len(inputs) <= CHECKED_AT_ONCE:
        real_array(name, inputs)
        return inputs
    for start in range(0, len(inputs), CHECKED_AT_ONCE):
        real_array(f"{name}[{start}:{start + CHECKED_AT_ONCE}]", inputs[start : start + CHECKED_AT_ONCE])
    return inputs


def split(params: Any) -> tuple[Any, dict[str, Any] | None]:
    """What is differentiated, and what is not: of flax variables all collections but "params"."""
    if hasattr(params, "keys") and "params" in params and len(params) > 1:
        return params["params"], {name: value for name, value in params.items() if name != "params"}
    return params, None


class _Layout(NamedTuple):
    """Of a network's parameters: what joins leaves that are differentiated, and those that are fixed, to a pytree."""

    trained: Any  # a `jax.tree_util.PyTreeDef`, which is no type to JAX's own annotations
    rest: Any
    floating: tuple[bool, ...]  # of the leaves of `trained`: the others are fixed, too

    def join(self, leaves: Iterable[Any], fixed: Iterable[Any]) -> Any:
        """The parameters as the network takes them."""
        leaves, fixed = iter(leaves), iter(fixed)
        trained = jax.tree.unflatten(self.trained, [next(leaves if moves else fixed) for moves in self.floating])
        rest = jax.tree.unflatten(self.rest, list(fixed))
        return trained if rest is None else {"params": trained, **rest}


def _separated(params: Any, dtype: Any) -> tuple[_Layout, list[jax.Array], list[jax.Array]]:
    """How parameters are laid out, those that are differentiated (all of one dtype), and those that are fixed."""
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
    computed: np.dtype = np.dtype(dtype or jnp.result_type(*leaves))
    if computed not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, not {computed}; pass dtype=np.float32 to compute in it")
    leaves = [jnp.asarray(leaf, computed) for leaf in leaves]
    infinite = [leaf.shape for leaf in leaves if not np.isfinite(np.asarray(leaf)).all()]
    if infinite:
        raise ValueError(
            f"params must be finite in {computed}; an array of shape {infinite[0]} is not: train it again?"
        )
    return _Layout(tree, rest_tree, tuple(floating)), leaves, [_typed(leaf, computed) for leaf in (*constants, *other)]


def engine_of(
    network: Network, params: Any, inputs: np.ndarray, options: Options, size_of: Callable[[Engine], int] = lambda _: 2
) -> Engine:
    """The engine of a network, traced and verified at the first two of `inputs`.

    `size_of(engine)`: batch size of the first feature call.
    """
    layout, leaves, fixed = _separated(params, options.dtype)
    dtype = np.dtype(leaves[0].dtype)
    probe = _typed(inputs[np.arange(2) % len(inputs)], dtype)
    precision, mesh = options.precision, options.mesh
    if mesh is not None and len(mesh.axis_names) != 1:
        raise ValueError(f"mesh must have one axis, not {mesh.axis_names}: rows of the Gram are spread over it")
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in (*leaves, *fixed))
    analysed = probe.shape[1:], probe.dtype, dtype, options.kind, options.structured, precision
    key: Hashable = (network, layout, shapes, analysed)
    try:
        hash(key)
    except TypeError:  # a network that cannot be told from others is analysed anew
        key = object()
    if key not in _PLANS:
        while len(_PLANS) >= PLANS:
            _PLANS.pop(next(iter(_PLANS)))
        with jax.default_matmul_precision(precision):  # a product of parameters alone keeps what it is traced with
            _PLANS[key] = _plan(_batched(network, layout, dtype), leaves, fixed, probe, options, size_of)
    if mesh is not None:
        leaves, fixed = jax.device_put((leaves, fixed), NamedSharding(mesh, PartitionSpec()))
    return Engine(_PLANS[key], leaves, fixed, dtype, precision, mesh)


_PLANS: dict[Hashable, Plan] = {}


def _typed(x: Any, dtype: np.dtype) -> jax.Array:
    """`x` as an array: of `dtype` if it is of floating-point numbers, and as it is (tokens, pixels) if not."""
    x = jnp.asarray(x)
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _batched(network: Network, layout: _Layout, dtype: np.dtype) -> Callable[[Any, Any, Any], jax.Array]:
    """`(leaves, fixed, inputs) -> outputs` in `dtype`; what the network computes in is its own."""
    apply = network.apply if isinstance(network, HasApply) else network

    def batched(leaves: Any, fixed: Any, x: Any) -> jax.Array:
        outputs = apply(layout.join(leaves, fixed), x)
        if not hasattr(outputs, "astype"):
            raise ValueError(f"the network must give one array, not a {type(outputs).__name__}")
        return outputs.astype(dtype)

    return batched


def _plan(
    batched: Callable[[Any, Any, Any], jax.Array], leaves: list[jax.Array], fixed: list[jax.Array], probe: jax.Array,
    options: Options, size_of: Callable[[Engine], int],
) -> Plan:  # fmt: skip
    """Analyse a network, check the analysis on two inputs, and fall back to explicit gradients if it does not hold."""
    dtype = np.dtype(leaves[0].dtype)

    def per_example(leaves: Any, fixed: Any, x: Any) -> jax.Array:
        alone = batched(leaves, fixed, x[None])
        if not alone.ndim:
            raise ValueError("the network must keep the axis of examples, of one example too: it gives a scalar")
        return alone[0]

    @jax.jit
    def both_ways(leaves: Any, fixed: Any, x: Any) -> tuple[jax.Array, jax.Array]:
        return batched(leaves, fixed, x), jax.vmap(per_example, in_axes=(None, None, 0))(leaves, fixed, x)

    leaves, probe = _perturbed(both_ways, leaves, fixed, probe)
    together, apart = both_ways(leaves, fixed, probe)
    if together.ndim not in (1, 2) or len(together) != len(probe):
        raise ValueError(f"the network must give (n,) or (n, C) outputs for n inputs, not {together.shape}")
    half = re.search(r"\bb?f16\[", str(jax.make_jaxpr(batched)(leaves, fixed, probe)))  # somewhere in the network
    unit = 1e-5 if half else float(np.finfo(dtype).eps)  # half precision: checked to a few percent
    _refuse_mixing(together, apart, 1e3 * unit)

    def engine(structured: bool) -> Engine:
        structure = analyse(per_example, leaves, fixed, probe[0], structured=structured)
        shapes = jax.eval_shape(structure.factors, leaves, fixed, probe[0])
        forms = forms_of(shapes, structure.outputs, options.kind)
        memory = memory_of(shapes, forms, structure.outputs, dtype)
        features = compiled_features(structure, forms, options.kind)
        return Engine(Plan(structure, per_example, features, forms, memory), leaves, fixed, dtype, "highest")

    if options.structured:
        fast = engine(structured=True)
        if _agrees(fast, probe, options.kind, fast.batch(size_of(fast)), 1e4 * unit):
            return fast.plan
        message = "the layers of this network do not add up to its Jacobian: all gradients are explicit"
        warnings.warn(message, stacklevel=4)
    return engine(structured=False).plan


def _perturbed(
    both_ways: Callable[..., tuple[jax.Array, jax.Array]],
    leaves: list[jax.Array],
    fixed: list[jax.Array],
    probe: jax.Array,
) -> tuple[list[jax.Array], jax.Array]:
    """Parameters and inputs near the given ones, but in general position.

    At a layer of zeros, or twice the same input, a wrong analysis would pass; and the plan serves other parameters too.
    """
    draw = np.random.default_rng(0)

    def moved(array: jax.Array) -> jax.Array:
        a = np.asarray(array)
        if np.issubdtype(a.dtype, np.floating):
            return jnp.asarray(a + 0.05 * (float(np.abs(a).mean()) + 0.02) * draw.normal(size=a.shape), a.dtype)
        if (a[0] == a[1]).all():  # tokens: only made to differ
            a = np.stack([a[0], np.roll(a[0].ravel(), 1).reshape(a[0].shape)])
        return jnp.asarray(a)

    changed = [moved(leaf) for leaf in leaves], moved(probe)
    finite = np.isfinite(both_ways(changed[0], fixed, changed[1])[0]).all()
    return changed if finite else (leaves, probe)


def _refuse_mixing(together: jax.Array, apart: jax.Array, tolerance: float) -> None:
    if not np.isfinite(together).all():
        raise ValueError("the network's outputs are not finite: look at its parameters and inputs")
    scale = np.abs(apart).max() + np.finfo(apart.dtype).tiny
    difference = float(np.abs(np.asarray(together) - np.asarray(apart)).max() / scale)
    if not difference < tolerance:
        raise CrossExampleError(
            f"the network's outputs change by {difference:.1e} (relative) when inputs are given one by one: a layer "
            "mixes the examples of a batch. Apply it in inference mode (batch normalisation: use_running_average=True)"
        )


def _agrees(engine: Engine, probe: jax.Array, kind: Kind, size: int, tolerance: float) -> bool:
    """Whether the decomposition gives what explicit Jacobians give, for two inputs (of a batch of `size`)."""
    n, c = len(probe), engine.outputs

    @jax.jit
    def jacobian(leaves: Any, fixed: Any, x: Any) -> list[jax.Array]:
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
    block = np.asarray(engine.contract(features, None, kind), np.float64)
    if kind == "sum":
        expected = np.einsum("icjc->ij", expected)
    error = np.abs(block - expected.reshape(block.shape)).max()
    return bool(error <= tolerance * np.abs(expected).max())


def padded(batch: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last input up to `size`, so that every block has one compiled shape."""
    return np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)]) if len(batch) < size else batch


def block_size(engine: Engine, n: int, symmetric: bool, kind: Kind) -> int:
    """Examples in a block: a gigabyte of features at most; eight blocks along a symmetric Gram, unless small."""
    memory = engine.plan.memory
    needed = memory.features + memory.late
    needed = needed if engine.hosted else max(needed, memory.computation)
    limit = max(1, FEATURE_BYTES // max(1, needed))
    width, least = (engine.outputs, 640) if kind == "full" else (1, 256)  # rows below which products are slow
    rows = min(max(n * width // 8, least), BLOCK_ROWS) if symmetric else BLOCK_ROWS
    block = int(max(1, min(-(-rows // width), limit, n)))
    return -(-n // -(-n // block))  # all of one size, or nearly
