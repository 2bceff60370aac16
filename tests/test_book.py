"""The book: its notebooks as committed, and its pages as rendered, in a real browser with the network blocked.

The pages are those of `make book`, which `make test` runs first.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import nbval.plugin
import pytest
from browser import contrast

from kdlib.ledger import CLAIMS, EVIDENCE, STATEMENTS, answer, read_records
from kdlib.tools.provenance import ROOT, provenance
from workflow.notebooks import is_given

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
HTML = ROOT / "_build" / "html"
PAGES = sorted((HTML / "book").glob("*.html"))
EXECUTED = ROOT / "_build" / "quick" / "notebooks"
RECORDS = ROOT / "_build" / "quick" / "records"
name = lambda path: path.stem


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" and not is_given(cell)]


# --- Notebooks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_outputs_are_stored(path):
    """nbval compares nothing in a cell whose outputs were stripped: they must be there."""
    compared = [cell for cell in code_cells(path) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert all(cell.outputs for cell in compared)
    assert any(cell.outputs for cell in code_cells(path))
    assert all(cell.execution_count for cell in code_cells(path))
    assert compared or path.stem in ("index", "two_papers", "three_terms")  # which have no checks of their own


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_first_cell_holds_parameters_and_the_next_one_checks_them(path):
    first, second = code_cells(path)[:2]
    assert first.metadata.tags == ["parameters"] and "parameters.check(" in second.source
    names = set(re.findall(r"^(\w+) = ", first.source, re.M))
    rules = second.source[second.source.index("parameters.check(") :]
    assert all(re.search(rf"\b{parameter}=", rules) for parameter in names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook, parameters, message",
    [
        ("transfer_risk", ["-p", "image_exmaples", "512"], "did you mean 'image_examples'"),
        ("transfer_risk", ["-p", "delta", "2.0"], "'delta' must be in"),
        ("wide_limit", ["-p", "seed", "zero"], "'seed' must be an integer"),
        ("ledger", ["-p", "records", "/no/such/folder"], "existing folder"),
    ],
)
def test_papermill_refuses_wrong_parameters_before_any_work(tmp_path, notebook, parameters, message):
    command = [sys.executable, "-m", "papermill", str(ROOT / "book" / f"{notebook}.ipynb"), str(tmp_path / "out.ipynb")]
    run = subprocess.run([*command, *parameters], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert run.returncode != 0 and message in run.stderr
    executed = [cell for cell in code_cells(tmp_path / "out.ipynb") if cell.execution_count]
    assert len(executed) <= 3  # papermill's own error cell, the parameters and the check


@pytest.mark.slow
def test_every_statement_is_checked_by_the_code_of_today():
    records = read_records(RECORDS)
    evidence = [record for record in records if record.kind == "evidence"]
    checks = [record for record in records if record.kind != "evidence"]
    assert set(STATEMENTS) == {record.id for record in checks}
    assert all(record.twin["failed"] and record.verdict != "FAILED" for record in checks)
    assert evidence and all(record.power is not None and record.id.startswith("X") for record in evidence)
    for record in records:
        page = ROOT / "book" / f"{record.chapter}.ipynb"
        assert record.provenance["kdlib"] == provenance(page)["kdlib"], f"{record.id}: of other code"


@pytest.mark.slow
def test_each_piece_of_evidence_is_on_one_part_of_its_claim():
    for claim in CLAIMS:
        about = [r for r in read_records(RECORDS) if claim.number in r.claims and r.kind in EVIDENCE]
        named = [record for record in about if claim.parts]
        parts = answer(claim, about).parts
        assert sum(sum(part.values()) for part in parts.values()) == len(named), claim.number


class Comparison(nbval.plugin.IPyNbCell):
    """nbval's comparison of a cell's outputs, without its execution of the cell: `make book` has executed it."""

    @classmethod
    def of(cls, request, notebook):
        """For the cells of a notebook, with what is left out and made equal as on nbval's command line."""
        file = nbval.plugin.IPyNbFile.from_parent(request.session, path=notebook)
        file.sanitize_patterns.update(
            nbval.plugin.get_sanitize_patterns((ROOT / "tests/nbval_sanitize.cfg").read_text())
        )
        return cls.from_parent(file, name=notebook.stem, cell_num=0, cell=None, options={})

    def differences(self, executed, stored):
        """What nbval says about each cell tagged `nbval-check-output` whose outputs differ."""
        found = []
        for number, (new, old) in enumerate(zip(code_cells(executed), code_cells(stored), strict=True)):
            checked = "nbval-check-output" in old.metadata.get("tags", [])
            shown = [output for output in new.outputs if output.get("name") != "stderr"]  # as they are stored
            if checked and not self.compare_outputs(shown, old.outputs):
                found.append("\n".join([f"{stored.name}, code cell {number}", *self.comparison_traceback]))
        return found


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_outputs_are_the_stored_ones(request, path):
    differences = Comparison.of(request, path).differences(EXECUTED / path.name, path)
    assert not differences, "\n\n".join(differences)


