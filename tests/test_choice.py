"""`choose` against leaving out by hand, and what it must not say; its command line."""

import json
import subprocess
import sys

import numpy as np
import pytest

import kdlib
from kdlib.choice import LABELS, RIDGES, _against, choose
from kdlib.labels import effective_logits


def problem(n=60, classes=3, seed=0):
    """A kernel, labels that it can learn, and three teachers: good, poor, and one that knows nothing."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 5))
    labels = np.argmax(x @ generator.normal(size=(5, classes)) + 0.3 * generator.normal(size=(n, classes)), axis=1)
    gram = np.exp(-np.sum((x[:, None] - x) ** 2, axis=2) / 8)
    noise = lambda: generator.normal(size=(n, classes))
    teachers = {
        "good": 3 * np.eye(classes)[labels] + 0.5 * noise(),
        "poor": np.eye(classes)[labels] + 1.5 * noise(),
        "none": noise(),
    }
    return gram, teachers, labels


def left_out_by_hand(gram, targets, labels, ridge):
    """Errors of the ridge student of all other examples, each solved for by itself."""
    n, wrong = len(labels), 0
    for i in range(n):
        others = np.arange(n) != i
        regularised = gram[np.ix_(others, others)] + ridge * n * np.diag(gram).mean() * np.eye(n - 1)
        said = gram[i, others] @ np.linalg.solve(regularised, targets[others])
        wrong += said.argmax() != labels[i]
    return wrong


def test_errors_are_those_of_leaving_out():
    gram, teachers, labels = problem()
    found = choose(gram, teachers, labels, temperatures=(1.0, 4.0), soft_ratios=(0.5, 1.0))
    assert len(found.candidates) == 1 + 3 * 3  # at a soft ratio of one the temperature cancels: one of them
    for one in found.candidates:
        targets = np.eye(3)[labels] - 1 / 3
        if one.teacher != LABELS:
            options = dict(soft_ratio=one.soft_ratio, temperature=one.temperature, temperature_scaling="squared")
            targets = effective_logits(teachers[one.teacher], labels, **options)
        by_ridge = [left_out_by_hand(gram, targets, labels, ridge) for ridge in RIDGES]
        assert one.error == min(by_ridge) / 60 and one.ridge == RIDGES[int(np.argmin(by_ridge))]
        assert one.low <= one.error <= one.high
    assert [one.error for one in found.candidates] == sorted(one.error for one in found.candidates)


def test_a_kernel_of_all_outputs_is_the_same_where_it_is_shared():
    gram, teachers, labels = problem()
    shared = choose(gram, teachers, labels, soft_ratios=(0.7,))
    for full in (np.kron(gram, np.eye(3)), np.kron(gram, np.eye(3)).reshape(60, 3, 60, 3)):
        for one, other in zip(
            shared.candidates, choose(full, teachers, labels, soft_ratios=(0.7,)).candidates, strict=True
        ):
            assert (one.teacher, one.error, one.ridge) == (other.teacher, other.error, other.ridge)
            assert one.complexity == pytest.approx(other.complexity) and one.growth == pytest.approx(other.growth)


def test_two_classes_by_signs_are_those_by_columns():
    gram, teachers, labels = problem(classes=2)
    by_columns = choose(gram, teachers, labels)
    signs = {name: logits[:, 1] - logits[:, 0] for name, logits in teachers.items()}
    by_signs = choose(gram, signs, 2.0 * labels - 1)
    for one in by_columns.candidates:
        other = next(found for found in by_signs.candidates if found.teacher == one.teacher)
        assert one.error == other.error and one.complexity == pytest.approx(other.complexity)


def test_what_is_better_and_what_is_not_known():
    gram, teachers, labels = problem(n=300)
    found = choose(gram, teachers, labels)
    names = [one.teacher for one in found.candidates]
    assert names[-1] == "none" and found.candidates[-1] not in found.ties
    assert names.index("good") < names.index("poor")
    assert "not told apart" in str(found) and found.advice in str(found)
    page = choose(gram, {"<b>": teachers["good"]}, labels)._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page and page.count("<tr>") == 3
    assert found.best in found.ties and found.best.against_best == 1
    good, none = (next(one for one in found.candidates if one.teacher == name) for name in ("good", "none"))
    assert good.complexity < none.complexity and 0.9 < none.complexity < 1.1
    assert none.teacher_error > 0.5 and none.corrected == 0
    heads = lambda *ratios: str(choose(gram, teachers, labels, soft_ratios=ratios)).splitlines()[0]
    assert " soft " not in heads(1) and " soft " in heads(0.5, 1) and " T " not in heads(0.5, 1)


@pytest.mark.parametrize("candidates", [2, 20])
def test_equal_teachers_are_not_told_apart_and_false_alarms_are_rare(candidates):
    """200 samples of candidates that differ by chance only: at the level 0.05 no more than the binomial allows are told
    apart. A correction that forgets that the best was found by looking has alarms in a fifth of them, of 20."""
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        wrong = generator.random((500, candidates)) < 0.2
        alarms += np.any(_against(wrong, int(np.argmin(wrong.sum(axis=0)))) <= 0.05)
    assert alarms <= 18  # the 0.99 quantile of binomial(200, 0.05)
    gram, teachers, labels = problem()
    same = choose(gram, {"one": teachers["good"], "other": teachers["good"]}, labels)
    assert [one.against_best for one in same.candidates if one.teacher != LABELS][-1] == 1


def test_against_the_best_is_mcnemars_test():
    wrong = np.zeros((50, 2), bool)
    wrong[:9, 1] = True
    assert _against(wrong, 0)[1] == pytest.approx(2 * 0.5**9)
    wrong[40, 0] = True
    assert _against(wrong, 0)[1] == pytest.approx(2 * 11 * 0.5**10)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(teachers={}), "one teacher at least"),
        (dict(teachers={LABELS: np.zeros((60, 3))}), "can be called"),
        (dict(teachers={"a": np.zeros((59, 3))}), "labels"),
        (dict(teachers={"a": np.full((60, 3), np.nan)}), "a .*finite|finite"),
        (dict(teachers={"a": np.zeros((60, 3)), "b": np.zeros((60, 4))}), "different shapes"),
        (dict(labels=np.full(60, 3)), "labels"),
        (dict(gram=np.eye(59)), "gram must be"),
        (dict(gram=np.triu(np.ones((60, 60)))), "symmetric"),
        (dict(gram=-np.eye(60)), "gram"),
        (dict(soft_ratios=(0.0,)), "soft"),
        (dict(temperatures=(0.0,), soft_ratios=(0.5,)), "temperature"),
        (dict(level=0.0), "level"),
        (dict(temperatures=()), "one entry at least"),
        (dict(soft_ratios=()), "one entry at least"),
        (dict(teachers={1: np.zeros((60, 3)), "1": np.zeros((60, 3))}), "same name"),
    ],
)
def test_wrong_input(changes, message):
    gram, teachers, labels = problem()
    given = {"gram": gram, "teachers": teachers, "labels": labels, **changes}
    with pytest.raises((ValueError, TypeError), match=message):
        choose(**given)


def run(*arguments, folder):
    command = [sys.executable, "-m", "kdlib", "choose", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_command_line(tmp_path):
    gram, teachers, labels = problem()
    np.save(tmp_path / "gram.npy", gram)
    np.save(tmp_path / "labels.npy", labels)
    for name, logits in teachers.items():
        np.save(tmp_path / f"{name}.npy", logits)
    files = ["gram.npy", "labels.npy", "good.npy", "poor.npy"]
    shown = run(*files, "--soft-ratios", 0.5, 1, "--temperatures", 1, 4, folder=tmp_path)
    expected = kdlib.choose(
        gram, {name: teachers[name] for name in ("good", "poor")}, labels, soft_ratios=(0.5, 1), temperatures=(1, 4)
    )
    assert shown.returncode == 0 and shown.stdout.strip() == str(expected)
    parsed = json.loads(run(*files, "--json", folder=tmp_path).stdout)
    assert parsed["advice"] and {row["teacher"] for row in parsed["candidates"]} == {"good", "poor", LABELS}
    whole = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "header.npy").write_bytes(whole[:10] + b"{'descr': (" + whole[21:])
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    files = ("broken.npy", "objects.npy", "header.npy")
    for wrong, message in (("missing.npy", "no file"), *zip(files, files, strict=True)):
        refused = run("gram.npy", "labels.npy", wrong, folder=tmp_path)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
    assert "numpy.save" in run("--help", folder=tmp_path).stdout
