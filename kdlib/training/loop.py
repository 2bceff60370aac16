"""The training loop: labels or distillation, in memory or in a folder that resumes.

An engine takes the steps: JAX (`step`) or, on a CPU, PyTorch (`pytorch_step`). A step of JAX is one compiled call: on a
CPU a `lax.scan` over steps trains convolutions 4 to 6 times more slowly (`benchmarks/training.py`). A teacher is
applied in inference mode to the same, augmented batch as the student; where nothing is augmented its logits are
computed once per stage and looked up by example. Deterministic for a seed on a CPU with the same number of cores, also
when the run was killed and resumed; on a GPU with XLA_FLAGS=--xla_gpu_deterministic_ops=true.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from tqdm import tqdm

from kdlib.tools.arrays import choice, class_labels, number, sign_labels
from kdlib.tools.files import read_in_parts, sha256_of, write_in_parts
from kdlib.training.checkpoints import DAMAGE, SavedCheckpoints
from kdlib.training.memory import LogitsMemory
from kdlib.training.networks import Network, apply_in_blocks
from kdlib.training.recipe import Recipe
from kdlib.training.step import Engine, JaxEngine
from kdlib.training.teacher import CachedLogits, Supervision, Teacher

EngineName = Literal["jax", "torch"]


@dataclass(frozen=True)
class Trained:
    """A training that has ended, and what was kept along it.

    Attributes
    ----------
    network
        that was trained.
    checkpoints
        `{step: variables}`, ascending; the last one is the end. In memory, or read from files when asked for.
    history
        `(epochs,)` mean loss of each epoch's batches before their steps.
    seconds
        of training, over all processes that worked on it; without what a killed one did after it last saved.
    images_per_second
        of the last process, from its first step on (so without compilation, but with saving and a teacher's passes over
        all images at each stage); NaN if it took fewer than two steps.
    initial
        kept only with `Recipe.remove_initial`: the variables at initialisation, whose outputs are subtracted.
    dtype
        in which outputs are computed.
    folder
        of the training; None in memory.
    engine
        that trained it, and computes its outputs.
    """

    network: Network
    checkpoints: Mapping[int, Any]
    history: np.ndarray
    seconds: float
    images_per_second: float
    initial: Any = None
    dtype: Any = np.float32
    folder: Path | None = None
    engine: EngineName = "jax"

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were kept, ascending."""
        return tuple(self.checkpoints)

    def variables(self, step: int | None = None) -> Any:
        """The variables after `step` steps (one of `steps`; None: at the end)."""
        step = self.steps[-1] if step is None else step
        if step not in self.checkpoints:
            raise ValueError(f"no checkpoint of step {step}: kept were {', '.join(map(str, self.steps))}")
        return self.checkpoints[step]

    def logits(self, inputs: Any, step: int | None = None) -> np.ndarray:
        """Outputs `(n, C)` or `(n,)`, float64, in inference mode, after `step` steps."""
        outputs = apply_in_blocks(self.network, self.variables(step), inputs, dtype=self.dtype, engine=self.engine)
        if self.initial is None:
            return outputs
        return outputs - apply_in_blocks(self.network, self.initial, inputs, dtype=self.dtype)


class Paused(Exception):
    """A training was stopped before its end, as it was asked to be; what is in its folder goes on from there."""


class _State(NamedTuple):
    """What a training needs to go on: steps done, seconds, mean losses of epochs, variables, the optimiser's
    moments.
    """

    step: int
    seconds: float
    history: np.ndarray
    variables: Any
    moments: Any


