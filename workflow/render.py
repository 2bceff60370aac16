"""Render the book: `python -m workflow.render [--scale SCALE]`.

The book's source is staged with the executed outputs in the committed notebooks, so that the repository's files are not
touched. The whole book is rendered afresh and its warnings are errors. A preview (`make chapter`) reads only what has
changed since the last one and stands in a folder of its own: other pages there may lag behind, say with a number of a
figure.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from workflow import keys
from workflow.notebooks import OutOfDate, with_outputs

ROOT = Path(__file__).resolve().parent.parent
PREVIEW = ROOT / "_build" / "preview"
JUPYTER_BOOK = str(Path(sys.executable).with_name("jupyter-book"))


def contents(scale: str, *, stored: bool = False) -> dict[str, bytes]:
    """What the book is rendered from: `{path: content}`.

    With `stored`, a page that has not been executed since its code changed is shown with the outputs in the repository.
    """
    found = {name: (ROOT / name).read_bytes() for name in ("_config.yml", "_toc.yml")}
    for path in (ROOT / "book").rglob("*"):
        hidden = any(part in (".ipynb_checkpoints", "__pycache__") for part in path.parts)
        if path.is_file() and path.suffix != ".ipynb" and not hidden:
            found[str(path.relative_to(ROOT))] = path.read_bytes()
    for path in (ROOT / "results").glob("*/*.csv"):  # the pages lead to the tables that they read
        found[f"book/_static/tables/{path.parent.name}/{path.name}"] = path.read_bytes()
    for page in keys.pages():
        committed = keys.notebook_of(page)
        try:
            notebook = with_outputs(committed, ROOT / "_build" / scale / "notebooks" / committed.name)
        except (OutOfDate, FileNotFoundError) as error:
            if not stored:
                sys.exit(str(error))
            notebook = nbformat.read(committed, as_version=4)
        found[f"book/{committed.name}"] = nbformat.writes(notebook).encode()
    return found


def stage(folder: Path, files: dict[str, bytes]) -> set[str]:
    """Make a folder hold these files and no others; return which have changed. Those that have not keep their times."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    changed = there - set(files)
    for name in changed:
        (folder / name).unlink()
    for name, content in files.items():
        path = folder / name
        if name not in there or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            changed.add(name)
    return changed


def render(scale: str):
    """Render the book with what was executed at a scale into `_build/html`."""
    source = ROOT / "_build" / "source"
    stage(source, contents(scale))
    shutil.rmtree(ROOT / "_build" / "html", ignore_errors=True)
    command = [JUPYTER_BOOK, "build", str(source), "--path-output", str(ROOT), "--all", "-W", "--keep-going", "-q"]
    if subprocess.run(command).returncode:
        sys.exit("the book did not render: the warnings above are errors")


def preview(scale: str, page: str) -> Path:
    """Render what has changed since the last preview; return where the page is."""
    changed = stage(PREVIEW / "source", contents(scale, stored=True))
    command = [JUPYTER_BOOK, "build", str(PREVIEW / "source"), "--path-output", str(PREVIEW), "--keep-going", "-q"]
    if not all(name.endswith((".ipynb", ".md")) for name in changed):  # what all pages are made with
        command.append("--all")
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        sys.exit("the page did not render")
    return PREVIEW / "_build" / "html" / "book" / f"{page}.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="quick")
    render(parser.parse_args().scale)
