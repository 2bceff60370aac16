"""Execute one notebook with papermill: `python -m workflow.execute NOTEBOOK OUTPUT [--scale FILE] [--parameters JSON]`.

The output appears under its name only when the whole notebook has run; a notebook that fails is kept beside it as
`OUTPUT.failed.ipynb`, with the error in it.
"""

import argparse
import fcntl
import json
import os
from pathlib import Path

import papermill
import yaml

from workflow import slots


def execute(notebook: Path, output: Path, parameters: dict) -> float:
    """Run `notebook` with `parameters`; return the seconds it took."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # Where a killed build left an execution of this notebook running, wait for its end: the two would write one file.
    running = open(output.with_suffix(".lock"), "w")
    fcntl.flock(running, fcntl.LOCK_EX)
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    partial = output.with_suffix(".partial.ipynb")
    print(f"{output.stem}: executing", flush=True)
    try:
        executed = papermill.execute_notebook(
            notebook, partial, parameters=parameters, kernel_name="python3", cwd=notebook.parent, log_output=False,
            progress_bar=False,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        partial.replace(failed)
        raise SystemExit(
            f"{notebook} failed in cell {error.cell_index}: {error.ename}: {error.evalue}\nsee {failed}"
        ) from None
    partial.replace(output)
    return executed.metadata.papermill.duration


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scale", type=Path, help="a scale's file: the parameters under the notebook's name")
    parser.add_argument("--parameters", default="{}", help="JSON")
    parser.add_argument("--gpu", action="store_true", help="wait for a GPU of its own, where there are GPUs")
    options = parser.parse_args()
    jobs = os.environ.get("KDLIB_JOBS")
    locks = slots.settle(int(jobs) if jobs else None, need_gpu=options.gpu)
    of_scale = (yaml.safe_load(options.scale.read_text()) or {}).get(options.notebook.stem, {}) if options.scale else {}
    seconds = execute(options.notebook, options.output, {**of_scale, **json.loads(options.parameters)})
    print(f"{options.output.stem}: {seconds:.0f} s", flush=True)
