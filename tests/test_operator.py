"""The NTK as an operator: products with the Gram, its diagonal and rows, without the Gram."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import example, slow_but

from kdlib.kernels import empirical_ntk, ntk_operator
from kdlib.kernels.finite import operator


def test_what_an_operator_cannot_do_is_refused():
    network, params, x = example("perceptron")
    for batch, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="batch must be"):
            ntk_operator(network, params, x, batch=batch)
    product = ntk_operator(network, params, x)
    with pytest.raises(ValueError, match=r"v must have shape \(15,\) or \(5, 3\), not \(3, 5\)"):
        product(np.ones((3, 5)))
    with pytest.raises(ValueError, match="v must be finite"):
        product(np.full(15, np.nan))
    for examples in ([5], [0, -1]):
        with pytest.raises(ValueError, match=r"examples must be an integer in 0\.\.4"):
            product.rows(examples)
    assert product.rows([]).shape == (0, 15)


@pytest.mark.parametrize("name", slow_but("perceptron", ["normalised", "positions", "perceptron"]))
def test_operator_is_the_gram(name, rng):
    network, params, x = example(name, n=7)
    gram = empirical_ntk(network, params, x)
    c = gram.shape[1]
    flat = gram.reshape(7 * c, 7 * c)
    product = ntk_operator(network, params, x, batch=3)
    v = rng.normal(size=(7, c))
    scale = np.abs(flat).max()
    assert product.shape == flat.shape
    np.testing.assert_allclose(product(v), (flat @ v.ravel()).reshape(7, c), atol=1e-12 * scale * 7 * c)
    np.testing.assert_allclose(product(v.ravel()), flat @ v.ravel(), atol=1e-12 * scale * 7 * c)
    np.testing.assert_allclose(product.diagonal.ravel(), np.diag(flat), rtol=1e-12)
    np.testing.assert_allclose(product.trace, np.trace(flat), rtol=1e-12)
    np.testing.assert_allclose(
        product.rows([5, 0]), flat.reshape(7, c, -1)[[5, 0]].reshape(2 * c, -1), atol=1e-13 * scale
    )
    assert product.products == 2


def test_operator_of_a_layer_with_its_own_derivative(rng):
    @jax.custom_vjp
    def clipped(x):
        return jnp.tanh(x)

    clipped.defvjp(lambda x: (jnp.tanh(x), x), lambda x, cotangent: (cotangent * (1 - jnp.tanh(x) ** 2),))
    x = rng.normal(size=(6, 4))
    params = {"first": jnp.asarray(rng.normal(size=(4, 5))), "second": jnp.asarray(rng.normal(size=(5, 2)))}

    def network(params, x):
        return clipped(x @ params["first"]) @ params["second"]

    gram = empirical_ntk(network, params, x).reshape(12, 12)
    v = rng.normal(size=12)
    np.testing.assert_allclose(ntk_operator(network, params, x, batch=4)(v), gram @ v, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_operator_divides_batches_whose_gradients_do_not_fit(monkeypatch):
    network, params, x = example("outside the structured set", n=7)
    whole = ntk_operator(network, params, x, batch=5)
    parts = ntk_operator(network, params, x, batch=5)
    expected, rows = whole.diagonal, whole.rows([1, 6])
    memory = parts._engine.plan.memory
    monkeypatch.setattr(operator, "FEATURE_BYTES", 2 * (memory.features + memory.late))
    assert len(list(parts._parts("test"))) == 6
    np.testing.assert_allclose(parts.diagonal, expected, rtol=1e-12)
    np.testing.assert_allclose(parts.rows([1, 6]), rows, atol=1e-12 * np.abs(rows).max())
