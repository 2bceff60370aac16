"""R2, R3, R6 and the intervals around them."""

import numpy as np
import pytest
from scipy.stats import binom

from kdlib import bounds
from kdlib.data.circle import CircleTask
from kdlib.path import interpolation_path


@pytest.fixture(scope="module")
def circle():
    task = CircleTask(frequencies=60, decay=1.0)
    theta, new = task.sample(40, 0), task.sample(400, 1)
    features, held_out = task.features(theta), task.features(new)
    path = interpolation_path(features @ features.T, task.teacher(theta), held_out @ features.T, (held_out**2).sum(1))
    return task, path, task.teacher(new)


def test_task_is_what_it_says():
    task = CircleTask(frequencies=10, decay=1.5)
    theta = task.sample(20, 0)
    np.testing.assert_allclose(task.features(theta) @ task.teacher_weights, task.teacher(theta), atol=1e-12)
    k = np.arange(1, 11)
    kernel = 1 + (np.cos((theta[:, None] - theta)[..., None] * k) * k**-3.0).sum(-1)
    np.testing.assert_allclose(task.features(theta) @ task.features(theta).T, kernel, atol=1e-12)


def test_risk_below_power_below_angle(circle):
    task, path, teacher = circle
    norm = task.teacher_weights @ task.teacher_weights
    risk = bounds.transfer_risk(path, teacher)
    power = bounds.power_function_bound(path, teacher, norm)
    angle = bounds.angle_bound(path, teacher, norm)
    assert risk.estimate.shape == power.upper.shape == (40,)
    assert (risk.estimate <= power.estimate).all() and (power.estimate <= angle.estimate).all()
    assert (power.estimate < angle.estimate).any() and angle.estimate[-1] < 1


def test_a_start_that_is_not_zero(circle):
    """R2, R3 and R4 with any f_0, of the space or not; a student without it disagrees more than they allow."""
    task, path, _ = circle
    new, squared_norm = task.sample(400, 1), task.teacher_weights @ task.teacher_weights
    start = 1.5 * np.sign(np.sin(7 * new))
    teacher = task.teacher(new) + start
    risk = bounds.transfer_risk(path, teacher, offset=start).estimate
    power = bounds.power_function_bound(path, teacher, squared_norm).estimate
    assert (risk <= power).all() and (power <= bounds.angle_bound(path, teacher, squared_norm).estimate).all()
    assert (bounds.transfer_risk(path, teacher).estimate > power).any()
    sure = path.certified(20, np.sqrt(squared_norm), start)
    assert sure.any() and (np.sign(path.predict(20) + start) == np.sign(teacher))[sure].all()
    with pytest.raises(ValueError, match="offset"):
        bounds.transfer_risk(path, teacher, offset=start[:-1])


def test_angle_bound_is_its_definition(circle):
    task, path, teacher = circle
    weights, new = task.teacher_weights, task.features(task.sample(400, 1))
    alpha = bounds.transfer_angle(path, weights @ weights)
    line_angle = np.arccos(np.abs(teacher) / np.linalg.norm(new, axis=1) / np.linalg.norm(weights))
    expected = (line_angle[:, None] >= np.pi / 2 - alpha).mean(axis=0)
    np.testing.assert_allclose(bounds.angle_bound(path, teacher, weights @ weights).estimate, expected, atol=1e-12)


def test_a_norm_below_the_students_is_refused(circle):
    _, path, teacher = circle
    for bound in (bounds.angle_bound, bounds.power_function_bound):
        with pytest.raises(ValueError, match="R6"):
            bound(path, teacher, 0.9 * path.squared_norm[-1])


def test_oracle_bound_adds_the_disagreement(circle):
    task, path, _ = circle
    outside = 3 * np.sign(np.sin(task.sample(400, 1)))
    result = bounds.oracle_bound(path, outside, n=[5, 40])
    disagreement = np.mean(np.sign(path.predict(40)) != np.sign(outside))
    assert result.estimate[1] == pytest.approx(disagreement)  # at n = N nothing but the first term is left
    assert (bounds.transfer_risk(path, outside, n=[5, 40]).estimate <= result.estimate).all()
    assert (result.lower <= result.estimate).all() and (result.estimate <= result.upper).all()


@pytest.mark.parametrize("trials", [1, 7, 40])
@pytest.mark.parametrize("delta", [0.05, 0.3])
def test_clopper_pearson_covers_at_every_probability(trials, delta):
    lower, upper = bounds.clopper_pearson(np.arange(trials + 1), trials, delta)
    for p in np.linspace(0, 1, 101):
        covered = (lower <= p) & (p <= upper)
        assert binom.pmf(np.arange(trials + 1), trials, p)[covered].sum() >= 1 - delta - 1e-12
    assert lower[0] == 0 and upper[-1] == 1


