"""The race of measures: each measure is what its own function says; rank correlations against their definitions."""

import numpy as np
import pytest
from scipy.stats import rankdata

from kdlib.complexity import supervision_complexity
from kdlib.experiments import ranking


def sample(n=30, seed=0):
    inputs = np.random.default_rng(seed).normal(size=(n, 3))
    gram = np.exp(-np.linalg.norm(inputs[:, None] - inputs[None], axis=-1))
    return gram, np.sign(inputs[:, 0])


def test_measures_of_a_student():
    gram, labels = sample()
    found = dict(zip(ranking.MEASURES, ranking.student_measures(gram, 2 * labels, labels, margins=[1.0]), strict=True))
    complexity = supervision_complexity(gram, labels).value  # per squared size: a scale does not count
    assert found["supervision complexity"] == pytest.approx(complexity)
    without = [
        supervision_complexity(np.delete(np.delete(gram, i, 0), i, 1), np.delete(labels, i)).value for i in range(30)
    ]
    assert found["data inefficiency"] == pytest.approx(29 * (complexity - np.mean(without)) / np.mean(without))
    assert 0 < found["error left out"] < 0.5 and 0 < found["S8"] <= 1 and -1 <= found["less alignment"] < 0


def test_coins_are_harder_by_every_measure_of_the_norm():
    gram, labels = sample()
    easy, hard = (
        ranking.student_measures(gram, y, y, margins=[1.0])
        for y in (labels, np.random.default_rng(1).choice([-1.0, 1.0], 30))
    )
    assert (hard[[0, 1, 4, 5]] > easy[[0, 1, 4, 5]]).all()


def test_partial_correlation_is_that_of_residuals():
    draw = np.random.default_rng(2)
    given = draw.normal(size=50)
    scores, errors = given + draw.normal(size=50), given + draw.normal(size=50)
    left = []
    for values in (scores, errors):
        design = np.column_stack([np.ones(50), rankdata(given)])
        left.append(rankdata(values) - design @ np.linalg.lstsq(design, rankdata(values), rcond=None)[0])
    assert ranking.beyond(scores, given, errors) == pytest.approx(np.corrcoef(*left)[0, 1])


def test_tasks_that_say_nothing_are_left_out():
    assert ranking.over_students([[1, 2, 3], [1, 2, 3]], [[0.1, 0.2, 0.3], [0.2, 0.2, 0.2]]) == pytest.approx(1.0)
    assert np.isnan(ranking.over_students([[1, 1]], [[0.1, 0.2]]))
