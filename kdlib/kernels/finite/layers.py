"""How each parameter enters a network: what spares the empirical NTK most of the Jacobian.

Any function of parameters and one input is traced to a jaxpr. A parameter that is used once, by a dot product or a
convolution with what depends on the input, is a *layer*: its gradient is the outer product of the layer's input and
the cotangent of its output, summed over positions. All other parameters are *explicit*: their gradients are computed
as such. So every network has a decomposition, and an unknown layer costs time, not correctness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

# Primitives that move the entries of an array and neither change nor repeat them.
MOVES = {"reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy", "copy_p"}

Source = TypeVar("Source")
Views = Mapping[Var, tuple[Source, float]]  # a variable -> what it is a view of, and the factor


class Matrices(NamedTuple):
    """How a layer's input and its output's cotangent become the two factors of its gradient.

    Attributes
    ----------
    rows
        operand -> `(positions, inputs)`.
    columns
        cotangent -> `(positions, outputs of the layer)`.
    """

    rows: Callable[[jax.Array], jax.Array]
    columns: Callable[[jax.Array], jax.Array]


@dataclass
class Layer:
    """A weight that is used once, by `equation`, and the bias that is added to its result, if any.

    Attributes
    ----------
    equation
        number of the jaxpr's equation; its output is what the probe is added to.
    data
        which of its operands depends on the input.
    shape
        of its output.
    matrices
        of its operand and cotangent.
    weight, bias
        numbers of the parameters; `bias` is None without one.
    weight_scale, bias_scale
        the factor with which each enters (NTK parametrisation has one).
    """

    equation: int
    data: int
    shape: tuple[int, ...]
    matrices: Matrices
    weight: int
    weight_scale: float
    bias: int | None = None
    bias_scale: float = 0.0


class Factors(NamedTuple):
    """Of the gradients of one example's outputs; one entry a layer, or explicit parameter.

    Attributes
    ----------
    rows
        `(positions, inputs)`.
    columns
        `(C, positions, outputs of the layer)`.
    gradients
        explicit ones, `(C, size)`.
    """

    rows: list[jax.Array]
    columns: list[jax.Array]
    gradients: list[jax.Array]


@dataclass(frozen=True)
class Structure:
    """The decomposition of a network at one input. Made by `analyse`.

    Attributes
    ----------
    layers
        see `Layer`.
    explicit
        numbers of the parameters whose gradients are computed as such.
    reasons
        number of an explicit parameter -> why it is explicit.
    outputs
        `C`.
    jaxpr, consts
        of the network on one input, with its outputs as a vector.
    """

    layers: list[Layer]
    explicit: list[int]
    reasons: dict[int, str]
    outputs: int
    jaxpr: Jaxpr
    consts: list[Any]

    def factors(self, leaves: Sequence[Any], fixed: Sequence[Any], x: Any) -> Factors:
        """The factors of the gradients at one input."""
        explicit = [leaves[i] for i in self.explicit]
        dtype = _aval(self.jaxpr.outvars[0]).dtype
        probes = [jnp.zeros(layer.shape, dtype) for layer in self.layers]

        def forward(probes: list[jax.Array], explicit: list[Any]) -> tuple[jax.Array, list[Any]]:
            full = list(leaves)
            for i, leaf in zip(self.explicit, explicit, strict=True):
                full[i] = leaf
            return self._evaluate([*full, *fixed, x], probes)

        _, pull, operands = jax.vjp(forward, probes, explicit, has_aux=True)
        cotangents, gradients = jax.vmap(pull)(jnp.eye(self.outputs, dtype=dtype))
        rows, columns = [], []
        for layer, operand, cotangent in zip(self.layers, operands, cotangents, strict=True):
            row = layer.weight_scale * layer.matrices.rows(operand).astype(dtype)
            if layer.bias is not None:
                row = jnp.concatenate([row, jnp.full((len(row), 1), layer.bias_scale, row.dtype)], axis=1)
            rows.append(row)
            columns.append(jax.vmap(layer.matrices.columns)(cotangent))
        return Factors(rows, columns, [gradient.reshape(self.outputs, -1) for gradient in gradients])

    def _evaluate(self, arguments: Sequence[Any], probes: Sequence[jax.Array]) -> tuple[jax.Array, list[Any]]:
        """The outputs, computed with probes added to the layers' outputs, and the operands of the layers."""
        values: dict[Var, Any] = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        values.update(zip(self.jaxpr.invars, arguments, strict=True))
        read = lambda atom: atom.val if isinstance(atom, Literal) else values[atom]
        layer_at = {layer.equation: k for k, layer in enumerate(self.layers)}
        layer_operands: list[Any] = [None] * len(self.layers)
        for number, equation in enumerate(self.jaxpr.eqns):
            operands = [read(atom) for atom in equation.invars]
            bound = equation.primitive.get_bind_params(equation.params)  # a pair before JAX 0.10
            functions, options = bound if isinstance(bound, tuple) else ((), bound)
            results = equation.primitive.bind(*functions, *operands, **options)
            results = list(results) if equation.primitive.multiple_results else [results]
            if number in layer_at:
                k = layer_at[number]
                layer_operands[k] = operands[self.layers[k].data]
                results[0] = results[0] + probes[k].astype(results[0].dtype)
            values.update(zip(equation.outvars, results, strict=True))
        return read(self.jaxpr.outvars[0]).ravel(), layer_operands


