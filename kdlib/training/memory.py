"""A teacher's logits for the augmented batches of a training, kept in a file.

Students with the same seed, batches and teacher see the same pictures, whatever their network, temperature and soft
ratio; a large teacher's passes over them cost more than a small student's training. Kept by the PyTorch engine only:
on a GPU, and in one compiled step, a teacher's pass is cheap.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


class LogitsMemory:
    """Logits `(batch_size, outputs)`, float32, of each step of a training.

    Parameters
    ----------
    path
        of the file, whose name must tell teacher, images, batches and augmentation: nothing of that is checked here.
    shape
        `(steps, batch_size, outputs)`, or without outputs.

    Two processes may write at the same time: they write the same. A killed one leaves whole steps and, at most, one
    that is not marked as known.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._logits = _opened(path.with_suffix(".logits"), shape, np.float32)
        self._known = _opened(path.with_suffix(".known"), shape[:1], np.uint8)

    def of(self, step: int) -> np.ndarray | None:
        """The logits of a step, counted from one; None if they are not known."""
        return np.array(self._logits[step - 1]) if self._known[step - 1] else None

    def keep(self, step: int, logits: np.ndarray) -> None:
        self._logits[step - 1] = logits
        self._known[step - 1] = 1


def _opened(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """The file as an array, zeros if it is new; a file of another size is refused."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:
        if not file.tell():
            file.truncate(size)
    if path.stat().st_size != size:
        raise ValueError(f"{path} is not of this training: delete it")
    return np.memmap(path, dtype, "r+", shape=shape)
