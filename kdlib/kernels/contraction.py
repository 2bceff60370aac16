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

    products: list
    pairs: list
    late: list
    gradients: list


def forms_of(shapes, outputs, kind):
    """The cheapest way to contract each layer for a Gram of a kind ("full" or "sum"), by multiplications and bytes."""
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


def compiled_features(structure, forms, kind):
    """`(leaves, fixed, inputs) -> Features`, compiled, for a Gram of a kind ("full" or "sum")."""

    def of_one(leaves, fixed, x):
        rows, columns, flat = structure.features(leaves, fixed, x)
        layers = list(zip(rows, columns, forms, strict=True))
        # One array for all small parameters; those of layers stay apart, copying them would take as long as making them.
        gradients = [jnp.concatenate(flat, axis=1)] if flat else []
        gradients += [_gradient(a, d, kind) for a, d, form in layers if form == "gradient"]
        return Features(
            products=[(a[0], d[:, 0]) for a, d, form in layers if form == "product"],
            pairs=[(a, d) for a, d, form in layers if form == "pairs"],
            late=[(a, d) for a, d, form in layers if form == "late"],
            gradients=gradients,
        )

    return jax.jit(jax.vmap(of_one, in_axes=(None, None, 0)))


def _gradient(a, d, kind):
    """`(C, size)` of one example. The order of the entries is free; these need no transposition of the result."""
    if kind == "full":
        gradient = jnp.einsum("scm,sk->cmk", jnp.transpose(d, (1, 0, 2)), a)
    else:
        gradient = jnp.einsum("sk,csm->kcm", a, d)
    return gradient.reshape(len(d), -1)


@partial(jax.jit, static_argnames="kind")
def _gradients(rows, columns, kind):
    return jax.vmap(lambda a, d: _gradient(a, d, kind))(rows, columns)


def contract(first, second, kind, *, hosted):
    """The block `(n1 C, n2 C)`, or `(n1, n2)` summed over outputs; `second` is None for a batch with itself.

    Gradients that are made late are those of one layer at a time, so that no more than these are in memory. `hosted`:
    the features have been through `on_host`.
    """
    apart = ["gradients", "late"] if hosted else ["late"]
    together = [features._replace(**dict.fromkeys(apart, [])) for features in (first, second or first)]
    total = _products(*together, kind) if any(together[0]) else np.zeros((), jax.tree.leaves(first)[0].dtype)
    if hosted:
        return _contract_on_host(first, second, kind, np.asarray(total))
    for of_first, of_second in zip(first.late, (second or first).late, strict=True):
        mine = Features([], [], [], [_gradients(*of_first, kind)])
        others = Features([], [], [], [_gradients(*of_second, kind)]) if second else mine
        total = total + _products(mine, others, kind)
        del mine, others  # before those of the next layer are made
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


def _contract_on_host(first, second, kind, total):
    matrix = lambda g: g.reshape((len(g) * g.shape[1], -1) if kind == "full" else (len(g), -1))

    def product(mine, others):
        mine = matrix(mine)
        return mine @ (mine if others is None else matrix(others)).T

    for mine, others in zip(first.gradients, (second or first).gradients, strict=True):
        total = total + product(mine, second and others)
    memory = [None, None]  # of the last layer's gradients
    for layers in zip(first.late, (second or first).late, strict=True):
        for k in range(2 if second else 1):
            memory[k] = _late(*layers[k], memory, k)
        total = total + product(*memory)
    return total


def _late(rows, columns, memory, k):
    """Gradients `(n, C, size)` of a layer, in `memory[k]` if they are as large as what is there."""
    n, c, positions, width = columns.shape
    shape = n, c * width, rows.shape[2]
    if memory[k] is None or memory[k].size != np.prod(shape):
        memory[k] = None  # released before the new is there
        memory[k] = np.empty(shape, rows.dtype)
    found = memory[k].reshape(shape)
    for a, d, gradient in zip(rows, columns, found, strict=True):
        np.matmul(d.transpose(0, 2, 1).reshape(c * width, positions), a, out=gradient)
    return found.reshape(n, c, -1)


@partial(jax.jit, static_argnames="kind")
def _products(first, second, kind):
    (n1, c), (n2, _), dtype = sizes(first), sizes(second), jax.tree.leaves(first)[0].dtype

    def merged(d):
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


def _by_pairs(first, second, kind):
    """A layer's block by pairs of positions, `(n1, C, n2, C)` or `(n1, n2)`, some of the second batch at a time."""
    a1, d1 = first

    def with_one(example):
        a2, d2 = example
        between = jnp.einsum("isk,tk->ist", a1, a2)
        middle = jnp.einsum("ist,icsm->ictm", between, d1)
        return jnp.einsum("ictm,dtm->icd" if kind == "full" else "ictm,ctm->i", middle, d2)

    (n1, c, positions, width), n2 = d1.shape, len(second[1])
    one = n1 * positions * (positions + c * width) * a1.dtype.itemsize
    block = jax.lax.map(with_one, second, batch_size=int(max(1, min(n2, PAIR_BYTES // one))))
    return jnp.moveaxis(block, 0, 2 if kind == "full" else 1)


def squared_norms(features):
    """`(n, C)`: of the gradients of each example's outputs."""
    total = _squared_norms(features._replace(late=[])) if any(features._replace(late=[])) else 0
    for a, d in features.late:
        total = total + _squared_norms(Features([], [], [], [_gradients(a, d, "full")]))
    return total


@jax.jit
def _squared_norms(features):
    total = sum(jnp.sum(gradient**2, axis=2) for gradient in features.gradients)
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
