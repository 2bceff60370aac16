"""How each parameter enters a network: what the empirical NTK engine needs to avoid building Jacobians.

Any function of parameters and one input is traced to a jaxpr. A parameter that is used once, by a dot product or a
convolution with what depends on the input, is a *layer*: its gradient is the outer product of the layer's input and
the cotangent of its output, summed over positions. All other parameters are *explicit*: their gradients are computed
as such. So every network has a decomposition, and an unknown layer costs time, not correctness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

# Primitives that move the entries of an array and neither change nor repeat them.
MOVES = {"reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy", "copy_p"}


@dataclass
class Layer:
    """A weight that is used once, by `equation`, and the bias that is added to its result, if any.

    Attributes
    ----------
    equation
        number of the jaxpr's equation; its output is what the probe is added to.
    data
        which of its operands depends on the input.
    weight, bias
        numbers of the parameters; `bias` is None without one.
    weight_scale, bias_scale
        the factor with which each enters (NTK parametrisation has one).
    """

    equation: int
    data: int
    weight: int
    weight_scale: float
    bias: int | None = None
    bias_scale: float = 0.0
    shape: tuple = ()  # of the equation's output
    rows: object = field(default=None, repr=False)  # operand -> (positions, inputs)
    columns: object = field(default=None, repr=False)  # cotangent -> (positions, outputs)


@dataclass
class Structure:
    """The decomposition of a network at one input. Made by `analyse`."""

    layers: list
    explicit: list  # numbers of the parameters whose gradients are computed as such
    jaxpr: object
    consts: list
    outputs: int
    reasons: dict  # number of an explicit parameter -> why it is explicit

    def features(self, leaves, fixed, x):
        """Of one input: `(layer rows, layer columns, explicit gradients)`, the last two for each output.

        Rows are `(positions, inputs)`, columns `(C, positions, outputs of the layer)`, gradients `(C, size)`.
        """
        explicit = [leaves[i] for i in self.explicit]
        dtype = self.jaxpr.outvars[0].aval.dtype
        probes = [jnp.zeros(layer.shape, dtype) for layer in self.layers]

        def forward(probes, explicit):
            full = list(leaves)
            for i, leaf in zip(self.explicit, explicit, strict=True):
                full[i] = leaf
            return self._evaluate([*full, *fixed, x], probes)

        _, pull, seen = jax.vjp(forward, probes, explicit, has_aux=True)
        cotangents, gradients = jax.vmap(pull)(jnp.eye(self.outputs, dtype=dtype))
        rows, columns = [], []
        for layer, operand, cotangent in zip(self.layers, seen, cotangents, strict=True):
            row = layer.weight_scale * layer.rows(operand).astype(dtype)
            if layer.bias is not None:
                row = jnp.concatenate([row, jnp.full((len(row), 1), layer.bias_scale, row.dtype)], axis=1)
            rows.append(row)
            columns.append(jax.vmap(layer.columns)(cotangent))
        flat = [gradient.reshape(self.outputs, -1) for gradient in gradients]
        return rows, columns, flat

    def _evaluate(self, arguments, probes):
        """Run the jaxpr with probes added to the layers' outputs; also return the layers' inputs."""
        values = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        values.update(zip(self.jaxpr.invars, arguments, strict=True))
        read = lambda atom: atom.val if isinstance(atom, Literal) else values[atom]
        at = {layer.equation: k for k, layer in enumerate(self.layers)}
        seen = [None] * len(self.layers)
        for number, equation in enumerate(self.jaxpr.eqns):
            operands = [read(atom) for atom in equation.invars]
            bound = equation.primitive.get_bind_params(equation.params)  # a pair before JAX 0.10
            functions, options = bound if isinstance(bound, tuple) else ((), bound)
            results = equation.primitive.bind(*functions, *operands, **options)
            results = list(results) if equation.primitive.multiple_results else [results]
            if number in at:
                k = at[number]
                seen[k] = operands[self.layers[k].data]
                results[0] = results[0] + probes[k].astype(results[0].dtype)
            values.update(zip(equation.outvars, results, strict=True))
        return read(self.jaxpr.outvars[0]).ravel(), seen


def analyse(function, leaves, fixed, x, *, structured=True):
    """Decompose `function(leaves, fixed, x)` of parameters, arrays that are not differentiated, and one input.

    `structured=False`: every parameter is explicit.
    """
    with jax.disable_jit():  # so that no equation hides others
        closed = jax.make_jaxpr(lambda *arguments: function(*arguments).ravel())(leaves, fixed, x)
    jaxpr = closed.jaxpr
    uses, reasons = _uses(jaxpr, len(leaves))
    layers, biases = {}, {}
    for leaf, found in uses.items():
        if not structured:
            reasons[leaf] = "asked for"
        elif len(found) > 1:
            reasons[leaf] = f"used {len(found)} times"
        elif leaf not in reasons and found:
            number, operand, scale = found[0]
            equation = jaxpr.eqns[number]
            layer = Layer(number, 1 - operand, leaf, scale, shape=equation.outvars[0].aval.shape)
            if equation.primitive.name in _LAYERS and _LAYERS[equation.primitive.name](layer, equation):
                layers[equation.outvars[0]] = layer
            elif equation.primitive.name in ("add", "add_any"):
                biases[leaf] = (equation.invars[1 - operand], scale)
            else:
                reasons[leaf] = f"used by {equation.primitive.name}"
    readers = _readers(jaxpr)
    for leaf, (partner, scale) in biases.items():
        partner, factor = _unscaled(jaxpr, partner, readers)
        layer = layers.get(partner)
        width = layer.columns(jnp.zeros(layer.shape)).shape[1] if layer else None
        if layer is None or len(readers[partner]) > 1 or leaves[leaf].size != width or layer.bias is not None:
            reasons[leaf] = "added to what is not the output of a layer alone"
        else:
            layer.bias, layer.bias_scale = leaf, scale / factor
    taken = {layer.weight for layer in layers.values()} | {layer.bias for layer in layers.values()}
    explicit = [i for i in range(len(leaves)) if i not in taken]
    for i in explicit:
        reasons.setdefault(i, "not used")
    return Structure(list(layers.values()), explicit, jaxpr, closed.consts, jaxpr.outvars[0].aval.size, reasons)


def _uses(jaxpr, count):
    """Where each parameter meets the input: `{leaf: [(equation, operand, scale)]}`; and why it cannot be a layer's.

    Followed through `MOVES`, products with constant scalars, and, for what is added, broadcasting.
    """
    views = {var: (leaf, 1.0) for leaf, var in enumerate(jaxpr.invars[:count])}  # var -> (leaf, scale)
    touched = {var: {leaf} for leaf, var in enumerate(jaxpr.invars[:count])}  # parameters that a variable depends on
    data = {jaxpr.invars[-1]}
    broadcast = set()
    uses, reasons = {leaf: [] for leaf in range(count)}, {}
    for number, equation in enumerate(jaxpr.eqns):
        name, atoms = equation.primitive.name, equation.invars
        parameters = {leaf for atom in atoms if not isinstance(atom, Literal) for leaf in touched.get(atom, ())}
        has_data = any(not isinstance(atom, Literal) and atom in data for atom in atoms)
        if has_data:
            data.update(equation.outvars)
            for position, atom in enumerate(atoms):
                if isinstance(atom, Literal) or atom in data or not touched.get(atom):
                    continue
                if atom not in views or len(atoms) != 2:
                    reasons.update((leaf, f"changed before it is used by {name}") for leaf in touched[atom])
                    continue
                leaf, scale = views[atom]
                if atom in broadcast and name not in ("add", "add_any"):
                    reasons[leaf] = f"repeated before it is used by {name}"
                uses[leaf].append((number, position, scale))
            continue
        if not parameters:
            continue
        for var in equation.outvars:
            touched[var] = parameters
        view = _moved(equation, views)
        if view is None:
            reasons.update((leaf, f"changed by {name}") for leaf in parameters)
        else:
            views[equation.outvars[0]] = view
            source = next(atom for atom in atoms if not isinstance(atom, Literal) and atom in views)
            if name == "broadcast_in_dim" or source in broadcast:
                broadcast.add(equation.outvars[0])
    for atom in jaxpr.outvars:
        if not isinstance(atom, Literal):
            reasons.update((leaf, "returned as it is") for leaf in touched.get(atom, ()))
    return uses, reasons


def _moved(equation, views):
    """`(leaf, scale)` of the result, if it is one parameter moved or scaled; else None."""
    name, atoms = equation.primitive.name, equation.invars
    of = [views.get(atom) if not isinstance(atom, Literal) else None for atom in atoms]
    if len(atoms) == 1 and of[0] and name in MOVES | {"broadcast_in_dim"}:
        return of[0]
    if name in ("mul", "div") and len(atoms) == 2:
        for mine, other in ((0, 1), (1, 0)):
            constant = atoms[other]
            if of[mine] and isinstance(constant, Literal) and np.ndim(constant.val) == 0 and (name, mine) != ("div", 1):
                factor = float(constant.val)
                leaf, scale = of[mine]
                return leaf, scale * factor if name == "mul" else scale / factor
    return None


def _unscaled(jaxpr, var, readers):
    """What `var` was before it was moved or multiplied by constants, if nothing else reads it; and their product."""
    factor = 1.0
    while True:
        made = [equation for equation in jaxpr.eqns if var in equation.outvars]
        scaled = (
            _moved(made[0], {atom: (atom, 1.0) for atom in made[0].invars if not isinstance(atom, Literal)})
            if made
            else None
        )
        if scaled is None or made[0].primitive.name == "broadcast_in_dim" or len(readers[var]) > 1:
            return var, factor
        var, factor = scaled[0], factor * scaled[1]


def _readers(jaxpr):
    readers = {}
    for number, equation in enumerate(jaxpr.eqns):
        for atom in equation.invars:
            if not isinstance(atom, Literal):
                readers.setdefault(atom, []).append(number)
    for atom in jaxpr.outvars:
        if not isinstance(atom, Literal):
            readers.setdefault(atom, []).append(-1)
    return readers


def _dot(layer, equation):
    """Fill in a dot product's rows and columns; False if its form is not covered."""
    contracted, batched = equation.params["dimension_numbers"]
    if batched[0]:
        return False
    data = layer.data
    ndim = len(equation.invars[data].aval.shape)
    summed = contracted[data]
    kept = [axis for axis in range(ndim) if axis not in summed]

    def rows(operand):
        moved = jnp.transpose(operand, (*kept, *summed))
        return moved.reshape(math.prod(moved.shape[: len(kept)]), -1)

    def columns(cotangent):
        positions = math.prod(equation.invars[data].aval.shape[axis] for axis in kept)
        return cotangent.reshape(positions, -1) if data == 0 else cotangent.reshape(-1, positions).T

    layer.rows, layer.columns = rows, columns
    return True


