"""A check must be able to fail: each kind, its twin, its hypotheses, and what is recorded."""

import json
import re

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from kdlib import ledger as ledgers
from kdlib.ledger import (
    CLAIMS,
    STATEMENTS,
    CheckFailed,
    Ledger,
    SameTwice,
    Twin,
    WrongFormula,
    chapters,
    read_records,
)
from kdlib.tools.intervals import mean_interval


@pytest.fixture
def ledger(tmp_path):
    return Ledger("transfer_risk", n=10, seeds=[0], folder=tmp_path)


BAD = Twin("something", measured=[5.0], reference=1.0)  # fails as an identity and as a bound
BAD_INTERVAL = Twin("something", measured=(-3.0, -2.0), reference=0.5)


def test_sound_checks_pass_and_are_recorded(ledger, tmp_path):
    ledger.identity("R1", "identity", [1.0, 2.0], [1.0, 2.0 + 1e-12], tolerance=1e-9, twin=BAD, hypotheses={"h": True})
    ledger.bound("R2", "bound", [0.1, 0.5], [0.2, 1.0], twin=BAD, probability=True)
    ledger.rate("R3", "rate", (0.9, 1.1), 1.0, twin=Twin("t", (0.1, 0.2), 1.0))
    ledger.observation("R4", "observation", (0.1, 0.2), twin=BAD_INTERVAL)
    records = read_records(tmp_path)
    assert [record.verdict for record in records] == [
        "identity to 1e-09",
        "holds, with slack; vacuous in 50 % of trials",
        "prediction in the interval",
        "for",
    ]
    assert all(record.passed and record.twin["failed"] for record in records)
    bound = records[1]
    assert (
        bound.vacuous == 0.5 and bound.slack["min"] == pytest.approx(0.1) and bound.tightness["max"] == pytest.approx(2)
    )
    assert bound.provenance["jax"] and bound.device and bound.dtype == "float64"
    assert json.loads((tmp_path / "transfer_risk.json").read_text())[0]["hypotheses"] == {"h": True}


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
    assert record.verdict == record.outcome == "undecided" and not record.passed
    assert ledger.observation("R1", "y", (-0.3, -0.2), twin=BAD_INTERVAL).verdict == "against"
    read = read_records(tmp_path)  # it is no verdict on R1: that row leads to the claims, and there it is
    assert 'href="#claim-2"' in ledgers.table(read) and "state-undecided" not in ledgers.table(read)
    assert "state-undecided" in ledgers.claims_report(read)


def test_each_card_has_an_address_and_a_state(ledger):
    one = ledger.bound("R2", "a", [0.1], [0.5], twin=BAD, probability=True)
    other = ledger.bound("R2", "b", [0.1], [1.5], twin=BAD, probability=True)
    cards = [record._repr_html_() for record in (one, other)]
    addresses = {re.search(r'id="(check-r2-\w+)"', text).group(1) for text in cards}
    assert len(addresses) == 2 and "state-holds" in cards[0] and "state-vacuous" in cards[1]
    assert all('href="ledger.html#ledger-r2"' in text for text in cards)
    elsewhere = ledgers.table(read_records(ledger.folder))
    assert all(f'href="transfer_risk.html#{address}"' in elsewhere for address in addresses)


def test_the_map_joins_claims_statements_proofs_and_code(ledger, tmp_path):
    ledger.bound("R2", "a", [0.1], [0.5], twin=BAD, code="kdlib.bounds.angle_bound")
    ledger.evidence(
        "X1", "a teacher helps", [0.4], outcome="against", power=0.3, p=0.1, interval=(0.3, 0.7), claims=[8]
    )
    read = read_records(tmp_path)
    joined = ledgers.edges(read)
    for edge in (("claim 2", "R2"), ("R2", "kdlib.bounds.angle_bound"), ("claim 8", "X1"), ("B1", "S1"), ("S3", "S2")):
        assert edge in joined
    shown = ledgers.picture(read)
    assert all(f'data-node="{name}"' in shown for name in (*STATEMENTS, "claim 13", "X1", "kdlib.bounds.angle_bound"))
    assert shown.count("data-from") == len(joined) and 'class="state-against" data-node="X1"' in shown


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
    with pytest.raises(ValueError, match="no chapter 'transfer_rsik'"):
        Ledger("transfer_rsik", folder=tmp_path)


