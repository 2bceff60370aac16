"""Run the campaign of a scale: teachers, students, kernels, tables, and the pages that show them.

`make reproduce SCALE=quick`, or `python -m workflow.reproduce --help`. On this machine, or through a Snakemake profile
on a cluster (`workflow/profiles`). Killed, it goes on where it was when it is called again.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import yaml

from kdlib.tools.files import read_rows
from kdlib.tools.provenance import code_hash
from workflow import driver, keys, plan, slots, tables
from workflow.driver import ROOT


def words(options) -> list[str]:
    """What this run adds to Snakemake's command line."""
    found = [
        "--keep-going",
        "--config",
        f"campaign={options.scale}",
        f"lock={options.lock}",
        f"retries={options.retries}",
    ]
    if options.profile:
        found += ["--workflow-profile", str(options.profile)]
    else:
        found += ["--cores", str(options.jobs)]
        if "cuda" in options.lock and (devices := slots.gpus()):
            found += ["--resources", f"gpu={len(devices) * options.share}"]
    if options.dry_run:
        found.append("--dry-run")
    return [*found, "--", *targets(options)]


def targets(options) -> list[str]:
    """The files that Snakemake is asked for."""
    if options.only:
        wanted = [node for node in plan.nodes(options.scale) if {node.experiment, node.family} & set(options.only)]
        if not wanted:
            named = ", ".join(dict.fromkeys(node.experiment for node in plan.nodes(options.scale)))
            sys.exit(f"--only: the scale {options.scale!r} has the experiments {named or '(none with a name)'}")
        return [f"_build/{options.scale}/campaign/{node.kind}/{node.key}.csv" for node in wanted]
    if options.tables_only:
        return [f"_build/{options.scale}/records/{table}.csv" for table in keys.CAMPAIGN_TABLES]
    return ["reproduce"]


def finished_runs(scale: str) -> list[dict]:
    """The rows of all trainings of this scale that have ended, of any code."""
    found = []
    for path in (ROOT / "_build" / scale / "runs").glob("*/run.json"):
        found.append(json.loads(path.read_text())["row"])
    return found


