"""Image files on disk to arrays: IDX, the CIFAR binary releases, Tiny-ImageNet, and any folder or archive of images.

Nothing here unpickles, and no archive is unpacked (`archives`).
Every reader returns a `RawImages`; a file that is not what its format says is a `ValueError` that names it.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from kdlib.data.archives import members

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
PIXELS = 2**25  # of one image: larger ones are refused before they are decoded
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
    whole = len(content) >= 4 + 4 * dimensions
    shape = tuple(map(int, np.frombuffer(content, ">u4", count=dimensions, offset=4))) if whole else (0,)
    body = len(content) - 4 - 4 * dimensions
    if dimensions == 0 or body != math.prod(shape):
        raise ValueError(f"{path} is damaged: its header promises shape {shape}, it holds {body} bytes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def gunzipped(path) -> bytes:
    """The file's bytes, decompressed if it is a gzip file."""
    content = Path(path).read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, ValueError, zlib.error) as error:
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
    found = {name.name: read() for name, read in members(path) if name.name in wanted}
    if missing := sorted(wanted - set(found)):
        raise ValueError(f"{path} is not a binary CIFAR release: it lacks {', '.join(missing)}")
    classes = tuple(_text(next(found.pop(name) for name in list(found) if name.endswith(".txt")), path).split())
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
    files = {str(PurePosixPath(*name.parts[1:])): read for name, read in members(path)}
    try:
        wnids = _text(files["wnids.txt"](), path).split()
        words = dict(_fields(files["words.txt"](), path, "\t"))
        lines = _fields(files["val/val_annotations.txt"](), path)
    except KeyError as error:
        raise ValueError(f"{path} is not Tiny-ImageNet: it lacks {error}") from error
    labelled = [(f"val/images/{name}", wnid, True) for name, wnid in lines]
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
    for name, read in tqdm(members(path), desc=f"reading {Path(path).name}", unit=" files", disable=not progress):
        if not _is_image(name) or len(name.parts) < 2:
            continue
        split = next((SPLIT_FOLDERS[part.lower()] for part in name.parts[:-2] if part.lower() in SPLIT_FOLDERS), None)
        if name.parent.name.lower() in SPLIT_FOLDERS:
            raise ValueError(
                f"{path}: {name} lies in a folder {name.parent.name!r} without a class below it: "
                "put train and test above the classes (train/<class>/<image>)"
            )
        entries.append((name.parent.name, split, str(name), _decode(read(), name, image_size, None)))
    if not entries:
        raise ValueError(
            f"{path} holds no images in class folders (<class>/<image>{{{','.join(sorted(IMAGE_SUFFIXES))}}})"
        )
    outside = [entry[2] for entry in entries if entry[1] is None]
    if outside and len(outside) < len(entries):
        raise ValueError(f"{path}: {outside[0]} lies outside the folders train and test, in which other images are")
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


def _is_image(name):
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _text(content: bytes, path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: a text in it is no UTF-8 ({error})") from error


def _fields(content: bytes, path, separator: str | None = None) -> list[tuple[str, str]]:
    """The first two fields of every line."""
    lines = [line.split(separator) for line in _text(content, path).splitlines() if line.strip()]
    if short := [line for line in lines if len(line) < 2]:
        raise ValueError(f"{path} is damaged: a line has one field only, {short[0][0]!r}")
    return [(line[0], line[1]) for line in lines]


def _decode(content, name, image_size, mode):
    """Pixels of one image, as a viewer shows them; ValueError where eight bits a channel would lose something."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            _refuse_what_is_lost(opened)
            image = ImageOps.exif_transpose(opened)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("LA" if image.mode == "LA" else "RGBA")
                if image.getchannel("A").getextrema() != (255, 255):
                    raise ValueError("it is transparent in places: put it on a background of your choice first")
            image = image.convert(mode or ("L" if image.mode in ("1", "L", "LA") else "RGB"))
            if image_size is not None and image.size != (image_size[1], image_size[0]):
                image = image.resize((image_size[1], image_size[0]), Image.Resampling.BILINEAR)
            array = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError, *_DECODERS) as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    return array[..., None] if array.ndim == 2 else array


_DECODERS = (EOFError, IndexError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError, zlib.error)


def _refuse_what_is_lost(image):
    if image.width * image.height > PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels: make it smaller first")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(f"it has more than eight bits a channel ({image.mode}): scale it to eight bits first")
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"it has {image.n_frames} frames: save the one that is meant")


def _raw(images, labels, classes, is_test):
    labels = np.asarray(labels, np.int64)
    if len(labels) and (labels.max() >= len(classes) or labels.min() < 0):
        raise ValueError(f"label {labels.max()} found, but there are only {len(classes)} classes")
    return RawImages(np.ascontiguousarray(images), labels, tuple(classes), np.asarray(is_test, bool))
