"""Small tables of results: saved by a run with their provenance, committed for readers who cannot repeat it.

A chapter saves a table in its records folder; `make results SCALE=standard` runs the scale and copies its tables to
`results/standard/`, from where `published` reads them back, whoever ran them and wherever.
"""

from __future__ import annotations

import csv

from kdlib.ledger import records_folder
from kdlib.provenance import ROOT, device_name, provenance


def save(name, rows):
    """Write `rows`, dictionaries with the same keys, as `<name>.csv` of the records folder; adds device and versions."""
    rows = [{**row, "device": device_name(), **provenance()} for row in rows]
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"{name}: a table needs one row at least, and the same columns in every row")
    folder = records_folder()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.csv.partial"
    with open(partial, "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(folder / f"{name}.csv")  # a half-written table never counts


def published(name, scale):
    """The committed table of a scale: a list of dictionaries of strings, empty where nobody has published it."""
    path = ROOT / "results" / scale / f"{name}.csv"
    if not path.exists():
        return []
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))
