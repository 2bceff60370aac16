"""A campaign killed (-9) again and again, then finished: the same rows as one that was left alone. `make kills`.

A third of the kills hits the driver alone, a third one of the jobs, a third everything at once.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from campaign import Place

CHANGING = ("seconds", "images_per_second", "finished", "first_seconds")  # of a row: what a clock says


def rows(place: Place) -> list[list[tuple]]:
    """The tables, without what a clock says, in an order of their own."""
    return [
        sorted(tuple(sorted((k, v) for k, v in row.items() if not k.endswith(CHANGING))) for row in table)
        for table in place.tables()
    ]


def kill(driver, draw: random.Random) -> str:
    """Kill a part of what is running; everything ends before this returns. What was killed."""
    what = draw.choice(["the driver", "a job", "everything"])
    try:
        below = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return "nothing: it had ended"
    chosen = {"the driver": [], "a job": draw.sample(below, min(1, len(below))), "everything": below}[what]
    for process in chosen:
        _kill(process)
    if what != "a job":
        driver.kill()
    else:
        driver.wait(timeout=300)
    for process in below:  # orphans of a driver: they may end by themselves
        try:
            process.wait(timeout=60)
        except psutil.TimeoutExpired:
            _kill(process)
    driver.wait()
    return what


def _kill(process: psutil.Process):
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def main():
    """Count kills, compare tables; fail where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    with TemporaryDirectory() as folder:
        alone = Place(Path(folder) / "alone", seeds=[0, 1])
        alone.finish()
        struck, hits = Place(Path(folder) / "struck", seeds=[0, 1]), []
        while len(hits) < asked.kills:
            driver = struck.reproduce()
            time.sleep(draw.uniform(3, 40))
            ended = driver.poll() is not None
            hits.append("nothing: it had ended" if ended else kill(driver, draw))
            if ended and driver.returncode == 0:  # all is done: begin the next round with one more seed
                struck.write(seeds=list(range(2 + len(hits))))
                hits.pop()
            else:
                print(f"{len(hits)}: {hits[-1]}", flush=True)
        struck.write(seeds=[0, 1])
        struck.finish()
        same = rows(alone) == rows(struck)
        left = list(struck.folder.glob("_build/tiny/**/*.partial"))
        counts = [len(table) for table in rows(struck)]
        print(
            f"{len(hits)} kills; {counts} rows; {'the same' if same else 'DIFFERENT'}; {len(left)} half-written files"
        )
        sys.exit(not same)


if __name__ == "__main__":
    main()
