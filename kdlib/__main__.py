"""The command line: `python -m kdlib choose gram.npy labels.npy teacher.npy ...`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kdlib.choice import choose
from kdlib.tools.files import read_array

EXAMPLE = """\
Three kinds of files say everything: the student's kernel on n examples that it has not been trained on, their labels,
and for each teacher its logits there, row by row. In Python they are made by

  gram   = kdlib.kernels.analytic_ntk(kdlib.kernels.FullyConnected(3), images)     # an infinitely wide student, or
  gram   = kdlib.kernels.empirical_ntk(apply, parameters, images)                  # your own network in JAX
  numpy.save("gram.npy", gram);  numpy.save("labels.npy", labels);  numpy.save("early.npy", logits)

and then

  python -m kdlib choose gram.npy labels.npy early.npy late.npy --temperatures 1 4 --soft-ratios 0.5 1

ranks early and late at both temperatures and soft ratios by how often the student errs at an example that it was not
shown, and says which of them cannot be told from the best. The lines end with what the theory knows of each: errors
of the teacher that the labels correct, supervision complexity (one is as hard as noise), its growth with n.
"""


def main(arguments: list[str] | None = None) -> int:
    """0; 2 with a message if the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m kdlib", description="Knowledge distillation, before you train.")
    commands = parser.add_subparsers(dest="command", required=True)
    choosing = commands.add_parser(
        "choose", help="which teacher, checkpoint and temperature for this student", epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    choosing.add_argument("gram", help="(n, n), (n, C, n, C) or (nC, nC), .npy")
    choosing.add_argument("labels", help="(n,): integers, or -1 and 1, .npy")
    choosing.add_argument(
        "teachers", nargs="+", metavar="teacher", help="logits (n, C) or (n,), .npy; named by its file"
    )
    choosing.add_argument("--temperatures", nargs="+", type=float, default=[1.0], metavar="T")
    choosing.add_argument("--soft-ratios", nargs="+", type=float, default=[1.0], metavar="RATIO", help="in (0, 1]")
    choosing.add_argument("--temperature-scaling", choices=("none", "squared"), default="squared", help="of the loss")
    choosing.add_argument("--json", action="store_true", help="the table as JSON, for programs")
    given = parser.parse_args(arguments)
    names = [Path(path).stem for path in given.teachers]
    if len(set(names)) < len(names):
        names = given.teachers
    try:
        found = choose(
            read_array(given.gram), {name: read_array(path) for name, path in zip(names, given.teachers, strict=True)},
            read_array(given.labels), temperatures=given.temperatures, soft_ratios=given.soft_ratios,
            temperature_scaling=given.temperature_scaling,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        print(f"python -m kdlib choose: {error}", file=sys.stderr)
        return 2
    if given.json:
        table = [{key: None if value != value else value for key, value in row.items()} for row in found.rows()]
        print(json.dumps({"advice": found.advice, "examples": found.examples, "candidates": table}, indent=1))
    else:
        print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
