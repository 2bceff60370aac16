"""The two engines of training side by side, in images a second on this CPU: JAX and PyTorch (`make benchmark-engines`).

Each engine takes the steps that `kdlib.training.train` would ask it for: the same weights, batches of 128, crops and
mirror images, loss and optimiser, on random images of 32 x 32. Interleaved, repeated; medians and their ratio, with the
difference between the weights after the steps, as a share of the way. The table is `benchmarks/results/engines.json`.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from path_over_n import processor
from tqdm import tqdm

from kdlib.tools.files import write_whole
from kdlib.tools.provenance import provenance
from kdlib.training import Recipe
from kdlib.training.networks import named
from kdlib.training.pytorch import torch
from kdlib.training.pytorch_step import TorchEngine
from kdlib.training.step import JaxEngine

RESULTS = Path(__file__).parent / "results" / "engines.json"
RECIPE = Recipe(learning_rate=0.05, augment="crop-flip")


def vector(variables):
    """All trained parameters in one vector."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables["params"])])


def measured(name, options):
    """Rows of one network: images a second by engine and precision, and the ratio to JAX in float32."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(1024, 32, 32, 3)).astype(np.float32)
    labels, rows = generator.integers(0, 10, 1024), generator.integers(0, 1024, (options.steps, 128))
    network = named(name, 10)
    start = jax.jit(network.init)(jax.random.key(0), images[:1])
    half = dataclasses.replace(RECIPE, precision="bfloat16")
    ways = {("jax", "float32"): (JaxEngine, RECIPE), ("torch", "float32"): (TorchEngine, RECIPE)}
    ways[("torch", "bfloat16")] = (TorchEngine, half)
    engines = {way: kind(network, recipe, start, images, labels, None) for way, (kind, recipe) in ways.items()}
    seconds, ends = {way: [] for way in ways}, {}
    for repeat in range(options.repeats + 1):  # the first one compiles
        for way, engine in engines.items():
            begin = time.perf_counter()
            for k, batch in enumerate(rows):
                loss = engine.steps(batch[None], k + 1 + repeat * options.steps, np.array([0.01]), None)[0]
            jax.block_until_ready(loss)
            if repeat:
                seconds[way].append((time.perf_counter() - begin) / options.steps)
            else:
                ends[way] = vector(engine.variables)
    reference = ends[("jax", "float32")]
    base = statistics.median(seconds[("jax", "float32")])
    return [
        {
            "network": name,
            "engine": engine,
            "precision": precision,
            "images_per_second": round(128 / statistics.median(seconds[(engine, precision)])),
            "times_jax": round(base / statistics.median(seconds[(engine, precision)]), 2),
            "lowest": round(base / max(seconds[(engine, precision)]), 2),
            "highest": round(base / min(seconds[(engine, precision)]), 2),
            "difference": float(np.linalg.norm(ends[(engine, precision)] - reference))
            / float(np.linalg.norm(reference - vector(start))),
        }
        for engine, precision in ways
    ]


def main():
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["lenet-5", "lenet-5x8", "resnet-8", "resnet-20"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    about = {"processor": processor(), "cores": os.cpu_count(), "batch_size": 128, "torch": torch.__version__}
    about |= {"torch_capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    about |= {"steps": options.steps, "repeats": options.repeats, **provenance()}
    rows = []
    for name in tqdm(options.networks, desc="networks"):
        rows += measured(name, options)
        # As it grows: XLA alone compiles for minutes.
        write_whole(RESULTS, json.dumps({"rows": rows, "run": about}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
