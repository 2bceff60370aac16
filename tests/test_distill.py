"""Training at scale: gradients against closed forms, the teacher's batch, resuming, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdlib import checkpoints, distill
from kdlib.distill import CachedLogits, Recipe, Teacher, train
from kdlib.labels import loss_gradient
from kdlib.networks import NETWORKS, Perceptron, ResNet, SmallConvolutional, named

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(48, 8, 8, 2)).astype(np.float32)
LABELS = rng.integers(0, 3, 48)
NETWORK = SmallConvolutional((4, 8), 8, 3)
QUICK = Recipe(epochs=3, batch_size=16, learning_rate=0.05)


def trained(folder, recipe=QUICK, network=NETWORK, **options):
    return train(network, recipe, IMAGES, LABELS, folder, progress=False, **options)


def leaves(run, step=None):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.variables(step))]


def teacher(network=NETWORK, seed=5):
    return Teacher(network, ((1.0, network.init(jax.random.key(seed), IMAGES[:1])),))


@pytest.mark.parametrize(
    "soft_ratio, temperature, scaling", [(0.0, 1.0, "none"), (0.4, 1.0, "none"), (1.0, 4.0, "squared")]
)
def test_one_step_follows_the_closed_form_gradient(tmp_path, soft_ratio, temperature, scaling):
    convention = dict(soft_ratio=soft_ratio, temperature=temperature, temperature_scaling=scaling)
    recipe = Recipe(epochs=1, batch_size=48, learning_rate=0.1, weight_decay=0.0, optimiser="sgd", **convention)
    network = Perceptron((), 3)  # linear: the gradient of the bias is the mean of the loss's gradients
    guide = teacher(network) if soft_ratio else None
    run = trained(tmp_path, recipe, network, teacher=guide, keep=[0])
    start = run.variables(0)
    logits = network.apply(start, IMAGES)
    guided = network.apply(guide.stages[0][1], IMAGES) if guide else np.zeros_like(logits)
    gradient = np.asarray(loss_gradient(logits, guided, LABELS, **convention)).mean(axis=0)
    moved = (np.asarray(run.variables()["params"]["Dense_0"]["bias"]) - start["params"]["Dense_0"]["bias"]) / -0.1
    np.testing.assert_allclose(moved, (1 + 0.9) * gradient, rtol=1e-4)  # Nesterov's first step is 1.9 gradients
    assert not np.allclose(moved, 1.9 * gradient[::-1], rtol=1e-2)


def test_the_teacher_sees_the_student_s_augmented_batch(tmp_path):
    """A student that starts as its teacher, on soft labels at T = 1, stays where it is: only on the same batch."""
    recipe = Recipe(epochs=2, batch_size=16, weight_decay=0.0, augment="crop-flip", soft_ratio=1.0, seed=5)
    same = trained(tmp_path / "same", recipe, teacher=teacher(seed=5), keep=[0])
    for start, end in zip(leaves(same, 0), leaves(same), strict=True):
        np.testing.assert_allclose(end, start, atol=1e-6)
    other = trained(tmp_path / "other", recipe, teacher=teacher(seed=6), keep=[0])
    assert max(np.abs(a - b).max() for a, b in zip(leaves(other, 0), leaves(other), strict=True)) > 1e-3


def test_augmentation_moves_and_mirrors():
    images = jnp.asarray(rng.normal(size=(200, 8, 8, 1)), jnp.float32)
    changed = np.asarray(distill.augmented(images, jax.random.key(0)))
    assert changed.shape == images.shape and not np.allclose(changed, images)
    unmoved = np.asarray(distill.augmented(images, jax.random.key(0), shift=0))
    mirrored = [np.allclose(a, b[:, ::-1]) and not np.allclose(a, b) for a, b in zip(unmoved, images)]
    assert 70 < sum(mirrored) < 130 and all(np.allclose(a, b) or m for a, b, m in zip(unmoved, images, mirrored))


def test_cached_logits_are_looked_up_by_example(tmp_path):
    recipe = dataclasses.replace(QUICK, soft_ratio=1.0)
    guide, index = teacher(), rng.permutation(1000)[:48]
    logits = distill.apply_in_blocks(NETWORK, guide.stages[0][1], IMAGES)
    shuffled = rng.permutation(48)
    live = trained(tmp_path / "live", recipe, teacher=guide)
    cached = trained(tmp_path / "cached", recipe, teacher=CachedLogits(index[shuffled], logits[shuffled]), index=index)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(live), leaves(cached), strict=True))
    with pytest.raises(ValueError, match="augment"):
        augmented = dataclasses.replace(recipe, augment="crop-flip")
        trained(tmp_path / "no", augmented, teacher=CachedLogits(index, logits), index=index)
    with pytest.raises(ValueError, match="no cached logits for 1 examples"):
        trained(tmp_path / "no", recipe, teacher=CachedLogits(index[1:], logits[1:]), index=index)
    with pytest.raises(ValueError, match="twice"):
        CachedLogits(np.zeros(2, int), logits[:2]).of([0])


def test_stages_follow_each_other(tmp_path):
    recipe = dataclasses.replace(QUICK, soft_ratio=1.0)
    first, second = teacher(seed=1).stages[0][1], teacher(seed=2).stages[0][1]
    online = trained(tmp_path / "on", recipe, teacher=Teacher(NETWORK, ((1 / 3, first), (1.0, second))), keep=[1 / 3])
    offline = trained(tmp_path / "off", recipe, teacher=Teacher(NETWORK, ((1.0, first),)), keep=[1 / 3])
    third = online.steps[0]
    assert all(np.array_equal(a, b) for a, b in zip(leaves(online, third), leaves(offline, third), strict=True))
    assert not np.allclose(leaves(online)[0], leaves(offline)[0])
    with pytest.raises(ValueError, match="ascending"):
        Teacher(NETWORK, ((0.5, first),))


@pytest.mark.parametrize("network", [NETWORK, ResNet(1, 4, outputs=3)], ids=["plain", "with statistics"])
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, network):
    recipe = dataclasses.replace(QUICK, augment="crop-flip")
    whole = trained(tmp_path / "whole", recipe, network, keep=[0, 0.5])
    written, write = [], checkpoints.write

    def failing(path, content):
        write(path, content)
        written.append(path.name)
        if written.count("state.msgpack") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", recipe, network, keep=[0, 0.5], save_every=0.0)
    monkeypatch.setattr(checkpoints, "write", write)
    resumed = trained(tmp_path / "killed", recipe, network, keep=[0, 0.5])
    assert resumed.steps == whole.steps
    for step in whole.steps:
        assert all(np.array_equal(a, b) for a, b in zip(leaves(resumed, step), leaves(whole, step), strict=True))
    np.testing.assert_allclose(resumed.history, whole.history, rtol=1e-6)
    with pytest.raises(ValueError, match="another training"):
        trained(tmp_path / "killed", dataclasses.replace(recipe, seed=1), network, keep=[0, 0.5])


def test_half_precision_keeps_parameters_and_statistics_in_single(tmp_path):
    network = ResNet(1, 4, outputs=3)
    run = trained(tmp_path, dataclasses.replace(QUICK, precision="bfloat16"), network)
    assert {leaf.dtype.name for leaf in leaves(run)} == {"float32"}
    assert run.history[-1] < run.history[0]


def test_misuse_is_refused(tmp_path):
    with pytest.raises(ValueError, match="soft_ratio"):
        trained(tmp_path, teacher=teacher())
    with pytest.raises(ValueError, match="fill a batch"):
        trained(tmp_path, dataclasses.replace(QUICK, batch_size=49))
    with pytest.raises(ValueError, match="optimiser must be one of"):
        Recipe(optimiser="lbfgs")
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        trained(tmp_path, dataclasses.replace(QUICK, learning_rate=1e12))
    run = trained(tmp_path / "a")
    with pytest.raises(ValueError, match="does not fit|does not hold"):
        checkpoints.read_variables(
            Perceptron((4,), 3), run.folder / "checkpoints" / f"{run.steps[-1]}.msgpack", (1, 8, 8, 2)
        )
    with pytest.raises(ValueError, match="choose from"):
        named("lenet-6", 10)


@pytest.mark.parametrize("name", ["vgg-8", "mobilenet"])
def test_large_networks_have_their_published_sizes(name):
    shapes = jax.eval_shape(NETWORKS[name].init, jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.float32))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    low, high = {"vgg-8": (3.8e6, 4.0e6), "mobilenet": (1.4e6, 1.7e6)}[name]
    assert low < count < high
