"""What the campaign of a scale consists of: teachers, students and kernels, each a notebook with its parameters.

`nodes(scale)` reads the `campaign` section of `workflow/scales/SCALE.yaml`; the Snakefile makes rules of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from kdlib.tools.files import write_whole
from workflow import keys

ROOT = Path(__file__).resolve().parent.parent
SCALES = ROOT / "workflow" / "scales"
SCHEMA = SCALES / "schema.yaml"
NOTEBOOKS = {"teacher": "experiments_teacher", "student": "experiments_student", "complexity": "experiments_complexity"}
TABLES = {"runs": ("teacher", "student"), "along": ("complexity",)}  # of the rows of which nodes
# What a node computes is in these modules; the rest of its notebook shows it.
COMPUTED_BY = {
    "teacher": "kdlib.experiments.runs",
    "student": "kdlib.experiments.runs",
    "complexity": "kdlib.experiments.along",
}


@dataclass(frozen=True)
class Node:
    """One notebook run.

    Attributes
    ----------
    kind, key
        "teacher", "student" or "complexity", and a name that is unique among them.
    parameters
        of the notebook, but for `folder` and `rows`.
    needs
        `(kind, key)` of the nodes before it.
    trainings
        `(network, epochs times examples)` of each training in it; the teacher's own not in a student's.
    experiment
        the id of the experiment that it belongs to, a column of its rows; empty where the scale names none. A training
        that two experiments ask for is done once.
    """

    kind: str
    key: str
    parameters: dict
    needs: tuple = ()
    trainings: tuple = field(default=())
    experiment: str = ""

    @property
    def family(self) -> str:
        """The experiment's id without what tells its parts apart: X2 of "X2-noisy"."""
        return self.experiment.partition("-")[0]


@lru_cache
def read(scale: str) -> dict:
    """The scale's file, whole, checked against `scales/schema.yaml`; ends the process with what is wrong in it."""
    path = SCALES / f"{scale}.yaml"
    if not path.exists() or path == SCHEMA:
        scales = sorted(other.stem for other in SCALES.glob("*.yaml") if other != SCHEMA)
        raise SystemExit(f"no scale {scale!r}: choose from {', '.join(scales)}")
    content, schema = yaml.safe_load(path.read_text()), yaml.safe_load(SCHEMA.read_text())
    schema["propertyNames"] = {"enum": ["campaign", *keys.pages()]}
    errors = sorted(_errors(content, schema), key=lambda error: list(map(str, error.path)))
    if errors:
        lines = [f"  {'.'.join(map(str, error.absolute_path)) or 'the file'}: {error.message}" for error in errors]
        raise SystemExit("\n".join([f"workflow/scales/{scale}.yaml is not a scale:", *lines]))
    return content or {}


def _errors(content, schema: dict):
    """What is wrong in a scale's file; each experiment is checked with what it shares with the others."""
    shared = (content or {}).get("campaign")
    if not isinstance(shared, dict) or not isinstance(shared.get("experiments"), dict):
        return list(Draft202012Validator(schema).iter_errors(content))
    campaign = schema["properties"]["campaign"]
    loose = {**campaign, "required": ["experiments"]}
    schema = {**schema, "properties": {"campaign": loose}}
    errors = list(Draft202012Validator(schema).iter_errors(content))
    for name, own in shared["experiments"].items():
        merged = {"type": "object", "properties": {name: campaign}, "$defs": schema["$defs"]}
        if isinstance(own, dict):
            part = {key: value for key, value in {**shared, **own}.items() if key != "experiments"}
            errors += Draft202012Validator(merged).iter_errors({name: part})
    return errors


def parts(scale: str) -> dict[str, dict]:
    """The campaign's experiments: `{id: fields}`; one without an id where the scale names none."""
    shared = read(scale).get("campaign") or {}
    if "experiments" not in shared:
        return {"": shared} if shared else {}
    rest = {key: value for key, value in shared.items() if key != "experiments"}
    return {name: {**rest, **own} for name, own in shared["experiments"].items()}


def nodes(scale: str, places: dict[str, str] | None = None, *, on_gpu: bool = False) -> list[Node]:
    """All nodes of a scale, experiment by experiment. `places` says where a task's data are, if not where its name
    says: `{name: path}`. PyTorch is for machines without a GPU: `on_gpu`, JAX trains instead."""
    found, teachers = [], {}
    for name, fields in parts(scale).items():
        fields = {**fields, "engine": "jax"} if on_gpu else fields
        found += _nodes(name, fields, places or {}, teachers)
    return found


