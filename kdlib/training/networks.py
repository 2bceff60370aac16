"""Finite networks, as flax modules: pure functions of variables and images, in float32.

A network is called as `network.apply(variables, images)` with images `(n, height, width, channels)` and gives logits
`(n, outputs)`; `variables = network.init(key, images[:1])`. Whatever has these two methods (a `Network`) can be trained
by `kdlib.training.train`. `dtype` is that of the layers' arithmetic (parameters and statistics stay in float32): None
takes that of the images and parameters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np


@runtime_checkable
class Network(Protocol):
    """What is asked of a network. Of its variables, a dictionary, "params" is trained; "batch_stats", if it is there,
    is changed by its own steps, in which `apply` is called with `training=True` and `mutable=["batch_stats"]`."""

    def init(self, key: Any, inputs: Any, /) -> Any:
        """Variables, drawn with a JAX random key, for inputs of this shape."""
        ...

    def apply(self, variables: Any, inputs: Any, /) -> Any:
        """Outputs `(n, C)`, or `(n,)`, of inputs `(n, ...)`."""
        ...


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
    dtype: Any = None

    @nn.compact
    def __call__(self, images):
        x = images
        for channels in self.channels:
            x = nn.relu(nn.Conv(channels, (3, 3), strides=2, dtype=self.dtype)(x))
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype)(x.reshape(len(x), -1)))
        return nn.Dense(self.outputs, dtype=self.dtype)(x)


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
    dtype: Any = None

    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
        return nn.Dense(self.outputs, dtype=self.dtype)(x)


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
    dtype: Any = None

    @nn.compact
    def __call__(self, images):
        x = images
        for channels in (6, 16):
            x = nn.relu(nn.Conv(self.width * channels, (5, 5), padding="VALID", dtype=self.dtype)(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for units in (120, 84):
            x = nn.relu(nn.Dense(self.width * units, dtype=self.dtype)(x))
        return nn.Dense(self.outputs, dtype=self.dtype)(x)


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
    dtype: Any = None

    @nn.compact
    def __call__(self, images, training=False):
        def convolution(x, channels, stride=1, size=3):
            x = nn.Conv(channels, (size, size), stride, use_bias=not self.normalised, dtype=self.dtype)(x)
            return (
                nn.BatchNorm(use_running_average=not training, momentum=0.9, dtype=self.dtype)(x)
                if self.normalised
                else x
            )

        x = nn.relu(convolution(images, self.width))
        for stage in range(3):
            for block in range(self.blocks):
                channels, stride = self.width * 2**stage, 2 if stage and not block else 1
                inner = convolution(nn.relu(convolution(x, channels, stride)), channels)
                skip = x if x.shape == inner.shape else convolution(x, channels, stride, size=1)
                x = nn.relu(inner + skip)
        return nn.Dense(self.outputs, dtype=self.dtype)(x.mean(axis=(1, 2)))


class Vgg(nn.Module):
    """A small VGG with batch normalisation for images of 28 to 32 pixels ("VGG-8"): convolutions 3 x 3, max-pooling."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    outputs: int = 10
    dtype: Any = None

    @nn.compact
    def __call__(self, images, training=False):
        x = images
        for k, channels in enumerate(self.channels):
            x = nn.Conv(channels, (3, 3), use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not training, momentum=0.9, dtype=self.dtype)(x))
            x = nn.max_pool(x, (2, 2), (2, 2)) if k < 4 and min(x.shape[1:3]) > 1 else x
        return nn.Dense(self.outputs, dtype=self.dtype)(x.mean(axis=(1, 2)))


class MobileNet(nn.Module):
    """MobileNetV3-small for small images: the published blocks, but a stem of stride one and one reduction less.

    Attributes
    ----------
    outputs
        number of classes.
    """

    outputs: int = 10
    dtype: Any = None

    # of each block: filter size, expanded channels, channels, squeeze and excite, hard swish, stride
    BLOCKS = (
        (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1), (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 1), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
    )  # fmt: skip

    @nn.compact
    def __call__(self, images, training=False):
        def convolution(x, channels, size=1, stride=1, groups=1):
            x = nn.Conv(channels, (size, size), stride, feature_group_count=groups, use_bias=False, dtype=self.dtype)(x)
            return nn.BatchNorm(use_running_average=not training, momentum=0.9, dtype=self.dtype)(x)

        def excited(x):
            weight = nn.relu(nn.Dense(x.shape[-1] // 4, dtype=self.dtype)(x.mean(axis=(1, 2))))
            return x * nn.hard_sigmoid(nn.Dense(x.shape[-1], dtype=self.dtype)(weight))[:, None, None]

        x = nn.hard_swish(convolution(images, 16, 3))
        for size, expanded, channels, squeeze, swish, stride in self.BLOCKS:
            activation = nn.hard_swish if swish else nn.relu
            inner = activation(convolution(x, expanded))
            inner = activation(convolution(inner, expanded, size, stride, groups=expanded))
            inner = convolution(excited(inner) if squeeze else inner, channels)
            x = x + inner if x.shape == inner.shape else inner
        x = nn.hard_swish(convolution(x, 576)).mean(axis=(1, 2))
        return nn.Dense(self.outputs, dtype=self.dtype)(nn.hard_swish(nn.Dense(1024, dtype=self.dtype)(x)))


NETWORKS = {
    "perceptron": Perceptron((64, 64)),
    "convolutional": SmallConvolutional((32, 64), 128),
    "convolutional-small": SmallConvolutional((8, 16), 32),
    "lenet-5": LeNet(),
    "lenet-5x8": LeNet(width=8),
    "resnet-8": ResNet(blocks=1),
    "resnet-20": ResNet(blocks=3),
    "resnet-56": ResNet(blocks=9),
    "vgg-8": Vgg(),
    "mobilenet": MobileNet(),
}


def apply_in_blocks(
    network: Network, variables: Any, inputs: Any, block: int = 1000, dtype: Any = np.float32, engine: str = "jax"
) -> np.ndarray:
    """Outputs of a network in inference mode, `(n, C)` or `(n,)`, as float64; computed in `dtype`, `block` inputs at a
    time.

    The last block is filled up with zeros, so that nothing is compiled twice. With `engine="torch"` PyTorch computes
    them, in float32.
    """
    inputs = np.asarray(inputs)
    if not len(inputs):
        raise ValueError("no inputs: the outputs of none were asked for")
    if engine == "torch":
        from kdlib.training.pytorch import outputs_of

        return outputs_of(network, variables, inputs)
    block = min(block, len(inputs))
    outputs = []
    for start in range(0, len(inputs), block):
        part = np.asarray(inputs[start : start + block], dtype)
        padded = np.concatenate([part, np.zeros((block - len(part), *part.shape[1:]), dtype)])
        outputs.append(np.asarray(_forward(network)(variables, padded), np.float64)[: len(part)])
    return np.concatenate(outputs)


@lru_cache(maxsize=32)
def _forward(network: Network):
    return jax.jit(lambda variables, inputs: network.apply(variables, inputs))


def named(name: str, outputs: int) -> nn.Module:
    """The network that the experiments call `name` (a key of `NETWORKS`), for `outputs` classes."""
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}: choose from {', '.join(NETWORKS)}")
    return NETWORKS[name].clone(outputs=outputs)
