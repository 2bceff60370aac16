"""Which measure of difficulty orders tasks, and which one students, by their error? Six of them; rank correlations."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from kdlib.complexity import leave_one_out
from kdlib.experiments.measures import centred_kernel_alignment
from kdlib.margin import margin_bound, pac_bayes_bound
from kdlib.tools.arrays import real_array, sign_labels

# Each is large where the student is expected to err.
MEASURES = ("data inefficiency", "supervision complexity", "S3", "S8", "error left out", "less alignment")


def student_measures(gram, targets, labels, *, margins, delta: float = 0.05) -> np.ndarray:
    """The `MEASURES` of the student that interpolates `targets`, `(6,)`, from one sample.

    Parameters
    ----------
    gram
        `(n, n)`, of a normalised kernel.
    targets, labels
        `(n,)`: what the student fits, and the true labels, in {-1, 1}.
    margins, delta
        of the two certificates, as in `kdlib.margin.margin_bound`.
    """
    targets = real_array("targets", targets, ndim=1)
    labels = sign_labels(labels, len(targets))
    left = leave_one_out(gram, targets)
    norm = float(np.sqrt(left.squared_norm))
    slow = margin_bound(gram, targets, labels, margins=margins, norm=norm, delta=delta, unit=0.1)
    return np.array(
        [
            left.inefficiency,
            norm**2 / np.mean(targets**2),
            slow.value,
            pac_bayes_bound(targets, labels, norm=norm, delta=delta).value,
            np.mean(left.predictions * labels <= 0),
            -centred_kernel_alignment(gram, np.outer(targets, targets)),
        ]
    )


def over_tasks(scores, errors) -> float:
    """Rank correlation of a measure and the error, each `(tasks,)`."""
    return float(np.asarray(spearmanr(scores, errors))[0])


def over_students(scores, errors) -> float:
    """Mean over tasks of the rank correlation over their students; both `(tasks, students)`.

    Tasks whose students all have one error, or one score, say nothing and are left out; NaN if these are all.
    """
    told = [over_tasks(s, e) for s, e in zip(scores, errors, strict=True) if np.ptp(e) > 0 and np.ptp(s) > 0]
    return float(np.mean(told)) if told else float("nan")


def beyond(scores, given, errors) -> float:
    """Partial rank correlation of a measure and the error, given another measure; each `(tasks,)`."""
    a, b, c = over_tasks(scores, errors), over_tasks(given, errors), over_tasks(scores, given)
    return float((a - b * c) / np.sqrt((1 - b**2) * (1 - c**2)))
