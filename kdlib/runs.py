"""Trainings of the batch: their data, folders and rows. A run that has ended is never done again, a killed one resumes.

A run's folder is named after what was asked for: data, network, recipe, teacher (by its run), the code that it depends on
and the versions of JAX, flax and optax; not after the device. So a new seed or student adds folders, changed code or data make new ones, and nothing is overwritten.
"""

from __future__ import annotations

import ast
import csv
import fcntl
import hashlib
import io
import json
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from kdlib import checkpoints, data, distill, networks
from kdlib.measures import agreement, evaluation
from kdlib.provenance import ROOT, device_name, provenance

DEPENDS = ("kdlib.runs", "kdlib.distill")  # what a training runs through; `code_files` adds all that they import


@dataclass(frozen=True)
class Task:
    """Images with disjoint splits, and the share of training labels replaced by a random other one.

    Augmentation and the order of examples belong to a `Recipe`; splits and noise are the same for all seeds.
    """

    data: str
    train_examples: int
    validation_examples: int
    test_examples: int
    noise: float = 0.0

    def __post_init__(self):
        sizes = self.train_examples, self.validation_examples, self.test_examples
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"numbers of examples must be positive integers, not {sizes}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise must be a share of the labels in [0, 1), not {self.noise}")

    @property
    def about(self):
        """The fields as columns; the data by their name, wherever they are."""
        return {**asdict(self), "data": Path(self.data).name.split(".")[0]}

    def load(self, progress=False):
        """`(Dataset, labels)`: float32 images of mean zero and variance one, and the training labels with their noise."""
        sizes = {"train": self.train_examples, "validation": self.validation_examples, "test": self.test_examples}
        found = data.load(self.data, sizes=sizes, normalisation="standard", dtype=np.float32, progress=progress)
        generator, count = np.random.default_rng(12), len(found.classes)
        labels = found.train.labels.copy()
        wrong = np.flatnonzero(generator.random(len(labels)) < self.noise)
        labels[wrong] = (labels[wrong] + generator.integers(1, count, len(wrong))) % count
        return found, labels


@dataclass(frozen=True)
class Finished:
    """A run with its trained network and its row of the table."""

    trained: distill.TrainedRun
    row: dict


def run(name, task, dataset, labels, network, recipe, folder, *, teacher=None, teacher_name="", keep=(), about=None, progress=True):  # fmt: skip
    """Train, or take up, or read a run that has ended.

    Parameters
    ----------
    name
        of the run, for readers; a part of its folder's name.
    task, dataset, labels
        a `Task` and what its `load` gives.
    network, recipe, teacher, keep
        name of the network (`kdlib.networks.NETWORKS`), and as in `kdlib.distill.train`.
    folder
        where runs are.
    teacher_name
        the `run` column of the teacher's row and its checkpoint: what, with its own folder's name, stands for it.
    about
        more columns for the row.

    Returns
    -------
    `Finished`
    """
    module = networks.named(network, len(dataset.classes))
    asked = {
        "task": task.about, "data": dataset.sha256, "network": network, "recipe": asdict(recipe), "keep": list(keep),
        "teacher": teacher_name, "code": code_hash(), "versions": [provenance()["jax"], version("flax"), version("optax")],
    }  # fmt: skip
    mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    place = Path(folder) / f"{name}-{mark}"
    record = place / "run.json"
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process at the same run: wait, then read what it has done
        if not record.exists():
            trained = distill.train(
                module, recipe, dataset.train.images, labels, place, teacher=teacher, keep=keep, progress=progress
            )
            row = {
                "run": f"{name}-{mark}", "network": network, **task.about, **asdict(recipe), "teacher": teacher_name,
                **(about or {}),
                **_prefixed("validation", evaluation(trained.logits(dataset.validation.images), dataset.validation.labels)),
                **_prefixed("test", evaluation(trained.logits(dataset.test.images), dataset.test.labels)),
                "final_loss": float(trained.history[-1]), "steps": trained.steps[-1], "seconds": trained.seconds,
                "images_per_second": trained.images_per_second, "device": device_name(), "data_sha256": dataset.sha256,
                "code": code_hash(), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **provenance(),
            }  # fmt: skip
            content = {"asked": asked, "row": row, "steps": list(trained.steps), "history": trained.history.tolist()}
            checkpoints.write(record, json.dumps(content, indent=1).encode())
            (place / "state.msgpack").unlink(missing_ok=True)
    content = json.loads(record.read_text())
    trained = distill.TrainedRun(
        module, place, tuple(content["steps"]), np.array(content["history"]), content["row"]["seconds"],
        content["row"]["images_per_second"], dataset.train.images[:1].shape,
    )  # fmt: skip
    return Finished(trained, content["row"])


