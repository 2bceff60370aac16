"""The doorway: every public function takes its arrays and numbers through here, so that what is wrong is refused.

Each function returns what it was given as the array or number that the caller computes with, or raises a `ValueError`
(a `TypeError` where the kind of thing is wrong) that names the argument, says what it is and what it should be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

TILE = 1024  # of a Gram, in the search for its largest asymmetry


def real_array(
    name: str, value: Any, *, shape: tuple | None = None, ndim: int | Sequence[int] | None = None
) -> np.ndarray:
    """`value` as a float64 array without NaN and infinities.

    Parameters
    ----------
    name
        of the argument, for messages.
    shape
        that it must have; None as an entry allows any length.
    ndim
        number of axes, or those allowed.
    """
    array = np.asarray(value)
    if array.dtype.kind == "c":
        raise ValueError(f"{name} must be real, not complex: take its real part if that is meant")
    if array.dtype.kind not in "fiub" and str(array.dtype) != "bfloat16":
        raise TypeError(f"{name} must be an array of numbers, not of {array.dtype}")
    array = array.astype(np.float64, copy=False)
    if shape is not None and not _fits(array.shape, shape):
        raise ValueError(f"{name} must have shape {_shape(shape)}, not {array.shape}")
    if ndim is not None and array.ndim not in ((ndim,) if isinstance(ndim, int) else ndim):
        axes = ndim if isinstance(ndim, int) else " or ".join(map(str, ndim))
        raise ValueError(f"{name} must have {axes} axes, not shape {array.shape}")
    if not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        where = f"; row {first[0]} holds {array[first]}" if first else f", not {array}"
        raise ValueError(f"{name} must be finite{where}")
    return array


def not_negative(name: str, value: Any, **options: Any) -> np.ndarray:
    """`value` as `real_array` has it, without negative entries."""
    array = real_array(name, value, **options)
    if array.size and array.min() < 0:
        raise ValueError(f"{name} must not be negative, like {array.min():g}")
    return array


def gram_matrix(name: str, value: Any, size: int | None = None) -> np.ndarray:
    """`value` as a Gram matrix: float64, square, finite, symmetric to 1e-6 of its largest entry, no negative
    diagonal.
    """
    array = real_array(name, value, ndim=2)
    if array.shape[0] != array.shape[1] or not len(array) or size not in (None, len(array)):
        wanted = "a square matrix" if size is None else f"{(size, size)}, one row an example"
        raise ValueError(f"{name} must be {wanted}, not of shape {array.shape}")
    largest = float(np.abs(array).max())
    if _asymmetry(array) > 1e-6 * largest:
        raise ValueError(f"{name} is not symmetric: it is no Gram matrix")
    if np.diagonal(array).min() < 0:
        raise ValueError(f"{name} has a negative entry on its diagonal, so a negative eigenvalue: it is no Gram matrix")
    return array


def positive_spectrum(name: str, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors of a checked Gram; ValueError if one is negative beyond rounding."""
    eigenvalues, modes = np.linalg.eigh(array)
    if eigenvalues[0] < -1e-10 * max(eigenvalues[-1], 0.0):
        raise ValueError(f"{name} has the negative eigenvalue {eigenvalues[0]:.3g}: it is no kernel's Gram matrix")
    return np.maximum(eigenvalues, 0.0), modes


def number(
    name: str, value: Any, *, least: float | None = None, most: float | None = None, above: float | None = None,
    below: float | None = None,
) -> float:  # fmt: skip
    """`value` as a finite float within its bounds: `least <= value <= most`, `above < value < below`."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or not (isinstance(value, Real) or _scalar_array(value)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    result = float(value)
    inside = (
        (least is None or result >= least) and (most is None or result <= most)
        and (above is None or result > above) and (below is None or result < below)
    )  # fmt: skip
    if not (math.isfinite(result) and inside):
        low = f"[{least:g}" if least is not None else f"({above:g}" if above is not None else "(-inf"
        high = f"{most:g}]" if most is not None else f"{below:g})" if below is not None else "inf)"
        raise ValueError(f"{name} must be a finite number in {low}, {high}, not {value}")
    return result


def integer(name: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int within its bounds."""
    whole = isinstance(value, Integral) or (_scalar_array(value) and np.asarray(value).dtype.kind in "iu")
    if isinstance(value, (bool, np.bool_)) or not whole:
        raise TypeError(f"{name} must be an integer, not {value!r}")
    result = int(value)
    if (least is not None and result < least) or (most is not None and result > most):
        raise ValueError(
            f"{name} must be an integer in "
            f"{least if least is not None else ''}..{most if most is not None else ''}, "
            f"not {result}"
        )
    return result


