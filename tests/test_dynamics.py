"""C1: the integrated flow, the excess loss, the guaranteed rate. O1, N2, W1, H4: closed forms."""

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from kdlib.dynamics import (
    best_mixture,
    descent_filter,
    distillation_flow,
    early_stopped,
    excess_loss,
    flow_filter,
    online_descent_filter,
    online_filter,
    online_student,
    self_distillation_filter,
    strong_convexity,
)
from kdlib.labels import DistillationLoss, minimiser

LOSS = DistillationLoss(soft_ratio=0.5, temperature=2.0)


def test_one_example_has_a_closed_form():
    # n = 1, soft ratio 1, feature 1: z' = -(s(z) - s(z_t)), an ODE whose time to reach z is an integral.
    times = np.linspace(0, 5, 6)
    flow = distillation_flow(np.ones((1, 1)), np.zeros(1), [0.0], [1], times, loss=DistillationLoss(1.0), start=[1.0])
    # s(z) - 1/2 = tanh(z / 2) / 2, so sinh(z / 2) falls like exp(-t / 4).
    np.testing.assert_allclose(np.sinh(flow[:, 0] / 2), np.sinh(0.5) * np.exp(-times / 4), rtol=1e-8)


def test_flow_ends_at_the_effective_logits(rng):
    features = rng.normal(size=(5, 9))
    teacher, labels = rng.normal(size=5), np.array([1, -1, 1, 1, -1])
    end = distillation_flow(features, np.zeros(5), teacher, labels, [0, 1e5], loss=LOSS)[-1]
    np.testing.assert_allclose(features @ end, minimiser(LOSS, teacher, labels), atol=1e-7)
    np.testing.assert_allclose(end, np.linalg.pinv(features) @ features @ end, atol=1e-8)


def test_excess_loss_is_zero_only_at_the_effective_logits(rng):
    teacher, labels = rng.normal(size=4), np.array([1, -1, -1, 1])
    best = minimiser(LOSS, teacher, labels)
    assert abs(excess_loss(best, teacher, labels, loss=LOSS)) < 1e-14
    assert excess_loss(best + 0.1, teacher, labels, loss=LOSS) > 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_strong_convexity_is_below_every_curvature_on_the_sublevel_set(scale, rng):
    teacher, labels = rng.normal(size=3), np.array([1, -1, 1])
    start = rng.normal(size=3) * scale
    m = strong_convexity(start, teacher, labels, loss=LOSS)
    allowed = excess_loss(start, teacher, labels, loss=LOSS)
    best = minimiser(LOSS, teacher, labels)
    curvature = jax.vmap(lambda z: jax.jacfwd(lambda v: LOSS.gradient(v, teacher, labels))(z).diagonal())
    points = best + rng.normal(size=(3000, 3)) * (1 + scale) * 2
    inside = [p for p in points if excess_loss(p, teacher, labels, loss=LOSS) <= allowed][:200] + [start]
    assert 0 < m <= float(curvature(np.array(inside)).min())


def random_gram(n, seed):
    features = np.random.default_rng(seed).normal(size=(n, 2 * n))
    return features @ features.T / n


def test_early_stopping_is_the_matrix_exponential(rng):
    gram, labels = random_gram(6, 0), rng.normal(size=6)
    expected = [labels - expm(-t * gram) @ labels for t in (0, 0.3, 5.0)]
    np.testing.assert_allclose(early_stopped(gram, labels, (0, 0.3, 5.0)), expected, atol=1e-13)


def test_filters_of_modes_that_are_hardly_learnt_keep_their_digits():
    np.testing.assert_allclose(flow_filter([1e-17], [1.0]), 1e-17, rtol=1e-15)
    np.testing.assert_allclose(online_filter(np.array([1e-9]), 3.0), 1.5e-18, rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.01, 0.999999999, 1.0, 1.0001, 30.0])
