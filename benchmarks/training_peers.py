"""Images a second in training: `kdlib.training` against a plain PyTorch loop, interleaved, medians, as ratios.

The same networks (CIFAR's shape), batch size and optimiser, float32, all cores. PyTorch lives in an environment of its
own (`make benchmark-ntk` makes it). The table is written to `benchmarks/results/training_peers.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from path_over_n import processor
from tqdm import tqdm

from kdlib.tools.provenance import device_name, provenance
from kdlib.training.networks import named
from kdlib.training.recipe import Recipe
from kdlib.training.step import compiled_step

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "training_peers.json"


def trainer(name, batch, images, labels):
    """`f(steps)`: trains that many steps of `kdlib.training.step` and waits for the end."""
    network = named(name, 10)
    step_once, _, optimiser = compiled_step(network, Recipe(batch_size=batch))
    variables = network.init(jax.random.key(0), images[:1])
    state = [variables, optimiser.init(variables["params"])]
    key, generator = jax.random.key(1), np.random.default_rng(0)

    def run(steps):
        for step in range(steps):
            rows = generator.integers(0, len(images), batch)
            state[0], state[1], loss = step_once(*state, rows, key, np.uint32(step), 0.01, images, labels, None, None)
        jax.block_until_ready(loss)

    return run


def main():
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, default=HERE.parent / ".venv-peers")
    parser.add_argument("--networks", nargs="+", default=["lenet-5", "lenet-5x8", "resnet-8", "resnet-20"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each repeat, about")
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    images, labels = (
        jnp.asarray(draw.normal(size=(2048, 32, 32, 3)), jnp.float32),
        jnp.asarray(draw.integers(0, 10, 2048)),
    )
    torch = subprocess.Popen(
        [options.peers / "torch" / "bin" / "python", HERE / "training_torch.py"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    peer = torch.stdout.readline().split()

    def in_torch(name, steps):
        torch.stdin.write(f"{name} {steps} {options.batch}\n")
        torch.stdin.flush()
        return float(torch.stdout.readline())

    rows = []
    for name in tqdm(options.networks, desc="networks"):
        run = trainer(name, options.batch, images, labels)
        begin = time.perf_counter()
        run(2)
        compiled = time.perf_counter() - begin
        in_torch(name, 2)
        steps = max(1, round(options.seconds / max(in_torch(name, 2) / 2, 1e-3)))
        mine, theirs = [], []
        for _ in range(options.repeats):
            begin = time.perf_counter()
            run(steps)
            mine.append((time.perf_counter() - begin) / steps)
            theirs.append(in_torch(name, steps) / steps)
        rates = [options.batch / statistics.median(times) for times in (mine, theirs)]
        rows.append(
            {
                "network": name, "kdlib": round(rates[0]), "PyTorch": round(rates[1]),
                "ratio": round(rates[0] / rates[1], 2),
                "seconds_to_the_second_step": round(compiled, 1), "steps": steps,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    torch.stdin.close()
    about = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": device_name(),
        "dtype": "float32",
        "batch": options.batch,
    }
    about |= {"PyTorch": peer, "repeats": options.repeats, **provenance()}
    RESULTS.write_text(json.dumps({"rows": rows, "run": about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
