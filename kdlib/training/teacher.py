"""Who supervises a student: a network, stage by stage, or logits from anywhere; and what the training step receives
from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdlib.tools.arrays import real_array
from kdlib.tools.files import sha256_of, write_whole
from kdlib.training.networks import Network, apply_in_blocks


@dataclass(frozen=True)
class Teacher:
    """A network whose checkpoints supervise a student, stage by stage.

    Attributes
    ----------
    network
        one of `kdlib.training.networks`, or anything with their `init` and `apply`.
    stages
        `[(share, variables)]`, ascending: `variables` are used until that share of the student's training is over;
        the last share is one. Offline distillation has one stage.
    """

    network: Network
    stages: tuple[tuple[float, Any], ...]

    def __post_init__(self):
        shares = [share for share, _ in self.stages]
        if not shares or shares != sorted(set(shares)) or shares[0] <= 0 or shares[-1] != 1:
            raise ValueError(f"the stages must end at ascending shares of the training, the last at 1, not {shares}")


@dataclass(frozen=True)
class CachedLogits:
    """Teacher's logits from anywhere: `values[k]` belongs to the example whose `Split.index` is `index[k]`.

    `values` are finite: `(m, C)`, or `(m,)` for a student with one output.
    """

    index: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "values", real_array("values", self.values, ndim=(1, 2)))
        index = np.asarray(self.index)
        if index.dtype.kind not in "iu" or index.shape != (len(self.values),) or len(np.unique(index)) < len(index):
            raise ValueError("cached logits need one row for each example, and no example twice")
        object.__setattr__(self, "index", index)

    @classmethod
    def in_order(cls, values) -> CachedLogits:
        """Logits of the examples `0..n-1`, the `index` that `train` gives to examples that have none of their own."""
        return cls(np.arange(len(values)), values)

    def of(self, index: np.ndarray) -> np.ndarray:
        """The rows of these examples; refused if one is missing."""
        rows = {int(example): row for row, example in enumerate(self.index)}
        missing = [int(example) for example in index if int(example) not in rows]
        if missing:
            raise ValueError(f"no cached logits for {len(missing)} examples, the first of index {missing[0]}")
        return self.values[[rows[int(example)] for example in index]]


class Supervision:
    """The teacher's logits for a step: looked up if nothing is augmented, else computed in the step.

    `engine` computes what is looked up; in the folder `remember` it is kept for other students.

    Attributes
    ----------
    in_step
        the network that a step applies to its batch, or None.
    """

    def __init__(
        self, teacher: Teacher | CachedLogits | None, inputs: np.ndarray, index: np.ndarray, augment: str,
        *, engine: str = "jax", remember: str | Path | None = None,
    ):  # fmt: skip
        if teacher is not None and not isinstance(teacher, (Teacher, CachedLogits)):
            raise TypeError(
                "teacher must be a Teacher, CachedLogits or None, not "
                f"{type(teacher).__name__}: for an array of logits, "
                "CachedLogits.in_order(logits)"
            )
        if isinstance(teacher, CachedLogits) and augment != "none":
            raise ValueError('cached logits belong to the images as they are: use augment="none" or a Teacher')
        self.teacher, self._inputs, self._engine, self._remember = teacher, inputs, engine, remember
        self.in_step = teacher.network if isinstance(teacher, Teacher) and augment != "none" else None
        self._stage: int | None = None
        self._now: Any = None  # a table of logits for all examples, or the teacher's variables
        if isinstance(teacher, CachedLogits):
            self._now = jnp.asarray(teacher.of(index), jnp.float64)

    def last(self, step: int, steps: int) -> int:
        """The last step up to which what `at` gives after `step` of them stays the same."""
        if not isinstance(self.teacher, Teacher):
            return steps
        end = next(end for end, _ in self.teacher.stages if step / steps < end)
        last = max(step + 1, int(end * steps) - 1)
        while last / steps < end:  # as `at` decides, rounding included
            last += 1
        return min(last, steps)

    def at(self, share: float) -> Any:
        """What a step takes: None, a table of logits for all examples, or the teacher's variables."""
        if isinstance(self.teacher, Teacher):
            stage = next(k for k, (end, _) in enumerate(self.teacher.stages) if share < end)
            if self._stage != stage:
                self._stage, variables = stage, self.teacher.stages[stage][1]
                if self.in_step is not None:
                    self._now = jax.device_put(variables)
                else:
                    self._now = jnp.asarray(self._answers(self.teacher.network, variables))
        return self._now

    def _answers(self, network: Network, variables: Any) -> np.ndarray:
        """Logits of all examples as they are."""
        compute = lambda: apply_in_blocks(
            network, variables, self._inputs, dtype=self._inputs.dtype, engine=self._engine
        )
        if self._remember is None:
            return compute()
        parts = [repr(network), self._engine, sha256_of(self._inputs, *jax.tree.leaves(variables))]
        path = Path(self._remember) / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.npy"
        if not path.exists():
            content = BytesIO()
            np.save(content, compute())
            write_whole(path, content.getvalue())
        return np.load(path, allow_pickle=False)

    def fingerprint(self) -> str:
        """Of the teacher: the shares and weights of its stages, or its logits."""
        digest = hashlib.sha256()
        if isinstance(self.teacher, Teacher):
            for share, variables in self.teacher.stages:
                digest.update(repr((share, repr(self.teacher.network))).encode())
                for leaf in jax.tree.leaves(variables):
                    digest.update(np.ascontiguousarray(leaf).tobytes())
        elif self.teacher is not None:
            digest.update(np.ascontiguousarray(self._now).tobytes())
        return digest.hexdigest()
