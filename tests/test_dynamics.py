"""C1: the integrated flow, the excess loss and the guaranteed rate."""

import jax
import numpy as np
import pytest

from kdlib.dynamics import distillation_flow, excess_loss, strong_convexity
from kdlib.labels import effective_logits, loss_gradient

LOSS = dict(soft_ratio=0.5, temperature=2.0)
rng = np.random.default_rng(0)


def test_one_example_has_a_closed_form():
    # n = 1, soft ratio 1, feature 1: z' = -(s(z) - s(z_t)), an ODE whose time to reach z is an integral.
    times = np.linspace(0, 5, 6)
    flow = distillation_flow(np.ones((1, 1)), np.zeros(1), [0.0], [1], times, soft_ratio=1.0, start=[1.0])
    # s(z) - 1/2 = tanh(z / 2) / 2, so sinh(z / 2) falls like exp(-t / 4).
    np.testing.assert_allclose(np.sinh(flow[:, 0] / 2), np.sinh(0.5) * np.exp(-times / 4), rtol=1e-8)


def test_flow_ends_at_the_effective_logits():
    features = rng.normal(size=(5, 9))
    teacher, labels = rng.normal(size=5), np.array([1, -1, 1, 1, -1])
    end = distillation_flow(features, np.zeros(5), teacher, labels, [0, 1e5], **LOSS)[-1]
    np.testing.assert_allclose(features @ end, effective_logits(teacher, labels, **LOSS), atol=1e-7)
    np.testing.assert_allclose(end, np.linalg.pinv(features) @ features @ end, atol=1e-8)


def test_excess_loss_is_zero_only_at_the_effective_logits():
    teacher, labels = rng.normal(size=4), np.array([1, -1, -1, 1])
    best = np.asarray(effective_logits(teacher, labels, **LOSS))
    assert abs(excess_loss(best, teacher, labels, **LOSS)) < 1e-14
    assert excess_loss(best + 0.1, teacher, labels, **LOSS) > 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_strong_convexity_is_below_every_curvature_on_the_sublevel_set(scale):
    teacher, labels = rng.normal(size=3), np.array([1, -1, 1])
    start = rng.normal(size=3) * scale
    m = strong_convexity(start, teacher, labels, **LOSS)
    allowed = excess_loss(start, teacher, labels, **LOSS)
    best = np.asarray(effective_logits(teacher, labels, **LOSS))
    curvature = jax.vmap(lambda z: jax.jacfwd(lambda v: loss_gradient(v, teacher, labels, **LOSS))(z).diagonal())
    points = best + rng.normal(size=(3000, 3)) * (1 + scale) * 2
    inside = [p for p in points if excess_loss(p, teacher, labels, **LOSS) <= allowed][:200] + [start]
    assert 0 < m <= float(curvature(np.array(inside)).min())
