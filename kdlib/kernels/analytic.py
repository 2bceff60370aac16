"""Infinite-width neural tangent kernels of fully-connected and convolutional students.

The kernels come from neural-tangents; this file adds the blocking that keeps `N = 10,000` inside memory, the
normalisation, and clear errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from kdlib.kernels._neural_tangents import stax

ACTIVATIONS = {"relu": stax.Relu, "erf": stax.Erf, "gelu": stax.Gelu}
PIXEL_PAIRS_PER_BLOCK = 2**26  # float64 intermediate arrays of at most about half a gigabyte each


@dataclass(frozen=True)
class FullyConnected:
    """A fully-connected network of `depth` weight layers in NTK parametrisation; inputs are flattened."""

    depth: int = 3
    activation: str = "relu"
    weight_std: float = 2.0**0.5
    bias_std: float = 0.1

    def layers(self, width: int = 1, outputs: int = 1):
        """The neural-tangents triple (init, apply, kernel); `width` matters to finite networks only."""
        dense = dict(W_std=self.weight_std, b_std=self.bias_std)
        hidden = [layer for _ in range(self.depth - 1) for layer in (stax.Dense(width, **dense), _activation(self))]
        return stax.serial(*hidden, stax.Dense(outputs, **dense))


@dataclass(frozen=True)
class Convolutional:
    """`depth - 1` convolutions of stride one and same padding, then one dense layer on all pixels ("flatten") or on
    their average ("average"; a kernel value then costs the square of the number of pixels, not the number)."""

    depth: int = 3
    activation: str = "relu"
    weight_std: float = 2.0**0.5
    bias_std: float = 0.1
    filter_size: int = 3
    pooling: str = "flatten"

    def layers(self, width: int = 1, outputs: int = 1):
        """The neural-tangents triple (init, apply, kernel); `width` matters to finite networks only."""
        std = dict(W_std=self.weight_std, b_std=self.bias_std)
        shape = (self.filter_size, self.filter_size)
        if self.pooling not in ("flatten", "average"):
            raise ValueError(f'pooling must be "flatten" or "average", not {self.pooling!r}')
        pool = stax.Flatten() if self.pooling == "flatten" else stax.GlobalAvgPool()
        convolutions = [
            layer
            for _ in range(self.depth - 1)
            for layer in (stax.Conv(width, shape, padding="SAME", **std), _activation(self))
        ]
        return stax.serial(*convolutions, pool, stax.Dense(outputs, **std))


def analytic_ntk(architecture, x1, x2=None, *, normalised=False, block=None, dtype=np.float64, progress=True):
    """The infinite-width NTK `k(x1, x2)` of a scalar-output network (the kernel of section 0).

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
    block = block or _block(architecture, x1)
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
        diagonal = np.diagonal(gram).copy() if symmetric else None
        scale1 = np.sqrt(diagonal if symmetric else analytic_diagonal(architecture, x1, dtype=dtype))
        scale2 = scale1 if symmetric else np.sqrt(analytic_diagonal(architecture, x2, dtype=dtype))
        gram /= scale1[:, None]
        gram /= scale2[None, :]
        if symmetric:
            np.fill_diagonal(gram, 1.0)
    return gram


def centred_ntk(architecture, x1, x2=None, *, centre, progress=True):
    """The normalised NTK of features less their mean over the inputs `centre`, normalised to one again.

    Arguments and result as in `analytic_ntk`. In a bound, `centre` must be fixed before the sample: other inputs.
    """
    kernel = lambda a, b=None: analytic_ntk(architecture, a, b, normalised=True, progress=progress)
    overall = kernel(centre).mean()
    mean1 = kernel(x1, centre).mean(axis=1)
    mean2 = mean1 if x2 is None else kernel(x2, centre).mean(axis=1)
    centred = kernel(x1, x2) - mean1[:, None] - mean2[None, :] + overall
    centred /= np.sqrt(1 - 2 * mean1 + overall)[:, None] * np.sqrt(1 - 2 * mean2 + overall)[None, :]
    if x2 is None:
        np.fill_diagonal(centred, 1.0)
    return centred


def analytic_diagonal(architecture, x, *, dtype=np.float64):
    """`k(x, x)` of each input, shape `(n,)`: what the power function starts from.

    For ReLU accurate to about 1e-8 in float64: the arc-cosine formulas turn rounding at angle zero into its square root.
    A normalised kernel has the exact one on its diagonal instead.
    """
    x = _inputs(architecture, x, "x", dtype)
    kernel, step = _kernel(architecture), min(32, len(x))
    diagonal = np.empty(len(x), dtype)
    for i in _starts(len(x), step):
        diagonal[i : i + step] = np.diagonal(kernel(x[i : i + step], x[i : i + step]))
    return diagonal


@lru_cache(maxsize=16)
def _kernel(architecture):
    kernel = architecture.layers()[2]
    return jax.jit(lambda a, b: kernel(a, b, "ntk"))


def _activation(architecture):
    if architecture.activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, not {architecture.activation!r}")
    return ACTIVATIONS[architecture.activation]()


def _inputs(architecture, x, name, dtype):
    x = jnp.asarray(x, dtype)
    if isinstance(architecture, Convolutional):
        if x.ndim != 4:
            raise ValueError(f"{name} must hold images (n, height, width, channels), not an array of shape {x.shape}")
        return x
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape (n, ...), not {x.shape}")
    return x.reshape(len(x), -1)


def _block(architecture, x):
    if not isinstance(architecture, Convolutional):
        return min(1024, len(x))
    pixels = x.shape[1] * x.shape[2]
    per_pair = pixels if architecture.pooling == "flatten" else pixels**2
    return max(1, min(len(x), int((PIXEL_PAIRS_PER_BLOCK / per_pair) ** 0.5)))


def _starts(n, block):
    """Where blocks of one size begin; the last one overlaps its neighbour rather than being smaller, so that
    nothing is compiled twice."""
    return sorted({min(i, max(n - block, 0)) for i in range(0, n, block)})
