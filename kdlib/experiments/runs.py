"""Trainings of the experiments: their data, folders and rows. A run that has ended is never done again, a killed one
resumes.

A run's folder is named after what was asked for: data, network, recipe, teacher (by its run), the code that it depends
on and the versions of JAX, flax and optax; not after the device. So a new seed or student adds folders, changed code or
data make new ones, and nothing is overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.data.images import Dataset, load
from kdlib.experiments.measures import agreement, evaluation
from kdlib.experiments.methods import METHODS
from kdlib.labels.loss import DistillationLoss, TemperatureScaling
from kdlib.tools.arrays import integer, number
from kdlib.tools.files import remove_in_parts, write_whole
from kdlib.tools.provenance import ROOT, code_hash, device_name, provenance, require_device
from kdlib.training import networks
from kdlib.training.checkpoints import SavedCheckpoints
from kdlib.training.loop import EngineName, Trained, train
from kdlib.training.recipe import Recipe
from kdlib.training.teacher import Teacher

ANOTHER = 1000  # added, once and more, to the seeds of students that repeat one another
MEASURED = 5000  # training images, the first ones, on which accuracy and fidelity are measured
_LEAST: dict[str, int] = {}  # a run's checkpoint of least validation loss, found once in a process
CODE = "kdlib.experiments.runs"  # whose hash, with all that it reaches, marks a run


@dataclass(frozen=True)
class ImageTask:
    """Images with disjoint splits, and the share of training and validation labels replaced by a random other one.

    Validation labels are as noisy as the training's, since whoever has noisy labels chooses by such. Augmentation and
    the order of examples belong to a `Recipe`; splits and noise are the same for all seeds.
    """

    data: str
    train_examples: int
    validation_examples: int
    test_examples: int
    noise: float = 0.0

    def __post_init__(self):
        for name in ("train_examples", "validation_examples", "test_examples"):
            integer(name, getattr(self, name), least=1)
        number("noise", self.noise, least=0, below=1)  # a share of the labels

    @property
    def columns(self) -> dict[str, Any]:
        """The fields as columns; the data by their name, wherever they are."""
        return {**asdict(self), "data": Path(self.data).name.split(".")[0]}

    def load(self, progress: bool = False) -> LoadedTask:
        """The images, float32, of mean zero and variance one, and the training labels with their noise."""
        sizes = {"train": self.train_examples, "validation": self.validation_examples, "test": self.test_examples}
        dataset = load(self.data, sizes=sizes, normalisation="standard", dtype=np.float32, progress=progress)
        generator, count = np.random.default_rng(12), len(dataset.classes)
        labels, chosen_by = (
            _with_noise(split.labels, self.noise, count, generator) for split in (dataset.train, dataset.validation)
        )
        splits = {**dataset.splits, "validation": replace(dataset.validation, labels=chosen_by)}
        return LoadedTask(self, replace(dataset, splits=splits), labels)


@dataclass(frozen=True)
class LoadedTask:
    """A task with its images, and the labels that networks are trained on, noise included. Made by `ImageTask.load`."""

    task: ImageTask
    dataset: Dataset
    labels: np.ndarray


@dataclass(frozen=True)
class Finished:
    """A run with its trained network and its row of the table."""

    trained: Trained
    row: dict[str, Any]


def run(
    name: str, loaded: LoadedTask, network: str, recipe: Recipe, folder: str | Path, *, teacher: Teacher | None = None,
    teacher_name: str = "", keep: Sequence[float] = (), columns: dict[str, Any] | None = None,
    engine: EngineName = "jax", progress: bool = True,
) -> Finished:  # fmt: skip
    """Train, or take up, or read a run that has ended.

    Parameters
    ----------
    name
        of the run, for readers; a part of its folder's name.
    loaded
        what `ImageTask.load` gives.
    network, recipe, teacher, keep
        name of the network (`kdlib.training.networks.NETWORKS`), and as in `kdlib.training.train`.
    folder
        where runs are.
    teacher_name
        the teacher's id in the run's hash: `<run>@<step>`.
    columns
        more columns for the row.
    engine
        "jax" or "torch", as in `train`. PyTorch keeps a teacher's logits in the folder `teacher-logits`.

    Raises
    ------
    Paused
        when the time in `$KDLIB_UNTIL` (seconds of the epoch) has come; the next call goes on from there.
    """
    if recipe.remove_initial or recipe.precision == "float64":
        raise ValueError("runs are read back without f_0 and in float32: train with `kdlib.training.train` instead")
    dataset, module = loaded.dataset, networks.named(network, len(loaded.dataset.classes))
    asked = {
        "task": loaded.task.columns, "data": dataset.sha256, "network": network, "recipe": asdict(recipe),
        "keep": list(keep), "teacher": teacher_name, "code": code_hash(CODE), "versions": versions(engine),
        "engine": engine,
    }  # fmt: skip
    require_device()
    made_with = provenance(CODE)  # now: the files may change while it trains
    run_id = f"{name}-{mark(asked)}"
    place = Path(folder) / run_id
    record = place / "run.json"
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process at the same run: wait, then read what it has done
        if not record.exists():
            trained = train(
                module, recipe, dataset.train.images, loaded.labels, folder=place, teacher=teacher, keep=keep,
                engine=engine, remember=Path(folder) / "teacher-logits", pause=time_is_over, progress=progress,
            )  # fmt: skip
            row = {
                "run": run_id, "network": network, **loaded.task.columns, **recipe.columns, "teacher": teacher_name,
                **(columns or {}),
                **_evaluated("train", trained, dataset.train.images[:MEASURED], loaded.labels[:MEASURED]),
                **_evaluated("validation", trained, dataset.validation.images, dataset.validation.labels),
                **_evaluated("test", trained, dataset.test.images, dataset.test.labels),
                "final_loss": float(trained.history[-1]), "steps": trained.steps[-1], "seconds": trained.seconds,
                "images_per_second": trained.images_per_second, "engine": engine, "device": device_name(),
                **_computer(engine), "data_sha256": dataset.sha256,
                "code": asked["code"], "trained_with": asked["code"],
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **made_with,
            }  # fmt: skip
            content = {"asked": asked, "row": row, "steps": list(trained.steps), "history": trained.history.tolist()}
            write_whole(record, json.dumps(content, indent=1))
            remove_in_parts(place / "state.msgpack")
    return read_finished(place, dataset)


def _with_noise(labels: np.ndarray, share: float, count: int, generator: np.random.Generator) -> np.ndarray:
    labels = labels.copy()
    wrong = np.flatnonzero(generator.random(len(labels)) < share)
    labels[wrong] = (labels[wrong] + generator.integers(1, count, len(wrong))) % count
    return labels


def read_finished(place: Path, dataset: Dataset) -> Finished:
    """A run that has ended, from its folder; `dataset` is what it was trained on."""
    shape = dataset.train.images[:1].shape
    try:
        content = json.loads((place / "run.json").read_text(encoding="utf-8"))
        row, steps, history = content["row"], tuple(content["steps"]), np.array(content["history"], dtype=float)
        module = networks.named(content["asked"]["network"], len(dataset.classes))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{place / 'run.json'} is damaged ({error}): remove {place}, and it is trained again"
        ) from None
    checkpoints = SavedCheckpoints(module, place / "checkpoints", steps, shape)
    trained = Trained(
        module, checkpoints, history, row["seconds"], row["images_per_second"], folder=place, engine=row["engine"]
    )
    return Finished(trained, row)


def mark(asked: dict[str, Any]) -> str:
    """The part of a run's folder name that stands for what was asked for: twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def versions(engine: EngineName = "jax") -> list[str]:
    """Of the packages that a run's numbers depend on."""
    if engine == "torch":
        import kdlib.training.pytorch  # says what to do where there is no PyTorch  # noqa: F401
    return [version(name) for name in ("jax", "flax", "optax", *(("torch",) if engine == "torch" else ()))]