def test_a_new_run_replaces_the_chapters_records(tmp_path):
    for title in ("old", "new"):
        Ledger("transfer_risk", folder=tmp_path).bound("R1", title, 0.1, 0.2, twin=BAD)
    assert [record.title for record in read_records(tmp_path)] == ["new"]


def test_card_and_tables(ledger, tmp_path):
    record = ledger.bound("R2", "<b>", [0.1], [1.0], twin=BAD, code="kdlib.bounds.angle_bound")
    assert "&lt;b&gt;" in record._repr_html_() and "fails, as it must" in repr(record)
    table = ledgers.table(read_records(tmp_path))
    assert 'href="transfer_risk.html#r2"' in table and 'href="api.html#kdlib.bounds.angle_bound"' in table
    assert all(f">{statement}<" in table for statement in STATEMENTS)


def test_answers_to_claims(ledger, tmp_path):
    """A word and a sentence, by what bears on it: theorems, evidence both ways, doubts."""
    of = lambda number: ledgers.answer(CLAIMS[number - 1], read_records(tmp_path))
    ledger.bound("R2", "x", [0.1, 0.1], [0.5, 1.0], twin=BAD, probability=True)
    assert of(2).verdict == "a theorem" and "say nothing in 50 % of their trials" in of(2).sentence
    assert of(4).verdict == "not checked" and of(13).verdict == "not checked"
    ledger.observation("D5", "against", (-1.0, -0.5), twin=BAD_INTERVAL)
    assert of(4).verdict == "against"
    ledger.observation("D5", "for", (0.5, 1.0), twin=BAD_INTERVAL)
    assert of(4).verdict == "both ways" and of(4).sentence == "Evidence: 1 for, 1 against, corrected together."
    ledger.observation("C2", "of one doubt only", (0.5, 1.0), twin=BAD_INTERVAL, claims=[12])
    assert of(12).verdict == "stands" and of(10).verdict == "not checked"
    ledger.bound("C2", "a theorem", 0.1, 0.2, twin=BAD)
    assert of(12).verdict == "partly answered" and of(10).verdict == "answered"
    report = ledgers.claims_report(read_records(tmp_path))
    assert all(f'id="claim-{claim.number}"' in report for claim in CLAIMS) and "0 checks, 2 observations" in report
    assert "ledger.html#claim-4" in ledgers.claims_table(read_records(tmp_path))


def test_the_evidence_of_a_claim_is_corrected_together(ledger, tmp_path):
    """One of five is decided by itself, p = 0.03, and not together with four that are not."""
    alone = ledger.observation("D5", "one", (0.05, 1.0), twin=BAD_INTERVAL)
    assert alone.outcome == "for" and alone.p == pytest.approx(0.0303, abs=1e-3)  # normal: one seed
    assert ledgers.answer(CLAIMS[3], read_records(tmp_path)).verdict == "for"
    for k in range(4):
        ledger.observation("D5", f"none {k}", (-1.0, 1.1), twin=BAD_INTERVAL)
    assert ledgers.answer(CLAIMS[3], read_records(tmp_path)).outcomes["undecided"] == 5


def test_an_interval_over_seeds_has_student_s_p_value(ledger):
    """As a t-test of the values themselves; and what is not finite is refused."""
    values = np.array([0.3, 0.5, 0.4])
    interval = mean_interval(values)
    record = ledger.observation("D5", "x", interval, twin=BAD_INTERVAL, seeds=[0, 1, 2])
    assert record.p == pytest.approx(ttest_1samp(values, 0)[1])
    with pytest.raises(ValueError, match="finite interval"):
        ledger.observation("D5", "y", (np.nan, 1.0), twin=BAD_INTERVAL)


