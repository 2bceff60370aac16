"""A teacher's logits for the augmented batches of a training, kept in a file.

Students with the same seed, batches and teacher see the same pictures, whatever their network, temperature and soft
ratio; a large teacher's passes over them cost more than a small student's training. Kept by the PyTorch engine only:
on a GPU, and in one compiled step, a teacher's pass is cheap.
"""

from __future__ import annotations

import zlib
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

    Two processes may write at the same time: they write the same. Each step has its own checksum beside it, so that
    what a kill, a power cut or a lost file leaves of it is not taken for a teacher's answer.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._shape = shape[1:]
        self._steps = _opened(path.with_suffix(".answers"), (shape[0], 1 + int(np.prod(shape[1:]))))

    def of(self, step: int) -> np.ndarray | None:
        """The logits of a step, counted from one; None if they are not known."""
        checksum, *_ = words = np.array(self._steps[step - 1])
        if not checksum or checksum != zlib.crc32(words[1:].tobytes()):
            return None
        return words[1:].view(np.float32).reshape(self._shape)

    def keep(self, step: int, logits: np.ndarray) -> None:
        content = np.ascontiguousarray(logits, np.float32).reshape(self._shape).view(np.uint32).ravel()
        self._steps[step - 1, 1:] = content
        self._steps[step - 1, 0] = zlib.crc32(content.tobytes())


def _opened(path: Path, shape: tuple[int, int]) -> np.memmap:
    """The file as an array of 32-bit words, zeros if it is new; a file of another size is refused."""
    size = 4 * shape[0] * shape[1]
    with open(path, "ab") as file:
        if not file.tell():
            file.truncate(size)
    if path.stat().st_size != size:
        raise ValueError(f"{path} is not of this training: delete it")
    return np.memmap(path, np.uint32, "r+", shape=shape)
