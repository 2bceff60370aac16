"""S1-S5: supervision complexity and the margin bounds, term by term and against simulation."""

import numpy as np
import pytest

from kdlib.complexity import adjusted_supervision_complexity, supervision_complexity
from kdlib.margin import distillation_bound, margin_bound
from kdlib.path import NotPositiveDefiniteError


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 40))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T, np.where(rng.random(30) < 0.5, -1.0, 1.0), rng


# --- Supervision complexity (S1) ---------------------------------------------------------------------------------


def test_it_is_the_quadratic_form(problem):
    gram, v, _ = problem
    result = supervision_complexity(gram, v)
    assert result.value == pytest.approx(v @ np.linalg.solve(gram, v), rel=1e-10)
    assert result.ridge == 0 and result.trace == pytest.approx(30) and result.examples == 30
    assert result.adjusted == pytest.approx(np.sqrt(result.value * 30) / 30)
    assert adjusted_supervision_complexity(gram, v) == result.adjusted


def test_a_ridge_is_reported_and_makes_it_smaller(problem):
    gram, v, _ = problem
    result = supervision_complexity(gram, v, ridge=0.1)
    assert result.ridge == 0.1 and result.trace == pytest.approx(30)
    assert result.value == pytest.approx(v @ np.linalg.solve(gram + 0.1 * np.eye(30), v), rel=1e-10)
    assert result.value < supervision_complexity(gram, v).value


def test_several_outputs(problem):
    gram, _, rng = problem
    targets = rng.normal(size=(30, 3))
    shared = supervision_complexity(gram, targets)
    full = np.kron(gram, np.eye(3))  # (n C, n C), the order of targets.ravel()
    for across in (full, full.reshape(30, 3, 30, 3)):
        result = supervision_complexity(across, targets)
        assert result.value == pytest.approx(shared.value, rel=1e-9) and result.trace == pytest.approx(shared.trace)
    mixed = np.kron(gram, np.eye(3) + 0.5)
    assert supervision_complexity(mixed, targets).value == pytest.approx(
        targets.ravel() @ np.linalg.solve(mixed, targets.ravel()), rel=1e-9
    )


def test_misuse_is_refused(problem):
    gram, v, _ = problem
    with pytest.raises(ValueError, match="gram must have shape"):
        supervision_complexity(gram[:20, :20], v)
    with pytest.raises(ValueError, match="targets must have"):
        supervision_complexity(gram, v[:, None, None])
    with pytest.raises(ValueError, match="ridge"):
        supervision_complexity(gram, v, ridge=-1.0)
    with pytest.raises(NotPositiveDefiniteError):
        supervision_complexity(np.ones((30, 30)), v)


# --- Margin bounds (S3, S4, S5) ----------------------------------------------------------------------------------


def test_each_term_of_the_binary_bound(problem):
    gram, y, rng = problem
    values = y * rng.uniform(-0.2, 1.0, 30)
    bound = margin_bound(gram, values, y, margins=[0.5, 1.0], delta=0.1, norm=2.3, unit=0.5, choices=7)
    assert bound.level == 5 and bound.norm == 2.3
    np.testing.assert_allclose(bound.ramp[0], np.mean(np.clip(1 - y * values / 0.5, 0, 1)))
    np.testing.assert_allclose(bound.complexity, 2 * 5 * 0.5 * np.sqrt(30) / (np.array([0.5, 1.0]) * 30))
    assert bound.confidence == pytest.approx(3 * np.sqrt(np.log(2 * 5 * 6 * 2 * 7 / 0.1) / 60))
    assert bound.value == min(bound.total) == bound.total[bound.best] and bound.vacuous
    sharper = margin_bound(
        gram, values, y, margins=[0.5, 1.0], delta=0.1, norm=2.3, unit=0.5, choices=7, constant_diagonal=True
    )
    assert sharper.confidence == pytest.approx(np.sqrt(np.log(5 * 6 * 2 * 7 / 0.1) / 60))


def test_terms_can_be_divided_and_coins_learnt_by_heart_leave_little_room():
    """Points that know nothing of each other, coins for labels: the error is one, and a complexity that is short by a
    factor of three, or a ramp by a tenth, would show."""
    coins = np.random.default_rng(0).choice([-1.0, 1.0], 400)
    for size in (0.05, 0.5, 1.0):
        bound = margin_bound(
            np.eye(400), size * coins, coins, margins=[1.0], delta=0.05, norm=20 * size, unit=20 * size,
            constant_diagonal=True,
        )  # fmt: skip
        assert bound.value >= 1 > bound.divided(complexity=3, confidence=3, ramp=3) and bound.divided() == bound.value
    assert bound.divided(complexity=3) < 1


