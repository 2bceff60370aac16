"""Finite teachers and students: they learn, a seed fixes them, and the loss is that of E1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdlib import data
from kdlib.kernels import Convolutional, FullyConnected
from kdlib.labels import distillation_loss, effective_logits
from kdlib.networks import Perceptron, SmallConvolutional
from kdlib.train import train_binary, train_network


@pytest.fixture(scope="module")
def images():
    return data.load("fashion-mnist", sizes={"train": 12_000, "test": 4000}, normalisation="standard")


@pytest.fixture(scope="module")
def teacher(images):
    return train_network(SmallConvolutional(), images.train.images, images.train.labels, epochs=4, keep=(0, 20, 200))


def test_the_teacher_of_chapter_5_is_a_good_one(images, teacher):
    accuracy = [
        np.mean(teacher.logits(images.test.images, step=s).argmax(1) == images.test.labels) for s in teacher.steps
    ]
    assert teacher.steps == (0, 20, 200, 748) and accuracy[-1] >= 0.85
    assert accuracy[0] < 0.3 < accuracy[1] < accuracy[2] < accuracy[3]
    assert teacher.logits(images.test.images[:3]).dtype == np.float64 and len(teacher.losses) == 748
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(teacher.checkpoints[748]))


def test_a_seed_fixes_the_training(images):
    train = lambda seed: train_network(
        Perceptron((32,)), images.train.images[:500], images.train.labels[:500], epochs=2, seed=seed
    ).logits(images.test.images[:50])
    np.testing.assert_array_equal(train(3), train(3))
    assert np.abs(train(3) - train(4)).max() > 1e-3


def test_distillation_ends_at_the_effective_logits(images, teacher):
    """C1 for a network that can fit its few images: the minimiser of the loss is E1's, one example at a time."""
    x, y = images.train.images[:40], images.train.labels[:40]
    convention = dict(soft_ratio=0.5, temperature=2.0, temperature_scaling="squared")
    targets = teacher.logits(x)
    student = train_network(
        Perceptron((256,)), x, y, epochs=3000, batch_size=40, learning_rate=3e-3, teacher_logits=targets, **convention
    )
    loss = lambda z: np.asarray(distillation_loss(z, targets, y, **convention))
    assert (loss(student.logits(x)) - loss(effective_logits(targets, y, **convention)) < 1e-3).all()
    assert (loss(targets) - loss(effective_logits(targets, y, **convention))).max() > 0.1  # it was not there before


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(teacher_logits=np.zeros((100, 10))), "both teacher_logits and soft_ratio"),
        (dict(soft_ratio=0.5), "both teacher_logits and soft_ratio"),
        (dict(teacher_logits=np.zeros((99, 10)), soft_ratio=0.5), "one row for each example"),
        (dict(teacher_logits=np.full((100, 10), np.nan), soft_ratio=0.5), "must be finite"),
        (dict(teacher_logits=np.zeros((100, 10)), soft_ratio=1.5), "soft_ratio must be"),
        (dict(batch_size=101), "batch_size must be"),
        (dict(keep=(5000,)), "keep must hold steps"),
    ],
)
def test_misuse_is_refused_before_any_work(images, options, message):
    with pytest.raises(ValueError, match=message):
        train_network(Perceptron((8,)), images.train.images[:100], images.train.labels[:100], epochs=1, **options)
    with pytest.raises(ValueError, match="no checkpoint of step 7"):
        train_network(Perceptron((8,)), images.train.images[:100], images.train.labels[:100], epochs=1).logits(
            images.test.images[:2], step=7
        )


def test_binary_training_learns_and_is_deterministic():
    images = data.load(
        "fashion-mnist", classes=("trouser", "bag"), sizes={"train": 400, "test": 400}, normalisation="unit"
    )
    train = lambda seed: train_binary(
        FullyConnected(), images.train.images, images.train.signs, width=64, steps=60, seed=seed
    )
    logits = train(0)(images.test.images)
    assert logits.shape == (400,) and logits.dtype == np.float64
    assert np.mean(logits * images.test.signs > 0) > 0.95
    np.testing.assert_array_equal(train(0)(images.test.images), logits)
    assert np.abs(train(1)(images.test.images) - logits).max() > 1e-3


def test_convolutional_binary_networks_take_images():
    images = data.load("fashion-mnist", classes=(0, 1), sizes={"train": 40})
    network = train_binary(Convolutional(pooling="average"), images.train.images, images.train.signs, width=8, steps=3)
    assert network(images.train.images).shape == (40,)
