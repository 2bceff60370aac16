"""The second engine: networks and weights to PyTorch and back, steps and trainings against JAX, resuming."""

import dataclasses
import importlib
import os
import sys

import jax
import numpy as np
import pytest

from kdlib.labels import DistillationLoss
from kdlib.training import NTKParametrised, Recipe, Teacher, loop, train
from kdlib.training.memory import LogitsMemory
from kdlib.training.networks import LeNet, MobileNet, Perceptron, ResNet, SmallConvolutional, Vgg, apply_in_blocks
from kdlib.training.step import JaxEngine

if not os.environ.get("KDLIB_TORCH"):  # set where PyTorch must be there: nothing is skipped then
    pytest.importorskip("torch")

from kdlib.training import pytorch  # noqa: E402
from kdlib.training.pytorch import TorchNetwork, torch  # noqa: E402
from kdlib.training.pytorch_step import TorchEngine  # noqa: E402

draw = np.random.default_rng(0)
IMAGES = draw.normal(size=(48, 28, 28, 3)).astype(np.float32)
LABELS = draw.integers(0, 3, 48)
QUICK = Recipe(epochs=3, batch_size=16, learning_rate=0.05, augment="crop-flip")
SOFT = dataclasses.replace(QUICK, loss=DistillationLoss(0.7, 4.0, "squared"))
ADAM = dataclasses.replace(QUICK, optimiser="adam", learning_rate=1e-3)
NETWORKS = {
    "perceptron": Perceptron((16, 8), 3),
    "strided": SmallConvolutional((4, 8), 8, 3),
    "lenet": LeNet(outputs=3),
    "resnet": ResNet(1, 4, outputs=3),
    "resnet without normalisation": ResNet(1, 4, normalised=False, outputs=3),
    "vgg": Vgg((4, 8, 8, 16, 16), outputs=3),
    "mobilenet": MobileNet(outputs=3),
}


SLOW = pytest.param("mobilenet", marks=pytest.mark.slow)


