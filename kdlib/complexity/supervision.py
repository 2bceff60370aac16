"""Supervision complexity (S1): the squared norm that a student needs to give the answers of its supervision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdlib.path import interpolation_path
from kdlib.tools.arrays import number, real_array


@dataclass(frozen=True)
class Complexity:
    """The supervision complexity of one set of targets. Made by `supervision_complexity`.

    Attributes
    ----------
    value
        `v^T (K + ridge I)^{-1} v`: without a ridge the squared norm of the minimum-norm interpolant (S1).
    trace
        `tr K` over all outputs, without the ridge.
    examples
        `n`.
    ridge
        what was added to the diagonal: zero unless the caller asked for it.
    """

    value: float
    trace: float
    examples: int
    ridge: float

    @property
    def adjusted(self) -> float:
        """`A(v) = sqrt(SC(v) tr K) / n`: the complexity term of the margin bound, up to its constant and the margin."""
        return float(np.sqrt(self.value * self.trace)) / self.examples


def supervision_complexity(gram, targets, *, ridge: float = 0.0) -> Complexity:
    """`v^T (K + ridge I)^{-1} v`, the supervision complexity of Harutyunyan et al. (S1).

    Parameters
    ----------
    gram
        `(n, n)`: one kernel, shared by all outputs; or `(nC, nC)` or `(n, C, n, C)` for `C` outputs with a kernel
        across them, ordered as `targets.ravel()`.
    targets
        `(n,)` or `(n, C)`.
    ridge
        added to the diagonal. It makes the value smaller: it is reported in the result, and none is added unasked.

    Returns
    -------
    `Complexity`: value, adjusted value, trace, ridge.

    Raises
    ------
    ValueError
        shapes that do not fit, entries that are not finite, a negative ridge.
    kdlib.path.NotPositiveDefiniteError
        a Gram that is singular to working precision.
    """
    gram, targets = real_array("gram", gram, ndim=(2, 4)), real_array("targets", targets, ndim=(1, 2))
    ridge = number("ridge", ridge, least=0)
    n, outputs = len(targets), targets.size // max(len(targets), 1)
    shared = gram.shape == (n, n)
    if gram.shape not in ((n, n), (n * outputs, n * outputs), (n, outputs, n, outputs)):
        raise ValueError(
            f"gram must have shape {(n, n)}, {(n * outputs,) * 2} or {(n, outputs) * 2} for targets of shape "
            f"{targets.shape}, not {gram.shape}"
        )
    if not shared:
        gram, targets = gram.reshape(n * outputs, n * outputs), targets.ravel()
    trace = float(np.trace(gram)) * (outputs if shared else 1)
    shifted = gram if ridge == 0 else gram + ridge * np.eye(len(gram))
    value = float(np.sum(interpolation_path(shifted, targets).coefficients ** 2))
    return Complexity(value=value, trace=trace, examples=n, ridge=ridge)


def adjusted_supervision_complexity(gram, targets, *, ridge: float = 0.0) -> float:
    """`sqrt(SC(v) tr K) / n`, a float. Arguments and errors as in `supervision_complexity`."""
    return supervision_complexity(gram, targets, ridge=ridge).adjusted
