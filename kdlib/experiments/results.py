"""Small tables of results: saved by a run with their provenance, committed for readers who cannot repeat it.

The campaign (`make reproduce`) leaves `runs` (one row a training) and `along` (one row a kernel). A chapter saves a
table in its records folder; `make results SCALE=standard` copies a scale's tables to `results/standard/`, from where
`published` reads them back, whoever ran them and wherever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdlib.experiments.methods import COMPARED
from kdlib.tools.files import read_rows, records_folder, write_rows
from kdlib.tools.provenance import ROOT, code_hash, device_name, provenance

Rows = Sequence[Mapping[str, Any]]
RUNS = "kdlib.experiments.runs"  # whose code a row of the table `runs` depends on


def save(name: str, rows: Rows) -> None:
    """Write `rows`, dictionaries with the same keys, as `<name>.csv` of the records folder; adds device and
    versions.
    """
    rows = [{**row, "device": device_name(), **provenance()} for row in rows]
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"{name}: a table needs one row at least, and the same columns in every row")
    write_rows(records_folder() / f"{name}.csv", rows)


def published(name: str, scale: str) -> list[dict[str, str]]:
    """The committed table of a scale: a list of dictionaries of strings, empty where nobody has published it."""
    path = ROOT / "results" / scale / f"{name}.csv"
    if not path.exists():
        return []
    return read_rows(path)


def campaign(name: str, scale: str) -> list[dict[str, Any]]:
    """A table of the campaign: this machine's, if it has run the scale, else the published one, else empty.

    Values that are numbers are floats; empty ones are None.
    """
    fresh = ROOT / "_build" / scale / "records" / f"{name}.csv"
    rows = read_rows(fresh) if fresh.exists() else published(name, scale)
    return [{column: _value(column, text) for column, text in row.items()} for row in rows]


def other_code(rows: Rows) -> list[str]:
    """The hashes of code, other than today's, that a campaign's rows were made with; empty if they are up to date."""
    return sorted({row["code"] for row in rows} - {code_hash(RUNS)})


def by_variant(rows: Rows, metric: str) -> dict[tuple, dict[tuple, dict[float, float]]]:
    """The students of the table `runs`, of the methods `COMPARED`, sorted.

    Returns
    -------
    `{(data, noise, teacher, student): {(method, temperature, soft_ratio): {seed: metric}}}`, the baseline's key being
    `("baseline", 1.0, 0.0)`.
    """
    found = {}
    for row in rows:
        if row["role"] == "student" and row["method"] in COMPARED:
            case = tuple(row[column] for column in ("data", "noise", "teacher_network", "network"))
            variant = row["method"], row["temperature"], row["soft_ratio"]
            found.setdefault(case, {}).setdefault(variant, {})[row["seed"]] = row[metric]
    order = lambda variant: (COMPARED.index(variant[0]), *variant[1:])
    return {case: {v: found[case][v] for v in sorted(found[case], key=order)} for case in sorted(found, key=str)}


def differences(first: Mapping[float, float], second: Mapping[float, float]) -> np.ndarray:
    """`(seeds,)` points, 100 times `first - second`, of the seeds that both `{seed: accuracy}` have."""
    return 100 * np.array([first[seed] - second[seed] for seed in sorted(first) if seed in second])


def online_against_offline(runs: Rows, along: Rows) -> list[dict[str, Any]]:
    """Online less offline students of a campaign (N3), seed by seed.

    Parameters
    ----------
    runs, along
        the tables `runs` and `along`.

    Returns
    -------
    A dictionary for each data set, teacher, student, temperature and soft ratio, with `(seeds,)` arrays: `gain` in
    accuracy (points); `growth`, log of the adjusted complexity of the online supervision at the end over that at the
    end of the first stage; `fixed`, the same of the offline supervision, whose answers do not change; `saved`, log of
    the offline supervision's complexity over the online one's, mean of the stages. Each under the student's own kernel;
    `_per_size`: with the root mean square of the supervision divided out.
    """
    shares = {}
    for row in along:
        if row["share"]:
            shares.setdefault(row["run"], set()).add(row["share"])
    along = [
        {
            **row, "stage": sorted(shares[row["run"]]).index(row["share"]) - len(shares[row["run"]]),  # -1 is the last
            "first": row["share"] == min(shares[row["run"]]), "log": float(np.log(row["adjusted"])),
            "log_per_size": float(np.log(row["adjusted_per_size"])),
        }
        for row in along if row["share"]
    ]  # fmt: skip
    by = ("data", "noise", "teacher_network", "network", "soft_ratio")
    stages, found = sorted({row["stage"] for row in along}), []
    for temperature in sorted({row["temperature"] for row in runs if row["method"] == "online"}):
        online, offline = ({"method": method, "temperature": temperature} for method in ("online", "offline"))
        gain = paired(runs, "test_accuracy", online, offline, by)
        if not stages:
            continue
        measured = {
            "growth": _change(along, "log", online, by),
            "growth_per_size": _change(along, "log_per_size", online, by),
            "fixed": _change(along, "log", offline, by),
            "saved": _saved(along, "log", online, offline, stages, by),
            "saved_per_size": _saved(along, "log_per_size", online, offline, stages, by),
        }
        for case in gain:
            if all(case in of and len(of[case]) == len(gain[case]) for of in measured.values()):
                about = dict(zip(("data", "noise", "teacher", "student", "soft_ratio"), case, strict=True))
                values = {name: np.array(of[case]) for name, of in measured.items()}
                found.append({**about, "temperature": temperature, "gain": 100 * np.array(gain[case]), **values})
    return found


def _change(along: Rows, metric: str, kind: dict[str, Any], by: Sequence[str]) -> dict[tuple, list[float]]:
    """The metric at the last stage less that at the first."""
    return paired(along, metric, {**kind, "stage": -1}, {**kind, "first": True}, by)


def _saved(
    along: Rows, metric: str, online: dict[str, Any], offline: dict[str, Any], stages: list[int], by: Sequence[str]
) -> dict[tuple, np.ndarray]:
    """The offline metric less the online one, mean of the stages."""
    each = [paired(along, metric, {**offline, "stage": s}, {**online, "stage": s}, by) for s in stages]
    return {case: np.mean([of[case] for of in each if case in of], axis=0) for case in each[-1]}


def published_scales(name: str) -> list[str]:
    """The scales of which a table has been committed."""
    return sorted(path.parent.name for path in (ROOT / "results").glob(f"*/{name}.csv"))


def paired(
    rows: Rows, metric: str, first: Mapping[str, Any], second: Mapping[str, Any],
    by: Sequence[str] = ("data", "noise", "teacher_network", "network"),
) -> dict[tuple, list[float]]:  # fmt: skip
    """Differences of a metric between two kinds of runs with the same seed.

    Parameters
    ----------
    rows
        dictionaries, as `campaign` gives them.
    metric
        a column of numbers.
    first, second
        what the rows of each kind have, e.g. `{"method": "online", "temperature": 4.0}`.
    by
        columns that tell cases apart.

    Returns
    -------
    `{case: [first - second for each seed that both have, by seed]}`; ValueError if two rows answer one description.
    """
    found = []
    for wanted in (first, second):
        of = {}
        for row in rows:
            if all(row.get(column) == value for column, value in wanted.items()):
                key = tuple(row[column] for column in by), row["seed"]
                if key in of:
                    raise ValueError(f"two rows for {wanted} and {key}: say more about them")
                of[key] = row[metric]
        found.append(of)
    both = sorted(set(found[0]) & set(found[1]), key=str)
    differences = {}
    for case, seed in both:
        differences.setdefault(case, []).append(found[0][case, seed] - found[1][case, seed])
    return differences


def _value(column: str, text: str) -> float | str | None:
    if text == "":
        return None
    if column in ("run", "teacher", "code", "trained_with", "kdlib", "data_sha256"):  # hashes can look like numbers
        return text
    try:
        return float(text)
    except ValueError:
        return text
