"""The best use of a GPU that is lent for a while: `make gpu ACCELERATOR=cuda MINUTES=20 DATA="cifar10-jpeg=PATH"`.

In this order: what it computes against the CPU and how fast it trains (`benchmarks/device.py`), the kernel engine
(`benchmarks/ntk.py`), then the campaign of a scale from its top. All of it ends in the minutes that are given, and goes
on where it was at the next call. Images are looked for first, so that no minute is spent before one that is missing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from workflow import fetch, plan
from workflow.driver import ROOT

BENCHMARKS = (
    ["benchmarks/device.py"],
    ["benchmarks/ntk.py", "--results", "benchmarks/results/ntk-device.json", "--repeats", "3"],
)
CHECK = ["-c", "from kdlib.tools.provenance import require_device; require_device()"]


def run(options) -> int:
    """Run all of it; 0 if nothing failed, in time or not."""
    until = time.time() + 60 * options.minutes
    fetch.fetch(options.scale, plan.save_places(options.scale, options.data))
    environment = {**os.environ, "KDLIB_DEVICE": "gpu"} if "cuda" in options.lock else dict(os.environ)
    if ended(CHECK, environment, until):
        return 1  # it has said what is missing
    failed = [words[0] for words in BENCHMARKS if ended(words, environment, until)]
    left = (until - time.time()) / 60
    if left > 0:
        words = ["-m", "workflow.reproduce", "--scale", options.scale, "--lock", options.lock, "--share"]
        words += [str(options.share), *(["--minutes", f"{left:g}"] if options.minutes < float("inf") else [])]
        if ended(words, environment, float("inf")):  # it ends in time by itself, and keeps more so
            failed.append("the campaign")
    else:
        print("the minutes are over: the same command goes on from here")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def ended(words: list[str], environment: dict[str, str], until: float) -> int:
    """Run Python with these words until then at the latest; its exit status, 0 if the time was over."""
    left = until - time.time()
    try:
        return subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, timeout=max(left, 0.0) if left < 1e9 else None
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"{words[0]}: the minutes are over; what it has measured is kept", flush=True)
        return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="core")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for all of it; else until it is done")
    parser.add_argument("--share", type=int, default=1, help="jobs on one GPU")
    parser.add_argument("--data", nargs="*", default=[], metavar="NAME=PATH", help="where a task's images are")
    parser.add_argument("--lock", default="requirements/requirements.lock", help="the environment's lock")
    sys.exit(run(parser.parse_args()))
