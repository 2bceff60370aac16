"""What an experiment compares, written down before it runs, and what its table then says.

`workflow/experiments.yaml` has the experiments X1, X2, ...: each a question and its contrasts, the difference of a
column between two kinds of rows with the same seed, the sign that counts for the claim, and the smallest effect the
design was made for. `evaluate` gives each contrast one of four outcomes (section 13 of the derivations): *for*,
*against*, *undecided*, or *vacuous*, where both kinds gave the same number for every seed: they are the same training,
or two bounds that are both at one.

Three seeds alone would decide next to nothing: their spread is known to a factor of two. Seeds are therefore blocks and
students of one teacher treatments; what is left of the rows of `runs` without the means of both is the error of the
contrasts between them. Students of one checkpoint inherit its chance errors, whatever their temperature. So a contrast
is judged by those students that have all in common with the two that the two have in common: checkpoint, temperature,
soft ratio. Their spread is assumed to be the same, which X0 cannot test (all its students are of one kind) and which is
not so in X2 and X5. So a contrast is decided only if its own differences, by their own spread, are clear of zero, too.
Students of the labels, of themselves, or of another teacher, do not share the teacher's chance: contrasts with them
have the spread of their own differences, and of few seeds decide little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.stats import t as student_t

from kdlib.experiments.questions import CASE, TABLES, Contrast, experiments
from kdlib.experiments.results import Rows, campaign, paired, published_scales
from kdlib.tools.arrays import number
from kdlib.tools.intervals import clopper_pearson, detectable, holm

if TYPE_CHECKING:
    from kdlib.ledger import Ledger

Outcome = Literal["for", "against", "undecided", "vacuous"]
_PRECISION: dict[str, str] = dict.fromkeys(("along", "terms"), "float32 (networks), float64 (kernels)")
_SIZE = {"runs": "train_examples", "along": "points", "terms": "examples"}  # the column of n
_ALONG = ("train_examples", "ridge")
_RECIPE = ("epochs", "batch_size", "learning_rate", "optimiser", "augment", "precision")
WITHOUT = ("baseline", "self")  # ways of supervision without the teacher of the others: of the labels, of a baseline
TREATMENT = ("method", "temperature", "soft_ratio", "teacher_share", "pair", "half")


@dataclass(frozen=True)
class Evidence:
    """What a table says about a contrast in one case.

    Attributes
    ----------
    differences
        `(seeds,)`, in the contrast's unit.
    freedom
        degrees of freedom of their spread.
    interval
        of their mean, Student's t, not corrected.
    p, adjusted, own_p
        two-sided, of a mean of zero; by itself, and corrected with the experiment's other contrasts (Holm); and by the
        spread of these differences alone, not corrected.
    detectable
        the effect that a design with these seeds and this spread sees four times in five, at the first step of the
        correction: with a level shared by all contrasts of the experiment; at least what its own spread lets it see.
    precision
        in which the students were trained, and in brackets their teachers if in another one, where the table says so.
    seeds, examples
        of the differences, and on how many images: those that the networks were trained on, or, of the table `along`,
        those of the kernel.
    about
        in words: the effect that it was planned to see; what else differs between the students' recipes; of the table
        `along` the students' images and the ridge; where it is vacuous, why.
    """

    contrast: Contrast
    case: tuple
    differences: np.ndarray
    freedom: int
    interval: tuple[float, float]
    p: float
    adjusted: float
    detectable: float
    outcome: Outcome
    precision: str = ""
    seeds: tuple[int, ...] = ()
    examples: str = ""
    about: str = ""
    own_p: float = float("nan")

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    @property
    def called(self) -> str:
        """The case in words."""
        return _called(self.contrast, self.case)


def evaluate(
    contrasts: Sequence[Contrast], rows: Rows, others: Mapping[str, Rows] | None = None, *, delta: float = 0.05
) -> list[Evidence]:
    """The contrasts of one experiment on its rows, corrected together.

    Parameters
    ----------
    contrasts
        of one experiment.
    rows, others
        of the table `runs`, whose students are compared, and of others by their names. In a scale with several
        experiments the rows of others are left out by the column `experiment`: X2's are of "X2" or "X2-...".
    delta
        level of intervals and outcomes.

    Returns
    -------
    One `Evidence` for each contrast and case that two seeds at least have; what has not run is not there.
    """
    delta = number("delta", delta, least=1e-12, below=1)
    if len({contrast.experiment for contrast in contrasts}) > 1:
        raise ValueError("contrasts of several experiments: each is corrected by itself")
    found, teachers = [], [row for row in rows if row.get("role") == "teacher"]
    for contrast in contrasts:
        own = _own_rows(contrast, rows, others or {})
        for case, by_seed in paired(own, contrast.metric, contrast.first, contrast.second, contrast.by).items():
            if len(by_seed) > 1:
                values = contrast.times * np.array(list(by_seed.values()))
                blocks = _blocks(contrast, case, own, list(by_seed)) if _of_one_teacher(contrast) else None
                one = _evidence(contrast, case, values, blocks, delta)
                about = {"precision": _precision(contrast, case, own, teachers), "seeds": tuple(map(int, by_seed))}
                told = {name: _told(contrast, case, own, name) for name in (_SIZE[contrast.table], *_ALONG)}
                if values.any():
                    notes = [f"Planned to see {contrast.smallest:g} {contrast.unit}."]
                    if blocks is not None:
                        notes.append(f"By these differences alone, p = {one.own_p:.2g}.")
                    notes.append(_besides(contrast, case, own))
                else:
                    notes = [_why_vacuous(contrast, case, own)]
                if contrast.table == "along":
                    images, ridge = (told[name] for name in _ALONG)
                    notes.append(f"Kernels of students of {images} images, ridge {ridge}.")
                about["about"] = " ".join(filter(None, notes))
                found.append(replace(one, **about, examples=told[_SIZE[contrast.table]]))
    adjusted = holm([evidence.p for evidence in found])
    return [
        replace(
            evidence, adjusted=p, outcome=_outcome(evidence, p, delta),
            detectable=_detectable(evidence, delta, delta / len(found)),
        )
        for evidence, p in zip(found, adjusted, strict=True)
    ]  # fmt: skip


def of_scales(scale: str, names: Sequence[str] = (), *, delta: float = 0.05) -> dict[tuple[str, str], list[Evidence]]:
    """What the tables of `scale` and of all published scales say: `{(scale, experiment): [Evidence]}`.

    `names` are ids of experiments; by default all. Where an experiment has not run it is not there.
    """
    found = {}
    for name in dict.fromkeys((scale, *sorted({name for table in TABLES for name in published_scales(table)}))):
        tables = {table: campaign(table, name) for table in TABLES}
        for experiment in experiments().values():
            if not names or experiment.id in names:
                found[name, experiment.id] = evaluate(experiment.contrasts, tables["runs"], tables, delta=delta)
    return {key: evidence for key, evidence in found.items() if evidence}


def incomplete(scale: str, *, seeds: int = 3) -> list[str]:
    """What has fewer seeds than these at a scale, in words: a case of some contrasts, or a contrast in every case."""
    tables = {table: campaign(table, scale) for table in TABLES}
    found: list[str] = []
    for contrast in (one for experiment in experiments().values() for one in experiment.contrasts):
        own = _own_rows(contrast, tables["runs"], tables)
        pairs = paired(own, contrast.metric, contrast.first, contrast.second, contrast.by)
        for case, by_seed in pairs.items():
            if len(by_seed) < seeds:
                about = dict(zip(contrast.by, case, strict=True))
                kernel = f", {about['points']:.0f} images, ridge {about['ridge']:g}" if "ridge" in about else ""
                words = f"{contrast.experiment}, {_called(contrast, case)}{kernel}"
                found.append(f"{words} ({len(by_seed)} of {seeds} seeds)")
        found += [] if pairs else [f"{contrast.experiment}, {contrast.name}"]
    return list(dict.fromkeys(found))


def record(ledger: Ledger, evidence: Mapping[tuple[str, str], Sequence[Evidence]]) -> None:
    """Put all of it into a chapter's ledger."""
    for (scale, experiment), found in evidence.items():
        for one in found:
            ledger.evidence(
                experiment, f"{one.contrast.name}: {one.called} ({scale})", one.differences, outcome=one.outcome,
                power=one.detectable, p=one.p, interval=one.interval, claims=one.contrast.claims,
                n=one.examples, note=one.about, seeds=one.seeds, code="kdlib.experiments.contrasts.evaluate",
                unit=one.contrast.unit, dtype=one.precision or _PRECISION.get(one.contrast.table),
            )  # fmt: skip


