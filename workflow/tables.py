"""Put tables together: `python -m workflow.tables OUTPUT.csv [EXPERIMENT:]INPUT.csv...`.

Rows are as they are, with the columns of all, and one for the experiment where one is named.
"""

import sys
from pathlib import Path

from kdlib.tools.files import read_rows, write_rows


def gather(output: Path, inputs: list[tuple[str, Path]]):
    """Write the rows of `inputs`, `(experiment or "", path)`, to `output`, whole or not at all."""
    if empty := [str(path) for _, path in inputs if not path.stat().st_size]:
        sys.exit(f"empty tables: {', '.join(empty)}; delete them, and they are made again")
    rows = []
    for experiment, path in inputs:
        about = {"experiment": experiment} if experiment else {}
        rows += [{**about, **row} for row in read_rows(path)]
    write_rows(output, rows)


def _named(argument: str) -> tuple[str, Path]:
    experiment, colon, path = argument.partition(":")
    return (experiment, Path(path)) if colon else ("", Path(argument))


if __name__ == "__main__":
    gather(Path(sys.argv[1]), [_named(argument) for argument in sys.argv[2:]])
