"""What code reaches, and which pages and trainings a change therefore concerns: on a small library of its own."""

import importlib
import json
import textwrap

import pytest

from kdlib.tools import provenance
from workflow import keys

chapters = importlib.import_module("kdlib.ledger.chapters")  # the function of that name is exported beside it

FILES = {
    "__init__.py": '"""A library."""',
    "loss.py": '"""Losses."""\n\n\ndef loss(x):\n    """A loss."""\n    return x  # itself',
    "loop.py": "from kdlib.loss import loss\n\n\ndef train():\n    return loss(1)",
    "late.py": "def plot():\n    from kdlib.colours import RED\n\n    return RED",
    "colours.py": "RED = 1",
    "kernels/__init__.py": (
        '"""Kernels."""\n\nfrom kdlib.kernels.wide import wide\nfrom kdlib.kernels.narrow import narrow as thin\n\n'
        '__all__ = ["wide", "thin"]'
    ),
    "kernels/wide.py": "from .shapes import SIDE\n\n\ndef wide():\n    return SIDE",
    "kernels/narrow.py": "from . import shapes\nfrom ..loss import loss\n\n\ndef narrow():\n    return shapes.SIDE",
    "kernels/shapes.py": "SIDE = 3",
    "rooms/__init__.py": "from kdlib import colours\n\nCOLOUR = colours.RED",
    "rooms/door.py": "DOOR = 1",
}
PAGES = {
    "training": ["from kdlib.loop import train", "train()"],
    "wide": ["from kdlib.kernels import wide", "wide()"],
    "thin": ["from kdlib.kernels import thin", "thin()"],
    "plots": ["def show():\n    from kdlib import late\n    return late.plot()", "show();"],
    "door": ["import kdlib.rooms.door as door", "door.DOOR"],
    "all_kernels": ["from kdlib import kernels", "kernels.wide()"],
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library and a book, in the place of this repository's; returns its folder."""
    for name, text in FILES.items():
        write(tmp_path / "kdlib" / name, text)
    for page, cells in PAGES.items():
        save(tmp_path, page, cells)
    entries = "".join(f"\n      - file: book/{page}" for page in PAGES)
    write(tmp_path / "_toc.yml", f"root: index\nparts:\n  - numbered: 1\n    chapters:{entries}\n")
    write(tmp_path / "data" / "images", "1 2 3")
    write(tmp_path / "lock", "numpy==2")
    write(tmp_path / "workflow" / "execute.py", "run = 1")
    for module in (provenance, chapters):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget():
    """What is kept while a process lives, because files do not move under it."""
    for kept in (*vars(provenance).values(), keys._data):
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def save(folder, page, cells, prose="words"):
    code = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    cells = [{"cell_type": "markdown", "source": prose, "metadata": {}}, *code]
    write(folder / "book" / f"{page}.ipynb", json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))


def reached(*starts):
    return {
        str(path.relative_to(provenance.ROOT / "kdlib")) for path in provenance.reached(*starts) if path.suffix == ".py"
    }


def all_keys():
    forget()
    return {page: keys.key(keys.notebook_of(page), "lock") for page in keys.pages()}


def concerned(before):
    """Pages whose keys are no longer those."""
    now = all_keys()
    return {page for page in now if now[page] != before[page]}


@pytest.mark.usefixtures("library")
def test_what_is_reached():
    top, rooms, package = "__init__.py", "rooms/__init__.py", "kernels/__init__.py"
    expected = {
        "training": {top, "loop.py", "loss.py"},
        "wide": {top, package, "kernels/wide.py", "kernels/shapes.py"},  # what it exports from elsewhere does not count
        "thin": {top, package, "kernels/narrow.py", "kernels/shapes.py", "loss.py"},  # relative, and under another name
        "plots": {top, "late.py", "colours.py"},  # inside functions
        "door": {top, rooms, "rooms/door.py", "colours.py"},  # a package that computes something is run
        "all_kernels": {top, package, "kernels/wide.py", "kernels/narrow.py", "kernels/shapes.py", "loss.py"},
    }
    assert {page: reached(keys.notebook_of(page)) for page in PAGES} == expected
    assert reached("kdlib.loop") == expected["training"]
    assert reached("kdlib.kernels.narrow", "kdlib.late") == expected["thin"] | expected["plots"]


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("loss.py", "A loss.", "A loss, in other words."),
        ("loss.py", "# itself", "# as it is"),
        ("loss.py", "    return x", "\n    return (x)"),
        ("kernels/__init__.py", "Kernels.", "All kernels."),
        ("__init__.py", "A library", "The library"),
    ],
)
def test_other_words_concern_nothing(library, name, old, new):
    before, trained = all_keys(), provenance.code_hash("kdlib.loop")
    path = library / "kdlib" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert concerned(before) == set()
    assert provenance.code_hash("kdlib.loop") == trained


