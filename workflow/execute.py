"""Execute one notebook with papermill: `python -m workflow.execute NOTEBOOK OUTPUT --key FILE [--parameters JSON]`.

The output appears under its name only when the whole notebook has run; a notebook that fails is kept beside it as
`OUTPUT.failed.ipynb`, with the error in it. The key (see `keys.py`) is kept beside the output as `OUTPUT.key.json`.
"""

import argparse
import fcntl
import json
import os
import time
from pathlib import Path

import papermill

from kdlib.tools.files import write_whole
from workflow import slots

TIME_IS_OVER = 3  # exit status


def reason(now: dict, before: dict | None) -> str:
    """Why something with the key `now` is executed, if the last execution had the key `before`."""
    if before is None:
        return "for the first time"
    changed = [name for name in sorted({*now, *before}) if now.get(name) != before.get(name)]
    if not changed:
        return "a table or a record that it reads changed"
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return ", ".join(changed[:3]) + more + " changed"


def execute(notebook: Path, output: Path, key: dict) -> float:
    """Run `notebook` with the parameters in its key; return the seconds it took."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # Where a killed build left an execution of this notebook running, wait for its end: the two would write one file.
    running = open(output.with_suffix(".lock"), "w")
    fcntl.flock(running, fcntl.LOCK_EX)
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    partial = output.with_suffix(".partial.ipynb")
    kept = output.with_suffix(".key.json")
    why = reason(key, json.loads(kept.read_text()) if kept.exists() else None)
    print(f"{output.stem}: executing ({why})", flush=True)
    try:
        executed = papermill.execute_notebook(
            notebook,
            partial,
            parameters=key["parameters"],
            kernel_name="python3",
            cwd=notebook.parent,
            log_output=False,
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "Paused":  # not a failure: what has been trained is kept, and the next call goes on
            partial.unlink()
            print(f"{output.stem}: {error.evalue}", flush=True)
            raise SystemExit(TIME_IS_OVER) from None
        partial.replace(failed)
        raise SystemExit(
            f"{notebook} failed in cell {error.cell_index}: {error.ename}: {error.evalue}\nsee {failed}"
        ) from None
    partial.replace(output)
    write_whole(kept, json.dumps(key, indent=1))
    return executed.metadata.papermill.duration


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--key", type=Path, required=True, help="what it is made from, and parameters among that")
    parser.add_argument("--parameters", default="{}", help="more of them; JSON")
    parser.add_argument("--gpu", action="store_true", help="wait for a GPU of its own, where there are GPUs")
    options = parser.parse_args()
    if time.time() > float(os.environ.get("KDLIB_UNTIL", "inf")):
        raise SystemExit(TIME_IS_OVER)
    if options.gpu:
        os.environ["KDLIB_DEVICE"] = "gpu"  # a job that should be on a GPU and is not, fails
        flags = os.environ.get("XLA_FLAGS", "")
        if "deterministic" not in flags:  # so that a run that was killed ends as one that was not
            os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    jobs = os.environ.get("KDLIB_JOBS")
    locks = slots.settle(int(jobs) if jobs else None, need_gpu=options.gpu)
    key = json.loads(options.key.read_text())
    key["parameters"] |= json.loads(options.parameters)
    seconds = execute(options.notebook, options.output, key)
    print(f"{options.output.stem}: {seconds:.0f} s", flush=True)