def analyse(
    function: Callable[..., jax.Array], leaves: Sequence[Any], fixed: Sequence[Any], x: Any, *, structured: bool = True
) -> Structure:
    """Decompose `function(leaves, fixed, x)` of parameters, arrays that are not differentiated, and one input.

    `structured=False`: every parameter is explicit.
    """
    with jax.disable_jit():  # so that no equation hides others
        closed = jax.make_jaxpr(lambda *arguments: function(*arguments).ravel())(leaves, fixed, x)
    jaxpr = closed.jaxpr
    layers: dict[Var, Layer] = {}
    if structured:
        followed = _Followed(jaxpr, len(leaves))
        reasons = followed.reasons
        layers, biases = _layers_and_biases(jaxpr, followed)
        _attach(layers, biases, jaxpr, [leaf.size for leaf in leaves], reasons)
    else:
        reasons = dict.fromkeys(range(len(leaves)), "asked for")
    in_layers = {layer.weight for layer in layers.values()} | {layer.bias for layer in layers.values()}
    explicit = [i for i in range(len(leaves)) if i not in in_layers]
    for i in explicit:
        reasons.setdefault(i, "not used")
    return Structure(list(layers.values()), explicit, reasons, _aval(jaxpr.outvars[0]).size, jaxpr, closed.consts)


class _Bias(NamedTuple):
    """A parameter that is added, times `scale`, to the variable `partner`."""

    partner: Any
    scale: float


def _layers_and_biases(jaxpr: Jaxpr, followed: _Followed) -> tuple[dict[Var, Layer], dict[int, _Bias]]:
    """The layers by their output, and what may be their biases; reasons for all else go into `followed.reasons`."""
    layers, biases, reasons = {}, {}, followed.reasons
    for leaf, uses in followed.uses.items():
        if len(uses) > 1:
            reasons[leaf] = f"used {len(uses)} times"
        elif leaf not in reasons and uses:
            (use,) = uses
            equation, data = jaxpr.eqns[use.equation], 1 - use.operand
            name = equation.primitive.name
            matrices = _MATRICES[name](equation, data) if name in _MATRICES else None
            if matrices is not None:
                (output,) = equation.outvars
                layers[output] = Layer(use.equation, data, _aval(output).shape, matrices, leaf, use.scale)
            elif name in ("add", "add_any"):
                biases[leaf] = _Bias(equation.invars[data], use.scale)
            else:
                reasons[leaf] = f"used by {name}"
    return layers, biases


