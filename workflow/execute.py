"""Execute one notebook with papermill: `python -m workflow.execute NOTEBOOK OUTPUT SCALE.yaml`.

The output appears under its name only when the whole notebook has run; a notebook that fails is kept beside it as
`OUTPUT.failed.ipynb`, with the error in it.
"""

import fcntl
import sys
from pathlib import Path

import papermill
import yaml


def execute(notebook: Path, output: Path, parameters: dict) -> float:
    """Run `notebook` with `parameters`; return the seconds it took."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # Where a killed build left an execution of this notebook running, wait for its end: the two would write one file.
    running = open(output.with_suffix(".lock"), "w")
    fcntl.flock(running, fcntl.LOCK_EX)
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    partial = output.with_suffix(".partial.ipynb")
    print(f"{notebook.stem}: executing", flush=True)
    try:
        executed = papermill.execute_notebook(
            notebook, partial, parameters=parameters, kernel_name="python3", cwd=notebook.parent, log_output=False
        )
    except papermill.PapermillExecutionError as error:
        partial.replace(failed)
        raise SystemExit(
            f"{notebook} failed in cell {error.cell_index}: {error.ename}: {error.evalue}\nsee {failed}"
        ) from None
    partial.replace(output)
    return executed.metadata.papermill.duration


if __name__ == "__main__":
    source, target, scale = map(Path, sys.argv[1:])
    of_all = yaml.safe_load(scale.read_text()) or {}
    seconds = execute(source, target, of_all.get(source.stem, {}))
    print(f"{source.stem}: {seconds:.0f} s", flush=True)
