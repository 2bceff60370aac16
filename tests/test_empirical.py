"""The empirical NTK: against plain Jacobians and neural-tangents, blocked, sharded; what is refused."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import NETWORKS, example, slow_but

from kdlib.kernels import CrossExampleError, empirical_ntk, explain, ntk_operator
from kdlib.kernels.finite import features, prepared
from kdlib.training.networks import LeNet

ROOT = Path(__file__).resolve().parent.parent


def by_jacobian(network, params, x):
    """The NTK of "params" from an explicit float64 Jacobian."""
    rest = {key: value for key, value in params.items() if key != "params"}
    jacobian = jax.jacrev(lambda trained: network.apply({"params": trained, **rest}, jnp.asarray(x)))(params["params"])
    flat = [np.asarray(leaf).reshape(len(x), leaf.shape[1], -1) for leaf in jax.tree.leaves(jacobian)]
    rows = np.concatenate(flat, axis=2)
    return np.einsum("icp,jdp->icjd", rows, rows)


# The ResNet with normalisation compiles no less than the one without, and has all of the smaller one's layers.
@pytest.mark.parametrize(
    "name", slow_but("perceptron", [name for name in NETWORKS if name not in ("resnet", "normalised")])
)
def test_gram_is_that_of_the_jacobian(name):
    network, params, x = example(name)
    expected = by_jacobian(network, params, x)
    scale = np.abs(expected).max()
    full = empirical_ntk(network, params, x, block=2)
    np.testing.assert_allclose(full, expected, atol=1e-13 * scale)
    np.testing.assert_array_equal(full, full.transpose(2, 3, 0, 1))
    summed = empirical_ntk(network, params, x, outputs="sum")
    np.testing.assert_allclose(summed, np.einsum("icjc->ij", expected), atol=1e-12 * scale)
    cross = empirical_ntk(network, params, x[:2], x[1:], block=3, memory=0)
    np.testing.assert_allclose(cross, expected[:2, :, 1:], atol=1e-13 * scale)
    plain = empirical_ntk(network, params, x, structured=False)
    np.testing.assert_allclose(plain, expected, atol=1e-13 * scale)
    single = empirical_ntk(network, params, x, dtype=np.float32)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=1e-4 * scale)  # a ReLU gate may flip


@pytest.mark.slow
@pytest.mark.parametrize("name, form", [("wide", "late"), ("positions", "pairs"), ("strided", "gradient")])
def test_forms_of_contraction_on_a_cpu_and_elsewhere(name, form, monkeypatch):
    network, params, x = example(name, n=7)
    for outputs in ("full", "sum"):
        engine = prepared.engine_of(network, params, x, prepared.Options(kind=outputs))
        assert form in engine.plan.forms and engine.hosted
        expected = empirical_ntk(network, params, x, outputs=outputs, block=3)
        monkeypatch.setattr(prepared, "BATCH_BYTES", 1)  # features of four examples at a time
        np.testing.assert_allclose(empirical_ntk(network, params, x, outputs=outputs, block=7), expected, rtol=1e-10)
        diagonal = ntk_operator(network, params, x).diagonal
        monkeypatch.setattr(prepared.Engine, "hosted", False)  # features stay on the device, nothing goes to NumPy
        elsewhere = empirical_ntk(network, params, x, outputs=outputs, block=3)
        np.testing.assert_allclose(elsewhere, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_allclose(ntk_operator(network, params, x).diagonal, diagonal, rtol=1e-10)
        monkeypatch.undo()


@pytest.mark.slow
def test_what_is_structured_and_what_is_not():
    network, params, x = example("resnet")
    assert set(explain(network, params, x).values()) == {"layer"}
    network, params, x = example("outside the structured set")
    handling = explain(network, params, x)
    explicit = {path for path, how in handling.items() if how != "layer"}
    assert len(handling) - len(explicit) >= 1 and any("used 2 times" in how for how in handling.values())
    assert any("ConvTranspose" in path for path in explicit) and any("Conv_0" in path for path in explicit)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", [1, 2])
def test_neural_tangents_agrees(implementation):
    importlib.import_module("kdlib.kernels._neural_tangents")  # with which the next line works on current JAX
    neural_tangents = importlib.import_module("neural_tangents")

    network, params, x = example("lenet")
    theirs = neural_tangents.empirical_ntk_fn(network.apply, trace_axes=(), implementation=implementation, vmap_axes=0)
    expected = np.asarray(theirs(jnp.asarray(x), None, params)).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(empirical_ntk(network, params, x), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.slow
def test_ntk_parametrisation_and_plain_functions(rng):
    from kdlib.kernels import FullyConnected

    init, apply, _ = FullyConnected(depth=3, activation="erf").layers(width=12, outputs=2)
    x = rng.normal(size=(4, 7))
    params = init(jax.random.key(0), x.shape)[1]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    assert set(explain(apply, params, x).values()) == {"layer"}
    np.testing.assert_allclose(
        empirical_ntk(apply, params, x), empirical_ntk(apply, params, x, structured=False), rtol=1e-10, atol=1e-12
    )
    scalar = empirical_ntk(lambda p, x: apply(p, x)[:, 0], params, x)
    np.testing.assert_allclose(scalar, empirical_ntk(apply, params, x)[:, :1, :, :1], rtol=1e-12)


@pytest.mark.slow
def test_tokens_constants_and_outputs_of_another_precision(rng):
    class Bag(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return nn.Dense(2)(jnp.tanh(nn.Embed(11, 6)(tokens)).mean(axis=1))

    tokens = rng.integers(0, 11, size=(5, 7))
    params = jax.tree.map(jnp.asarray, Bag().init(jax.random.key(0), tokens))
    expected = by_jacobian(Bag(), jax.tree.map(lambda a: a.astype(jnp.float64), params), tokens)
    gram = empirical_ntk(Bag(), params, tokens, dtype=np.float64, block=2)
    np.testing.assert_allclose(gram, expected, atol=1e-13 * np.abs(expected).max())
    product = ntk_operator(Bag(), params, tokens, dtype=np.float64, batch=2)
    np.testing.assert_allclose(product(np.ones(10)), expected.reshape(10, 10).sum(axis=1), rtol=1e-10)

    x = rng.normal(size=(4, 3)).astype(np.float32)
    counted = {"weight": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "steps": jnp.asarray(3)}
    network = lambda p, x: p["steps"] * (x @ p["weight"])
    gram = empirical_ntk(network, counted, x)
    np.testing.assert_allclose(gram, 9 * np.einsum("ij,cd->icjd", x @ x.T, np.eye(2)), rtol=1e-5, atol=1e-5)
    assert set(explain(network, counted, x)) == {"['weight']"}

    inside, images = LeNet(outputs=3, dtype=jnp.bfloat16), rng.normal(size=(4, 28, 28, 1)).astype(np.float32)
    variables = inside.init(jax.random.key(0), images)  # float32; it computes in bf16
    halved, whole = empirical_ntk(inside, variables, images), empirical_ntk(LeNet(outputs=3), variables, images)
    assert halved.dtype == np.float32 and set(explain(inside, variables, images).values()) == {"layer"}
    np.testing.assert_allclose(halved, whole, atol=5e-2 * np.abs(whole).max())
    with pytest.raises(ValueError, match="one array, not a tuple"):
        empirical_ntk(lambda p, x: (x @ p["weight"], 0), counted, x)
    with pytest.raises(ValueError, match="no floating-point arrays"):
        empirical_ntk(network, {"steps": counted["steps"]}, x)


def test_a_bias_that_is_added_to_the_wrong_axis_is_not_a_layers(rng):
    def network(params, x):  # the bias varies over positions, of which there are as many as units
        return jnp.tanh(x @ params["kernel"] + params["bias"][:, None]).sum(axis=1)

    params = {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}  # where a wrong analysis would agree by chance
    x = rng.normal(size=(5, 4, 3))
    with pytest.warns(UserWarning, match="do not add up") as warned:
        gram = empirical_ntk(network, params, x)
    assert warned[0].filename == __file__  # it points at the call
    np.testing.assert_allclose(gram, empirical_ntk(network, params, x, structured=False), rtol=1e-12)
    trained = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    gram = empirical_ntk(network, trained, x)
    np.testing.assert_allclose(gram, empirical_ntk(network, trained, x, structured=False), rtol=1e-12)


def test_layers_that_mix_examples_are_refused():
    network, params, x = example("resnet with normalisation")

    def training(params, x):
        return network.apply(params, x, training=True, mutable=["batch_stats"])[0]

    with pytest.raises(CrossExampleError, match="use_running_average"):
        empirical_ntk(training, params, x)
    with pytest.raises(CrossExampleError):
        empirical_ntk(training, params, x[:1], x[1:])


def test_one_input_first_does_not_hide_that_examples_are_mixed(rng):
    centred = lambda p, x: (x - x.mean(axis=0)) @ p["weight"]
    params, x = {"weight": jnp.asarray(rng.normal(size=(3, 2)))}, rng.normal(size=(4, 3))
    with pytest.raises(CrossExampleError):
        explain(centred, params, x[:1])
    with pytest.raises(CrossExampleError):
        empirical_ntk(centred, params, x[:1])


def test_inputs_of_two_kinds_and_blocks_larger_than_their_number(rng):
    network = lambda p, x: jax.lax.conv_general_dilated(
        x, p["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).sum((1, 2))
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 3, 1, 2)))}
    one, other = rng.normal(size=(1, 6, 6, 1)), rng.integers(0, 9, size=(5, 6, 6, 1)).astype(np.uint8)
    expected = empirical_ntk(network, params, np.concatenate([one, other]))[:1, :, 1:]
    gram = empirical_ntk(network, params, one, other, block=100)
    np.testing.assert_allclose(gram, expected, rtol=1e-12, atol=1e-12)


def test_pairs_of_positions_some_at_a_time(monkeypatch):
    network, params, x = example("positions", n=7)
    expected = empirical_ntk(network, params, x)
    monkeypatch.setattr(features, "PAIR_BYTES", 1)
    jax.clear_caches()
    for kind in ("full", "sum"):
        gram = empirical_ntk(network, params, x, outputs=kind, block=4)
        wanted = expected if kind == "full" else np.einsum("icjc->ij", expected)
        np.testing.assert_allclose(gram, wanted, rtol=1e-10, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(outputs="mean"), ValueError, "outputs must be one of 'full', 'sum', not 'mean'"),
        (dict(dtype=np.float16), ValueError, "float32 or float64"),
        (dict(block=0), ValueError, "block must be"),
        (dict(block=2.5), TypeError, "block must be an integer"),
        (dict(memory=-1), ValueError, "memory must be"),
        (dict(memory=np.nan), ValueError, "memory must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, error, message):
    network, params, x = example("perceptron")
    with pytest.raises(error, match=message):
        empirical_ntk(network, params, x, **options)


def test_inputs_that_do_not_fit_are_refused():
    network, params, x = example("perceptron")
    unbounded = x.copy()
    unbounded[3, 0, 0, 0] = np.inf
    for wrong, message in [
        (unbounded, r"must be finite.* 3\b.*inf"),
        (x.astype(complex), "must be real, not complex"),
        (x[:0], "n >= 1"),
        (1.0, r"\(n, ...\)"),
    ]:
        with pytest.raises(ValueError, match=f"x1 .*{message}"):
            empirical_ntk(network, params, wrong)
        with pytest.raises(ValueError, match=f"x2 .*{message}"):
            empirical_ntk(network, params, x, wrong)
        for call in (explain, ntk_operator):
            with pytest.raises(ValueError, match=f"x .*{message}"):
                call(network, params, wrong)
    with pytest.raises(TypeError, match="array of numbers"):
        empirical_ntk(network, params, x.astype(str))
    with pytest.raises(ValueError, match="one shape"):
        empirical_ntk(network, params, x, x[:, :3])


def test_many_inputs_are_checked_in_parts(monkeypatch):
    network, params, x = example("perceptron")
    monkeypatch.setattr(prepared, "CHECKED_AT_ONCE", 2)
    x[3] = np.nan
    with pytest.raises(ValueError, match=r"x1\[2:4\] must be finite.* 1\b.*nan"):
        empirical_ntk(network, params, x)


def test_networks_and_parameters_that_do_not_fit_are_refused():
    network, params, x = example("perceptron")
    with pytest.raises(ValueError, match=r"\(n,\) or \(n, C\)"):
        empirical_ntk(lambda _, x: x, params, x)
    with pytest.raises(ValueError, match="axis of examples"):
        empirical_ntk(lambda p, x: network.apply(p, x)[:, 0].squeeze(), params, x)
    with pytest.raises(ValueError, match="outputs are not finite"):
        empirical_ntk(lambda p, x: network.apply(p, x) / 0, params, x)
    with pytest.raises(ValueError, match="complex"):
        empirical_ntk(lambda _, x: x, {"weight": jnp.ones(3, complex)}, x)
    with pytest.raises(ValueError, match=r"params must be finite in float64; an array of shape \(8,\)"):
        diverged = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.shape == (8,) else leaf, params)
        ntk_operator(network, diverged, x)


SHARDED = """
import jax, numpy as np
from jax.sharding import Mesh
from kdlib.kernels import empirical_ntk, ntk_operator
from kdlib.training.networks import LeNet
assert len(jax.devices()) == 4
network, x = LeNet(outputs=3), np.random.default_rng(0).normal(size=(10, 28, 28, 1))
params = jax.device_put(network.init(jax.random.key(0), x[:1]), jax.devices()[0])
mesh = Mesh(np.array(jax.devices()), ("examples",))
for outputs in ("full", "sum"):
    alone = empirical_ntk(network, params, x, dtype=np.float64, outputs=outputs)
    together = empirical_ntk(network, params, x, dtype=np.float64, outputs=outputs, mesh=mesh, block=4)
    np.testing.assert_allclose(together, alone, atol=1e-12 * np.abs(alone).max())
