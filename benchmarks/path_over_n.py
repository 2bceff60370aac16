"""One Cholesky for all n against a solve per n (R5): `make benchmark`.

Both compute, for a Gram of real images, the squared norm, the predictions and the power function on held-out images:
`interpolation_path` for every n = 1..N, the usual way (scipy's `cho_factor` and `cho_solve` afresh for each n) for the
few n of a learning curve. The two are interleaved, repeated, and the medians reported as a ratio, with the largest
difference between their results. The table is written to `benchmarks/results/path_over_n.json`.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from tqdm import tqdm

from kdlib import data
from kdlib.kernels import FullyConnected, analytic_ntk
from kdlib.path import interpolation_path
from kdlib.tools.provenance import provenance

RESULTS = Path(__file__).parent / "results" / "path_over_n.json"


def one_factor(gram, targets, cross, diagonal):
    """Everything for every n, through `kdlib.path`."""
    path = interpolation_path(gram, targets, cross, diagonal)
    return path.squared_norm, path.predict(), path.power_function()


def solve_per_n(gram, targets, cross, diagonal, sizes):
    """The same for each n of `sizes`, one factorisation each."""
    norms, predictions, lengths = [], [], []
    for n in sizes:
        factor = cho_factor(gram[:n, :n], lower=True)
        norms.append(targets[:n] @ cho_solve(factor, targets[:n]))
        solved = cho_solve(factor, cross[:, :n].T)
        predictions.append(targets[:n] @ solved)
        explained = np.einsum("ij,ji->i", cross[:, :n], solved)
        lengths.append(np.sqrt(np.maximum(diagonal - explained, 0)))
    return np.array(norms), np.transpose(predictions), np.transpose(lengths)


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def compare(examples, held_out, points, repeats):
    """One row of the table."""
    images = data.load(
        "fashion-mnist",
        classes=("pullover", "coat"),
        sizes={"train": examples, "test": held_out},
        normalisation="unit",
        distinct=True,
    )
    student = FullyConnected(depth=3)
    gram = analytic_ntk(student, images.train.images, normalised=True, progress=False)
    cross = analytic_ntk(student, images.test.images, images.train.images, normalised=True, progress=False)
    targets, diagonal = images.train.signs, np.ones(held_out)
    sizes = np.unique(np.linspace(examples / points, examples, points).astype(int))
    one_factor(gram, targets, cross, diagonal)  # compiles
    path_seconds, solve_seconds = [], []
    for _ in tqdm(range(repeats), desc=f"N = {examples}"):
        start = time.perf_counter()
        fast = one_factor(gram, targets, cross, diagonal)
        middle = time.perf_counter()
        slow = solve_per_n(gram, targets, cross, diagonal, sizes)
        path_seconds.append(middle - start)
        solve_seconds.append(time.perf_counter() - middle)
    at = sizes - 1
    difference = max(
        np.max(np.abs(a - b) / np.maximum(1, np.abs(b)))
        for a, b in zip((fast[0][at], fast[1][:, at], fast[2][:, at]), slow, strict=True)
    )
    path, solve = statistics.median(path_seconds), statistics.median(solve_seconds)
    return {
        "N": examples,
        "held_out": held_out,
        "values_of_n_path": examples,
        "values_of_n_solve": len(sizes),
        "path_seconds": path,
        "solve_seconds": solve,
        "ratio": solve / path,
        "ratio_per_value_of_n": (solve / len(sizes)) / (path / examples),
        "largest_difference": float(difference),
        "repeats": repeats,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--held-out", type=int, default=512)
    parser.add_argument("--points", type=int, default=64, help="values of n for the solve per n")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = [compare(n, arguments.held_out, arguments.points, arguments.repeats) for n in arguments.examples]
    print(f"{'N':>6} {'path, all n (s)':>16} {'solve, 64 n (s)':>16} {'ratio':>7} {'per n':>8} {'difference':>11}")
    for row in rows:
        print(
            f"{row['N']:>6} {row['path_seconds']:>16.3f} {row['solve_seconds']:>16.3f} {row['ratio']:>7.1f} "
            f"{row['ratio_per_value_of_n']:>8.0f} {row['largest_difference']:>11.1e}"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    hardware = {"processor": processor(), "cores": os.cpu_count()}
    RESULTS.write_text(json.dumps({"hardware": hardware, "made_with": provenance(), "rows": rows}, indent=1) + "\n")