def test_the_level_of_an_interval_is_the_ledgers_unless_it_is_said(tmp_path):
    wide = Ledger("transfer_risk", seeds=[0, 1, 2], folder=tmp_path, level=0.99)
    p = {
        title: wide.observation("D5", title, (0.1, 1.0), twin=BAD_INTERVAL, **about).p
        for title, about in {"ledger": {}, "same": {"level": 0.99}, "own": {"level": 0.95}}.items()
    }
    assert p["ledger"] == p["same"] < 0.01 < p["own"] < 0.05


def test_seeds_that_all_agree_are_a_sign_test(ledger):
    assert ledger.observation("D5", "x", (0.1, 0.1), twin=BAD_INTERVAL, seeds=range(8)).p == 2 * 0.5**8
    assert ledger.observation("D5", "y", (0.1, 0.1), twin=BAD_INTERVAL, seeds=[0]).p == 1
    rounded = ledger.observation("D5", "z", (0.1, 0.1 + 1e-16), twin=BAD_INTERVAL, seeds=range(8))
    assert rounded.p == 2 * 0.5**8 and "every seed gave the same number" in rounded._repr_html_()


def test_an_effect_whose_spread_depends_on_it(ledger):
    """A rank correlation of 45 pairs: an interval near one is narrow, but p-value and power are those of none."""
    error = 1 / np.sqrt(44)
    record = ledger.observation("D9", "x", (0.8, 0.95), twin=BAD_INTERVAL, null_error=error)
    assert record.p == pytest.approx(2 * norm.sf(0.875 / error))
    assert record.power == pytest.approx(error * (norm.ppf(0.975) + norm.ppf(0.8)))
    assert record.outcome == "for"


def test_a_twin_that_telescopes_is_null(ledger):
    """One draw against the next has mean zero whatever the draws are."""
    values = np.random.default_rng(0).normal(size=8)
    twin = Twin("one draw against the next", mean_interval(values - np.roll(values, 1)), 0.0)
    assert ledger.observation("D5", "x", (0.1, 0.2), twin=twin).twin["kind"] == "null"
    assert ledger.observation("D5", "y", (0.1, 0.2), twin=BAD_INTERVAL).twin["kind"] == "hypothesis"
    same = SameTwice("one draw against the next", twin.measured, 0.0)
    record = ledger.observation("D5", "z", (0.1, 0.2), twin=same)
    assert record.twin["kind"] == "same" and "zero by construction" in record._repr_html_()


def test_what_an_observation_could_have_seen(ledger):
    """An effect of the stated size is decided four times in five, within 2 points in 10,000 draws."""
    record = ledger.observation("D5", "x", (-0.98, 0.98), twin=BAD_INTERVAL)
    effects = record.power + 0.5 * np.random.default_rng(0).normal(size=10_000)
    assert abs(np.mean(effects > 0.98) - 0.8) < 0.02


