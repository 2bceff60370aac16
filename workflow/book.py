"""Build the book: run what is out of date through Snakemake, then say where the book is and how long it took."""

import argparse
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"


def build(scale: str, jobs: int, lock: str, touch: bool = False) -> int:
    """Run the workflow; return its exit status. A second build at the same time is refused.

    `touch` marks what is there as up to date instead: for when only stored outputs changed.
    """
    BUILD.mkdir(exist_ok=True)
    # Snakemake's own lock outlives a killed run and then blocks the next; the kernel drops this one with its process.
    with open(BUILD / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another build is running in this folder: wait for it, or stop it")
        command = ["snakemake", "--snakefile", "workflow/Snakefile", "--directory", str(ROOT), "--cores", str(jobs)]
        command += ["--nolock", "--rerun-incomplete", "--quiet", "rules", "host", "reason"]
        command += ["--config", f"scale={scale}", f"lock={lock}"]
        if touch:
            command.append("--touch")
        return subprocess.run(
            command, cwd=ROOT, env={**os.environ, "KDLIB_JOBS": str(jobs)}, pass_fds=[handle.fileno()]
        ).returncode  # Snakemake holds the lock, too


def summarise(scale: str):
    """Print how long each chapter took when it was last executed, and where the book is."""
    seconds = {}
    for path in sorted((BUILD / scale / "notebooks").glob("*.ipynb")):
        if "." not in path.stem:  # not what a failed or a killed run left
            seconds[path.stem] = json.loads(path.read_text())["metadata"]["papermill"]["duration"]
    print("\nSeconds to execute each chapter, when it was last executed:")
    for name, duration in seconds.items():
        print(f"  {name:<24}{duration:7.1f}")
    print(f"  {'all':<24}{sum(seconds.values()):7.1f}")
    print(f"\nThe book: {BUILD / 'html' / 'index.html'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--jobs", type=int, default=1, help="chapters executed at a time")
    parser.add_argument("--lock", default="requirements/requirements.lock", help="the environment's lock")
    parser.add_argument("--touch", action="store_true", help="mark what is there as up to date, run nothing")
    arguments = parser.parse_args()
    if not (ROOT / "workflow" / "scales" / f"{arguments.scale}.yaml").exists():
        scales = ", ".join(sorted(path.stem for path in (ROOT / "workflow" / "scales").glob("*.yaml")))
        sys.exit(f"no scale {arguments.scale!r}: choose from {scales}")
    status = build(arguments.scale, arguments.jobs, arguments.lock, arguments.touch)
    if status:
        sys.exit(status)
    if not arguments.touch:
        summarise(arguments.scale)
