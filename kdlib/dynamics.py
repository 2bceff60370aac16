"""How linearised teachers and students get to their limits.

On any distillation loss by integration (C1); on the squared loss in closed form, mode by mode: early stopping (O1),
online distillation (N2), distilling round after round (W1), and the best mixture of labels and teacher (H4).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import cho_factor, cho_solve

from kdlib.labels.effective import minimiser
from kdlib.labels.loss import DistillationLoss
from kdlib.tools.arrays import (
    gram_matrix,
    instance,
    integer,
    logits_and_labels,
    not_negative,
    number,
    positive_spectrum,
    real_array,
)


def distillation_flow(
    features,
    initial_output,
    teacher_logits,
    labels,
    times,
    *,
    loss: DistillationLoss,
    start=None,
    tolerance: float = 1e-11,
) -> np.ndarray:
    """Gradient flow of the linearised student on the summed distillation loss, integrated in weight space (C1).

    `dw/dt = -sum_i phi(x_i) dl_i/dz(f_0(x_i) + <phi(x_i), dw>)`.

    Parameters
    ----------
    features
        `phi(X)`, `(n, D)` for a scalar student, `(n, C, D)` for `C` outputs. A Cholesky factor of a Gram serves.
    initial_output
        `f_0(X)`, `(n,)` or `(n, C)`.
    teacher_logits, labels
        `(n,)` and -1 or 1, or `(n, C)` and integers.
    times
        increasing, from 0.
    loss
        what is descended.
    start
        `dw` at time 0, `(D,)`; zero by default, as C1 asks.
    tolerance
        relative, of the integrator (scipy's LSODA, which copes with stiff spectra).

    Returns
    -------
    `dw` at each time, `(len(times), D)`.
    """
    teacher, labels = logits_and_labels(teacher_logits, labels)
    features = real_array("features", features, ndim=teacher.ndim + 1)
    if features.shape[:-1] != teacher.shape:
        raise ValueError(f"features {features.shape} and teacher_logits {teacher.shape} do not fit together")
    initial_output = real_array("initial_output", initial_output, shape=teacher.shape)
    times = real_array("times", times, ndim=1)
    if len(times) < 2 or times[0] != 0 or (np.diff(times) <= 0).any():
        raise ValueError("times must increase from 0")
    tolerance = number("tolerance", tolerance, above=0, below=1)
    flat = features.reshape(-1, features.shape[-1])

    @jax.jit
    def velocity(_, weights):
        outputs = initial_output + (flat @ weights).reshape(initial_output.shape)
        return -flat.T @ loss.gradient(outputs, teacher, labels).ravel()

    start = np.zeros(flat.shape[1]) if start is None else real_array("start", start, shape=(flat.shape[1],))
    span = (times[0], times[-1])
    jacobian = jax.jit(jax.jacfwd(velocity, argnums=1))
    solution = solve_ivp(velocity, span, start, "LSODA", times, rtol=tolerance, atol=tolerance * 1e-2, jac=jacobian)
    if not solution.success:
        raise RuntimeError(f"the flow could not be integrated to time {times[-1]}: {solution.message}")
    return solution.y.T


def excess_loss(outputs, teacher_logits, labels, *, loss: DistillationLoss) -> float:
    """`L(z) - L*`: the summed loss of `outputs`, `(n,)` or `(n, C)`, above its minimum at the effective logits (C1)."""
    instance("loss", loss, DistillationLoss)
    least = loss.values(minimiser(loss, teacher_logits, labels), teacher_logits, labels)
    return float(np.sum(loss.values(outputs, teacher_logits, labels) - least))


def strong_convexity(outputs, teacher_logits, labels, *, loss: DistillationLoss) -> float:
    """The `m` of C1 for a binary teacher: the least curvature of any example's loss on the sublevel set of `outputs`.

    On `{L <= L(outputs)}` no example's loss exceeds its minimum by more than the total excess. That bounds its logit,
    and the curvature of a cross-entropy falls as the logit moves away from zero.
    """
    instance("loss", loss, DistillationLoss)
    teacher, labels = logits_and_labels(real_array("teacher_logits", teacher_logits, ndim=1), labels)
    allowed = excess_loss(outputs, teacher, labels, loss=loss)
    target = minimiser(loss, teacher, labels)
    least = loss.values(target, teacher, labels)

    def within(z):
        return loss.values(z, teacher, labels) - least <= allowed

    reach = 0.0
    for side in (-1.0, 1.0):  # bisect for the end of each example's sublevel set, on each side of its minimum
        near, far = np.zeros_like(target), np.ones_like(target)
        while (inside := within(target + side * far)).any():
            far = np.where(inside, 2 * far, far)
        for _ in range(60):
            middle = (near + far) / 2
            inside = within(target + side * middle)
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        reach = max(reach, float(np.abs(target + side * far).max()))
    gradient = lambda z: loss.gradient(z[None], np.zeros(1), np.ones(1))[0]  # its slope depends on the logit alone
    return float(jax.grad(gradient)(reach))


def flow_filter(eigenvalues, times) -> np.ndarray:
    """`1 - exp(-t lambda)`: how much of each mode gradient flow on the squared loss has learnt (O1), `(times,
    modes)`.
    """
    return -np.expm1(-np.multiply.outer(not_negative("times", times), not_negative("eigenvalues", eigenvalues)))


def descent_filter(eigenvalues, steps, learning_rate: float) -> np.ndarray:
    """`1 - (1 - eta lambda)^k`, the same for `k` steps of gradient descent, `(steps, modes)`."""
    eigenvalues = _stepped(eigenvalues, learning_rate)
    return 1 - (1 - learning_rate * eigenvalues) ** _whole(steps)[:, None]


def online_filter(scaled_time, ratio: float = 1.0) -> np.ndarray:
    """N2: what an online student has learnt of a mode, `h_on(x)` with `x = t lambda`; of the shape of `scaled_time`.

    The teacher is trained along, from zero, on the same kernel and `ratio` times as fast:
    `h_on = 1 - (r e^{-x} - e^{-r x}) / (r - 1)`, and `1 - (1 + x) e^{-x}` at `r = 1`.
    """
    x = not_negative("scaled_time", scaled_time)
    ratio = number("ratio", ratio, above=0)  # of the teacher's learning rate to the student's
    return -np.expm1(-x) - x * _divided_difference(x, ratio * x)


def online_descent_filter(eigenvalues, steps, learning_rate: float, ratio: float = 1.0) -> np.ndarray:
    """N2 for gradient descent, `(steps, modes)`: teacher and student take `steps` steps together, from zero."""
    eigenvalues = _stepped(eigenvalues, learning_rate)
    _stepped(number("ratio", ratio, above=0) * eigenvalues, learning_rate)
    # What the student and the teacher have not learnt of a mode: one step of both is a triangular matrix.
    step = np.zeros((len(eigenvalues), 2, 2))
    step[:, 0, 0], step[:, 0, 1] = 1 - learning_rate * eigenvalues, learning_rate * eigenvalues
    step[:, 1, 1] = 1 - learning_rate * ratio * eigenvalues
    return np.array([1 - np.linalg.matrix_power(step, int(k))[:, 0].sum(axis=1) for k in _whole(steps)])


def self_distillation_filter(eigenvalues, *, ridge: float, rounds: int, label_share: float = 0.0) -> np.ndarray:
    """W1: what is left of each mode of the labels after `rounds` ridge fits in a row, of the eigenvalues' shape.

    The first is fitted to the labels; each other one to its predecessor's answers, mixed with a share of the labels.
    With `s = lambda / (lambda + ridge)` a round makes `s (a + (1 - a) h)` of `h`. Without labels that is `s^rounds`;
    with any, it tends to `lambda / (lambda + ridge / a)`: plain ridge regression.

    Parameters
    ----------
    eigenvalues
        of the Gram, none negative.
    ridge
        above zero, in the eigenvalues' unit.
    rounds
        one at least; one is plain ridge regression.
    label_share
        `a`, in [0, 1], of every round after the first.
    """
    eigenvalues = real_array("eigenvalues", eigenvalues)
    if eigenvalues.size and eigenvalues.min() < 0:
        raise ValueError(f"eigenvalues of a Gram are not negative, as {eigenvalues.min():.3g} is")
    ridge, rounds = number("ridge", ridge, above=0), integer("rounds", rounds, least=1)
    share = number("label_share", label_share, least=0, most=1)
    once = eigenvalues / (eigenvalues + ridge)
    limit = share * eigenvalues / (ridge + share * eigenvalues)
    return limit + ((1 - share) * once) ** (rounds - 1) * (once - limit)


@dataclass(frozen=True)
class BestMixture:
    """H4 for one kernel and ridge. Made by `best_mixture`.

    Attributes
    ----------
    share
        of the teacher in the best targets, `(1 - share) labels + share teacher`: it need not lie in [0, 1].
    risk, teacher_risk
        mean squared error of the student taught by that mixture, and of the teacher, which is the student of share
        zero.
    """

    share: float
    risk: float
    teacher_risk: float


def best_mixture(gram, targets, *, ridge: float, cross, truth) -> BestMixture:
    """The mixture of labels and teacher that teaches best, in closed form (H4).

    Teacher and student are ridge regressions with the same kernel, ridge and inputs. The student of a share `xi` is
    `f + xi ridge df/dridge`, with `f` the teacher, so its risk is a parabola in `xi`: mixing helps unless the
    risk is stationary in the ridge.

    Parameters
    ----------
    gram, targets
        `(n, n)`, and `(n,)` or `(n, C)`: the labels.
    ridge
        above zero; what is added to the Gram's diagonal (not a multiple of `n`).
    cross, truth
        `(M, n)`, `k(x, X)` of held-out inputs, and what is true there, `(M,)` or `(M, C)`. Errors of several outputs
        are added.

    Raises
    ------
    ValueError
        shapes that do not fit, a ridge that is not positive; a teacher that does not move with the ridge, for which
        every mixture is the same.
    """
    gram, targets = gram_matrix("gram", gram), real_array("targets", targets, ndim=(1, 2))
    targets = real_array("targets", targets, shape=(len(gram), *targets.shape[1:]))
    ridge = number("ridge", ridge, least=1e-100)
    cross = real_array("cross", cross, shape=(None, len(gram)))
    truth = real_array("truth", truth, shape=(len(cross), *targets.shape[1:]))
    positive_spectrum("gram", gram)
    factor = cho_factor(gram + ridge * np.eye(len(gram)), lower=True)
    dual = cho_solve(factor, targets)
    teacher, slope = cross @ dual, -cross @ cho_solve(factor, dual)
    mean = lambda products: float(products.sum() / len(cross))
    risk, curvature, slant = mean((teacher - truth) ** 2), mean(slope**2), mean((teacher - truth) * slope)
    if not curvature:
        raise ValueError("the teacher is the same for every ridge at these inputs (no labels, or a cross of zeros)")
    return BestMixture(-slant / (ridge * curvature), risk - slant**2 / curvature, risk)


def early_stopped(gram, labels, times) -> np.ndarray:
    """`g_t = (I - exp(-t K)) y`, the outputs of a kernel machine under gradient flow from zero (O1).

    Parameters
    ----------
    gram
        `(n, n)`, of its own kernel on its training inputs.
    labels
        what it is trained on, `(n,)`.
    times
        at which it is stopped; in units of one over the kernel.

    Returns
    -------
    `(len(times), n)`. At a new input the output is `k(x, X) K^{-1} g_t`.
    """
    eigenvalues, modes, labels = _spectrum("gram", gram, labels)
    times = not_negative("times", times, ndim=1)
    return (flow_filter(eigenvalues, times) * (modes.T @ labels)) @ modes.T


def online_student(gram, teacher_gram, labels, times) -> np.ndarray:
    """A student under gradient flow on the outputs of a teacher that is trained along: `f' = -K (f - g_t)`, `f_0 = 0`.

    In closed form for two kernels that need not commute: with `K = U M U^T`, `K_T = V L V^T` and `c = V^T y`,
    `u_i^T f_t = (1 - e^{-mu_i t}) u_i^T y - mu_i sum_j (U^T V)_{ij} c_j (e^{-lambda_j t} - e^{-mu_i t}) / (mu_i -
    lambda_j)`.

    Parameters as in `early_stopped`, with the student's and the teacher's Gram. (A teacher that learns `r` times as
    fast has the Gram `r K_T`.) Returns the student's outputs on its training inputs, `(len(times), n)` (N1, N2).
    """
    rates, modes, labels = _spectrum("gram", gram, labels)
    teacher_rates, teacher_modes, _ = _spectrum("teacher_gram", teacher_gram, labels)
    times = not_negative("times", times, ndim=1)
    overlap = (modes.T @ teacher_modes) * (teacher_modes.T @ labels)
    outputs = flow_filter(rates, times) * (modes.T @ labels)
    for row, t in zip(outputs, times, strict=True):
        lag = t * _divided_difference(t * rates[:, None], t * teacher_rates[None, :])
        row -= rates * np.sum(overlap * lag, axis=1)
    return outputs @ modes.T


def _divided_difference(a, b):
    """`(e^{-b} - e^{-a}) / (a - b)`, without cancellation where `a` and `b` are near."""
    gap = np.abs(a - b)
    return np.exp(-np.minimum(a, b)) * np.where(gap == 0, 1.0, -np.expm1(-gap) / np.where(gap == 0, 1.0, gap))


def _whole(steps) -> np.ndarray:
    """Numbers of steps: integers from zero on, `(k,)`."""
    return np.array([integer("each entry of steps", step, least=0) for step in np.atleast_1d(np.asarray(steps))])


def _stepped(eigenvalues, learning_rate: float) -> np.ndarray:
    eigenvalues = not_negative("eigenvalues", eigenvalues)
    if not eigenvalues.size:
        raise ValueError("eigenvalues is empty: there is no mode to learn")
    largest = eigenvalues.max()
    if not 0 < number("learning_rate", learning_rate) * largest < 2:
        raise ValueError(f"learning_rate must lie between 0 and 2 / (largest eigenvalue) = {2 / largest:.3g}")
    return eigenvalues


def _spectrum(name: str, gram, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues and modes of a Gram, and the labels, `(n,)`."""
    gram = gram_matrix(name, gram)
    return *positive_spectrum(name, gram), real_array("labels", labels, shape=(len(gram),))
