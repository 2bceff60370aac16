"""What the workflow would run after a change; keys and reasons; pages put together from prose and outputs; images."""

import io
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from campaign import Place
from PIL import Image

from kdlib.tools.provenance import ROOT
from workflow import driver, execute, keys, notebooks, plan, render, store_outputs

# --- what would run ----------------------------------------------------------------------------------------------


class Built(Place):
    """A copy of the repository in which everything counts as built."""

    def __init__(self, folder):
        super().__init__(folder)
        (folder / "book" / "index.md").touch()
        made = [f"notebooks/{page}.ipynb" for page in keys.pages()]
        made += [f"records/{page}.json" for page in keys.pages() if keys.writes_records(page)]
        made += [
            f"campaign/{node.kind}/{node.key}.{ending}" for node in plan.nodes("quick") for ending in ("ipynb", "csv")
        ]
        made += [f"records/{table}.csv" for table in keys.CAMPAIGN_TABLES]
        for path in (*(folder / "_build" / "quick" / name for name in made), folder / "_build" / "html" / ".complete"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        self.snakemake("--touch")

    def snakemake(self, *words):
        command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--cores", "1"]
        command += [*words, "--config", "lock=requirements/requirements.lock"]
        run = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stderr
        return run.stdout + run.stderr

    def would_run(self):
        """Pages and rules that would run."""
        output = self.snakemake("--dry-run", "--quiet", "host")
        pages = set(re.findall(r"output: _build/quick/notebooks/(\w+)\.ipynb", output))
        return pages, set(re.findall(r"^(?:local)?rule (\w+):", output, re.M)) - {"all"}


@pytest.mark.slow
def test_what_runs_after_a_change(tmp_path):
    place = Built(tmp_path / "place")
    assert place.would_run() == (set(), set())
    place.edit("kdlib/path.py", '"""', '"""In other words: ')
    assert place.would_run() == (set(), {"html"})  # the page of the library
    page = place.folder / "book" / "bridge.ipynb"
    notebook = nbformat.read(page, 4)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell("One more sentence."))
    nbformat.write(notebook, page)
    assert place.would_run() == (set(), {"html"})
    notebook.cells.append(nbformat.v4.new_code_cell("1 + 1"))
    nbformat.write(notebook, page)
    pages, rules = place.would_run()
    readers = {name for name in keys.pages() if keys.reads_records(name)}
    assert pages == {"bridge"} | readers and rules == {"chapter", "gathering_page", "html"}
    nbformat.write(nbformat.read(ROOT / "book" / "bridge.ipynb", 4), page)
    place.append("kdlib/bounds.py", "ADDED = 1\n")
    changed = ROOT / "kdlib" / "bounds.py"
    reach = {name for name in keys.pages() if changed in keys.provenance.reached(keys.notebook_of(name))}
    pages, rules = place.would_run()
    assert reach and pages == reach | readers and "node" not in rules  # no experiment computes bounds
    (place.folder / "kdlib" / "bounds.py").write_text(changed.read_text())
    place.append("workflow/scales/quick.yaml", "bridge: {seed: 1}\n")
    assert place.would_run()[0] == {"bridge"} | readers  # its section of the scale, and no other's


@pytest.mark.parametrize(
    "before, now, why",
    [
        (None, {"a": 1}, "for the first time"),
        ({"a": 1}, {"a": 1}, "a table or a record that it reads changed"),
        ({"kdlib/path.py": 1, "a": 1}, {"kdlib/path.py": 2, "a": 1}, "kdlib/path.py changed"),
        ({"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "d": 1, "e": 1}, "a, b, c and 2 more changed"),
    ],
)
def test_it_says_why(before, now, why):
    assert execute.reason(now, before) == why


def test_every_page_has_a_place_and_shows_tables():
    pages = keys.pages()
    assert {path.stem for path in (ROOT / "book").glob("*.ipynb")} == set(pages)
    assert {page for page in pages if keys.tables(page) & set(keys.CAMPAIGN_TABLES)} == {
        "online_distillation",
        "temperature_early_stopping",
        "experiments",
        "your_own",
        "choosing",
    }
    assert keys.tables("supervision_complexity") == {"certificates", "certificates_by_size"}
    assert keys.tables("engine") == {"certified"}
    assert not keys.writes_records("ledger") and keys.reads_records("ledger")


# --- prose and outputs -------------------------------------------------------------------------------------------

TEXT = {"output_type": "stream", "name": "stdout"}


def page(*cells, given=None):
    """A notebook of `(source, printed)` cells, the first of them with the parameters."""
    made = []
    for number, (source, printed) in enumerate(cells):
        outputs = [nbformat.from_dict({**TEXT, "text": printed})] if printed else []
        made.append(nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=number + 1))
    made[0].metadata["tags"] = ["parameters"]
    if given:
        made.insert(1, nbformat.v4.new_code_cell(given, metadata={"tags": ["injected-parameters"]}))
    return nbformat.v4.new_notebook(cells=made)


def write(path, notebook, *prose):
    for text in prose:
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(text))
    nbformat.write(notebook, path)
    return path


