"""Keep what the teachers of X7 say of 5,000 validation images; score it: `python -m workflow.teachers --scale core`.

One file for each teacher and checkpoint that X7 asks for, of the first seed: `results/SCALE/teachers/NAME.npz`, in 16
bits (`kdlib.experiments.teachers`). Teachers whose students have not ended yet are named and left out. (Those of `core`
that are committed are of an older call, of 2,000 images.) Then
`results/SCALE/choice.csv`: what `choose` and its rivals say of each at each temperature of X7, for the student's kernel
at initialisation on the first 1,000 of these images, once for each of the experiment's seeds.
"""

import argparse
import sys

import jax
import numpy as np

from kdlib.experiments import runs
from kdlib.experiments.rivals import scores
from kdlib.experiments.teachers import answers, read_answers, save_answers
from kdlib.kernels import empirical_ntk
from kdlib.tools.files import read_rows, write_rows
from kdlib.tools.provenance import ROOT, device_name, provenance
from kdlib.training.networks import named
from workflow import plan

IMAGES = 5000  # of the validation images; files stay below 2 MB
SCORED = 1000  # of these


def keep(scale: str, nodes: list) -> int:
    """Write the files; how many teachers were missing."""
    missing, done = 0, set()
    first = min(node.parameters["seed"] for node in nodes)
    for node in nodes:
        given = node.parameters
        paths = {share: answers_path(scale, given, share) for share in (*given["stops"], 1.0)}
        if given["seed"] != first or done.issuperset(paths.values()):
            continue
        done.update(paths.values())
        loaded = runs.ImageTask(**given["task"]).load()
        clean = runs.ImageTask(**{**given["task"], "noise": 0.0}).load().dataset.validation  # the same images
        teacher = finished_teacher(scale, node.key, loaded)
        if teacher is None:
            print(f"{node.key}: has not ended yet")
            missing += 1
            continue
        last = teacher.trained.steps[-1]
        for share, path in paths.items():
            step = min(teacher.trained.steps, key=lambda kept: abs(kept - share * last))
            save_answers(path, answers(teacher, step, clean.images[:IMAGES], clean.labels[:IMAGES]))
            print(path.relative_to(ROOT), f"{path.stat().st_size / 1e6:.2f} MB")
    return missing


def score(scale: str, nodes: list) -> None:
    """Write the table of scores of the teachers whose answers are there."""
    rows = []
    for student in sorted({node.parameters["network"] for node in nodes}):
        here = [node.parameters for node in nodes if node.parameters["network"] == student]
        wanted = {
            answers_path(scale, given, share): (given["teacher_network"], given["task"]["noise"], share)
            for given in here for share in (*given["stops"], 1.0)
        }  # fmt: skip
        said = {path.stem: read_answers(path) for path in wanted if path.exists()}
        about = {path.stem: words for path, words in wanted.items()}
        validation = runs.ImageTask(**here[0]["task"]).load().dataset.validation
        images, labels = validation.images[:SCORED], next(iter(said.values())).labels[:SCORED]
        network = named(student, int(labels.max()) + 1)
        given = {name: (one.logits[:SCORED], one.features[:SCORED]) for name, one in said.items()}
        for seed in sorted({parameters["seed"] for parameters in here}):
            variables = network.init(jax.random.key(seed), images[:1])
            gram = empirical_ntk(network, variables, images, outputs="sum", dtype=np.float64, progress=False)
            for temperature in sorted({degree for parameters in here for degree in parameters["temperatures"]}):
                found = scores(gram, given, labels, temperature=temperature)
                for name, values in found.items():
                    teacher, noise, share = about[name]
                    rows.append({
                        "student": student, "teacher": teacher, "noise": noise, "share": share, "seed": seed,
                        "temperature": temperature, "examples": SCORED, **values, "device": device_name(),
                        **provenance(),
                    })  # fmt: skip
            print(f"{student}, seed {seed}: {len(rows)} rows", flush=True)
    write_rows(ROOT / "results" / scale / "choice.csv", rows)


def answers_path(scale: str, given: dict, share: float):
    noise = f"-noise{given['task']['noise']:g}" if given["task"]["noise"] else ""
    return ROOT / "results" / scale / "teachers" / f"{given['teacher_network']}{noise}-{share:g}.npz"


def finished_teacher(scale: str, student: str, loaded: runs.LoadedTask) -> runs.Finished | None:
    """The teacher that a student's table names, of whatever code; None without that table."""
    build = ROOT / "_build" / scale
    table = build / "campaign" / "student" / f"{student}.csv"
    if not table.exists():
        return None
    taught = {row["teacher"].partition("@")[0] for row in read_rows(table)}
    (name,) = (run for run in taught if run.startswith("teacher-"))
    return runs.read_finished(build / "runs" / name, loaded.dataset)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="core")
    parser.add_argument("--scores-only", action="store_true", help="from the files that are there")
    options = parser.parse_args()
    places = plan.saved_places(options.scale)[0]
    nodes = [n for n in plan.nodes(options.scale, places) if n.family == "X7" and n.kind == "student"]
    if not nodes:
        sys.exit(f"the scale {options.scale!r} has no experiment X7")
    missing = 0 if options.scores_only else keep(options.scale, nodes)
    score(options.scale, nodes)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