def supervision(
    method: str, teacher: Finished, dataset: Dataset, *, baseline: Finished | None = None, share: float = 1.0
) -> tuple[Teacher | None, str, int | None]:
    """What a method of distillation supervises a student with.

    Parameters
    ----------
    method
        of `METHODS`: "baseline" (labels only), "offline" (the teacher at its end), "early-stopped" (its checkpoint of
        least cross-entropy on the validation images), "online" (each of its checkpoints for one stage of the student's
        training, the last for the last), "self" (the student's own network, trained on the labels), "stopped" (its
        checkpoint after a `share` of its training), "repeat" (as offline: see `students`).
    teacher, baseline
        the teacher's run, and the student's own baseline for "self".
    share
        of the teacher's training, for "stopped".
    dataset
        whose validation images choose the early-stopped checkpoint.

    Returns
    -------
    `(Teacher or None, name, step)`: the name stands for the teacher in a run's folder; the step is that of the
    checkpoint, None for "baseline" and "online".
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")
    if method == "baseline":
        return None, "", None
    source = teacher
    if method == "self":
        if baseline is None:
            raise ValueError('method "self" needs the student\'s own baseline')
        source = baseline
    if method == "online":
        return teacher_at(source.trained, "all"), f"{source.row['run']}@all", None
    step = source.trained.steps[-1]
    if method == "stopped":
        wanted = round(share * step)
        step = min((kept for kept in source.trained.steps if kept), key=lambda kept: abs(kept - wanted))
        if abs(step - wanted) > 1:
            raise ValueError(f"the teacher has no checkpoint after {share:g} of its training: choose from its stages")
    if method == "early-stopped":
        images, labels = dataset.validation.images, dataset.validation.labels
        loss = lambda step: evaluation(source.trained.logits(images, step), labels)["cross_entropy"]
        name = source.row["run"]  # stands for the weights and the images
        if name not in _LEAST:
            _LEAST[name] = min((step for step in source.trained.steps if step), key=loss)
        step = _LEAST[name]
    return teacher_at(source.trained, str(step)), f"{source.row['run']}@{step}", step


def teacher_at(trained: Trained, stage: str) -> Teacher:
    """The teacher that a run's id ends in: `@<step>`, one checkpoint; `@all`, each but the first, stage by stage."""
    if stage != "all":
        return Teacher(trained.network, ((1.0, trained.variables(int(stage))),))
    steps = [step for step in trained.steps if step]
    return Teacher(trained.network, tuple((step / steps[-1], trained.variables(step)) for step in steps))


