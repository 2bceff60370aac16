"""The empirical NTK of finite networks, side by side: kdlib, neural-tangents 1 to 3, torch.func, a plain Jacobian.

Every contender runs in a process and, where it needs one, an environment of its own (`make benchmark-ntk` makes them);
the runs are interleaved, repeated, and the medians reported with the time of the first call (compilation and all), the
peak memory of the process, and the largest difference from a float64 Jacobian. The same plain functions of arrays go
to all. A contender that has not come back after `--patience` seconds, or needs more memory than there is, is run on
fewer inputs and its time scaled by the square of their number: marked, and too long where batches or a part that is
linear in their number help. `--workloads` measures some and keeps the others' rows. Results:
`benchmarks/results/ntk.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ntk_networks import WORKLOADS, make
from path_over_n import processor
from tqdm import tqdm

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ntk.json"
PEERS = {"neural-tangents": "neural_tangents", "torch.func": "torch"}
FEWER = 8  # inputs of a contender that is too slow for all


def gemm_rate(size=4096, repeats=5):
    """Float32 GEMM of this device in FLOP/s, by JAX."""
    import jax

    a = jax.numpy.asarray(np.random.default_rng(0).normal(size=(size, size)), "float32")
    product = jax.jit(lambda a: jax.numpy.matmul(a, a, precision="highest"))
    product(a).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def least_flops(workload, outputs):
    """FLOPs of the last products alone, symmetry used: what no contender that forms the Gram in this way can avoid."""
    shapes, _, n = WORKLOADS[workload]
    c = shapes[-1][-1]
    rows, extra = (n * c, 1) if outputs == "full" else (n, c)
    total = 0
    for shape in shapes:
        width = shape[-1] if len(shape) == 2 else np.prod(shape)
        total += rows**2 * width * extra + (n**2 * shape[0] if len(shape) == 2 else 0)
    return float(total)


def exact(workload, outputs, n):
    """The Gram from float64 Jacobians."""
    import jax

    sys.path.insert(0, str(HERE.parent))
    from ntk_networks import jax_network

    from kdlib.kernels import empirical_ntk

    parameters, inputs = make(workload)
    with jax.enable_x64(True):
        return empirical_ntk(
            jax_network(workload),
            parameters,
            inputs[:n],
            outputs=outputs,
            dtype=np.float64,
            structured=False,
            progress=False,
        )


class Contender:
    """A worker process, compiled and warm; `run()` times it once more."""

    def __init__(self, name, python, workload, outputs, patience, folder):
        self.name, self.full_n = name, WORKLOADS[workload][2]
        self.times, self.peak = [], 0
        for n in (self.full_n, FEWER):
            self.n = n
            self.file = Path(folder) / f"{name}.npy".replace(" ", "_")
            self.process = subprocess.Popen(
                [python, str(HERE / "ntk_worker.py"), name, workload, outputs, str(self.n), str(self.file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=HERE,
            )  # fmt: skip
            first = self._answer(patience)
            if first is not None:
                self.first = first["compile"]
                return
        self.first = None

    def _answer(self, patience):
        """The next line of the worker, or None if it died or took too long."""
        import select

        ready, _, _ = select.select([self.process.stdout], [], [], patience)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.process.kill()
            self.process.wait()
            return None
        return json.loads(line)

    def run(self, patience):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self._answer(patience)
        if answer is not None:
            self.times.append(answer["seconds"])
            self.peak = answer["peak"]
        return answer is not None

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()


def compare(workload, outputs, interpreters, repeats, patience, rate):
    """One row a contender."""
    with tempfile.TemporaryDirectory() as folder:
        contenders = []
        for name, python in tqdm(interpreters.items(), desc=f"{workload} {outputs}: first calls", leave=False):
            contender = Contender(name, python, workload, outputs, patience, folder)
            if contender.first is not None:
                contenders.append(contender)
        for _ in range(repeats):
            for contender in list(contenders):
                if not contender.run(patience):
                    contenders.remove(contender)
        rows, truths = [], {}
        for contender in contenders:
            contender.close()
            n = min(contender.n, 32)  # of the exact Gram
            truth = truths.setdefault(n, exact(workload, outputs, n))
            found = np.load(contender.file)
            found = found[:n, :, :n] if outputs == "full" else found[:n, :n]
            seconds = statistics.median(contender.times)
            scaled = seconds * (contender.full_n / contender.n) ** 2
            rows.append(
                {
                    "workload": workload, "outputs": outputs, "contender": contender.name, "inputs": contender.n,
                    "seconds": scaled, "scaled": contender.n < contender.full_n, "fastest": min(contender.times),
                    "first call": contender.first, "peak GB": contender.peak / 2**30,
                    "difference": float(np.abs(found - truth).max() / np.abs(truth).max()),
                    "of GEMM rate": least_flops(workload, outputs) / scaled / rate,
                }
            )  # fmt: skip
    return rows


def main():
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patience", type=float, default=120, help="seconds for a first call, and for each run")
    parser.add_argument(
        "--peers", type=Path, default=HERE.parent / ".venv-peers", help="folder of the peers' environments"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the table, of which other workloads are kept")
    options = parser.parse_args()
    interpreters = {"kdlib": sys.executable, "JAX Jacobian": sys.executable}
    names = {
        "neural-tangents": ["neural-tangents 1", "neural-tangents 2", "neural-tangents 3"],
        "torch.func": ["torch.func Jacobian", "torch.func products"],
    }
    for peer, folder in PEERS.items():
        python = options.peers / folder / "bin" / "python"
        if python.exists():
            interpreters |= dict.fromkeys(names[peer], str(python))
        else:
            print(f"{peer}: no environment in {python.parent.parent}, left out (make benchmark-ntk makes it)")
    kept = json.loads(options.results.read_text())["rows"] if options.results.exists() else []
    kept = [row for row in kept if row["workload"] not in options.workloads]
    rate, rows = gemm_rate(), []
    for workload in options.workloads:
        for outputs in ("full", "sum"):
            rows += compare(workload, outputs, interpreters, options.repeats, options.patience, rate)
            mine = next(row for row in rows[::-1] if row["contender"] == "kdlib")
            for row in (row for row in rows if (row["workload"], row["outputs"]) == (workload, outputs)):
                print(
                    f"{workload} "
                        f"{outputs:<5}{row['contender']:<22}{row['seconds']:9.3f} "
                        f"s{'*' if row['scaled'] else ' '}"
                    f"{row['seconds'] / mine['seconds']:8.1f}x  first "
                        f"{row['first call']:6.1f} s  {row['peak GB']:5.2f} GB"
                    f"  difference {row['difference']:.0e}  {100 * row['of GEMM rate']:4.0f} % of GEMM", flush=True,
                )  # fmt: skip
    from kdlib.tools.provenance import device_name, provenance

    options.results.parent.mkdir(exist_ok=True)
    rows = sorted([*kept, *rows], key=lambda row: list(WORKLOADS).index(row["workload"]))
    about = {"device": device_name(), "processor": processor(), "cores": os.cpu_count(), "GEMM GFLOP/s": rate / 1e9}
    options.results.write_text(
        json.dumps({**about, **provenance(), "repeats": options.repeats, "rows": rows}, indent=1) + "\n"
    )
    print(f"written to {options.results}")


if __name__ == "__main__":
    main()
