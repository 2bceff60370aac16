"""Finite networks, as flax modules: pure functions of parameters and images, in float32.

A network is called as `network.apply(parameters, images)` with images `(n, height, width, channels)` and gives logits
`(n, outputs)`; `parameters = network.init(key, images[:1])`. Whatever has these two methods can be trained by
`kdlib.train.train_network`.
"""

from __future__ import annotations

import flax.linen as nn


class SmallConvolutional(nn.Module):
    """Convolutions of stride two, then two dense layers: the book's teacher on 28 x 28 images.

    Strided convolutions instead of pooling: on a CPU they train several times as many images a second as full-size
    ones (`benchmarks/training.py`), at about the same accuracy.

    Attributes
    ----------
    channels
        of each convolution (3 x 3, stride two, ReLU).
    hidden
        units of the dense layer before the logits.
    outputs
        number of classes.
    """

    channels: tuple[int, ...] = (16, 32)
    hidden: int = 64
    outputs: int = 10

    @nn.compact
    def __call__(self, images):
        x = images
        for channels in self.channels:
            x = nn.relu(nn.Conv(channels, (3, 3), strides=2)(x))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        return nn.Dense(self.outputs)(x)


class Perceptron(nn.Module):
    """Dense layers with ReLU between them: the book's finite student.

    Attributes
    ----------
    widths
        of the hidden layers.
    outputs
        number of classes.
    """

    widths: tuple[int, ...] = (256, 256)
    outputs: int = 10

    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.outputs)(x)
