"""Kernels of PyTorch models against the JAX engine, on converted weights; of a last layer; of a Hugging Face answer."""

import importlib
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import kdlib
from kdlib.kernels import empirical_ntk
from kdlib.training.networks import LeNet, Perceptron, ResNet

if not os.environ.get("KDLIB_TORCH"):  # set where PyTorch must be there: nothing is skipped then
    pytest.importorskip("torch")

torch = importlib.import_module("torch")
kernels = importlib.import_module("kdlib.torch")
from kdlib.training.pytorch import TorchNetwork  # noqa: E402

draw = np.random.default_rng(1)
IMAGES = draw.normal(size=(7, 28, 28, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "network", [Perceptron((16, 8), 3), LeNet(outputs=3), ResNet(1, 4, outputs=3)], ids=lambda n: type(n).__name__
)
def test_equal_to_the_other_engine(network):
    variables = network.init(jax.random.key(0), IMAGES[:1])
    model = TorchNetwork(network, variables)
    model.train()
    expected = empirical_ntk(network.apply, variables, IMAGES, dtype=np.float64, progress=False)
    found = kernels.gram(model, torch.tensor(IMAGES), dtype=torch.float64, progress=False)
    assert model.training
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    single = kernels.gram(model, torch.tensor(IMAGES), progress=False)
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_blocks_change_nothing():
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    ).double()
    x = torch.tensor(draw.normal(size=(11, 3, 4)))
    whole = kernels.gram(model, x, dtype=torch.float64, progress=False)
    size = 3 * sum(p.numel() for p in model.parameters()) * 8
    parts = kernels.gram(model, x, dtype=torch.float64, memory=3 * 2.5 * size / 1e9, progress=False)  # two at a time
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-12)
    model.train()
    model[2].eval()  # frozen
    kernels.gram(model, x, dtype=torch.float64, progress=False)
    assert [part.training for part in model] == [True, True, False, True]
    matrix = whole.reshape(33, 33)
    np.testing.assert_array_equal(matrix, matrix.T)


def test_the_last_layer_is_a_part_of_the_whole():
    """With the other layers frozen the model's kernel is that of its features, one for each output."""
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.Tanh()).double()
    head = torch.nn.Linear(5, 3).double()
    model = torch.nn.Sequential(body, head)
    body.requires_grad_(False)
    x = torch.tensor(draw.normal(size=(9, 3, 4)))
    whole = kernels.gram(model, x, dtype=torch.float64, progress=False)
    shared = kernels.gram_from_features(body(x))
    np.testing.assert_allclose(whole, np.einsum("ij,cd->icjd", shared, np.eye(3)), atol=1e-12)
    np.testing.assert_allclose(kernels.gram_from_features(body(x).numpy(), bias=False), shared - 1)


class HuggingFaceLike(torch.nn.Module):
    """Called with `pixel_values`, answers with an object that has `logits`."""

    def __init__(self):
        super().__init__()
        self.encoder, self.classifier = torch.nn.Linear(12, 6), torch.nn.Linear(6, 3)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.classifier(self.dropout(torch.relu(self.encoder(pixel_values.flatten(1))))))


def test_three_lines_for_a_model_of_hugging_faces_kind():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    student, images = HuggingFaceLike(), torch.tensor(random.normal(size=(40, 3, 4)), dtype=torch.float32)
    truth = images.flatten(1).numpy() @ random.normal(size=(12, 3))  # what this student can learn
    labels = truth.argmax(axis=1)
    teachers = {"early": random.normal(size=(40, 3)), "late": truth}
    gram = kernels.gram(student, images, outputs=lambda answer: answer.logits, dtype=torch.float64, progress=False)
    assert gram.shape == (40, 3, 40, 3)
    ranked = [
        one.teacher for one in kdlib.choose(gram + 1e-6 * np.eye(120).reshape(gram.shape), teachers, labels).candidates
    ]
    assert ranked.index("late") < ranked.index("early")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(inputs=np.zeros((3, 4))), "tensor"),
        (dict(memory=0.0), "memory"),
        (dict(memory=1e-9), "gram_from_features"),
        (dict(outputs=lambda answer: answer[None]), "outputs must be"),
        (dict(outputs=lambda _: None), "outputs must be"),
        (dict(model=torch.nn.Flatten()), "requires_grad"),
        (dict(inputs=torch.full((3, 4), float("nan"))), "not finite"),
    ],
)
def test_wrong_input(changes, message):
    given = {"model": torch.nn.Linear(4, 2), "inputs": torch.zeros(3, 4), "progress": False, **changes}
    with pytest.raises((ValueError, TypeError), match=message):
        kernels.gram(**given)
