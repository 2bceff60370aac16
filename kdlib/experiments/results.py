"""Small tables of results: saved by a run with their provenance, committed for readers who cannot repeat it.

The campaign (`make reproduce`) leaves `runs` (one row a training) and `along` (one row a kernel). A chapter saves a
table in its records folder; `make results SCALE=standard` copies a scale's tables to `results/standard/`, from where
`published` reads them back, whoever ran them and wherever. A campaign may be run in parts, on several machines: rows of
other experiments stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdlib.experiments.methods import COMPARED
from kdlib.tools.files import own_records_folder, read_rows, write_rows
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
    write_rows(own_records_folder() / f"{name}.csv", rows)


def published(name: str, scale: str) -> list[dict[str, str]]:
    """The committed table of a scale: a list of dictionaries of strings, empty where nobody has published it."""
    path = ROOT / "results" / scale / f"{name}.csv"
    if not path.exists():
        return []
    return read_rows(path)


def campaign(name: str, scale: str) -> list[dict[str, Any]]:
    """A table of the campaign as `texts` gives it; values that are numbers are floats, empty ones None."""
    return [{column: _value(column, text) for column, text in row.items()} for row in texts(name, scale)]


def texts(name: str, scale: str) -> list[dict[str, str]]:
    """A table of the campaign: this machine's rows, and of experiments that it has not run the published ones."""
    fresh = ROOT / "_build" / scale / "records" / f"{name}.csv"
    rows = read_rows(fresh) if fresh.exists() else []
    if not rows:
        return published(name, scale)
    here = {row.get("experiment") for row in rows}
    return rows + [row for row in published(name, scale) if row.get("experiment") not in here]


def other_code(tables: Mapping[str, Rows], start: str = RUNS) -> str:
    """Which of these tables have rows of other code than today's, `"core by 0123456789ab"`; "none" if none has.

    `start` is the module whose code the rows depend on, `"kdlib"` for all of it.
    """
    of = lambda rows: sorted({row.get("code") or row["kdlib"] for row in rows} - {code_hash(start)})
    return "; ".join(f"{name} by {', '.join(of(rows))}" for name, rows in tables.items() if of(rows)) or "none"


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


def followed(tables: Mapping[str, Rows]) -> dict[str, list[Mapping[str, Any]]]:
    """The online students of tables `along`, `{scale: rows}`: `{the case in words: rows of all seeds}`."""
    found = {}
    for scale, rows in tables.items():
        for row in rows:
            if row["method"] == "online":
                title = (
                    f"{row['network']} by {row['teacher_network']}, {row['data']}, T = {row['temperature']:g}, "
                    f"{row['points']:.0f} images, ridge {row['ridge']:g} ({scale})"
                )
                found.setdefault(title, []).append(row)
    return found


def at_the_end(tables: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """Of each student of tables `along`, `{scale: rows}`, one row at its end, with its `test_accuracy` and `scale`; its
    accuracy from the scale's table `runs`, fidelity and alignment from the kernel's row."""
    found = {}
    for scale, rows in tables.items():
        accuracy = {row["run"]: row["test_accuracy"] for row in campaign("runs", scale)}
        for row in rows:
            if row["share"] == 1 and row["run"] in accuracy:
                found[scale, row["run"]] = {**row, "scale": scale, "test_accuracy": accuracy[row["run"]]}
    return list(found.values())


def case_of(row: Mapping[str, Any]) -> str:
    """Which student on which images at which scale, as `lenet-5, cifar10-jpeg (core)`: what may be compared."""
    return f"{row['network']}, {row['data']} ({row['scale']})"


def chosen_on_validation(rows: Rows) -> dict[tuple, list[tuple[float, float]]]:
    """What it brings to try every checkpoint of a teacher on a student, and to keep the best on validation images.

    Returns
    -------
    `{(noise, teacher, student, temperature): [(share of the teacher's training, gain) of each seed]}`: the share whose
    student had the highest validation accuracy, and that student's test accuracy less that of the final teacher's
    student, in points. Students of soft ratio one, of the methods "stopped" and "offline", in experiments (X2, ...).
    """
    found: dict[tuple, dict[float, dict[float, Mapping[str, Any]]]] = {}
    for row in rows:
        asked = row["role"] == "student" and row["method"] in ("stopped", "offline") and row["soft_ratio"] == 1
        if asked and row.get("experiment", "X").startswith("X"):  # not those that chose a learning rate
            case = tuple(row[name] for name in ("noise", "teacher_network", "network", "temperature"))
            found.setdefault(case, {}).setdefault(row["seed"], {})[row["teacher_share"]] = row
    chosen = {}
    for case, by_seed in sorted(found.items()):
        for _, by_share in sorted(by_seed.items()):
            if len(by_share) > 1 and 1.0 in by_share:
                share = max(by_share, key=lambda share: by_share[share]["validation_accuracy"])
                gain = by_share[share]["test_accuracy"] - by_share[1.0]["test_accuracy"]
                chosen.setdefault(case, []).append((share, 100 * gain))
    return chosen


def published_scales(name: str) -> list[str]:
    """The scales of which a table has been committed."""
    return sorted(path.parent.name for path in (ROOT / "results").glob(f"*/{name}.csv"))


def paired(
    rows: Rows, metric: str, first: Mapping[str, Any], second: Mapping[str, Any],
    by: Sequence[str] = ("data", "noise", "teacher_network", "network"),
) -> dict[tuple, dict[float, float]]:  # fmt: skip
    """Differences of a metric between two kinds of runs with the same seed.

    Parameters
    ----------
    rows
        dictionaries, as `campaign` gives them.
    metric
        a column of numbers; rows without it are left out (a table may be older than the column).
    first, second
        what the rows of each kind have, e.g. `{"method": "online", "temperature": 4.0}`.
    by
        columns that tell cases apart.

    Returns
    -------
    `{case: {seed: first - second}}` of the seeds that both have; ValueError if two rows answer one description.
    """
    found = []
    for wanted in (first, second):
        of = {}
        for row in rows:
            if row.get(metric) is not None and all(row.get(column) == value for column, value in wanted.items()):
                key = tuple(row[column] for column in by), row["seed"]
                if key in of:
                    raise ValueError(f"two rows for {wanted} and {key}: say more about them")
                of[key] = row[metric]
        found.append(of)
    both = sorted(set(found[0]) & set(found[1]), key=str)
    differences = {}
    for case, seed in both:
        differences.setdefault(case, {})[seed] = found[0][case, seed] - found[1][case, seed]
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
