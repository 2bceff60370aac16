"""Wrong input of all kinds, by the thousand: calls of the library, parameters of the notebooks, damaged files.

`make fuzz` runs it at length and prints counts; `test_fuzz.py` a few seconds of it. Each case is drawn from a seed, so
that what it finds can be repeated (`python tests/fuzz.py --only calls --seed 17`). What must not happen:

accepted   a value although the input is wrong, whoever looks at it: not finite, complex, of another shape, asymmetric
           where a Gram is meant, damaged where the format has a checksum
foreign    an exception that is neither ValueError nor TypeError, or one that is raised inside another library
slow       more than ten seconds, or memory beyond one gigabyte
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from fuzz_files import broken_files
from fuzz_judge import Outcome, judged

from kdlib import bounds, choose, complexity, difficulty, dynamics, labels, margin
from kdlib.kernels import FullyConnected, analytic_ntk
from kdlib.labels import DistillationLoss
from kdlib.path import interpolation_path
from kdlib.tools import intervals
from kdlib.tools.parameters import ParameterError
from kdlib.tools.provenance import ROOT
from kdlib.training import Recipe

# --- Calls of the library ----------------------------------------------------------------------------------------


def functions() -> dict:
    """`{name: (function, arguments that it accepts)}`."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(12, 20))
    gram = features @ features.T
    at = draw.normal(size=(9, 20))
    cross, diagonal = at @ features.T, np.einsum("ij,ij->i", at, at)
    signs, truth = draw.choice([-1.0, 1.0], 12), draw.normal(size=9)
    logits, classes, many = draw.normal(size=12), draw.integers(0, 3, 12), draw.normal(size=(12, 3))
    path = interpolation_path(gram, logits, cross, diagonal)
    loss = {"soft_ratio": 0.5, "temperature": 2.0, "temperature_scaling": "squared"}
    whole = DistillationLoss(**loss)
    held = {"path": path, "teacher_logits": truth, "squared_norm": 100.0, "delta": 0.05}
    one = {"gram": gram, "targets": logits, "ridge": 0.1}
    spectrum = np.linalg.eigvalsh(gram)
    unit = gram / np.sqrt(np.outer(np.diagonal(gram), np.diagonal(gram)))
    return {
        "interpolation_path": (interpolation_path, {
            "gram": gram, "targets": logits, "cross": cross, "diagonal": diagonal,
        }),
        "angle_bound": (bounds.angle_bound, held),
        "power_function_bound": (bounds.power_function_bound, held),
        "transfer_risk": (bounds.transfer_risk, {name: held[name] for name in ("path", "teacher_logits", "delta")}),
        "transfer_angle": (bounds.transfer_angle, {"path": path, "squared_norm": 100.0}),
        "oracle_bound": (bounds.oracle_bound, {"path": path, "teacher_logits": truth, "delta": 0.05}),
        "clopper_pearson": (intervals.clopper_pearson, {"successes": 3, "trials": 10, "delta": 0.1}),
        "mean_interval": (intervals.mean_interval, {"values": truth, "delta": 0.1}),
        "holm": (intervals.holm, {"p_values": np.array([0.1, 0.2, 0.01])}),
        "margin_bound": (margin.margin_bound, {
            "gram": gram, "values": logits, "labels": signs, "margins": np.array([0.1, 1.0]), "delta": 0.05,
            "norm": 2.0, "unit": 0.5, "choices": 2,
        }),
        "pac_bayes_bound": (margin.pac_bayes_bound, {
            "values": many, "labels": classes, "norm": 2.0, "diagonal": np.full(12, 2.0), "delta": 0.05, "choices": 2,
        }),
        "distillation_bound": (margin.distillation_bound, {
            "gram": gram, "values": logits, "teacher_logits": logits[::-1], "teacher_errors": 3, "teacher_trials": 100,
            "teacher_saw_these_examples": False, "margins": np.array([0.1, 1.0]), "delta": 0.05,
        }),
        "least_certificate": (margin.least_certificate, {"gram": unit, "labels": signs, "delta": 0.05, "steps": 3}),
        "supervision_complexity": (complexity.supervision_complexity, one),
        "adjusted_supervision_complexity": (complexity.adjusted_supervision_complexity, one),
        "data_inefficiency": (complexity.data_inefficiency, {
            "squared_norms": np.cumsum(draw.exponential(size=(3, 20)), axis=1), "delta": 0.05, "resamples": 20,
        }),
        "noise_norm": (complexity.noise_norm, {"gram": gram}),
        "noise_inefficiency": (complexity.noise_inefficiency, {"gram": gram}),
        "learning_threshold": (complexity.learning_threshold, {"eigenvalues": spectrum, "n": 5.0}),
        "expected_squared_norm": (complexity.expected_squared_norm, {
            "eigenvalues": spectrum, "energies": spectrum**2, "n": np.array([2, 5]),
        }),
        "leave_one_out": (complexity.leave_one_out, {"gram": gram, "targets": logits}),
        "flow_filter": (dynamics.flow_filter, {"eigenvalues": spectrum, "times": np.array([0.0, 1.0])}),
        "online_filter": (dynamics.online_filter, {"scaled_time": spectrum, "ratio": 0.5}),
        "self_distillation_filter": (dynamics.self_distillation_filter, {
            "eigenvalues": spectrum, "ridge": 0.1, "rounds": 3, "label_share": 0.2,
        }),
        "best_mixture": (dynamics.best_mixture, {
            "gram": gram, "targets": signs, "ridge": 0.1, "cross": cross, "truth": truth,
        }),
        "early_stopped": (dynamics.early_stopped, {"gram": gram, "labels": signs, "times": np.array([0.0, 1.0])}),
        "online_student": (dynamics.online_student, {
            "gram": gram, "teacher_gram": gram + np.eye(12), "labels": signs, "times": np.array([0.0, 1.0]),
        }),
        "strong_convexity": (dynamics.strong_convexity, {
            "outputs": logits, "teacher_logits": logits, "labels": signs, "loss": whole,
        }),
        "effective_logits": (labels.effective_logits, {"teacher_logits": many, "labels": classes, **loss}),
        "is_corrected": (labels.is_corrected, {"teacher_logits": logits, "labels": signs, **loss}),
        "label_jump": (labels.label_jump, loss),
        "difficulty": (difficulty, {
            "gram": gram, "teacher_logits": many, "labels": classes, "soft_ratio": 0.5, "ridge": 0.1, "repeats": 2,
        }),
        "choose": (choose, {
            "gram": gram, "teachers": {"one": many, "other": many[::-1]}, "labels": classes, "temperatures": [1.0, 4.0],
            "soft_ratios": [1.0],
        }),
        "analytic_ntk": (analytic_ntk, {"architecture": FullyConnected(2), "x1": features, "progress": False}),
        "Recipe": (Recipe, {"epochs": 2, "batch_size": 4, "learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.9}),
        "DistillationLoss": (DistillationLoss, loss),
    }  # fmt: skip


GRAMS = ("gram", "teacher_gram")
ROWS = {  # arguments whose number of rows is not tied to another's
    ("holm", "p_values"), ("mean_interval", "values"), ("data_inefficiency", "squared_norms"), ("analytic_ntk", "x1"),
    ("flow_filter", "eigenvalues"), ("flow_filter", "times"), ("online_filter", "scaled_time"), ("noise_norm", "gram"),
    ("self_distillation_filter", "eigenvalues"), ("learning_threshold", "eigenvalues"), ("margin_bound", "margins"),
    ("distillation_bound", "margins"), ("early_stopped", "times"), ("online_student", "times"),
    ("choose", "soft_ratios"), ("choose", "temperatures"), ("expected_squared_norm", "n"),
}  # fmt: skip
ANY_SHAPE = {("analytic_ntk", "x1"), ("expected_squared_norm", "n")}  # and the filters


def spoilt(draw, name: str, key: str, value):
    """`(what, another value, whether it is wrong for sure)`."""
    if isinstance(value, np.ndarray):
        changes = ["nan", "inf", "complex", "text", "none", "axis", "object"]
        changes += ["asymmetric", "negative", "oblong"] if key in GRAMS else []
        changes += ["shorter"] if (name, key) not in ROWS else []
        what = draw.choice(changes)
        other = np.array(value, dtype=complex if what == "complex" else value.dtype)
        at = tuple(int(draw.integers(0, size)) for size in other.shape)
        if what in ("nan", "inf"):
            other = other.astype(float)
            other[at] = np.nan if what == "nan" else np.inf
        elif what == "complex":
            other[at] += 1j
        elif what == "asymmetric":
            at = (at[0], (at[0] + 1) % len(other))
            other[at] += 5.0
        elif what == "negative":
            other[at[0], at[0]] = -1.0
        changed = {
            "text": lambda: other.astype(str), "none": lambda: None, "axis": lambda: other[..., None, None],
            "object": lambda: [object()], "oblong": lambda: other[:, :-1], "shorter": lambda: other[:-1],
        }  # fmt: skip
        optional = what == "none" and (name, key) in {
            ("interpolation_path", "cross"),
            ("interpolation_path", "diagonal"),
        }
        harmless = optional or (what == "axis" and ("filter" in name or (name, key) in ANY_SHAPE))
        return what, changed[what]() if what in changed else other, not harmless
    if isinstance(value, bool):
        return "a text for a truth", "yes", key != "progress"
    if isinstance(value, (int, float)):
        wrong = [np.nan, np.inf, -np.inf, "x", 1j, {}, object(), -1e9]
        fine = [0, 1, True, 1e-320, 1e300, 2**70, np.float32(0.5)]
        k = int(draw.integers(0, len(wrong) + len(fine)))
        if k < len(wrong):
            return repr(wrong[k])[:20], wrong[k], True
        return repr(fine[k - len(wrong)]), fine[k - len(wrong)], False
    if isinstance(value, str):
        return "another word", draw.choice(["", "no", "SQUARED"]).item(), True
    if isinstance(value, dict):
        one = dict(value)
        first = next(iter(one))
        what, one[first], wrong = spoilt(draw, name, "an array", one[first])
        return f"{first} {what}", one, wrong
    if isinstance(value, list):
        return "nan in a list", [*value, np.nan], True
    return "another object", 3, True


def calls(count: int, seed: int):
    """Calls with one argument spoilt."""
    known = functions()
    for k in range(count):
        draw = np.random.default_rng([seed, k])
        name = draw.choice(list(known)).item()
        function, arguments = known[name]
        key = draw.choice(list(arguments)).item()
        what, other, wrong = spoilt(draw, name, key, arguments[key])
        yield judged(f"{name}({key}: {what})", lambda: function(**{**arguments, key: other}), wrong)  # noqa: B023


# --- Parameters of the notebooks ---------------------------------------------------------------------------------


def checkers() -> dict:
    """`{page: (its parameters' cell, its code up to the check)}`."""
    found = {}
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        given, check = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"][:2]
        body = ast.parse(check).body
        last = next(
            k for k, line in enumerate(body)
            if isinstance(line, ast.Expr) and ast.unparse(line).startswith("parameters.check(")
        )  # fmt: skip
        found[path.stem] = given, compile(ast.Module(body[: last + 1], []), path.stem, "exec")
    return found


def parameters(count: int, seed: int):
    """Notebooks' parameters, one of them spoilt or misspelt."""
    known = checkers()
    for k in range(count):
        draw = np.random.default_rng([seed, k])
        page = draw.choice(list(known)).item()
        given, check = known[page]
        namespace = {}
        exec(given, namespace)
        names = [name for name in namespace if not name.startswith("__")]
        name = draw.choice(names).item()
        default = namespace[name]
        wrong = [None, {"a": 1}, float("nan"), float("inf"), 10**400, 1e-320, object(), [[]], lambda: 0]
        if isinstance(default, (list, tuple)):
            wrong += ["x", [*default, *default[:1]], [*default, None]]
            classes = bool(default) and isinstance(default[0], str) and "pair" in name
            wrong += [[*default, "shirt" if "shirt" not in default else "dress"]] if classes else []
        elif isinstance(default, (int, float)):
            wrong += ["x", "3", True, -(10**12)]
        elif isinstance(default, str):
            wrong += [3, ["x"]]
        if draw.random() < 0.2:
            what = draw.choice([name + "s", "_" + name, "data", "parameters", "open", "exit", name.upper()]).item()
            cell, value, called = f"{what} = 1", 1, f"{page}: unknown {what}"
            if what in names:
                continue
            name = what
        else:
            value = wrong[int(draw.integers(0, len(wrong)))]
            cell, called = f"{name} = ...", f"{page}: {name}={value!r:.40}"
        namespace |= {name: value, "In": ["", given, cell, "check"]}
        try:
            exec(check, namespace)
        except ParameterError as error:
            yield Outcome("refused", f"{called}: {error}")
        except Exception as error:
            yield Outcome("foreign", f"{called}: {type(error).__name__}: {error}")
        else:
            yield Outcome("same" if isinstance(value, list) and value == default else "accepted", called)


KINDS = {"calls": calls, "parameters": parameters, "files": broken_files}
BAD = ("accepted", "foreign", "slow")


def main():
    """Run it and print the counts; fail where something happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--parameters", type=int, default=4000)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS)
    asked = parser.parse_args()
    bad = []
    for name, cases in KINDS.items():
        if asked.only in (None, name):
            found = list(cases(getattr(asked, name), asked.seed))
            bad += [one for one in found if one.kind in BAD]
            print(f"{name}: {len(found)} cases;", dict(Counter(one.kind for one in found)))
    for case in sorted({f"{one.kind:9s}{one.case[:230]}" for one in bad}):
        print(case)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
