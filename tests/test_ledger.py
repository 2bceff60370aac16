"""A check must be able to fail: each kind, its twin, its hypotheses, and what is recorded."""

import json

import numpy as np
import pytest

from kdlib import ledger as ledgers
from kdlib.ledger import CheckFailed, Ledger, Twin, read_records
from kdlib.statements import CHAPTERS, CLAIMS, STATEMENTS


@pytest.fixture
def ledger(tmp_path):
    return Ledger(chapter=3, n=10, seeds=[0], folder=tmp_path)


BAD = Twin("something", measured=[5.0], reference=1.0)  # fails as an identity and as a bound
BAD_INTERVAL = Twin("something", measured=(-3.0, -2.0), reference=0.5)


def test_sound_checks_pass_and_are_recorded(ledger, tmp_path):
    ledger.identity("R1", "identity", [1.0, 2.0], [1.0, 2.0 + 1e-12], tolerance=1e-9, twin=BAD, hypotheses={"h": True})
    ledger.bound("R2", "bound", [0.1, 0.5], [0.2, 1.0], twin=BAD, probability=True)
    ledger.rate("R3", "rate", (0.9, 1.1), 1.0, twin=Twin("t", (0.1, 0.2), 1.0))
    ledger.observation("R4", "observation", (0.1, 0.2), twin=BAD_INTERVAL)
    records = read_records(tmp_path)
    assert [record.verdict for record in records] == ["proved exactly", "bound holds", "rate fitted", "observed"]
    assert all(record.passed and record.twin["failed"] for record in records)
    bound = records[1]
    assert (
        bound.vacuous == 0.5 and bound.slack["min"] == pytest.approx(0.1) and bound.tightness["max"] == pytest.approx(2)
    )
    assert bound.provenance["jax"] and bound.device and bound.dtype == "float64"
    assert json.loads((tmp_path / "03_transfer_risk.json").read_text())[0]["hypotheses"] == {"h": True}


@pytest.mark.parametrize(
    "call",
    [
        lambda book: book.identity("R1", "x", [1.0, 2.0], [1.0, 2.1], tolerance=1e-3, twin=BAD),
        lambda book: book.identity("R1", "x", [1.0, np.nan], [1.0, 1.0], tolerance=1e-3, twin=BAD),
        lambda book: book.bound("R1", "x", [0.1, 0.3], 0.2, twin=BAD),
        lambda book: book.bound("R1", "x", [0.1, np.inf], np.inf, twin=BAD),
        lambda book: book.rate("R1", "x", (0.9, 1.1), 1.2, twin=Twin("t", (0.0, 0.1), 1.2)),
    ],
)
def test_a_failing_check_stops_and_is_recorded_as_failed(ledger, tmp_path, call):
    with pytest.raises(CheckFailed, match="fails: worst slack"):
        call(ledger)
    (record,) = read_records(tmp_path)
    assert record.verdict == "FAILED" and not record.passed


def test_a_claim_that_does_not_reproduce_is_a_finding(ledger, tmp_path):
    record = ledger.observation("R1", "x", (-0.1, 0.2), twin=BAD_INTERVAL)
    assert record.verdict == "not reproduced" and not record.passed
    assert "not reproduced" in ledgers.table(read_records(tmp_path))


def test_a_twin_that_passes_stops(ledger):
    with pytest.raises(CheckFailed, match="cannot fail"):
        ledger.bound("R1", "x", 0.1, 0.2, twin=Twin("nothing is broken", 0.1, 0.2))


def test_a_twin_must_fail_by_its_numbers(ledger):
    with pytest.raises(ValueError, match="not finite"):
        ledger.bound("R1", "x", 0.1, 0.2, twin=Twin("a mistake in the twin", [np.nan], 0.2))


def test_an_unmet_hypothesis_stops(ledger):
    with pytest.raises(CheckFailed, match="hypothesis not met: K positive definite"):
        ledger.bound("R1", "x", 0.1, 0.2, twin=BAD, hypotheses={"K positive definite": False})


def test_misuse_is_refused(ledger, tmp_path):
    with pytest.raises(ValueError, match="no statement 'Z9'"):
        ledger.bound("Z9", "x", 0.1, 0.2, twin=BAD)
    with pytest.raises(ValueError, match="empty"):
        ledger.bound("R1", "x", [], [], twin=BAD)
    ledger.bound("R1", "x", 0.1, 0.2, twin=BAD)
    with pytest.raises(ValueError, match="already"):
        ledger.bound("R1", "x", 0.1, 0.2, twin=BAD)
    with pytest.raises(ValueError, match="no notebook"):
        Ledger(chapter=9, folder=tmp_path).bound("R1", "x", 0.1, 0.2, twin=BAD)


def test_a_new_run_replaces_the_chapters_records(tmp_path):
    for title in ("old", "new"):
        Ledger(chapter=3, folder=tmp_path).bound("R1", title, 0.1, 0.2, twin=BAD)
    assert [record.title for record in read_records(tmp_path)] == ["new"]


def test_card_and_tables(ledger, tmp_path):
    record = ledger.bound("R2", "<b>", [0.1], [1.0], twin=BAD, code="kdlib.bounds.angle_bound")
    assert "&lt;b&gt;" in record._repr_html_() and "fails, as it must" in repr(record)
    table = ledgers.table(read_records(tmp_path))
    assert 'href="03_transfer_risk.html#r2"' in table and 'href="api.html#kdlib.bounds.angle_bound"' in table
    assert all(f">{id}<" in table for id in STATEMENTS)
    claims = ledgers.claims_table(read_records(tmp_path))
    assert "1 of 6 statements" in claims


def test_statements_and_claims_name_each_other():
    assert {id for claim in CLAIMS for id in claim.statements} <= set(STATEMENTS)
    assert {statement.chapter for statement in STATEMENTS.values()} <= set(CHAPTERS)
