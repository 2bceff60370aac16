"""What is kept of a teacher: features that its last layer turns into its logits, in 16 bits."""

import jax
import numpy as np
import pytest

from kdlib.experiments.runs import Finished
from kdlib.experiments.teachers import WIDEST, answers, penultimate, read_answers, save_answers
from kdlib.tools.provenance import ROOT
from kdlib.training import networks
from kdlib.training.loop import Trained


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(300, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["lenet-5", "resnet-8", "perceptron"])
def test_features_are_what_the_last_layer_sees(name, images):
    network = networks.named(name, 10)
    variables = network.init(jax.random.key(0), images[:1])
    dense = variables["params"]
    last = dense[
        max((layer for layer in dense if layer.startswith("Dense")), key=lambda layer: int(layer.split("_")[1]))
    ]
    features = penultimate(network, variables, images[:20], block=7)
    logits = networks.apply_in_blocks(network, variables, images[:20])
    np.testing.assert_allclose(
        features @ last["kernel"] + last["bias"], logits, atol=1e-5
    )  # float32 outputs of order 1


def test_committed_answers_are_of_the_same_images():
    """Their labels are those published, also of teachers that were trained on noisy ones."""
    found = [read_answers(path).labels for path in (ROOT / "results/core/teachers").glob("*.npz")]
    assert len(found) > 20 and all((labels == found[0]).all() for labels in found)


def test_kept_and_read_back(images, tmp_path):
    network = networks.named("lenet-5x8", 10)
    variables = network.init(jax.random.key(0), images[:1])
    teacher = Finished(Trained(network, {3: variables}, np.zeros(1), 0.0, 0.0), {})
    found = answers(teacher, 3, images, np.arange(300) % 10)
    assert found.features.shape == (300, WIDEST) and 0.5 < found.explained < 1
    save_answers(tmp_path / "a.npz", found)
    again = read_answers(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.features, found.features)
    np.testing.assert_array_equal(again.logits, teacher.trained.logits(images, 3).astype(np.float16))
    np.testing.assert_array_equal(again.labels, np.arange(300) % 10)
    # the inner products of the centred features, up to what `explained` says is lost
    whole = penultimate(network, variables, images)
    whole = whole - whole.mean(axis=0)
    lost = 1 - np.sum(found.features.astype(float) ** 2) / np.sum(whole**2)
    assert lost == pytest.approx(1 - found.explained, abs=1e-3)  # 16 bits