def variables_of(network, seed=1):
    """Variables whose biases, scales and statistics are not those of the start."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES[:1])
    noise = np.random.default_rng(seed)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.float32(
            noise.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
            if path[-1].key == "kernel"
            else 0.1 * np.abs(noise.normal(size=leaf.shape)) + (path[-1].key in ("scale", "var"))
        ),
        shapes,
    )


def vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def trained(engine, folder=None, recipe=QUICK, network=NETWORKS["strided"], **options):
    return train(network, recipe, IMAGES, LABELS, folder=folder, engine=engine, **options)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "mobilenet"] + [SLOW])
def test_weights_go_there_and_back_and_give_the_same_logits(name):
    """To 1e-5 of the largest logit: padding on the wrong side, or another order of features, changes them by 0.1."""
    network, variables = NETWORKS[name], variables_of(NETWORKS[name])
    converted = TorchNetwork(network, variables).eval()
    back = converted.variables()
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    np.testing.assert_array_equal(vector(back), vector(variables))
    with torch.no_grad():
        logits = converted(torch.from_numpy(IMAGES[:4])).numpy()
    expected = apply_in_blocks(network, variables, IMAGES[:4], dtype=np.float64)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("recipe", [QUICK, SOFT, ADAM], ids=["labels", "distilled", "adam"])
@pytest.mark.parametrize("name", ["lenet", "resnet"])
def test_a_step_is_that_of_jax(name, recipe):
    """Of the second step, which has moments, below 1e-4 of its norm in float32, augmentation and statistics included.

    In the median of eleven initial weights: where a pre-activation is zero up to rounding a ReLU opens or closes, and
    the step differs by up to 1e-2 (JAX's own, with noise of 1e-7 in the weights, in one case of twelve). An unbiased
    running variance (1e-3 off here), an epsilon of 1e-4 or a momentum of 0.899 would show.
    """
    network, teacher_network = NETWORKS[name], NETWORKS["resnet"] if recipe.loss else None
    teacher = variables_of(NETWORKS["resnet"], seed=9) if recipe.loss else None
    differences = []
    for seed in range(11):
        variables, after, losses = variables_of(network, seed), [], []
        for kind in (JaxEngine, TorchEngine):
            engine = kind(network, recipe, variables, IMAGES, LABELS, teacher_network)
            losses = [
                *losses,
                [engine.steps(np.arange(k, k + 16)[None], k + 1, np.array([0.01]), teacher)[0] for k in (0, 16)],
            ]
            after.append(engine.variables)
        np.testing.assert_allclose(*losses, rtol=1e-3)
        update = {part: vector(after[0][part]) - vector(variables[part]) for part in variables}
        way = {part: vector(after[1][part]) - vector(variables[part]) for part in variables}
        differences.append(
            [np.linalg.norm(way[part] - update[part]) / np.linalg.norm(update[part]) for part in variables]
        )
    assert (np.median(differences, axis=0) < 1e-4).all() and np.max(differences) < 0.02


def test_a_training_with_stages_of_a_teacher_is_that_of_jax():
    """Nine steps, three a stage: within 2 % of the way. The stages in another order end five times as far away."""
    network = NETWORKS["resnet"]
    teachers = [variables_of(network, seed) for seed in (2, 3, 4)]
    in_turn, reversed_ = (
        Teacher(network, tuple(zip((1 / 3, 2 / 3, 1.0), order, strict=True))) for order in (teachers, teachers[::-1])
    )
    by_jax = trained("jax", recipe=SOFT, network=network, teacher=in_turn, keep=[0])
    by_torch = trained("torch", recipe=SOFT, network=network, teacher=in_turn, keep=[0])
    other = trained("torch", recipe=SOFT, network=network, teacher=reversed_)
    start, end = vector(by_jax.variables(0)), vector(by_jax.variables())
    np.testing.assert_array_equal(start, vector(by_torch.variables(0)))
    way = np.linalg.norm(end - start)
    assert np.linalg.norm(vector(by_torch.variables()) - end) < 0.02 * way
    assert np.linalg.norm(vector(other.variables()) - end) > 0.1 * way
    np.testing.assert_allclose(by_torch.history, by_jax.history, rtol=0.01)


@pytest.mark.parametrize("recipe", [QUICK, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", ["strided", "resnet"])
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, recipe, name):
    options = {"recipe": recipe, "network": NETWORKS[name], "keep": [0, 0.5]}
    whole = trained("torch", tmp_path / "whole", **options)
    states, write = [], loop.write_in_parts

    def failing(path, content):
        write(path, content)
        states.append(path)
        if len(states) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_in_parts", failing)
    with pytest.raises(KeyboardInterrupt):
        trained("torch", tmp_path / "killed", **options, save_every=0)
    monkeypatch.setattr(loop, "write_in_parts", write)
    with pytest.raises(ValueError, match="another training"):
        trained("jax", tmp_path / "killed", **options)
    resumed = trained("torch", tmp_path / "killed", **options)
    for step in whole.steps:
        np.testing.assert_array_equal(vector(resumed.variables(step)), vector(whole.variables(step)))
    np.testing.assert_allclose(resumed.history, whole.history, rtol=1e-6)


def test_bfloat16_is_of_the_arithmetic_only():
    """Between 1e-5 and 0.2 of the way from float32: it is used, and it is not another training."""
    single = trained("torch", network=NETWORKS["resnet"], keep=[0])
    half = trained("torch", network=NETWORKS["resnet"], recipe=dataclasses.replace(QUICK, precision="bfloat16"))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half.variables()))
    start, end, other = (vector(v) for v in (single.variables(0), single.variables(), half.variables()))
    assert 1e-5 < np.linalg.norm(other - end) / np.linalg.norm(end - start) < 0.2


@pytest.mark.parametrize("layer", ["convolution", "dense"])
def test_bfloat16_without_its_products_is_float32_of_rounded_operands(monkeypatch, layer):
    """Outputs and gradients are those of the rounded operands, to the nearest bfloat16 number but for ties of the sums.

    Sums in bfloat16, PyTorch's own way there, are off by twice as much and at the nearest number half of the time.
    """
    monkeypatch.setattr(pytorch, "_WITHOUT_UNITS", True)
    random, rounded = np.random.default_rng(3), lambda array: torch.from_numpy(np.float32(array)).bfloat16()
    if layer == "dense":
        module = pytorch._Dense(random.normal(size=(144, 8)), random.normal(size=8))
        inputs, forward = random.normal(size=(16, 144)), torch.nn.functional.linear
    else:
        module = pytorch._Convolution(random.normal(size=(3, 3, 16, 8)), random.normal(size=8))
        inputs, forward = random.normal(size=(4, 16, 9, 9)), lambda *given: torch.nn.functional.conv2d(*given, 1, 1)
    given = torch.from_numpy(np.float32(inputs)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = module(given)
    exact = [rounded(a.detach().numpy()).double().requires_grad_() for a in (given, module.weight, module.bias)]
    reference = forward(*exact)
    slope = rounded(random.normal(size=outputs.shape))
    outputs.backward(slope)
    reference.backward(slope.double())
    assert outputs.dtype == torch.bfloat16 and given.grad.dtype == torch.float32
    pairs = [(outputs, reference), (given.grad, exact[0].grad), (module.weight.grad, exact[1].grad)]
    for found, wanted in (*pairs, (module.bias.grad, exact[2].grad)):
        assert (found.detach().float() == wanted.detach().bfloat16().float()).float().mean() > 0.99
    monkeypatch.setattr(pytorch, "_layer", None)  # and it is this way that was gone
    with pytest.raises(TypeError):
        module(given)


def test_only_what_was_kept_whole_is_taken_for_an_answer(tmp_path):
    """A step's logits are known after it was kept; not if a file is lost, or a word of them."""
    memory, logits = LogitsMemory(tmp_path / "a", (3, 4, 5)), draw.normal(size=(4, 5)).astype(np.float32)
    assert memory.of(2) is None
    memory.keep(2, logits)
    again = LogitsMemory(tmp_path / "a", (3, 4, 5))
    np.testing.assert_array_equal(again.of(2), logits)
    assert again.of(1) is None and again.of(3) is None
    again._steps[1, 7] ^= 1
    assert again.of(2) is None
    (tmp_path / "a.answers").unlink()
    assert LogitsMemory(tmp_path / "a", (3, 4, 5)).of(2) is None
    with pytest.raises(ValueError, match="delete it"):
        LogitsMemory(tmp_path / "a", (4, 4, 5))


def test_what_a_processor_multiplies_bfloat16_with(monkeypatch):
    said = "processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n"
    monkeypatch.setattr(pytorch.Path, "exists", lambda _: True)
    monkeypatch.setattr(pytorch.Path, "read_text", lambda _: said)
    assert pytorch.bfloat16_units() == ["avx512_bf16"]
    monkeypatch.setattr(pytorch.Path, "read_text", lambda _: "Features\t: fp asimd i8mm bf16 svebf16\n")
    assert pytorch.bfloat16_units() == ["bf16"]  # ARM
    monkeypatch.setattr(pytorch.Path, "read_text", lambda _: "flags : avx2\n")
    assert pytorch.bfloat16_units() == []
    monkeypatch.setattr(pytorch.Path, "read_text", lambda _: "processor : 0\n")
    assert pytorch.bfloat16_units() is None


def test_what_it_cannot_do_is_refused():
    from kdlib.kernels import FullyConnected

    with pytest.raises(ValueError, match="engine must be one of 'jax', 'torch'"):
        trained("tensorflow")
    with pytest.raises(ValueError, match='use engine="jax"'):
        trained("torch", recipe=dataclasses.replace(QUICK, precision="float64"))
    with pytest.raises(ValueError, match="no PyTorch form of NTKParametrised"):
        network = NTKParametrised(FullyConnected(depth=2), width=4)
        recipe = dataclasses.replace(QUICK, augment="none")
        train(network, recipe, IMAGES, np.where(LABELS > 0, 1, -1), engine="torch")


def test_without_pytorch_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("kdlib.training.pytorch", "kdlib.training.pytorch_step"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="make torch"):
        importlib.import_module("kdlib.training.pytorch_step")
    assert len(trained("jax").history) == 3


def test_a_training_that_diverges_says_so():
    recipe = dataclasses.replace(QUICK, learning_rate=1e6, schedule="constant")
    for each in (recipe, dataclasses.replace(recipe, loss=SOFT.loss)):
        teacher = Teacher(NETWORKS["strided"], ((1.0, variables_of(NETWORKS["strided"])),)) if each.loss else None
        with pytest.raises(FloatingPointError, match="lower learning_rate"):
            trained("torch", recipe=each, network=NETWORKS["lenet"], teacher=teacher)


def test_a_teacher_is_asked_once_for_all_students_of_a_seed(tmp_path, monkeypatch):
    """To the bit; and another seed, teacher or number of steps asks again."""
    asked, of = [], TorchEngine._computed
    monkeypatch.setattr(TorchEngine, "_computed", lambda *given: asked.append(1) or of(*given))
    teacher = Teacher(NETWORKS["strided"], ((1.0, variables_of(NETWORKS["strided"])),))
    student = lambda recipe, **options: trained(
        "torch", recipe=recipe, network=NETWORKS["lenet"], teacher=teacher, **options
    )
    first = student(SOFT, remember=tmp_path)
    assert len(asked) == 9
    again = student(SOFT, remember=tmp_path)
    other = dataclasses.replace(SOFT, loss=DistillationLoss(1.0, 1.0))
    student(other, remember=tmp_path)
    assert len(asked) == 9
    np.testing.assert_array_equal(vector(first.variables()), vector(again.variables()))
    student(dataclasses.replace(SOFT, seed=5), remember=tmp_path)
    assert len(asked) == 18
    student(dataclasses.replace(SOFT, epochs=2), remember=tmp_path)
    assert len(asked) == 24


def test_a_paused_training_goes_on(tmp_path):
    def paused(step):
        return step == 5

    with pytest.raises(loop.Paused, match="step 5 of 9"):
        trained("torch", tmp_path, pause=paused)
    after = trained("torch", tmp_path)
    np.testing.assert_array_equal(vector(after.variables()), vector(trained("torch").variables()))
