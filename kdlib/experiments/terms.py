"""The three terms of a distillation bound along a teacher's training, beside the error (S4; experiment X6).

Two classes. The teacher is trained on other images than the student, as S4's hypothesis wants it, and its checkpoints
supervise the student one after another. The kernel is the student's NTK at initialisation, fixed before any image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import eigh

from kdlib.data.images import Dataset, load
from kdlib.kernels.finite.gram import empirical_ntk
from kdlib.labels.loss import DistillationLoss
from kdlib.margin import distillation_bound
from kdlib.tools.arrays import integer
from kdlib.training import networks
from kdlib.training.loop import EngineName, Trained, train
from kdlib.training.recipe import Recipe
from kdlib.training.teacher import Teacher

MARGINS = np.geomspace(0.05, 1.0, 12)
RIDGES = np.geomspace(1e-3, 10.0, 9)  # in units of the mean diagonal; a student's ridge costs the bound nothing


def three_terms(
    data: str, pair: Sequence[str], *, examples: int, teacher_network: str, teacher_recipe: dict[str, Any],
    network: str, recipe: dict[str, Any], stages: int, seed: int, folder: str | Path, engine: EngineName = "jax",
    delta: float = 0.05,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each stage of a teacher's training: the bound's terms, and the errors that it is about.

    Parameters
    ----------
    data, pair
        a set of images and two of its classes (`kdlib.data.load`).
    examples
        of the student and, as many others, of the teacher.
    teacher_recipe, recipe
        dictionaries for `Recipe`; the seed and the student's loss are added. Nothing is augmented.
    stages
        of both trainings, at equal shares; an online student learns from the teacher's checkpoint of the same stage.
    folder
        where trainings are, and resume.
    delta
        the bound of a row fails with at most this probability. (All rows of a seed together: `stages` times.)

    Returns
    -------
    Dictionaries. Of the teacher: `teacher_error`, on the second half of the test images, and `teacher_term`, the upper
    end of its interval on the first. Of the kernel student, the ridge regression of the teacher's probabilities whose
    bound is least over the ridges: `margin_term`, `complexity_term`, `confidence_term`, `bound` (at most one), `error`,
    `disagreement` with the teacher. Of the network, trained online: `network_error`, `network_disagreement`. And
    `log_adjusted`, the natural logarithm of the adjusted complexity of the teacher's answers at the least ridge.
    """
    examples, stages = integer("examples", examples, least=10), integer("stages", stages, least=1)
    sizes = {"train": examples, "transfer": examples, "test": None}
    dataset = load(data, classes=tuple(pair), sizes=sizes, normalisation="unit", distinct=True, dtype=np.float32)
    keep = [k / stages for k in range(1, stages)]
    about = f"{'-'.join(pair)}-{examples}-{seed}"
    teacher = train(
        networks.named(teacher_network, 2), Recipe(**teacher_recipe, seed=seed), dataset.splits["transfer"].images,
        dataset.splits["transfer"].labels, folder=Path(folder) / f"teacher-{about}", keep=keep, engine=engine,
    )  # fmt: skip
    steps = [step for step in teacher.steps if step]
    along = Teacher(teacher.network, tuple((step / steps[-1], teacher.variables(step)) for step in steps))
    student = train(
        networks.named(network, 2), Recipe(**recipe, seed=seed, loss=DistillationLoss(1.0, 1.0, "squared")),
        dataset.train.images, dataset.train.labels, folder=Path(folder) / f"student-{about}", teacher=along,
        keep=[0, *keep], engine=engine,
    )  # fmt: skip
    kernel = _KernelStudent(student, dataset)
    rows = []
    after = [step for step in student.steps if step]
    for stage, (teacher_step, student_step) in enumerate(zip(steps, after, strict=True), start=1):
        told, asked = (_difference(teacher, split.images, teacher_step) for split in (dataset.train, dataset.test))
        predicted = _difference(student, dataset.test.images, student_step)
        values = {
            "data": Path(data).name.split(".")[0],
            "classes": " vs ".join(pair),
            "examples": examples,
            "seed": seed,
        }
        values |= {"network": network, "teacher_network": teacher_network, "share": round(stage / stages, 3)}
        values["engine"] = engine
        rows.append({**values, **kernel.terms(told, asked, predicted, delta)})
    return rows


class _KernelStudent:
    """Ridge students under the initial kernel of the difference of a network's two outputs."""

    def __init__(self, student: Trained, dataset: Dataset):
        self._signs = 2.0 * dataset.test.labels - 1
        sample, test = dataset.train.images, dataset.test.images
        variables = student.variables(0)
        self._gram = _of_difference(empirical_ntk(student.network, variables, sample, dtype=np.float64, progress=False))
        self._cross = _of_difference(
            empirical_ntk(student.network, variables, test, sample, dtype=np.float64, progress=False)
        )
        self._diagonal = float(np.trace(self._gram) / len(sample))
        self._eigenvalues, self._modes = eigh(self._gram)

    def terms(self, told: np.ndarray, asked: np.ndarray, predicted: np.ndarray, delta: float) -> dict[str, float]:
        """`told` and `asked`: the teacher's logits on the sample and on the test images; `predicted`: the network's."""
        supervision = np.tanh(told / 2)  # twice the probability, less one
        half = len(asked) // 2
        wrong = asked * self._signs <= 0
        along_modes = self._modes.T @ supervision
        found = []
        for ridge in RIDGES * self._diagonal:
            solved = along_modes / (self._eigenvalues + ridge)
            norm = float(np.sqrt(max(np.sum(self._eigenvalues * solved**2), 0.0)))
            coefficients = self._modes @ solved
            bound = distillation_bound(
                self._gram, self._gram @ coefficients, told, teacher_errors=int(wrong[:half].sum()),
                teacher_trials=half, teacher_saw_these_examples=False, margins=MARGINS, delta=delta, norm=norm,
                unit=0.1 / np.sqrt(self._diagonal),
            )  # fmt: skip
            found.append((bound, self._cross @ coefficients))
        bound, answers = min(found, key=lambda one: one[0].teacher + one[0].transfer.value)
        best, least = bound.transfer.best, RIDGES[0] * self._diagonal
        value = np.sum(along_modes**2 / (self._eigenvalues + least))
        later = slice(half, None)
        return {
            "teacher_error": float(wrong[later].mean()), "teacher_term": bound.teacher,
            "margin_term": float(bound.transfer.ramp[best]), "complexity_term": float(bound.transfer.complexity[best]),
            "confidence_term": bound.transfer.confidence, "bound": bound.value,
            "error": float(np.mean(answers[later] * self._signs[later] <= 0)),
            "disagreement": float(np.mean(answers[later] * asked[later] <= 0)),
            "network_error": float(np.mean(predicted[later] * self._signs[later] <= 0)),
            "network_disagreement": float(np.mean(predicted[later] * asked[later] <= 0)),
            "log_adjusted": float(np.log(np.sqrt(value * np.trace(self._gram)) / len(told))),
        }  # fmt: skip


def _difference(trained: Trained, images: np.ndarray, step: int) -> np.ndarray:
    """`(n,)` logits of the second class less the first."""
    logits = trained.logits(images, step)
    return logits[:, 1] - logits[:, 0]


def _of_difference(gram: np.ndarray) -> np.ndarray:
    """The kernel of the difference of two outputs, from that of both `(n1, 2, n2, 2)`."""
    return np.einsum("icjd,c,d->ij", gram, (-1.0, 1.0), (-1.0, 1.0))
