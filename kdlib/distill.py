"""Training and distillation of finite networks at any scale: batch normalisation, augmentation, runs that resume.

The images stay on the device and a step is one compiled call. A teacher is applied in inference mode to the same,
augmented batch as the student; where nothing is augmented its logits are computed once per stage and looked up by
example. Deterministic for a seed on a CPU with the same number of cores, also when the run was killed and resumed; on a
GPU with XLA_FLAGS=--xla_gpu_deterministic_ops=true. (`kdlib.train` is the small
version of this: everything in memory, no batch normalisation.)
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from tqdm import tqdm

from kdlib import checkpoints
from kdlib.labels import distillation_loss

METHODS = ("baseline", "offline", "early-stopped", "online", "self")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. With `soft_ratio` zero there is no teacher.

    Attributes
    ----------
    epochs, batch_size, learning_rate, weight_decay, optimiser
        "sgd" (Nesterov momentum 0.9) or "adam"; the learning rate decays to zero along a cosine, the last, incomplete
        batch of each epoch is left out.
    augment
        "none", or "crop-flip": shifts by up to four pixels and mirror images, drawn anew for each step.
    soft_ratio, temperature, temperature_scaling
        of the loss, as in `kdlib.labels.distillation_loss`.
    precision
        "float32", or "bfloat16" for the student's layers (parameters, statistics and loss stay in float32).
    seed
        of the initial weights, the order of the examples and the augmentation.
    """

    epochs: float = 10
    batch_size: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    optimiser: str = "sgd"
    augment: str = "none"
    soft_ratio: float = 0.0
    temperature: float = 1.0
    temperature_scaling: str = "none"
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        for name, options in (
            ("optimiser", ("sgd", "adam")),
            ("augment", ("none", "crop-flip")),
            ("precision", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be one of {options}, not {getattr(self, name)!r}")
        if not self.epochs > 0 or self.batch_size < 1:
            raise ValueError("epochs and batch_size must be positive")


@dataclass(frozen=True)
class Teacher:
    """A network whose checkpoints supervise a student, stage by stage.

    Attributes
    ----------
    network
        the flax module.
    stages
        `[(share, variables)]`, ascending: `variables` are used until that share of the student's training is over;
        the last share is one. Offline distillation has one stage.
    """

    network: object
    stages: tuple

    def __post_init__(self):
        shares = [share for share, _ in self.stages]
        if not shares or shares != sorted(set(shares)) or shares[0] <= 0 or shares[-1] != 1:
            raise ValueError(f"the stages must end at ascending shares of the training, the last at 1, not {shares}")


@dataclass(frozen=True)
class CachedLogits:
    """Teacher's logits from anywhere: `values[k]` belongs to the example whose `Split.index` is `index[k]`."""

    index: np.ndarray
    values: np.ndarray

    def of(self, index):
        """The rows of these examples, `(n, C)`; refused if one is missing or there twice."""
        rows = {int(example): row for row, example in enumerate(self.index)}
        if len(rows) < len(self.index) or len(self.values) != len(self.index):
            raise ValueError("cached logits need one row for each example, and no example twice")
        missing = [int(example) for example in index if int(example) not in rows]
        if missing:
            raise ValueError(f"no cached logits for {len(missing)} examples, the first of index {missing[0]}")
        return self.values[[rows[int(example)] for example in index]]


@dataclass(frozen=True)
class TrainedRun:
    """A training that has ended; its checkpoints are files.

    Attributes
    ----------
    network
        the flax module.
    folder
        holds `checkpoints/STEP.msgpack`.
    steps
        those that were kept, ascending; the last one is the end.
    history
        `(epochs,)` mean loss of each epoch's batches before their steps.
    seconds
        of training, over all processes that worked on it; without what a killed one did after it last saved.
    images_per_second
        of the last process, from its first step on (so without compilation, but with saving and a teacher's passes over
        all images at each stage); NaN if it took fewer than two steps.
    """

    network: object
    folder: Path
    steps: tuple
    history: np.ndarray
    seconds: float
    images_per_second: float
    shape: tuple = field(repr=False)

    def variables(self, step=None):
        """The variables after `step` steps (one of `steps`; None: at the end)."""
        step = self.steps[-1] if step is None else step
        if step not in self.steps:
            raise ValueError(f"no checkpoint of step {step}: kept were {', '.join(map(str, self.steps))}")
        return checkpoints.read_variables(self.network, self.folder / "checkpoints" / f"{step}.msgpack", self.shape)

    def logits(self, images, step=None):
        """Logits `(n, outputs)`, float64, in inference mode."""
        return apply_in_blocks(self.network, self.variables(step), images)


def train(
    network, recipe, images, labels, folder, *, teacher=None, index=None, keep=(), save_every=60.0, progress=True
):  # fmt: skip
    """Train, distil, or take up again what was killed.

    Parameters
    ----------
    network
        a module of `kdlib.networks`, or anything with their `init` and `apply`; one whose variables hold "batch_stats" is
        called with `training=True` in its steps.
    recipe
        a `Recipe`.
    images, labels
        `(n, height, width, channels)` and integers `(n,)`.
    folder
        where the state (every `save_every` seconds) and the checkpoints go. A state there is taken up; one of another
        recipe, network, teacher or data is refused.
    teacher
        None, a `Teacher`, or `CachedLogits` (refused with augmentation: its rows would belong to other pictures).
    index
        `Split.index` of the images, for `CachedLogits`.
    keep
        shares of the training, in (0, 1), after which the variables are kept; 0 for the initial ones. The end always is.
    progress
        show a progress bar.

    Returns
    -------
    `TrainedRun`
    """
    if len(labels) != len(images) or recipe.batch_size > len(images):
        raise ValueError(f"{len(images)} images and {len(labels)} labels do not fill a batch of {recipe.batch_size}")
    if (teacher is None) != (recipe.soft_ratio == 0):
        raise ValueError("a teacher needs a positive soft_ratio, and no teacher a soft_ratio of zero")
    if isinstance(teacher, CachedLogits) and recipe.augment != "none":
        raise ValueError('cached logits belong to the images as they are: use augment="none" or a Teacher')
    folder = Path(folder)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    supervision = _Supervision(teacher, images, index, recipe.augment)
    per_epoch = len(images) // recipe.batch_size
    steps = max(1, round(recipe.epochs * per_epoch))
    kept = tuple(sorted({round(share * steps) for share in keep} | {steps}))
    if kept[0] < 0 or kept[-1] > steps:
        raise ValueError(f"keep must hold shares of the training in [0, 1], not {keep}")
    step_once, optimiser = _step(network, recipe, steps, supervision.in_step)
    variables = network.init(jax.random.key(recipe.seed), jnp.asarray(images[:1]))
    state = {
        "step": 0, "seconds": 0.0, "history": np.zeros(-(-steps // per_epoch)), "variables": variables,
        "moments": optimiser.init(variables["params"]),
    }  # fmt: skip
    problem = _problem(network, recipe, images, labels, supervision, kept)
    state = _restored(folder / "state.msgpack", state, problem)
    if state["step"] == 0 and 0 in kept:
        checkpoints.save_variables(folder / "checkpoints" / "0.msgpack", variables)
    on_device = jnp.asarray(images), jnp.asarray(labels)
    key, losses, first_done = jax.random.key(recipe.seed + 1), [], None
    began = saved = time.monotonic()
    before, epoch = state["seconds"], -1

    def save():
        _collect(state["history"], losses, per_epoch, steps)
        losses.clear()
        state["seconds"] = before + time.monotonic() - began
        checkpoints.write(folder / "state.msgpack", serialization.to_bytes({**state, "problem": problem}))

    bar = tqdm(total=steps, initial=state["step"], desc="training", disable=not progress)
    for step in range(state["step"] + 1, steps + 1):
        if (step - 1) // per_epoch != epoch:
            epoch = (step - 1) // per_epoch
            rows = np.random.default_rng((recipe.seed, epoch)).permutation(len(images))
        start = (step - 1) % per_epoch * recipe.batch_size
        state["variables"], state["moments"], loss = step_once(
            state["variables"], state["moments"], rows[start : start + recipe.batch_size], key, np.uint32(step), *on_device,
            supervision.at((step - 1) / steps),
        )  # fmt: skip
        losses.append((step, loss))
        state["step"] = step
        bar.update()
        if first_done is None:
            jax.block_until_ready(loss)
            first_done = (step, time.monotonic())
        if step in kept or time.monotonic() - saved > save_every:
            if not (np.isfinite(float(loss)) and _finite(state["variables"])):
                raise FloatingPointError(f"the loss or the weights are not finite at step {step}: lower learning_rate")
            if step in kept:
                checkpoints.save_variables(folder / "checkpoints" / f"{step}.msgpack", state["variables"])
            save()
            saved = time.monotonic()
    bar.close()
    rate = np.nan
    if first_done and steps > first_done[0]:
        rate = (steps - first_done[0]) * recipe.batch_size / (time.monotonic() - first_done[1])
    return TrainedRun(network, folder, kept, np.array(state["history"]), state["seconds"], rate, images[:1].shape)


# --- the teacher's part ------------------------------------------------------------------------------------------


class _Supervision:
    """The teacher's logits for a step: looked up if nothing is augmented, else computed in the step."""

    def __init__(self, teacher, images, index, augment):
        self.teacher, self._images, self._table = teacher, images, (None, None)
        self.in_step = teacher.network if isinstance(teacher, Teacher) and augment != "none" else None
        if isinstance(teacher, CachedLogits):
            if index is None:
                raise ValueError("cached logits need the `index` of the images")
            self._table = (0, jnp.asarray(teacher.of(index), jnp.float32))

    def at(self, share):
        """What `_step` takes: None, a table of logits for all examples, or the teacher's variables."""
        if not isinstance(self.teacher, Teacher):
            return self._table[1]
        stage = next(k for k, (end, _) in enumerate(self.teacher.stages) if share < end)
        if self._table[0] != stage:
            variables = self.teacher.stages[stage][1]
            if self.in_step is None:
                logits = apply_in_blocks(self.teacher.network, variables, self._images)
                self._table = (stage, jnp.asarray(logits, jnp.float32))
            else:
                self._table = (stage, jax.device_put(variables))
        return self._table[1]

    def fingerprint(self):
        """Of the teacher: the shares and weights of its stages, or its logits."""
        digest = hashlib.sha256()
        if isinstance(self.teacher, Teacher):
            for share, variables in self.teacher.stages:
                digest.update(repr((share, repr(self.teacher.network))).encode())
                for leaf in jax.tree.leaves(variables):
                    digest.update(np.ascontiguousarray(leaf).tobytes())
        elif self.teacher is not None:
            digest.update(np.ascontiguousarray(self._table[1]).tobytes())
        return digest.hexdigest()


@lru_cache(maxsize=32)
def _step(network, recipe, steps, teacher_network):
    """The compiled step and its optimiser: compiled once for all data of one shape."""
    schedule = optax.cosine_decay_schedule(recipe.learning_rate, steps)
    method = optax.adam(schedule) if recipe.optimiser == "adam" else optax.sgd(schedule, momentum=0.9, nesterov=True)
    optimiser = optax.chain(optax.add_decayed_weights(recipe.weight_decay), method)
    if recipe.precision == "bfloat16":
        network = network.clone(dtype=jnp.bfloat16)
    convention = dict(
        soft_ratio=recipe.soft_ratio, temperature=recipe.temperature, temperature_scaling=recipe.temperature_scaling
    )

    def loss_of(params, rest, images, labels, teacher_logits):
        logits, rest = _apply_training(network, {"params": params, **rest}, images)
        logits = logits.astype(jnp.float32)
        if teacher_logits is None:
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), rest
        return distillation_loss(logits, teacher_logits, labels, **convention).mean().astype(jnp.float32), rest

    @jax.jit
    def step_once(variables, moments, rows, key, step, images, labels, teacher):
        batch = (
            augmented(images[rows], jax.random.fold_in(key, step)) if recipe.augment == "crop-flip" else images[rows]
        )
        logits = None
        if teacher_network is not None:
            logits = jax.lax.stop_gradient(teacher_network.apply(teacher, batch))
        elif teacher is not None:
            logits = teacher[rows]
        params, rest = variables["params"], {name: value for name, value in variables.items() if name != "params"}
        (loss, rest), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, rest, batch, labels[rows], logits)
        updates, moments = optimiser.update(gradient, moments, params)
        return {"params": optax.apply_updates(params, updates), **rest}, moments, loss

    return step_once, optimiser


def _apply_training(network, variables, images):
    """Logits in training mode, and what of the variables is not trained, after the batch."""
    if "batch_stats" not in variables:
        return network.apply(variables, images), {}
    logits, changed = network.apply(variables, images, training=True, mutable=["batch_stats"])
    return logits, jax.tree.map(
        lambda new, old: new.astype(old.dtype), dict(changed), {"batch_stats": variables["batch_stats"]}
    )


def augmented(images, key, shift=4):
    """Each image shifted by up to `shift` pixels (what leaves the frame is lost, zeros come in), every other mirrored."""
    n, height, width, channels = images.shape
    for_shift, for_mirror = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    corners = jax.random.randint(for_shift, (n, 2), 0, 2 * shift + 1)
    cut = lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))
    moved = jax.vmap(cut)(padded, corners)
    mirrored = jax.random.bernoulli(for_mirror, 0.5, (n, 1, 1, 1))
    return jnp.where(mirrored, moved[:, :, ::-1], moved)