def _attach(
    layers: dict[Var, Layer], biases: dict[int, _Bias], jaxpr: Jaxpr, sizes: list[int], reasons: dict[int, str]
) -> None:
    """Make what is added to a layer's output, and to nothing else, that layer's bias."""
    readers = _readers(jaxpr)
    producers = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
    for leaf, bias in biases.items():
        partner, factor = _unscaled(bias.partner, readers, producers)
        layer = layers.get(partner)
        width = layer.matrices.columns(jnp.zeros(layer.shape)).shape[1] if layer else None
        if layer is None or readers[partner] > 1 or sizes[leaf] != width or layer.bias is not None:
            reasons[leaf] = "added to what is not the output of a layer alone"
        else:
            layer.bias, layer.bias_scale = leaf, bias.scale / factor


class _Use(NamedTuple):
    """A parameter, times `scale`, is an operand of an equation whose other operand depends on the input."""

    equation: int
    operand: int
    scale: float


class _Followed:
    """The parameters of a jaxpr, followed to where they meet the input.

    Through `MOVES`, products with constant scalars, and, for what is added, broadcasting.

    Attributes
    ----------
    uses
        of each parameter.
    reasons
        why a parameter cannot be a layer's.
    """

    def __init__(self, jaxpr: Jaxpr, count: int) -> None:
        parameters = list(enumerate(jaxpr.invars[:count]))
        self.uses: dict[int, list[_Use]] = {leaf: [] for leaf in range(count)}
        self.reasons: dict[int, str] = {}
        self._views: dict[Var, tuple[int, float]] = {var: (leaf, 1.0) for leaf, var in parameters}
        self._leaves = {var: {leaf} for leaf, var in parameters}  # parameters that a variable depends on
        self._data = {jaxpr.invars[-1]}  # variables that depend on the input
        self._broadcast: set[Var] = set()
        for number, equation in enumerate(jaxpr.eqns):
            if any(atom in self._data for atom in _variables(equation.invars)):
                self._data.update(equation.outvars)
                self._meet(number, equation)
            else:
                self._follow(equation)
        for atom in _variables(jaxpr.outvars):
            self.reasons.update((leaf, "returned as it is") for leaf in self._leaves.get(atom, ()))

    def _meet(self, number: int, equation: JaxprEqn) -> None:
        """An equation with data: parameters among its operands are used here."""
        name = equation.primitive.name
        for position, atom in enumerate(equation.invars):
            if isinstance(atom, Literal) or atom in self._data or not self._leaves.get(atom):
                continue
            if atom not in self._views or len(equation.invars) != 2:
                self.reasons.update((leaf, f"changed before it is used by {name}") for leaf in self._leaves[atom])
                continue
            leaf, scale = self._views[atom]
            if atom in self._broadcast and name not in ("add", "add_any"):
                self.reasons[leaf] = f"repeated before it is used by {name}"
            self.uses[leaf].append(_Use(number, position, scale))

    def _follow(self, equation: JaxprEqn) -> None:
        """An equation of parameters and constants: its result is a view of one parameter, or of no use."""
        name, variables = equation.primitive.name, _variables(equation.invars)
        leaves = {leaf for atom in variables for leaf in self._leaves.get(atom, ())}
        if not leaves:
            return
        for var in equation.outvars:
            self._leaves[var] = leaves
        view = _moved(equation, self._views)
        if view is None:
            self.reasons.update((leaf, f"changed by {name}") for leaf in leaves)
            return
        self._views[equation.outvars[0]] = view
        source = next(atom for atom in variables if atom in self._views)
        if name == "broadcast_in_dim" or source in self._broadcast:
            self._broadcast.add(equation.outvars[0])


def _aval(atom: Any) -> Any:
    """Shape, dtype and size of a variable or literal; JAX's own types do not say that it has them."""
    return atom.aval


