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


class LeNet(nn.Module):
    """LeNet-5 for images of 28 x 28 or 32 x 32: average pooling, ReLU; its `width` multiplies all channels.

    Attributes
    ----------
    width
        1 for 6 and 16 channels and 120 and 84 units.
    outputs
        number of classes.
    """

    width: int = 1
    outputs: int = 10

    @nn.compact
    def __call__(self, images):
        x = images
        for channels in (6, 16):
            x = nn.relu(nn.Conv(self.width * channels, (5, 5), padding="VALID")(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for units in (120, 84):
            x = nn.relu(nn.Dense(self.width * units)(x))
        return nn.Dense(self.outputs)(x)


class ResNet(nn.Module):
    """The residual network of CIFAR: three stages of `blocks` blocks of two convolutions; depth `6 blocks + 2`.

    Attributes
    ----------
    blocks
        3 for ResNet-20, 9 for ResNet-56.
    width
        channels of the first stage; each later one has twice as many at half the resolution.
    normalised
        batch normalisation after each convolution. `training` then says whether its statistics are the batch's.
    outputs
        number of classes.
    """

    blocks: int = 3
    width: int = 16
    normalised: bool = True
    outputs: int = 10

    @nn.compact
    def __call__(self, images, training=False):
        def convolution(x, channels, stride=1, size=3):
            x = nn.Conv(channels, (size, size), stride, use_bias=not self.normalised)(x)
            return nn.BatchNorm(use_running_average=not training, momentum=0.9)(x) if self.normalised else x

        x = nn.relu(convolution(images, self.width))
        for stage in range(3):
            for block in range(self.blocks):
                channels, stride = self.width * 2**stage, 2 if stage and not block else 1
                inner = convolution(nn.relu(convolution(x, channels, stride)), channels)
                skip = x if x.shape == inner.shape else convolution(x, channels, stride, size=1)
                x = nn.relu(inner + skip)
        return nn.Dense(self.outputs)(x.mean(axis=(1, 2)))