@pytest.mark.parametrize(
    "name, old, new, pages, retrained",
    [
        ("loss.py", "return x", "return 2 * x", {"training", "thin", "all_kernels"}, True),
        ("kernels/wide.py", "return SIDE", "return -SIDE", {"wide", "all_kernels"}, False),
        ("kernels/shapes.py", "3", "4", {"wide", "thin", "all_kernels"}, False),
        ("colours.py", "1", "2", {"plots", "door"}, False),
        ("late.py", "return RED", "return -RED", {"plots"}, False),
        ("rooms/door.py", "1", "2", {"door"}, False),
    ],
)
def test_a_changed_function_concerns_what_reaches_it(library, name, old, new, pages, retrained):
    before, trained = all_keys(), provenance.code_hash("kdlib.loop")
    path = library / "kdlib" / name
    path.write_text(path.read_text().replace(old, new))
    assert concerned(before) == pages
    assert (provenance.code_hash("kdlib.loop") != trained) == retrained


@pytest.mark.parametrize(
    "cells, again",
    [
        (["from kdlib.loop import train  # a comment", "train()"], False),
        (["from kdlib.loop import train", "train();"], True),  # shows no output
        (["from kdlib.loop import train", "train(2)"], True),
        (["from kdlib.loop import train\n\ntrain()"], True),  # the output is another cell's
    ],
)
def test_a_page_is_concerned_by_its_code_and_not_by_its_prose(library, cells, again):
    before, said = all_keys(), keys.words(keys.pages())
    save(library, "training", cells, prose="other words")
    assert concerned(before) == ({"training"} if again else set())
    now = keys.words(keys.pages())
    assert {page for page in now if now[page] != said[page]} == {"training"}  # what is rendered again


@pytest.mark.parametrize("name", ["data/images", "lock", "workflow/execute.py"])
def test_data_lock_and_executor_concern_all_pages(library, name):
    before = all_keys()
    write(library / name, "changed = 2")
    assert concerned(before) == set(PAGES)


def test_only_a_page_that_shows_chapters_is_concerned_by_their_order(library):
    write(library / "kdlib" / "ledger" / "pages.py", "TABLE = 1")
    for page in PAGES:
        save(
            library,
            page,
            PAGES[page] if page != "door" else ["from kdlib.ledger.pages import TABLE"],
            f"# {page}",
        )
    chapters.chapters.cache_clear()
    before = all_keys()
    toc = library / "_toc.yml"
    lines = toc.read_text().splitlines()
    toc.write_text("\n".join([*lines[:4], *reversed(lines[4:])]))
    chapters.chapters.cache_clear()
    assert concerned(before) == {"door"}
    chapters.chapters.cache_clear()


def test_a_key_is_written_only_when_it_changes(library):
    path = library / "keys" / "page.json"
    keys.keep(str(path), {"a": 1})
    written = path.stat().st_mtime_ns
    keys.keep(str(path), {"a": 1})
    assert path.stat().st_mtime_ns == written
    keys.keep(str(path), {"a": 2})
    assert path.stat().st_mtime_ns != written and json.loads(path.read_text()) == {"a": 2}


def test_what_a_page_shows(library):
    save(library, "wide", [textwrap.dedent("""
        rows = results.campaign("runs", scale)
        more = results.published(
            "certificates", "standard"
        )
    """), 'json.loads((ROOT / "benchmarks" / "x.json").read_text())'])  # fmt: skip
    for name in (
        "results/slice/runs.csv",
        "results/slice/along.csv",
        "results/standard/certificates.csv",
        "benchmarks/results/x.json",
    ):
        write(library / name, "")
    published = ["benchmarks/results/x.json", "results/slice/runs.csv", "results/standard/certificates.csv"]
    assert keys.files_shown("wide", None) == published
    assert keys.files_shown("wide", "here") == [*published, "here/runs.csv"]
    assert keys.files_shown("training", "here") == []
    save(library, "wide", ['evidence = contrasts.of_scales(scale, ["X1"])'])
    assert keys.tables("wide") == {"runs", "along", "terms"}
