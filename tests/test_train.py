"""A finite teacher: it learns, and a seed fixes it."""

import numpy as np

from kdlib import data
from kdlib.kernels import Convolutional, FullyConnected
from kdlib.train import train_binary


def test_training_learns_and_is_deterministic():
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


def test_convolutional_networks_take_images():
    images = data.load("fashion-mnist", classes=(0, 1), sizes={"train": 40})
    network = train_binary(Convolutional(pooling="average"), images.train.images, images.train.signs, width=8, steps=3)
    assert network(images.train.images).shape == (40,)
