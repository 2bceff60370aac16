"""Everything over n from one Cholesky factor (R5).

With `K_N = L L^T`, `c = L^{-1} z` and `V = L^{-1} k(X, x)`, the leading `n` rows of `L` factor `K_n`, so sums over
the first `n` rows of `c` and `V` give the minimum-norm student of *every* `n <= N`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpocon, dpotrf


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

    factor: jnp.ndarray
    coefficients: jnp.ndarray
    cross_factor: np.ndarray | None
    diagonal: np.ndarray | None

    def __len__(self):
        return len(self.factor)

    @cached_property
    def squared_norm(self):
        """`||w_n||^2 = z_n^T K_n^{-1} z_n` for `n = 1..N` (entry `n - 1`), `(N,)` or `(N, C)` (R1, R5)."""
        return np.cumsum(np.asarray(self.coefficients) ** 2, axis=0)

    @cached_property
    def pivots(self):
        """`sigma_{n-1}(x_n)`, `(N,)`: how far each example was from the span of those before it (D2)."""
        return np.asarray(jnp.diagonal(self.factor))

    def predict(self, n=None):
        """`z_n(x)` on the held-out inputs.

        `n` is an integer in `0..N`, giving `(M,)` (`(M, C)` for `(N, C)` targets); a sequence of them, giving
        `(M, len(n))`; or None for all of `1..N`, giving `(M, N)` (scalar targets only).
        """
        v, c = self._cross(), np.asarray(self.coefficients)
        if np.ndim(n) == 0 and n is not None:
            n = self._checked(n)
            return v[:, :n] @ c[:n]
        if c.ndim != 1:
            raise ValueError("predict over several n takes targets of shape (N,); ask for one n at a time")
        return self._sums(v * c, n)

    def power_function(self, n=None):
        """`sigma_n(x)` (not its square) on the held-out inputs; `n` and the shapes as in `predict` (R3, R5)."""
        if self.diagonal is None:
            raise ValueError("the power function needs k(x, x) of the held-out inputs: pass `diagonal`")
        v = self._cross()
        if np.ndim(n) == 0 and n is not None:
            n = self._checked(n)
            explained = np.einsum("ij,ij->i", v[:, :n], v[:, :n])
            return np.sqrt(np.maximum(self.diagonal - explained, 0.0))
        return np.sqrt(np.maximum(self.diagonal[:, None] - self._sums(v**2, n), 0.0))

    def certified(self, n, norm_bound):
        """Where student and teacher provably agree (R4), boolean `(M,)`.

        True at every `x` with `|z_n(x)| > sigma_n(x) sqrt(B^2 - ||w_n||^2)`, `B = norm_bound >= ||w*||`: no look at
        the teacher's answer there. A `B` below `||w_n||` contradicts R1 and is an error.
        """
        n = self._checked(n)
        if np.ndim(self.coefficients) != 1:
            raise ValueError("certificates are for one scalar teacher: targets of shape (N,)")
        squared = self.squared_norm[n - 1] if n else 0.0
        gap = float(norm_bound) ** 2 - squared
        if not gap >= -1e-8 * squared:
            raise ValueError(
                f"norm_bound {norm_bound:.6g} is below the student's norm {squared**0.5:.6g} at n = {n}: no teacher of "
                "that norm gave these targets (R1); use a bound on ||w*||, or R6 for a teacher outside the space"
            )
        return np.abs(self.predict(n)) > self.power_function(n) * np.sqrt(max(gap, 0.0))

    def _cross(self):
        if self.cross_factor is None:
            raise ValueError("no held-out inputs: pass `cross`, the kernel k(x, X) of shape (M, N)")
        return self.cross_factor

    def _checked(self, n):
        if int(n) != n or not 0 <= n <= len(self):
            raise ValueError(f"n must be an integer in 0..{len(self)}, not {n}")
        return int(n)

    def _sums(self, terms, n):
        """Partial sums of `terms` `(M, N)` over its first `n` columns, for each requested `n`."""
        sums = np.cumsum(terms, axis=1)
        if n is None:
            return sums
        n = np.array([self._checked(value) for value in n])
        return np.where(n > 0, sums[:, np.maximum(n, 1) - 1], 0.0)


def interpolation_path(gram, targets, cross=None, diagonal=None):
    """The students of every `n <= N` from one Cholesky factorisation, in float64 (R5).

    Parameters
    ----------
    gram
        `(N, N)`, symmetric positive definite: `K` of the training inputs, in the order in which they arrive.
    targets
        `(N,)`, or `(N, C)` for `C` outputs that share the kernel.
    cross
        `(M, N)`, `k(x, X)` of held-out inputs; needed by `predict`, `power_function` and the certificates.
    diagonal
        `(M,)`, `k(x, x)` of held-out inputs; needed by `power_function` and the certificates.

    Raises
    ------
    NotPositiveDefiniteError
        some example lies, to working precision, in the span of those before it. Nothing is
        added to the diagonal: the message names the example and what to do.
    """
    gram = jnp.asarray(gram, jnp.float64)
    targets = jnp.asarray(targets, jnp.float64)
    size = len(gram)
    if gram.ndim != 2 or gram.shape[1] != size or size == 0:
        raise ValueError(f"gram must be a square matrix, not of shape {gram.shape}")
    if targets.ndim not in (1, 2) or len(targets) != size:
        raise ValueError(f"targets must have shape ({size},) or ({size}, C), not {targets.shape}")
    asymmetry, largest = map(float, _asymmetry(gram))
    for name, array in (("gram", largest), ("targets", targets)):
        if not bool(jnp.isfinite(array).all()):
            raise ValueError(f"{name} has entries that are not finite")
    if asymmetry > 1e-6 * largest:
        raise ValueError("gram is not symmetric")
    factor = _cholesky(gram)
    coefficients = solve_triangular(factor, targets, lower=True)
    cross_factor = None
    if cross is not None:
        cross = jnp.asarray(cross, jnp.float64)
        if cross.ndim != 2 or cross.shape[1] != size:
            raise ValueError(
                f"cross must have shape (M, {size}): held-out inputs by training inputs, not {cross.shape}"
            )
        cross_factor = np.asarray(solve_triangular(factor, cross.T, lower=True).T)
    if diagonal is not None:
        diagonal = np.asarray(diagonal, np.float64)
        if cross is None or diagonal.shape != (len(cross),):
            raise ValueError("diagonal must have shape (M,), one entry per row of cross")
    return InterpolationPath(factor, coefficients, cross_factor, diagonal)


@jax.jit
def _asymmetry(gram):
    """Largest entries of `|K - K^T|` and of `|K|`, in one pass over the matrix."""
    return jnp.max(jnp.abs(gram - gram.T)), jnp.max(jnp.abs(gram))


def _cholesky(gram):
    factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
    gram = np.asarray(gram)
    if bool(jnp.isfinite(factor).all()):
        # A factor can also come out of a singular matrix, by luck of rounding: its condition number tells.
        norm = np.abs(gram).sum(axis=0).max()
        if dpocon(np.asarray(factor).T, norm, uplo="U")[0] > 10 * np.finfo(float).eps:
            return factor
        pivots = np.diagonal(factor) ** 2 / np.diagonal(gram)
        first = int(np.argmin(pivots))
    else:
        first = (
            max(dpotrf(gram, lower=True)[1], 1) - 1
        )  # JAX returns nothing but NaN when it breaks down: LAPACK says where
    row = gram[first]
    twins = [int(j) for j in np.flatnonzero(np.isclose(gram[:first], row, rtol=1e-7, atol=0).all(axis=1))]
    cause = (
        f"it has the same kernel values as example {twins[0]}: a duplicate"
        if twins
        else ("it is a combination of those before it, or the kernel's spectrum decays below the precision")
    )
    raise NotPositiveDefiniteError(
        f"the Gram matrix is not positive definite to float64 precision at example {first} ({cause}). Remove duplicates "
        "(`kdlib.data.load(..., distinct=True)`), use fewer examples or a rougher kernel, compute the Gram in float64, or "
        "add a ridge yourself, `gram + ridge * np.eye(N)`, and report it: no jitter is added here."
    )