def instance(name: str, value: Any, kind: type) -> Any:
    """`value`, which must be a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")
    return value


def choice(name: str, value: Any, options: Sequence[Any]) -> Any:
    """`value`, if it is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(repr(option) for option in options)}, not {value!r}")
    return value


def logits_and_labels(logits: Any, labels: Any, *, name: str = "teacher_logits") -> tuple[np.ndarray, np.ndarray]:
    """Logits and hard labels that fit: `(n,)` with labels -1 and 1, or `(n, C)`, `C >= 2`, with integers in `0..C-1`.

    Returns float64 logits, and labels as float64 signs or int64 classes.
    """
    logits = real_array(name, logits)
    if logits.ndim not in (1, 2) or (logits.ndim == 2 and logits.shape[1] < 2) or not len(logits):
        raise ValueError(f"{name} must have shape (n,) or (n, C) with C >= 2, not {logits.shape}")
    if logits.ndim == 1:
        return logits, sign_labels(labels, len(logits))
    return logits, class_labels(labels, len(logits), logits.shape[1])


def sign_labels(labels: Any, count: int) -> np.ndarray:
    """`count` labels of two classes as float64 -1 and 1."""
    signs = real_array("labels", labels)
    if signs.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one per row of the outputs, not {signs.shape}")
    if not (np.abs(signs) == 1).all():
        raise ValueError("labels of two classes must be -1 or 1; map {0, 1} by 2 * y - 1")
    return signs


def class_labels(labels: Any, count: int, classes: int) -> np.ndarray:
    """`count` labels as int64 in `0..classes-1`."""
    array = np.asarray(labels)
    if array.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one per row of the outputs, not {array.shape}")
    if array.dtype.kind not in "iu" or (count and (array.min() < 0 or array.max() >= classes)):
        raise ValueError(f"labels must be integers in 0..{classes - 1}, the columns of the logits")
    return array.astype(np.int64)


def kernel_diagonal(
    name: str, value: Any, count: int, explained: np.ndarray | None = None, tolerance: float = 1e-6
) -> np.ndarray:
    """`k(x, x)` of `count` inputs: not negative, and not below what `explained` says other inputs account for.

    The latter would be a negative posterior variance, beyond rounding (`tolerance`, relative): then it is not the
    diagonal of the same kernel.
    """
    diagonal = real_array(name, value, shape=(count,))
    if count and diagonal.min() < 0:
        raise ValueError(
            f"{name} must hold k(x, x), which is not negative; entry {int(diagonal.argmin())} is {diagonal.min():g}"
        )
    if explained is not None and count:
        excess = explained - diagonal - tolerance * np.maximum(diagonal, explained)
        if excess.max() > 0:
            worst = int(excess.argmax())
            raise ValueError(
                f"{name}[{worst}] = {diagonal[worst]:g} is below "
                f"{explained[worst]:g}, what the training inputs explain of "
                "k(x, x): it is not the diagonal of the kernel that gave `gram` and "
                "`cross` (was one of them normalised?)"
            )
    return diagonal


def _asymmetry(array: np.ndarray) -> float:
    """Largest entry of `|K - K^T|`, tile by tile, so that no second matrix is made."""
    worst = 0.0
    for i in range(0, len(array), TILE):
        for j in range(i, len(array), TILE):
            difference = array[i : i + TILE, j : j + TILE] - array[j : j + TILE, i : i + TILE].T
            worst = max(worst, float(np.abs(difference).max()))
    return worst


def _scalar_array(value: Any) -> bool:
    return getattr(value, "shape", None) == () and getattr(getattr(value, "dtype", None), "kind", "") in "fiu"


def _fits(shape: tuple, wanted: tuple) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def _shape(wanted: tuple) -> str:
    entries = ", ".join("any" if w is None else str(w) for w in wanted)
    return f"({entries},)" if len(wanted) == 1 else f"({entries})"
