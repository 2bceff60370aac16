"""The training loop: what it learns, gradients against closed forms, the teacher's batch, resuming, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdlib import data
from kdlib.kernels import Convolutional, FullyConnected
from kdlib.labels import DistillationLoss, minimiser
from kdlib.training import CachedLogits, NTKParametrised, Recipe, Teacher, loop, read_variables, train
from kdlib.training.networks import NETWORKS, Perceptron, ResNet, SmallConvolutional, apply_in_blocks, named
from kdlib.training.step import JaxEngine, augmented, compiled_step

draw = np.random.default_rng(0)
IMAGES = draw.normal(size=(48, 8, 8, 2)).astype(np.float32)
LABELS = draw.integers(0, 3, 48)
NETWORK = SmallConvolutional((4, 8), 8, 3)
QUICK = Recipe(epochs=3, batch_size=16, learning_rate=0.05)
SOFT = dataclasses.replace(QUICK, loss=DistillationLoss(1.0))
ADAM = Recipe(batch_size=64, learning_rate=2e-3, optimiser="adam", weight_decay=0.0)


def trained(folder=None, recipe=QUICK, network=NETWORK, **options):
    return train(network, recipe, IMAGES, LABELS, folder=folder, **options)


def leaves(run, step=None):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.variables(step))]


def teacher(network=NETWORK, seed=5):
    return Teacher(network, ((1.0, network.init(jax.random.key(seed), IMAGES[:1])),))


# --- what it learns ---


@pytest.fixture(scope="module")
def images():
    return data.load("fashion-mnist", sizes={"train": 12_000, "test": 4000}, normalisation="standard")


@pytest.fixture(scope="module")
def good_teacher(images):
    recipe = dataclasses.replace(ADAM, epochs=4)
    return train(SmallConvolutional(), recipe, images.train.images, images.train.labels, keep=(0, 20 / 748, 200 / 748))


@pytest.mark.slow
def test_the_teacher_of_the_chapter_on_teachers_is_a_good_one(images, good_teacher):
    accuracy = [
        np.mean(good_teacher.logits(images.test.images, s).argmax(1) == images.test.labels) for s in good_teacher.steps
    ]
    assert good_teacher.steps == (0, 20, 200, 748) and accuracy[-1] >= 0.85
    assert accuracy[0] < 0.3 < accuracy[1] < accuracy[2] < accuracy[3]
    assert good_teacher.logits(images.test.images[:3]).dtype == np.float64 and len(good_teacher.history) == 4
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(good_teacher.variables()))


def test_a_seed_fixes_the_training(images):
    def logits(seed):
        recipe = dataclasses.replace(ADAM, epochs=2, seed=seed)
        run = train(Perceptron((32,)), recipe, images.train.images[:500], images.train.labels[:500])
        return run.logits(images.test.images[:50])

    np.testing.assert_array_equal(logits(3), logits(3))
    assert np.abs(logits(3) - logits(4)).max() > 1e-3


@pytest.mark.slow
def test_distillation_ends_at_the_effective_logits(images, good_teacher):
    """C1 for a network that can fit its few images: the minimiser of the loss is E1's, one example at a time."""
    x, y = images.train.images[:40], images.train.labels[:40]
    loss, targets = DistillationLoss(0.5, 2.0, "squared"), good_teacher.logits(images.train.images[:40])
    recipe = dataclasses.replace(ADAM, epochs=3000, batch_size=40, learning_rate=3e-3, loss=loss)
    student = train(Perceptron((256,)), recipe, x, y, teacher=CachedLogits.in_order(targets))
    least = loss.values(minimiser(loss, targets, y), targets, y)
    assert (loss.values(student.logits(x), targets, y) - least < 1e-3).all()
    assert (loss.values(targets, targets, y) - least).max() > 0.1  # it was not there before


def test_binary_networks_in_ntk_parametrisation_learn():
    images = data.load(
        "fashion-mnist", classes=("trouser", "bag"), sizes={"train": 400, "test": 400}, normalisation="unit"
    )
    network = NTKParametrised(FullyConnected(), width=64)
    recipe = dataclasses.replace(
        ADAM, epochs=10, learning_rate=0.01, schedule="constant", precision="float64", seed=0
    )  # fmt: skip
    run = train(network, recipe, images.train.images, images.train.signs)
    logits = run.logits(images.test.images)
    assert logits.shape == (400,) and logits.dtype == np.float64 and leaves(run)[0].dtype == np.float64
    assert np.mean(logits * images.test.signs > 0) > 0.95


