"""How to train a small convolutional network on this device: images a second, by network and by loop.

The same steps of the same optimiser on the same Fashion-MNIST images: a Python loop of compiled steps (what
`kdlib.training` does) against one `lax.scan` over steps, for strided convolutions (`SmallConvolutional`) and for
full-size ones followed by max-pooling; and four networks of different seeds at once, by `vmap` over their weights,
which makes grouped convolutions of all convolutions. Interleaved, repeated, medians; the table is written to
`benchmarks/results/training.json`.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from path_over_n import processor
from tqdm import tqdm

from kdlib import data
from kdlib.tools.provenance import device_name, provenance
from kdlib.training.networks import SmallConvolutional

TOGETHER = 4
RESULTS = Path(__file__).parent / "results" / "training.json"


class Pooled(nn.Module):
    """`SmallConvolutional` with its strides replaced by max-pooling after full-size convolutions."""

    channels: tuple[int, ...] = (16, 32)

    @nn.compact
    def __call__(self, images):
        x = images
        for channels in self.channels:
            x = nn.max_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


def loops(network, images, labels, batch_size):
    """`{name: f(steps)}`: each runs that many training steps from the same start and waits for the end."""
    optimiser = optax.adam(1e-3)
    start = network.init(jax.random.key(0), images[:1])
    rows = np.random.default_rng(0).integers(0, len(images), (4096, batch_size))

    def step(state, batch):
        def loss_of(parameters):
            logits = network.apply(parameters, images[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

        parameters, moments = state
        updates, moments = optimiser.update(jax.grad(loss_of)(parameters), moments)
        return (optax.apply_updates(parameters, updates), moments), None

    compiled = jax.jit(lambda state, batch: step(state, batch)[0])
    scanned = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches)[0])

    def python_loop(steps):
        state = (start, optimiser.init(start))
        for batch in rows[:steps]:
            state = compiled(state, batch)
        return jax.block_until_ready(state)

    def scan(steps):
        return jax.block_until_ready(scanned((start, optimiser.init(start)), rows[:steps]))

    seeds = jax.vmap(lambda key: network.init(key, images[:1]))(jax.random.split(jax.random.key(0), TOGETHER))
    together = jax.jit(jax.vmap(lambda state, batch: step(state, batch)[0]))

    def several(steps):
        state = seeds, jax.vmap(optimiser.init)(seeds)
        for first in range(steps // TOGETHER):  # a step of each: as many images as that many steps of one
            state = together(state, rows[TOGETHER * first : TOGETHER * (first + 1)])
        return jax.block_until_ready(state)

    return {
        "loop of compiled steps": (python_loop, 100), "lax.scan": (scan, 4),
        f"loop, {TOGETHER} networks by vmap": (several, 5 * TOGETHER),
    }  # fmt: skip


def main():
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    images = data.load("fashion-mnist", sizes={"train": 4096}, normalisation="standard")
    x, y = jnp.asarray(images.train.images, jnp.float32), jnp.asarray(images.train.labels)
    networks = {"strided": SmallConvolutional(), "pooled": Pooled()}
    runs = {
        (name, way): run
        for name, network in networks.items()
        for way, run in loops(network, x, y, options.batch_size).items()
    }
    for run, steps in runs.values():
        run(steps)  # compiles
    seconds = {key: [] for key in runs}
    for _ in tqdm(range(options.repeats), desc="repeats"):
        for key, (run, steps) in runs.items():
            begin = time.perf_counter()
            run(steps)
            seconds[key].append((time.perf_counter() - begin) / steps)
    rate = {key: options.batch_size / statistics.median(values) for key, values in seconds.items()}
    slowest = min(rate.values())
    rows = [
        {
            "network": name,
            "loop": way,
            "images_per_second": round(value),
            "times_the_slowest": round(value / slowest, 1),
        }
        for (name, way), value in rate.items()
    ]
    for row in rows:
        print(row)
    about = {"processor": processor(), "cores": os.cpu_count(), "device": device_name(), "dtype": "float32"}
    about |= {"batch_size": options.batch_size, "repeats": options.repeats, **provenance()}
    RESULTS.write_text(json.dumps({"rows": rows, "run": about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
