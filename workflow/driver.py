"""Run Snakemake on this repository, one at a time. What every call has in common is in `profiles/default`."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def snakemake(words: list[str], environment: dict[str, str] | None = None) -> int:
    """Run the workflow with these words added to the command line; return its exit status.

    A second run at the same time is refused.
    """
    build = ROOT / "_build"
    build.mkdir(exist_ok=True)
    # Snakemake's own lock outlives a killed run and then blocks the next; the kernel drops this one with its process.
    with open(build / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another build is running in this folder: wait for it, or stop it")
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            "workflow/Snakefile",
            "--directory",
            str(ROOT),
            *words,
        ]
        environment = {**(environment or os.environ)}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # the rules' `python`
        # Snakemake holds the lock, too.
        return subprocess.run(command, cwd=ROOT, env=environment, pass_fds=[handle.fileno()]).returncode
