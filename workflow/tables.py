"""Put tables together: `python -m workflow.tables OUTPUT.csv INPUT.csv...`; rows as they are, columns of all."""

import sys
from pathlib import Path

from kdlib.tools.files import read_rows, write_rows


def gather(output: Path, inputs: list[Path]):
    """Write the rows of `inputs` to `output`, whole or not at all."""
    rows = [row for path in inputs for row in read_rows(path)]
    if empty := [str(path) for path in inputs if not path.stat().st_size]:
        sys.exit(f"empty tables: {', '.join(empty)}; delete them, and they are made again")
    write_rows(output, rows)


if __name__ == "__main__":
    gather(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
