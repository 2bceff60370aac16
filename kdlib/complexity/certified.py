"""Supervision complexity without a factorisation, as an interval that contains it.

Preconditioned conjugate gradients on `A x = y`, `A = K + ridge I`. Whatever they reach, for *any* vector `x` with
residual `r = y - A x`, `y^T A^{-1} y = x^T (y + r) + r^T A^{-1} r`; and where `A >= theta M` for the preconditioner
`M`, `0 <= r^T A^{-1} r <= r^T M^{-1} r / theta`. So the interval takes nothing from the iteration: the residual is
computed anew at the end, in float64. Two assumptions are left: that `A >= theta M` (by the construction of the
preconditioner and the spectrum's lower bound), and that a product is wrong by `rounding` times the operator's norm at
most, for which the interval is widened.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from kdlib.tools.arrays import integer, number, real_array
from kdlib.tools.files import write_whole

Reason = Literal["tolerance", "iterations", "rounding"]


@dataclass(frozen=True)
class CertifiedComplexity:
    """An interval around `y^T (K + ridge I)^{-1} y`. Made by `certified_supervision_complexity`.

    Attributes
    ----------
    lower, upper
        the interval; `upper` is infinite where no positive lower bound of the spectrum is known.
    widening
        how much of the upper side is due to rounding, not to the iterations; the lower side's part is not larger.
    iterations, products
        of conjugate gradients; all products with the operator, those for checks included.
    reason
        why it stopped: "tolerance", "iterations", or "rounding" (the interval is as narrow as the precision allows).
    trace
        `tr K` where the operator knows it, else None.
    examples, ridge
        `n`, and what was added to the diagonal.
    """

    lower: float
    upper: float
    widening: float
    iterations: int
    products: int
    reason: Reason
    trace: float | None
    examples: int
    ridge: float

    @property
    def relative_width(self) -> float:
        """`(upper - lower) / upper`; one for an infinite interval."""
        return (self.upper - self.lower) / self.upper if np.isfinite(self.upper) and self.upper > 0 else 1.0

    @property
    def adjusted(self) -> tuple[float, float]:
        """`(lower, upper)` of `sqrt(SC tr K) / n`."""
        if self.trace is None:
            raise ValueError("the operator does not know its trace")
        lower, upper = (float(np.sqrt(value * self.trace)) / self.examples for value in (self.lower, self.upper))
        return lower, upper


def certified_supervision_complexity(
    operator: Any, targets, *, ridge: float = 0.0, smallest_eigenvalue: float = 0.0,
    tolerance: float = 1e-2, max_iterations: int = 2000, rank: int = 256, rounding: float | None = None, seed: int = 0,
    checkpoint: str | Path | None = None, progress: bool = True,
) -> CertifiedComplexity:  # fmt: skip
    """`y^T (K + ridge I)^{-1} y` (S1) between two bounds, from products with `K` alone.

    Parameters
    ----------
    operator
        `v -> K v` for vectors `(n C,)`, `K` positive semi-definite. If it has `rows(examples)` (`NTKOperator`), a
        Nystrom preconditioner is made; if it has `trace`, the result has it; `dtype`, if any, is its precision.
    targets
        `(n,)` or `(n, C)`.
    ridge
        added to the diagonal. None is added unasked.
    smallest_eigenvalue
        a known lower bound of K's spectrum. With neither it nor a ridge there is no upper bound.
    tolerance
        relative width at which to stop.
    max_iterations
        at which to stop anyway, with the honest, wide interval reached by then.
    rank
        of the preconditioner, in rows of the Gram; 0 for none.
    rounding
        relative error of a product, in units of the operator's norm. None: measured, and at least 16 units in the last
        place of its dtype. What is measured is how far products are from linear: an operator that is linear but wrong
        by more than that (its entries computed in a lower precision than its dtype says) needs its error stated here.
    seed
        of the preconditioner's examples and of the measurement.
    checkpoint
        path of a file in which the state is kept every few iterations: a killed run goes on from there.
    progress
        show a progress bar of iterations.

    Returns
    -------
    `CertifiedComplexity`.

    Raises
    ------
    ValueError
        shapes that do not fit, an operator with a negative direction, a checkpoint of another problem.
    """
    y = real_array("targets", targets, ndim=(1, 2))
    examples, y = len(y), y.ravel()
    ridge = number("ridge", ridge, least=0)
    smallest_eigenvalue = number("smallest_eigenvalue", smallest_eigenvalue, least=0)
    tolerance = number("tolerance", tolerance, above=0, below=1)
    max_iterations, rank = integer("max_iterations", max_iterations, least=0), integer("rank", rank, least=0)
    if rounding is not None:
        rounding = number("rounding", rounding, least=0)
    if not y.any():
        raise ValueError("targets must be finite and not all zero")
    if getattr(operator, "shape", (len(y), len(y))) != (len(y), len(y)):
        raise ValueError(f"operator is {operator.shape}, targets have {len(y)} entries")
    if getattr(operator, "examples", examples) != examples:
        raise ValueError(f"targets must have shape (n, C) with n = {operator.examples}, not {np.shape(targets)}")
    count = _Counted(operator, ridge)
    floor = smallest_eigenvalue + ridge
    norm, measured = _norm_and_rounding(count, len(y), seed)
    units = np.finfo(getattr(operator, "dtype", np.float64)).eps
    rounding = max(8 * measured, 16 * float(units)) if rounding is None else rounding
    asked = {"ridge": ridge, "smallest": smallest_eigenvalue, "rank and seed": (rank, seed)}
    state = _load(checkpoint, y, norm, rounding, asked)
    preconditioner = _preconditioner(
        operator, examples, len(y), rank, ridge, smallest_eigenvalue, norm, rounding * norm, seed,
        directions=state.rank if state else None,
    )  # fmt: skip
    if state is None:
        state = _start(y, preconditioner)
    else:
        count.products += state.products
    reason: Reason = "iterations"
    with _bar(max_iterations, state.k, progress) as bar:
        while state.rz > 0:
            width = state.rz / (preconditioner.theta if floor > 0 else norm / preconditioner.sigma)
            if bar is not None:
                bar.set_postfix_str(f"relative width {width / (state.gauss + width):.1e}")
            lost = rounding * norm * (state.x @ state.x)
            if width <= tolerance * state.gauss:
                reason = "tolerance"
                break
            if floor > 0 and width < 0.1 * lost:
                reason = "rounding"
                break
            if state.k >= max_iterations:
                break
            state = _step(state, count, preconditioner, floor - rounding * norm)
            if bar is not None:
                bar.update()
            if checkpoint and state.k % 10 == 0:
                _save(checkpoint, y, norm, asked, state._replace(products=count.products))
    if checkpoint:
        _save(checkpoint, y, norm, asked, state._replace(products=count.products))
    lower, upper, widening = _enclose(state.x, y, count, preconditioner, floor, rounding * norm)
    if not state.rz > 0:
        reason = "tolerance"
    if floor > 0 and reason == "tolerance" and upper - lower > 2 * tolerance * upper:
        reason = "rounding"
    trace = getattr(operator, "trace", None)
    return CertifiedComplexity(lower, upper, widening, state.k, count.products, reason, trace, examples, ridge)


def _bar(total: int, done: int, progress: bool) -> Any:
    """A progress bar, or nothing: tqdm is asked for only where one is wanted."""
    if not progress:
        return contextlib.nullcontext()
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc="conjugate gradients")


class _Counted:
    """`v -> (K + ridge I) v`, in float64, counting."""

    def __init__(self, operator, ridge):
        self.operator, self.ridge, self.products = operator, ridge, 0

    def __call__(self, v):
        self.products += 1
        return np.asarray(self.operator(v), np.float64).ravel() + self.ridge * v


def _norm_and_rounding(product, size, seed):
    """An estimate of the norm from below, and how far the product is from linear, relative to it."""
    generator = np.random.default_rng(seed)
    v, norm = generator.normal(size=size), 0.0
    for _ in range(4):  # power iteration
        v /= np.linalg.norm(v)
        image = product(v)
        if not np.isfinite(image).all():
            raise ValueError("the operator gives NaN or infinity")
        norm = max(norm, float(np.linalg.norm(image)))
        v = image if norm else v
    if not norm > 0:
        raise ValueError("the operator maps a random vector to zero: it is no kernel's")
    w = generator.normal(size=size)
    w /= np.linalg.norm(w)
    v /= np.linalg.norm(v)
    split = product(0.6 * v + 0.8 * w) - 0.6 * product(v) - 0.8 * product(w)
    return 1.1 * norm, float(np.linalg.norm(split)) / norm


class _Preconditioner(NamedTuple):
    """`M = U S U^T + sigma I`, with `A >= theta M`."""

    basis: np.ndarray
    values: np.ndarray
    sigma: float
    theta: float

    def solve(self, r: np.ndarray) -> np.ndarray:
        """`M^{-1} r`."""
        inside = self.basis.T @ r
        return (r - self.basis @ inside) / self.sigma + self.basis @ (inside / (self.values + self.sigma))


class _State(NamedTuple):
    """Of conjugate gradients after `k` iterations.

    Attributes
    ----------
    x, r, p
        iterate, residual, direction.
    rz
        `r^T M^{-1} r`.
    gauss
        sum of the steps' parts of the quadratic form: a lower bound of it in exact arithmetic. It says when to stop.
    rank, products
        the preconditioner's number of directions; products with the operator so far.
    """

    k: int
    x: np.ndarray
    r: np.ndarray
    p: np.ndarray
    rz: float
    gauss: float
    rank: int
    products: int


def _preconditioner(operator, examples, size, rank, ridge, smallest, norm, lost, seed, directions=None):
    """Nystrom: `F F^T = K[:, S] K[S, S]^{-1} K[S, :] <= K` for some examples `S`; the identity if there are no rows.

    `directions` of `K[S, S]` are kept if they are given (a run that goes on), else all that are not lost in rounding.
    """
    floor, outputs = ridge + smallest, size // examples
    chosen = min(rank // outputs, examples)
    if chosen == 0 or not hasattr(operator, "rows"):
        return _Preconditioner(np.zeros((size, 0)), np.zeros(0), 1.0, floor)
    members = np.sort(np.random.default_rng(seed).permutation(examples)[:chosen])
    rows = np.asarray(operator.rows(members), np.float64)
    entries = (members[:, None] * outputs + np.arange(outputs)).ravel()
    inner = rows[:, entries]
    eigenvalues, modes = np.linalg.eigh((inner + inner.T) / 2)
    kept = eigenvalues > max(10 * lost / norm, 1e-8) * eigenvalues[-1]  # what rounding has left of K[S, S]
    if directions is not None:
        kept = np.arange(len(eigenvalues)) >= len(eigenvalues) - directions
    if not kept.any():
        return _Preconditioner(np.zeros((size, 0)), np.zeros(0), 1.0, floor)
    factor = rows.T @ (modes[:, kept] / np.sqrt(eigenvalues[kept]))
    basis, triangle = np.linalg.qr(factor)
    turn, singular, _ = np.linalg.svd(triangle)
    values = singular**2
    left = max(getattr(operator, "trace", np.trace(inner) * examples / chosen) - values.sum(), 0.0) / size
    sigma = max(floor, left, 1e-12 * values[0])
    # K - theta F F^T >= (1 - theta) K >= (1 - theta) smallest, hence A >= theta M for theta = floor / (smallest +
    # sigma). As computed, F F^T may exceed K by about this much: the rows' rounding, magnified by the eigenvalues
    # divided by.
    excess = 2 * lost * np.sqrt(norm / eigenvalues[kept][0])
    return _Preconditioner(basis @ turn, values, sigma, floor / (smallest + sigma + excess))


def _start(y: np.ndarray, preconditioner: _Preconditioner) -> _State:
    z = preconditioner.solve(y)
    return _State(
        k=0, x=np.zeros_like(y), r=y.copy(), p=z.copy(), rz=float(y @ z), gauss=0.0, rank=len(preconditioner.values),
        products=0,
    )  # fmt: skip


def _step(
    state: _State, product: Callable[[np.ndarray], np.ndarray], preconditioner: _Preconditioner, least: float
) -> _State:
    """One iteration; `gauss` grows by the step's part of the form. No Rayleigh quotient may be below `least`."""
    image = product(state.p)
    curvature = float(state.p @ image)
    if not curvature > 0:
        raise ValueError(
            f"after {state.k} iterations a direction has curvature {curvature:.3g}: the operator is not positive "
            "definite to its precision. Remove duplicate examples, compute in float64, or pass a ridge"
        )
    _not_below(least, curvature, state.p)
    step = state.rz / curvature
    r = state.r - step * image
    z = preconditioner.solve(r)
    rz = float(r @ z)
    return state._replace(
        k=state.k + 1, x=state.x + step * state.p, r=r, p=z + rz / state.rz * state.p, rz=rz,
        gauss=state.gauss + step * state.rz,
    )  # fmt: skip


