"""Three bf16 products in place of a float32 one: do they pay on this machine? Run: `make benchmark-bfloat16`.

A float32 number is nearly the sum of two bf16 numbers (very nearly, of three), so three (six) products of bf16 matrices
with float32 sums give most of a float32 product. That pays where a processor multiplies bf16 more than three (six)
times as fast. JAX has a name for it, `precision="BF16_BF16_F32_X3"`, and a CPU accepts and ignores it, as the row of
its own shows; so the parts are written out here. Measured, interleaved: the product in which the Gram of the dense
network W1 spends its time, and a large one; medians, ratios to float32, and the largest difference from float64
relative to the largest entry. Results: `benchmarks/results/bfloat16.json`.
"""

import argparse
import json
import os
import statistics
import time
from functools import partial
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from path_over_n import processor

from kdlib.tools.provenance import device_name, provenance

RESULTS = Path(__file__).parent / "results" / "bfloat16.json"
SHAPES = {"640 x 512 x 640": (640, 512), "4096 x 4096 x 4096": (4096, 4096)}


def parts(x, count):
    """bf16 matrices, each of what the ones before leave over."""
    found = []
    for _ in range(count):
        found.append(x.astype(jnp.bfloat16))
        x = x - found[-1].astype(jnp.float32)
    return found


def rows_by_rows(a, b, **options):
    """`a b^T`; written with `b.T` instead, a bf16 product takes twice as long on a CPU."""
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), **options)


def by_parts(count):
    """`a b^T` from `count` bf16 parts of each, without the products that are smaller than what is left out anyway."""

    def multiply(a, b):
        pairs = [(i, j) for i, j in product(range(count), repeat=2) if i + j < count]
        a, b = parts(a, count), parts(b, count)
        terms = [rows_by_rows(a[i], b[j], preferred_element_type=jnp.float32) for i, j in sorted(pairs, key=sum)[::-1]]
        return sum(terms[1:], start=terms[0])  # the small ones first

    return multiply


CONTENDERS = {
    "float32": partial(rows_by_rows, precision="highest"),
    "one bf16 product": by_parts(1),
    "three bf16 products": by_parts(2),
    "six bf16 products": by_parts(3),
    "JAX's name for three": partial(rows_by_rows, precision=jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3),
}


def compare(name, repeats):
    """One row a contender."""
    rows, inner = SHAPES[name]
    draw = np.random.default_rng(0)
    a, b = (draw.normal(size=(rows, inner)).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    a, b = jnp.asarray(a), jnp.asarray(b)
    compiled = {label: jax.jit(multiply) for label, multiply in CONTENDERS.items()}
    differences = {
        label: np.abs(np.asarray(f(a, b)) - exact).max() / np.abs(exact).max() for label, f in compiled.items()
    }
    times = {label: [] for label in compiled}
    for _ in range(repeats):
        for label, multiply in compiled.items():
            start = time.perf_counter()
            multiply(a, b).block_until_ready()
            times[label].append(time.perf_counter() - start)
    medians = {label: statistics.median(found) for label, found in times.items()}
    found = []
    for label, seconds in medians.items():
        row = {
            "product": name, "contender": label, "seconds": seconds, "GFLOP/s": 2 * rows**2 * inner / seconds / 1e9,
            "of float32's time": seconds / medians["float32"], "difference": float(differences[label]),
        }  # fmt: skip
        found.append(row)
        print(
            f"{name:<20}{label:<22}{1e3 * seconds:9.2f} ms {seconds / medians['float32']:6.2f} of float32's time"
            f"  difference {row['difference']:.0e}", flush=True,
        )  # fmt: skip
    return found


def main():
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rows = [row for name in SHAPES for row in compare(name, options.repeats)]
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    units = [unit for unit in ("avx512_bf16", "amx_bf16") if unit in flags]
    about = {"device": device_name(), "processor": processor(), "cores": os.cpu_count(), "bf16 units": units}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**about, **provenance(), "repeats": options.repeats, "rows": rows}, indent=1) + "\n")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
