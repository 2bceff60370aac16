"""Fetch the images of a scale before its jobs start: `make data SCALE=...`.

Compute nodes often have no network; what is fetched here lies in `$KDLIB_DATA`, or in the user's cache, where jobs look
for it. Each file is verified. Images that are given by a path (`DATA="name=path"`) are read once instead.
"""

import argparse
import sys

from kdlib.data import sources
from workflow import plan


def fetch(scale: str, places: dict[str, str]) -> None:
    """Fetch or check every task's images; ends the process with all that is missing."""
    names = sorted({fields["data"] for part in plan.parts(scale).values() for fields in part["tasks"].values()})
    if not names:
        sys.exit(f"the scale {scale!r} has no campaign section")
    missing = []
    for name in names:
        if name in places:
            print(f"{name}: {places[name]}")
        elif name not in sources.FILES:
            missing.append(f'{name}: say where it is, DATA="{name}=/path"')
        else:
            try:
                found = sources.locate(name)
            except (sources.DataUnavailableError, ValueError) as error:
                missing.append(f"{name}: {error}")
            else:
                print(f"{name}: {', '.join(map(str, found))}")
    if missing:
        sys.exit("\n".join(missing))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--data", nargs="*", default=[], metavar="NAME=PATH", help="where a task's images are")
    options = parser.parse_args()
    fetch(options.scale, plan.save_places(options.scale, options.data))
