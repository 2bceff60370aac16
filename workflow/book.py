"""Build the book: run what is out of date through Snakemake, then say where the book is and how long it took.

With `--chapter`, one page: execute what it needs, and render a preview.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from workflow import driver, keys, plan, render

BUILD = driver.ROOT / "_build"


def build(scale: str, jobs: int, lock: str, targets: list[str]) -> int:
    """Run the workflow up to `targets`, all by default; return its exit status."""
    words = ["--cores", str(jobs), "--config", f"scale={scale}", f"lock={lock}", "--", *targets]
    return driver.snakemake(words, {**os.environ, "KDLIB_JOBS": str(jobs)})


def summarise(scale: str):
    """Print how long each chapter took when it was last executed, and where the book is."""
    seconds = {
        page: json.loads(_executed(scale, page).read_text())["metadata"]["papermill"]["duration"]
        for page in keys.pages()
    }
    print("\nSeconds to execute each chapter, when it was last executed:")
    for name, duration in seconds.items():
        print(f"  {name:<28}{duration:7.1f}")
    print(f"  {'all':<28}{sum(seconds.values()):7.1f}")
    print(f"\nThe book: {BUILD / 'html' / 'index.html'}")


def _executed(scale: str, page: str) -> Path:
    return BUILD / scale / "notebooks" / f"{page}.ipynb"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--jobs", type=int, default=1, help="chapters executed at a time")
    parser.add_argument("--lock", default="requirements/requirements.lock", help="the environment's lock")
    parser.add_argument("--chapter", metavar="NAME", help="only this page")
    arguments = parser.parse_args()
    plan.read(arguments.scale)  # says what is wrong with a scale before anything runs
    page = arguments.chapter
    if page is not None and page not in keys.pages():
        sys.exit(f"no page {page!r} in _toc.yml: the pages are {', '.join(keys.pages())}")
    targets = [str(_executed(arguments.scale, page).relative_to(driver.ROOT))] if page else []
    if status := build(arguments.scale, arguments.jobs, arguments.lock, targets):
        sys.exit(status)
    if page:
        print(f"The page: {render.preview(arguments.scale, page)}")
    else:
        summarise(arguments.scale)
