"""Small networks of every kind of layer, for the tests of the empirical NTK and of its operator."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdlib.training.networks import LeNet, Perceptron, ResNet, SmallConvolutional


class Depthwise(nn.Module):
    """Layers outside the structured set: grouped, dilated and transposed convolutions, a weight used twice, a norm."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Conv(6, (3, 3), feature_group_count=3, kernel_dilation=2)(x))
        x = nn.LayerNorm()(x)
        x = nn.ConvTranspose(4, (2, 2), strides=(2, 2))(x).mean(axis=(1, 2))
        shared = nn.Dense(4)
        return nn.Dense(3, use_bias=False)(jnp.tanh(shared(jnp.tanh(shared(x)))))


class Sequence(nn.Module):
    """Dense layers over positions, few of them: contracted by pairs of positions."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(jnp.tanh(nn.Dense(40)(x)).mean(axis=1))


class Wide(nn.Module):
    """A convolution with many more weights than positions, whose gradients are made late."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(jnp.tanh(nn.Conv(32, (3, 3))(x)).mean(axis=(1, 2)))


class Normalised(nn.Module):
    """A convolution with batch normalisation: a ResNet's parts, compiled in a tenth of its time."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), strides=2, use_bias=False)(x))
        return nn.Dense(3)(nn.relu(x).mean(axis=(1, 2)))


NETWORKS = {
    "perceptron": (Perceptron((16, 8), 3), (6, 6, 1)),
    "strided": (SmallConvolutional((4, 8), 16, 4), (12, 12, 2)),
    "lenet": (LeNet(outputs=3), (28, 28, 1)),
    "resnet": (ResNet(1, 4, normalised=False, outputs=3), (8, 8, 3)),
    "resnet with normalisation": (ResNet(1, 4, outputs=3), (8, 8, 3)),
    "normalised": (Normalised(), (8, 8, 3)),
    "outside the structured set": (Depthwise(), (8, 8, 3)),
    "positions": (Sequence(), (2, 50)),
    "wide": (Wide(), (4, 4, 32)),
}


def slow_but(quick, names):
    """The names as parameters, all but one of them marked slow."""
    return [name if name == quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def example(name, n=5):
    """Network, float64 parameters (statistics not at their initial values) and inputs."""
    network, shape = NETWORKS[name]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, *shape))
    params = network.init(jax.random.key(1), jnp.asarray(x[:1]))
    leaves, tree = jax.tree.flatten(params)
    leaves = [leaf + 0.1 * np.abs(rng.normal(size=leaf.shape)) for leaf in leaves]
    return network, jax.tree.unflatten(tree, leaves), x