def forest_groups(evidence: Mapping[tuple[str, str], Sequence[Evidence]]) -> dict[str, list[tuple]]:
    """The same as `kdlib.tools.plots.forest` draws it, without null experiments; one panel for each unit."""
    groups: dict[str, list[tuple]] = {}
    for (scale, experiment), found in evidence.items():
        units = {one.contrast.unit for one in found}
        for one in found:
            if one.contrast.sign:
                title = f"{experiment} ({scale}): {experiments()[experiment].title}"
                title += f", in {one.contrast.unit}" * (len(units) > 1)
                interval = (one.mean, one.mean) if one.outcome == "vacuous" else one.interval
                entry = f"{one.contrast.name}\n{one.called}", one.differences, interval, one.outcome
                groups.setdefault(title, []).append(entry)
    return groups


def counts(evidence: Mapping[tuple[str, str], Sequence[Evidence]], *, on_claims: bool = False) -> dict[str, float]:
    """How many contrasts had each outcome, `all` of them, and `seen`: the median effect, in points, that the undecided
    ones could have seen (NaN without any). Null experiments are left out; `on_claims`: what bears on no claim, too."""
    every = [one for found in evidence.values() for one in found if one.contrast.sign]
    every = [one for one in every if one.contrast.claims or not on_claims]
    outcomes = {outcome: sum(one.outcome == outcome for one in every) for outcome in get_args(Outcome)}
    undecided = [one.detectable for one in every if one.outcome == "undecided" and one.contrast.unit == "points"]
    return {**outcomes, "all": len(every), "seen": float(np.median(undecided)) if undecided else float("nan")}


