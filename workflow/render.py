"""Render the executed notebooks: `python -m workflow.render NOTEBOOK...`.

The book's source is staged in `_build/source` with the executed notebooks in place of the committed ones, so that
the repository's files are not touched; warnings are errors.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "_build" / "source"


def render(notebooks: list[Path]):
    """Render the book with these executed notebooks into `_build/html`."""
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, STAGE)
    shutil.copytree(ROOT / "book", STAGE / "book", ignore=shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints"))
    for notebook in notebooks:
        shutil.copy(notebook, STAGE / "book")
    shutil.rmtree(ROOT / "_build" / "html", ignore_errors=True)
    command = ["jupyter-book", "build", str(STAGE), "--path-output", str(ROOT), "--all", "-W", "--keep-going", "-q"]
    if subprocess.run(command).returncode:
        sys.exit("the book did not render: the warnings above are errors")


if __name__ == "__main__":
    render([Path(argument) for argument in sys.argv[1:]])
