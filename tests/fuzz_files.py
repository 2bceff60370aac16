"""Damaged files for `fuzz.py`: every format that the library reads, with one mutation each."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np
from fuzz_judge import judged
from PIL import Image

from kdlib import complexity
from kdlib.data import readers
from kdlib.difficulty import read_logits
from kdlib.tools import files
from kdlib.training import networks, read_variables, save_variables


def pictures(draw) -> dict[str, bytes]:
    """Six small images in two class folders."""
    found = {}
    for k in range(6):
        content = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "PNG")
        found[f"{'cat' if k % 2 else 'dog'}/{k}.png"] = content.getvalue()
    return found


def archive(files_of: dict[str, bytes], kind: str) -> bytes:
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, data in files_of.items():
                opened.writestr(name, data)
        return content.getvalue()
    with tarfile.open(fileobj=content, mode=f"w:{kind}") as opened:
        for name, data in files_of.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return content.getvalue()


def damaged(draw, content: bytes) -> tuple[str, bytes]:
    """One mutation of a file."""
    what = draw.choice(["bit", "bytes", "cut", "zeros", "twice", "more", "empty", "swap"]).item()
    data, n = bytearray(content), len(content)
    a, b = sorted(int(i) for i in draw.integers(0, n, 2))
    if what == "bit":
        data[a] ^= 1 << int(draw.integers(0, 8))
    elif what == "bytes":
        data[a : a + 4] = draw.integers(0, 256, len(data[a : a + 4]), dtype=np.uint8).tobytes()
    elif what == "cut":
        data = data[:a]
    elif what == "zeros":
        data[a:b] = bytes(b - a)
    elif what == "twice":
        data[b:b] = data[a:b]
    elif what == "more":
        data += draw.integers(0, 256, 1 + a % 700, dtype=np.uint8).tobytes()
    elif what == "swap":
        data[a:b] = data[a:b][::-1]
    return what, b"" if what == "empty" else bytes(data)


def formats(draw) -> dict:
    """`{name: (file name, content, reader, whether the format has a checksum)}`."""
    images, rows = pictures(draw), draw.normal(size=(6, 3))
    npy = io.BytesIO()
    np.save(npy, rows)
    idx = (
        b"\x00\x00\x08\x03"
        + np.array([4, 5, 5], ">u4").tobytes()
        + draw.integers(0, 256, 100, dtype=np.uint8).tobytes()
    )
    folder = lambda path: [a.tobytes() for a in _arrays(readers.read_image_folder(path, progress=False))]
    sealed = files.sealed(draw.integers(0, 256, 400, dtype=np.uint8).tobytes())
    network, one = networks.Perceptron(outputs=2), (1, 4, 4, 1)
    variables = serialized(network, one)
    text = "\n".join(",".join(f"{v:.6f}" for v in row) for row in rows).encode()
    return {
        "tar.gz": ("a.tar.gz", archive(images, "gz"), folder, True),
        "tar.xz": ("a.tar.xz", archive(images, "xz"), folder, True),
        "zip": ("a.zip", archive(images, "zip"), folder, True),
        "tar": ("a.tar", archive(images, ""), folder, False),
        "idx.gz": ("a.gz", gzip.compress(idx), lambda path: readers.read_idx(path).tobytes(), True),
        "idx": ("a.idx", idx, lambda path: readers.read_idx(path).tobytes(), False),
        "npy": ("a.npy", npy.getvalue(), lambda path: read_logits(path, 6).tobytes(), False),
        "csv": ("a.csv", text, lambda path: read_logits(path, 6).tobytes(), False),
        "checkpoint": ("a.msgpack", variables, lambda path: _leaves(network, path, one), True),
        "certified": ("a.npz", interval_state(), certified, True),
        "sealed": ("a.state", sealed, unseal, True),
    }


def unseal(path):
    """What was sealed; content without a seal is of an older version elsewhere, here it is damage."""
    content = Path(path).read_bytes()
    found = files.unsealed(path, content)
    if found == content:
        raise ValueError(f"{path} has no seal")
    return found


def _arrays(raw) -> list[np.ndarray]:
    return [raw.images, raw.labels, np.array(raw.classes, "U20"), raw.is_test]


@lru_cache
def serialized(network, shape) -> bytes:
    """A checkpoint's file."""
    with TemporaryDirectory() as place:
        save_variables(Path(place) / "a", network.init(jax.random.key(0), jnp.zeros(shape)))
        return (Path(place) / "a").read_bytes()


def _leaves(network, path, shape) -> bytes:
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(read_variables(network, path, shape)))


def certified(path):
    """An interval that goes on from a state, if there is one."""
    features = np.random.default_rng(1).normal(size=(30, 40))
    gram = features @ features.T
    found = complexity.certified_supervision_complexity(
        lambda v: gram @ v, features[:, 0], ridge=0.1, checkpoint=path, progress=False
    )
    return round(found.lower, 6), round(found.upper, 6)


@lru_cache
def interval_state() -> bytes:
    """The file of such a state."""
    with TemporaryDirectory() as place:
        certified(Path(place) / "a.npz")
        return (Path(place) / "a.npz").read_bytes()


def broken_files(count: int, seed: int):
    """Files of each format that the library reads, damaged."""
    with TemporaryDirectory() as place:
        for k in range(count):
            draw = np.random.default_rng([seed, k])
            known = formats(np.random.default_rng(seed))
            name = draw.choice(list(known)).item()
            file, content, read, checked = known[name]
            path = Path(place) / file
            path.write_bytes(content)
            whole = read(path)
            what, other = damaged(draw, content)
            path.write_bytes(other)
            same = lambda value, whole=whole: value == whole
            yield judged(f"{name}, {what}", lambda: read(path), checked, same)  # noqa: B023