def train(
    network: Network, recipe: Recipe, inputs: Any, labels: Any, *, folder: str | Path | None = None,
    teacher: Teacher | CachedLogits | None = None, index: Any = None, keep: Sequence[float] = (),
    save_every: float = 60.0, engine: EngineName = "jax", remember: str | Path | None = None,
    pause: Callable[[int], bool] | None = None, progress: bool = False,
) -> Trained:  # fmt: skip
    """Train on labels, distil a teacher, or take up again what was killed.

    Parameters
    ----------
    network
        a module of `kdlib.training.networks`, or anything with their `init` and `apply` that is hashable and whose
        `repr` says what it is: by them a compiled step and a state are recognised.
    recipe
        how. With a `loss` there must be a teacher, without none.
    inputs, labels
        `(n, ...)`, images `(n, height, width, channels)`; and `(n,)`: integers in `0..C-1` for a network with
        `C` outputs, signs -1 and 1 for one whose outputs are `(n,)`.
    folder
        where the state (every `save_every` seconds) and the checkpoints go. A state there is taken up; one of another
        recipe, network, teacher or data is refused. None: everything is kept in memory.
    teacher
        None, a `Teacher`, or `CachedLogits` (refused with augmentation: its rows would belong to other pictures).
    index
        `Split.index` of the inputs, by which `CachedLogits` are found; `0..n-1` by default.
    keep
        shares of the training, in [0, 1], after which the variables are kept; 0 for the initial ones. The end is always
        kept.
    engine
        "jax", on whatever JAX computes on; or "torch", PyTorch on the CPU (`make torch`), faster there for
        convolutional networks. Weights at the start, batches, augmentation, loss and optimiser are the same, so the
        trainings differ by rounding only.
    remember
        a folder in which a teacher's logits are kept for other students: those of the inputs as they are, and by the
        PyTorch engine those of augmented batches (`LogitsMemory`), for the same seed, batches and number of steps.
    pause
        asked after each step (on a GPU: each few), with its number, whether to stop: `Paused` is raised; in a folder,
        the state saved.
    progress
        show a progress bar.

    Returns
    -------
    `Trained`

    Raises
    ------
    ValueError, TypeError
        inputs that are not finite, labels that the network's outputs do not have, a teacher that is none, shapes that
        do not fit, a state of another training.
    FloatingPointError
        the loss or the weights stopped being finite.
    Paused
        where `pause` asked for it.
    """
    dtype = np.float64 if recipe.precision == "float64" else np.float32
    inputs = _fitting_inputs(inputs, labels, recipe, dtype)
    variables = _initial_variables(network, recipe, inputs)
    labels = _fitting_labels(network, variables, inputs, labels)
    index = np.arange(len(inputs)) if index is None else np.asarray(index)
    if index.dtype.kind not in "iu" or index.shape != (len(inputs),):
        raise ValueError(f"index must hold one integer for each input, not {index.dtype} of shape {index.shape}")
    save_every = number("save_every", save_every, least=0)
    supervision = Supervision(teacher, inputs, index, recipe.augment, engine=engine, remember=remember)
    if (teacher is None) != (recipe.loss is None):
        raise ValueError("a teacher needs a recipe with a `loss`, and a `loss` needs a teacher")
    if any(not 0 <= share <= 1 for share in keep):
        raise ValueError(f"keep must hold shares of the training in [0, 1], not {keep}")
    per_epoch = len(inputs) // recipe.batch_size
    steps = max(1, round(recipe.epochs * per_epoch))
    kept = tuple(sorted({round(share * steps) for share in keep} | {steps}))

    rates = _learning_rates(recipe, steps)
    initial = variables if recipe.remove_initial else None
    offset = None if initial is None else jnp.asarray(apply_in_blocks(network, initial, inputs, dtype=dtype))
    memory = _memory(remember, recipe, inputs, supervision, steps) if engine == "torch" else None
    make = _engine_named(engine, memory)
    steps_by: Engine = make(network, recipe, variables, inputs, labels, supervision.in_step, offset)
    state = _State(0, 0.0, np.zeros(-(-steps // per_epoch)), steps_by.variables, steps_by.moments)
    store = _Memory()
    if folder is not None:
        problem = _problem(network, recipe, inputs, labels, supervision, kept, engine)
        store = _Folder(Path(folder), network, kept, inputs[:1].shape, problem)
    state = store.restored(state)
    if state.step == 0 and 0 in kept:
        store.keep(0, variables)

    steps_by.restore(state.variables, state.moments)
    batches = islice(_batches(recipe, len(inputs)), state.step, None)
    losses, watch = [], _Watch(state)
    step, bar = state.step, tqdm(desc="training", total=steps, initial=state.step, disable=not progress)
    while step < steps:
        # A chunk ends where variables are kept, and where the teacher changes.
        room = min(next(k for k in kept if k > step), supervision.last(step, steps)) - step
        ahead = steps_by.chunk if room >= steps_by.chunk else 1
        rows, now = np.stack(list(islice(batches, ahead))), supervision.at(step / steps)
        values = steps_by.steps(rows, step + 1, rates[step : step + ahead], now)
        losses.append((step + 1, values))
        step, loss = step + ahead, values[-1]
        bar.update(ahead)
        watch.stepped(step, loss)
        paused = pause is not None and step < steps and pause(step)
        if step in kept or paused or (folder is not None and watch.since_saved() > save_every):
            variables = steps_by.variables
            if not (np.isfinite(float(loss)) and bool(_finite(variables))):
                raise FloatingPointError(f"the loss or the weights are not finite at step {step}: lower learning_rate")
            _collect(state.history, losses, per_epoch, steps)
            losses.clear()
            state = _State(step, watch.seconds(), state.history, variables, steps_by.moments)
            if step in kept:
                store.keep(step, variables)
            store.save(state)
            watch.saved()
        if paused:
            raise Paused(f"stopped at step {step} of {steps}")
    bar.close()
    rate = watch.steps_per_second() * recipe.batch_size
    history = np.array(state.history)
    return Trained(network, store.checkpoints, history, state.seconds, rate, initial, dtype, store.folder, engine)


class _Memory:
    """Where checkpoints go without a folder; there is no state to take up."""

    folder = None

    def __init__(self):
        self.checkpoints: dict[int, Any] = {}

    def restored(self, state: _State) -> _State:
        return state

    def keep(self, step: int, variables: Any) -> None:
        self.checkpoints[step] = variables

    def save(self, state: _State) -> None:
        pass


class _Folder:
    """A folder with checkpoints and the state from which a killed training goes on."""

    def __init__(self, folder: Path, network: Network, kept: tuple[int, ...], shape: tuple[int, ...], problem: str):
        self.folder, self._path, self._problem = folder, folder / "state.msgpack", problem
        self.checkpoints = SavedCheckpoints(network, folder / "checkpoints", kept, shape)

    def restored(self, state: _State) -> _State:
        """The state in the folder, if there is one and it is of this problem; else the given one."""
        if not self._path.exists():
            return state
        stored = read_in_parts(self._path)
        try:
            content: Any = serialization.msgpack_restore(stored)
            problem = content.pop("problem")
        except DAMAGE as error:
            raise ValueError(f"{self._path} is damaged ({error}): remove it to begin anew") from None
        if problem != self._problem:
            raise ValueError(
                f"{self._path} is the state of another training (network, recipe, teacher, data or checkpoints): use "
                "another folder"
            )
        found = _State(**serialization.from_state_dict(state._asdict(), content))
        return found._replace(history=np.array(found.history))  # what was read cannot be written to

    def keep(self, step: int, variables: Any) -> None:
        self.checkpoints.save(step, variables)

    def save(self, state: _State) -> None:
        write_in_parts(self._path, serialization.to_bytes({**state._asdict(), "problem": self._problem}))


class _Watch:
    """The time that a training takes, in this process and before it."""

    def __init__(self, state: _State):
        self._before, self._began = state.seconds, time.monotonic()
        self._saved, self._first, self._step = self._began, None, state.step

    def stepped(self, step: int, loss: jax.Array) -> None:
        """Note a step; the first one, which compiles, is waited for."""
        self._step = step
        if self._first is None:
            jax.block_until_ready(loss)
            self._first = (step, time.monotonic())

    def saved(self) -> None:
        self._saved = time.monotonic()

    def since_saved(self) -> float:
        return time.monotonic() - self._saved

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def steps_per_second(self) -> float:
        """From the first step of this process on; NaN with fewer than two."""
        if self._first is None or self._step == self._first[0]:
            return np.nan
        return (self._step - self._first[0]) / (time.monotonic() - self._first[1])


def _fitting_inputs(inputs: Any, labels: Any, recipe: Recipe, dtype: Any) -> np.ndarray:
    inputs = np.asarray(inputs, dtype)
    if not len(inputs) or not np.isfinite(inputs).all():
        raise ValueError("inputs must be finite, and one at least")
    if recipe.batch_size > len(inputs) or np.shape(labels) != (len(inputs),):
        raise ValueError(
            f"{len(inputs)} inputs and {np.shape(labels)} labels do not fill a batch of {recipe.batch_size}"
        )
    return inputs


def _initial_variables(network: Network, recipe: Recipe, inputs: np.ndarray) -> Any:
    variables = network.init(jax.random.key(recipe.seed), jnp.asarray(inputs[:1]))
    if unknown := sorted(set(variables) - {"params", "batch_stats"}):
        raise ValueError(
            f"the network has variables {unknown}, which no step would keep: only params and batch_stats are"
        )
    if recipe.precision != "float64":
        return variables
    return jax.tree.map(lambda v: v.astype(np.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v, variables)


def _fitting_labels(network: Network, variables: Any, inputs: np.ndarray, labels: Any) -> np.ndarray:
    """The labels, checked against the network's outputs."""
    outputs = jax.eval_shape(network.apply, variables, jnp.asarray(inputs[:1])).shape
    if len(outputs) == 1:
        return sign_labels(labels, len(inputs))
    if len(outputs) != 2:
        raise ValueError(f"the network must give outputs (n,) or (n, C), not {outputs} for one input")
    return class_labels(labels, len(inputs), outputs[1])


def _engine_named(name: str, memory: LogitsMemory | None) -> Callable[..., Engine]:
    choice("engine", name, get_args(EngineName))
    if name == "jax":
        return JaxEngine
    from kdlib.training.pytorch_step import TorchEngine

    return partial(TorchEngine, memory=memory)


def _memory(
    folder: str | Path | None, recipe: Recipe, inputs: np.ndarray, supervision: Supervision, steps: int
) -> LogitsMemory | None:
    """The file for this teacher, these images, batches and stages; None where no teacher is applied to batches."""
    if folder is None or supervision.in_step is None:
        return None
    one = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    outputs = jax.eval_shape(supervision.in_step.apply, supervision.at(0.0), one).shape[1:]
    parts = [supervision.fingerprint(), sha256_of(inputs), recipe.augment, recipe.batch_size, recipe.seed, steps]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return LogitsMemory(Path(folder) / name, (steps, recipe.batch_size, *outputs))


def _batches(recipe: Recipe, count: int) -> Iterator[np.ndarray]:
    """Rows of each step's batch, without end: a new order each epoch, drawn from one generator."""
    generator = np.random.default_rng(recipe.seed)
    while True:
        order = np.arange(count) if recipe.batch_size == count else generator.permutation(count)
        for start in range(0, count - recipe.batch_size + 1, recipe.batch_size):
            yield order[start : start + recipe.batch_size]


def _learning_rates(recipe: Recipe, steps: int) -> np.ndarray:
    """`(steps,)`. An argument of the compiled step, so that another rate or length of training compiles nothing."""
    if recipe.schedule == "constant":
        return np.full(steps, recipe.learning_rate)
    schedule = optax.cosine_decay_schedule(recipe.learning_rate, steps)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)), np.float64)


# --- the state --------------------------------------------------------------------------------------------------------


def _problem(
    network: Network,
    recipe: Recipe,
    inputs: np.ndarray,
    labels: np.ndarray,
    supervision: Supervision,
    kept: tuple[int, ...],
    engine: str,
) -> str:
    """What must be the same for a state to be taken up."""
    data = sha256_of(inputs, labels)
    parts = [repr(network), asdict(recipe), data, supervision.fingerprint(), list(kept), engine]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@jax.jit
def _finite(variables: Any) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)]).all()


def _collect(history: np.ndarray, losses: list, per_epoch: int, steps: int) -> None:
    """Add the losses of steps to the epochs' means; the last epoch may be a fraction."""
    values = jax.device_get([value for _, value in losses])  # not stacked: thousands of operands compile for minutes
    for (first, _), taken in zip(losses, values, strict=True):
        for step, value in enumerate(taken, start=first):
            epoch = (step - 1) // per_epoch
            history[epoch] += value / min(per_epoch, steps - epoch * per_epoch)
