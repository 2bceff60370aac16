"""Which verdicts, numbers and figures differ between two builds, and to which digit: `make compare BUILD=...`.

A build is a folder like `_build/quick`: the records and the executed notebooks in it, of another machine, device or
day. Verdicts must be the same; numbers may differ by rounding and by the training of networks, and how far is said.
"""

from __future__ import annotations

import argparse
import base64
import io
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
from PIL import Image

from kdlib.ledger import Record, read_records
from kdlib.tools.provenance import ROOT

DIGITS = 15  # as many as are told apart
SHOWN = 12  # of the largest differences of each kind


@dataclass(frozen=True)
class Difference:
    """Of two numbers with the same name: how many leading digits they share."""

    name: str
    here: float
    there: float
    digits: int

    def __str__(self):
        return f"{self.digits:2d} digits  {self.name}: {self.here:.6g} here, {self.there:.6g} there"


def shared_digits(a: float, b: float, least: float = 0.0) -> int:
    """Leading digits that two numbers share; what is below `least` counts as zero."""
    if a == b or (math.isnan(a) and math.isnan(b)) or max(abs(a), abs(b)) <= least:
        return DIGITS
    if not (math.isfinite(a) and math.isfinite(b)):
        return 0
    return int(min(DIGITS, max(0, -math.log10(abs(a - b) / max(abs(a), abs(b))))))


def verdicts(here: list[Record], there: list[Record]) -> list[str]:
    """What the records of one build say and those of the other do not: verdicts, outcomes, twins, whole records."""
    first, second = ({(r.chapter, r.id, r.title): r for r in records} for records in (here, there))
    found = []
    for place, one, other in (("here", first, second), ("there", second, first)):
        found += [f"{name} ({title}): only {place}" for _, name, title in one.keys() - other.keys()]
    for key in first.keys() & second.keys():
        a, b = first[key], second[key]
        for what, of in (("verdict", lambda r: r.verdict), ("twin fails", lambda r: r.twin.get("failed"))):
            if of(a) != of(b):
                found.append(f"{a.id} ({a.title}): {what} {of(a)} here, {of(b)} there")
    return sorted(found)


def numbers(here: list[Record], there: list[Record]) -> list[Difference]:
    """The measured and the reference values of the records that both builds have, those that share fewest digits first.

    What is below a check's tolerance is rounding, and counts as the same.
    """
    second = {(r.chapter, r.id, r.title): r for r in there}
    found = []
    for a in here:
        b = second.get((a.chapter, a.id, a.title))
        if b is None:
            continue
        for part in ("measured", "reference"):
            one, other = getattr(a, part), getattr(b, part)
            for of in one.keys() & other.keys():
                digits = shared_digits(one[of], other[of], a.tolerance)
                found.append(Difference(f"{a.id} ({a.title}), {part} {of}", one[of], other[of], digits))
    return sorted(found, key=lambda difference: (difference.digits, difference.name))


def in_prose(notebook: nbformat.NotebookNode) -> dict[str, float]:
    """The numbers that a page's text quotes: what it has glued."""
    found = {}
    for output in _outputs(notebook):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        text = next((str(value) for key, value in output.get("data", {}).items() if "text/plain" in key), "")
        if name:
            try:
                found[name] = float(text)
            except ValueError:
                continue
    return found


def figures(here: nbformat.NotebookNode, there: nbformat.NotebookNode) -> Iterator[tuple[int, str]]:
    """(which, how) of the pictures that do not look the same."""
    first, second = ([_picture(output) for output in _outputs(notebook) if _png(output)] for notebook in (here, there))
    if len(first) != len(second):
        yield 0, f"{len(first)} here, {len(second)} there"
    for k, (a, b) in enumerate(zip(first, second, strict=False), start=1):
        if a.shape != b.shape:
            yield k, f"sizes {a.shape[1]} x {a.shape[0]} here, {b.shape[1]} x {b.shape[0]} there"
        elif (off := np.abs(a - b).max(axis=2)).max() > 8:
            yield k, f"{100 * np.mean(off > 8):.2g} % of the pixels differ"


def compare(here: Path, there: Path) -> int:
    """Print what differs; one if a verdict does, else zero."""
    for folder in (here, there):
        if not list((folder / "records").glob("*.json")):
            sys.exit(
                f"{folder} is not a build: it must hold records/*.json and notebooks/*.ipynb, as _build/quick does"
            )
    first, second = (read_records(folder / "records") for folder in (here, there))
    made = [{**records[0].provenance, "device": records[0].device} for records in (first, second)]
    for name in dict.fromkeys([*made[0], *made[1]]):
        if made[0].get(name) != made[1].get(name):
            print(f"made with {name} {made[0].get(name)} here, {made[1].get(name)} there")
    other = verdicts(first, second)
    print(f"\n{len(first)} records here, {len(second)} there; {len(other)} verdicts differ")
    print("".join(f"  {line}\n" for line in other), end="")
    _say("numbers of the records", numbers(first, second))
    quoted, drawn, pages = [], [], 0
    for path in sorted((here / "notebooks").glob("*.ipynb")):
        if path.stem.endswith(".failed") or not (there / "notebooks" / path.name).exists():
            continue
        a, b = (nbformat.read(folder / "notebooks" / path.name, as_version=4) for folder in (here, there))
        pages += 1
        one, two = in_prose(a), in_prose(b)
        quoted += [Difference(f"{path.stem}: {name}", one[name], two[name], shared_digits(one[name], two[name]))
                   for name in one.keys() & two.keys()]  # fmt: skip
        drawn += [f"{path.stem}, figure {k}: {how}" for k, how in figures(a, b)]
    _say("numbers in the text", sorted(quoted, key=lambda difference: (difference.digits, difference.name)))
    print(f"\n{pages} pages in both; {len(drawn)} figures look different")
    print("".join(f"  {line}\n" for line in drawn), end="")
    return int(bool(other))


def _say(what: str, found: list[Difference]):
    apart = [difference for difference in found if difference.digits < DIGITS]
    print(
        f"\n{len(found)} {what}: {len(found) - len(apart)} the same, {len(apart)} not; those that share fewest digits:"
    )
    print("".join(f"  {difference}\n" for difference in apart[:SHOWN]), end="")


def _outputs(notebook: nbformat.NotebookNode) -> Iterator[dict]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def _png(output: dict) -> str | None:
    return output.get("data", {}).get("image/png")


def _picture(output: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(_png(output) or ""))).convert("RGB"), dtype=int)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="the other build, a folder like _build/quick")
    parser.add_argument("--scale", default="quick", help="of this build")
    asked = parser.parse_args()
    sys.exit(compare(ROOT / "_build" / asked.scale, asked.build))
