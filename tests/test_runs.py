"""Runs of the batch: read when they have ended, other folders for other questions, what depends on which code."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from kdlib.complexity.supervision import supervision_complexity
from kdlib.experiments import along, runs
from kdlib.experiments.measures import calibration_error, centred_kernel_alignment, margins
from kdlib.experiments.methods import METHODS
from kdlib.experiments.runs import ImageTask
from kdlib.kernels.finite.gram import empirical_ntk
from kdlib.labels.loss import DistillationLoss
from kdlib.tools.provenance import code_hash, reached
from kdlib.training.loop import Paused, train
from kdlib.training.recipe import Recipe

TASK = ImageTask("fashion-mnist", 128, 60, 50, noise=0.25)
RECIPE = {"epochs": 4, "batch_size": 32}


@pytest.fixture(scope="module")
def loaded():
    return TASK.load()


@pytest.fixture(scope="module")
def made(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, runs.students(
        loaded, teacher_network="perceptron", teacher_recipe=RECIPE, network="perceptron", recipe=RECIPE,
        methods=METHODS, stops=[0.5],
        temperatures=[1.0, 4.0], soft_ratios=[1.0], temperature_scaling="squared", seed=1, stages=2, folder=folder,
        progress=False,
    )  # fmt: skip


def test_noise_is_drawn_once_for_all_labels_that_choose_something(loaded):
    clean = ImageTask("fashion-mnist", 128, 60, 50).load()
    assert 0.1 < np.mean(loaded.labels != loaded.dataset.train.labels) < 0.4
    assert 0.1 < np.mean(loaded.dataset.validation.labels != clean.dataset.validation.labels) < 0.4
    np.testing.assert_array_equal(loaded.dataset.test.labels, clean.dataset.test.labels)
    np.testing.assert_array_equal(TASK.load().labels, loaded.labels)


def test_every_way_of_supervision(made):
    _, (teacher, students) = made
    more = {"stopped": [(0.5,)], "repeat": [(0, 0), (0, 1)]}
    expected = [(m, t, 1.0, *rest) for m in METHODS[1:] for t in (1.0, 4.0) for rest in more.get(m, [()])]
    assert list(students) == [("baseline", 1.0, 0.0), *expected]
    rows = {key: student.row for key, student in students.items()}
    last = teacher.trained.steps[-1]
    assert rows["offline", 1.0, 1.0]["teacher"] == f"{teacher.row['run']}@{last}"
    assert rows["online", 4.0, 1.0]["teacher"].endswith("@all")
    assert rows["self", 1.0, 1.0]["teacher"] == f"{rows['baseline', 1.0, 0.0]['run']}@{last}"
    assert rows["early-stopped", 1.0, 1.0]["teacher_step"] in teacher.trained.steps
    assert all(0 <= row["fidelity"] <= 1 and row["data"] == "fashion-mnist" and row["code"] for row in rows.values())
    assert rows["stopped", 1.0, 1.0, 0.5]["teacher_step"] == last // 2
    assert {row["seed"] for row in rows.values()} == {1}  # by which contrasts pair them
    starts = {key: student.trained.variables(0)["params"]["Dense_0"]["kernel"] for key, student in students.items()}
    same = {key for key, start in starts.items() if np.array_equal(start, starts["baseline", 1.0, 0.0])}
    repeats = {("repeat", t, 1.0, 0, half) for t in (1.0, 4.0) for half in (0, 1)}
    assert set(starts) - same == repeats
    assert not np.array_equal(starts["repeat", 1.0, 1.0, 0, 0], starts["repeat", 1.0, 1.0, 0, 1])
    assert [(row["pair"], row["half"]) for key, row in rows.items() if key[:2] == ("repeat", 4.0)] == [(0, 0), (0, 1)]


def test_what_a_checkpoint_says_is_computed_once(made, loaded):
    """Students on images as they are share its logits; two checkpoints teach (the baseline is the teacher again)."""
    folder, (teacher, students) = made
    kept = [np.load(path) for path in (folder / "teacher-logits").glob("*.npy")]
    assert len(kept) == 2
    said = teacher.trained.logits(loaded.dataset.train.images)
    assert sum(np.array_equal(said, logits) for logits in kept) == 1
    offline = students["offline", 1.0, 1.0]
    named, _, _ = runs.supervision("offline", teacher, loaded.dataset)
    recipe = Recipe(**RECIPE, seed=1, loss=DistillationLoss(1.0, 1.0, "squared"))
    again = train(offline.trained.network, recipe, loaded.dataset.train.images, loaded.labels, teacher=named)
    np.testing.assert_array_equal(again.history, offline.trained.history)  # as without a folder


def test_accuracy_and_fidelity_on_training_images(made, loaded):
    _, (teacher, students) = made
    images, labels = loaded.dataset.train.images, loaded.labels
    student = students["offline", 4.0, 1.0]
    said, told = student.trained.logits(images).argmax(1), teacher.trained.logits(images).argmax(1)
    assert student.row["train_accuracy"] == np.mean(said == labels)
    assert student.row["train_fidelity"] == np.mean(said == told)


def test_a_share_that_the_teacher_has_not_kept_is_refused(made, loaded):
    _, (teacher, _) = made
    with pytest.raises(ValueError, match=r"no checkpoint after 0\.3"):
        runs.supervision("stopped", teacher, loaded.dataset, share=0.3)


def test_a_run_ends_in_time_and_goes_on(loaded, tmp_path, monkeypatch):
    arguments = ("one", loaded, "perceptron", Recipe(**RECIPE), tmp_path)
    monkeypatch.setenv("KDLIB_UNTIL", "1")
    with pytest.raises(Paused, match="step 1 of 16"):
        runs.run(*arguments, progress=False)
    monkeypatch.delenv("KDLIB_UNTIL")
    paused = runs.run(*arguments, progress=False)
    whole = runs.run(*arguments[:-1], tmp_path / "whole", progress=False)
    assert paused.row["test_cross_entropy"] == whole.row["test_cross_entropy"]


def test_a_baseline_is_compared_with_the_teacher_at_hand(made, loaded):
    folder, (teacher, students) = made
    other, again = runs.students(
        loaded, teacher_network="convolutional-small", teacher_recipe=RECIPE, network="perceptron", recipe=RECIPE,
        methods=["baseline", "self"], temperatures=[1.0], soft_ratios=[1.0], temperature_scaling="squared", seed=1,
        stages=2, folder=folder, progress=False,
    )  # fmt: skip
    for key in (("baseline", 1.0, 0.0), ("self", 1.0, 1.0)):
        mine, theirs = again[key].row, students[key].row
        assert mine["run"] == theirs["run"]  # not trained twice
        assert (mine["teacher_network"], theirs["teacher_network"]) == ("convolutional-small", "perceptron")
        assert mine["teacher_accuracy"] == other.row["test_accuracy"]


def test_a_run_that_has_ended_is_read(made, loaded, monkeypatch):
    folder, (teacher, _) = made
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("trained again"))
    arguments = ("teacher-perceptron-1", loaded, "perceptron", Recipe(**RECIPE, seed=1), folder)
    again = runs.run(*arguments, keep=[0.5], columns={"role": "teacher", "method": "baseline"})
    assert again.row == teacher.row
    with pytest.raises(pytest.fail.Exception):
        runs.run(*arguments, keep=[0.25])
    with pytest.raises(ValueError, match="float32"):
        runs.run(*arguments[:3], Recipe(**RECIPE, precision="float64"), folder)


def test_complexity_along_a_training(made, loaded, monkeypatch):
    _, (teacher, students) = made
    chosen = [students["offline", 1.0, 1.0], students["online", 1.0, 1.0]]
    found = along.complexity_along(chosen, teacher, loaded, points=20, progress=False)
    assert len(found) == 2 * 3 * 2 * 4 and {row["share"] for row in found} == {0, 0.5, 1}
    of = {(row["method"], row["share"], row["kernel"], row["target"]): row for row in found}
    assert [of["online", share, "own", "labels"]["teacher_step"] for share in (0, 0.5, 1)] == [8, 8, 16]
    assert of["online", 1, "own", "online"]["adjusted"] == of["online", 1, "own", "offline"]["adjusted"]
    assert of["offline", 0, "own", "labels"]["adjusted"] == of["online", 1, "initial", "labels"]["adjusted"]
    assert all(0 < row["kernel_alignment"] <= 1 for row in found)
    # the same number as the library's own, by a slower way: an error of 1e-8 would be noticed
    images, labels = loaded.dataset.train.images[:20], loaded.labels[:20]
    student = students["online", 1.0, 1.0].trained
    gram = empirical_ntk(student.network, student.variables(8), images, dtype=np.float64, progress=False)
    ridge = 1e-3 * np.mean(np.einsum("icic->ic", gram))
    expected = supervision_complexity(gram, np.eye(10)[labels] - 0.1, ridge=ridge).adjusted
    assert of["online", 0.5, "own", "labels"]["adjusted"] == pytest.approx(expected, rel=1e-8)
    assert along.complexity_along(chosen, teacher, loaded, points=20, progress=False) == found  # read
    other = replace(teacher, row={**teacher.row, "run": "teacher-of-another-name-123"})
    with monkeypatch.context() as patched:  # a student of the labels has rows of its own for each teacher
        patched.setattr(along, "_rows", lambda *_: [])
        assert along.complexity_along(chosen, other, loaded, points=20, progress=False) == []
    for path in student.folder.glob("complexity-*.json"):
        path.unlink()
    kernels = sorted(teacher.trained.folder.glob("kernel-*.npy"))
    assert len(kernels) == 2  # of the teacher's two stages
    monkeypatch.setattr(along, "empirical_ntk", of_students_only := Mock(wraps=empirical_ntk))
    again = along.complexity_along(chosen, teacher, loaded, points=20, progress=False)
    assert [row["kernel_alignment"] for row in again] == [row["kernel_alignment"] for row in found]
    assert all("outputs" not in call.kwargs for call in of_students_only.call_args_list)
    with pytest.raises(ValueError, match="not this teacher"):
        along.complexity_along([students["self", 1.0, 1.0]], teacher, loaded, points=20, progress=False)


def test_a_run_depends_on_the_code_that_it_runs_through():
    names = {str(path.relative_to(path.parents[1])) for path in reached(runs.CODE)}
    assert {
        "training/loop.py",
        "labels/loss.py",
        "training/networks.py",
        "data/images.py",
        "experiments/runs.py",
    } <= names
    assert not {"labels/effective.py", "ledger/checks.py", "experiments/along.py", "complexity/supervision.py"} & names
    assert code_hash(runs.CODE) != code_hash(along.CODE)


def test_measures_on_cases_with_known_answers():
    logits = np.log(np.array([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.2, 0.8]]))
    np.testing.assert_allclose(calibration_error(logits, [0, 0, 0, 0, 1]), 0.2)
    np.testing.assert_allclose(calibration_error(logits, [0, 0, 0, 1, 1]), 0, atol=1e-12)
    np.testing.assert_allclose(margins(logits, [0, 0, 0, 0, 0]), np.log(4) * np.array([1, 1, 1, 1, -1]))
    x = np.random.default_rng(0).normal(size=(9, 4))
    np.testing.assert_allclose(centred_kernel_alignment(x @ x.T, 3 * x @ x.T + 5), 1)
    y = np.random.default_rng(1).normal(size=(9, 4))
    assert 0 < centred_kernel_alignment(x @ x.T, y @ y.T) < 0.9
    with pytest.raises(ValueError, match="constant"):
        centred_kernel_alignment(np.ones((3, 3)), np.eye(3))


@pytest.mark.parametrize("wrong", [dict(train_examples=0), dict(test_examples=1.5), dict(noise=1.0)])
def test_tasks_are_checked(wrong):
    with pytest.raises((ValueError, TypeError)):
        ImageTask(**{**dict(data="x", train_examples=1, validation_examples=1, test_examples=1), **wrong})
