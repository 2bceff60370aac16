"""How a network is trained: one checked, hashable description, the same in memory, in a folder and in a scale's
file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kdlib.labels.loss import DistillationLoss
from kdlib.tools.arrays import choice, instance, integer, number


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    epochs
        passes over the examples, or a fraction of one; the last, incomplete batch of each is left out.
    batch_size
        examples in a step. A batch of all of them is taken in their order, smaller ones from a new order each epoch.
    learning_rate, schedule
        "cosine": decays to zero along a cosine; "constant".
    weight_decay, optimiser, momentum
        "sgd" (with Nesterov's momentum) or "adam" (which has no use for `momentum`).
    augment
        "none", or "crop-flip": shifts by up to four pixels and mirror images, drawn anew for each step.
    loss
        a `DistillationLoss` with a positive soft ratio, for training with a teacher; None: the labels' cross-entropy.
    remove_initial
        subtract the outputs at initialisation, `f_0`, so that the network starts from zero (C2).
    precision
        of parameters and arithmetic: "float32", "float64", or "bfloat16" for the layers' arithmetic (parameters and
        statistics stay in float32). A `loss` is computed in float64, the labels' cross-entropy in that of the outputs.
    seed
        of the initial weights, the order of the examples and the augmentation.

    Raises
    ------
    ValueError, TypeError
        when it is made with a value that it cannot be trained with.
    """

    epochs: float = 10
    batch_size: int = 128
    learning_rate: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 5e-4
    optimiser: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    augment: Literal["none", "crop-flip"] = "none"
    loss: DistillationLoss | None = None
    remove_initial: bool = False
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    seed: int = 0

    def __post_init__(self):
        checked = {
            "epochs": number("epochs", self.epochs, above=0),
            "batch_size": integer("batch_size", self.batch_size, least=1),
            "learning_rate": number("learning_rate", self.learning_rate, above=0),
            "weight_decay": number("weight_decay", self.weight_decay, least=0),
            "momentum": number("momentum", self.momentum, least=0, below=1),
            "seed": integer("seed", self.seed, least=0),
        }
        for name, value in checked.items():  # 12 and 12.0 are the same recipe
            object.__setattr__(self, name, value)
        choice("schedule", self.schedule, ("cosine", "constant"))
        choice("optimiser", self.optimiser, ("sgd", "adam"))
        choice("augment", self.augment, ("none", "crop-flip"))
        instance("remove_initial", self.remove_initial, bool)
        choice("precision", self.precision, ("float32", "bfloat16", "float64"))
        if self.loss is not None and not isinstance(self.loss, DistillationLoss):
            raise TypeError(f"loss must be a DistillationLoss or None, not {self.loss!r}")
        if self.loss is not None and self.loss.soft_ratio == 0:
            raise ValueError("loss: without a soft label there is nothing to distil; for the labels alone leave it out")
        if self.remove_initial and self.augment != "none":
            raise ValueError(
                'remove_initial needs augment="none": the outputs at initialisation are those of the images'
            )

    @property
    def columns(self) -> dict[str, Any]:
        """The fields as the columns of a row; without a loss those of a soft ratio of zero."""
        fields = asdict(self)
        del fields["loss"]
        loss = self.loss
        return {
            **fields,
            "soft_ratio": loss.soft_ratio if loss else 0.0,
            "temperature": loss.temperature if loss else 1.0,
            "temperature_scaling": loss.temperature_scaling if loss else "none",
        }
