"""Keep what the teachers of X7 say of the validation images: `python -m workflow.teachers --scale core`.

One file for each teacher and checkpoint that X7 asks for, of the first seed: `results/SCALE/teachers/NAME.npz`, in 16
bits (`kdlib.experiments.teachers`). Teachers that have not been trained yet are named and left out.
"""

import argparse
import sys

from kdlib.experiments import runs
from kdlib.experiments.teachers import answers, save_answers
from kdlib.tools.provenance import ROOT
from workflow import plan


def keep(scale: str, family: str = "X7") -> int:
    """Write the files; how many teachers were missing."""
    places, missing = plan.saved_places(scale)[0], 0
    wanted = [node for node in plan.nodes(scale, places) if node.family == family and node.kind == "student"]
    if not wanted:
        sys.exit(f"the scale {scale!r} has no experiment {family}")
    first = min(node.parameters["seed"] for node in wanted)
    for node in wanted:
        given = node.parameters
        if given["seed"] != first:
            continue
        loaded = runs.ImageTask(**given["task"]).load()
        clean = loaded.dataset.validation  # its labels may be noisy, its images are the same for every noise
        teacher = finished_teacher(scale, given, loaded)
        if teacher is None:
            print(f"{node.key}: not trained yet")
            missing += 1
            continue
        last = teacher.trained.steps[-1]
        for share in (*given["stops"], 1.0):
            step = min(teacher.trained.steps, key=lambda kept: abs(kept - share * last))
            noise = f"-noise{given['task']['noise']:g}" if given["task"]["noise"] else ""
            path = ROOT / "results" / scale / "teachers" / f"{given['teacher_network']}{noise}-{share:g}.npz"
            save_answers(path, answers(teacher, step, clean.images, clean.labels))
            print(path.relative_to(ROOT), f"{path.stat().st_size / 1e6:.2f} MB")
    return missing


def finished_teacher(scale: str, given: dict, loaded: runs.LoadedTask) -> runs.Finished | None:
    """The teacher of a student's node, if its training has ended, of whatever code."""
    name = f"teacher-{given['teacher_network']}-{given['seed']}-*/run.json"
    for path in (ROOT / "_build" / scale / "runs").glob(name):
        found = runs.read_finished(path.parent, loaded.dataset)
        same = found.row["noise"] == loaded.task.noise and found.row["train_examples"] == loaded.task.train_examples
        if same and found.row["epochs"] == given["teacher_recipe"]["epochs"]:
            return found
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="core")
    sys.exit(1 if keep(parser.parse_args().scale) else 0)
