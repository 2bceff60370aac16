"""The inference-mode kernel against a step of training, with batch statistics and without."""

import jax
import numpy as np
import pytest

from kdlib.experiments.batch_norm import step_against_kernel
from kdlib.training.networks import ResNet

pytestmark = pytest.mark.slow
draw = np.random.default_rng(0)
IMAGES, OTHERS = draw.normal(size=(24, 8, 8, 1)), draw.normal(size=(6, 8, 8, 1))
LABELS = draw.integers(0, 3, 24)
RATES = [1e-3, 1e-4, 1e-5]


def measured(normalised):
    network = ResNet(1, 4, normalised=normalised, outputs=3)
    return step_against_kernel(
        network, network.init(jax.random.key(0), IMAGES[:1]), IMAGES, LABELS, OTHERS, rates=RATES
    )


def test_without_statistics_the_kernel_predicts_a_small_step():
    """To first order: the error falls like the rate (a ReLU that flips adds a little), below 1e-3 at the smallest.

    A gradient that is 0.1 % off would show.
    """
    found = measured(False)
    assert found.error[-1] < 1e-3 and found.error[0] > 5 * found.error[-1]
    np.testing.assert_allclose(found.with_statistics, found.error)
    assert found.cosine[-1] > 1 - 1e-6


def test_with_batch_statistics_no_step_is_small_enough():
    found = measured(True)
    assert (found.error > 0.1).all() and abs(found.error[-1] / found.error[-2] - 1) < 0.05
    assert found.with_statistics[-1] > found.error[-1]  # the statistics move whatever the rate is