@pytest.mark.slow
def test_convolutional_networks_in_ntk_parametrisation_take_images():
    network = NTKParametrised(Convolutional(pooling="average"), width=8)
    signs = np.where(LABELS > 0, 1, -1)
    run = train(network, dataclasses.replace(QUICK, precision="float64"), IMAGES, signs)
    assert run.logits(IMAGES).shape == (48,)


def test_removed_initial_outputs_are_zero_at_the_start_and_missing_at_the_end():
    network, signs = NTKParametrised(FullyConnected(depth=2), width=16), np.where(LABELS > 0, 1, -1)
    recipe = dataclasses.replace(QUICK, precision="float64", remove_initial=True, batch_size=48)
    run = train(network, recipe, IMAGES, signs, keep=[0])
    assert not run.logits(IMAGES, 0).any() and np.abs(run.logits(IMAGES)).max() > 1e-3
    whole = [apply_in_blocks(network, run.variables(step), IMAGES, dtype=np.float64) for step in run.steps]
    np.testing.assert_allclose(run.logits(IMAGES), whole[1] - whole[0], atol=1e-12)


# --- a step ---


@pytest.mark.parametrize("loss", [None, DistillationLoss(0.4), DistillationLoss(1.0, 4.0, "squared")])
def test_one_step_follows_the_closed_form_gradient(tmp_path, loss):
    recipe = Recipe(epochs=1, batch_size=48, learning_rate=0.1, weight_decay=0.0, loss=loss)
    network = Perceptron((), 3)  # linear: the gradient of the bias is the mean of the loss's gradients
    guide = teacher(network) if loss else None
    run = trained(tmp_path, recipe, network, teacher=guide, keep=[0])
    start = run.variables(0)
    logits = network.apply(start, IMAGES)
    guided = network.apply(guide.stages[0][1], IMAGES) if guide else np.zeros_like(logits)
    gradient = np.asarray((loss or DistillationLoss(0.0)).gradient(logits, guided, LABELS)).mean(axis=0)
    moved = (np.asarray(run.variables()["params"]["Dense_0"]["bias"]) - start["params"]["Dense_0"]["bias"]) / -0.1
    np.testing.assert_allclose(moved, (1 + 0.9) * gradient, rtol=1e-4)  # Nesterov's first step is 1.9 gradients
    assert not np.allclose(moved, 1.9 * gradient[::-1], rtol=1e-2)


@pytest.mark.slow
def test_the_teacher_sees_the_student_s_augmented_batch(tmp_path):
    """A student that starts as its teacher, on soft labels at T = 1, stays where it is: only on the same batch."""
    recipe = Recipe(epochs=2, batch_size=16, weight_decay=0.0, augment="crop-flip", loss=DistillationLoss(1.0), seed=5)
    same = trained(tmp_path / "same", recipe, teacher=teacher(seed=5), keep=[0])
    for start, end in zip(leaves(same, 0), leaves(same), strict=True):
        np.testing.assert_allclose(end, start, atol=1e-6)
    other = trained(tmp_path / "other", recipe, teacher=teacher(seed=6), keep=[0])
    assert max(np.abs(a - b).max() for a, b in zip(leaves(other, 0), leaves(other), strict=True)) > 1e-3


def test_augmentation_moves_and_mirrors():
    images = jnp.asarray(np.random.default_rng(1).normal(size=(200, 8, 8, 1)), jnp.float32)
    changed = np.asarray(augmented(images, jax.random.key(0)))
    assert changed.shape == images.shape and not np.allclose(changed, images)
    unmoved = np.asarray(augmented(images, jax.random.key(0), shift=0))
    pairs = list(zip(unmoved, images, strict=True))
    mirrored = [np.allclose(a, b[:, ::-1]) and not np.allclose(a, b) for a, b in pairs]
    assert 70 < sum(mirrored) < 130
    assert all(np.allclose(a, b) or m for (a, b), m in zip(pairs, mirrored, strict=True))


def test_seeds_learning_rates_and_lengths_share_a_compiled_step():
    step = compiled_step(NETWORK, QUICK)
    assert step is compiled_step(NETWORK, dataclasses.replace(QUICK, seed=7, learning_rate=0.1, epochs=9))
    assert step is not compiled_step(NETWORK, dataclasses.replace(QUICK, momentum=0.5))


