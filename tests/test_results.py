"""Tables of results: complete, with provenance, and read back."""

import csv

import pytest

from kdlib import results


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
