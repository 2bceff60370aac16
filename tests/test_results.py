"""Tables of results: complete, with provenance, and read back."""

import csv

import pytest

from kdlib.experiments import results
from workflow import tables


def test_a_table_is_saved_with_its_provenance(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))
    results.save("06_x", [{"pair": "a vs b, or so", "certificate": 0.125}, {"pair": "c vs d", "certificate": 1 / 3}])
    with open(tmp_path / "06_x.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows[0]["pair"] == "a vs b, or so" and float(rows[1]["certificate"]) == 1 / 3
    assert rows[0]["device"] and rows[0]["jax"] and len(rows[0]["kdlib"]) == 12


@pytest.mark.parametrize("rows", [[], [{"a": 1}, {"b": 2}]])
def test_a_table_without_a_shape_is_refused_and_the_old_one_stays(tmp_path, monkeypatch, rows):
    monkeypatch.setenv("KDLIB_RECORDS", str(tmp_path))
    results.save("x", [{"a": 1}])
    before = (tmp_path / "x.csv").read_text()
    with pytest.raises(ValueError, match="same columns"):
        results.save("x", rows)
    assert (tmp_path / "x.csv").read_text() == before


def test_published_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.published("x", "standard") == []
    (tmp_path / "results" / "standard").mkdir(parents=True)
    (tmp_path / "results" / "standard" / "x.csv").write_text('a,b\n1,"2, 3"\n')
    assert results.published("x", "standard") == [{"a": "1", "b": "2, 3"}]


def test_the_batch_s_table_is_this_machine_s_or_the_published_one(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert results.campaign("runs", "x") == [] and results.published_scales("runs") == []
    for folder, value in (("results/x", 1), ("_build/x/records", 2)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "runs.csv").write_text(f"a,b,code,network\n{value},,12e345678901,lenet\n")
        assert results.campaign("runs", "x") == [{"a": value, "b": None, "code": "12e345678901", "network": "lenet"}]
    assert results.published_scales("runs") == ["x"]


def test_experiments_that_were_run_elsewhere_stay(tmp_path, monkeypatch):
    """Shown and published: this machine's rows, and the published ones of experiments that it has not run."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    for folder, text in (
        ("results/x", "experiment,a\nX2,1\nX2,2\nX3,3\n"),
        ("_build/x/records", "experiment,a,b\nX2,4,5\n"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "runs.csv").write_text(text)
    expected = [{"experiment": "X2", "a": 4, "b": 5}, {"experiment": "X3", "a": 3}]
    assert results.campaign("runs", "x") == expected
    for _ in range(2):
        tables.publish("x")
        assert results.published("runs", "x") == [
            {"experiment": "X2", "a": "4", "b": "5"}, {"experiment": "X3", "a": "3", "b": ""}
        ]  # fmt: skip


def test_a_checkpoint_is_chosen_on_validation_and_judged_on_test():
    """The best one on test images is not taken; a case without a final teacher is left out."""
    about = dict(role="student", soft_ratio=1.0, noise=0.0, teacher_network="t", network="n", temperature=4.0, seed=0)
    row = lambda share, validation, test, **more: {
        **about, "teacher_share": share, "validation_accuracy": validation, "test_accuracy": test,
        "method": "offline" if share == 1 else "stopped", **more,
    }  # fmt: skip
    rows = [row(0.3, 0.62, 0.60), row(0.5, 0.61, 0.65), row(1.0, 0.60, 0.58), row(0.3, 0.9, 0.9, noise=0.3)]
    ((case, found),) = results.chosen_on_validation(rows).items()
    assert case == (0.0, "t", "n", 4.0) and found == [(0.3, pytest.approx(2.0))]
    assert results.chosen_on_validation([{**rows[0], "role": "teacher"}]) == {}


def test_runs_are_paired_by_seed():
    rows = [
        dict(data="d", noise=0.0, teacher_network="t", network=n, method=m, seed=s, accuracy=a)
        for n, m, s, a in (
            ("x", "on", 0, 3),
            ("x", "off", 0, 1),
            ("x", "on", 1, 7),
            ("x", "off", 1, 2),
            ("y", "on", 0, 5),
        )
    ]
    assert results.paired(rows, "accuracy", {"method": "on"}, {"method": "off"}) == {("d", 0.0, "t", "x"): {0: 2, 1: 5}}
    assert results.paired(rows, "newer column", {"method": "on"}, {"method": "off"}) == {}
    with pytest.raises(ValueError, match="two rows"):
        results.paired([*rows, rows[0]], "accuracy", {"method": "on"}, {"method": "off"})


def test_kernels_by_case_and_at_the_end(monkeypatch):
    about = dict(network="n", teacher_network="t", data="d", temperature=1.0, points=20.0, ridge=0.001)
    rows = [
        {**about, "method": method, "share": share, "run": f"{method}-0", "kernel_alignment": 0.5}
        for method in ("offline", "online") for share in (0.5, 1.0)
    ]  # fmt: skip
    ((title, found),) = results.followed({"core": rows}).items()
    assert "n by t, d, T = 1, 20 images" in title and [row["share"] for row in found] == [0.5, 1.0]
    monkeypatch.setattr(results, "campaign", lambda *_: [{"run": "online-0", "test_accuracy": 0.7}])
    (end,) = results.at_the_end({"core": rows})
    assert (end["run"], end["share"], end["test_accuracy"], end["scale"]) == ("online-0", 1.0, 0.7, "core")


def test_students_by_variant():
    row = lambda method, temperature, soft, seed, accuracy: dict(
        role="student", data="d", noise=0.0, teacher_network="t", network="n", method=method, temperature=temperature,
        soft_ratio=soft, seed=seed, accuracy=accuracy,
    )  # fmt: skip
    rows = [
        row("online", 4.0, 1.0, 0, 0.5),
        row("online", 1.0, 1.0, 0, 0.4),
        row("baseline", 1.0, 0.0, 1, 0.2),
        row("baseline", 1.0, 0.0, 0, 0.3),
    ]
    found = results.by_variant([*rows, {"role": "teacher"}], "accuracy")[("d", 0.0, "t", "n")]
    assert list(found) == [("baseline", 1.0, 0.0), ("online", 1.0, 1.0), ("online", 4.0, 1.0)]
    assert results.differences(found["online", 4.0, 1.0], found["baseline", 1.0, 0.0]) == pytest.approx([20])
