"""What the experiments report of a network: accuracy, fidelity, calibration, margins; how alike two kernels are."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, softmax


def margins(logits, labels):
    """`(n,)`: logit of the label less the largest other one; negative where the prediction is wrong."""
    logits, labels = _checked(logits, labels)
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    return logits[rows, labels] - others.max(axis=1)


def calibration_error(logits, labels, *, bins=15):
    """Expected calibration error: mean distance of confidence and accuracy, over equal bins of confidence."""
    logits, labels = _checked(logits, labels)
    probabilities = softmax(logits, axis=1)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(place, confidence, bins) - np.bincount(place, correct, bins)
    return float(np.abs(gap).sum() / len(labels))


def agreement(logits, teacher_logits):
    """Fidelity: the share of inputs on which both predict the same class."""
    return float(np.mean(np.argmax(logits, axis=1) == np.argmax(teacher_logits, axis=1)))


def evaluation(logits, labels):
    """Accuracy, cross-entropy (nats), expected calibration error, and the median margin over the logits' deviation."""
    logits, labels = _checked(logits, labels)
    return {
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
        "cross_entropy": float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()),
        "calibration_error": calibration_error(logits, labels),
        "median_margin": float(np.median(margins(logits, labels)) / (logits.std() or 1.0)),
    }


def centred_kernel_alignment(first, second):
    """CKA of two Grams `(n, n)` of the same inputs: the cosine of the centred matrices, in [0, 1] for kernels.

    One if each is a multiple of the other up to what centring removes.
    """
    first, second = (np.asarray(gram, np.float64) for gram in (first, second))
    if first.shape != second.shape or first.ndim != 2 or first.shape[0] != first.shape[1]:
        raise ValueError(f"two Grams of the same inputs are needed, not {first.shape} and {second.shape}")
    first, second = (gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean() for gram in (first, second))
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    if not norms:
        raise ValueError("a Gram is constant: nothing is left after centring")
    return float(np.sum(first * second) / norms)


def _checked(logits, labels):
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits (n, C) and labels (n,) are needed, not {logits.shape} and {labels.shape}")
    return logits, labels
