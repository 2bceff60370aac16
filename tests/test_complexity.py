"""D1-D6: data inefficiency against its definition, power laws, exact averages over noise and orders."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.complexity import (
    data_inefficiency,
    expected_squared_norm,
    learning_threshold,
    noise_inefficiency,
    noise_norm,
)
from kdlib.data.circle import CircleTask, LaplaceCircle, SobolevCircle
from kdlib.path import interpolation_path


def norm_paths(seeds=20, examples=40, exponent=0.7, noise=0.1):
    """Norms that grow like n^exponent, times a factor that differs between seeds."""
    rng = np.random.default_rng(0)
    return np.exp(noise * rng.normal(size=(seeds, 1))) * np.arange(1, examples + 1) ** exponent


def gram_of(rows, seed, features=None):
    x = np.random.default_rng(seed).normal(size=(rows, features or rows + 3))
    return x @ x.T


def test_definition_and_logarithmic_form():
    norms = norm_paths()
    result = data_inefficiency(norms)
    mean = norms.mean(axis=0)
    for n in (1, 7, 39):
        assert result.estimate[n - 1] == pytest.approx(n * (mean[n] - mean[n - 1]) / mean[n - 1])
        logarithmic = n * (np.log(np.sqrt(mean[n])) - np.log(np.sqrt(mean[n - 1])))
        assert result.logarithmic[n - 1] == pytest.approx(logarithmic, rel=1e-9)
    assert result.per_sample.shape == (20, 39) and result.n[[0, -1]].tolist() == [1, 39]
    assert (result.lower <= result.estimate + 1e-12).all() and (result.estimate <= result.upper + 1e-12).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8])
def test_power_laws_are_found_at_any_scale(scale):
    sizes = np.array([2, 4, 8, 16, 32])
    growing = data_inefficiency(scale * norm_paths(exponent=0.7))
    slope, low, high = growing.between(sizes)
    np.testing.assert_allclose(slope, 0.7, atol=1e-9)
    assert (low <= slope + 1e-9).all() and (slope <= high + 1e-9).all()
    n = np.arange(1, 2001)
    inefficiency = 0.5 * n[:-1] ** -0.8  # I(n) = a n^{-b}: build the norms that have it
    norms = scale * np.concatenate([[1.0], np.cumprod(1 + inefficiency / n[:-1])])
    a, b, (lower, upper) = data_inefficiency(np.tile(norms, (3, 1))).power_law(np.array([50, 100, 200, 400, 800, 1600]))
    assert a == pytest.approx(0.5, rel=0.06) and b == pytest.approx(0.8, rel=0.01)
    assert lower - 1e-9 <= b <= upper + 1e-9


def test_intervals_cover():
    """Nominal 95 percent, 40 seeds: the truth lies inside in most repetitions."""
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(200):
        increments = rng.exponential(size=(40, 30))  # E||w_n||^2 = n, so I(n) = 1
        result = data_inefficiency(np.cumsum(increments, axis=1), resamples=300)
        inside.append(result.lower[20] <= 1.0 <= result.upper[20])
    assert np.mean(inside) > 0.87


def test_differences_are_paired():
    norms = norm_paths(noise=2.0)
    n = np.arange(1, norms.shape[1] + 1)
    first, second = data_inefficiency(norms), data_inefficiency(norms * n**0.1)
    gap, low, high = second.difference(first, [4, 32])
    assert gap[0] == pytest.approx(0.1) and high[0] - low[0] < 1e-9


@pytest.mark.parametrize(
    "norms, message",
    [
        (np.ones(5), "shape"),
        (np.ones((1, 5)), "two seeds"),
        (np.full((3, 5), np.nan), "finite"),
        (-np.ones((3, 5)), "not negative"),
        (np.zeros((3, 5)), "positive"),
    ],
)
def test_misuse_is_refused(norms, message):
    with pytest.raises(ValueError, match=message):
        data_inefficiency(norms)


def test_sizes_are_checked():
    result = data_inefficiency(norm_paths())
    for sizes in ([5], [8, 4], [0, 4], [4, 400], [1.5, 3.0]):
        with pytest.raises(ValueError, match="ascending integers"):
            result.between(sizes)
    with pytest.raises(ValueError, match="does not grow"):
        data_inefficiency(np.ones((3, 40))).power_law([4, 8, 16])


def test_noise_norm_is_the_mean_over_noise():
    gram, rng = gram_of(12, 0), np.random.default_rng(1)
    drawn = interpolation_path(gram, rng.normal(size=(12, 20_000))).squared_norm.mean(axis=1)
    np.testing.assert_allclose(noise_norm(gram), drawn, rtol=0.05)
    np.testing.assert_allclose(noise_norm(gram)[-1], np.trace(np.linalg.inv(gram)), rtol=1e-9)


def test_noise_inefficiency_is_the_average_over_orders():
    gram = gram_of(5, 3)
    norms = np.array([noise_norm(gram[np.ix_(order, order)]) for order in permutations(range(5))]).mean(axis=0)
    assert noise_inefficiency(gram) == pytest.approx(4 * (norms[4] - norms[3]) / norms[3], rel=1e-9)


@given(rows=st.integers(2, 25), seed=st.integers(0, 10_000), decay=st.floats(0, 3))
@settings(max_examples=100, deadline=None)
def test_noise_never_gets_easier(rows, seed, decay):
    """D6 for any positive definite Gram; equality for the identity."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(rows, rows)))[0]
    gram = rotation * np.arange(1.0, rows + 1) ** -decay @ rotation.T
    assert noise_inefficiency(gram) >= 1 - 1e-9
    assert noise_inefficiency(np.eye(rows)) == pytest.approx(1)