def test_an_altered_card_is_noticed(request, tmp_path):
    path = ROOT / "book" / "transfer_risk.ipynb"
    altered, comparison = tmp_path / path.name, Comparison.of(request, path)
    notebook = nbformat.read(path, 4)
    nbformat.write(notebook, altered)
    assert comparison.differences(altered, path) == []
    cards = [
        output["data"]
        for cell in notebook.cells
        if "nbval-check-output" in cell.metadata.get("tags", [])
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]
    card = "".join(cards[0]["text/html"])
    cards[0]["text/html"] = re.sub(r"<data>[^<]*</data>", "<data>12.5</data>", card)  # at the level of rounding
    assert cards[0]["text/html"] != card
    nbformat.write(notebook, altered)
    assert comparison.differences(altered, path) == []
    cards[0]["text/html"] = re.sub(r"(<strong>)", r"\1not ", str(card), count=1)
    assert cards[0]["text/html"] != card
    nbformat.write(notebook, altered)
    (difference,) = comparison.differences(altered, path)
    assert "transfer_risk.ipynb, code cell" in difference and "mismatch 'text/html'" in difference


# --- Pages, as files ---------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Ids, links, and the addresses of all that a page loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.images = set(), [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.update({attributes.get("id"), attributes.get("name")})
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        if tag in ("script", "img", "iframe") and "src" in attributes:
            self.loads.append(attributes["src"])
        if tag == "link" and attributes.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(attributes["href"])


@pytest.fixture(scope="module")
def parsed():
    return {path: Page(path) for path in PAGES}


@pytest.mark.slow
def test_the_book_is_built():
    assert {path.stem for path in NOTEBOOKS} <= {path.stem for path in PAGES}
    assert (HTML / "index.html").exists()


@pytest.mark.slow
def test_links_lead_somewhere(parsed):
    missing = []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                missing.append((path.name, link))
            elif parts.fragment and target.suffix == ".html":
                target_page = parsed.get(target) or Page(target)
                if unquote(parts.fragment) not in target_page.ids:
                    missing.append((path.name, link))
    assert not missing


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(parsed):
    loads = [(path.name, load) for path, page in parsed.items() for load in page.loads]
    assert loads and not [entry for entry in loads if urlsplit(entry[1]).scheme in ("http", "https")]


@pytest.mark.slow
def test_figures_have_alt_texts(parsed):
    images = [image for page in parsed.values() for image in page.images if "_images" in image.get("src", "")]
    figures = [image for image in images if "data-part" not in image]  # the first part says what all of them show
    assert len(figures) >= 6 and all(len(image.get("alt", "")) > 60 for image in figures)


# --- Pages, in a browser -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=name)
@pytest.mark.parametrize("width, theme", [(1280, "light"), (390, "dark")], ids=["desktop", "phone-dark"])
def test_page_offline(chromium, path, width, theme):
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)
    page = context.new_page()
    requests, errors = Counter(), []

    def only_local(route):
        local = urlsplit(route.request.url).scheme in ("file", "data", "blob")
        requests[local] += 1
        if not local:
            errors.append(route.request.url)
        return route.continue_() if local else route.abort()

    page.route("**/*", only_local)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("window.MathJax === undefined || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("window.MathJax && MathJax.startup.promise")
    if theme == "dark":
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
    written = page.evaluate("document.querySelectorAll('.math').length")
    typeset = page.evaluate("document.querySelectorAll('.math mjx-container').length")
    assert page.evaluate("document.querySelectorAll('mjx-merror').length") == 0
    assert typeset >= written > 0 or written == typeset == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert page.evaluate(broken) == []
    if theme == "dark" and (box := page.query_selector(".check, .ledger td, .figure-table td")):
        assert contrast(page, box) > 4.5, "text on a dark page must be readable"
    assert errors == [] and requests[True] > 5
    context.close()


# --- The workflow ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_rebuilt_without_a_change():
    command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--dry-run", "--cores", "1"]
    lock = os.environ.get("KDLIB_LOCK", "requirements/requirements.lock")
    run = subprocess.run(
        [*command, "--quiet", "host", "--config", "scale=quick", f"lock={lock}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "Nothing to be done" in run.stdout + run.stderr


def test_a_failing_chapter_is_kept_and_named(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("raise RuntimeError('on purpose')")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "bad.ipynb")
    (tmp_path / "key.json").write_text('{"code cells": "1", "parameters": {}}')
    command = [sys.executable, "-m", "workflow.execute", str(tmp_path / "bad.ipynb"), str(tmp_path / "out/bad.ipynb")]
    command += ["--key", str(tmp_path / "key.json")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert run.returncode != 0 and "on purpose" in run.stderr and "bad.ipynb failed in cell" in run.stderr
    assert "bad: executing (for the first time)" in run.stdout
    kept = tmp_path / "out" / "bad.failed.ipynb"
    assert "on purpose" in json.dumps(json.loads(kept.read_text()))
    assert not (tmp_path / "out" / "bad.ipynb").exists() and not (tmp_path / "out" / "bad.key.json").exists()