def _not_below(least: float, curvature: float, direction: np.ndarray) -> None:
    """ValueError if a Rayleigh quotient contradicts what was supposed of the smallest eigenvalue."""
    size = float(direction @ direction)
    if curvature < least * size * (1 - 1e-10):
        raise ValueError(
            f"smallest_eigenvalue and ridge are {least:g} together, but the operator has a Rayleigh quotient of "
            f"{curvature / size:g}: give a smaller smallest_eigenvalue, or 0"
        )


def _enclose(
    x: np.ndarray, y: np.ndarray, product: Callable[[np.ndarray], np.ndarray], preconditioner: _Preconditioner,
    floor: float, lost: float,
) -> tuple[float, float, float]:  # fmt: skip
    """The interval that any `x` gives: `y^T A^{-1} y = x^T (y + r) + r^T A^{-1} r`, widened by rounding.

    `lost` bounds a product's error relative to the vector's norm; so the residual's is at most `lost |x|`.
    """
    image = product(x)
    _not_below(floor - lost, float(x @ image), x)
    residual = y - image
    base, size = float(x @ (y + residual)), float(np.linalg.norm(x))
    widening = lost * size**2  # |x^T (error of A x)|
    lower = max(base - widening, 0.0)
    if floor == 0:
        return lower, np.inf, widening
    known = np.sqrt(max(float(residual @ preconditioner.solve(residual)), 0.0) / preconditioner.theta)
    rest = (known + lost * size / np.sqrt(floor)) ** 2
    return lower, base + widening + rest, float(widening + rest - known**2)