def test_dependent_noise_breaks_it():
    gram = np.eye(6) - 0.15  # negatively correlated features
    shuffled = (np.eye(6) - 1 / 6) * 6 / 5
    assert noise_inefficiency(gram, shuffled) < 1 - 1e-3 < noise_inefficiency(gram)
    with_mean = noise_inefficiency(np.eye(6) + 1.0, np.eye(6) + 25.0)
    assert with_mean < 1 - 1e-3


def test_deterministic_equivalent():
    """The threshold solves its equation; the estimate is near the truth where features are Gaussian."""
    mu = np.arange(1.0, 401) ** -1.5
    for n in (1, 30, 300):
        kappa = learning_threshold(mu, n)
        assert np.sum(mu / (mu + kappa)) == pytest.approx(n, rel=1e-9)
    rng = np.random.default_rng(0)
    weights = np.arange(1.0, 401) ** -0.8
    norms = []
    for _ in range(30):
        features = rng.normal(size=(50, 400)) * np.sqrt(mu)
        norms.append(interpolation_path(features @ features.T, features @ weights).squared_norm)
    estimate = expected_squared_norm(mu, mu * weights**2, [10, 50])
    np.testing.assert_allclose(estimate, np.mean(norms, axis=0)[[9, 49]], rtol=0.05)
    assert expected_squared_norm(mu, mu, 5).shape == ()
    with pytest.raises(ValueError, match="below the number of positive eigenvalues"):
        learning_threshold(mu, 400)


def test_the_laplace_circle_knows_its_spectrum():
    circle = LaplaceCircle(modes=2**12)
    angles = circle.sample(5, 0)
    k = np.arange(-400, 401)
    mu = dict(zip(circle.frequencies.tolist(), circle.eigenvalues, strict=True))
    summed = sum(mu[int(q)] * np.cos(q * np.subtract.outer(angles, angles)) for q in k)
    np.testing.assert_allclose(summed, circle.kernel(angles, angles), atol=2e-3)
    assert circle.eigenvalues.sum() == pytest.approx(1, abs=1e-3)
    energies = circle.energies(lambda theta: 3 * np.sin(theta))
    assert energies.sum() == pytest.approx(4.5) and energies[np.abs(circle.frequencies) == 1].sum() == pytest.approx(
        4.5
    )


def test_the_sobolev_circle_s_norm_is_a_sum_over_gaps():
    """Against the Gram matrix, to 1e-9; the mean gap that covers a point is twice the typical one."""
    circle = SobolevCircle()
    for seed in range(5):
        theta = circle.sample(30, seed)
        targets = np.random.default_rng(seed).normal(size=30)
        gram = circle.kernel(theta, theta)
        np.testing.assert_allclose(np.diagonal(gram), circle.DIAGONAL)
        expected = interpolation_path(gram, targets).squared_norm[-1]
        np.testing.assert_allclose(circle.squared_norm(theta, targets), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="the same"):
        circle.squared_norm([1.0, 2.0, 1.0], [1.0, 0.0, 1.0])
    covering = [circle.gaps_covering(circle.sample(200, seed), [0.0, 1.0, 6.28]) for seed in range(500)]
    assert abs(np.mean(covering) / (2 * 2 * np.pi / 200) - 1) < 0.06  # 4 standard errors


def test_known_exponent_on_the_circle():
    """D3: a teacher with weights k^{-1} over features k^{-1} k has b = 1."""
    k = range(1, 401)
    task = CircleTask(400, 1.0, tuple((i, i**-2.0) for i in k), tuple((i, -(i**-2.0)) for i in k))
    norms = []
    for seed in range(20):
        features = task.features(task.sample(100, seed))
        norms.append(interpolation_path(features @ features.T, features @ task.teacher_weights).squared_norm)
    _, b, _ = data_inefficiency(np.array(norms)).power_law([6, 12, 25, 50, 100])
    assert 0.7 < b < 1.3


@pytest.mark.parametrize(
    "gram, message",
    [
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "negative eigenvalue"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "finite"),
        (np.ones((2, 2)), "not positive definite"),
        (np.eye(2) * 1j, "complex"),
    ],
)
def test_noise_needs_the_gram_of_a_kernel(gram, message):
    for function in (noise_norm, noise_inefficiency):
        with pytest.raises(ValueError, match=message):
            function(gram)
    with pytest.raises(ValueError, match="covariance"):
        noise_inefficiency(np.eye(2), covariance=np.eye(3))


def test_spectra_and_norms_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no negative eigenvalue"):
        expected_squared_norm([1.0, 0.5, 0.2, -0.3], np.ones(4), 2)
    with pytest.raises(ValueError, match="energies"):
        expected_squared_norm([1.0, 0.5, 0.2], [1.0, -1.0, 1.0], 2)
    with pytest.raises(ValueError, match="positive in every draw"):
        data_inefficiency([[0.0, 1, 2, 3], [1, 2, 3, 4]])
    with pytest.raises(ValueError, match="two examples"):
        noise_inefficiency(np.eye(1))