v = np.random.default_rng(1).normal(size=30)
operators = [ntk_operator(network, params, x, batch=4, dtype=np.float64, mesh=m) for m in (None, mesh)]
np.testing.assert_allclose(operators[1](v), operators[0](v), rtol=1e-9, atol=1e-9)
np.testing.assert_allclose(operators[1].diagonal, operators[0].diagonal, rtol=1e-11)
print("same")
"""


def run_alone(code, **environment):
    """What `code` prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


@pytest.mark.slow
def test_several_devices_give_the_same():
    assert run_alone(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=4") == "same"


WITHOUT_NEURAL_TANGENTS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "neural_tangents":
            raise ModuleNotFoundError("not installed: " + name)
if {blocked}:
    sys.meta_path.insert(0, Absent())
import jax.numpy as jnp, numpy as np
import kdlib.kernels
network = lambda p, x: jnp.tanh(x @ p["weight"])
params, x = {{"weight": np.ones((3, 2))}}, np.eye(3)
gram = kdlib.kernels.empirical_ntk(network, params, x)
product = kdlib.kernels.ntk_operator(network, params, x)(np.ones(6))
np.testing.assert_allclose(product, gram.reshape(6, 6) @ np.ones(6))
kdlib.kernels.explain(network, params, x)
student = kdlib.kernels.FullyConnected()
assert "neural_tangents" not in sys.modules
try:
    kdlib.kernels.analytic_ntk(student, x)
except ImportError as error:
    print("refused:", error)
else:
    print("neural_tangents" in sys.modules)
"""


def test_the_finite_engine_does_without_neural_tangents():
    assert run_alone(WITHOUT_NEURAL_TANGENTS.format(blocked=False)) == "True"  # imported, but not before
    assert run_alone(WITHOUT_NEURAL_TANGENTS.format(blocked=True)).startswith("refused: neural-tangents")