def _save(path: str | Path, y: np.ndarray, norm: float, asked: dict, state: _State) -> None:
    about = {f"about {name}": value for name, value in {"y": y, "norm": norm, **asked}.items()}
    content = io.BytesIO()
    np.savez(content, **about, **state._asdict())
    write_whole(path, content.getvalue())


def _load(path: str | Path | None, y: np.ndarray, norm: float, rounding: float, asked: dict) -> _State | None:
    """The state of this problem, or None; refused if it is another's.

    Operator and targets are those of the first run to rounding only: on a GPU they are not the same to the bit.
    """
    if path is None or not Path(path).exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            was = {name.removeprefix("about "): stored[name] for name in stored.files if name.startswith("about ")}
            state = {name: stored[name] for name in stored.files if not name.startswith("about ")}
            if not all(np.isfinite(value).all() for value in (*was.values(), *state.values())):
                raise ValueError("it holds a number that is not finite")
    except (ValueError, TypeError, OSError, EOFError, KeyError, AttributeError, SyntaxError, NotImplementedError,
            RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise ValueError(f"{path} is damaged ({error}): remove it to begin anew") from None
    close = max(1e-6, 100 * rounding)
    expected = {"norm": norm, **asked}
    same = was.keys() == {"y", *expected} and was["y"].shape == y.shape and state.keys() == set(_State._fields)
    same = same and all(np.allclose(was[name], value, rtol=close, atol=0) for name, value in expected.items())
    if not same or np.linalg.norm(was["y"] - y) > close * np.linalg.norm(y):
        raise ValueError(
            f"{path} belongs to another operator, other targets or other options: remove it, or name another checkpoint"
        )
    return _State(**{name: value.copy() if value.ndim else value.item() for name, value in state.items()})
