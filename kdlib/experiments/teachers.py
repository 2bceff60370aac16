"""What teachers say of fixed images, kept small: the data on which a predictor of "which teacher?" is scored (X7)."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from kdlib.experiments.runs import Finished
from kdlib.tools.arrays import integer
from kdlib.tools.files import write_whole
from kdlib.training.networks import Network

WIDEST = 128  # features; of more, the leading principal components are kept


@dataclass(frozen=True)
class Answers:
    """A teacher's answers to images that it was not trained on. Made by `answers`, read by `read_answers`.

    Attributes
    ----------
    logits, features
        `(n, C)` and `(n, d)`, float16: the outputs, and what the last layer makes them of. Of more than 128 features
        the centred ones' leading principal components: the inner products are theirs as far as `explained` says.
    labels
        `(n,)` integers, as they were published.
    explained
        share of the features' variance that is kept; one if all of them are.
    """

    logits: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    explained: float


def answers(teacher: Finished, step: int, images: np.ndarray, labels: np.ndarray) -> Answers:
    """What the teacher's checkpoint of `step` says of `images` `(n, height, width, channels)`."""
    found = penultimate(teacher.trained.network, teacher.trained.variables(step), images)
    explained = 1.0
    if found.shape[1] > WIDEST:
        centred = found - found.mean(axis=0)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        found = left[:, :WIDEST] * values[:WIDEST]
        explained = float(np.sum(values[:WIDEST] ** 2) / np.sum(values**2))
    logits = teacher.trained.logits(images, step)
    return Answers(logits.astype(np.float16), found.astype(np.float16), np.asarray(labels), explained)


def penultimate(network: Network, variables: Any, images: np.ndarray, block: int = 500) -> np.ndarray:
    """`(n, d)`, float64: what goes into a network's last dense layer, in inference mode."""
    block, seen = integer("block", block, least=1), []

    def watched(call, arguments, options, context):
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            inputs.append(arguments[0])
        return call(*arguments, **options)

    for start in range(0, len(images), block):
        inputs: list[Any] = []
        with nn.intercept_methods(watched):
            network.apply(variables, images[start : start + block])
        if not inputs:
            raise ValueError(f"{type(network).__name__} has no dense layer to take features from")
        seen.append(np.asarray(inputs[-1], np.float64))
    return np.concatenate(seen)


def save_answers(path: str | Path, found: Answers) -> None:
    """Write `<path>`, an archive of arrays without objects in it."""
    content = BytesIO()
    np.savez_compressed(
        content, logits=found.logits, features=found.features, labels=found.labels.astype(np.int16),
        explained=np.float64(found.explained),
    )  # fmt: skip
    write_whole(path, content.getvalue())


def read_answers(path: str | Path) -> Answers:
    """What `save_answers` wrote; nothing is unpickled."""
    with np.load(path, allow_pickle=False) as kept:
        return Answers(kept["logits"], kept["features"], kept["labels"], float(kept["explained"]))
