"""What the experiments ask, written down before they run: `workflow/experiments.yaml`, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from kdlib.tools.provenance import ROOT

PLAN = ROOT / "workflow" / "experiments.yaml"
TABLES = ("runs", "along", "terms")
CASE = ("data", "noise", "teacher_network", "network")


@dataclass(frozen=True)
class Contrast:
    """A difference of two kinds of rows.

    Attributes
    ----------
    experiment, name
        the experiment's id, and what is compared, as a sentence that the effect answers.
    metric, first, second
        a column, and the values by which the rows of each kind are known: the effect is first less second.
    sign
        1 if an increase counts for the claim, -1 if a decrease does; 0 for a null experiment, where nothing should be
        seen.
    smallest
        the effect that the design was made to see, in the metric's unit times `times`.
    times
        what the metric is multiplied by: 100 makes points of accuracies.
    claims
        numbers of the papers' claims that it bears on.
    by
        columns that tell cases apart; each case is a contrast of its own.
    table, rows_of
        where the rows are: "runs", "along" or "terms", and the experiment whose rows they are, if it is not this one.
    where_named
        asked only where the rows of `runs` name their experiment: elsewhere it would be another one's contrast again.
    """

    experiment: str
    name: str
    metric: str
    first: dict[str, Any]
    second: dict[str, Any]
    sign: int
    smallest: float
    times: float = 100.0
    claims: tuple[int, ...] = ()
    by: tuple[str, ...] = CASE
    table: str = "runs"
    rows_of: str = ""
    where_named: bool = False

    @property
    def unit(self) -> str:
        """Of its differences."""
        return "points" if self.times == 100 else "natural logarithms"


@dataclass(frozen=True)
class Experiment:
    """An experiment of the campaign: its id, title, question and contrasts."""

    id: str
    title: str
    question: str
    contrasts: tuple[Contrast, ...]


@lru_cache
def experiments(path: Path | None = None) -> dict[str, Experiment]:
    """`{id: Experiment}` of the plan (by default the repository's); ValueError with all that is wrong in it."""
    path = PLAN if path is None else path
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    errors = sorted(Draft202012Validator(_SCHEMA).iter_errors(content), key=lambda error: list(map(str, error.path)))
    if errors:
        lines = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]
        raise ValueError("\n".join([f"{path.name} is not a plan of experiments:", *lines]))
    found = {}
    for name, entry in content.items():
        contrasts = [
            Contrast(name, **{**fields, "claims": tuple(fields.get("claims", ())), "by": tuple(fields.get("by", CASE))})
            for fields in entry["contrasts"]
        ]
        found[name] = Experiment(name, entry["title"], entry["question"], tuple(contrasts))
    return found


_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "patternProperties": {
        "^X[0-9]+$": {
            "type": "object",
            "additionalProperties": False,
            "required": ["title", "question", "contrasts"],
            "properties": {
                "title": {"type": "string"},
                "question": {"type": "string"},
                "contrasts": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "metric", "first", "second", "sign", "smallest"],
                        "properties": {
                            "name": {"type": "string"},
                            "metric": {"type": "string"},
                            "first": {"type": "object"},
                            "second": {"type": "object"},
                            "sign": {"enum": [-1, 0, 1]},
                            "smallest": {"type": "number", "exclusiveMinimum": 0},
                            "times": {"type": "number", "exclusiveMinimum": 0},
                            "claims": {"type": "array", "items": {"type": "integer"}},
                            "by": {"type": "array", "items": {"type": "string"}},
                            "table": {"enum": list(TABLES)},
                            "rows_of": {"type": "string"},
                            "where_named": {"type": "boolean"},
                        },
                    },
                },
            },
        }
    },
    "additionalProperties": False,
}