def students(
    loaded: LoadedTask, *, teacher_network: str, teacher_recipe: dict[str, Any], network: str, recipe: dict[str, Any],
    methods: Sequence[str], temperatures: Sequence[float], soft_ratios: Sequence[float],
    temperature_scaling: TemperatureScaling, stops: Sequence[float] = (), repeats: int = 1,
    seed: int, stages: int, folder: str | Path, engine: EngineName = "jax", progress: bool = True,
) -> tuple[Finished, dict[tuple[str, float, float], Finished]]:  # fmt: skip
    """Every student of one network and seed: all methods, temperatures and soft ratios, on one teacher.

    Parameters
    ----------
    teacher_recipe, recipe
        dictionaries for `Recipe`; the seed and the loss are added.
    stops
        shares of the teacher's training, of those that `stages` keeps, for the method "stopped".
    repeats
        pairs of students for the method "repeat".
    stages
        checkpoints of the teacher and of each student, at equal shares of their trainings.

    The others are as in `run` and `DistillationLoss`. What has ended is read. The method "repeat" is "offline" with
    weights, batches and augmentation of its own (from the seed plus `ANOTHER` on): pairs whose difference is noise. The
    columns `pair` and `half` tell them.

    Returns
    -------
    `(teacher, {(method, temperature, soft_ratio): student})`; the baseline's key is `("baseline", 1.0, 0.0)`; that of
    "stopped" has the share as a fourth entry, that of "repeat" the pair and the half, 0 or 1.
    """
    keep = [k / stages for k in range(1, stages)]
    teacher = run(
        f"teacher-{teacher_network}-{seed}", loaded, teacher_network, Recipe(**teacher_recipe, seed=seed), folder,
        keep=keep, columns={"role": "teacher", "method": "baseline"}, engine=engine, progress=progress,
    )  # fmt: skip
    seen, unseen = loaded.dataset.train.images[:MEASURED], loaded.dataset.test.images
    teacher_seen, teacher_unseen = teacher.trained.logits(seen), teacher.trained.logits(unseen)
    variants: list[tuple] = [("baseline", 1.0, 0.0)] if {"baseline", "self"} & set(methods) else []
    more = {"stopped": [(stop,) for stop in stops], "repeat": list(product(range(repeats), (0, 1)))}
    for method, temperature, soft_ratio in product(methods, temperatures, soft_ratios):
        if method != "baseline":
            variants += [(method, temperature, soft_ratio, *rest) for rest in more.get(method, [()])]
    trained, baseline = {}, None
    for variant in variants:
        method, temperature, soft_ratio, *rest = variant
        share = rest[0] if method == "stopped" else 1.0
        supervisor, name, step = supervision(method, teacher, loaded.dataset, baseline=baseline, share=share)
        loss = DistillationLoss(soft_ratio, temperature, temperature_scaling) if supervisor else None
        pair, half = rest if method == "repeat" else ("", "")
        own_seed = seed + ANOTHER * (1 + 2 * pair + half) if method == "repeat" else seed  # pyright: ignore[reportOperatorIssue]
        student = run(
            f"{network}-{method}-{temperature:g}-{soft_ratio:g}-{own_seed}", loaded, network,
            Recipe(**recipe, loss=loss, seed=own_seed), folder, teacher=supervisor, teacher_name=name, keep=[0, *keep],  # pyright: ignore[reportArgumentType]
            engine=engine, progress=progress,
            columns={"role": "student", "method": method, "teacher_step": step or ""},
        )  # fmt: skip
        # A baseline has no teacher, so its training is the same for all of them; its row says with which it is
        # compared.
        student.row.update(teacher_network=teacher_network, teacher_accuracy=teacher.row["test_accuracy"])
        student.row.update(seed=seed, teacher_share=share if supervisor else "", pair=pair, half=half)
        student.row["fidelity"] = agreement(student.trained.logits(unseen), teacher_unseen)
        student.row["train_fidelity"] = agreement(student.trained.logits(seen), teacher_seen)
        baseline = student if method == "baseline" else baseline
        if method in methods:
            trained[variant] = student
    return teacher, trained


def runs_folder(path: str = "") -> Path:
    """Where runs are kept: `path`, or `_build/quick/runs` of the repository."""
    return Path(path) if path else ROOT / "_build" / "quick" / "runs"


def time_is_over(_: int = 0) -> bool:
    """Whether the time in `$KDLIB_UNTIL` (seconds of the epoch) has come."""
    return time.time() > float(os.environ.get("KDLIB_UNTIL", "inf"))


def _computer(engine: EngineName) -> dict[str, Any]:
    """The columns that say what computed: cores that this process may use, PyTorch if it trained, XLA's flags."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch = version("torch") if engine == "torch" else ""
    return {"cores": cores, "torch": torch, "xla_flags": os.environ.get("XLA_FLAGS", "")}


def _evaluated(split: str, trained: Trained, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    values = evaluation(trained.logits(images), labels)
    return {f"{split}_{name}": value for name, value in values.items()}
