"""Contrasts: outcomes that mean what they say, corrected together; the plan of the experiments."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from kdlib.experiments import contrasts
from kdlib.experiments.questions import Contrast, Experiment
from kdlib.ledger import Ledger
from kdlib.ledger.cards import card
from workflow import plan

CASE = {"data": "d", "noise": 0.0, "teacher_network": "t", "network": "n", "experiment": "X1"}


def contrast(name="better", sign=1, **changes):
    return Contrast("X1", name, "accuracy", {"method": "new"}, {"method": "old"}, sign, 1.0, **changes)


def rows(effects, noise=0.001, method="new", seed=0):
    """Rows of `old` and `new` with these effects, in points, seed by seed."""
    old = 0.8 + noise * np.random.default_rng(seed).normal(size=len(effects))
    for k, effect in enumerate(effects):
        yield {**CASE, "method": "old", "seed": k, "accuracy": old[k]}
        yield {**CASE, "method": method, "seed": k, "accuracy": old[k] + effect / 100}


@pytest.mark.parametrize(
    "effects, sign, outcome",
    [
        ([1.0, 1.1, 0.9], 1, "for"),
        ([1.0, 1.1, 0.9], -1, "against"),
        ([-1.0, -1.1, -0.9], 1, "against"),
        ([1.0, -0.5, 0.4], 1, "undecided"),
        ([0.0, 0.0, 0.0], 1, "vacuous"),
        ([1.0, 1.1, 0.9], 0, "undecided"),  # a null experiment proves nothing
    ],
)
def test_outcomes(effects, sign, outcome):
    (found,) = contrasts.evaluate([contrast(sign=sign)], list(rows(effects)))
    assert found.outcome == outcome and found.case == ("d", 0.0, "t", "n")
    np.testing.assert_allclose(found.differences, effects, atol=1e-9)
    np.testing.assert_allclose(found.p, ttest_1samp(effects, 0)[1] if any(effects) else 1.0, rtol=1e-6)


def test_other_experiments_and_single_seeds_are_left_out():
    given = [*rows([1.0, 1.1, 0.9])]
    strange = [{**row, "experiment": "X9", "network": "other"} for row in given]
    assert len(contrasts.evaluate([contrast()], given + strange)) == 1
    assert contrasts.evaluate([contrast()], list(rows([1.0]))) == []


def test_what_has_too_few_seeds_is_named(monkeypatch):
    """A case with one seed, a case with all, a contrast without any."""
    one_seed = [{**row, "network": "second"} for row in rows([1.0])]
    given = {"runs": [*rows([1.0, 1.1, 0.9]), *one_seed], "along": [], "terms": []}
    monkeypatch.setattr(contrasts, "campaign", lambda table, _: given[table])
    asked = contrast(), contrast("more", table="along")
    monkeypatch.setattr(contrasts, "experiments", lambda: {"X1": Experiment("X1", "t", "q", asked)})
    assert contrasts.incomplete("core") == ["X1, second by t, d (1 of 3 seeds)", "X1, more"]


def test_rows_of_another_experiment_and_table():
    """Teachers are not compared; a contrast may read the kernels' table, and the rows of another experiment's parts."""
    given = [{**row, "experiment": "X3-noisy", "role": "student"} for row in rows([1.0, 1.1, 0.9])]
    other = contrast(rows_of="X3")
    assert len(contrasts.evaluate([other], given)) == 1 and contrasts.evaluate([contrast()], given) == []
    assert contrasts.evaluate([other], [{**row, "role": "teacher"} for row in given]) == []
    same = [{**row, "run": f"{row['method']}-{row['seed']}"} for row in given]
    again = [{**row, "experiment": "X3-ridge"} for row in same]  # the same trainings, asked for twice
    assert len(contrasts.evaluate([other], same + again)) == 1
    kernels = contrast(rows_of="X3", table="along")
    assert contrasts.evaluate([kernels], given) == []
    assert len(contrasts.evaluate([kernels], [], {"along": given})) == 1


def test_a_contrast_that_would_be_another_s_again_is_asked_where_rows_name_their_experiment():
    given = [{**row, "experiment": "X3", "precision": "bfloat16"} for row in rows([1.0, 1.1, 0.9])]
    other = contrast(rows_of="X3", where_named=True)
    (found,) = contrasts.evaluate([other], given)
    assert found.precision == "bfloat16"
    nameless = [{name: value for name, value in row.items() if name != "experiment"} for row in given]
    assert contrasts.evaluate([other], nameless) == []
    assert len(contrasts.evaluate([replace(other, where_named=False)], nameless)) == 1


def test_what_is_counted_and_what_is_drawn():
    found = contrasts.evaluate([contrast()], [*rows([1.0, 1.1, 0.9]), *noisy([1.0, -1.0, 0.2])])
    null = contrasts.evaluate([contrast(sign=0)], list(rows([1.0, 1.1, 0.9])))
    evidence = {("core", "X1"): found, ("core", "X0"): null}
    counted = contrasts.counts(evidence)
    assert (counted["all"], counted["for"], counted["undecided"]) == (2, 1, 1)
    assert counted["seen"] == found[1].detectable
    ((title, entries),) = contrasts.forest_groups(evidence).items()
    assert "core" in title and len(entries) == 2 and "second by t, d" in entries[1][0]
    assert np.isnan(contrasts.counts({("core", "X0"): null})["seen"])
    logarithms = contrasts.evaluate([contrast(times=1.0)], list(rows([1.0, 1.1, 0.9])))
    titles = list(contrasts.forest_groups({("core", "X1"): [*found, *logarithms]}))
    assert [title.rpartition(", in ")[2] for title in titles] == ["points", "natural logarithms"]


def noisy(effects):
    return [{**row, "network": "second"} for row in rows(effects)]


def test_the_corrected_outcome_can_be_undecided_where_one_alone_is_not():
    """p = 0.034 alone, 0.068 beside one that shows nothing: the correction must turn it."""
    given = list(rows([1.0, 1.5, 0.8]))
    alone = contrasts.evaluate([contrast()], given)[0]
    assert alone.outcome == "for" and 0.025 < alone.p < 0.05
    nothing = noisy([1.0, -1.0, 0.2])
    both = contrasts.evaluate([contrast()], [*given, *nothing])
    assert both[0].outcome == "undecided" and both[0].p == alone.p < both[0].adjusted


def test_holm():
    """Holm's own rule: sorted p-values times k, k - 1, ..., never decreasing; known values."""
    np.testing.assert_allclose(contrasts.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert (contrasts.holm([0.9, 0.8]) == [1.0, 1.0]).all() and not len(contrasts.holm([]))


@pytest.mark.parametrize("size, level", [(4, 0.05), (3, 0.005), (9, 0.05)])
def test_what_a_design_can_see_is_seen_four_times_in_five(size, level):
    """An effect of the stated size, 20,000 designs: within 0.01 of 0.8 (adding two quantiles would be off by 0.12)."""
    values = np.arange(size) - (size - 1) / 2
    design = contrasts._evidence(contrast(), (), values, None, 0.05)
    stated = contrasts._detectable(design, 0.05, level)
    effects = stated + values.std(ddof=1) * np.random.default_rng(0).normal(size=(20_000, size))
    assert abs(np.mean(ttest_1samp(effects, 0, axis=1)[1] < level) - 0.8) < 0.01


def test_what_evidence_says_of_its_runs(tmp_path):
    """Seeds by their names, and n the images that were trained on, also in the ledger."""
    given = [{**row, "seed": row["seed"] + 7, "train_examples": 45_000.0} for row in rows([1.0, 1.1, 0.9])]
    found = contrasts.evaluate([contrast()], given)
    assert (found[0].seeds, found[0].examples) == ((7, 8, 9), "45,000")
    ledger = Ledger("experiments", folder=tmp_path)
    contrasts.record(ledger, {("core", "X1"): found})
    assert (ledger.records[0].seeds, ledger.records[0].n) == ([7, 8, 9], "45,000")


def test_evidence_says_what_else_differs():
    """Students with learning rates of their own; what is equal, or not told, is left out."""
    given = [{**row, "epochs": 6.0, "learning_rate": 0.01} for row in rows([1.0, 1.1, 0.9])]
    of = lambda given: contrasts.evaluate([contrast()], given)[0].about
    assert of(given).startswith("Planned to see 1 points.")
    apart = [{**row, "learning_rate": 0.03} if row["method"] == "old" else row for row in given]
    assert of(apart).endswith("Also different: learning rate 0.01 against 0.03.")


def test_vacuous_evidence_says_why(tmp_path):
    """The same trainings, or bounds that are all one; of other equal numbers nothing is known."""
    given = [{**row, "run": f"{row['method']}-7-{row['seed']}"} for row in rows([0.0, 0.0, 0.0])]
    of = lambda given: contrasts.evaluate([contrast()], given)[0].about
    assert of(given) == "Both are the same trainings."
    apart = [{**row, "run": row["run"] + row["method"]} for row in given]
    assert of(apart) == "" and of([{**row, "accuracy": 1.0} for row in apart]) == "Both are one for every seed."
    assert "same" not in contrasts.evaluate([contrast()], list(rows([1.0, 1.1, 0.9])))[0].about
    ledger = Ledger("experiments", folder=tmp_path)
    contrasts.record(ledger, {("core", "X1"): contrasts.evaluate([contrast(claims=(6, 7, 9))], given)})
    shown = ledger.records[0]._repr_html_()
    assert "the same trainings" in shown and "On claims 6, 7 and 9." in shown


def test_the_n_of_a_complexity_is_the_kernel_s(tmp_path):
    kept = {"train_examples": 45_000.0, "points": 1024.0, "ridge": 0.001, "experiment": "X3"}
    given = [{**row, **kept} for row in rows([1.0, 1.1, 0.9])]
    found = contrasts.evaluate([contrast(rows_of="X3", table="along")], [], {"along": given})
    ledger = Ledger("experiments", folder=tmp_path)
    contrasts.record(ledger, {("core", "X1"): found})
    assert ledger.records[0].n == "1,024"
    assert "45,000 images" in ledger.records[0].note and "ridge 0.001" in ledger.records[0].note


def test_what_compared_nothing_shows_no_interval(tmp_path):
    ledger = Ledger("experiments", folder=tmp_path)
    contrasts.record(ledger, {("core", "X1"): contrasts.evaluate([contrast()], list(rows([0.0, 0.0, 0.0])))})
    shown = card(ledger.records[0], elsewhere=True)
    assert "nothing to see" in shown and "four times in five" not in shown


def designs(treatments, seeds, draw, effect=0.0):
    """Rows of one design: `treatments` variants, seeds with a level of their own, noise 1 point."""
    level = draw.normal(size=seeds)
    for variant in range(treatments):
        name = {0: "new", 1: "old"}.get(variant, f"other {variant}")
        for k in range(seeds):
            value = level[k] + draw.normal() + (effect if name == "new" else variant / 2)
            about = {"method": name, "seed": k, "run": f"{name}-{variant}{k}", "role": "student"}
            yield {**CASE, **about, "accuracy": value / 100}


def test_blocks_against_least_squares():
    """Seeds as blocks, variants as treatments: the interval is that of an ordinary fit with both as factors."""
    given = list(designs(5, 3, np.random.default_rng(1)))
    (found,) = contrasts.evaluate([contrast()], given)
    values = 100 * np.array([row["accuracy"] for row in given])
    columns = np.kron(np.eye(5), np.ones((3, 1))), np.kron(np.ones((5, 1)), np.eye(3)[:, 1:])
    factors = np.hstack(columns)
    coefficients, residual, rank, _ = np.linalg.lstsq(factors, values, rcond=None)
    assert found.freedom == len(values) - rank == 8
    wanted = np.array([1, -1, 0, 0, 0, 0, 0.0])
    error = np.sqrt(residual[0] / 8 * wanted @ np.linalg.inv(factors.T @ factors) @ wanted)
    np.testing.assert_allclose(found.mean, wanted @ coefficients)
    np.testing.assert_allclose(np.diff(found.interval)[0], 2 * student_t.ppf(0.975, 8) * error)


def test_blocks_are_right_and_see_more_than_pairs(monkeypatch):
    """1,000 designs of 12 variants and three seeds: 5 % false alarms within 2 points (a level of 10 % is seen), and an
    effect of 2.5 spreads is seen twice as often as by pairs."""
    monkeypatch.setattr(contrasts, "detectable", lambda *_: 0.0)  # it is not looked at, and takes most of the time
    draw, alarms, seen, by_pairs = np.random.default_rng(5), [], [], []
    for _ in range(1000):
        (null,) = contrasts.evaluate([contrast()], list(designs(12, 3, draw, effect=0.5)))
        (real,) = contrasts.evaluate([contrast()], list(designs(12, 3, draw, effect=3.0)))
        alarms.append(null.p < 0.05)
        seen.append(real.p < 0.05)
        by_pairs.append(ttest_1samp(real.differences, 0)[1] < 0.05)
    assert abs(np.mean(alarms) - 0.05) < 0.02
    assert np.mean(seen) > 2 * np.mean(by_pairs)


def of_checkpoints(draw):
    """Rows of students of four checkpoints at two temperatures and three soft ratios, of three seeds: each checkpoint
    has a chance of its own in each seed, each of its temperatures a smaller one, each student one more."""
    for k in range(3):
        for share in (0.1, 0.3, 0.5, 1.0):
            common = draw.normal()
            for temperature in (1.0, 4.0):
                shared = common + 0.5 * draw.normal()
                for ratio in (0.5, 0.9, 1.0):
                    about = {"temperature": temperature, "soft_ratio": ratio, "teacher_share": share, "seed": k}
                    accuracy = (shared + 0.3 * draw.normal()) / 100
                    yield {**CASE, **about, "method": "stopped", "accuracy": accuracy}


def test_students_of_one_checkpoint_share_its_chance(monkeypatch):
    """1,000 designs with nothing to see: between checkpoints and within one, 5 % false alarms within 2 points. (All
    students in one block: 10 % and none.)"""
    monkeypatch.setattr(contrasts, "detectable", lambda *_: 0.0)
    draw, student = np.random.default_rng(6), {"temperature": 1.0, "soft_ratio": 1.0, "teacher_share": 1.0}
    between = replace(contrast(), first={**student, "teacher_share": 0.1}, second=student)
    within = replace(contrast("mixed"), first={**student, "soft_ratio": 0.5}, second=student)
    alarms = {"between": [], "within": []}
    for _ in range(1000):
        design = list(of_checkpoints(draw))
        (one,), (other,) = (contrasts.evaluate([asked], design) for asked in (between, within))
        assert (one.freedom, other.freedom) == (6, 4)
        alarms["between"].append(one.p < 0.05)
        alarms["within"].append(other.p < 0.05)
    rates = {name: np.mean(found) for name, found in alarms.items()}
    assert all(abs(rate - 0.05) < 0.02 for rate in rates.values()), rates


def test_what_others_spread_decides_its_own_must_not_deny():
    """A contrast that varies more than its block: the block says 0.01, its own differences 0.2."""
    given = []
    for k, effect in enumerate((4.0, 1.0, 0.2)):
        for name, change in (("old", 0.0), ("new", effect), *((f"other {i}", 0.01 * (k == i)) for i in range(3))):
            given.append({**CASE, "method": name, "seed": k, "run": f"{name}-{name}{k}", "accuracy": change / 100})
    (found,) = contrasts.evaluate([contrast()], given)
    assert found.p < 0.05 < found.own_p and found.outcome == "undecided" and "alone, p = 0.2" in found.about
    own = contrasts.evaluate([contrast()], [row for row in given if row["method"] in ("old", "new")])[0].detectable
    assert found.detectable == pytest.approx(own)  # and the effect that it could have seen is no smaller for the block


def test_equal_effects_are_a_sign_test():
    """Three seeds that differ by rounding alone have no spread to be judged by: 0.25, not 1e-31."""
    (found,) = contrasts.evaluate([contrast()], list(rows([2.75, 2.75, 2.75], noise=0.01)))
    assert np.ptp(found.differences) < 1e-9 and found.p == 0.25 and found.outcome == "undecided"


def test_blocks_are_of_one_teacher_s_students():
    """Against the labels' students, and between two teachers', the spread is that of the differences themselves."""
    given = list(designs(6, 3, np.random.default_rng(3)))
    against = replace(contrast(), second={"method": "baseline"})
    labels = [{**row, "method": "baseline"} for row in given if row["method"] == "old"]
    (found,) = contrasts.evaluate([against], given + labels)
    assert found.freedom == 2 and found.p == pytest.approx(ttest_1samp(found.differences, 0)[1])
    (one,) = contrasts.evaluate([contrast()], given + labels)
    assert one.freedom == 10  # the labels' students are no treatment
    alone = [{**row, "method": "self"} for row in labels]  # their teachers are baselines, each another one
    (beside,), (without,) = (contrasts.evaluate([contrast()], found) for found in (given + alone, given))
    assert beside.interval == without.interval and beside.freedom == without.freedom == 10
    of_self = replace(contrast(), second={"method": "self"})
    assert contrasts.evaluate([of_self], given + alone)[0].freedom == 2
    teachers = contrast(by=("data", "network"))
    assert contrasts.evaluate([teachers], given)[0].freedom == 2


def test_a_training_with_two_names_is_there_once():
    """A checkpoint of least loss that is the end must not halve the spread."""
    given = list(designs(4, 3, np.random.default_rng(2)))
    twice = [{**row, "method": "again", "run": row["run"]} for row in given if row["method"] == "other 3"]
    (once,), (again,) = (contrasts.evaluate([contrast()], rows) for rows in (given, given + twice))
    assert again.interval == once.interval and again.freedom == once.freedom == 6


def test_false_alarms_of_nulls():
    """200 null experiments of three seeds at 5 %: their rate's exact interval holds 0.05, and misses 0.2."""
    draw = np.random.default_rng(3)
    found = [
        evidence
        for k in range(200)
        for evidence in contrasts.evaluate([contrast(sign=0)], list(rows(draw.normal(size=3), seed=k)))
    ]
    alarms, count, (low, high) = contrasts.false_alarms(found)
    assert count == 200 and low < 0.05 < high < 0.2
    with pytest.raises(ValueError, match="no null"):
        contrasts.false_alarms([])


def test_the_plan_is_read_and_what_runs_is_in_it(tmp_path):
    found = contrasts.experiments()
    ids = {node.family for node in plan.nodes("core") if node.family.startswith("X")}
    read = {
        one.rows_of or one.experiment
        for experiment in found.values()
        for one in experiment.contrasts
        if one.table != "terms"
    }
    assert ids == read  # but for tables that pages make: what runs is asked about, and what is asked about runs
    for experiment in found.values():
        names = [one.name for one in experiment.contrasts]
        assert len(set(names)) == len(names)
    wrong = tmp_path / "plan.yaml"
    wrong.write_text("X1: {title: a, question: b, contrasts: [{name: c, sign: 2}]}")
    with pytest.raises(ValueError, match="X1.contrasts.0.sign: 2 is not one of"):
        contrasts.experiments(wrong)


def test_contrasts_of_two_experiments_are_refused():
    other = Contrast("X2", "b", "accuracy", {"method": "new"}, {"method": "old"}, 1, 1.0)
    with pytest.raises(ValueError, match="several experiments"):
        contrasts.evaluate([contrast(), other], [])
