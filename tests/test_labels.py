"""E1-E4: effective logits against closed forms and a 60-digit reference, at every scale of logits."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.labels import (
    DistillationLoss,
    correction_threshold,
    effective_logits,
    is_corrected,
    label_jump,
)

SCALINGS = ("none", "squared")


def reference_binary(teacher, label, ratio, temperature, scaling):
    """The root of g by bisection with enough digits that nothing cancels."""
    with mpmath.workdps(60 + int(abs(teacher) / temperature)):
        rho, t, a = mpmath.mpf(ratio), mpmath.mpf(temperature), mpmath.mpf(float(teacher * label))
        q = (1 - rho) / rho * (t if scaling == "none" else 1 / t)
        sigmoid = lambda x: 1 / (1 + mpmath.exp(-x))
        low, high = a, max(a, 0) * (1 + 1 / t) + abs(mpmath.log(q)) + 10 * t + 10
        for _ in range(300):
            middle = (low + high) / 2
            excess = sigmoid(middle / t) - sigmoid(a / t) - q * sigmoid(-middle)
            low, high = (low, middle) if excess > 0 else (middle, high)
        return float(low) * label


def assert_close(found, expected, tolerance=1e-10):
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))) < tolerance


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("ratio", [1e-9, 0.3, 0.9, 1 - 1e-9])
def test_binary_agrees_with_high_precision(ratio, temperature, scaling, rng):
    teacher = np.concatenate([rng.normal(size=3) * scale for scale in (1e-6, 1, 30)])
    labels = rng.choice([-1, 1], len(teacher))
    found = effective_logits(teacher, labels, soft_ratio=ratio, temperature=temperature, temperature_scaling=scaling)
    expected = [reference_binary(z, y, ratio, temperature, scaling) for z, y in zip(teacher, labels, strict=True)]
    assert_close(found, expected)


@given(
    teacher=st.floats(-1e3, 1e3),
    label=st.sampled_from([-1, 1]),
    ratio=st.floats(1e-6, 1),
    scale=st.sampled_from(SCALINGS),
)
@settings(max_examples=60, deadline=None)
def test_temperature_one_has_a_closed_form(teacher, label, ratio, scale):
    # At T = 1 the loss is one cross-entropy with the mixed probability; written without cancellation.
    with mpmath.workdps(500):
        soft = ratio / (1 + mpmath.exp(-mpmath.mpf(teacher * label)))
        other = ratio / (1 + mpmath.exp(mpmath.mpf(teacher * label)))
        expected = label * float(mpmath.log((soft + 1 - mpmath.mpf(ratio)) / other))
    assert_close(effective_logits([teacher], [label], soft_ratio=ratio, temperature_scaling=scale), expected)


@pytest.mark.parametrize("ratio", [1e-9, 0.2, 0.7, 1 - 1e-12])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_multiclass_at_temperature_one_has_a_closed_form(ratio, scale, rng):
    teacher, labels = rng.normal(size=(50, 7)) * scale, rng.integers(0, 7, 50)
    log_p = jax.nn.log_softmax(teacher, axis=1)
    hard = np.where(np.arange(7) == labels[:, None], np.log1p(-ratio), -np.inf)
    expected = np.logaddexp(np.log(ratio) + log_p, hard)
    expected -= expected.mean(axis=1, keepdims=True)
    assert_close(effective_logits(teacher, labels, soft_ratio=ratio), expected)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("ratio", [1e-9, 0.2, 0.5, 0.95, 1 - 1e-9])
def test_two_classes_are_the_binary_case(ratio, temperature, scaling, rng):
    loss = dict(soft_ratio=ratio, temperature=temperature, temperature_scaling=scaling)
    z, labels = rng.normal(size=80) * np.geomspace(1e-3, 100, 80), rng.choice([-1, 1], 80)
    pairs = effective_logits(np.stack([np.zeros(80), z], axis=1), (labels + 1) // 2, **loss)
    assert_close(pairs[:, 1] - pairs[:, 0], effective_logits(z, labels, **loss))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("temperature", [0.1, 0.7, 4.0, 1000.0])
@pytest.mark.parametrize("ratio", [1e-6, 0.2, 0.5, 0.95])
def test_multiclass_satisfies_stationarity_class_by_class(ratio, temperature, scaling, rng):
    loss = dict(soft_ratio=ratio, temperature=temperature, temperature_scaling=scaling)
    teacher, labels = rng.normal(size=(60, 9)) * temperature * 3, rng.integers(0, 9, 60)
    z = effective_logits(teacher, labels, **loss)
    c_t = temperature**2 if scaling == "squared" else 1.0
    q = (1 - ratio) * temperature / (ratio * c_t)
    p = jax.nn.softmax(teacher / temperature, axis=1)
    soft, hard = jax.nn.softmax(z / temperature, axis=1), jax.nn.softmax(z, axis=1)
    wrong = np.arange(9) != labels[:, None]  # for these the equation has no cancelling terms: relative accuracy
    assert np.max(np.abs((soft + q * hard) / p - 1)[wrong]) < 1e-10
    assert np.abs(z.sum(axis=1)).max() < 1e-10 * max(1, np.abs(z).max())


def test_extreme_logits_stay_finite():
    teacher = np.array([1e300, -1e300, 745.0, -745.0, 1e-300, 0.0])
    for ratio in (1e-300, 0.5, 1 - 1e-16):
        for temperature in (0.1, 1.0, 1000.0):
            z = effective_logits(teacher, np.ones(6), soft_ratio=ratio, temperature=temperature)
            assert np.isfinite(z).all() and (np.asarray(z) >= teacher - 1e-12 * np.abs(teacher)).all()
            rows = effective_logits(teacher.reshape(2, 3), [2, 1], soft_ratio=ratio, temperature=temperature)
            assert np.isfinite(rows).all()


def test_soft_ratio_one_returns_the_teacher(rng):
    teacher = rng.normal(size=(4, 3))
    centred = teacher - teacher.mean(axis=1, keepdims=True)
    assert_close(effective_logits(teacher, [0, 1, 2, 0], soft_ratio=1.0, temperature=3.0), centred, 1e-15)
    np.testing.assert_array_equal(effective_logits(teacher[:, 0], [1, -1, 1, 1], soft_ratio=1.0), teacher[:, 0])


@pytest.mark.parametrize("classes", [None, 4])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_gradient_is_the_loss_derivative(classes, scaling, rng):
    shape = (20,) if classes is None else (20, classes)
    z, teacher = rng.normal(size=shape), rng.normal(size=shape)
    labels = rng.choice([-1, 1], 20) if classes is None else rng.integers(0, classes, 20)
    loss = dict(soft_ratio=0.3, temperature=2.5, temperature_scaling=scaling)
    expected = jax.grad(lambda logits: DistillationLoss(**loss).values(logits, teacher, labels).sum())(jnp.asarray(z))
    assert_close(DistillationLoss(**loss).gradient(z, teacher, labels), expected, 1e-14)


@given(
    ratio=st.floats(0.01, 1),
    temperature=st.floats(0.1, 100),
    scaling=st.sampled_from(SCALINGS),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_closed_form_of_correction_agrees_with_the_solver(ratio, temperature, scaling, seed):
    loss = dict(soft_ratio=ratio, temperature=temperature, temperature_scaling=scaling)
    generator = np.random.default_rng(seed)
    z, labels = generator.normal(size=64) * 3 * temperature, generator.choice([-1, 1], 64)
    np.testing.assert_array_equal(
        is_corrected(z, labels, **loss), np.asarray(effective_logits(z, labels, **loss)) * labels > 0
    )
    rows, classes = generator.normal(size=(64, 5)) * 3 * temperature, generator.integers(0, 5, 64)
    solved = np.asarray(effective_logits(rows, classes, **loss)).argmax(axis=1) == classes
    np.testing.assert_array_equal(is_corrected(rows, classes, **loss), solved)


def test_jump_and_threshold_have_their_closed_forms():
    for ratio in (0.01, 0.4, 0.99):
        assert_close(label_jump(soft_ratio=ratio), 2 * np.arctanh(1 - ratio), 1e-12)
    assert label_jump(soft_ratio=1.0) == 0
    assert correction_threshold(temperature=4.0) == 0.8
    assert correction_threshold(temperature=4.0, temperature_scaling="squared") == 0.2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(teacher_logits=[1.0], labels=[1], soft_ratio=0.0), "no minimiser"),
        (dict(teacher_logits=[1.0], labels=[1], soft_ratio=1.5), "soft_ratio"),
        (dict(teacher_logits=[1.0], labels=[1], soft_ratio=0.5, temperature=0.0), "temperature"),
        (dict(teacher_logits=[1.0], labels=[1], soft_ratio=0.5, temperature_scaling="T^2"), "temperature_scaling"),
        (dict(teacher_logits=[np.nan], labels=[1], soft_ratio=0.5), "row 0"),
        (dict(teacher_logits=[1.0], labels=[0], soft_ratio=0.5), "2 \\* y - 1"),
        (dict(teacher_logits=[[1.0, 2.0]], labels=[2], soft_ratio=0.5), "0..1"),
        (dict(teacher_logits=[[1.0, 2.0]], labels=[0.0], soft_ratio=0.5), "integers"),
        (dict(teacher_logits=[1.0, 2.0], labels=[1], soft_ratio=0.5), "one per row"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    for function in (effective_logits, is_corrected):
        with pytest.raises(ValueError, match=message):
            function(
                arguments["teacher_logits"],
                arguments["labels"],
                **{k: v for k, v in arguments.items() if k[0] in "s" or k.startswith("temp")},
            )


@pytest.mark.parametrize("step", [1e-6, 1e-8])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_tiny_share_of_hard_labels_moves_the_logits_by_its_derivative(step, temperature):
    """Near soft ratio one the root is so near the teacher's logit that a Newton step is short before it is reached.

    Notices a root that is off by a thousandth of that distance.
    """
    rng = np.random.default_rng(0)
    z, y = np.clip(4 * rng.normal(size=4000), -8, 8), rng.choice([-1.0, 1.0], 4000)
    moved = effective_logits(z, y, soft_ratio=1 - step, temperature=temperature, temperature_scaling="squared") - z
    slope = 1 / (1 + np.exp(-z / temperature)) / (1 + np.exp(z / temperature))
    derivative = ((1 + y) / 2 - 1 / (1 + np.exp(-z))) / slope
    second_order = 100 * step * np.abs(derivative) * (1 + np.abs(derivative))
    rounding = 4 * np.finfo(float).eps * (1 + np.abs(z)) / step
    assert (np.abs(moved / step - derivative) < 1e-3 * np.abs(derivative) + second_order + rounding).all()
