"""Data inefficiency and risk of a task from one sample (D9), by leaving out each example in turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from kdlib.path import interpolation_path
from kdlib.tools.arrays import real_array


@dataclass(frozen=True)
class LeaveOneOut:
    """What each example adds to its sample. Made by `leave_one_out`.

    Attributes
    ----------
    norm_increments
        `a_i^2 / (K^{-1})_{ii}` with `a = K^{-1} v`: by how much the squared norm of the interpolant grows with example
        `i`, given all others. Of the targets' shape. Their mean estimates `E||w_n||^2 - E||w_{n-1}||^2`.
    predictions
        `v_i - a_i / (K^{-1})_{ii}`: what the interpolant of all others says at example `i`. Of the targets' shape.
        The share of wrong signs estimates the risk of `n - 1` examples.
    squared_norm
        of the interpolant of all examples, summed over outputs.
    """

    norm_increments: np.ndarray
    predictions: np.ndarray
    squared_norm: float

    @property
    def inefficiency(self) -> float:
        """`I(n - 1)` of this sample, averaged over which example comes last: a ratio, and so not without bias."""
        grown = self.norm_increments.sum() / len(self.norm_increments)
        return float((len(self.norm_increments) - 1) * grown / (self.squared_norm - grown))


def leave_one_out(gram, targets) -> LeaveOneOut:
    """The interpolant of all examples but one, for each of them, from one factorisation (D9).

    Both means are without bias where the examples are independent, each target depends on its own example only (not so
    for shuffled labels) and there is no ridge. The terms depend on each other: there is no interval from them.

    Parameters
    ----------
    gram
        `(n, n)`, symmetric positive definite.
    targets
        `(n,)`, or `(n, C)` for outputs that share the kernel.

    Raises
    ------
    ValueError, kdlib.path.NotPositiveDefiniteError
        as `kdlib.path.interpolation_path`; and a single example, which leaves nothing.
    """
    path = interpolation_path(gram, targets)
    if len(path) < 2:
        raise ValueError("leaving one out needs two examples at least")
    targets = real_array("targets", targets)
    inverse_factor = solve_triangular(path.factor, np.eye(len(path)), lower=True, check_finite=False)
    left = np.einsum("ij,ij->j", inverse_factor, inverse_factor)  # the diagonal of the inverse
    left = left if targets.ndim == 1 else left[:, None]
    dual = inverse_factor.T @ path.coefficients
    return LeaveOneOut(dual**2 / left, targets - dual / left, float(np.sum(path.coefficients**2)))
