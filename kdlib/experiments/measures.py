"""What the experiments report of a network: accuracy, fidelity, calibration, margins; how alike two kernels are."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, softmax

from kdlib.tools.arrays import gram_matrix, integer, logits_and_labels, real_array


def margins(logits, labels) -> np.ndarray:
    """`(n,)`: logit of the label less the largest other one; negative where the prediction is wrong."""
    logits, labels = _checked(logits, labels)
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    return logits[rows, labels] - others.max(axis=1)


def calibration_error(logits, labels, *, bins: int = 15) -> float:
    """Expected calibration error: mean distance of confidence and accuracy, over equal bins of confidence."""
    logits, labels = _checked(logits, labels)
    bins = integer("bins", bins, least=1)
    probabilities = softmax(logits, axis=1)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(place, confidence, bins) - np.bincount(place, correct, bins)
    return float(np.abs(gap).sum() / len(labels))


def agreement(logits, teacher_logits) -> float:
    """Fidelity: the share of inputs on which both predict the same class."""
    logits = real_array("logits", logits, ndim=2)
    teacher = real_array("teacher_logits", teacher_logits, shape=logits.shape)
    return float(np.mean(logits.argmax(axis=1) == teacher.argmax(axis=1)))


def evaluation(logits, labels) -> dict[str, float]:
    """Accuracy, cross-entropy (nats), expected calibration error, and the median margin over the logits' deviation."""
    logits, labels = _checked(logits, labels)
    return {
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
        "cross_entropy": float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()),
        "calibration_error": calibration_error(logits, labels),
        "median_margin": float(np.median(margins(logits, labels)) / (logits.std() or 1.0)),
    }


def centred_kernel_alignment(first, second) -> float:
    """CKA of two Grams `(n, n)` of the same inputs: the cosine of the centred matrices, in [0, 1] for kernels.

    One if each is a multiple of the other up to what centring removes.
    """
    first = gram_matrix("first", first)
    second = gram_matrix("second", second, len(first))
    first, second = (gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean() for gram in (first, second))
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    if not norms:
        raise ValueError("a Gram is constant: nothing is left after centring")
    return float(np.sum(first * second) / norms)


def _checked(logits, labels) -> tuple[np.ndarray, np.ndarray]:
    return logits_and_labels(real_array("logits", logits, ndim=2), labels, name="logits")
