"""Store executed outputs in the notebooks of `book/`, without what changes at every run, and the README's figure.

`make outputs` calls it. Nothing is rewritten that has not visibly changed.
"""

import argparse
import base64
import io
from pathlib import Path

import nbformat
import numpy as np
from PIL import Image

from workflow import keys
from workflow.notebooks import is_given, with_outputs

ROOT = Path(__file__).resolve().parent.parent
README_FIGURE = "fig-images"  # name of the figure that the README shows
TOLERANCE = 2  # of a pixel's 256 levels: what fonts and rounding may do
COLOURS = 128  # of a stored figure: a third of the bytes, and nothing that an eye sees


def stored(executed: Path, committed: Path) -> nbformat.NotebookNode:
    """The committed notebook with the outputs of `executed`, stripped of run times and papermill's notes."""
    before = [cell.get("outputs", []) for cell in nbformat.read(committed, as_version=4).cells]
    notebook = with_outputs(committed, executed)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook.cells = [cell for cell in notebook.cells if not is_given(cell)]
    for cell, old in zip(notebook.cells, before, strict=True):
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in ("tags", "mystnb")}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("metadata", {}).pop("needs_background", None)
            for output in cell.outputs:
                if picture := output.get("data", {}).get("image/png"):
                    output["data"]["image/png"] = base64.b64encode(small(base64.b64decode(picture))).decode()
            keep_images(cell.outputs, old)
    return notebook


def small(png: bytes) -> bytes:
    """The picture with a palette of its own; as it is, if that is not smaller."""
    content = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return min(png, content.getvalue(), key=len)


def keep_images(outputs: list, old: list):
    """Put old images in the place of new ones that look the same: their bytes differ between versions and machines."""
    for output, before in zip(outputs, old, strict=False):
        new, was = (of.get("data", {}).get("image/png") for of in (output, before))
        if new and was and look_the_same(base64.b64decode(new), base64.b64decode(was)):
            output["data"]["image/png"] = was


def look_the_same(first: bytes, second: bytes) -> bool:
    """Whether two PNGs have the same size, and no pixel that differs by more than rounding."""
    one, other = (np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), dtype=int) for png in (first, second))
    return one.shape == other.shape and bool(np.abs(one - other).max() <= TOLERANCE)


def store(executed: Path, committed: Path):
    """Write the outputs of `executed` into `committed`, and the README's figure if it is among them."""
    notebook = stored(executed, committed)
    write_if_changed(committed, nbformat.writes(notebook).encode() + b"\n")
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == README_FIGURE:
            for picture in (output.get("data", {}).get("image/png") for output in cell.outputs):
                if picture:
                    write_if_changed(committed.parent / "transfer_risk.png", base64.b64decode(picture))


def write_if_changed(path: Path, content: bytes):
    """Leave a file alone that holds this already."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="quick")
    scale = parser.parse_args().scale
    for page in keys.pages():
        notebook = keys.notebook_of(page)
        store(ROOT / "_build" / scale / "notebooks" / notebook.name, notebook)