def test_a_divided_term_chooses_its_margin_anew():
    """With a tenth of the complexity term a smaller margin is the best one."""
    coins = np.random.default_rng(0).choice([-1.0, 1.0], 400)
    bound = margin_bound(
        np.eye(400), coins * np.random.default_rng(1).uniform(0, 1, 400), coins, margins=[0.1, 0.2, 0.5, 1.0, 2.0],
        delta=0.05, norm=1.0, unit=0.1, constant_diagonal=True,
    )  # fmt: skip
    fixed = bound.total[bound.best] - bound.complexity[bound.best] * 0.9
    assert bound.divided(complexity=10) == pytest.approx((bound.total - 0.9 * bound.complexity).min())
    assert bound.divided(complexity=10) < fixed - 0.01


def test_without_a_norm_it_is_that_of_the_interpolant(problem):
    gram, y, _ = problem
    bound = margin_bound(gram, y, y, margins=[1.0], delta=0.05)
    assert bound.norm == pytest.approx(np.sqrt(y @ np.linalg.solve(gram, y)), rel=1e-9) and bound.ramp[0] == 0
    shifted = margin_bound(gram, y, y, margins=[1.0], delta=0.05, offset=0.9 * y)
    assert shifted.norm == pytest.approx(0.1 * bound.norm, rel=1e-9)


def test_scale_does_nothing(problem):
    """T2: values, margins and unit scaled together leave the bound as it is."""
    gram, y, rng = problem
    values = y + 0.3 * rng.normal(size=30)
    first = margin_bound(gram, values, y, margins=[0.3, 0.9], delta=0.05, unit=0.2)
    second = margin_bound(gram, 5 * values, y, margins=[1.5, 4.5], delta=0.05, unit=1.0)
    np.testing.assert_allclose(first.total, second.total, rtol=1e-12)


def test_several_classes(problem):
    gram, _, rng = problem
    labels = rng.integers(0, 4, 30)
    values = rng.normal(size=(30, 4))
    bound = margin_bound(gram, values, labels, margins=[1.0], delta=0.05, norm=1.0)
    margins = [values[i, c] - np.delete(values[i], c).max() for i, c in enumerate(labels)]
    assert bound.ramp[0] == pytest.approx(np.mean(np.clip(1 - np.array(margins), 0, 1)))
    assert bound.complexity[0] == pytest.approx(4 * np.sqrt(4 * 30) / 30)
    across = margin_bound(np.kron(gram, np.eye(4)), values, labels, margins=[1.0], delta=0.05, norm=1.0)
    assert across.value == pytest.approx(bound.value)


def test_distillation_adds_the_teachers_error_and_refuses_a_dependent_teacher(problem):
    gram, y, rng = problem
    teacher = y + 0.2 * rng.normal(size=30)
    told = dict(teacher_errors=3, teacher_trials=1000, margins=[1.0], delta=0.05, norm=0.1)
    bound = distillation_bound(gram, teacher, teacher, teacher_saw_these_examples=False, **told)
    transfer = margin_bound(gram, teacher, np.sign(teacher), margins=[1.0], delta=0.025, norm=0.1)
    assert bound.transfer.value == transfer.value and 0.003 < bound.teacher < 0.01
    assert bound.value == min(1.0, bound.teacher + transfer.value)
    with pytest.raises(ValueError, match="independent of these examples"):
        distillation_bound(gram, teacher, teacher, teacher_saw_these_examples=True, **told)
    unseen = dict(teacher_saw_these_examples=np.bool_(False), **told)
    assert distillation_bound(gram, teacher, teacher, **unseen).value == bound.value
    for shape in ((30, 1), (30, 2)):  # a column would decide for class 0 everywhere
        with pytest.raises(ValueError, match="teacher_logits must have shape"):
            distillation_bound(gram, teacher, np.ones(shape), **unseen)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(margins=[0.0]), "margins must be positive"),
        (dict(delta=1.0), "delta must be"),
        (dict(unit=0.0), "unit"),
        (dict(norm=-5.0), "norm"),
        (dict(norm=np.nan), "norm"),
        (dict(norm=0.0, offset=0.0), "norm 0 is too small"),
        (dict(offset=np.zeros(31)), "offset"),
        (dict(values=np.r_[np.nan, np.ones(29)]), "values must be finite"),
        (dict(gram=np.diag(np.r_[-1.0, np.ones(29)])), "negative entry"),
        (dict(choices=0), "choices"),
        (dict(labels=np.zeros(30)), "-1 or 1"),
        (dict(labels=np.ones(29)), "labels must have shape"),
        (dict(gram=np.eye(31)), "gram must be"),
        (dict(gram=np.diag(np.arange(1.0, 31)), constant_diagonal=True), "not constant"),
    ],
)
def test_misuse_of_bounds_is_refused(problem, options, message):
    gram, y, _ = problem
    with pytest.raises(ValueError, match=message):
        margin_bound(**{**dict(gram=gram, values=y, labels=y, margins=[1.0], delta=0.05, norm=1.0), **options})
