"""Finite networks in NTK parametrisation: what becomes an infinitely wide student as its width grows (C2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from kdlib.tools.arrays import integer, number


class Architecture(Protocol):
    """What is asked of an architecture, `kdlib.kernels.FullyConnected` or `Convolutional`: a neural-tangents triple."""

    def layers(self, width: int = 1, outputs: int = 1) -> tuple[Any, Any, Any]:
        """`(initialise, apply, kernel)`."""
        ...

    def as_inputs(self, x: Any) -> Any:
        """Inputs in the shape that `apply` takes."""
        ...


@dataclass(frozen=True)
class NTKParametrised:
    """A network of one output and finite `width`, as `kdlib.training.train` takes it; outputs `(n,)`.

    To be trained with `precision="float64"`: neural-tangents' layers scale their weights by double-precision constants,
    which turns float32 into float64 on the way.

    Attributes
    ----------
    output_scale
        multiplies the output. The theory has one; a scale that falls with the width like `width^{-1/2}` leaves the
        linear regime (and kernels are those of the scaled output).
    """

    architecture: Architecture
    width: int
    output_scale: float = 1.0

    def __post_init__(self):
        integer("width", self.width, least=1)
        number("output_scale", self.output_scale)

    def init(self, key: Any, inputs: Any, /) -> dict[str, Any]:
        """`{"params": weights}`, standard normal, float64."""
        shape = (-1, *self.architecture.as_inputs(inputs).shape[1:])
        weights = _layers(self.architecture, self.width)[0](key, shape)[1]
        return {"params": jax.tree.map(lambda w: w.astype(jnp.float64), weights)}

    def apply(self, variables: dict[str, Any], inputs: Any, /) -> jax.Array:
        """Outputs `(n,)`."""
        apply = _layers(self.architecture, self.width)[1]
        return self.output_scale * apply(variables["params"], self.architecture.as_inputs(inputs))[:, 0]


@lru_cache(maxsize=32)
def _layers(architecture: Architecture, width: int):
    return architecture.layers(width=width)