@pytest.mark.parametrize(
    "kind, measured, reference, tolerance, factors",
    [
        ("bound", [0.1, 0.4], [0.3, 0.6], 0.0, {"too small": 1.5}),
        ("bound", [-0.75, -0.9], [-0.5, -0.5], 0.0, {"too small": 1.5}),  # at least as steep
        ("identity", [2.0, 5.0], [2.0, 5.0], 0.01, {"too large": 1.01, "too small": 1 / 0.99}),
        ("identity", [2.01, 5.02], [2.0, 5.0], 0.01, {"too large": 1.014, "too small": 1 / 0.995}),
        ("rate", (-0.6, -0.4), -0.5, 0.0, {"too steep": 1.2, "too flat": 1.25}),
        ("rate", (0.8, 1.5), 1.0, 0.0, {"too steep": 1.5, "too flat": 1.25}),
        ("rate", (0.85, 1.4), 1.0, 0.1, {"too steep": 1.5, "too flat": 1 / 0.75}),
        ("rate", (-0.1, 1.5), 1.0, 0.0, {"too steep": 1.5, "too flat": None}),
    ],
)
def test_the_factors_that_a_check_notices(tmp_path, kind, measured, reference, tolerance, factors):
    """Just below each the check passes with the reference changed, just above it fails."""
    bad = Twin("t", (5.0, 6.0), 1.2) if kind == "rate" else BAD
    say = lambda factor, title: getattr(Ledger("transfer_risk", folder=tmp_path), kind)(
        "R1", title, measured, np.multiply(reference, factor), tolerance=tolerance, twin=bad
    )
    record = say(1.0, "x")
    assert "Notices a right side" in record._repr_html_().replace("only ", "")
    assert list(record.directions) == list(factors)
    for direction, factor in record.directions.items():
        assert factor == (None if factors[direction] is None else pytest.approx(factors[direction]))
    for direction, factor in record.directions.items():
        if factor is None:
            say(1e-6, "flat")
            continue
        smaller = direction in ("too small", "too flat") and not (kind == "bound" and np.max(reference) < 0)
        wrong = lambda f, smaller=smaller: 1 / f if smaller else f
        # the tolerance of an identity is relative, and grows with the reference
        say(wrong(1 + 0.98 * (factor - 1)), "below")
        with pytest.raises(CheckFailed):
            say(wrong(1 + 1.02 * (factor - 1)), "above")


def test_the_power_in_words_has_its_direction(ledger):
    rate = lambda title, interval: ledger.rate("R1", title, interval, 1.0, twin=Twin("t", (5.0, 6.0), 1.2))
    both, one = rate("x", (0.8, 1.1))._repr_html_(), rate("y", (-0.1, 1.1))._repr_html_()
    assert "too steep by <data>10</data> % or too flat by a factor of <data>1.25</data>" in both
    assert "notices a factor of <data>1.25</data>" in both
    assert "never one that is too flat" in one and "notices one direction only" in one
    assert "too small by a factor of <data>2</data>" in ledger.bound("R1", "z", 0.1, 0.2, twin=BAD)._repr_html_()


def test_how_tight_a_bound_is_where_it_says_something(ledger):
    record = ledger.bound("R2", "x", [0.5, 0.1], [1.5, 0.3], twin=BAD, probability=True)
    assert record.tightness == pytest.approx({"min": 3, "median": 3, "max": 3}) and record.vacuous == 0.5
    assert ledger.bound("R2", "y", [0.5], [1.5], twin=BAD, probability=True).tightness is None


def test_the_power_is_that_of_trials_whose_bound_says_something(ledger):
    """The first trial would notice a factor of 1.5, but its bound is one."""
    about = dict(twin=BAD, probability=True, parts={"half": [0.5, 0.15]})
    record = ledger.bound("R2", "x", [2 / 3, 0.1], [1.0, 0.3], **about)
    assert record.directions == pytest.approx({"too small": 3}) and record.parts == {"half": None}
    without = ledger.bound("R2", "y", [2 / 3, 0.1], [1.0, 0.3], **(about | {"probability": False}))
    assert without.directions == pytest.approx({"too small": 1.5}) and without.parts == {"half": 5.0}


def test_of_signs_and_counts_a_factor_means_nothing(ledger):
    signs = ledger.identity("R1", "x", [1.0, -1.0], [1, -1], tolerance=0.0, twin=BAD)
    assert signs.directions == {} and "notices any that differs" in signs._repr_html_()
    assert "it does not tell" in signs._repr_html_()
    part = {"a": lambda factor: ([1.0], [1.0 if factor < 1.1 else 0.0])}
    told = ledger.identity("R1", "y", [1.0], [1], tolerance=0.0, twin=BAD, parts=part)
    assert told.parts == {"a": 1.1} and "it does not tell" not in told._repr_html_()


def test_records_of_another_version_are_read(ledger, tmp_path):
    ledger.bound("R1", "x", 0.1, 0.2, twin=BAD)
    path = tmp_path / "transfer_risk.json"
    entries = [entry | {"no_field": 1} for entry in json.loads(path.read_text())]
    path.write_text(json.dumps(entries))
    assert read_records(tmp_path)[0].title == "x"


