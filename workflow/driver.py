"""Run Snakemake on this repository, one at a time. What every call has in common is in `profiles/default`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOM = 50e6  # bytes: with fewer left, what failed has failed for that


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
        environment.setdefault("XDG_CACHE_HOME", str(cache_folder(environment)))
        # Snakemake holds the lock, too.
        with subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[handle.fileno()]) as process:
            try:
                status = process.wait()
            except KeyboardInterrupt:
                process.wait()  # it has had the signal, too, and ends what it has started
                sys.exit("stopped: the same command goes on from here")
    free = shutil.disk_usage(build).free
    if status and free < ROOM:
        left = f"{free / 1e6:.0f} MB left"
        print(f"the disk is full ({left}): make room; the same command goes on from here", file=sys.stderr)
    return status


def cache_folder(environment: dict[str, str]) -> Path:
    """Where Snakemake keeps its cache: `~/.cache`, or a folder of the build's where the home cannot be written to."""
    home = Path(environment.get("HOME", "/nonexistent")) / ".cache"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if os.access(home, os.W_OK):
            return home
    except OSError:
        pass
    return ROOT / "_build" / "cache"
