"""Named image sets as arrays, in disjoint splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.data import readers, sources

SPLITS = ("train", "transfer", "validation", "test")
NORMALISATIONS = ("none", "unit", "standard")
FASHION_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """`images` float `(n, height, width, channels)`; `labels` int64 `(n,)`, numbered as in `Dataset.classes`; `index`
    int64 `(n,)`, each image's row in the published set (train, then test), the same whatever was asked for."""

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __len__(self):
        return len(self.labels)

    @property
    def signs(self):
        """Labels of a class pair as float64 `-1` (first class) and `+1` (second)."""
        if len(self.labels) and self.labels.max() > 1:
            raise ValueError("signs are for two classes: load with classes=(negative, positive)")
        return 2.0 * self.labels - 1.0


@dataclass(frozen=True)
class Dataset:
    """What `load` returns: the splits that were asked for, and where they come from.

    Attributes
    ----------
    splits
        `{"train": Split, ...}`, also as attributes (`dataset.train`).
    classes
        names, in the order of the labels.
    sha256
        of the images and labels as published, before any choice.
    dropped
        exact duplicates left out (`distinct=True`).
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    sha256: str
    dropped: int

    def __getattr__(self, name):
        if name in SPLITS:
            raise AttributeError(f'no {name!r} split was loaded: pass sizes={{"{name}": n, ...}}')
        raise AttributeError(name)

    def __post_init__(self):
        self.__dict__.update(self.splits)


def load(
    name,
    *,
    classes: Sequence[str | int] | None = None,
    sizes: Mapping[str, int | None] | None = None,
    seed: int = 0,
    normalisation: str = "none",
    distinct: bool = False,
    image_size: tuple[int, int] | None = None,
    dtype: Any = np.float64,
    progress: bool = True,
) -> Dataset:
    """Load an image set.

    Parameters
    ----------
    name
        "fashion-mnist" (embedded), "cifar10", "cifar100", "tiny-imagenet" (downloaded once, verified), or the path of
        a folder or archive of images in class folders.
    classes
        names or published indices to keep, in the order of their new labels; None keeps all.
    sizes
        images per split, of "train", "transfer", "validation" and "test"; `None` as a size means all that are left.
        The first three are disjoint parts of the published training images; "test" comes from the published test
        images, or from the same pool where there are none. Default: all training and all test images.
    seed
        of the random order. Growing `train` keeps its earlier images first and leaves the other splits alone.
    normalisation
        "none" (pixels in [0, 1]), "unit" (each image scaled to mean square one: nothing is fitted) or
        "standard" (mean zero and variance one per channel *on the training split*: fitted on it).
    distinct
        leave out exact duplicates, which make a Gram matrix singular.
    image_size
        `(height, width)` to resize a folder's images to.
    dtype
        of the images.

    Raises
    ------
    DataUnavailableError
        not embedded, not cached and not downloadable; says which file to put where.
    ValueError
        an unknown name, class or split, a size larger than what there is, a damaged file.
    """
    _check_choices(sizes, normalisation)
    raw = _read(name, image_size, progress)
    digest = hashlib.sha256(raw.images.tobytes())
    digest.update(raw.labels.tobytes())
    keep, labels, class_names = _choose_classes(raw, classes)
    dropped = 0
    if distinct:
        first = np.unique(raw.images[keep].reshape(len(keep), -1), axis=0, return_index=True)[1]
        dropped = len(keep) - len(first)
        keep, labels = keep[np.sort(first)], labels[np.sort(first)]
    rows = _choose_rows(raw.is_test[keep], sizes, seed)
    images = {split: raw.images[keep[row]].astype(dtype) / 255 for split, row in rows.items()}
    images = _normalised(images, normalisation)
    splits = {split: Split(images[split], labels[row], keep[row]) for split, row in rows.items()}
    return Dataset(str(name), class_names, splits, digest.hexdigest(), dropped)


def _read(name, image_size, progress):
    if name in sources.FILES:
        if image_size is not None:
            raise ValueError(f"image_size is for folders of images; {name!r} has its own size")
        paths = sources.locate(name, progress=progress)
        if name == "fashion-mnist":
            train_images, train_labels, test_images, test_labels = paths
            return readers.read_idx_pairs(train_images, train_labels, test_images, test_labels, FASHION_CLASSES)
        if name == "tiny-imagenet":
            return readers.read_tiny_imagenet(paths[0], progress=progress)
        return readers.read_cifar(paths[0], fine_labels=name == "cifar100")
    if not Path(name).exists():
        raise ValueError(
            f"no image set {str(name)!r}: choose one of {sorted(sources.FILES)}, or the path of a folder or archive"
        )
    return readers.read_image_folder(name, image_size=image_size, progress=progress)


def _check_choices(sizes, normalisation):
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation must be one of {NORMALISATIONS}, not {normalisation!r}")
    for split, size in (sizes or {}).items():
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose from {SPLITS}")
        if size is not None and (not isinstance(size, Integral) or isinstance(size, bool) or size < 0):
            raise ValueError(f"the size of {split!r} must be a number of images or None, not {size!r}")
    if normalisation == "standard" and sizes is not None and sizes.get("train", 0) == 0:
        raise ValueError('normalisation="standard" is fitted on the training split: ask for one in `sizes`')


def _choose_classes(raw, classes):
    if classes is None:
        return np.arange(len(raw.labels)), raw.labels, raw.classes
    chosen = []
    for wanted in classes:
        index = raw.classes.index(wanted) if wanted in raw.classes else wanted
        whole = isinstance(index, Integral) and not isinstance(index, bool)
        if not (whole and 0 <= int(index) < len(raw.classes)):
            raise ValueError(f"no class {wanted!r}: choose from {raw.classes}")
        chosen.append(int(index))
    if len(set(chosen)) != len(chosen) or not chosen:
        raise ValueError(f"classes must be different from each other, not {tuple(classes)}")
    new_label = np.full(len(raw.classes), -1)
    new_label[chosen] = np.arange(len(chosen))
    labels = new_label[raw.labels]
    keep = np.flatnonzero(labels >= 0)
    return keep, labels[keep], tuple(raw.classes[i] for i in chosen)


def _choose_rows(is_test, sizes, seed):
    """Rows of each split. Train is taken from the front of one random order, the others from its back."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(is_test))
    pools = {"train": order[~is_test[order]], "test": order[is_test[order]]}
    if sizes is None:
        return {split: pool for split, pool in pools.items() if len(pool)}
    rows, pool = {}, pools["train"]
    has_test = len(pools["test"]) > 0
    from_pool = [split for split in ("test", "validation", "transfer", "train") if split in sizes]
    if has_test and "test" in sizes:
        from_pool.remove("test")
        rows["test"] = _take(pools["test"], sizes["test"], "test")
    if sum(sizes[split] is None for split in from_pool) > 1:
        raise ValueError("only one of the splits of the training images can take all that are left")
    for split in sorted(from_pool, key=lambda split: sizes[split] is None):
        taken = _take(pool if split == "train" else pool[::-1], sizes[split], split)
        rows[split] = taken
        pool = pool[len(taken) :] if split == "train" else pool[: len(pool) - len(taken)]
    return {split: rows[split] for split in SPLITS if split in rows}


def _take(pool, size, split):
    if size is not None and size > len(pool):
        raise ValueError(f"{size} images asked for {split!r}, but only {len(pool)} are left")
    return pool if size is None else pool[:size]


def _normalised(images, normalisation):
    if normalisation == "unit":
        for split, x in images.items():
            norm = np.sqrt(np.mean(x**2, axis=(1, 2, 3), keepdims=True))
            images[split] = x / np.where(norm > 0, norm, 1)
    if normalisation == "standard":
        mean = images["train"].mean(axis=(0, 1, 2))
        std = images["train"].std(axis=(0, 1, 2))
        images = {split: (x - mean) / np.where(std > 0, std, 1) for split, x in images.items()}
    return images