# --- state and logits -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _forward(network):
    return jax.jit(lambda variables, images: network.apply(variables, images))


def apply_in_blocks(network, variables, images, block=1000):
    """Logits `(n, outputs)` in inference mode, float64, computed in float32."""
    block = min(block, len(images))
    found = []
    for start in range(0, len(images), block):
        part = np.asarray(images[start : start + block], np.float32)
        padded = np.concatenate([part, np.zeros((block - len(part), *part.shape[1:]), np.float32)])
        found.append(np.asarray(_forward(network)(variables, padded), np.float64)[: len(part)])
    return np.concatenate(found)


def _problem(network, recipe, images, labels, supervision, kept):
    """What must be the same for a state to be taken up."""
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    digest.update(np.ascontiguousarray(labels).tobytes())
    parts = [repr(network), asdict(recipe), digest.hexdigest(), supervision.fingerprint(), list(kept)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _restored(path, state, problem):
    """The state in `path`, if there is one and it is of this problem."""
    if not path.exists():
        return state
    content = serialization.msgpack_restore(path.read_bytes())
    if content.pop("problem") != problem:
        raise ValueError(
            f"{path} is the state of another training (network, recipe, teacher, data or checkpoints): use another folder"
        )
    found = serialization.from_state_dict(state, content)
    return {**found, "history": np.array(found["history"])}  # what was read cannot be written to


@jax.jit
def _finite(variables):
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)]).all()


def _collect(history, losses, per_epoch, steps):
    """Add the losses of steps to the epochs' means; the last epoch may be a fraction."""
    values = np.asarray(jnp.stack([loss for _, loss in losses])) if losses else []
    for (step, _), value in zip(losses, values, strict=True):
        epoch = (step - 1) // per_epoch
        history[epoch] += value / min(per_epoch, steps - epoch * per_epoch)