def _nodes(experiment: str, campaign: dict, places: dict[str, str], teachers: dict[str, tuple]) -> list[Node]:
    """Of one experiment. `teachers` has the nodes that others have made, by their parameters: two jobs at one training
    would wait for each other.
    """
    found, prefix = [], f"{experiment}." if experiment else ""
    variants = len(campaign["temperatures"]) * len(campaign["soft_ratios"])
    stops = campaign.get("stops", [])
    repeats = campaign.get("repeats", 1)
    times = {"baseline": 0, "stopped": len(stops), "repeat": 2 * repeats}
    count = ("baseline" in campaign["methods"]) + variants * sum(times.get(name, 1) for name in campaign["methods"])
    for task_name, task in campaign["tasks"].items():
        points = task.get(
            "points", campaign["points"]
        )  # fewer where there are many classes: kernels are of all outputs
        task = {name: value for name, value in task.items() if name != "points"}
        task["data"] = places.get(task["data"], task["data"])
        for teacher, teacher_recipe in campaign["teachers"].items():
            teacher_recipe = _of_task(teacher_recipe, task_name)
            for seed in campaign["seeds"]:
                about = {
                    "task": task, "seed": seed, "stages": campaign["stages"], "engine": campaign.get("engine", "jax"),
                }  # fmt: skip
                first = ("teacher", f"{prefix}{task_name}.{teacher}.{seed}")
                amount = teacher_recipe["epochs"] * task["train_examples"]
                given = {**about, "network": teacher, "recipe": teacher_recipe}
                who = json.dumps(given, sort_keys=True)
                if who not in teachers:
                    found.append(Node(*first, given, (), ((teacher, amount),), experiment))
                first = teachers.setdefault(who, first)
                for student, mark, recipe in _recipes(campaign["students"], task_name):
                    key = f"{prefix}{task_name}.{teacher}.{student}{mark}.{seed}"
                    common = {
                        **about, "teacher_network": teacher, "teacher_recipe": teacher_recipe, "network": student,
                        "recipe": recipe, "temperatures": campaign["temperatures"],
                        "soft_ratios": campaign["soft_ratios"],
                        "temperature_scaling": campaign["temperature_scaling"],
                    }  # fmt: skip
                    trainings = ((student, recipe["epochs"] * task["train_examples"]),) * count
                    own = {**common, "methods": campaign["methods"], "stops": stops, "repeats": repeats}
                    found.append(Node("student", key, own, (first,), trainings, experiment))
                    if not campaign["along"]:
                        continue
                    found.append(
                        Node(
                            "complexity", key,
                            {**common, "methods": campaign["along"], "points": points, "ridge": campaign["ridge"]},
                            (first, ("student", key)), (), experiment,
                        )
                    )  # fmt: skip
    return found


def save_places(scale: str, entries: list[str]) -> dict[str, str]:
    """Check `NAME=PATH` entries and keep them for the Snakefile, with what tells whether those data have changed.

    What earlier calls have kept holds until it is said anew; `NAME=` forgets it.
    """
    names = {task["data"] for fields in parts(scale).values() for task in fields["tasks"].values()}
    given = {name: path for name, path in saved_places(scale)[0].items() if name in names}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or name not in names:
            raise SystemExit(f"DATA must be NAME=PATH with NAME one of {', '.join(sorted(names))}, not {entry!r}")
        given[name] = path
    places, states = {}, {}
    for name, path in given.items():
        if not path:
            continue
        where = Path(path).expanduser().resolve()
        if not where.exists():
            raise SystemExit(f"DATA: there is nothing at {where}; say where {name} is, or forget it by {name}=")
        files = [where] if where.is_file() else [file for file in where.rglob("*") if file.is_file()]
        latest = max((file.stat().st_mtime for file in files), default=0)
        places[name], states[name] = str(where), f"{len(files)} files, the newest of {latest}"
    kept = ROOT / "_build" / scale / "places.json"
    write_whole(kept, json.dumps({"places": places, "states": states}))
    return places


def saved_places(scale: str) -> tuple[dict, dict]:
    """What `save_places` has kept: `({name: path}, {name: state of the files})`."""
    kept = ROOT / "_build" / scale / "places.json"
    found = json.loads(kept.read_text()) if kept.exists() else {"places": {}, "states": {}}
    return found["places"], found["states"]


def _recipes(students: dict, task_name: str):
    """`(student, mark, recipe)`: one for each learning rate where a student has a list of them, told by its mark."""
    for student, recipe in students.items():
        recipe = _of_task(recipe, task_name)
        rates = recipe.get("learning_rate")
        if isinstance(rates, list):
            for rate in rates:
                yield student, f"-{rate:g}", {**recipe, "learning_rate": rate}
        else:
            yield student, "", recipe


def _of_task(recipe, task_name):
    """A recipe, with what it says for this task only (under `tasks`) put in its place."""
    own = recipe.get("tasks", {}).get(task_name, {})
    return {name: value for name, value in {**recipe, **own}.items() if name != "tasks"}
