"""Two builds compared: the digits that numbers share, verdicts that differ, figures that look different."""

import base64
import io
import json
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image

from kdlib.ledger import Ledger, Twin, read_records
from kdlib.tools.provenance import ROOT
from workflow import compare

BAD = Twin("broken", [2.0], [1.0])


@pytest.mark.parametrize(
    "a, b, digits", [(1.0, 1.0, 15), (1.0, 1.001, 3), (1.0, -1.0, 0), (0.5, float("nan"), 0), (1e-14, 3e-14, 15)]
)
def test_shared_digits(a, b, digits):
    assert compare.shared_digits(a, b, least=1e-13) == digits


def build(folder, value, picture, title="x"):
    """A build with one check and one page: a number that is quoted, a picture."""
    Ledger("transfer_risk", folder=folder / "records").bound("R1", title, [value], [1.0], twin=BAD)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    png = {"image/png": base64.b64encode(content.getvalue()).decode()}
    glued = nbformat.v4.new_output(
        "display_data",
        {"application/papermill.record/text/plain": str(value)},
        metadata={"scrapbook": {"name": "risk"}},
    )
    cell = nbformat.v4.new_code_cell("", outputs=[glued, nbformat.v4.new_output("display_data", png)])
    (folder / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "notebooks" / "transfer_risk.ipynb")
    return folder


def test_two_builds(tmp_path, capsys):
    plain = np.zeros((8, 8, 3), np.uint8)
    marked = plain.copy()
    marked[:2] = 200
    here, there = build(tmp_path / "a", 0.5, plain), build(tmp_path / "b", 0.501, marked)
    assert compare.compare(here, there) == 0
    said = capsys.readouterr().out
    assert "0 verdicts differ" in said and "2 digits  R1 (x), measured median: 0.5 here, 0.501 there" in said
    assert "2 digits  transfer_risk: risk" in said and "transfer_risk, figure 1: 25 % of the pixels differ" in said


def test_a_verdict_that_differs(tmp_path, capsys):
    plain = np.zeros((8, 8, 3), np.uint8)
    here, there = build(tmp_path / "a", 0.5, plain), build(tmp_path / "b", 0.5, plain)
    path = there / "records" / "transfer_risk.json"
    records = json.loads(path.read_text())
    records[0]["verdict"] = "fails"
    path.write_text(json.dumps([*records, {**records[0], "title": "another"}]))
    assert compare.compare(here, there) == 1
    said = capsys.readouterr().out
    assert "fails there" in said
    assert "R1 (another): only there" in said and len(read_records(there / "records")) == 2


def test_what_is_no_build_is_refused(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "workflow.compare", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert run.returncode != 0 and "is not a build" in run.stderr
