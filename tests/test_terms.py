"""The three terms of a distillation bound along a teacher's training (S4, X6), on a small pair."""

import numpy as np
import pytest

from kdlib.experiments.terms import RIDGES, three_terms
from kdlib.margin import distillation_bound

RECIPE = {"epochs": 4, "batch_size": 20, "learning_rate": 0.05}
ARGUMENTS = dict(
    examples=60, teacher_network="perceptron", teacher_recipe=RECIPE, network="perceptron", recipe=RECIPE, stages=2
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terms")
    return three_terms("fashion-mnist", ["trouser", "bag"], seed=0, folder=folder, **ARGUMENTS)


def test_each_stage_has_its_terms(rows):
    assert [row["share"] for row in rows] == [0.5, 1.0]
    for row in rows:
        total = row["teacher_term"] + row["margin_term"] + row["complexity_term"] + row["confidence_term"]
        assert row["bound"] == pytest.approx(min(1.0, total), abs=1e-12)
        assert row["error"] <= row["teacher_error"] + row["disagreement"] + 1e-12  # S4's first line, on the same images
        assert row["network_error"] <= row["teacher_error"] + row["network_disagreement"] + 1e-12


def test_no_ridge_has_a_smaller_bound(monkeypatch):
    """The chosen student has the least bound of the grid: with one ridge fewer it can only be worse."""
    import kdlib.experiments.terms as terms

    found = []

    def noted(*arguments, **options):
        found.append(distillation_bound(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(terms, "distillation_bound", noted)
    kernel = object.__new__(terms._KernelStudent)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 80))
    kernel._gram, kernel._cross = features[:40] @ features[:40].T, features[40:] @ features[:40].T
    kernel._diagonal = float(np.trace(kernel._gram) / 40)
    kernel._eigenvalues, kernel._modes = np.linalg.eigh(kernel._gram)
    kernel._signs = np.sign(features[40:, 0])
    told = features[:40, 0] * 3
    row = kernel.terms(told, features[40:, 0], features[40:, 1], 0.05)
    assert len(found) == len(RIDGES)
    assert row["bound"] == min(bound.value for bound in found)
    # the norm that the bound is told is that of the ridge student, by its definition
    ridge = RIDGES[3] * kernel._diagonal
    coefficients = np.linalg.solve(kernel._gram + ridge * np.eye(40), np.tanh(told / 2))
    assert found[3].transfer.norm == pytest.approx(np.sqrt(coefficients @ kernel._gram @ coefficients), rel=1e-8)
    assert row["teacher_error"] == 0 and row["disagreement"] == row["error"]
