"""Infinite-width kernels: an independent recursion, blocking, normalisation, and a clean JAX afterwards."""

import jax
import numpy as np
import pytest

from kdlib.kernels import Convolutional, FullyConnected, analytic_diagonal, analytic_ntk, centred_ntk


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def arc_cosine_ntk(x1, x2, depth, weight_std, bias_std):
    """NTK of a ReLU network by the arc-cosine recursion, written without neural-tangents."""
    dimension = x1.shape[1]
    affine = lambda cov: weight_std**2 * cov + bias_std**2
    cross = affine(x1 @ x2.T / dimension)
    own1, own2 = (affine((x**2).sum(1) / dimension) for x in (x1, x2))
    ntk = cross.copy()
    for _ in range(depth - 1):
        scale = np.sqrt(np.outer(own1, own2))
        angle = np.arccos(np.clip(cross / scale, -1, 1))
        ntk = ntk * weight_std**2 * (np.pi - angle) / (2 * np.pi)
        cross = affine(scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi))
        own1, own2 = affine(own1 / 2), affine(own2 / 2)
        ntk = ntk + cross
    return ntk


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_fully_connected_is_the_arc_cosine_recursion(depth, rng):
    x1, x2 = rng.normal(size=(9, 20)), rng.normal(size=(7, 20))
    expected = arc_cosine_ntk(x1, x2, depth, 2**0.5, 0.1)
    np.testing.assert_allclose(analytic_ntk(FullyConnected(depth=depth), x1, x2), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "architecture", [FullyConnected(activation="erf"), Convolutional(), Convolutional(pooling="average")]
)
def test_blocks_do_not_change_the_kernel(architecture, rng):
    x = rng.normal(size=(13, 6, 6, 2))
    whole = analytic_ntk(architecture, x, block=13)
    blocked = analytic_ntk(architecture, x, block=4)
    np.testing.assert_allclose(blocked, whole, rtol=1e-12)
    np.testing.assert_array_equal(blocked, blocked.T)
    np.testing.assert_allclose(analytic_ntk(architecture, x[:5], x, block=4), whole[:5], rtol=1e-12)
    np.testing.assert_allclose(analytic_diagonal(architecture, x), np.diagonal(whole), rtol=1e-12)
    assert np.linalg.eigvalsh(whole).min() > 0


def test_normalised_kernel_has_unit_diagonal(rng):
    x = rng.normal(size=(8, 5))
    gram = analytic_ntk(FullyConnected(), x, normalised=True)
    np.testing.assert_array_equal(np.diagonal(gram), 1.0)
    # arccos near one turns rounding into its square root: k(x, x) itself is good to about 1e-8.
    np.testing.assert_allclose(analytic_ntk(FullyConnected(), x[:3], x, normalised=True), gram[:3], rtol=1e-7)


def test_finite_networks_have_the_kernel_in_the_mean(rng):
    # The empirical NTK of wide networks approaches the analytic one: ties `layers` to the kernel.
    architecture = FullyConnected(depth=2)
    x = rng.normal(size=(4, 6))
    initialise, apply, _ = architecture.layers(width=2048)
    grams = []
    for seed in range(4):
        _, params = initialise(jax.random.key(seed), (-1, 6))
        jacobian = jax.jacobian(lambda p: apply(p, x)[:, 0])(params)
        flat = np.concatenate([np.asarray(leaf).reshape(4, -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
        grams.append(flat @ flat.T)
    np.testing.assert_allclose(np.mean(grams, axis=0), analytic_ntk(architecture, x), rtol=0.15, atol=0.05)


def test_float32_is_kept():
    assert analytic_ntk(FullyConnected(), np.ones((2, 3)), dtype=np.float32).dtype == np.float32


def test_jax_is_left_as_it_was():
    analytic_ntk(FullyConnected(), np.ones((2, 3)))  # imports neural-tangents
    assert not any(hasattr(jax.core, name) for name in ("Jaxpr", "Primitive", "JaxprEqn"))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: analytic_ntk(FullyConnected(), np.ones(3)), "shape"),
        (lambda: analytic_ntk(FullyConnected(), np.ones((3, 2)), np.ones((3, 4))), "one shape"),
        (lambda: analytic_ntk(FullyConnected(), np.array([[1.0, np.nan]])), "x1 .* finite"),
        (lambda: analytic_ntk(FullyConnected(), np.ones((3, 2)), np.full((3, 2), np.inf)), "x2 .* finite"),
        (lambda: analytic_ntk(FullyConnected(), np.ones((0, 2))), "n >= 1"),
        (lambda: analytic_ntk(FullyConnected(), 1.0), "n >= 1"),
        (lambda: analytic_ntk(FullyConnected(), np.ones((3, 2), complex)), "x1 must be real"),
        (lambda: analytic_ntk(FullyConnected(), np.ones((3, 2)), block=0), "block must be"),
        (lambda: analytic_ntk(FullyConnected(), np.ones((3, 2)), dtype=np.float16), "float32 or float64"),
        (lambda: analytic_diagonal(FullyConnected(), np.full((3, 2), np.nan)), "x .* finite"),
        (lambda: centred_ntk(FullyConnected(), np.ones((3, 2)), centre=np.full((3, 2), np.nan)), "finite"),
        (lambda: FullyConnected(activation="tanhh"), "activation"),
        (lambda: FullyConnected(depth=0), "depth"),
        (lambda: FullyConnected(weight_std=0.0), "weight_std"),
        (lambda: FullyConnected(bias_std=-0.1), "bias_std"),
        (lambda: Convolutional(filter_size=0), "filter_size"),
        (lambda: analytic_ntk(Convolutional(), np.ones((3, 2))), "images"),
        (lambda: Convolutional(pooling="max"), "pooling"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_centred_kernel_is_that_of_centred_features(rng):
    """Against the Gram of all inputs and centres together, centred as matrices are."""
    x, held_out, centre = (rng.normal(size=(n, 5)) for n in (7, 4, 9))
    student = FullyConnected()
    full = analytic_ntk(student, np.concatenate([x, held_out, centre]), normalised=True)
    shift = np.eye(20)
    shift[:, 11:] -= 1 / 9  # every feature less the mean of the centres'
    expected = shift @ full @ shift.T
    scale = np.sqrt(np.diagonal(expected))
    expected = expected / scale[:, None] / scale[None, :]
    np.testing.assert_allclose(centred_ntk(student, x, centre=centre), expected[:7, :7], atol=1e-9)
    np.testing.assert_allclose(centred_ntk(student, held_out, x, centre=centre), expected[7:11, :7], atol=1e-9)