def test_online_filter_solves_its_equation(ratio):
    x = np.linspace(0, 20, 25)
    solution = solve_ivp(lambda s, h: -(h + np.expm1(-ratio * s)), (0, 20), [0.0], "DOP853", x, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(online_filter(x, ratio), solution.y[0], atol=1e-9)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_online_descent_is_what_the_steps_do(ratio):
    eigenvalues, rate = np.array([1.0, 0.3, 1e-3]), 0.9
    teacher, student = np.zeros(3), np.zeros(3)
    for step in range(1, 30):
        student, teacher = (
            student - rate * eigenvalues * (student - teacher),
            teacher - rate * ratio * eigenvalues * (teacher - 1),
        )
        np.testing.assert_allclose(online_descent_filter(eigenvalues, [step], rate, ratio)[0], student, atol=1e-13)
        np.testing.assert_allclose(descent_filter(ratio * eigenvalues, [step], rate)[0], teacher, atol=1e-13)


@pytest.mark.parametrize("teacher_seed", [1, 2])  # the same kernel, and another
def test_online_student_solves_its_equation(teacher_seed, rng):
    gram, teacher_gram, labels = random_gram(5, 1), random_gram(5, teacher_seed), rng.normal(size=5)

    def velocity(t, outputs):
        return -gram @ (outputs - early_stopped(teacher_gram, labels, [t])[0])

    solution = solve_ivp(velocity, (0, 4), np.zeros(5), "DOP853", (0.5, 4.0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(online_student(gram, teacher_gram, labels, (0.5, 4.0)), solution.y.T, atol=1e-9)


def test_closed_forms_refuse_what_has_no_sense():
    with pytest.raises(ValueError, match="negative eigenvalue"):
        early_stopped(np.diag([1.0, -0.5]), np.ones(2), [1.0])
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\)"):
        early_stopped(np.eye(3), np.ones(2), [1.0])
    with pytest.raises(ValueError, match="between 0 and 2 / "):
        descent_filter([1.0, 4.0], [3], 0.6)
    with pytest.raises(ValueError, match="between 0 and 2 / "):
        online_descent_filter([1.0], [3], 0.6, ratio=4.0)
    with pytest.raises(ValueError, match="ratio"):
        online_filter(1.0, 0.0)
    for call in (
        lambda: early_stopped(np.eye(2), np.ones(2), [-5.0]), lambda: online_filter(-1.0),
        lambda: online_student(np.eye(2), np.eye(2), np.ones(2), [-5.0]), lambda: descent_filter([-3.0, 1.0], [3], 0.1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must not be negative"):
            call()
    with pytest.raises(ValueError, match="empty"):
        descent_filter([], [3], 0.1)


@pytest.mark.parametrize("upper", [np.nan, np.inf, 0.9])
def test_the_whole_gram_is_looked_at_not_one_triangle(upper):
    gram = np.eye(3)
    gram[0, 2] = upper
    for call in (
        lambda: early_stopped(gram, np.ones(3), [1.0]),
        lambda: online_student(gram, np.eye(3), np.ones(3), [1.0]),
        lambda: online_student(np.eye(3), gram, np.ones(3), [1.0]),
    ):
        with pytest.raises(ValueError, match="must be finite|not symmetric"):
            call()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rounds_of_self_distillation_are_ridge_fits_in_a_row(share):
    """W1 against the fits themselves, to 1e-10; with labels it tends to plain ridge with `ridge / share`."""
    features = np.random.default_rng(0).normal(size=(6, 9))
    gram, labels = features @ features.T, np.random.default_rng(1).normal(size=6)
    eigenvalues, modes = np.linalg.eigh(gram)
    fit = lambda targets: gram @ np.linalg.solve(gram + 2.0 * np.eye(6), targets)
    answers = fit(labels)
    for rounds in range(1, 6):
        kept = self_distillation_filter(eigenvalues, ridge=2.0, rounds=rounds, label_share=share)
        np.testing.assert_allclose(modes @ (kept * (modes.T @ labels)), answers, atol=1e-10)
        answers = fit(share * labels + (1 - share) * answers)
    limit = self_distillation_filter(eigenvalues, ridge=2.0, rounds=4000, label_share=share)
    expected = eigenvalues / (eigenvalues + 2.0 / share) if share else np.zeros(6)
    np.testing.assert_allclose(limit, expected, atol=1e-4)
    with pytest.raises(ValueError, match="not negative"):
        self_distillation_filter([-1.0], ridge=1.0, rounds=1)


@pytest.mark.parametrize("outputs", [None, 2])
def test_the_best_mixture_against_all_mixtures(outputs):
    """H4 against students trained on mixtures: no share is better than the one found; its risk is as stated."""
    draw = np.random.default_rng(0)
    features, held_out = draw.normal(size=(20, 30)), draw.normal(size=(40, 30))
    weights = draw.normal(size=30) if outputs is None else draw.normal(size=(30, outputs))
    gram, cross = features @ features.T, held_out @ features.T
    labels, truth = features @ weights, held_out @ weights
    labels = labels + 3 * draw.normal(size=labels.shape)

    def risk(share):
        fit = lambda targets: np.linalg.solve(gram + 5.0 * np.eye(20), targets)
        gap = cross @ fit((1 - share) * labels + share * (gram @ fit(labels))) - truth
        return (gap**2).sum() / len(gap)

    found = best_mixture(gram, labels, ridge=5.0, cross=cross, truth=truth)
    np.testing.assert_allclose([found.risk, found.teacher_risk], [risk(found.share), risk(0.0)], rtol=1e-9)
    assert all(risk(found.share + step) > found.risk * (1 + 1e-9) for step in (-0.1, -0.01, 0.01, 0.1))
    with pytest.raises(ValueError, match="same for every ridge"):
        best_mixture(gram, 0 * labels, ridge=5.0, cross=cross, truth=truth)
    with pytest.raises(ValueError, match="truth"):
        best_mixture(gram, labels, ridge=5.0, cross=cross, truth=truth[:-1])
