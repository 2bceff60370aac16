"""Put tables together: `python -m workflow.tables OUTPUT.csv [EXPERIMENT:]INPUT.csv...`; or publish a scale's:
`python -m workflow.tables --publish SCALE`.

Rows are as they are, with the columns of all, and one for the experiment where one is named. What is published replaces
the rows of its own experiments only: others may have been run elsewhere.
"""

import sys
from pathlib import Path

from kdlib.experiments import results
from kdlib.tools.files import read_rows, write_rows

ROOT = Path(__file__).resolve().parent.parent


def gather(output: Path, inputs: list[tuple[str, Path]]):
    """Write the rows of `inputs`, `(experiment or "", path)`, to `output`, whole or not at all."""
    if empty := [str(path) for _, path in inputs if not path.stat().st_size]:
        sys.exit(f"empty tables: {', '.join(empty)}; delete them, and they are made again")
    rows = []
    for experiment, path in inputs:
        about = {"experiment": experiment} if experiment else {}
        rows += [{**about, **row} for row in read_rows(path)]
    write_rows(output, rows)


def publish(scale: str):
    """Copy a scale's tables to `results/SCALE`."""
    for path in sorted((ROOT / "_build" / scale / "records").glob("*.csv")):
        rows = results.texts(path.stem, scale)
        write_rows(ROOT / "results" / scale / path.name, rows)
        print(f"results/{scale}/{path.name}: {len(rows)} rows")


def _named(argument: str) -> tuple[str, Path]:
    experiment, colon, path = argument.partition(":")
    return (experiment, Path(path)) if colon else ("", Path(argument))


if __name__ == "__main__":
    if sys.argv[1] == "--publish":
        sys.exit(publish(sys.argv[2]))
    gather(Path(sys.argv[1]), [_named(argument) for argument in sys.argv[2:]])
