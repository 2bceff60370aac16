"""What of each example enters the empirical NTK (its features), and the products of the features of two batches.

A layer of one position is contracted as two small Grams ("product"), one with few positions by pairs of them
("pairs"), all others by the gradients of single examples: made with the features ("gradient"), or, where the layer's
input and cotangents are much smaller, from those when they are contracted ("late").
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


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

    products: list
    pairs: list
    late: list
    gradients: list


def forms_of(shapes, outputs, kind):
    """The cheapest way to contract each layer, by counting multiplications for a pair of examples, and bytes."""
    forms = []
    for rows, columns in zip(shapes[0], shapes[1], strict=True):
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


def bytes_of(shapes, forms, outputs, dtype):
    """Of one example, in bytes: its features, what making them needs, and the largest gradient that is made late."""
    rows, columns, flat = shapes
    kept = made = sum(np.prod(g.shape) for g in flat)
    late = 0
    for a, d, form in zip(rows, columns, forms, strict=True):
        gradient = a.shape[1] * d.shape[-1] * outputs
        kept += gradient if form == "gradient" else a.size + d.size
        made += a.size + d.size
        late = max(late, gradient if form == "late" else 0)
    return tuple(int(numbers) * dtype.itemsize for numbers in (kept, made, late))


def compiled_features(structure, forms, outputs):
    """`(leaves, fixed, inputs) -> Features`, compiled."""

    def of_one(leaves, fixed, x):
        rows, columns, flat = structure.features(leaves, fixed, x)
        layers = list(zip(rows, columns, forms, strict=True))
        # One array for all small parameters; those of layers stay apart, copying them would take as long as making them.
        gradients = [jnp.concatenate(flat, axis=1)] if flat else []
        gradients += [_gradient(a, d, outputs) for a, d, form in layers if form == "gradient"]
        return Features(
            products=[(a[0], d[:, 0]) for a, d, form in layers if form == "product"],
            pairs=[(a, d) for a, d, form in layers if form == "pairs"],
            late=[(a, d) for a, d, form in layers if form == "late"],
            gradients=gradients,
        )

    return jax.jit(jax.vmap(of_one, in_axes=(None, None, 0)))


def _gradient(a, d, outputs):
    """`(C, size)` of one example. The order of the entries is free; these need no transposition of the result."""
    if outputs == "full":
        gradient = jnp.einsum("scm,sk->cmk", jnp.transpose(d, (1, 0, 2)), a)
    else:
        gradient = jnp.einsum("sk,csm->kcm", a, d)
    return gradient.reshape(len(d), -1)


@partial(jax.jit, static_argnames="outputs")
def _gradients(rows, columns, outputs):
    return jax.vmap(lambda a, d: _gradient(a, d, outputs))(rows, columns)


def contract(first, second, outputs):
    """The block `(n1 C, n2 C)`, or `(n1, n2)` summed over outputs; `second` is None for a batch with itself.

    Gradients that are made late are those of one layer at a time, so that no more than these are in memory. What
    `on_host` has moved there is contracted by NumPy.
    """
    hosted = isinstance((first.gradients or [d for _, d in first.late] or [None])[0], np.ndarray)
    apart = ["gradients", "late"] if hosted else ["late"]
    together = [features._replace(**dict.fromkeys(apart, [])) for features in (first, second or first)]
    total = _products(*together, outputs) if any(together[0]) else 0
    if hosted:
        return _contract_on_host(first, second, outputs, np.array(total))
    for of_first, of_second in zip(first.late, (second or first).late, strict=True):
        mine = _gradients(*of_first, outputs)
        others = _gradients(*of_second, outputs) if second else mine
        total = total + _products(Features([], [], [], [mine]), Features([], [], [], [others]), outputs)
    return total


def on_host(features):
    """Features of a CPU: gradients, and what they are made of, as NumPy arrays.

    Its BLAS halves the work of a product of a matrix with itself, and memory can be used again; a new array of a
    hundred megabytes takes the system as long as its gradients take to compute.
    """
    return features._replace(
        gradients=[np.asarray(gradient) for gradient in features.gradients],
        late=[(np.asarray(a), np.asarray(d)) for a, d in features.late],
    )


def _contract_on_host(first, second, outputs, total):
    matrix = lambda g: g.reshape((len(g) * g.shape[1], -1) if outputs == "full" else (len(g), -1))

    def add(mine, others):
        mine = matrix(mine)
        return total + mine @ (mine if others is None else matrix(others)).T

    for mine, others in zip(first.gradients, (second or first).gradients, strict=True):
        total = add(mine, second and others)
    buffers = np.empty(0), np.empty(0)
    for mine, others in zip(first.late, (second or first).late, strict=True):
        buffers = _late(*mine, buffers[0]), second and _late(*others, buffers[1])
        total = add(*buffers)
    return total


def _late(rows, columns, buffer):
    """Gradients `(n, C, size)` of a layer, in the memory of those of another if they are of the same shape."""
    n, c, positions, width = columns.shape
    shape = n, c * width, rows.shape[2]
    buffer = buffer.reshape(shape) if buffer.size == np.prod(shape) else np.empty(shape, rows.dtype)
    for a, d, gradient in zip(rows, columns, buffer, strict=True):
        np.matmul(d.transpose(0, 2, 1).reshape(c * width, positions), a, out=gradient)
    return buffer.reshape(n, c, -1)


@partial(jax.jit, static_argnames="outputs")
def _products(first, second, outputs):
    (n1, c), (n2, _), dtype = sizes(first), sizes(second), jax.tree.leaves(first)[0].dtype

    def merged(d):
        return d.reshape((len(d) * c, d.shape[2]) if outputs == "full" else (len(d), c * d.shape[2]))

    total = jnp.zeros((n1, c, n2, c) if outputs == "full" else (n1, n2), dtype)
    for g1, g2 in zip(first.gradients, second.gradients, strict=True):
        total = total + (merged(g1) @ merged(g2).T).reshape(total.shape)
    spread = (lambda k: k[:, None, :, None]) if outputs == "full" else (lambda k: k)
    for (a1, d1), (a2, d2) in zip(first.products, second.products, strict=True):
        cotangents = merged(d1) @ merged(d2).T
        total = total + spread(a1 @ a2.T) * cotangents.reshape(total.shape)
    for (a1, d1), (a2, d2) in zip(first.pairs, second.pairs, strict=True):
        between = jnp.einsum("isk,jtk->isjt", a1, a2)
        middle = jnp.einsum("isjt,icsm->ijctm", between, d1)
        total = total + jnp.einsum("ijctm,jdtm->icjd" if outputs == "full" else "ijctm,jctm->ij", middle, d2)
    return total.reshape(n1 * c, n2 * c) if outputs == "full" else total


@jax.jit
def squared_norms(features):
    """`(n, C)`: of the gradients of each example's outputs."""
    gradients = list(features.gradients) + [_gradients(a, d, "full") for a, d in features.late]
    total = sum(jnp.sum(gradient**2, axis=2) for gradient in gradients)
    for a, d in features.products:
        total = total + jnp.sum(a**2, axis=1)[:, None] * jnp.sum(d**2, axis=2)
    for a, d in features.pairs:
        between = jnp.einsum("isk,itk->ist", a, a)
        total = total + jnp.einsum("ist,icsm,ictm->ic", between, d, d)
    return total


def sizes(features):
    """`(n, C)`."""
    return (
        next((g.shape[:2] for g in features.gradients), None)
        or (features.products + features.pairs + features.late)[0][1].shape[:2]
    )