def test_a_check_says_that_it_notices_little(ledger):
    assert "only a right side" in ledger.bound("R1", "x", 0.1, 0.5, twin=BAD)._repr_html_()
    exact = ledger.identity("R1", "z", 2.5, 2.5, tolerance=0.0, twin=BAD)._repr_html_()
    assert "any change" in exact and "<code></code>" not in exact
    assert "notices any excess" in ledger.bound("R1", "y", 0.0, 0.0, twin=BAD)._repr_html_()
    room = ledger.identity("R1", "w", 1e-9, 0.0, tolerance=1e-6, twin=BAD)._repr_html_()
    assert "notices an error of" in room
    digits = ledger.identity("R1", "v", 2.0, 2.0, tolerance=1e-9, twin=BAD)._repr_html_()
    assert "notices the <data>9</data>th digit" in digits


def test_the_power_of_each_part(ledger):
    """The first factor that is noticed, of a term that a bound can lose, one that it cannot, and an exponent."""
    record = ledger.bound(
        "R1", "x", [0.5, 0.5], [1.1, 1.2], twin=Twin("t", 2.0, 1.0),
        parts={
            "large": [1.0, 1.1],  # noticed where 1.1 - 1 (1 - 1 / f) < 0.5, f > 2.5
            "small": 0.1,
            "exponent": lambda factor: ([0.5], [1.1 * 2.0 ** (1 - factor)]),  # f > 1 + log2 2.2 = 2.14
        },
    )  # fmt: skip
    assert record.parts == {"large": 3.0, "small": None, "exponent": 3.0}
    assert "large: by <data>3</data>; small: not even by 100; exponent: by <data>3</data>." in record._repr_html_()


def test_where_no_hypothesis_can_be_violated(ledger, tmp_path):
    """A wrong formula is no twin, and neither is an observation's that no data could move."""
    formula = ledger.bound("R1", "x", 0.1, 0.2, twin=WrongFormula("half of it", 0.1, 0.05))
    null = ledger.observation("R4", "y", (0.1, 0.2), twin=Twin("the same twice", (0.0, 0.0), 0.0))
    twin = ledger.bound("R1", "z", 0.1, 0.2, twin=BAD)
    assert [record.twin["kind"] for record in read_records(tmp_path)] == ["formula", "hypothesis", "null"]
    assert "wrong formula fails" in formula._repr_html_() and "in place of a broken twin" in formula._repr_html_()
    assert "fails" not in null._repr_html_() and "the effect is zero" in null._repr_html_()
    assert "twin fails" in twin._repr_html_()
    with pytest.raises(CheckFailed, match="cannot fail"):
        ledger.bound("R1", "w", 0.1, 0.2, twin=WrongFormula("twice", 0.1, 0.4))


def test_plain_formulas_are_typeset(ledger):
    shown = ledger.bound("R1", "E R_n <= sqrt(c) s^q, sigma^(-1/2), kdlib.a_b", 0.1, 0.2, twin=BAD)._repr_html_()
    assert "E R<sub>n</sub> ≤ √(c) s<sup>q</sup>, σ<sup>-1/2</sup>, kdlib.a_b" in shown


def test_what_says_nothing_notices_nothing_and_observations_go_by_their_claims(ledger):
    empty = ledger.bound("R2", "x", [0.1], [1.5], twin=BAD, probability=True)
    assert empty.notices is None and "notices nothing" in empty._repr_html_()
    seen = ledger.observation("N1", "y", (0.1, 0.2), twin=Twin("far off", (-3.0, -3.0), 0.0), claims=[9])
    assert "<strong>claim 9</strong>" in seen._repr_html_() and seen.twin["kind"] == "hypothesis"
    assert "<strong>N1</strong>" in ledgers.cards.card(seen, elsewhere=True)


