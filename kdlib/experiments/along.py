"""Supervision complexity along a student's training, on the images that it is trained on (S1, S6; experiment X3)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.special import softmax
from tqdm import tqdm

from kdlib.experiments.measures import agreement, centred_kernel_alignment
from kdlib.experiments.runs import Finished, LoadedTask, time_is_over
from kdlib.kernels.finite.gram import empirical_ntk
from kdlib.tools.arrays import integer, number
from kdlib.tools.files import sha256_of, write_whole
from kdlib.tools.provenance import code_hash, device_name, provenance, require_device
from kdlib.training.loop import Paused

CODE = "kdlib.experiments.along"  # whose hash, with all that it reaches, marks a kernel's rows
TARGETS = ("labels", "random", "offline", "online")
KERNELS = ("own", "initial")
SUPERVISED = ("baseline", "offline", "early-stopped", "stopped", "online")
ALIGNED = 256  # images on which the kernels of student and teacher are compared
Start = dict[tuple[str, int], tuple[np.ndarray, float]]  # the factor of the initial kernel, by network and seed


def complexity_along(
    students: Sequence[Finished], teacher: Finished, loaded: LoadedTask, *, points: int, ridge: float = 1e-3,
    progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Complexity of four kinds of targets under each student's kernels, at each of its checkpoints.

    The kernels are empirical NTKs of all outputs in inference mode, in float64, on the first `points` training images
    as they are (not augmented; equal ones are left out): the student's *own* at the checkpoint, and the *initial* one
    of the same seed. Only the initial one is fixed before the images, as a certificate needs it. The targets, all less
    `1/C`: the *labels*, as one-hot vectors; the same in *random* order; and the probabilities, at the student's
    temperature, of the teacher at its end (*offline*) and of its checkpoint of the same stage (*online*).

    Parameters
    ----------
    students
        `Finished` runs that kept their start.
    teacher
        the `Finished` run that supervised them.
    ridge
        in units of each kernel's mean diagonal. A trained ReLU network can have outputs that hardly any parameter moves
        on their own: then the kernel is singular to rounding, and without a ridge the number is not one.

    The rows of a checkpoint are kept in its student's folder, and read if they are there: a killed call loses one
    kernel.

    Returns
    -------
    A row for each student, checkpoint, kernel and target: `adjusted` complexity, and divided by the targets' root mean
    square; `log_adjusted` and `log_adjusted_per_size`, their natural logarithms. Beside them, the same for all rows of
    a checkpoint: the kernel's mean diagonal; alignment (CKA) of the own kernel, summed over outputs, with the kernel of
    the teacher that supervised then, on the first 256 of the images; and the agreement with that teacher on all.
    """
    points, ridge = integer("points", points, least=2), number("ridge", ridge, least=0)
    images, rows_of = np.unique(loaded.dataset.train.images[:points], axis=0, return_index=True)
    labels = loaded.labels[rows_of]
    require_device()
    jobs = [(student, step) for student in students for step in student.trained.steps]
    start: Start = {}
    found = []
    for student, step in tqdm(jobs, desc="kernels", disable=not progress):
        if student.row["method"] not in SUPERVISED:
            raise ValueError(f"the supervision of {student.row['method']!r} is not this teacher's")
        folder = student.trained.folder
        if folder is None or 0 not in student.trained.steps:
            raise ValueError("complexity_along wants students that were trained in a folder, and kept their start")
        # A student of the labels has several teachers to be compared with.
        whose = teacher.row["run"].rpartition("-")[2]
        path = folder / f"complexity-{step}-{points}-{ridge:g}-{whose}-{code_hash(CODE)}.json"
        if not path.exists():
            if time_is_over():
                raise Paused("the time is over: the kernels that have been computed are kept")
            rows = _rows(student, step, teacher, images, labels, ridge, start)
            write_whole(path, json.dumps(rows))
        found += json.loads(path.read_text(encoding="utf-8"))
    return found


def stage_of(steps: Sequence[int], share: float) -> int:
    """Which of a teacher's `steps` (without the start) supervises an online student after a `share` of its training."""
    return next(
        step for step in steps if share <= step / steps[-1] + 0.3 / len(steps)
    )  # steps are whole numbers, shares are not


