"""What ranks teachers for a student without training it: `choose`, and the scores that others use.

LEEP (Nguyen et al. 2020), the H-score (Bao et al. 2019) and LogME (You et al. 2021) were made to rank pre-trained
models for fine-tuning; alignments compare a kernel or a first gradient of the student with the teacher's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from kdlib.choice import LABELS, choose
from kdlib.experiments.measures import centred_kernel_alignment
from kdlib.tools.arrays import class_labels, logits_and_labels, number, real_array

# Each is large where the student is expected to be right.
RIVALS = (
    "choose", "low complexity", "accuracy", "likelihood", "LEEP", "LogME", "H-score", "kernel alignment",
    "gradient alignment",
)  # fmt: skip


def scores(
    gram, answers: Mapping[str, tuple[Any, Any]], labels, *, temperature: float = 1.0, soft_ratio: float = 1.0
) -> dict[str, dict[str, float]]:
    """`{teacher: {rival: score}}` of teachers whose answers are `{name: (logits (n, C), features (n, d))}`.

    Parameters
    ----------
    gram
        the student's kernel `(n, n)`, shared by its outputs.
    labels
        `(n,)` integers.
    temperature, soft_ratio
        of the distillation. Likelihood, LEEP and gradient alignment use the temperature, `choose` both.
    """
    temperature = number("temperature", temperature, above=0)
    said = {name: real_array(name, logits, ndim=2) for name, (logits, _) in answers.items()}
    ranked = choose(gram, said, labels, soft_ratios=(soft_ratio,), temperatures=(temperature,)).candidates
    judged = {one.teacher: one for one in ranked if one.teacher != LABELS}
    found = {}
    for name, (_, features) in answers.items():
        logits, classes = logits_and_labels(said[name], labels)
        one, soft = judged[name], softmax(logits / temperature, axis=1)
        centred = logits - logits.mean(axis=1, keepdims=True)
        found[name] = dict(zip(RIVALS, (
            -one.error, -one.complexity, float(np.mean(logits.argmax(1) == classes)),
            float(log_softmax(logits / temperature, axis=1)[np.arange(len(classes)), classes].mean()),
            leep(soft, classes), log_evidence(features, classes), h_score(features, classes),
            centred_kernel_alignment(gram, centred @ centred.T), gradient_alignment(gram, soft, classes),
        ), strict=True))  # fmt: skip
    return found


def leep(probabilities, labels) -> float:
    """Mean log-likelihood of the labels under "the teacher's class, then the label given that class"."""
    probabilities = real_array("probabilities", probabilities, ndim=2)
    n, c = probabilities.shape
    joint = np.eye(c)[class_labels(labels, n, c)].T @ probabilities / n  # (label, teacher's class)
    given = joint / np.maximum(joint.sum(axis=0), 1e-300)
    return float(np.log(np.sum(given[labels] * probabilities, axis=1)).mean())


def h_score(features, labels) -> float:
    """`tr(cov(f)^+ cov(E[f | y]))`: how much of the features' spread, direction by direction, the classes explain."""
    features, labels = real_array("features", features, ndim=2), np.asarray(labels)
    centred = features - features.mean(axis=0)
    means = np.stack([centred[labels == label].mean(axis=0) for label in np.unique(labels)])
    between = means[np.searchsorted(np.unique(labels), labels)]
    return float(np.trace(np.linalg.pinv(centred.T @ centred, rcond=1e-6, hermitian=True) @ (between.T @ between)))


def log_evidence(features, labels, steps: int = 100) -> float:
    """LogME: the largest log evidence, per example, of a Bayesian linear model of each one-hot label; their mean."""
    features, labels = real_array("features", features, ndim=2), np.asarray(labels)
    n, d = features.shape
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    spectrum = singular**2
    evidences = []
    for label in np.unique(labels):
        y = (labels == label).astype(float)
        projected = (left.T @ y) ** 2
        rest = max(float(y @ y - projected.sum()), 0.0)
        alpha, beta = 1.0, 1.0
        for _ in range(steps):
            shrunk = alpha + beta * spectrum
            gamma = float(np.sum(beta * spectrum / shrunk))
            weights = float(np.sum(beta**2 * spectrum * projected / shrunk**2))
            residual = rest + float(np.sum(projected * (alpha / shrunk) ** 2))
            new = gamma / max(weights, 1e-300), (n - gamma) / max(residual, 1e-300)
            close = abs(np.log(new[0] / alpha)) + abs(np.log(new[1] / beta)) < 1e-8
            alpha, beta = new
            if close:
                break
        shrunk = alpha + beta * spectrum
        weights = float(np.sum(beta**2 * spectrum * projected / shrunk**2))
        residual = rest + float(np.sum(projected * (alpha / shrunk) ** 2))
        log_determinant = float(np.sum(np.log(shrunk))) + (d - len(spectrum)) * np.log(alpha)
        evidences.append(
            (n * np.log(beta) + d * np.log(alpha) - n * np.log(2 * np.pi) - beta * residual - alpha * weights
             - log_determinant) / (2 * n)
        )  # fmt: skip
    return float(np.mean(evidences))


def gradient_alignment(gram, probabilities, labels) -> float:
    """Cosine of the student's first gradients on the teacher and on the labels, from outputs that are zero."""
    gram, probabilities = real_array("gram", gram, ndim=2), real_array("probabilities", probabilities, ndim=2)
    n, c = probabilities.shape
    teacher, hard = probabilities - 1 / c, np.eye(c)[class_labels(labels, n, c)] - 1 / c
    inner = lambda a, b: float(np.sum(a * (gram @ b)))
    return inner(teacher, hard) / np.sqrt(inner(teacher, teacher) * inner(hard, hard))
