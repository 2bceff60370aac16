"""Where the named image sets come from: embedded in the repository, or downloaded once and verified.

The MD5 sums of the downloads are those that the publishers list; Fashion-MNIST is verified by the SHA-256 of its
*decompressed* content, so that the official files and recompressed ones both pass.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from kdlib.data.readers import gunzipped
from kdlib.tools.provenance import ROOT

EMBEDDED = ROOT / "data"


class DataUnavailableError(FileNotFoundError):
    """A data file is neither embedded nor cached, and could not be downloaded."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its name, address, the MD5 of the file or (and) the SHA-256 of its decompressed content."""

    name: str
    url: str
    md5: str
    content_sha256: str | None = None


_FASHION = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
FILES = {
    "fashion-mnist": (
        RemoteFile(
            "train-images-idx3-ubyte.gz",
            _FASHION + "train-images-idx3-ubyte.gz",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        RemoteFile(
            "train-labels-idx1-ubyte.gz",
            _FASHION + "train-labels-idx1-ubyte.gz",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        RemoteFile(
            "t10k-images-idx3-ubyte.gz",
            _FASHION + "t10k-images-idx3-ubyte.gz",
            "bef4ecab320f06d8554ea6380940ec79",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        RemoteFile(
            "t10k-labels-idx1-ubyte.gz",
            _FASHION + "t10k-labels-idx1-ubyte.gz",
            "bb300cfdad3c16e7a12a480ee83cd310",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "cifar10": (
        RemoteFile(
            "cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
    "cifar100": (
        RemoteFile(
            "cifar-100-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    ),
    "tiny-imagenet": (
        RemoteFile(
            "tiny-imagenet-200.zip",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "90528d7ca1a48142e341f4ef8d21d0de",
        ),
    ),
}


def cache_folder() -> Path:
    """Where downloads are kept: `$KDLIB_DATA`, or the user's cache folder."""
    return Path(os.environ.get("KDLIB_DATA") or pooch.os_cache("kdlib"))


def locate(name: str, *, progress: bool = True) -> list[Path]:
    """Paths of the verified files of a named set, downloaded if need be.

    A cached file that is not as published is renamed and fetched again; a download goes to a temporary name first, so
    an interrupted one leaves nothing behind.
    """
    return [_locate(file, EMBEDDED / name, cache_folder() / name, progress) for file in FILES[name]]


def _locate(file: RemoteFile, embedded: Path, cache: Path, progress: bool) -> Path:
    path = embedded / file.name
    if path.exists():
        if not is_intact(path, file):
            raise ValueError(
                f"{path} is damaged: restore it (`git checkout -- {embedded.name}`), or remove it to download it"
            )
        return path
    cache.mkdir(parents=True, exist_ok=True)
    # Jobs that start at the same time must not fetch one file twice, nor remove what another has just finished.
    with open(cache / f".{file.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _fetched(file, cache, progress)


def _fetched(file: RemoteFile, cache: Path, progress: bool) -> Path:
    path = cache / file.name
    if path.exists() and is_intact(path, file):
        return path
    if path.exists():  # somebody's own, or a damaged one: it makes room and is not lost
        path.replace(path.with_name(f"{path.name}.not-as-published"))
    try:
        pooch.retrieve(file.url, f"md5:{file.md5}", fname=file.name, path=cache, progressbar=progress)
    except (requests.RequestException, OSError, ValueError) as error:
        what = (
            "arrived damaged" if isinstance(error, ValueError) and "hash" in str(error) else "could not be downloaded"
        )
        raise DataUnavailableError(
            f"{file.name} {what} from {file.url} ({type(error).__name__}). Without a "
            "network: fetch that file elsewhere (its "
            f"MD5 is {file.md5}) and put it at {path}, or point KDLIB_DATA at a "
            f"folder that holds {cache.name}/{file.name}."
        ) from error
    if not is_intact(path, file):
        raise DataUnavailableError(
            f"{file.url} no longer serves the file it did: {path} has other content than expected"
        )
    return path


def is_intact(path: Path, file: RemoteFile) -> bool:
    """Whether the file's content is the published one."""
    if file.content_sha256 is None:
        return pooch.file_hash(path, alg="md5") == file.md5
    try:
        return hashlib.sha256(gunzipped(path)).hexdigest() == file.content_sha256
    except ValueError:
        return False
