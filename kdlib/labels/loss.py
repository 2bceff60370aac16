"""The distillation loss of one example (Ji & Zhu 2020)::

    l(z) = rho c_T H(s(z_t / T), s(z / T)) + (1 - rho) H(y_g, s(z)),

with `rho` the soft ratio, `T` the temperature, `z_t` the teacher's logit, `y_g` the hard label, `s` the sigmoid
(softmax for more than two classes) and `c_T` = 1 (``temperature_scaling="none"``) or T^2 (``"squared"``).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from scipy import special

from kdlib.tools.arrays import choice, logits_and_labels, number, real_array

TemperatureScaling = Literal["none", "squared"]
Array = Any  # a NumPy array, or a JAX array where it was given one


@dataclass(frozen=True)
class DistillationLoss:
    """The loss and its gradient. Checked once, here; hashable, so it can be a dictionary key or a static argument.

    Attributes
    ----------
    soft_ratio
        `rho` in [0, 1]: the share of the soft labels. At zero the loss is the hard labels' cross-entropy.
    temperature
        `T > 0`, of the soft labels.
    temperature_scaling
        ``"none"`` (`c_T = 1`) or ``"squared"`` (`c_T = T^2`, which keeps the size of the soft labels' gradient).

    Raises
    ------
    ValueError, TypeError
        when it is made with anything else.
    """

    soft_ratio: float
    temperature: float = 1.0
    temperature_scaling: TemperatureScaling = "none"

    def __post_init__(self):
        object.__setattr__(self, "soft_ratio", number("soft_ratio", self.soft_ratio, least=0, most=1))
        object.__setattr__(self, "temperature", number("temperature", self.temperature, least=1e-6, most=1e9))
        choice("temperature_scaling", self.temperature_scaling, ("none", "squared"))

    @property
    def temperature_factor(self) -> float:
        """`c_T`."""
        return self.temperature**2 if self.temperature_scaling == "squared" else 1.0

    @property
    def largest_curvature(self) -> float:
        """An upper bound on the second derivative of one example's binary loss: each cross-entropy has at most 1/4."""
        soft = self.soft_ratio * self.temperature_factor / self.temperature**2
        return 0.25 * (soft + 1 - self.soft_ratio)

    def values(self, logits: Array, teacher_logits: Array, labels: Array) -> Array:
        """The loss of each example, `(n,)`: the `l` of E1.

        Parameters
        ----------
        logits, teacher_logits
            `(n,)` for two classes, `(n, C)` for `C >= 2`, of one shape. Finite.
        labels
            `(n,)`: in {-1, 1} for two classes, integers in `0..C-1` otherwise.

        Of NumPy arrays a float64 NumPy array; of JAX arrays a JAX array, also inside a compiled function.
        """
        f, logits, teacher, labels = _prepared(logits, teacher_logits, labels)
        ratio, temperature, c_t = self.soft_ratio, self.temperature, self.temperature_factor
        if logits.ndim == 1:
            p = f.sigmoid(teacher / temperature)
            soft = -p * f.log_sigmoid(logits / temperature) - (1 - p) * f.log_sigmoid(-logits / temperature)
            return ratio * c_t * soft - (1 - ratio) * f.log_sigmoid(labels * logits)
        p = f.softmax(teacher / temperature, axis=-1)
        soft = -(p * f.log_softmax(logits / temperature, axis=-1)).sum(axis=-1)
        hard = -f.np.take_along_axis(f.log_softmax(logits, axis=-1), labels[:, None], axis=-1)[:, 0]
        return ratio * c_t * soft + (1 - ratio) * hard

    def gradient(self, logits: Array, teacher_logits: Array, labels: Array) -> Array:
        """Derivative of each example's loss with respect to its logits, of their shape: the `g` of E1.

        Arguments as in `values`. Written as the loss is, by plain subtraction: what the solver of `effective_logits` is
        checked against.
        """
        f, logits, teacher, labels = _prepared(logits, teacher_logits, labels)
        temperature, weight = self.temperature, self.soft_ratio * self.temperature_factor / self.temperature
        if logits.ndim == 1:
            soft = f.sigmoid(logits / temperature) - f.sigmoid(teacher / temperature)
            return weight * soft + (1 - self.soft_ratio) * (f.sigmoid(logits) - (1 + labels) / 2)
        soft = f.softmax(logits / temperature, axis=-1) - f.softmax(teacher / temperature, axis=-1)
        hard = f.softmax(logits, axis=-1) - (labels[:, None] == np.arange(logits.shape[-1]))
        return weight * soft + (1 - self.soft_ratio) * hard


_SCIPY = SimpleNamespace(
    np=np,
    sigmoid=special.expit,
    log_sigmoid=special.log_expit,
    softmax=special.softmax,
    log_softmax=special.log_softmax,
)


def _jax():
    import jax

    return SimpleNamespace(
        np=jax.numpy, sigmoid=jax.nn.sigmoid, log_sigmoid=jax.nn.log_sigmoid, softmax=jax.nn.softmax,
        log_softmax=jax.nn.log_softmax,
    )  # fmt: skip


def _prepared(logits, teacher_logits, labels):
    """The functions to compute with, where the arrays are, and the arrays in float64, checked if they have values
    yet.
    """
    arrays = (logits, teacher_logits, labels)
    if not any(type(array).__module__.split(".")[0] in ("jax", "jaxlib") for array in arrays):
        teacher, labels = logits_and_labels(teacher_logits, labels)
        return _SCIPY, real_array("logits", logits, shape=teacher.shape), teacher, labels
    import jax.numpy as jnp
    from jax.core import Tracer

    if not any(isinstance(array, Tracer) for array in arrays):
        teacher, labels = logits_and_labels(teacher_logits, labels)
        logits = jnp.asarray(real_array("logits", logits, shape=teacher.shape))
        return _jax(), logits, jnp.asarray(teacher), jnp.asarray(labels)
    # Inside a compiled function, whose caller has checked the values; shapes are known.
    logits, teacher = jnp.asarray(logits, jnp.float64), jnp.asarray(teacher_logits, jnp.float64)
    if logits.shape != teacher.shape or jnp.shape(labels) != logits.shape[:1]:
        raise ValueError(
            f"logits {logits.shape}, teacher_logits {teacher.shape} and labels {jnp.shape(labels)} do not fit together"
        )
    return _jax(), logits, teacher, jnp.asarray(labels)