def _variables(atoms: Sequence[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _moved(equation: JaxprEqn, views: Views[Source]) -> tuple[Source, float] | None:
    """The view that the result is, if it is one of `views` moved or scaled; else None."""
    name, atoms = equation.primitive.name, equation.invars
    operands = [None if isinstance(atom, Literal) else views.get(atom) for atom in atoms]
    if len(atoms) == 1 and operands[0] and name in MOVES | {"broadcast_in_dim"}:
        return operands[0]
    if name in ("mul", "div") and len(atoms) == 2:
        for position, view in enumerate(operands):
            constant = atoms[1 - position]
            if view and isinstance(constant, Literal) and not np.ndim(constant.val) and (name, position) != ("div", 1):
                source, scale = view
                factor = float(constant.val)
                return source, scale * factor if name == "mul" else scale / factor
    return None


def _unscaled(var: Any, readers: dict[Var, int], producers: dict[Var, JaxprEqn]) -> tuple[Any, float]:
    """What `var` was before it was moved or multiplied by constants, if nothing else reads it; and their product."""
    factor = 1.0
    while not isinstance(var, Literal) and var in producers:
        equation = producers[var]
        view = _moved(equation, {atom: (atom, 1.0) for atom in _variables(equation.invars)})
        if view is None or equation.primitive.name == "broadcast_in_dim" or readers[var] > 1:
            break
        var, factor = view[0], factor * view[1]
    return var, factor


def _readers(jaxpr: Jaxpr) -> dict[Var, int]:
    """How often each variable is read, by equations or as an output."""
    readers: dict[Var, int] = {}
    for atoms in (*(equation.invars for equation in jaxpr.eqns), jaxpr.outvars):
        for atom in _variables(atoms):
            readers[atom] = readers.get(atom, 0) + 1
    return readers


def _dot(equation: JaxprEqn, data: int) -> Matrices | None:
    """Of a dot product; None if its form is not covered."""
    contracted, batched = equation.params["dimension_numbers"]
    if batched[0]:
        return None
    shape = _aval(equation.invars[data]).shape
    summed = contracted[data]
    free = [axis for axis in range(len(shape)) if axis not in summed]

    def rows(operand: jax.Array) -> jax.Array:
        moved = jnp.transpose(operand, (*free, *summed))
        return moved.reshape(math.prod(moved.shape[: len(free)]), -1)

    def columns(cotangent: jax.Array) -> jax.Array:
        positions = math.prod(shape[axis] for axis in free)
        return cotangent.reshape(positions, -1) if data == 0 else cotangent.reshape(-1, positions).T

    return Matrices(rows, columns)


def _convolution(equation: JaxprEqn, data: int) -> Matrices | None:
    """Of a convolution: its rows are patches; None if its form is not covered."""
    options = equation.params
    if data != 0 or options["feature_group_count"] != 1 or options["batch_group_count"] != 1:
        return None
    if any(step != 1 for step in options["lhs_dilation"]):
        return None
    numbers = options["dimension_numbers"]
    filters = tuple(_aval(equation.invars[1]).shape[axis] for axis in numbers.rhs_spec[2:])
    out_sizes = tuple(_aval(equation.outvars[0]).shape[axis] for axis in numbers.out_spec[2:])
    strides, dilation = options["window_strides"], options["rhs_dilation"]
    padding = [(0, 0, 0), *((*pad, 0) for pad in options["padding"]), (0, 0, 0)]

    def rows(operand: jax.Array) -> jax.Array:
        images = jnp.transpose(operand, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
        images = jax.lax.pad(images, jnp.zeros((), images.dtype), padding)
        shifted = []
        for offsets in np.ndindex(*filters):
            starts = [offset * step for offset, step in zip(offsets, dilation, strict=True)]
            ends = [a + (size - 1) * step + 1 for a, size, step in zip(starts, out_sizes, strides, strict=True)]
            window = (0, *starts, 0), (images.shape[0], *ends, images.shape[-1]), (1, *strides, 1)
            shifted.append(jax.lax.slice(images, *window))
        return jnp.concatenate(shifted, axis=-1).reshape(math.prod(out_sizes) * images.shape[0], -1)

    def columns(cotangent: jax.Array) -> jax.Array:
        moved = jnp.transpose(cotangent, (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1]))
        return moved.reshape(-1, moved.shape[-1])

    return Matrices(rows, columns)


_MATRICES = {"dot_general": _dot, "conv_general_dilated": _convolution}
