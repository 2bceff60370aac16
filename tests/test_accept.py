"""Finished trainings are kept over a change of code only where a repeat comes out the same to the bit."""

import json

import pytest

from kdlib.experiments import runs
from kdlib.tools.files import unsealed
from kdlib.tools.provenance import code_hash
from kdlib.training.recipe import Recipe
from workflow.accept import accept

TASK = runs.ImageTask("fashion-mnist", 128, 60, 50)
RECIPE = {"epochs": 2, "batch_size": 32}


@pytest.fixture
def old_runs(tmp_path, monkeypatch):
    """A teacher and two students of code that is not today's."""
    monkeypatch.setattr(runs, "code_hash", lambda *_: "of-old")
    runs.students(
        TASK.load(), teacher_network="perceptron", teacher_recipe=RECIPE, network="perceptron", recipe=RECIPE,
        methods=["baseline", "offline"], temperatures=[1.0], soft_ratios=[1.0], temperature_scaling="none", seed=0,
        stages=2,
        folder=tmp_path, progress=False,
    )  # fmt: skip
    monkeypatch.undo()
    return tmp_path


def rows(folder):
    return {row["method"] + row["role"]: row for row in contents(folder, "row")}


def contents(folder, part):
    return [json.loads(path.read_text())[part] for path in folder.glob("*/run.json")]


def load(columns):
    return runs.ImageTask(**columns).load()


def test_what_comes_out_the_same_is_kept_and_names_both_hashes(old_runs, monkeypatch):
    assert set(accept(old_runs, load).values()) == {(1, 0)}
    kept, today = rows(old_runs), code_hash(runs.CODE)
    assert {(row["code"], row["trained_with"]) for row in kept.values()} == {(today, "of-old")}
    assert kept["offlinestudent"]["teacher"].startswith(kept["baselineteacher"]["run"] + "@")
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("trained again"))
    runs.students(
        TASK.load(), teacher_network="perceptron", teacher_recipe=RECIPE, network="perceptron", recipe=RECIPE,
        methods=["baseline", "offline"], temperatures=[1.0], soft_ratios=[1.0], temperature_scaling="none", seed=0,
        stages=2,
        folder=old_runs, progress=False,
    )  # fmt: skip
    assert accept(old_runs, load) == {}


def test_a_long_training_is_repeated_in_part(tmp_path, monkeypatch):
    """Its rows say so; and a change that shows only later goes unnoticed, which is what it costs."""
    monkeypatch.setattr("workflow.accept.LONG", 0.0)
    folder = tmp_path / "long"
    monkeypatch.setattr(runs, "code_hash", lambda *_: "of-old")
    runs.run(
        "one", TASK.load(), "perceptron", Recipe(**RECIPE), folder, keep=[0.25, 0.5],
        columns={"role": "teacher", "method": "baseline"}, progress=False,
    )  # fmt: skip
    monkeypatch.setattr(runs, "code_hash", code_hash)
    assert list(accept(folder, load).values()) == [(1, 0)]
    assert contents(folder, "row")[0]["repeated"] == 0.5


def test_checkpoints_from_before_the_seal_are_the_same(old_runs):
    for path in old_runs.glob("*/checkpoints/*.msgpack"):
        path.write_bytes(unsealed(path, path.read_bytes()))
    assert set(accept(old_runs, load).values()) == {(1, 0)}


def test_what_comes_out_differently_is_left_alone_with_all_that_it_taught(old_runs):
    (teacher,) = (path.parent for path in old_runs.glob("teacher-*/run.json"))
    first = min((teacher / "checkpoints").glob("*.msgpack"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    first.write_bytes(content)
    results = {kind[0] + kind[2]: counts for kind, counts in accept(old_runs, load).items()}
    assert results == {"teacherbaseline": (0, 1), "studentoffline": (0, 1), "studentbaseline": (1, 0)}
    assert rows(old_runs)["offlinestudent"]["code"] == "of-old"