def progress(scale: str, nodes, jobs: int) -> str:
    """One line: trainings, kernels, device-hours, and what is left by the rates of what has ended."""
    code = code_hash(plan.COMPUTED_BY["student"])
    place = ROOT / "_build" / scale / "campaign"
    done = {(node.kind, node.key) for node in nodes if (place / node.kind / f"{node.key}.csv").exists()}
    rates, hours = defaultdict(list), defaultdict(float)
    ended = []  # of today's code
    for row in finished_runs(scale):
        if row["images_per_second"] == row["images_per_second"]:
            rates[row["network"]].append(row["images_per_second"])
        hours[row["device"]] += row["seconds"] / 3600
        ended += [row] if row["code"] == code else []
    total = sum(len(node.trainings) for node in nodes)
    count, left, unknown = 0, 0.0, False
    for node in nodes:
        wanted = _columns(node)
        own = [row for row in ended if all(row[name] == value for name, value in wanted.items())][: len(node.trainings)]
        here = len(node.trainings) if (node.kind, node.key) in done else len(own)
        ended = [row for row in ended if not any(row is one for one in own)]  # no training counts for two
        count += here
        for network, amount in node.trainings[here:]:
            known = rates.get(network)
            unknown |= not known
            left += amount / (sorted(known)[len(known) // 2]) if known else 0.0
    kernels = [node for node in nodes if node.kind == "complexity"]
    followed = sum((node.kind, node.key) in done for node in kernels)
    line = f"trainings {count} of {total}, kernels {followed} of {len(kernels)} students"
    line += "; " + ", ".join(f"{value:.2f} hours on {device}" for device, value in hours.items()) if hours else ""
    if left:
        line += f"; trainings left: about {left / jobs / 60:.0f} min" + (" and what has no rate yet" if unknown else "")
    return line


def _columns(node: plan.Node) -> dict:
    """What the rows of a node's trainings have in common, as far as its parameters say."""
    given, task = node.parameters, node.parameters["task"]
    common = {"role": node.kind, "network": given["network"], "seed": given["seed"]}
    common |= {"data": Path(task["data"]).name.split(".")[0]}
    common |= {name: task[name] for name in ("noise", "train_examples")}
    recipe = given.get("recipe", {})
    return common | {name: recipe[name] for name in ("epochs", "batch_size", "learning_rate") if name in recipe}


def at_a_time(options) -> int:
    """How many jobs run at a time."""
    if options.profile:
        return yaml.safe_load((options.profile / "config.yaml").read_text()).get("jobs", 1)
    on_gpus = len(slots.gpus()) * options.share if "cuda" in options.lock else 0
    return max(1, min(options.jobs, on_gpus or options.jobs))


def watch(options, nodes, stop: threading.Event):
    """Print a line of progress when it has changed, every few seconds."""
    last = ""
    while not stop.wait(10):
        line = progress(options.scale, nodes, at_a_time(options))
        if line != last:
            print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)
        last = line


def run(options) -> int:
    """Run the campaign; the exit status of Snakemake."""
    nodes = plan.nodes(options.scale, plan.save_places(options.scale, options.data))
    if not nodes:
        sys.exit(f"the scale {options.scale!r} has no campaign section")
    environment = {name: value for name, value in os.environ.items() if name != "KDLIB_JOBS"}
    if not options.profile:
        environment["KDLIB_JOBS"] = str(options.jobs)  # this machine is shared out here: see slots.py
        environment = {**MEMORY, **environment, "KDLIB_SHARE": str(options.share)}
    if options.minutes:
        environment["KDLIB_UNTIL"] = str(time.time() + 60 * options.minutes)
    stop, began = threading.Event(), time.time()
    if not options.dry_run:
        threading.Thread(target=watch, args=(options, nodes, stop), daemon=True).start()
    status = driver.snakemake(words(options), environment)
    stop.set()
    if options.dry_run:
        return status
    print(progress(options.scale, nodes, at_a_time(options)))
    build = ROOT / "_build" / options.scale
    failures = sorted(path for path in build.rglob("*.failed.ipynb") if path.stat().st_mtime >= began - 1)
    for path in failures:
        print(f"failed: {path.relative_to(ROOT)} (its log: {path.name.replace('.failed.ipynb', '.log')})")
    if status and options.minutes and not failures and time.time() > float(environment["KDLIB_UNTIL"]):
        print(f"{options.minutes:g} minutes are over: the same command goes on from here")
        return 0
    if not status and not options.only:
        print(f"tables: {build / 'records'}; pages: {build / 'pages'}")
    return status


def so_far(options):
    """Write the tables of the jobs that have ended, as the whole campaign would."""
    build = ROOT / "_build" / options.scale
    nodes = plan.nodes(options.scale)
    for table, kinds in plan.TABLES.items():
        places = [
            (node.experiment, build / "campaign" / node.kind / f"{node.key}.csv")
            for node in nodes
            if node.kind in kinds
        ]
        done = [(experiment, path) for experiment, path in places if path.exists()]
        print(f"{table}: {len(done)} of {len(places)} jobs have ended")
        if done:
            tables.gather(build / "records" / f"{table}.csv", done)


def estimate(options):
    """What the scale's trainings and kernels cost: by the rates of published runs, by operations where there are none.

    A teacher that several experiments share is counted once, a student that they share (it is trained once) for each:
    the estimate is an upper one.
    """
    amounts, rates, kernels = defaultdict(float), defaultdict(list), defaultdict(int)
    for node in plan.nodes(options.scale):
        given = node.parameters
        if node.kind == "complexity":  # one for each student and checkpoint, the start among them
            taught = [method for method in given["methods"] if method != "baseline"]
            variants = len(taught) * len(given["temperatures"]) * len(given["soft_ratios"])
            variants += len(taught) < len(given["methods"])
            kernels[given["network"], given["task"]["data"], given["points"]] += variants * (given["stages"] + 1)
        for network, amount in node.trainings:
            amounts[network, given["task"]["data"]] += amount
    for path in (ROOT / "results").glob("*/runs.csv"):
        for row in read_rows(path):
            if row["images_per_second"] not in ("", "nan"):
                rates[row["network"], row["data"], row["device"]].append(float(row["images_per_second"]))
    print(f"{options.scale}: images to train on, in passes forward and back")
    for (network, data), amount in amounts.items():
        operations = amount * training_operations(network, SIZES.get(data, 32)) / 1e15
        known = {device: sorted(v)[len(v) // 2] for (*name, device), v in rates.items() if name == [network, data]}
        measured = "; ".join(
            f"{amount / rate / 3600:.1f} hours at {rate:.0f} images/s on {device}" for device, rate in known.items()
        )
        print(
            f"  {network:<14}{data:<16}{amount / 1e6:10.1f} million images, {operations:10.1f} PFLOP; "
            f"{measured or f'no measured rate, {operations / SUSTAINED / 3600:.1f} hours at {SUSTAINED:g} PFLOP/s'}"
        )

    classes = {"cifar100": 100, "tiny-imagenet": 200}
    for (network, data, points), count in kernels.items():
        side = points * classes.get(data, 10)
        print(
            f"  {network:<14}{data:<16}{count:8,} kernels of {points} images, all outputs: {side:,} x {side:,}, "
            f"{8 * side**2 / 2**30:.1f} GiB, {count * side**3 / 3 / 1e15:.2f} PFLOP in float64 to factorise"
        )


# A training on a CPU asks for the same large arrays at each step. glibc then gives pages back and takes new ones, which
# costs a tenth to a third of the time: it is told to keep them, and to use large pages. Other allocators ignore this.
MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000", "MALLOC_TOP_PAD_": "268435456",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}  # fmt: skip
SUSTAINED = 0.01  # PFLOP/s: an assumption for networks without a rate, a few per cent of a large GPU's peak
SIZES = {"tiny-imagenet": 64, "fashion-mnist": 28}  # pixels along a side; of the others 32


def training_operations(network: str, size: int = 32, batch: int = 8) -> float:
    """Floating-point operations of a training step for one image of `size` x `size` x 3, as XLA counts them."""
    import jax
    import jax.numpy as jnp

    from kdlib.training.networks import named
    from kdlib.training.recipe import Recipe
    from kdlib.training.step import compiled_step

    module = named(network, 10)
    step, _, optimiser = compiled_step(module, Recipe())
    images = jnp.zeros((batch, size, size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    moments = jax.eval_shape(optimiser.init, variables["params"])
    rows, labels = jnp.arange(batch), jnp.zeros(batch, jnp.int32)
    key, number, rate = jax.random.key(1), jnp.uint32(0), jnp.float32(0)
    lowered = step.lower(variables, moments, rows, key, number, rate, images, labels, None, None)
    return lowered.cost_analysis()["flops"] / batch


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--jobs", type=int, help="at a time, on this machine; else one for each GPU, or two on a CPU")
    parser.add_argument("--share", type=int, default=1, help="jobs on one GPU: small networks leave most of it idle")
    parser.add_argument("--minutes", type=float, help="end in that time; all that has been done is kept")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="these experiments of the scale")
    parser.add_argument("--so-far", action="store_true", help="write the tables of what has ended, and run nothing")
    parser.add_argument("--data", nargs="*", default=[], metavar="NAME=PATH", help="where a task's images are")
    parser.add_argument("--profile", type=Path, help="of a cluster: workflow/profiles/slurm or kubernetes")
    parser.add_argument("--retries", type=int, default=0, help="of a job that fails; it resumes")
    parser.add_argument("--lock", default="requirements/requirements.lock", help="the environment's lock")
    parser.add_argument("--tables-only", action="store_true", help="leave out the pages")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    parser.add_argument("--estimate", action="store_true", help="say what it would cost, and run nothing")
    arguments = parser.parse_args()
    if arguments.minutes is not None and arguments.minutes <= 0:
        parser.error("--minutes must be above zero")
    if arguments.share < 1:
        parser.error("--share must be one or more")
    if arguments.jobs is None:
        arguments.jobs = (len(slots.gpus()) * arguments.share if "cuda" in arguments.lock else 0) or 2
    action = estimate if arguments.estimate else so_far if arguments.so_far else run
    sys.exit(action(arguments))
