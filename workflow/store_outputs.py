"""Store executed notebooks' outputs in `book/`, without what changes at every run, and the README's figure.

`make outputs` calls it.
"""

import base64
import sys
from pathlib import Path

import nbformat

README_FIGURE = "fig-images"  # name of the figure that the README shows


def store(executed: Path, committed: Path):
    """Write `executed`, stripped of run times and papermill's notes, over `committed`."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in ("tags", "mystnb")}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("metadata", {}).pop("needs_background", None)
                if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == README_FIGURE:
                    picture = output.get("data", {}).get("image/png")
                    if picture:
                        (committed.parent / "transfer_risk.png").write_bytes(base64.b64decode(picture))
    nbformat.write(notebook, committed)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        store(Path(argument), Path("book") / Path(argument).name)
