"""Files that appear whole or not at all, small tables, and where this repository keeps what its runs write."""

from __future__ import annotations

import csv
import io
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdlib.tools.provenance import ROOT


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file under another name, put it on the disk, then rename it: no kill and no power cut leaves half of it.

    Text is written as UTF-8. Folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        with open(partial, "wb") as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; a row may lack columns that others have."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as texts."""
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def records_folder() -> Path:
    """Where a chapter's records and tables are kept: `$KDLIB_RECORDS`, or `_build/quick/records` of the repository."""
    return Path(os.environ.get("KDLIB_RECORDS") or ROOT / "_build" / "quick" / "records")
