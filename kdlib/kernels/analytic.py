"""Infinite-width neural tangent kernels of fully-connected and convolutional students.

The kernels come from neural-tangents, which is imported when the first one is computed; this file adds the blocking
that keeps `N = 10,000` inside memory, the normalisation, and clear errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from kdlib.tools.arrays import choice, integer, number, real_array

Activation = Literal["relu", "erf", "gelu"]
PIXEL_PAIRS_PER_BLOCK = 2**26  # float64 intermediate arrays of at most about half a gigabyte each


@dataclass(frozen=True)
class FullyConnected:
    """A fully-connected network of `depth` weight layers in NTK parametrisation; inputs are flattened."""

    depth: int = 3
    activation: Activation = "relu"
    weight_std: float = 2.0**0.5
    bias_std: float = 0.1

    def __post_init__(self) -> None:
        _check_architecture(self)

    def as_inputs(self, x: Any) -> jax.Array:
        """Inputs as vectors, `(n, d)`."""
        x = jnp.asarray(x)
        if x.ndim < 2:
            raise ValueError(f"inputs must have shape (n, ...), not {x.shape}")
        return x.reshape(len(x), -1)

    def layers(self, width: int = 1, outputs: int = 1) -> tuple[Any, Any, Any]:
        """The neural-tangents triple (init, apply, kernel); `width` matters to finite networks only."""
        stax = _stax()
        dense = dict(W_std=self.weight_std, b_std=self.bias_std)
        hidden = [layer for _ in range(self.depth - 1) for layer in (stax.Dense(width, **dense), _activation(self))]
        return stax.serial(*hidden, stax.Dense(outputs, **dense))


@dataclass(frozen=True)
class Convolutional:
    """`depth - 1` convolutions of stride one and same padding, then one dense layer on all pixels ("flatten") or on
    their average ("average"; a kernel value then costs the square of the number of pixels, not the number)."""

    depth: int = 3
    activation: Activation = "relu"
    weight_std: float = 2.0**0.5
    bias_std: float = 0.1
    filter_size: int = 3
    pooling: Literal["flatten", "average"] = "flatten"

    def __post_init__(self) -> None:
        _check_architecture(self)
        integer("filter_size", self.filter_size, least=1)
        choice("pooling", self.pooling, ("flatten", "average"))

    def as_inputs(self, x: Any) -> jax.Array:
        """Images, `(n, height, width, channels)`."""
        x = jnp.asarray(x)
        if x.ndim != 4:
            raise ValueError(f"inputs must be images (n, height, width, channels), not an array of shape {x.shape}")
        return x

    def layers(self, width: int = 1, outputs: int = 1) -> tuple[Any, Any, Any]:
        """The neural-tangents triple (init, apply, kernel); `width` matters to finite networks only."""
        stax = _stax()
        std = dict(W_std=self.weight_std, b_std=self.bias_std)
        shape = (self.filter_size, self.filter_size)
        pool = stax.Flatten() if self.pooling == "flatten" else stax.GlobalAvgPool()
        convolutions = [
            layer
            for _ in range(self.depth - 1)
            for layer in (stax.Conv(width, shape, padding="SAME", **std), _activation(self))
        ]
        return stax.serial(*convolutions, pool, stax.Dense(outputs, **std))


def analytic_ntk(
    architecture: FullyConnected | Convolutional, x1: Any, x2: Any = None, *, normalised: bool = False,
    block: int | None = None, dtype: Any = np.float64, progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """The infinite-width NTK `k(x1, x2)` of a scalar-output network.

    With `C` outputs the full kernel is `k (x) I_C`, so the scalar one is all there is to compute.

    Parameters
    ----------
    architecture
        `FullyConnected` or `Convolutional`.
    x1, x2
        inputs `(n, ...)`: `(n, d)` or images `(n, height, width, channels)`. `x2=None` means `x1`: only the
        blocks on and above the diagonal are computed then, and the result is exactly symmetric.
    normalised
        divide by `sqrt(k(x, x) k(x', x'))`, so that `k(x, x) = 1`.
    block
        rows and columns computed at once; chosen from the number of pixels by default.
    dtype
        of the computation and of the result, float32 or float64.
    progress
        show a progress bar when there are more than a few blocks.

    Returns
    -------
    NumPy array `(n1, n2)`, in main memory also when the blocks were computed on a GPU.
    """
    x1 = _inputs(architecture, x1, "x1", dtype)
    symmetric = x2 is None
    x2 = x1 if symmetric else _inputs(architecture, x2, "x2", dtype)
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(f"x1 and x2 must hold inputs of one shape, not {x1.shape[1:]} and {x2.shape[1:]}")
    block = _block(architecture, x1) if block is None else integer("block", block, least=1)
    kernel = _kernel(architecture)
    rows, columns = _starts(len(x1), block), _starts(len(x2), block)
    pairs = [(i, j) for i in rows for j in columns if not symmetric or j >= i]
    gram = np.empty((len(x1), len(x2)), dtype)
    for i, j in tqdm(pairs, desc="kernel blocks", disable=not progress or len(pairs) < 8):
        values = np.asarray(kernel(x1[i : i + block], x2[j : j + block]))
        gram[i : i + block, j : j + block] = values
        if symmetric and i == j:  # rounding makes the two triangles differ in the last bit
            values = np.tril(values) + np.tril(values, -1).T
            gram[i : i + block, i : i + block] = values
        elif symmetric:
            gram[j : j + block, i : i + block] = values.T
    if normalised:
        if symmetric:
            scale1 = scale2 = np.sqrt(np.diagonal(gram).copy())
        else:
            scale1, scale2 = (np.sqrt(analytic_diagonal(architecture, x, dtype=dtype)) for x in (x1, x2))
        if not (scale1.all() and scale2.all()):
            raise ValueError("k(x, x) of some input is zero (an input of zeros, without biases): it cannot be made one")
        gram /= scale1[:, None]
        gram /= scale2[None, :]
        if symmetric:
            np.fill_diagonal(gram, 1.0)
    return gram


def centred_ntk(
    architecture: FullyConnected | Convolutional, x1: Any, x2: Any = None, *, centre: Any, progress: bool = True
) -> np.ndarray:
    """The normalised NTK of features less their mean over the inputs `centre`, normalised to one again.

    Arguments and result as in `analytic_ntk`. In a bound, `centre` must be fixed before the sample: other inputs.
    """
    kernel = lambda a, b=None: analytic_ntk(architecture, a, b, normalised=True, progress=progress)
    overall = kernel(centre).mean()
    mean1 = kernel(x1, centre).mean(axis=1)
    mean2 = mean1 if x2 is None else kernel(x2, centre).mean(axis=1)
    centred = kernel(x1, x2) - mean1[:, None] - mean2[None, :] + overall
    left1, left2 = 1 - 2 * mean1 + overall, 1 - 2 * mean2 + overall
    if min(left1.min(), left2.min()) < 1e-12:
        raise ValueError("an input is the centre itself: nothing of its kernel is left. Give more inputs as `centre`")
    centred /= np.sqrt(left1)[:, None] * np.sqrt(left2)[None, :]
    if x2 is None:
        np.fill_diagonal(centred, 1.0)
    return centred


def analytic_diagonal(architecture: FullyConnected | Convolutional, x: Any, *, dtype: Any = np.float64) -> np.ndarray:
    """`k(x, x)` of each input, shape `(n,)`: what the power function starts from.

    For ReLU accurate to about 1e-8 in float64: the arc-cosine formulas turn rounding at angle zero into its square
    root. A normalised kernel has the exact one on its diagonal instead.
    """
    x = _inputs(architecture, x, "x", dtype)
    kernel, step = _kernel(architecture), min(32, len(x))
    diagonal = np.empty(len(x), dtype)
    for i in _starts(len(x), step):
        diagonal[i : i + step] = np.diagonal(kernel(x[i : i + step], x[i : i + step]))
    return diagonal


@lru_cache(maxsize=16)
def _kernel(architecture: FullyConnected | Convolutional) -> Callable[[Any, Any], Any]:
    kernel = architecture.layers()[2]
    return jax.jit(lambda a, b: kernel(a, b, "ntk"))


def _stax() -> Any:
    from kdlib.kernels._neural_tangents import stax

    return stax


def _activation(architecture: FullyConnected | Convolutional) -> Any:
    return {"relu": _stax().Relu, "erf": _stax().Erf, "gelu": _stax().Gelu}[architecture.activation]()


def _check_architecture(architecture: FullyConnected | Convolutional) -> None:
    integer("depth", architecture.depth, least=1)
    choice("activation", architecture.activation, ("relu", "erf", "gelu"))
    number("weight_std", architecture.weight_std, above=0)
    number("bias_std", architecture.bias_std, least=0)


def _inputs(architecture: FullyConnected | Convolutional, x: Any, name: str, dtype: Any) -> jax.Array:
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, not {np.dtype(dtype)}")
    if not hasattr(architecture, "as_inputs"):
        raise TypeError(f"architecture must be FullyConnected or Convolutional, not {type(architecture).__name__}")
    x = jnp.asarray(real_array(name, x), dtype)
    if not x.ndim or not len(x) or not bool(jnp.isfinite(x).all()):
        raise ValueError(f"{name} must have shape (n, ...) with n >= 1 and finite entries, in {np.dtype(dtype)}")
    try:
        return architecture.as_inputs(x)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _block(architecture: FullyConnected | Convolutional, x: jax.Array) -> int:
    if not isinstance(architecture, Convolutional):
        return min(1024, len(x))
    pixels = x.shape[1] * x.shape[2]
    per_pair = pixels if architecture.pooling == "flatten" else pixels**2
    return max(1, min(len(x), int((PIXEL_PAIRS_PER_BLOCK / per_pair) ** 0.5)))


def _starts(n: int, block: int) -> list[int]:
    """Where blocks of one size begin; the last one overlaps its neighbour rather than being smaller, so that
    nothing is compiled twice."""
    return sorted({min(i, max(n - block, 0)) for i in range(0, n, block)})
