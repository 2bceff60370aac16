"""Image files on disk to arrays: IDX, the CIFAR binary releases, Tiny-ImageNet, and any folder or archive of images.

Nothing here unpickles, and no archive is unpacked: members are read in memory, so none can land outside its folder.
Every reader returns a `RawImages`; a file that is not what its format says is a `ValueError` that names it.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "val": "test",
    "valid": "test",
    "validation": "test",
}


@dataclass(frozen=True)
class RawImages:
    """Images as published: `images` uint8 `(n, height, width, channels)`, `labels` int64 `(n,)` that index `classes`,
    `is_test` boolean `(n,)` (all False where the publisher makes no such division)."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    is_test: np.ndarray


def read_idx(path) -> np.ndarray:
    """One IDX file of unsigned bytes, gzipped or not, as a uint8 array."""
    content = gunzipped(path)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4) if len(content) >= 4 + 4 * dimensions else [0]
    body = len(content) - 4 - 4 * dimensions
    if dimensions == 0 or body != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(
            f"{path} is damaged: its header promises shape {tuple(map(int, shape))}, it holds {body} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def gunzipped(path) -> bytes:
    """The file's bytes, decompressed if it is a gzip file."""
    content = Path(path).read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_idx_pairs(train_images, train_labels, test_images, test_labels, classes) -> RawImages:
    """The four IDX files of the MNIST family."""
    images = [read_idx(train_images), read_idx(test_images)]
    labels = [read_idx(train_labels), read_idx(test_labels)]
    for x, y in zip(images, labels, strict=True):
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
            raise ValueError(f"images of shape {x.shape} and labels of shape {y.shape} do not belong together")
    return _raw(
        np.concatenate(images)[..., None],
        np.concatenate(labels),
        classes,
        np.repeat([False, True], [len(y) for y in labels]),
    )


def read_cifar(path, *, fine_labels: bool) -> RawImages:
    """A binary CIFAR release (`.tar.gz`): CIFAR-10, or CIFAR-100 with its fine labels (`fine_labels=True`).

    A record is one label byte (CIFAR-100: coarse, then fine) and 3,072 pixel bytes: red, green, blue, row by row.
    """
    wanted = (
        {"train.bin", "test.bin", "fine_label_names.txt"}
        if fine_labels
        else ({f"data_batch_{i}.bin" for i in range(1, 6)} | {"test_batch.bin", "batches.meta.txt"})
    )
    found = {name.name: content for name, content in members(path) if name.name in wanted}
    if missing := sorted(wanted - set(found)):
        raise ValueError(f"{path} is not a binary CIFAR release: it lacks {', '.join(missing)}")
    classes = tuple(next(found.pop(name) for name in list(found) if name.endswith(".txt")).decode().split())
    images, labels, is_test = [], [], []
    for name in sorted(found):
        record = 3072 + 1 + fine_labels
        if len(found[name]) % record:
            raise ValueError(f"{path}: {name} is damaged: its size is not a multiple of {record} bytes")
        rows = np.frombuffer(found[name], np.uint8).reshape(-1, record)
        labels.append(rows[:, record - 3073])
        images.append(rows[:, -3072:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        is_test.append(np.full(len(rows), name.startswith("test")))
    return _raw(np.concatenate(images), np.concatenate(labels), classes, np.concatenate(is_test))


def read_tiny_imagenet(path, *, progress=True) -> RawImages:
    """The published `tiny-imagenet-200.zip`. Its labelled `val` images serve as the test set (`test` has no labels)."""
    files = {str(PurePosixPath(*name.parts[1:])): read for name, read in lazy_members(path)}
    try:
        wnids = files["wnids.txt"]().decode().split()
        words = dict(line.split("\t")[:2] for line in files["words.txt"]().decode().splitlines() if line.strip())
        lines = files["val/val_annotations.txt"]().decode().splitlines()
    except KeyError as error:
        raise ValueError(f"{path} is not Tiny-ImageNet: it lacks {error}") from error
    labelled = [(f"val/images/{line.split()[0]}", line.split()[1], True) for line in lines if line.strip()]
    labelled += [
        (name, name.split("/")[1], False) for name in sorted(files) if name.startswith("train/") and _is_image(name)
    ]
    index = {wnid: i for i, wnid in enumerate(wnids)}
    images, labels = [], []
    for name, wnid, _ in tqdm(labelled, desc="decoding Tiny-ImageNet", disable=not progress or len(labelled) < 5000):
        if name not in files or wnid not in index:
            raise ValueError(f"{path} is damaged: no {name}, or no class {wnid}")
        images.append(_decode(files[name](), name, None, "RGB"))
        labels.append(index[wnid])
    classes = tuple(f"{wnid} {words.get(wnid, wnid).split(',')[0]}" for wnid in wnids)
    return _raw(np.stack(images), labels, classes, [test for _, _, test in labelled])


def read_image_folder(path, *, image_size=None, progress=True) -> RawImages:
    """A folder, `.zip` or `.tar[.gz|.bz2|.xz]` of images in class folders.

    `.../train/<class>/image` and `.../test/<class>/image` (or `val`) where there is such a level, `.../<class>/image`
    where not. `image_size = (height, width)` resizes; without it all images must have one size. Grey images stay grey
    if all are.
    """
    entries = []
    for name, content in tqdm(members(path), desc=f"reading {Path(path).name}", unit=" files", disable=not progress):
        if not _is_image(name) or len(name.parts) < 2:
            continue
        split = next((SPLIT_FOLDERS[part.lower()] for part in name.parts[:-2] if part.lower() in SPLIT_FOLDERS), None)
        entries.append((name.parent.name, split, str(name), _decode(content, name, image_size, None)))
    if not entries:
        raise ValueError(
            f"{path} holds no images in class folders (<class>/<image>{{{','.join(sorted(IMAGE_SUFFIXES))}}})"
        )
    entries.sort(key=lambda entry: entry[2])
    colour = any(entry[3].shape[2] == 3 for entry in entries)
    sizes = sorted({entry[3].shape[:2] for entry in entries})
    if len(sizes) > 1:
        raise ValueError(
            f"{path} holds images of {len(sizes)} sizes ({sizes[0]} to {sizes[-1]}): pass image_size=(height, width)"
        )
    classes = tuple(sorted({entry[0] for entry in entries}))
    index = {name: i for i, name in enumerate(classes)}
    images = np.stack([np.repeat(e[3], 3, axis=2) if colour and e[3].shape[2] == 1 else e[3] for e in entries])
    return _raw(images, [index[entry[0]] for entry in entries], classes, [entry[1] == "test" for entry in entries])


def members(path):
    """`(name, content)` of every regular file below a folder or in an archive, in one pass."""
    for name, read in lazy_members(path):
        yield name, read()


def lazy_members(path):
    """`(name, read)` of every regular file below a folder or in an archive; `read()` gives its bytes (of a tar file:
    before the next name is asked for).

    A name that is absolute or climbs out of its folder is an error; links are skipped.
    """
    path = Path(path)
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.is_symlink():
                yield PurePosixPath(file.relative_to(path).as_posix()), file.read_bytes
    elif zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        for info in archive.infolist():
            if not info.is_dir():
                yield _safe(info.filename, path), _naming(path, lambda info=info: archive.read(info))
    else:
        with _naming(path, tarfile.open)(path, "r:*") as archive:
            while info := _naming(path, archive.next)():
                if info.isfile():
                    yield _safe(info.name, path), _naming(path, lambda info=info: _content(archive, info))


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    handle = archive.extractfile(info)
    if handle is None:  # what `isfile` says is none of tarfile's special members
        raise tarfile.ReadError(f"{info.name} has no content")
    return handle.read()


def _naming(path, function):
    """`function`, with the many errors of a damaged archive turned into one that names it."""

    def named(*arguments):
        try:
            return function(*arguments)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
            raise ValueError(f"{path} is no folder, zip or tar archive, or it is damaged: {error}") from error

    return named


def _safe(name, path):
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and ":" in pure.parts[0]):
        raise ValueError(f"{path}: member {name!r} points outside its folder; the archive is not to be trusted")
    return pure


def _is_image(name):
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _decode(content, name, image_size, mode):
    try:
        with Image.open(io.BytesIO(content)) as image:
            image = image.convert(mode or ("L" if image.mode in ("1", "L", "LA", "I", "I;16", "F") else "RGB"))
            if image_size is not None and image.size != (image_size[1], image_size[0]):
                image = image.resize((image_size[1], image_size[0]), Image.Resampling.BILINEAR)
            array = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    return array[..., None] if array.ndim == 2 else array


def _raw(images, labels, classes, is_test):
    labels = np.asarray(labels, np.int64)
    if len(labels) and (labels.max() >= len(classes) or labels.min() < 0):
        raise ValueError(f"label {labels.max()} found, but there are only {len(classes)} classes")
    return RawImages(np.ascontiguousarray(images), labels, tuple(classes), np.asarray(is_test, bool))
