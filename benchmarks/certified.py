"""Supervision complexity of a finite network without its Gram, all ten outputs, from a thousand examples upwards.

The network is chapter 5's teacher; the supervision are the labels, and its own logits, of Fashion-MNIST images it has
not been trained on. A ridge of a given share of the mean diagonal is part of the question: it is what makes an upper
end possible. One row for each n, ridge and supervision, appended as soon as it is done: a killed run goes on where it
was, in the middle of an interval too. The table is `results/engine/certified.csv`.
"""

import argparse
import resource
import time
from pathlib import Path

import jax
import numpy as np

from kdlib import data
from kdlib.complexity import certified_supervision_complexity
from kdlib.kernels import ntk_operator
from kdlib.tools.files import read_rows, write_rows
from kdlib.tools.provenance import device_name, provenance
from kdlib.training import Recipe, train
from kdlib.training.networks import SmallConvolutional

TABLE = Path(__file__).resolve().parent.parent / "results" / "engine" / "certified.csv"


def main():
    """Compute the rows that the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", type=int, default=[1000, 2500, 5000, 10_000])
    parser.add_argument("--ridges", nargs="+", type=float, default=[0.1, 0.01], help="in units of the mean diagonal")
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--rank", type=int, default=500)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, default=TABLE.parent.parent.parent / "_build" / "certified")
    options = parser.parse_args()
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    done = {key(row) for row in rows()}
    sizes = (
        {"transfer": max(options.examples)}
        if max(options.examples) > 50_000
        else {"train": 10_000, "transfer": max(options.examples)}
    )
    split = data.load(
        "fashion-mnist", normalisation="standard", distinct=True, seed=options.seed, sizes={"train": 10_000, **sizes}
    )
    network = SmallConvolutional()
    recipe = Recipe(epochs=4, batch_size=64, optimiser="adam", learning_rate=2e-3, weight_decay=0.0, seed=options.seed)
    teacher = train(network, recipe, split.train.images, split.train.labels, progress=True)
    for n in options.examples:
        images, labels = split.transfer.images[:n], split.transfer.labels[:n]
        operator, logits = None, teacher.logits(images)
        supervisions = {"labels": np.eye(10)[labels] - 0.1, "its logits": logits - logits.mean(axis=1, keepdims=True)}
        for ridge in options.ridges:
            for name, targets in supervisions.items():
                wanted = {
                    "examples": n,
                    "ridge": ridge,
                    "supervision": name,
                    "dtype": options.dtype,
                    "seed": options.seed,
                    "device": device_name(),
                }
                if key(wanted) in done:
                    continue
                start = time.perf_counter()
                if operator is None:
                    parameters = teacher.checkpoints[max(teacher.checkpoints)]
                    operator = ntk_operator(
                        network, parameters, images, batch=options.batch, dtype=np.dtype(options.dtype)
                    )
                mean = operator.trace / (10 * n)
                targets = targets / np.sqrt(np.mean(targets**2))
                before = time.perf_counter()
                state = options.checkpoints / f"{n}_{ridge}_{name.replace(' ', '_')}_{options.dtype}_{options.seed}.npz"
                found = certified_supervision_complexity(
                    operator,
                    targets,
                    ridge=ridge * mean,
                    tolerance=options.tolerance,
                    rank=options.rank,
                    checkpoint=state,
                )
                append(
                    {
                        **wanted, "lower": found.lower, "upper": found.upper, "per target": found.upper / targets.size,
                        "adjusted upper": found.adjusted[1], "widening": found.widening, "reason": found.reason,
                        "iterations": found.iterations, "products": found.products, "mean diagonal": mean,
                        "seconds": time.perf_counter() - before, "seconds before": before - start,
                        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, **provenance(),
                    }
                )  # fmt: skip
                state.unlink(missing_ok=True)
        jax.clear_caches()


def key(row):
    """What makes a row the same question."""
    return tuple(str(row[name]) for name in ("examples", "ridge", "supervision", "dtype", "seed", "device"))


def rows():
    """The table so far."""
    return read_rows(TABLE) if TABLE.exists() else []


def append(row):
    """Add a row and show it; the file is replaced whole, so that no half of a row is ever in it."""
    write_rows(TABLE, [*rows(), row])
    print(
        {
            name: row[name]
            for name in ("examples", "ridge", "supervision", "lower", "upper", "iterations", "seconds", "peak GB")
        },
        flush=True,
    )


if __name__ == "__main__":
    main()