def _rows(
    student: Finished, step: int, teacher: Finished, images: np.ndarray, labels: np.ndarray, ridge: float,
    start: Start,
) -> list[dict[str, Any]]:  # fmt: skip
    """Of one student at one step. `start` keeps what the next call needs again."""
    row, share = student.row, step / student.trained.steps[-1]
    steps = [kept for kept in teacher.trained.steps if kept]
    stage = stage_of(steps, share) if row["method"] == "online" else row["teacher_step"] or steps[-1]
    targets = _targets(teacher, images, labels, row["temperature"], stage_of(steps, share))
    gram = _gram(student, step, images)
    weights = row["network"], row["seed"]
    first = start.get(weights)
    if first is None:
        first = start[weights] = _factor(_gram(student, 0, images), ridge)
    measured = {"own": _factor(gram, ridge), "initial": first}
    of_teacher = _teacher_gram(teacher, stage, images[:ALIGNED])
    summed = np.einsum("icjc->ij", gram[: len(of_teacher), :, : len(of_teacher)])
    copied = ("run", "network", "data", "noise", "train_examples", "method", "temperature", "soft_ratio", "seed")
    about = {
        **{name: row[name] for name in (*copied, "teacher_network")}, "step": step, "share": round(share, 3),
        "teacher_step": stage, "points": len(images), "ridge": ridge,
        "kernel_alignment": centred_kernel_alignment(summed, of_teacher),
        "train_fidelity": agreement(student.trained.logits(images, step), teacher.trained.logits(images, stage)),
        "data_sha256": row["data_sha256"], "code": code_hash(CODE), "device": device_name(), **provenance(CODE),
    }  # fmt: skip
    rows = []
    for kernel in KERNELS:
        factor, diagonal = measured[kernel]
        for target in TARGETS:
            adjusted = _adjusted(factor, diagonal, targets[target])
            per_size = adjusted / float(np.sqrt(np.mean(targets[target] ** 2)))
            values = {
                "kernel": kernel, "target": target, "mean_diagonal": diagonal, "adjusted": adjusted,
                "adjusted_per_size": per_size, "log_adjusted": float(np.log(adjusted)),
                "log_adjusted_per_size": float(np.log(per_size)),
            }  # fmt: skip
            rows.append({**values, **about})
    return rows


def _targets(
    teacher: Finished, images: np.ndarray, labels: np.ndarray, temperature: float, stage: int
) -> dict[str, np.ndarray]:
    """`{name: (n, C)}`, of mean zero over the classes."""
    last = softmax(teacher.trained.logits(images) / temperature, axis=1)
    now = softmax(teacher.trained.logits(images, stage) / temperature, axis=1)
    one_hot = np.eye(last.shape[1])[labels]
    shuffled = one_hot[np.random.default_rng(0).permutation(len(labels))]
    found = dict(zip(TARGETS, (one_hot, shuffled, last, now), strict=True))
    return {name: values - 1 / values.shape[1] for name, values in found.items()}


def _gram(student: Finished, step: int, images: np.ndarray) -> np.ndarray:
    variables = student.trained.variables(step)
    return empirical_ntk(student.trained.network, variables, images, dtype=np.float64, progress=False)


def _teacher_gram(teacher: Finished, stage: int, images: np.ndarray) -> np.ndarray:
    """The teacher's kernel at a stage, summed over outputs; kept in the teacher's folder for all its students."""
    folder = teacher.trained.folder
    path = folder and folder / f"kernel-{stage}-{sha256_of(images)[:12]}-{code_hash(CODE)}.npy"
    if path and path.exists():
        return np.load(path, allow_pickle=False)
    network, variables = teacher.trained.network, teacher.trained.variables(stage)
    gram = empirical_ntk(network, variables, images, outputs="sum", dtype=np.float64, progress=False)
    if path:
        np.save(content := io.BytesIO(), gram, allow_pickle=False)
        write_whole(path, content.getvalue())
    return gram


def _factor(gram: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """Cholesky factor of the Gram with the ridge, and its mean diagonal without. The Gram is left as it is."""
    flat = gram.reshape(gram.shape[0] * gram.shape[1], -1)
    mean = float(np.trace(flat) / len(flat))
    return cholesky(flat + ridge * mean * np.eye(len(flat)), lower=True, overwrite_a=True), mean


def _adjusted(factor: np.ndarray, diagonal: float, targets: np.ndarray) -> float:
    """`sqrt(v' (K + ridge)^-1 v tr K) / n`, as `kdlib.complexity.supervision_complexity` has it, from the factor: that
    of ten thousand rows is computed once for all targets."""
    value = np.sum(solve_triangular(factor, targets.ravel(), lower=True) ** 2)
    return float(np.sqrt(value * diagonal * targets.size)) / len(targets)