def _convolution(layer, equation):
    """Fill in a convolution's rows (patches) and columns; False if its form is not covered."""
    options = equation.params
    if layer.data != 0 or options["feature_group_count"] != 1 or options["batch_group_count"] != 1:
        return False
    if any(step != 1 for step in options["lhs_dilation"]):
        return False
    numbers = options["dimension_numbers"]
    filters = tuple(equation.invars[1].aval.shape[axis] for axis in numbers.rhs_spec[2:])
    out_sizes = tuple(layer.shape[axis] for axis in numbers.out_spec[2:])
    strides, padding, dilation = options["window_strides"], options["padding"], options["rhs_dilation"]

    def rows(operand):
        images = jnp.transpose(operand, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
        images = jax.lax.pad(
            images, jnp.zeros((), images.dtype), [(0, 0, 0), *((*pad, 0) for pad in padding), (0, 0, 0)]
        )
        shifted = []
        for offsets in np.ndindex(*filters):
            starts = [offset * step for offset, step in zip(offsets, dilation, strict=True)]
            ends = [a + (size - 1) * step + 1 for a, size, step in zip(starts, out_sizes, strides, strict=True)]
            shifted.append(
                jax.lax.slice(images, (0, *starts, 0), (images.shape[0], *ends, images.shape[-1]), (1, *strides, 1))
            )
        return jnp.concatenate(shifted, axis=-1).reshape(math.prod(out_sizes) * images.shape[0], -1)

    def columns(cotangent):
        moved = jnp.transpose(cotangent, (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1]))
        return moved.reshape(-1, moved.shape[-1])

    layer.rows, layer.columns = rows, columns
    return True


_LAYERS = {"dot_general": _dot, "conv_general_dilated": _convolution}
