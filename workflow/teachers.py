"""Keep what the teachers of X7 say of 2,000 validation images; score it: `python -m workflow.teachers --scale core`.

One file for each teacher and checkpoint that X7 asks for, of the first seed: `results/SCALE/teachers/NAME.npz`, in 16
bits (`kdlib.experiments.teachers`). Teachers that have not been trained yet are named and left out. Then
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
from kdlib.tools.files import write_rows
from kdlib.tools.provenance import ROOT, device_name, provenance
from kdlib.training.networks import named
from workflow import plan

IMAGES = 2000  # of the validation images; files stay small
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
        clean = loaded.dataset.validation  # its labels may be noisy, its images are the same for every noise
        teacher = finished_teacher(scale, given, loaded)
        if teacher is None:
            print(f"{node.key}: not trained yet")
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


def finished_teacher(scale: str, given: dict, loaded: runs.LoadedTask) -> runs.Finished | None:
    """The teacher of a student's node, if its training has ended, of whatever code."""
    name = f"teacher-{given['teacher_network']}-{given['seed']}-*/run.json"
    for path in (ROOT / "_build" / scale / "runs").glob(name):
        found = runs.read_finished(path.parent, loaded.dataset)
        same = found.row["noise"] == loaded.task.noise and found.row["train_examples"] == loaded.task.train_examples
        if same and found.row["epochs"] == given["teacher_recipe"]["epochs"]:
            return found
    return None


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
