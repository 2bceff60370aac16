"""Files that appear whole or not at all, small tables, and where this repository keeps what its runs write."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import socket
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.tools.provenance import ROOT

PART = 15 * 2**20  # bytes: files that can be carried where larger ones cannot
_SEAL = b"kdlib sha256 "  # before a content: its digest follows
_LIST = b"kdlib parts\n"


def sha256_of(*arrays: np.ndarray) -> str:
    """Of the arrays' bytes, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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


def sealed(content: bytes) -> bytes:
    """Content behind its own digest, so that a single bit that has changed is noticed."""
    return _SEAL + hashlib.sha256(content).hexdigest().encode() + content


def unsealed(path: str | Path, content: bytes) -> bytes:
    """What was sealed; ValueError if it has changed. Content without a seal, of an older version, is as it is."""
    if not content.startswith(_SEAL):
        return content
    digest, rest = content[len(_SEAL) :][:64], content[len(_SEAL) + 64 :]
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        raise ValueError(f"{path} is damaged: remove it to begin anew")
    return rest


def write_in_parts(path: str | Path, content: bytes, limit: int = PART) -> None:
    """Write `content` as files of at most `limit` bytes: `path`, or beside it `<name>.<digest>-<k>`, which it lists.

    The list appears last, whole: a kill leaves the old content or the new one, and parts that the next call removes.
    """
    path = Path(path)
    parts = [content[start : start + limit] for start in range(0, len(content), limit)]
    names = []
    if len(parts) <= 1:
        content = sealed(content)
    else:
        digest = hashlib.sha256(content).hexdigest()
        names = [f"{path.name}.{digest[:16]}-{k}" for k in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            write_whole(path.with_name(name), part)
        content = _LIST + json.dumps({"sha256": digest, "parts": names}).encode()
    write_whole(path, content)
    for old in _parts_of(path):
        if old.name not in names:
            old.unlink(missing_ok=True)


def read_in_parts(path: str | Path) -> bytes:
    """What `write_in_parts` has written; ValueError if a part is missing or is not what was written."""
    path = Path(path)
    content = path.read_bytes()
    if not content.startswith(_LIST):
        return unsealed(path, content)
    listed = json.loads(content.removeprefix(_LIST))
    missing = [name for name in listed["parts"] if not path.with_name(name).exists()]
    whole = b"" if missing else b"".join(path.with_name(name).read_bytes() for name in listed["parts"])
    if hashlib.sha256(whole).hexdigest() != listed["sha256"]:
        which = ", ".join(missing) or "one of its parts"
        raise ValueError(f"{path}: {which} is missing or damaged: remove {path.name} to begin anew")
    return whole


def remove_in_parts(path: str | Path) -> None:
    """Remove what `write_in_parts` has written, if it is there."""
    path = Path(path)
    path.unlink(missing_ok=True)
    for part in _parts_of(path):
        part.unlink(missing_ok=True)


def _parts_of(path: Path) -> list[Path]:
    """Parts of this file, of any content; not those of `path.other`."""
    own = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}-\d+")
    return [found for found in path.parent.glob(f"{path.name}.*-*") if own.fullmatch(found.name)]


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


def read_array(path: str | Path, *, text: bool = False) -> np.ndarray:
    """The array of a `.npy` file, or of comma-separated text; nothing is unpickled.

    ValueError, with the file's name, whatever is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no file {path}: save an array with numpy.save" + (", or as comma-separated text" * text))
    try:
        found = np.loadtxt(path, delimiter=",", ndmin=2) if text else np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"{path} is not an array of numbers: {error}") from None
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path} holds several arrays: save one alone, with numpy.save")
    return found


def records_folder() -> Path:
    """Where the records and tables of a build are read from: `$KDLIB_RECORDS`, or `_build/quick/records`."""
    return Path(os.environ.get("KDLIB_RECORDS") or ROOT / "_build" / "quick" / "records")


def own_records_folder() -> Path:
    """Where a run leaves its records and tables: `$KDLIB_RECORDS`, which a build sets; `_build/by-hand/records` without
    it, so that a notebook that somebody runs by hand changes nothing of what the book shows."""
    return Path(os.environ.get("KDLIB_RECORDS") or ROOT / "_build" / "by-hand" / "records")