def test_quoting_more_sizes_widens_each_interval(circle):
    _, path, teacher = circle
    one, many = (bounds.transfer_risk(path, teacher, n=n) for n in ([5], [5, 10, 20]))
    assert many.upper[0] > one.upper[0] and many.estimate[0] == one.estimate[0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda path, teacher: bounds.transfer_risk(path, teacher[:-1]), "one per row"),
        (lambda path, teacher: bounds.transfer_risk(path, teacher, n=[0]), "1..40"),
        (lambda path, teacher: bounds.transfer_risk(path, teacher, n=[2.5]), "integers"),
        (lambda path, teacher: bounds.transfer_risk(path, teacher, delta=0), "delta"),
    ],
)
def test_bad_input_is_refused(circle, call, message):
    with pytest.raises(ValueError, match=message):
        call(*circle[1:])


def test_mean_interval_covers_and_counts_both_sources():
    rng = np.random.default_rng(0)
    by_seed = [bounds.mean_interval(rng.normal(1.0, 2.0, 8)) for _ in range(2000)]
    assert 0.93 < np.mean([low <= 1.0 <= high for low, high in by_seed]) < 0.97
    crossed = [
        bounds.mean_interval(rng.normal(size=(60, 1)) + 0.3 * rng.normal(size=(1, 8)) + rng.normal(size=(60, 8)))
        for _ in range(500)
    ]
    assert np.mean([low <= 0.0 <= high for low, high in crossed]) > 0.94
    few = [bounds.mean_interval(rng.normal(size=(2, 1)) + 0.3 * rng.normal(size=(2, 30))) for _ in range(500)]
    assert np.mean([low <= 0.0 <= high for low, high in few]) > 0.93  # with the seeds' degrees of freedom: 0.71
    with pytest.raises(ValueError, match="two seeds at least"):
        bounds.mean_interval([1.0])


def test_a_bound_never_gets_smaller_on_bad_input():
    """NaN in the teacher or the kernel, a diagonal of another kernel: refused, where they would pass for certainty."""
    task = CircleTask(frequencies=20, decay=1.0)
    x, held_out = task.sample(12, 0), task.sample(200, 1)
    phi, far = task.features(x), task.features(held_out)
    gram, cross, diagonal = phi @ phi.T, far @ phi.T, np.sum(far**2, axis=1)
    teacher = task.teacher(held_out)
    path = interpolation_path(gram, task.teacher(x), cross, diagonal)
    norm = float(task.teacher_weights @ task.teacher_weights)
    for wrong in (np.where(np.arange(200) < 150, np.nan, teacher), teacher[:100], teacher + 1j):
        for bound in (bounds.angle_bound, bounds.power_function_bound):
            with pytest.raises(ValueError, match="teacher_logits"):
                bound(path, wrong, norm, n=[6, 12])
    with pytest.raises(ValueError, match="cross must be finite"):
        interpolation_path(gram, task.teacher(x), np.where(np.arange(200)[:, None] < 150, np.nan, cross), diagonal)
    for wrong, message in ((0.01 * diagonal, "not the diagonal of the kernel"), (-diagonal, "not negative")):
        with pytest.raises(ValueError, match=message):
            interpolation_path(gram, task.teacher(x), cross, wrong)
    with pytest.raises(ValueError, match="squared_norm"):
        bounds.power_function_bound(path, teacher, np.nan, n=[6])


def test_an_angle_needs_a_norm_that_r1_allows():
    path = interpolation_path(np.eye(3), [1.0, 1.0, 1.0])
    assert np.allclose(np.cos(bounds.transfer_angle(path, 4.0)), np.sqrt([1, 2, 3]) / 2)
    with pytest.raises(ValueError, match="below"):
        bounds.transfer_angle(path, 2.0)
    with pytest.raises(ValueError, match="one scalar teacher"):
        bounds.transfer_angle(interpolation_path(np.eye(3), np.ones((3, 2))), 4.0)


@pytest.mark.parametrize("terms", [dict(cosines=((5, 1.0),)), dict(cosines=(), sines=((1, 1.0), (1, 2.0)))])
def test_the_circle_s_teacher_must_be_in_the_student_s_space(terms):
    with pytest.raises(ValueError, match="cosines|sines"):
        CircleTask(frequencies=4, decay=1.0, **terms)


def test_what_two_sets_of_inputs_have_in_common():
    first, second = np.array([[0.0, 1.0], [2.0, 3.0], [2.0, 3.0]]), np.array([[2, 3], [-0.0, 1]])
    assert bounds.in_common(first, second) == 3 and bounds.in_common(second, first + 1e-9) == 0
    with pytest.raises(ValueError, match="one shape"):
        bounds.in_common(first, second[:, :1])
