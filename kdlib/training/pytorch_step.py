"""A step of training, by PyTorch on the CPU: the recipe, batches, augmentation and loss of the JAX engine.

Faster than it for convolutional networks; `benchmarks/engines.py` says by how much. Convolutions and dense layers run
in bfloat16 where the recipe says so: faster on processors with bfloat16 products, on others a little slower.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdlib.labels.loss import DistillationLoss
from kdlib.training.memory import LogitsMemory
from kdlib.training.networks import Network
from kdlib.training.pytorch import TorchNetwork, torch
from kdlib.training.recipe import Recipe
from kdlib.training.step import batch_of

_MOMENTS = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq")}


class TorchEngine:
    """An `Engine` (see `kdlib.training.step`) on PyTorch; arguments as of `JaxEngine`."""

    chunk = 1

    def __init__(
        self, network: Network, recipe: Recipe, variables: Any, inputs: np.ndarray, labels: np.ndarray,
        teacher_network: Network | None, offset: Any = None, memory: LogitsMemory | None = None,
    ):  # fmt: skip
        if recipe.precision == "float64" or offset is not None:
            raise ValueError('float64 and remove_initial are for checks in JAX: use engine="jax"')
        self._network, self._recipe = TorchNetwork(network, variables), recipe
        self._teacher_network, self._teacher, self._teacher_variables = teacher_network, None, None
        self._memory = memory
        self._images, self._labels = np.asarray(inputs), np.asarray(labels)
        self._inputs = jnp.asarray(inputs) if recipe.augment != "none" else None
        self._key = jax.random.key(recipe.seed + 1)
        self._loss = recipe.loss or DistillationLoss(soft_ratio=0.0)
        self._optimiser = _optimiser(self._network, recipe)
        self._steps = 0  # taken, which Adam's moments are corrected for

    @property
    def variables(self) -> Any:
        return self._network.variables()

    @property
    def moments(self) -> Any:
        held = self._optimiser.state
        trees = {
            name: self._network.like_parameters(lambda p, name=name: held[p][name] if held[p] else torch.zeros_like(p))
            for name in _MOMENTS[self._recipe.optimiser]
        }
        return {**trees, "steps": self._steps}

    def restore(self, variables: Any, moments: Any) -> None:
        self._network = TorchNetwork(self._network.network, variables)
        self._optimiser, self._steps = _optimiser(self._network, self._recipe), int(moments["steps"])
        if not self._steps:
            return
        for name in _MOMENTS[self._recipe.optimiser]:
            for parameter, tensor in self._network.from_parameters(moments[name]).items():
                self._optimiser.state[parameter][name] = tensor
                if self._recipe.optimiser == "adam":
                    self._optimiser.state[parameter]["step"] = torch.tensor(float(self._steps))

    def steps(self, rows: np.ndarray, number: int, rates: np.ndarray, teacher: Any) -> list[np.float32]:
        return [self._step(batch, number + k, float(rates[k]), teacher) for k, batch in enumerate(rows)]

    def _step(self, rows: np.ndarray, number: int, rate: float, teacher: Any) -> np.float32:
        images = self._batch(rows, number)
        half = torch.autocast("cpu", torch.bfloat16, enabled=self._recipe.precision == "bfloat16")
        targets = self._targets(images, rows, number, teacher)
        self._network.train()
        with half:
            logits = self._network(images)
        # The book's own loss and its gradient, in float64: nothing of it is written again here.
        outputs, labels = logits.detach().float().numpy(), self._labels[rows]
        if not np.isfinite(outputs).all():  # the loss takes no such logits; the loop stops at a loss that is not finite
            return np.float32(np.nan)
        targets = np.zeros_like(outputs) if targets is None else targets
        loss = self._loss.values(outputs, targets, labels).mean()
        gradient = self._loss.gradient(outputs, targets, labels) / len(rows)
        self._optimiser.zero_grad()
        logits.backward(torch.from_numpy(gradient).to(logits.dtype))
        for group in self._optimiser.param_groups:
            group["lr"] = float(rate)
        self._optimiser.step()
        self._steps += 1
        return np.float32(loss)

    def _batch(self, rows: np.ndarray, number: int) -> Any:
        if self._inputs is None:
            return torch.from_numpy(self._images[rows])  # what `batch_of` gives, in a tenth of the time
        batch = batch_of(self._recipe.augment, self._inputs, rows, self._key, np.uint32(number))
        return torch.from_dlpack(jax.block_until_ready(batch))

    def _targets(self, images: Any, rows: np.ndarray, number: int, teacher: Any) -> np.ndarray | None:
        """The teacher's logits for this batch."""
        if self._teacher_network is None:
            return None if teacher is None else np.asarray(teacher[rows])
        logits = self._memory.of(number) if self._memory else None
        if logits is None:
            logits = self._computed(self._teacher_network, images, teacher)
            if self._memory:
                self._memory.keep(number, logits)
        return logits

    def _computed(self, network: Network, images: Any, teacher: Any) -> np.ndarray:
        if self._teacher is None or self._teacher_variables is not teacher:  # another stage
            self._teacher, self._teacher_variables = TorchNetwork(network, teacher).eval(), teacher
        with torch.no_grad():  # in float32, as in JAX
            return self._teacher(images).numpy()


def _optimiser(network: TorchNetwork, recipe: Recipe) -> Any:
    parameters = list(network.parameters())
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=1.0, weight_decay=recipe.weight_decay)
    nesterov = recipe.momentum > 0  # without momentum there is nothing to look ahead with
    return torch.optim.SGD(
        parameters, lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov
    )
