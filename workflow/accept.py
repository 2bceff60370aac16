"""Keep finished trainings over a change of code that has no effect on them: `make accept SCALE=...`.

One training of each kind is repeated with today's code; a kind is all trainings with the same network, way of
supervision, recipe (with its loss) and images, whatever their seed. If every checkpoint and every mean loss comes out
the same to the bit, all finished trainings of that kind are kept: their folders are renamed to what today's code asks
for, and their rows name both hashes, `code` (today's) and `trained_with`. A training that took more than `LONG` seconds
is repeated up to its second checkpoint only, and the rows of its kind say up to which share (`repeated`). A kind that
comes out differently is not kept, nor are its students: `make reproduce` trains them again. Trainings on one core are
repeated on one, since sums come out differently on several. It can be killed at any point; what was kept by then is.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.experiments import runs
from kdlib.labels.loss import DistillationLoss
from kdlib.tools.files import unsealed, write_whole
from kdlib.tools.provenance import ROOT, code_hash
from kdlib.training.checkpoints import SavedCheckpoints
from kdlib.training.loop import Paused, Trained, train
from kdlib.training.recipe import Recipe
from workflow import plan

LONG = 300.0
Kind = tuple[str, str, str, str]  # role, network, method, and what else was asked for, but the seed, as JSON


def accept(folder: Path, load: Callable[[dict[str, Any]], runs.LoadedTask]) -> dict[Kind, tuple[int, int]]:
    """Keep what can be kept of the finished runs in `folder`.

    Parameters
    ----------
    folder
        where runs are.
    load
        from the columns of a task to its images.

    Returns
    -------
    `{kind: (runs kept, runs not kept)}`.
    """
    today = code_hash(runs.CODE)
    found = [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*/run.json")]
    old = [
        entry
        for entry in found
        if entry[1]["asked"]["code"] != today
        and entry[1]["asked"]["versions"] == runs.versions(entry[1]["asked"].get("engine", "jax"))
    ]
    old.sort(key=lambda entry: (_depth(entry[1]["asked"], found), entry[0].name))  # a teacher before its students
    names = {place.name: place.name for place, content in found if content["asked"]["code"] == today}
    same: dict[Kind, float] = {}
    kept: dict[Kind, tuple[int, int]] = {}
    for place, content in old:
        kind = _kind(content)
        teacher, _, stage = content["asked"]["teacher"].partition("@")
        if (not teacher or teacher in names) and kind not in same:
            same[kind] = _repeats(place, content, folder / names.get(teacher, ""), stage, load)
        share = same.get(kind, 0.0)
        good = share > 0 and (not teacher or teacher in names)
        if good:
            content["row"]["repeated"] = share
            names[place.name] = _rename(place, content, today, f"{names[teacher]}@{stage}" if teacher else "")
        done, left = kept.get(kind, (0, 0))
        kept[kind] = (done + good, left + (not good))
    return kept


def _kind(content: dict[str, Any]) -> Kind:
    row, asked = content["row"], content["asked"]
    recipe = {name: value for name, value in asked["recipe"].items() if name != "seed"}
    rest = {"recipe": recipe, "task": asked["task"], "data": asked["data"], "keep": asked["keep"]}
    return row["role"], row["network"], row["method"], json.dumps(rest, sort_keys=True)


def _depth(asked: dict[str, Any], found: list[tuple[Path, dict[str, Any]]]) -> int:
    """How many teachers stand behind a run."""
    teacher = asked["teacher"].partition("@")[0]
    above = next((content["asked"] for place, content in found if place.name == teacher), None)
    return 0 if above is None else 1 + _depth(above, found)


def _repeats(
    place: Path, content: dict[str, Any], teacher: Path, stage: str, load: Callable[[dict[str, Any]], runs.LoadedTask]
) -> float:
    """The share of this run that today's code has trained to the same bits; zero if they differ."""
    asked = {"engine": "jax", **content["asked"]}
    loaded = load(asked["task"])
    fields = asked["recipe"]
    recipe = Recipe(**{**fields, "loss": DistillationLoss(**fields["loss"]) if fields["loss"] else None})
    before = runs.read_finished(place, loaded.dataset).trained
    supervisor = runs.teacher_at(runs.read_finished(teacher, loaded.dataset).trained, stage) if stage else None
    print(f"{place.name}: repeating", flush=True)
    kept = [step for step in before.steps if step]
    limit = kept[min(1, len(kept) - 1)] if content["row"]["seconds"] > LONG else kept[-1]
    with tempfile.TemporaryDirectory() as again:
        images, labels = loaded.dataset.train.images, loaded.labels
        try:
            after = train(
                before.network, recipe, images, labels, folder=again, teacher=supervisor, keep=asked["keep"],
                engine=asked["engine"], pause=lambda step: step == limit,
            )  # fmt: skip
        except Paused:
            pass
        else:
            if before.steps != after.steps or not np.array_equal(before.history, after.history):
                return 0.0
        for step in before.steps:
            if step <= limit:
                saved = _checkpoint(before, step)
                repeated = Path(again) / "checkpoints" / saved.name
                if _content(repeated) != _content(saved):
                    return 0.0
    return limit / kept[-1]


def _content(path: Path) -> bytes | None:
    """Without the seal, which older files lack; nothing, which equals no content, of a damaged one."""
    try:
        return unsealed(path, path.read_bytes())
    except ValueError:
        return None


def _checkpoint(trained: Trained, step: int) -> Path:
    assert isinstance(trained.checkpoints, SavedCheckpoints)
    return trained.checkpoints.path(step)


def _rename(place: Path, content: dict[str, Any], today: str, teacher: str) -> str:
    """Give a run the folder that today's code asks for; return its new name.

    The folder is renamed before its record is: killed in between, `run` still finds it, and the next call ends the
    work.
    """
    asked = {"engine": "jax", **content["asked"], "code": today, "teacher": teacher}
    name = f"{place.name.rpartition('-')[0]}-{runs.mark(asked)}"
    new = place.with_name(name)
    if new != place:
        if new.exists():  # trained again already
            return name
        with open(place / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # not while somebody reads it
            place.rename(new)
    row = {**content["row"], "run": name, "teacher": teacher, "code": today}
    write_whole(new / "run.json", json.dumps({**content, "asked": asked, "row": row}, indent=1))
    return name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="quick")
    options = parser.parse_args()
    places, loaded_tasks = plan.saved_places(options.scale)[0], {}

    def load(columns: dict[str, Any]) -> runs.LoadedTask:
        key = json.dumps(columns, sort_keys=True)
        if key not in loaded_tasks:
            data = places.get(columns["data"], columns["data"])
            loaded_tasks[key] = runs.ImageTask(**{**columns, "data": data}).load()
        return loaded_tasks[key]

    folder = ROOT / "_build" / options.scale / "runs"
    cores = [json.loads(path.read_text(encoding="utf-8"))["row"]["cores"] for path in folder.glob("*/run.json")]
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: max(1, int(min(cores)))])
    results = accept(folder, load)
    if not results:
        sys.exit(f"no finished training of the scale {options.scale!r} is of other code and the same packages")
    for (role, network, method, rest), (kept, left) in results.items():
        print(f"{role:<8}{network:<22}{method:<14}{json.loads(rest)['recipe']['loss'] or ''} kept {kept}, not {left}")
