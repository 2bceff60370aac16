"""The rivals of `choose` against their definitions."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import multivariate_normal

from kdlib.experiments.rivals import RIVALS, gradient_alignment, h_score, leep, log_evidence, scores

draw = np.random.default_rng(0)
LABELS = draw.integers(0, 3, 60)
FEATURES = draw.normal(size=(60, 4)) + 2 * np.eye(4)[LABELS]


def test_leep():
    """Of a teacher that is sure: the entropy of the label given its class."""
    sure = np.eye(3)[(LABELS + 1) % 3]  # always wrong in the same way: its classes tell the labels
    assert leep(sure, LABELS) == pytest.approx(0, abs=1e-12)
    shares = np.bincount(LABELS) / 60
    assert leep(np.full((60, 3), 1 / 3), LABELS) == pytest.approx(np.sum(shares * np.log(shares)))


def test_h_score():
    assert h_score(np.eye(3)[LABELS], LABELS) == pytest.approx(2)  # three classes, two directions, all explained
    assert h_score(FEATURES @ draw.normal(size=(4, 4)), LABELS) == pytest.approx(h_score(FEATURES, LABELS))
    assert h_score(draw.normal(size=(60, 4)), LABELS) < h_score(FEATURES, LABELS)


def test_log_evidence_is_the_largest():
    """Against the Gaussian density of the labels: equal at the best precisions, and none of a grid is larger."""
    best = []
    for label in range(3):
        y = (LABELS == label).astype(float)
        grid = [
            multivariate_normal(cov=np.eye(60) / beta + FEATURES @ FEATURES.T / alpha).logpdf(y) / 60
            for alpha in np.geomspace(0.1, 1000, 40)
            for beta in np.geomspace(0.5, 100, 40)
        ]
        best.append(max(grid))
    assert np.mean(best) <= log_evidence(FEATURES, LABELS) < np.mean(best) + 2e-3


def test_gradient_alignment_is_a_cosine_of_gradients():
    inputs = draw.normal(size=(60, 7))
    soft = softmax(draw.normal(size=(60, 3)), axis=1)
    gradients = [(inputs.T @ (answers - 1 / 3)).ravel() for answers in (soft, np.eye(3)[LABELS])]  # of a linear model
    cosine = gradients[0] @ gradients[1] / np.prod([np.linalg.norm(g) for g in gradients])
    assert gradient_alignment(inputs @ inputs.T, soft, LABELS) == pytest.approx(cosine)


def test_all_of_them_prefer_what_knows_the_labels():
    gram = np.exp(-np.sum((FEATURES[:, None] - FEATURES) ** 2, axis=2) / 8)
    good = 3 * np.eye(3)[LABELS] + 0.3 * draw.normal(size=(60, 3))
    nothing = draw.normal(size=(60, 3))
    found = scores(gram, {"good": (good, FEATURES), "nothing": (nothing, draw.normal(size=(60, 4)))}, LABELS)
    for rival in RIVALS:
        assert found["good"][rival] > found["nothing"][rival], rival
