"""The files below a folder or in an archive, by name: nothing is unpacked, and what is damaged is refused.

An archive is read to its end: a compressed one has its checksum there, and a tar file its end mark. Names that climb
out of their folder, names that come twice, and members too large to be what they should are errors.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

LARGEST = 512 * 2**20  # bytes of one member: larger ones are refused before they are read
BLOCK = 512  # of a tar file
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, struct.error, RuntimeError,
    NotImplementedError, UnicodeError, OverflowError, IndexError, KeyError, ValueError,
)  # fmt: skip
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}

Members = Iterator[tuple[PurePosixPath, Callable[[], bytes]]]


def members(path: str | Path) -> Members:
    """`(name, read)` of every regular file; `read()` gives its bytes, of a tar file before the next name is asked for.

    Raises
    ------
    ValueError
        a path that is neither a folder nor an archive; an archive that is damaged, cut off, or not to be trusted; links
        to folders, and folders that cannot be read.
    """
    path, seen = Path(path), set()
    if path.is_dir():
        found = _of_folder(path)
    elif not path.is_file():
        raise ValueError(f"{path} is no folder and no file")
    elif zipfile.is_zipfile(path):
        found = _of_zip(path)
    else:
        found = _of_tar(path)
    for name, size, read in found:
        if name in seen:
            raise ValueError(f"{path} holds {name} twice: which of them is meant?")
        seen.add(name)
        if size > LARGEST:
            raise ValueError(f"{path}: {name} is {size / 2**20:.0f} MB large, which no image or label file is")
        yield name, read


def _of_folder(path: Path):
    def refuse(error):
        raise ValueError(f"{path}: {error.filename} cannot be read ({error.strerror}): change its permissions")

    for folder, below, files in os.walk(path, onerror=refuse):
        below.sort()
        if linked := [name for name in below if Path(folder, name).is_symlink()]:
            raise ValueError(
                f"{Path(folder, linked[0])} is a link to a folder: put the images there, or pass where it leads"
            )
        for name in sorted(files):
            file = Path(folder, name)
            if file.is_file():  # no socket, no pipe, no link that leads nowhere
                yield PurePosixPath(file.relative_to(path).as_posix()), file.stat().st_size, file.read_bytes


def _of_zip(path: Path):
    archive = _naming(path, zipfile.ZipFile)(path)  # stays open for who reads later
    for info in archive.infolist():
        if not info.is_dir():
            yield _safe(info.filename, path), info.file_size, _naming(path, lambda info=info: archive.read(info))


def _of_tar(path: Path):
    with _opened(path) as stream, _naming(path, tarfile.open)(fileobj=stream, mode="r:") as archive:
        while info := _naming(path, archive.next)():
            if info.isfile():
                yield _safe(info.name, path), info.size, _naming(path, lambda info=info: _content(archive, info))
        _naming(path, _to_the_end)(stream, archive.offset)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as handle:
        start = handle.read(2)
    return _COMPRESSED.get(start, open)(path, "rb")


def _to_the_end(stream: IO[bytes], offset: int):
    """Read what is left: the end mark, and the checksum of what is compressed."""
    stream.seek(offset)
    mark = stream.read(BLOCK)
    while rest := stream.read(2**20):
        if rest.count(0) != len(rest):
            raise tarfile.ReadError("it goes on behind its end mark")
    if mark != bytes(BLOCK):
        raise tarfile.ReadError("its end is missing")


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    handle = archive.extractfile(info)
    if handle is None:  # what `isfile` says is none of tarfile's special members
        raise tarfile.ReadError(f"{info.name} has no content")
    return handle.read()


def _naming(path, function):
    """`function`, with the many errors of a damaged archive turned into one that names it."""

    def named(*arguments, **options):
        try:
            return function(*arguments, **options)
        except _DAMAGE as error:
            raise ValueError(f"{path} is no folder, zip or tar archive, or it is damaged: {error}") from error

    return named


def _safe(name: str, path: Path) -> PurePosixPath:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and ":" in pure.parts[0]):
        raise ValueError(f"{path}: member {name!r} points outside its folder; the archive is not to be trusted")
    return pure
