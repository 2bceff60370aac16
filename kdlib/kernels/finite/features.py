"""What of each example enters the empirical NTK (its features), and the products of the features of two batches.

Each layer contributes in the cheapest of four ways: "product" (one position), "pairs" (few positions), "gradient"
(stored per example), "late" (the same, recomputed at contraction to save memory).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdlib.kernels.finite.layers import Factors, Structure

Kind = Literal["full", "sum"]  # of a Gram: every pair of outputs, or summed over equal ones
Form = Literal["product", "pairs", "gradient", "late"]  # of a layer's contraction
Array = jax.Array | np.ndarray

PAIR_BYTES = 2**27  # of the intermediate arrays of a layer that is contracted by pairs of positions


class Features(NamedTuple):
    """Of a batch. Each entry is a list: one item a layer, all explicit gradients as one.

    Attributes
    ----------
    products
        `(rows (n, inputs), columns (n, C, outputs of the layer))` of layers of one position.
    pairs, late
        `(rows (n, positions, inputs), columns (n, C, positions, outputs of the layer))`.
    gradients
        `(n, C, size)`.
    """

    products: list[tuple[Array, Array]]
    pairs: list[tuple[Array, Array]]
    late: list[tuple[Array, Array]]
    gradients: list[Array]


class Memory(NamedTuple):
    """Bytes an example.

    Attributes
    ----------
    features
        of its features.
    computation
        of what is there while they are computed.
    late
        of its largest gradient that is recomputed at contraction.
    """

    features: int
    computation: int
    late: int


def forms_of(shapes: Factors, outputs: int, kind: Kind) -> tuple[Form, ...]:
    """The cheapest way to contract each layer for a Gram of a kind, by multiplications and bytes."""
    forms: list[Form] = []
    for rows, columns in zip(shapes.rows, shapes.columns, strict=True):
        (positions, inputs), width = rows.shape, columns.shape[-1]
        c2 = outputs**2 if kind == "full" else outputs
        pairs = positions**2 * (inputs + outputs * width) + c2 * positions * width
        small = 2 * (rows.size + columns.size) <= outputs * inputs * width
        if positions == 1:
            forms.append("product")
        elif pairs < c2 * inputs * width:
            forms.append("pairs")
        else:
            forms.append("late" if small else "gradient")
    return tuple(forms)


def memory_of(shapes: Factors, forms: tuple[Form, ...], outputs: int, dtype: np.dtype) -> Memory:
    """What one example needs."""
    features = computation = sum(int(np.prod(gradient.shape)) for gradient in shapes.gradients)
    late = 0
    for rows, columns, form in zip(shapes.rows, shapes.columns, forms, strict=True):
        gradient = rows.shape[1] * columns.shape[-1] * outputs
        features += gradient if form == "gradient" else rows.size + columns.size
        computation += rows.size + columns.size
        late = max(late, gradient if form == "late" else 0)
    return Memory(*(entries * dtype.itemsize for entries in (features, computation, late)))


def compiled_features(structure: Structure, forms: tuple[Form, ...], kind: Kind) -> Callable[..., Features]:
    """`(leaves, fixed, inputs) -> Features`, compiled, for a Gram of a kind."""

    def of_one(leaves: list[Any], fixed: list[Any], x: jax.Array) -> Features:
        rows, columns, explicit = structure.factors(leaves, fixed, x)
        layers = list(zip(rows, columns, forms, strict=True))
        # One array for all small parameters; those of layers stay apart: to copy them costs as much as to compute them.
        gradients: list[Array] = [jnp.concatenate(explicit, axis=1)] if explicit else []
        gradients += [_gradient(a, d, kind) for a, d, form in layers if form == "gradient"]
        return Features(
            products=[(a[0], d[:, 0]) for a, d, form in layers if form == "product"],
            pairs=[(a, d) for a, d, form in layers if form == "pairs"],
            late=[(a, d) for a, d, form in layers if form == "late"],
            gradients=gradients,
        )

    return jax.jit(jax.vmap(of_one, in_axes=(None, None, 0)))


def _gradient(a: jax.Array, d: jax.Array, kind: Kind) -> jax.Array:
    """`(C, size)` of one example. The order of the entries is free; these need no transposition of the result."""
    if kind == "full":
        gradient = jnp.einsum("scm,sk->cmk", jnp.transpose(d, (1, 0, 2)), a)
    else:
        gradient = jnp.einsum("sk,csm->kcm", a, d)
    return gradient.reshape(len(d), -1)


@partial(jax.jit, static_argnames="kind")
def _gradients(rows: Array, columns: Array, kind: Kind) -> jax.Array:
    return jax.vmap(lambda a, d: _gradient(a, d, kind))(rows, columns)


def contract(first: Features, second: Features | None, kind: Kind, *, hosted: bool) -> Array:
    """The block `(n1 C, n2 C)`, or `(n1, n2)` summed over outputs; `second` is None for a batch with itself.

    Late gradients are those of one layer at a time, so that no more than these are in memory. `hosted`: the features
    have been through `on_host`.
    """
    other = first if second is None else second
    device = [features._replace(late=[], gradients=[] if hosted else features.gradients) for features in (first, other)]
    if any(device[0]):
        total = _products(device[0], device[1], kind)
    else:
        total = np.zeros((), jax.tree.leaves(first)[0].dtype)
    if hosted:
        return _contract_on_host(first, second, kind, np.asarray(total))
    for of_first, of_other in zip(first.late, other.late, strict=True):
        mine = Features([], [], [], [_gradients(*of_first, kind)])
        others = mine if second is None else Features([], [], [], [_gradients(*of_other, kind)])
        total = total + _products(mine, others, kind)
        del mine, others  # before those of the next layer are computed
    return total


def on_host(features: Features) -> Features:
    """Features of a CPU: gradients, and what they are computed from, as NumPy arrays.

    Its BLAS halves the work of a product of a matrix with itself, and memory can be used again; a new array of a
    hundred megabytes takes the system as long as its gradients take to compute.
    """
    return features._replace(
        gradients=[np.asarray(gradient) for gradient in features.gradients],
        late=[(np.asarray(a), np.asarray(d)) for a, d in features.late],
    )


def _contract_on_host(first: Features, second: Features | None, kind: Kind, total: np.ndarray) -> np.ndarray:
    other = first if second is None else second
    matrix = lambda g: g.reshape((len(g) * g.shape[1], -1) if kind == "full" else (len(g), -1))

    def product(mine: Array, others: Array | None) -> Any:
        mine = matrix(mine)
        return mine @ (mine if others is None else matrix(others)).T

    for mine, others in zip(first.gradients, other.gradients, strict=True):
        total = total + product(mine, None if second is None else others)
    late, late_of_other = _LateGradients(), _LateGradients()
    for of_first, of_other in zip(first.late, other.late, strict=True):  # no names: they would hold the memory
        total = total + product(late(*of_first), None if second is None else late_of_other(*of_other))
    return total


class _LateGradients:
    """Gradients `(n, C, size)` of one layer after another, in memory that is used again where the size allows it."""

    def __init__(self) -> None:
        self._memory: np.ndarray | None = None

    def __call__(self, rows: Any, columns: Any) -> np.ndarray:
        n, c, positions, width = columns.shape
        shape = n, c * width, rows.shape[2]
        if self._memory is None or self._memory.size != math.prod(shape):
            self._memory = None  # released before the new one is there
            self._memory = np.empty(shape, rows.dtype)
        gradients = self._memory.reshape(shape)
        for a, d, gradient in zip(rows, columns, gradients, strict=True):
            np.matmul(d.transpose(0, 2, 1).reshape(c * width, positions), a, out=gradient)
        return gradients.reshape(n, c, -1)


@partial(jax.jit, static_argnames="kind")
def _products(first: Features, second: Features, kind: Kind) -> jax.Array:
    (n1, c), (n2, _), dtype = sizes(first), sizes(second), jax.tree.leaves(first)[0].dtype

    def merged(d: Array) -> Array:
        return d.reshape((len(d) * c, d.shape[2]) if kind == "full" else (len(d), c * d.shape[2]))

    total = jnp.zeros((n1, c, n2, c) if kind == "full" else (n1, n2), dtype)
    for g1, g2 in zip(first.gradients, second.gradients, strict=True):
        total = total + (merged(g1) @ merged(g2).T).reshape(total.shape)
    spread = (lambda k: k[:, None, :, None]) if kind == "full" else (lambda k: k)
    for (a1, d1), (a2, d2) in zip(first.products, second.products, strict=True):
        cotangents = merged(d1) @ merged(d2).T
        total = total + spread(a1 @ a2.T) * cotangents.reshape(total.shape)
    for of_first, of_second in zip(first.pairs, second.pairs, strict=True):
        total = total + _by_pairs(of_first, of_second, kind)
    return total.reshape(n1 * c, n2 * c) if kind == "full" else total


def _by_pairs(first: tuple[Array, Array], second: tuple[Array, Array], kind: Kind) -> jax.Array:
    """A layer's block by pairs of positions, `(n1, C, n2, C)` or `(n1, n2)`, some of the second batch at a time."""
    a1, d1 = first

    def with_one(example: tuple[jax.Array, jax.Array]) -> jax.Array:
        a2, d2 = example
        between = jnp.einsum("isk,tk->ist", a1, a2)
        middle = jnp.einsum("ist,icsm->ictm", between, d1)
        return jnp.einsum("ictm,dtm->icd" if kind == "full" else "ictm,ctm->i", middle, d2)

    (n1, c, positions, width), n2 = d1.shape, len(second[1])
    one = n1 * positions * (positions + c * width) * a1.dtype.itemsize
    block = jax.lax.map(with_one, second, batch_size=int(max(1, min(n2, PAIR_BYTES // one))))
    return jnp.moveaxis(block, 0, 2 if kind == "full" else 1)


def squared_norms(features: Features) -> jax.Array | int:
    """`(n, C)`: of the gradients of each example's outputs."""
    at_once = features._replace(late=[])
    total = _squared_norms(at_once) if any(at_once) else 0
    for a, d in features.late:
        total = total + _squared_norms(Features([], [], [], [_gradients(a, d, "full")]))
    return total


@jax.jit
def _squared_norms(features: Features) -> jax.Array | int:
    total = sum(jnp.sum(gradient**2, axis=2) for gradient in features.gradients)
    for a, d in features.products:
        total = total + jnp.sum(a**2, axis=1)[:, None] * jnp.sum(d**2, axis=2)
    for a, d in features.pairs:
        between = jnp.einsum("isk,itk->ist", a, a)
        total = total + jnp.einsum("ist,icsm,ictm->ic", between, d, d)
    return total


def sizes(features: Features) -> tuple[int, int]:
    """`(n, C)`."""
    for array in (*features.gradients, *(d for _, d in features.products + features.pairs + features.late)):
        return array.shape[0], array.shape[1]
    raise ValueError("no features: the network has no parameters")
