"""Everything over n from one Cholesky factor (R5).

With `K_N = L L^T`, `c = L^{-1} z` and `V = L^{-1} k(X, x)`, the leading `n` rows of `L` factor `K_n`, so sums over
the first `n` rows of `c` and `V` give the minimum-norm student of *every* `n <= N`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from scipy.linalg import get_lapack_funcs, solve_triangular

from kdlib.tools.arrays import gram_matrix, integer, kernel_diagonal, number, real_array

dpotrf, dpocon = get_lapack_funcs(("potrf", "pocon"), dtype=np.float64)


class NotPositiveDefiniteError(ValueError):
    """The Gram matrix has no Cholesky factor to working precision."""


@dataclass(frozen=True)
class InterpolationPath:
    """The minimum-norm interpolants of the first `n` examples, for every `n <= N`. Made by `interpolation_path`.

    Attributes
    ----------
    factor
        `(N, N)` lower Cholesky factor of the Gram.
    coefficients
        `c = L^{-1} z`, `(N,)` or `(N, C)` as the targets were.
    cross_factor
        `V^T = k(x, X) L^{-T}`, `(M, N)`, or None without `cross`.
    diagonal
        `k(x, x)`, `(M,)`, or None.
    """

    factor: np.ndarray
    coefficients: np.ndarray
    cross_factor: np.ndarray | None
    diagonal: np.ndarray | None

    def __len__(self) -> int:
        return len(self.factor)

    @cached_property
    def squared_norm(self) -> np.ndarray:
        """`||w_n||^2 = z_n^T K_n^{-1} z_n` for `n = 1..N` (entry `n - 1`), `(N,)` or `(N, C)` (R1, R5)."""
        return np.cumsum(self.coefficients**2, axis=0)

    @cached_property
    def pivots(self) -> np.ndarray:
        """`sigma_{n-1}(x_n)`, `(N,)`: how far each example was from the span of those before it (D2)."""
        return np.diagonal(self.factor)

    def predict(self, n: int | Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """`z_n(x)` on the held-out inputs.

        `n` is an integer in `0..N`, giving `(M,)` (`(M, C)` for `(N, C)` targets); a sequence of them, giving
        `(M, len(n))`; or None for all of `1..N`, giving `(M, N)` (scalar targets only).
        """
        v, c = self._cross(), self.coefficients
        if n is not None and np.ndim(n) == 0:
            n = self._checked(n)
            return v[:, :n] @ c[:n]
        if c.ndim != 1:
            raise ValueError("predict over several n takes targets of shape (N,); ask for one n at a time")
        return self._sums(v * c, n)

    def power_function(self, n: int | Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """`sigma_n(x)` (not its square) on the held-out inputs; `n` and the shapes as in `predict` (R3, R5)."""
        if self.diagonal is None:
            raise ValueError("the power function needs k(x, x) of the held-out inputs: pass `diagonal`")
        v = self._cross()
        if n is not None and np.ndim(n) == 0:
            n = self._checked(n)
            explained = np.einsum("ij,ij->i", v[:, :n], v[:, :n])
            return np.sqrt(np.maximum(self.diagonal - explained, 0.0))
        return np.sqrt(np.maximum(self.diagonal[:, None] - self._sums(v**2, n), 0.0))

    def certified(self, n: int, norm_bound: float, offset=0.0) -> np.ndarray:
        """Where student and teacher provably agree (R4), boolean `(M,)`.

        True at every `x` with `|z_n(x)| > sigma_n(x) sqrt(B^2 - ||w_n||^2)`, `B = norm_bound >= ||w*||`: no look at
        the teacher's answer there. A `B` below `||w_n||` contradicts R1 and is an error. With an `offset`, `f_0` on
        the held-out inputs, `(M,)` or a number, the student is `f_0 + z_n`, and `B` bounds the norm of `z_t - f_0`.
        """
        n, bound = self._checked(n), number("norm_bound", norm_bound, least=0)
        if np.ndim(self.coefficients) != 1:
            raise ValueError("certificates are for one scalar teacher: targets of shape (N,)")
        squared = self.squared_norm[n - 1] if n else 0.0
        gap = bound**2 - squared
        if not gap >= -1e-8 * squared:
            raise ValueError(
                f"norm_bound {bound:.6g} is below the student's norm {squared**0.5:.6g} at n = {n}: no teacher of "
                "that norm gave these targets (R1); use a bound on ||w*||, or R6 for a teacher outside the space"
            )
        start = real_array("offset", offset)
        if start.ndim:
            start = real_array("offset", start, shape=(len(self._cross()),))
        return np.abs(self.predict(n) + start) > self.power_function(n) * np.sqrt(max(gap, 0.0))

    def _cross(self) -> np.ndarray:
        if self.cross_factor is None:
            raise ValueError("no held-out inputs: pass `cross`, the kernel k(x, X) of shape (M, N)")
        return self.cross_factor

    def _checked(self, n: Any) -> int:
        return integer("n", n, least=0, most=len(self))

    def _sums(self, terms: np.ndarray, n: Any) -> np.ndarray:
        """Partial sums of `terms` `(M, N)` over its first `n` columns, for each requested `n`."""
        sums = np.cumsum(terms, axis=1)
        if n is None:
            return sums
        n = np.array([self._checked(value) for value in n], int)
        return np.where(n > 0, sums[:, np.maximum(n, 1) - 1], 0.0)


def interpolation_path(gram, targets, cross=None, diagonal=None) -> InterpolationPath:
    """The students of every `n <= N` from one Cholesky factorisation, in float64 (R5).

    Parameters
    ----------
    gram
        `(N, N)`, symmetric positive definite: `K` of the training inputs, in the order in which they arrive. A JAX
        array is factored on its device, any other by LAPACK on the processor.
    targets
        `(N,)`, or `(N, C)` for `C` outputs that share the kernel.
    cross
        `(M, N)`, `k(x, X)` of held-out inputs; needed by `predict`, `power_function` and the certificates.
    diagonal
        `(M,)`, `k(x, x)` of held-out inputs; needed by `power_function` and the certificates. Where rounding (float32)
        puts it below what the training inputs explain, every variance is raised by the largest such share of it.

    Raises
    ------
    ValueError
        shapes that do not fit, entries that are not finite, a Gram that is not symmetric; a diagonal below what the
        training inputs explain of it, which would make bounds too small.
    NotPositiveDefiniteError
        some example lies, to working precision, in the span of those before it. Nothing is
        added to the diagonal: the message names the example and what to do.
    """
    given, precisions = gram, (gram, cross, diagonal)
    gram = gram_matrix("gram", gram)
    size = len(gram)
    targets = real_array("targets", targets, ndim=(1, 2))
    if len(targets) != size:
        raise ValueError(f"targets must have shape ({size},) or ({size}, C), not {targets.shape}")
    if cross is not None:
        cross = real_array("cross", cross, ndim=2)
        if cross.shape[1] != size:
            raise ValueError(
                f"cross must have shape (M, {size}): held-out inputs by training inputs, not {cross.shape}"
            )
    if diagonal is not None and cross is None:
        raise ValueError("diagonal must have shape (M,), one entry per row of cross: pass cross, too")
    solve, factor = _factored(given, gram)
    conditioning = _conditioning(gram, factor)
    coefficients = solve(targets)
    if cross is None:
        return InterpolationPath(factor, coefficients, None, None)
    cross_factor = solve(cross.T).T
    if diagonal is not None:
        explained = np.einsum("ij,ij->i", cross_factor, cross_factor)
        unit = max(np.finfo(getattr(array, "dtype", np.float64)).eps for array in precisions if _floating(array))
        tolerance = float(np.clip(10 * unit / conditioning, 1e-6, 1e-2))  # how far rounding can put `explained` off
        diagonal = kernel_diagonal("diagonal", diagonal, len(cross), explained, tolerance)
        # By as much as rounding is seen to take from one variance it may have taken from all: it is given back.
        size = np.maximum(diagonal, explained)
        short = float(np.max((explained - diagonal) / np.where(size > 0, size, 1.0), initial=0.0))
        diagonal = diagonal + short * size
    return InterpolationPath(factor, coefficients, cross_factor, diagonal)


def _floating(array: Any) -> bool:
    return getattr(getattr(array, "dtype", np.dtype(float)), "kind", "") == "f"


def _factored(given: Any, gram: np.ndarray):
    """`(b -> L^{-1} b, L)`, where `given` is: on a JAX array's device, or on the processor."""
    if type(given).__module__.split(".")[0] in ("jax", "jaxlib"):
        import jax.numpy as jnp
        from jax.scipy.linalg import solve_triangular as on_device

        factor = jnp.linalg.cholesky(jnp.asarray(given, jnp.float64), symmetrize_input=False)
        if not bool(jnp.isfinite(factor).all()):
            _refuse(gram, max(dpotrf(gram.T, lower=False)[1], 1) - 1)  # JAX says that it failed, LAPACK says where
        return lambda b: np.asarray(on_device(factor, jnp.asarray(b), lower=True)), np.asarray(factor)
    upper, failed = dpotrf(gram.T, lower=False)  # the transpose of a C-ordered array needs no copy in LAPACK's order
    if failed:
        _refuse(gram, failed - 1)
    factor = upper.T
    return lambda b: solve_triangular(factor, b, lower=True, check_finite=False), factor