@pytest.mark.parametrize("kind", ["labels", "offline", "online"])
def test_many_steps_in_one_call_are_the_same_training(monkeypatch, kind):
    """As on a GPU: chunks end where variables are kept and where the teacher changes; differences are of rounding."""
    teacher, recipe = None, dataclasses.replace(QUICK, epochs=7, augment="crop-flip")
    if kind != "labels":
        found = train(NETWORK, dataclasses.replace(QUICK, epochs=2), IMAGES, LABELS, keep=(0.0, 0.5))
        ends = (1.0,) if kind == "offline" else (0.3, 0.7, 1.0)
        stages = tuple((end, found.variables(step)) for end, step in zip(ends, found.steps[::-1], strict=False))
        teacher = Teacher(NETWORK, stages)
        recipe = dataclasses.replace(recipe, loss=DistillationLoss(1.0, 2.0))
    calls, plain = [], train(NETWORK, recipe, IMAGES, LABELS, teacher=teacher, keep=(0.3, 0.5))
    whole = JaxEngine.steps
    monkeypatch.setattr(JaxEngine, "chunk", 4)
    monkeypatch.setattr(
        JaxEngine, "steps", lambda self, rows, *rest: calls.append(len(rows)) or whole(self, rows, *rest)
    )
    chunked = train(NETWORK, recipe, IMAGES, LABELS, teacher=teacher, keep=(0.3, 0.5))
    assert set(calls) == {1, 4} and sum(calls) == 21 and chunked.steps == plain.steps
    np.testing.assert_allclose(chunked.history, plain.history, rtol=1e-5)
    for step in plain.steps:
        for one, other in zip(*(jax.tree.leaves(found.variables(step)) for found in (chunked, plain)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# --- the teacher ---


def test_cached_logits_are_looked_up_by_example(tmp_path):
    rng = np.random.default_rng(2)
    guide, index = teacher(), rng.permutation(1000)[:48]
    logits = apply_in_blocks(NETWORK, guide.stages[0][1], IMAGES)
    shuffled = rng.permutation(48)
    live = trained(tmp_path / "live", SOFT, teacher=guide)
    cached = trained(tmp_path / "cached", SOFT, teacher=CachedLogits(index[shuffled], logits[shuffled]), index=index)
    in_memory = trained(None, SOFT, teacher=CachedLogits.in_order(logits))
    for run in (cached, in_memory):
        assert all(np.array_equal(a, b) for a, b in zip(leaves(live), leaves(run), strict=True))
    with pytest.raises(ValueError, match="augment"):
        augmented = dataclasses.replace(SOFT, augment="crop-flip")
        trained(tmp_path / "no", augmented, teacher=CachedLogits(index, logits), index=index)
    with pytest.raises(ValueError, match="no cached logits for 1 examples"):
        trained(tmp_path / "no", SOFT, teacher=CachedLogits(index[1:], logits[1:]), index=index)
    for wrong in (index[:5], index.astype(float)):
        with pytest.raises(ValueError, match="index must hold one integer"):
            trained(tmp_path / "no", SOFT, teacher=CachedLogits(index, logits), index=wrong)
    with pytest.raises(ValueError, match="twice"):
        CachedLogits(np.zeros(2, int), logits[:2])
    with pytest.raises(ValueError, match="finite"):
        CachedLogits.in_order(np.full((48, 3), np.nan))


def test_stages_follow_each_other(tmp_path):
    first, second = teacher(seed=1).stages[0][1], teacher(seed=2).stages[0][1]
    online = trained(tmp_path / "on", SOFT, teacher=Teacher(NETWORK, ((1 / 3, first), (1.0, second))), keep=[1 / 3])
    offline = trained(tmp_path / "off", SOFT, teacher=Teacher(NETWORK, ((1.0, first),)), keep=[1 / 3])
    third = online.steps[0]
    assert all(np.array_equal(a, b) for a, b in zip(leaves(online, third), leaves(offline, third), strict=True))
    assert not np.allclose(leaves(online)[0], leaves(offline)[0])
    with pytest.raises(ValueError, match="ascending"):
        Teacher(NETWORK, ((0.5, first),))


# --- folders ---


@pytest.mark.parametrize(
    "network",
    [NETWORK, pytest.param(ResNet(1, 4, outputs=3), marks=pytest.mark.slow)],
    ids=["plain", "with statistics"],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, network):
    recipe = dataclasses.replace(QUICK, augment="crop-flip")
    whole = trained(tmp_path / "whole", recipe, network, keep=[0, 0.5])
    in_memory = trained(None, recipe, network, keep=[0, 0.5])
    states, write = [], loop.write_in_parts

    def failing(path, content):
        write(path, content)
        states.append(path.name)
        if len(states) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_in_parts", failing)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", recipe, network, keep=[0, 0.5], save_every=0.0)
    monkeypatch.setattr(loop, "write_in_parts", write)
    resumed = trained(tmp_path / "killed", recipe, network, keep=[0, 0.5])
    for other in (resumed, in_memory):
        assert other.steps == whole.steps
        for step in whole.steps:
            assert all(np.array_equal(a, b) for a, b in zip(leaves(other, step), leaves(whole, step), strict=True))
        np.testing.assert_allclose(other.history, whole.history, rtol=1e-6)
    with pytest.raises(ValueError, match="another training"):
        trained(tmp_path / "killed", dataclasses.replace(recipe, seed=1), network, keep=[0, 0.5])


@pytest.mark.slow
def test_half_precision_keeps_parameters_and_statistics_in_single(tmp_path):
    network = ResNet(1, 4, outputs=3)
    run = trained(tmp_path, dataclasses.replace(QUICK, precision="bfloat16"), network)
    assert {leaf.dtype.name for leaf in leaves(run)} == {"float32"}
    assert run.history[-1] < run.history[0]


# --- what is refused ---


@pytest.mark.parametrize(
    "field, value",
    [
        ("learning_rate", np.nan), ("learning_rate", np.inf), ("learning_rate", -0.05), ("learning_rate", None),
        ("learning_rate", "1e-3"), ("weight_decay", -1), ("batch_size", 64.5), ("batch_size", True), ("momentum", 1.0),
        ("epochs", 0), ("seed", 1.5), ("seed", -1), ("optimiser", "lbfgs"), ("augment", "flip"),
        ("precision", "float16"),
        ("schedule", "step"), ("loss", 0.5), ("loss", DistillationLoss(0.0)),
    ],
)  # fmt: skip
def test_recipes_are_checked(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    "arguments", [(1.5,), (-0.1,), (np.nan,), (0.5, 0.0), (0.5, -4), (0.5, np.inf), (0.5, 1.0, "half"), ("0.5",)]
)
def test_losses_are_checked(arguments):
    with pytest.raises((ValueError, TypeError), match="soft_ratio|temperature"):
        DistillationLoss(*arguments)


def test_misuse_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a `loss` needs a teacher"):
        trained(tmp_path, SOFT)
    with pytest.raises(ValueError, match="a teacher needs a recipe with a `loss`"):
        trained(tmp_path, teacher=teacher())
    for wrong in (np.zeros((48, 3)), 3, "teacher"):
        with pytest.raises(TypeError, match="CachedLogits.in_order"):
            trained(tmp_path, SOFT, teacher=wrong)
    with pytest.raises(ValueError, match="fill a batch"):
        trained(tmp_path, dataclasses.replace(QUICK, batch_size=49))
    for labels in (LABELS - 1, LABELS + 1, LABELS.astype(float)):
        with pytest.raises(ValueError, match="labels must be integers in 0..2"):
            train(NETWORK, QUICK, IMAGES, labels)
    with pytest.raises(ValueError, match="-1 or 1"):
        train(NTKParametrised(FullyConnected(), 8), QUICK, IMAGES, LABELS)
    with pytest.raises(ValueError, match="inputs must be finite"):
        train(NETWORK, QUICK, np.where(IMAGES > 3, np.nan, IMAGES), LABELS)
    with pytest.raises(ValueError, match="keep must hold shares"):
        trained(tmp_path, keep=[20])
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        trained(tmp_path, dataclasses.replace(QUICK, learning_rate=1e12))
    run = trained(tmp_path / "a")
    with pytest.raises(ValueError, match="no checkpoint of step 7"):
        run.logits(IMAGES, 7)
    with pytest.raises(ValueError, match="does not fit|does not hold"):
        read_variables(Perceptron((4,), 3), run.checkpoints.path(run.steps[-1]), (1, 8, 8, 2))
    with pytest.raises(ValueError, match="choose from"):
        named("lenet-6", 10)


@pytest.mark.parametrize("name", ["vgg-8", "mobilenet"])
def test_large_networks_have_their_published_sizes(name):
    shapes = jax.eval_shape(NETWORKS[name].init, jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.float32))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    low, high = {"vgg-8": (3.8e6, 4.0e6), "mobilenet": (1.4e6, 1.7e6)}[name]
    assert low < count < high
