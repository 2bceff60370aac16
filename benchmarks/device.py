"""What this machine's accelerator computes, against the CPU in float64, and how fast it trains (`make gpu`).

Agreement: the Gram of a finite network, the students of all n (path), supervision complexity, its certified interval,
and one training step with batch normalisation, on the CPU and on the accelerator, in float32 and float64; each as the
relative difference from the CPU in float64. Throughput: images a second of each network's training step, batches of 128
of 32 x 32. On a machine without an accelerator only the CPU's rows are made. Rows are written as they come to
`benchmarks/results/device-<name>.json`; those that are there are kept, so that a second call goes on.
"""

import argparse
import json
import re
import time
from pathlib import Path

import jax
import numpy as np
from path_over_n import processor
from tqdm import tqdm

from kdlib import data
from kdlib.complexity import certified_supervision_complexity, supervision_complexity
from kdlib.kernels import empirical_ntk, ntk_operator
from kdlib.path import interpolation_path
from kdlib.tools.files import write_whole
from kdlib.tools.provenance import provenance
from kdlib.training import Recipe
from kdlib.training.networks import NETWORKS, named
from kdlib.training.step import JaxEngine

EXAMPLES, RIDGE = 48, 1e-2
QUANTITIES = ("gram", "path", "complexity", "certified", "step")


def quantity(name, dtype, task, precision):
    """One quantity as a flat array, computed on JAX's default device; `certified` is an interval `(lower, upper)`."""
    images, targets, network, variables = task
    cast = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), variables)
    if name == "step":
        residual = named("resnet-8", 10)
        start = jax.jit(residual.init)(jax.random.key(0), np.float32(images[:1]))
        start = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), start)
        recipe = Recipe(learning_rate=0.1, augment="crop-flip", precision=precision)
        engine = JaxEngine(residual, recipe, start, images.astype(dtype), targets.argmax(1), None)
        engine.steps(np.arange(len(images))[None], 1, np.array([0.1]), None)
        change = jax.tree.map(lambda new, old: np.asarray(new - old), engine.variables["params"], start["params"])
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)])
    if name == "certified":
        operator = ntk_operator(network, cast, images.astype(dtype), batch=16, dtype=dtype, progress=False)
        ridge = RIDGE * operator.trace / targets.size
        found = certified_supervision_complexity(operator, targets, ridge=ridge, rank=100, progress=False)
        return np.array([found.lower, found.upper])
    gram = empirical_ntk(network, cast, images.astype(dtype), dtype=dtype, progress=False)
    side = targets.size
    if name == "gram":
        return np.asarray(gram, np.float64).ravel()
    flat = np.asarray(gram, np.float64).reshape(side, side)
    flat = flat + RIDGE * np.trace(flat) / side * np.eye(side)
    on_device = jax.numpy.asarray(flat, dtype)
    if name == "path":
        students = interpolation_path(on_device, targets.reshape(-1, 1))
        return np.asarray(students.squared_norm, np.float64).ravel()
    return np.array([supervision_complexity(on_device, targets.ravel()).value])


def agreement(devices, keep):
    """Rows of the agreement table, the CPU in float64 first."""
    split = data.load("fashion-mnist", sizes={"train": EXAMPLES}, normalisation="standard", distinct=True).train
    network = named("lenet-5", 10)
    variables = jax.jit(network.init)(jax.random.key(0), np.float32(split.images[:1]))
    task = split.images, np.eye(10)[split.labels] - 0.1, network, variables
    ways = [(device, precision) for device in devices for precision in ("float64", "float32")]
    for name in QUANTITIES:
        reference = None
        for device, precision in tqdm(ways, name):
            with jax.default_device(device):
                begin = time.perf_counter()
                values = quantity(name, np.dtype(precision).type, task, precision)
                seconds = time.perf_counter() - begin
            reference = values if reference is None else reference
            row = {"quantity": name, "device": device.device_kind, "precision": precision, "seconds": round(seconds, 2)}
            if name == "certified":  # an interval agrees if it meets the reference's
                row["meets"] = bool(values[0] <= reference[1] and reference[0] <= values[1])
                row["width"] = float((values[1] - values[0]) / values[1])
            else:
                row["difference"] = float(np.linalg.norm(values - reference) / np.linalg.norm(reference))
            keep("agreement", row)


def throughput(networks, seconds, keep):
    """Rows of the training steps on the default device."""
    draw = np.random.default_rng(0)
    images = draw.normal(size=(2048, 32, 32, 3)).astype(np.float32)
    labels, rows = draw.integers(0, 10, 2048), draw.integers(0, 2048, (16, 128))
    for name in networks:
        for precision in ("float32", "bfloat16"):
            network = named(name, 10)
            start = jax.jit(network.init)(jax.random.key(0), images[:1])
            recipe = Recipe(learning_rate=0.01, augment="crop-flip", precision=precision)
            engine = JaxEngine(network, recipe, start, images, labels, None)
            begin, taken = time.perf_counter(), rows[np.arange(engine.chunk) % len(rows)]
            rates = np.full(engine.chunk, 0.01)
            jax.block_until_ready(engine.steps(taken, 1, rates, None))
            compiled, begin, steps = time.perf_counter() - begin, time.perf_counter(), 0
            while steps < 2 or time.perf_counter() - begin < seconds:
                for _ in range(2):
                    loss = engine.steps(taken, steps + 2, rates, None)
                    steps += engine.chunk
                jax.block_until_ready(loss)
            rate = 128 * steps / (time.perf_counter() - begin)
            row = {
                "network": name,
                "precision": precision,
                "images_per_second": round(rate),
                "first": round(compiled, 1),
            }
            print(row, flush=True)
            keep("throughput", row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each network's throughput")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    default, cpu = jax.devices()[0], jax.devices("cpu")[0]
    found = [cpu] if default.platform == "cpu" else [cpu, default]
    label = re.sub(r"[^a-z0-9]+", "-", default.device_kind.lower()).strip("-")
    path = options.folder / f"device-{label}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    content.update(device=default.device_kind, processor=processor(), **provenance())
    content.setdefault("agreement", []), content.setdefault("throughput", [])

    def keep_row(table, row):
        """Put a row into its table, in place of one of the same thing, and write the file."""
        told = ("quantity", "network", "device", "precision")
        same = lambda other: all(other.get(name) == row.get(name) for name in told)
        content[table] = [other for other in content[table] if not same(other)] + [row]
        write_whole(path, json.dumps(content, indent=1))

    agreement(found, keep_row)
    throughput(options.networks, options.seconds, keep_row)
    print(f"{path}: {len(content['agreement'])} and {len(content['throughput'])} rows")
