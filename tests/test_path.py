"""R1, R4, R5: the path over n against one solve per n, on matrices of known spectrum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.path import NotPositiveDefiniteError, interpolation_path


def with_spectrum(eigenvalues, seed=0):
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    gram = rotation * eigenvalues @ rotation.T
    return (gram + gram.T) / 2


def problem(train, held_out, seed):
    """Gram, cross and diagonal of random features, with targets from a known weight vector."""
    rng = np.random.default_rng(seed)
    features, new = rng.normal(size=(train, train + 5)), rng.normal(size=(held_out, train + 5))
    weights = rng.normal(size=train + 5)
    return features, new, weights


@given(train=st.integers(1, 20), held_out=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_every_n_is_the_direct_solution(train, held_out, seed):
    features, new, weights = problem(train, held_out, seed)
    path = interpolation_path(features @ features.T, features @ weights, new @ features.T, (new**2).sum(1))
    all_predictions, all_lengths = path.predict(), path.power_function()
    for n in range(1, train + 1):
        w_n = np.linalg.pinv(features[:n]) @ (features[:n] @ weights)
        projection = np.linalg.pinv(features[:n]) @ features[:n]
        np.testing.assert_allclose(path.squared_norm[n - 1], w_n @ w_n, rtol=1e-6)
        np.testing.assert_allclose(path.predict(n), new @ w_n, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(path.power_function(n), np.linalg.norm(new - new @ projection, axis=1), atol=1e-6)
        np.testing.assert_allclose(all_predictions[:, n - 1], path.predict(n), atol=1e-9)
        np.testing.assert_allclose(all_lengths[:, n - 1], path.power_function(n), atol=1e-6)
    assert path.predict([]).shape == (held_out, 0)
    assert (np.diff(path.squared_norm) >= 0).all() and path.squared_norm[-1] <= weights @ weights * (1 + 1e-9)


@pytest.mark.parametrize("condition", [1e1, 1e5, 1e9])
def test_known_spectrum(condition):
    eigenvalues = np.geomspace(1 / condition, 1, 40)
    gram = with_spectrum(eigenvalues)
    targets = np.linalg.eigh(gram)[1] @ np.ones(40)  # equal weight on every eigenvector: z^T K^-1 z = sum of 1 / lambda
    path = interpolation_path(gram, targets)
    np.testing.assert_allclose(path.squared_norm[-1], np.sum(1 / eigenvalues), rtol=1e-15 * condition * 100)


def test_zero_examples_know_nothing():
    features, new, weights = problem(6, 3, 0)
    path = interpolation_path(features @ features.T, features @ weights, new @ features.T, (new**2).sum(1))
    np.testing.assert_array_equal(path.predict(0), 0)
    np.testing.assert_allclose(path.power_function(0), np.linalg.norm(new, axis=1))
    np.testing.assert_array_equal(path.predict([0, 6])[:, 1], path.predict()[:, 5])
    assert not path.certified(0, np.linalg.norm(weights)).any()


def test_several_outputs_share_the_factor():
    features, new, _ = problem(8, 3, 1)
    targets = np.random.default_rng(2).normal(size=(8, 4))
    together = interpolation_path(features @ features.T, targets, new @ features.T)
    for c in range(4):
        alone = interpolation_path(features @ features.T, targets[:, c], new @ features.T)
        np.testing.assert_allclose(together.squared_norm[:, c], alone.squared_norm, rtol=1e-12)
        np.testing.assert_allclose(together.predict(5)[:, c], alone.predict(5), rtol=1e-10, atol=1e-12)


def test_certificates_hold_and_need_the_norm():
    features, new, weights = problem(30, 200, 3)
    path = interpolation_path(features @ features.T, features @ weights, new @ features.T, (new**2).sum(1))
    agree = np.sign(new @ weights) == np.sign(path.predict(25))
    certified = path.certified(25, np.linalg.norm(weights))
    assert certified.any() and agree[certified].all() and not agree.all()
    with pytest.raises(ValueError, match="R1"):
        path.certified(25, 0.5 * path.squared_norm[24] ** 0.5)


def test_what_rounding_takes_from_the_variance_is_given_back():
    """A float32 Gram whose diagonal is half a percent too small: the inputs, which the sample explains, say so, and all
    get it back, to 1e-4 of it."""
    rng = np.random.default_rng(0)
    features, new = rng.normal(size=(30, 30)), rng.normal(size=(20, 30))
    gram, cross, diagonal = features @ features.T, (new @ features.T).astype(np.float32), (new**2).sum(1)
    path = interpolation_path(gram.astype(np.float32), np.ones(30), cross, 0.995 * diagonal)
    np.testing.assert_allclose(path.diagonal, diagonal, rtol=1e-4)
    exact = interpolation_path(gram, np.ones(30), cross, diagonal + 1.0)  # in float64 nothing is short, nor added
    np.testing.assert_array_equal(exact.diagonal, diagonal + 1.0)
    with pytest.raises(ValueError, match="is below"):
        interpolation_path(gram, np.ones(30), new @ features.T, 0.995 * diagonal)


def test_a_duplicate_is_named():
    features, _, weights = problem(6, 1, 4)
    features[4] = features[1]
    with pytest.raises(NotPositiveDefiniteError, match="example 4 .*example 1: a duplicate.*no jitter"):
        interpolation_path(features @ features.T, features @ weights)


@pytest.mark.parametrize("gram", [with_spectrum(np.array([1.0, 2.0, -1e-3])), with_spectrum(np.array([1, 1, 1e-18]))])
def test_singular_and_indefinite_grams_are_refused(gram):
    with pytest.raises(NotPositiveDefiniteError, match="ridge"):
        interpolation_path(gram, np.ones(3))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: interpolation_path(np.ones((2, 3)), np.ones(2)), "square"),
        (lambda: interpolation_path(np.eye(2), np.ones(3)), "targets"),
        (lambda: interpolation_path(np.eye(2), np.array([1.0, np.nan])), "must be finite"),
        (lambda: interpolation_path(np.array([[1.0, 0.5], [0.0, 1.0]]), np.ones(2)), "not symmetric"),
        (lambda: interpolation_path(np.eye(2), np.ones(2), np.ones((2, 3))), "cross"),
        (lambda: interpolation_path(np.eye(2), np.ones(2), np.ones((4, 2)), np.ones(3)), "diagonal"),
        (lambda: interpolation_path(np.eye(2), np.ones(2)).predict(1), "cross"),
        (lambda: interpolation_path(np.eye(2), np.ones(2), np.ones((1, 2))).power_function(1), "diagonal"),
        (lambda: interpolation_path(np.eye(2), np.ones(2), np.ones((1, 2))).predict(3), "0..2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
