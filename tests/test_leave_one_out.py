"""D9: what leaving each example out says, against leaving it out; without bias on one sample, biased if shuffled."""

import numpy as np
import pytest

from kdlib.complexity import leave_one_out
from kdlib.data.circle import LaplaceCircle
from kdlib.path import NotPositiveDefiniteError, interpolation_path


def sample(n, seed, dimension=3):
    inputs = np.random.default_rng(seed).normal(size=(n, dimension))
    distance = np.linalg.norm(inputs[:, None] - inputs[None], axis=-1)
    return np.exp(-distance), np.tanh(inputs.sum(axis=1))


@pytest.mark.parametrize("outputs", [None, 3])
def test_against_leaving_each_out(outputs):
    """To 1e-9: a wrong index or a missing square would be seen."""
    gram, targets = sample(12, 0)
    if outputs:
        targets = np.stack([targets, targets**2, np.ones(12)], axis=1)
    found = leave_one_out(gram, targets)
    whole = interpolation_path(gram, targets).squared_norm[-1]
    assert np.sum(whole) == pytest.approx(found.squared_norm)
    grown = found.norm_increments.sum() / 12
    assert found.inefficiency == pytest.approx(11 * grown / (found.squared_norm - grown))
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        dual = np.linalg.solve(gram[np.ix_(rest, rest)], targets[rest])
        norm = np.sum(targets[rest] * dual, axis=0)
        np.testing.assert_allclose(found.norm_increments[i], whole - norm, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found.predictions[i], gram[i, rest] @ dual, rtol=1e-9, atol=1e-11)


def test_without_bias_from_one_sample_and_with_bias_if_shuffled():
    """2,000 samples of 8: the mean increment is that of the norm within 4 standard errors (7 % here); of labels that
    are a permutation, and so know of each other, it is not."""
    draw, found, truth, shuffled, truth_shuffled = np.random.default_rng(1), [], [], [], []
    for seed in range(2000):
        gram, targets = sample(8, seed)
        path = interpolation_path(gram, targets)
        found.append(leave_one_out(gram, targets).norm_increments.mean())
        truth.append(path.squared_norm[-1] - path.squared_norm[-2])
        signs = draw.permutation(np.repeat([1.0, -1.0], 4))  # of eight: the last is known from the others
        shuffled.append(leave_one_out(gram, signs).predictions @ signs / 8)
        independent = draw.choice([-1.0, 1.0], 8)
        truth_shuffled.append(leave_one_out(gram, independent).predictions @ independent / 8)
    gap = np.array(found) - truth
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(2000) < 0.08 * np.mean(truth)
    error = np.std(shuffled) / np.sqrt(2000)
    assert abs(np.mean(truth_shuffled)) < 4 * error  # nothing to predict
    assert np.mean(shuffled) < -8 * error  # seven say what the eighth is not


def test_the_share_of_wrong_signs_is_the_risk():
    """On the circle, risk of 15 examples from 400 samples of 16, each left one out: within 4 standard errors (0.01)."""
    kernel, task = LaplaceCircle(), np.sin
    by_leaving, by_testing = [], []
    for seed in range(400):
        angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, 17)
        gram, targets = kernel.kernel(angles, angles), task(angles)
        by_leaving.append(np.mean(leave_one_out(gram[:16, :16], targets[:16]).predictions * targets[:16] <= 0))
        path = interpolation_path(gram[:15, :15], targets[:15], cross=gram[15:, :15])
        by_testing.append(np.mean(path.predict(15) * targets[15:] <= 0))
    gap = np.array(by_leaving) - by_testing
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(400)


@pytest.mark.parametrize(
    "gram, targets, error, message",
    [
        (np.ones((1, 1)), [1.0], ValueError, "two examples"),
        (np.ones((2, 2)), [1.0, 2.0], NotPositiveDefiniteError, "duplicate"),
        (np.eye(2), [1.0], ValueError, "targets"),
    ],
)
def test_misuse_is_refused(gram, targets, error, message):
    with pytest.raises(error, match=message):
        leave_one_out(gram, targets)