def false_alarms(evidence: Sequence[Evidence], *, delta: float = 0.05) -> tuple[int, int, tuple[float, float]]:
    """Null experiments whose interval misses zero: `(how many, of how many, interval of the rate)`.

    The interval counts them as independent; those that share seeds and a teacher are not quite, and it is too narrow.
    """
    nulls = [one for one in evidence if one.contrast.sign == 0 and one.outcome != "vacuous"]
    if not nulls:
        raise ValueError("no null experiment among these")
    alarms = sum(one.p < delta for one in nulls)
    low, high = clopper_pearson(alarms, len(nulls), delta)
    return alarms, len(nulls), (float(low), float(high))


def _own_rows(contrast: Contrast, rows: Rows, others: Mapping[str, Rows]) -> list[Mapping[str, Any]]:
    """The rows that a contrast is about; of `runs` without teachers, and each training once."""
    whose = contrast.rows_of or contrast.experiment
    in_runs = contrast.table == "runs"
    table = [row for row in rows if row.get("role") != "teacher"] if in_runs else others.get(contrast.table, ())
    if contrast.where_named and not all(row.get("experiment") for row in table):
        return []
    own = [row for row in table if row.get("experiment", whose).partition("-")[0] == whose]
    if in_runs:  # parts of an experiment may ask for the same training
        named = lambda row: (row["run"], *(row.get(column) for column in TREATMENT)) if row.get("run") else id(row)
        own = list({named(row): row for row in own}.values())
    return own


def _called(contrast: Contrast, case: tuple) -> str:
    """A case in words."""
    about = dict(zip(contrast.by, case, strict=True))
    words = about.get("network", "")
    words += f" by {about['teacher_network']}" if "teacher_network" in about else ""
    words += f", {about.get('classes') or about['data']}" + (
        f" with {100 * about['noise']:.0f} % noise" if about.get("noise") else ""
    )
    given = {"temperature": "T", "soft_ratio": "soft ratio", "teacher_share": "teacher's share", "pair": "pair"}
    return words + "".join(f", {short} = {about[column]:g}" for column, short in given.items() if column in about)


def _of_one_teacher(contrast: Contrast) -> bool:
    """Whether both kinds are students of the table `runs` that have their teacher in common."""
    kinds = (contrast.first, contrast.second)
    alone = any(kind.get("method") in WITHOUT for kind in kinds)
    return contrast.table == "runs" and not alone and {"noise", "teacher_network"} <= set(contrast.by)


def _plain(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) and value >= 1 else str(value)


def _told(contrast: Contrast, case: tuple, rows: Rows, column: str) -> str:
    """What the rows of a contrast have in a column, in words."""
    kinds = _kinds(contrast, case, rows)
    return ", ".join(sorted({_plain(row[column]) for kind in kinds for row in kind if row.get(column)}))


def _kinds(contrast: Contrast, case: tuple, rows: Rows) -> list[list[Mapping[str, Any]]]:
    """The rows of either kind."""
    about = dict(zip(contrast.by, case, strict=True))
    kinds = [{**about, **kind}.items() for kind in (contrast.first, contrast.second)]
    return [[row for row in rows if kind <= row.items()] for kind in kinds]


def _besides(contrast: Contrast, case: tuple, rows: Rows) -> str:
    """What else differs between the two kinds of students than the contrast says, in words."""
    kinds, found = _kinds(contrast, case, rows), []
    for column in _RECIPE:
        first, second = (", ".join(sorted({_plain(row[column]) for row in kind if row.get(column)})) for kind in kinds)
        if first and second and first != second:
            found.append(f"{column.replace('_', ' ')} {first} against {second}")
    return f"Also different: {'; '.join(found)}." if found else ""


def _why_vacuous(contrast: Contrast, case: tuple, rows: Rows) -> str:
    """Why both kinds of rows have the same number for every seed, where the rows tell it."""
    first, second = _kinds(contrast, case, rows)
    trainings = [{str(row.get("run", "")).rpartition("-")[2] for row in kind} for kind in (first, second)]
    if trainings[0] == trainings[1] != {""}:
        return "Both are the same trainings."
    return "Both are one for every seed." if {row[contrast.metric] for row in (*first, *second)} == {1} else ""