def supervision(method, teacher, dataset, *, baseline=None):
    """What a method of distillation supervises a student with.

    Parameters
    ----------
    method
        of `kdlib.distill.METHODS`: "baseline" (labels only), "offline" (the teacher at its end), "early-stopped" (its
        checkpoint of least cross-entropy on the validation images), "online" (each of its checkpoints for one stage of
        the student's training, the last for the last), "self" (the student's own network, trained on the labels).
    teacher, baseline
        `Finished` runs: the teacher's, and the student's own baseline for "self".
    dataset
        whose validation images choose the early-stopped checkpoint.

    Returns
    -------
    `(Teacher or None, name, step)`: the name stands for the teacher in a run's folder; the step is that of the
    checkpoint, None for "baseline" and "online".
    """
    if method == "baseline":
        return None, "", None
    if method not in distill.METHODS:
        raise ValueError(f"method must be one of {distill.METHODS}, not {method!r}")
    source = baseline if method == "self" else teacher
    trained, steps = source.trained, [step for step in source.trained.steps if step]
    if method == "online":
        stages = tuple((step / steps[-1], trained.variables(step)) for step in steps)
        return distill.Teacher(trained.network, stages), f"{source.row['run']}@all", None
    step = steps[-1]
    if method == "early-stopped":
        images, labels = dataset.validation.images, dataset.validation.labels
        step = min(steps, key=lambda step: evaluation(trained.logits(images, step), labels)["cross_entropy"])
    return distill.Teacher(trained.network, ((1.0, trained.variables(step)),)), f"{source.row['run']}@{step}", step


def students(
    task, dataset, labels, teacher_network, teacher_recipe, network, recipe, methods, temperatures, soft_ratios, *,
    temperature_scaling, seed, stages, folder, progress=True,
):  # fmt: skip
    """Every student of one network and seed: all methods, temperatures and soft ratios, on one teacher.

    Parameters
    ----------
    teacher_recipe, recipe
        dictionaries for `kdlib.distill.Recipe`; the seed is added.
    stages
        checkpoints of the teacher and of each student, at equal shares of their trainings.

    The others are as in `run`. What has ended is read.

    Returns
    -------
    `(teacher, {(method, temperature, soft_ratio): student})`, `Finished` runs; the baseline's key is
    `("baseline", 1.0, 0.0)`.
    """
    keep = [k / stages for k in range(1, stages)]
    common = (task, dataset, labels)
    teacher = run(
        f"teacher-{teacher_network}-{seed}", *common, teacher_network, distill.Recipe(**teacher_recipe, seed=seed), folder,
        keep=keep, about={"role": "teacher", "method": "baseline"}, progress=progress,
    )  # fmt: skip
    teacher_test = teacher.trained.logits(dataset.test.images)
    found, baseline = {}, None
    wanted = [("baseline", 1.0, 0.0)] if {"baseline", "self"} & set(methods) else []
    wanted += [(m, t, a) for m in methods if m != "baseline" for t in temperatures for a in soft_ratios]
    for method, temperature, soft_ratio in wanted:
        supervisor, name, step = supervision(method, teacher, dataset, baseline=baseline)
        convention = dict(soft_ratio=soft_ratio, temperature=temperature, temperature_scaling=temperature_scaling)
        student = run(
            f"{network}-{method}-{temperature:g}-{soft_ratio:g}-{seed}", *common, network,
            distill.Recipe(**recipe, **convention, seed=seed), folder, teacher=supervisor, teacher_name=name,
            keep=[0, *keep], progress=progress,
            about={
                "role": "student", "method": method, "teacher_step": step or "",
            },
        )  # fmt: skip
        # A baseline has no teacher, so its training is the same for all of them; its row says with which it is compared.
        student.row.update(teacher_network=teacher_network, teacher_accuracy=teacher.row["test_accuracy"])
        student.row["fidelity"] = agreement(student.trained.logits(dataset.test.images), teacher_test)
        baseline = student if method == "baseline" else baseline
        if method in methods:
            found[method, temperature, soft_ratio] = student
    return teacher, found


def folder(path=""):
    """Where runs are kept: `path`, or `_build/quick/runs` of the repository."""
    return Path(path) if path else ROOT / "_build" / "quick" / "runs"


def _prefixed(prefix, values):
    return {f"{prefix}_{name}": value for name, value in values.items()}


def save_rows(path, rows):
    """Write rows (dictionaries) as CSV, whole or not at all; a row may lack columns that others have."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    checkpoints.write(Path(path), text.getvalue().encode())


@lru_cache
def code_hash(*modules):
    """Of the source that a training runs through, or that `modules` do."""
    digest = hashlib.sha256()
    for path in code_files(*(modules or DEPENDS)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def code_files(*modules):
    """The files of these modules of kdlib and of all of kdlib that they import, sorted."""
    found, waiting = set(), list(modules)
    while waiting:
        base = ROOT / waiting.pop().replace(".", "/")
        path = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
        if path in found or not path.exists():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kdlib"):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.startswith("kdlib")]
    return sorted(found)