def test_the_p_value_is_that_of_the_interval_s_level(ledger):
    """A wider interval of a higher level is the same evidence."""
    seeds, effects = range(6), np.array([0.3, 0.5, 0.2, 0.6, 0.4, 0.1])
    one, other = (
        ledger.observation(
            "R1", f"{level}", mean_interval(effects, 1 - level), twin=BAD_INTERVAL, seeds=seeds, level=level
        )
        for level in (0.95, 0.995)
    )
    assert one.p == pytest.approx(other.p) == pytest.approx(ttest_1samp(effects, 0).pvalue) and one.power < other.power


def test_the_interval_that_decides_sets_the_power_and_the_estimate_the_p_value(ledger):
    """A bootstrap interval that is wide, and not about its estimate, beside a small error where there is no effect."""
    wide = ledger.observation("D9", "x", (-0.2, 0.8), twin=BAD_INTERVAL, null_error=0.16, estimate=0.24)
    half = norm.ppf(0.975)
    assert wide.power == pytest.approx((0.5 / half) * (half + norm.ppf(0.8)))
    assert wide.p == pytest.approx(2 * norm.sf(0.24 / 0.16))
    narrow = ledger.observation("D9", "y", (0.2, 0.3), twin=BAD_INTERVAL, null_error=0.16, seeds=[0])
    assert narrow.power == pytest.approx(0.16 * (half + norm.ppf(0.8)))


def test_an_effect_of_zero_is_no_observation(ledger):
    assert ledger.observation("R1", "x", (0.0, 0.0), twin=BAD_INTERVAL).verdict == "undecided"


def test_seeds_and_notes_on_cards(ledger):
    record = ledger.bound("R1", "x", 0.1, 0.2, twin=BAD, seeds=[7, 0, 1, 2, 3], note="Slope -0.50 & more.")
    assert "seeds 0 to 3, 7" in record._repr_html_()
    assert "Slope <data>-0.50</data> &amp; more." in record._repr_html_()


def test_statements_and_claims_name_each_other():
    assert {statement for claim in CLAIMS for statement in claim.statements} <= set(STATEMENTS)
    assert {statement.chapter for statement in STATEMENTS.values()} <= set(chapters())


def test_evidence_has_an_outcome_of_its_own(ledger, tmp_path):
    """It is counted by outcome with the claim's observations."""
    record = ledger.evidence(
        "X1",
        "a teacher helps",
        [0.4, 0.6, 0.5],
        outcome="for",
        power=0.3,
        p=0.01,
        interval=(0.3, 0.7),
        claims=[8],
        seeds=[0],
    )
    ledger.evidence(
        "X2", "an early one does", [0.1, -0.1], outcome="undecided", power=0.9, p=1.0, interval=(-1, 1), claims=[8]
    )
    assert "would show four times in five" in record._repr_html_() and "Broken twin" not in record._repr_html_()
    read = read_records(tmp_path)
    assert [(one.id, one.outcome, one.power) for one in read] == [("X1", "for", 0.3), ("X2", "undecided", 0.9)]
    claim = next(claim for claim in CLAIMS if claim.number == 8)
    found = ledgers.answer(claim, read)
    assert found.verdict == "for in part"  # X1 is on the student's error, and nothing on the supervision's complexity
    assert found.parts["the student errs less"]["for"] == 1 and "less complex: nothing asked." in found.sentence
    assert ledgers.tally(read)["for"] == 1
    assert all("1 for, 1 undecided" in of(read) for of in (ledgers.claims_report, ledgers.claims_table))
    assert "a title" in ledgers.evidence_table(read, {read[0].id: "a title"})
    shown = ledgers.evidence_table(read)
    assert all(f'id="ledger-{name}"' in shown for name in ("x1", "x2")) and shown.count("state-for") == 2
    for name, outcome, message in (("T2", "for", "an experiment's id"), ("X3", "maybe", "outcome")):
        with pytest.raises(ValueError, match=message):
            ledger.evidence(name, "b", [0.1], outcome=outcome, power=1, p=1.0, interval=(0, 1))
    with pytest.raises(ValueError, match="already"):
        ledger.evidence("X1", "a teacher helps", [0.4], outcome="for", power=0.3, p=0.1, interval=(0.3, 0.7))
