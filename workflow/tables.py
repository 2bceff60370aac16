"""Put tables together: `python -m workflow.tables OUTPUT.csv INPUT.csv...`; rows as they are, columns of all."""

import csv
import sys
from pathlib import Path


def gather(output: Path, inputs: list[Path]):
    """Write the rows of `inputs` to `output`, whole or not at all."""
    rows = [row for path in inputs for row in csv.DictReader(path.open(newline=""))]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    with open(partial, "w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(output)


if __name__ == "__main__":
    gather(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
