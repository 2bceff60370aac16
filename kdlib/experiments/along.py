"""Supervision complexity along a student's training, under the student's own kernel of the moment (N3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from kdlib.complexity.supervision import supervision_complexity
from kdlib.data.images import Dataset
from kdlib.experiments.measures import agreement, centred_kernel_alignment
from kdlib.experiments.runs import Finished, time_is_over
from kdlib.kernels.finite.gram import empirical_ntk
from kdlib.path import NotPositiveDefiniteError
from kdlib.tools.files import write_whole
from kdlib.tools.provenance import code_hash, device_name, provenance, require_device
from kdlib.training.loop import Paused

CODE = "kdlib.experiments.along"  # whose hash, with all that it reaches, marks a kernel's row


def complexity_along(
    students: Sequence[Finished], teacher: Finished, dataset: Dataset, *, points: int, ridge: float = 1e-3,
    condition: bool = False, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Complexity of what the teacher says to each student, at each of its checkpoints.

    The kernel is the empirical NTK of all outputs in inference mode, in float64, on `points` validation images, on
    which nothing was trained; the supervision the teacher's probabilities there at the student's temperature, less
    `1/C`.

    Parameters
    ----------
    students
        `Finished` runs, of methods "offline", "early-stopped" or "online".
    teacher
        the `Finished` run that supervised them.
    ridge
        in units of the kernel's mean diagonal. A trained ReLU network can have outputs that no parameter moves on their
        own: then the kernel is singular to rounding, and without a ridge the number is not one.

    condition
        compute each kernel's condition number, too: the eigenvalues take longer than all else on a GPU's machine.

    Each kernel's row is kept in its student's folder, and read if it is there: a killed call loses one kernel.

    Returns
    -------
    A row for each student and checkpoint: `adjusted` complexity, with the ridge and without ("" where the kernel is
    singular), and with it over the root mean square of the supervision,
    alignment (CKA) of the kernel (summed over outputs) with the teacher's, its condition number and mean diagonal, and
    the agreement with the teacher on the points.
    """
    images = np.unique(dataset.validation.images[:points], axis=0)  # equal images make the kernel singular
    require_device()
    steps = [step for step in teacher.trained.steps if step]
    jobs = [(student, step) for student in students for step in student.trained.steps]
    teacher_grams: dict[int, np.ndarray] = {}
    rows = []
    for student, step in tqdm(jobs, desc="kernels", disable=not progress):
        folder = student.trained.folder
        if folder is None:
            raise ValueError("complexity_along keeps its rows in the students' folders: train them in one")
        path = folder / f"complexity-{step}-{points}-{ridge:g}{'-condition' * condition}-{code_hash(CODE)}.json"
        if not path.exists():
            if time_is_over():
                raise Paused("the time is over: the kernels that have been computed are kept")
            row = _row(student, step, teacher, steps, images, ridge, condition, teacher_grams)
            write_whole(path, json.dumps(row))
        rows.append(json.loads(path.read_text(encoding="utf-8")))
    return rows


def _row(
    student: Finished, step: int, teacher: Finished, steps: list[int], images: np.ndarray, ridge: float,
    condition: bool, teacher_grams: dict[int, np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    """Of one student at one step. `teacher_grams` keeps the teacher's kernels, by step, from one call to the next."""
    row, network = student.row, student.trained.network
    share = step / student.trained.steps[-1]
    stage = stage_of(row, steps, share)
    if stage not in teacher_grams:
        variables = teacher.trained.variables(stage)
        teacher_grams[stage] = empirical_ntk(
            teacher.trained.network, variables, images, outputs="sum", dtype=np.float64, progress=False
        )
    logits = teacher.trained.logits(images, stage)
    targets = softmax(logits / row["temperature"], axis=1) - 1 / logits.shape[1]
    gram = empirical_ntk(network, student.trained.variables(step), images, dtype=np.float64, progress=False)
    flat = gram.reshape(targets.size, targets.size)
    mean, size = float(np.trace(flat) / len(flat)), float(np.sqrt(np.mean(targets**2)))
    adjusted = supervision_complexity(gram, targets, ridge=ridge * mean).adjusted
    try:
        without: float | str = supervision_complexity(gram, targets).adjusted
    except NotPositiveDefiniteError:
        without = ""
    number = float("nan")
    if condition:
        values = np.linalg.eigvalsh(flat)
        number = float(values[-1] / values[0])
    copied = ("run", "network", "data", "noise", "train_examples", "method", "temperature", "soft_ratio", "seed")
    return {
        **{name: row[name] for name in (*copied, "teacher_network")},
        "step": step, "share": share, "teacher_step": stage, "points": len(images), "ridge": ridge,
        "adjusted": adjusted, "adjusted_per_size": adjusted / size, "adjusted_without_ridge": without, "size": size,
        "condition": number if condition else "", "mean_diagonal": mean,
        "kernel_alignment": centred_kernel_alignment(np.einsum("icjc->ij", gram), teacher_grams[stage]),
        "fidelity": agreement(student.trained.logits(images, step), logits),
        "data_sha256": row["data_sha256"], "code": code_hash(CODE), "device": device_name(), **provenance(CODE),
    }  # fmt: skip


def stage_of(row: dict[str, Any], steps: Sequence[int], share: float) -> int:
    """Which of a teacher's `steps` supervises the student of `row` when a `share` of its training is over."""
    if row["method"] == "early-stopped":
        return int(row["teacher_step"])
    if row["method"] not in ("offline", "online"):
        raise ValueError(f"the supervision of {row['method']!r} is not this teacher's")
    if row["method"] == "offline":
        return steps[-1]
    return next(
        step for step in steps if share <= step / steps[-1] + 0.3 / len(steps)
    )  # steps are whole numbers, shares are not
