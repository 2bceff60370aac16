"""C2: wide students against the infinite one, and the kernel against the closed form."""

import numpy as np
import pytest

from kdlib.experiments.width import train_wide
from kdlib.kernels import FullyConnected, analytic_ntk
from kdlib.labels import DistillationLoss, minimiser

LOSS = DistillationLoss(soft_ratio=0.5, temperature=2.0)
ERF = FullyConnected(depth=2, activation="erf")


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(18, 12))
    z = np.sin(x[:, 0]) + 0.5 * x[:, 1]
    return x[:12], x[12:], z[:12], np.where(z[:12] > 0, 1.0, -1.0)


def closed_form(x, held, z, y):
    target = minimiser(LOSS, z, y)
    return target, analytic_ntk(ERF, held, x) @ np.linalg.solve(analytic_ntk(ERF, x), target)


def distance(problem, **options):
    x, held, z, y = problem
    student = train_wide(ERF, x, held, z, y, **{**dict(loss=LOSS, width=4096, seed=0, steps=600), **options})
    target, limit = closed_form(x, held, z, y)
    return (
        student,
        np.linalg.norm(student.outputs - target),
        np.linalg.norm(student.held_out - limit) / np.linalg.norm(limit),
    )


def test_a_wide_student_is_the_infinite_one(problem):
    student, residual, far = distance(problem, kernel_inputs=6)
    assert residual < 1e-4 and far < 0.1 and student.gradient_norm < 1e-4
    kernel = analytic_ntk(ERF, np.concatenate(problem[:2]))
    assert np.linalg.norm(student.initial_kernel - kernel) < 0.1 * np.linalg.norm(kernel)
    assert np.linalg.norm(student.final_kernel - student.initial_kernel) < 0.1 * np.linalg.norm(kernel)
    assert student.parameters == 12 * 4096 + 4096 + 4096 + 1


@pytest.mark.slow
def test_what_keeps_a_student_away_from_it(problem):
    far = distance(problem)[2]
    assert distance(problem, remove_initial=False)[2] > 3 * far  # a random function stays in
    assert distance(problem, width=8)[2] > 3 * far
    still, moved = distance(problem, kernel_inputs=6)[0], distance(problem, kernel_inputs=6, output_scale=0.03)[0]
    drift = lambda s: np.linalg.norm(s.final_kernel - s.initial_kernel) / np.linalg.norm(s.initial_kernel)
    assert drift(moved) > 3 * drift(still)  # mean-field scaling


@pytest.mark.slow
def test_a_seed_fixes_it_and_kernels_are_optional(problem):
    first, second = (distance(problem, width=32, steps=50)[0] for _ in range(2))
    np.testing.assert_array_equal(first.held_out, second.held_out)
    assert first.initial_kernel is None and first.final_kernel is None


def test_misuse_is_refused(problem):
    x, held, z, y = problem
    with pytest.raises(ValueError, match="labels"):
        train_wide(ERF, x, held, z, y[:5], loss=LOSS, width=8, seed=0)
    with pytest.raises(ValueError, match="soft label"):
        train_wide(ERF, x, held, z, y, loss=DistillationLoss(0.0), width=8, seed=0)