def _precision(contrast: Contrast, case: tuple, students: Rows, teachers: Rows) -> str:
    """Of the students of a contrast; and of teachers of these networks and images, where it is another one."""
    own, networks, data = (_told(contrast, case, students, name) for name in ("precision", "teacher_network", "data"))
    theirs = {
        row.get("precision") for row in teachers if row["network"] in networks.split(", ") and row["data"] == data
    }
    other = ", ".join(sorted(one for one in theirs if one and one != own))
    return f"{own} (teachers: {other})" if own and other else own


def _checkpoint(row: Mapping[str, Any]) -> Any:
    """Which checkpoint of its teacher a student learnt from; the online teacher is all of them."""
    return "online" if row["method"] == "online" else row.get("teacher_share")


def _blocks(contrast: Contrast, case: tuple, rows: Rows, seeds: Sequence[float]) -> np.ndarray:
    """`(variants, seeds)` of the metric, in the contrast's unit: the two that are compared, and the other students of
    the same teacher that these seeds have and that share with both what both have in common of checkpoint, temperature
    and soft ratio. A training that has two names (a checkpoint of least loss that is the end) is there once.
    """
    about = dict(zip(contrast.by, case, strict=True))
    kinds = _kinds(contrast, case, rows)
    first, second = (kind[0] for kind in kinds)
    of = (_checkpoint, lambda row: row.get("temperature"), lambda row: row.get("soft_ratio"))
    common = [one for one in of if one(first) == one(second)]
    alike = lambda row: [one(row) for one in common]
    found: dict[tuple, dict[float, Mapping[str, Any]]] = {}
    for row in rows:
        if row["method"] in WITHOUT or row.get(contrast.metric) is None or alike(row) != alike(first):
            continue
        if all(row[name] == about[name] for name in CASE):
            found.setdefault(tuple(row.get(name) for name in TREATMENT), {})[row["seed"]] = row
    compared = lambda by_seed: any(next(iter(by_seed.values())) in kind for kind in kinds)
    values, seen = [], set()
    for by_seed in sorted(found.values(), key=compared, reverse=True):
        if all(seed in by_seed for seed in seeds):
            trainings = {str(by_seed[seed].get("run", "")).rpartition("-")[2] for seed in seeds} - {""}
            if not trainings & seen:
                values.append([contrast.times * by_seed[seed][contrast.metric] for seed in seeds])
                seen |= trainings
    return np.array(values)


def _evidence(
    contrast: Contrast, case: tuple, differences: np.ndarray, blocks: np.ndarray | None, delta: float
) -> Evidence:
    mean, seeds = differences.mean(), len(differences)
    freedom, variance = seeds - 1, differences.var(ddof=1)
    own_p = _p_value(mean, np.sqrt(variance / seeds), seeds, freedom)
    if blocks is not None and len(blocks) > 1:  # twice the residual variance: of a difference
        left = blocks - blocks.mean(axis=0) - blocks.mean(axis=1, keepdims=True) + blocks.mean()
        freedom = (len(blocks) - 1) * (seeds - 1)
        variance = 2 * (left**2).sum() / freedom
    error = np.sqrt(variance / seeds)
    p = _p_value(mean, error, seeds, freedom)
    quantile = student_t.ppf(1 - delta / 2, freedom)
    interval = float(mean - quantile * error), float(mean + quantile * error)
    return Evidence(contrast, case, differences, freedom, interval, p, p, float("nan"), "undecided", own_p=own_p)


def _p_value(mean: float, error: float, seeds: int, freedom: int) -> float:
    """Two-sided; of seeds that are all the same, to rounding, that of a sign test."""
    if error > 1e-12 * abs(mean):
        return float(2 * student_t.sf(abs(mean) / error, freedom))
    return 0.5 ** (seeds - 1) if mean else 1.0


def _detectable(evidence: Evidence, delta: float, level: float) -> float:
    """What is seen four times in five by a test at `level`; `delta` is that of the interval. And, since both must be
    clear of zero, by that of the differences' own spread at `delta`: the larger of the two."""
    error = (evidence.interval[1] - evidence.mean) / student_t.ppf(1 - delta / 2, evidence.freedom)
    seeds = len(evidence.differences)
    own = float(evidence.differences.std(ddof=1) / np.sqrt(seeds))
    return max(detectable(float(error), evidence.freedom, level), detectable(own, seeds - 1, delta))


def _outcome(evidence: Evidence, adjusted: float, delta: float) -> Outcome:
    if not evidence.differences.any():
        return "vacuous"
    if max(adjusted, evidence.own_p) >= delta or evidence.contrast.sign == 0:
        return "undecided"
    return "for" if np.sign(evidence.mean) == evidence.contrast.sign else "against"