def _conditioning(gram: np.ndarray, factor: np.ndarray) -> float:
    """LAPACK's estimate of one over the condition number; an error where no digit is left.

    A factor can also come out of a singular matrix, by luck of rounding.
    """
    estimate = dpocon(factor.T, np.abs(gram).sum(axis=0).max(), uplo="U")[0]
    if not estimate > 10 * np.finfo(float).eps:
        _refuse(gram, int(np.argmin(np.diagonal(factor) ** 2 / np.diagonal(gram))))
    return float(estimate)


def _refuse(gram: np.ndarray, first: int) -> NoReturn:
    twins = np.flatnonzero(np.isclose(gram[:first], gram[first], rtol=1e-7, atol=0).all(axis=1))
    cause = (
        f"it has the same kernel values as example {int(twins[0])}: a duplicate"
        if len(twins)
        else "it is a combination of those before it, or the kernel's spectrum decays below the precision"
    )
    raise NotPositiveDefiniteError(
        "the Gram matrix is not positive definite to float64 precision at example "
        f"{first} ({cause}). Remove duplicates "
        "(`kdlib.data.load(..., distinct=True)`), use fewer examples or a rougher "
        "kernel, compute the Gram in float64, or "
        "add a ridge yourself, `gram + ridge * np.eye(N)`, and report it: no jitter is added here."
    )