def test_prose_of_one_and_outputs_of_the_other(tmp_path):
    committed = write(tmp_path / "a.ipynb", page(("n = 1  # new words", ""), ("print(n)", "1\n")), "New prose", "more")
    executed = write(tmp_path / "b.ipynb", page(("n = 1", ""), ("print(n)", "2\n"), given="n = 2"), "Old prose")
    found = notebooks.with_outputs(committed, executed)
    assert [cell.source for cell in found.cells] == ["more", "New prose", "n = 1  # new words", "n = 2", "print(n)"]
    assert found.cells[-1].outputs[0].text == "2\n"


@pytest.mark.parametrize("cells", [[("n = 2", ""), ("print(n)", "")], [("n = 1\nprint(n)", "")], [("n = 1", "")]])
def test_other_code_is_refused(tmp_path, cells):
    committed = write(tmp_path / "a.ipynb", page(*cells))
    executed = write(tmp_path / "b.ipynb", page(("n = 1", ""), ("print(n)", "1\n")))
    with pytest.raises(notebooks.OutOfDate, match=r"a\.ipynb: its code is not what was executed"):
        notebooks.with_outputs(committed, executed)


def test_only_changed_files_are_staged_again(tmp_path):
    assert render.stage(tmp_path, {"a": b"1", "b/c": b"2"}) == {"a", "b/c"}
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in ("a", "b/c")}
    assert render.stage(tmp_path, {"a": b"1", "b/c": b"2"}) == set()
    assert render.stage(tmp_path, {"a": b"3", "b/d": b"2"}) == {"a", "b/c", "b/d"}
    assert (tmp_path / "a").stat().st_mtime_ns != times["a"] and not (tmp_path / "b/c").exists()


# --- images ------------------------------------------------------------------------------------------------------


def png(pixels, **how):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **how)
    return file.getvalue()


def test_images_that_look_the_same_stay():
    pixels = np.random.default_rng(0).integers(10, 200, (20, 30, 3), dtype=np.uint8)
    assert store_outputs.look_the_same(png(pixels), png(pixels, compress_level=0))
    assert store_outputs.look_the_same(png(pixels), png(pixels + np.uint8(2)))
    assert not store_outputs.look_the_same(png(pixels), png(pixels + np.uint8(3)))
    assert not store_outputs.look_the_same(png(pixels), png(pixels[:-1]))


@pytest.mark.parametrize("name", ["transfer_risk", "two_papers"])
def test_storing_what_is_stored_changes_nothing(tmp_path, name):
    copy = tmp_path / f"{name}.ipynb"
    copy.write_bytes(keys.notebook_of(name).read_bytes())
    store_outputs.store(keys.notebook_of(name), copy)
    assert copy.read_bytes() == keys.notebook_of(name).read_bytes()


def test_a_home_that_cannot_be_written_to(tmp_path):
    """The build's own folder takes its place; a home that can be written to keeps its own."""
    assert driver.cache_folder({"HOME": "/proc/none"}) == driver.ROOT / "_build" / "cache"
    assert driver.cache_folder({"HOME": str(tmp_path)}) == tmp_path / ".cache"


@pytest.mark.parametrize("free, said", [(1e6, True), (1e12, False)])
def test_a_full_disk_is_named(monkeypatch, capsys, tmp_path, free, said):
    class Failed:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            return 1

    monkeypatch.setattr(driver, "ROOT", tmp_path)
    monkeypatch.setattr(driver.subprocess, "Popen", Failed)
    monkeypatch.setattr(driver.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert driver.snakemake([]) == 1
    assert ("the disk is full" in capsys.readouterr().err) == said
