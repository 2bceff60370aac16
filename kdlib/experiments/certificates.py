"""Certificates of students by the size of the sample: S3 and S8 on a pair of classes, S5 and S9 on several.

One kernel and one sample; smaller sizes are its first examples. Every row is the best of what its theorem lets one
choose for nothing (the student), and pays for the rest (margins, scales). For more examples than a notebook should
wait for::

    KDLIB_RECORDS=_build/standard/records python -m kdlib.experiments.certificates --examples 10000
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from kdlib import data
from kdlib.kernels import FullyConnected, analytic_ntk, centred_ntk
from kdlib.margin import least_certificate, margin_bound, pac_bayes_bound
from kdlib.tools.files import own_records_folder, read_rows, write_rows
from kdlib.tools.intervals import clopper_pearson
from kdlib.tools.provenance import device_name, provenance

RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
MARGINS = tuple(np.geomspace(0.05, 2.0, 20))  # of S3 and S5
TASKS = (("trouser", "bag"), ("sneaker", "ankle boot"), ("pullover", "coat"), None)  # None: all ten classes
SIZES = (1000, 2000, 5000, 10_000)
STUDENT = FullyConnected(depth=3)
SCALES = (0.03, 0.1, 0.3)  # of a prior mean in S8 and S9


@dataclass(frozen=True)
class Sample:
    """A kernel and a sample.

    Attributes
    ----------
    gram, cross
        `(n, n)`, with ones on its diagonal, and `(m, n)` of test images; of a kernel fixed by other images.
    labels, test_labels
        `(n,)`, `(m,)`: in {-1, 1}, or integers in `0..C-1`.
    prior, prior_test
        `f_0`, fixed by other images: `(n,)`, `(m,)` or `(n, C)`, `(m, C)`.
    """

    gram: np.ndarray
    cross: np.ndarray
    labels: np.ndarray
    test_labels: np.ndarray
    prior: np.ndarray
    prior_test: np.ndarray


def fashion_sample(classes: tuple[str, str] | None, examples: int, *, seed: int) -> Sample:
    """Fashion-MNIST, a pair of classes or all ten; the kernel is centred on, and `f_0` fitted to, other images: 1,900
    of a pair, 3,000 of ten classes."""
    sizes = {"train": examples, "transfer": 1900 if classes else 3000, "test": None if classes else 3000}
    split = data.load("fashion-mnist", classes=classes, sizes=sizes, normalisation="unit", distinct=True, seed=seed)
    train, others, test = split.train, split.transfer, split.test
    label = (lambda part: part.signs) if classes else (lambda part: part.labels)
    targets = others.signs if classes else np.eye(10)[others.labels] - 0.1
    plain = lambda a, b=None: analytic_ntk(STUDENT, a, b, normalised=True, progress=False)
    weights = np.linalg.solve(plain(others.images) + 3 * np.eye(len(others)), targets)
    centred = lambda a, b=None: centred_ntk(STUDENT, a, b, centre=others.images, progress=False)
    return Sample(
        centred(train.images), centred(test.images, train.images), label(train), label(test),
        plain(train.images, others.images) @ weights, plain(test.images, others.images) @ weights,
    )  # fmt: skip


def task_name(classes: tuple[str, str] | None) -> str:
    return " vs ".join(classes) if classes else "ten classes"


def by_size(sample: Sample, sizes: Sequence[int], *, delta: float) -> Iterator[dict[str, Any]]:
    """For each size and with and without `f_0` three rows: the margin bound, the first power as published (`theta = 0`)
    of ridge students, and the student of the least certificate.

    Yields
    ------
    `{examples, f_0, bound, certificate, gibbs, margin, measured error, error low, error high}`; `gibbs` only for S8
    and S9, where its bound is on the error of a draw if the margin is zero.
    """
    for n in sizes:
        first = Sample(
            sample.gram[:n, :n], sample.cross[:, :n], sample.labels[:n], sample.test_labels, sample.prior[:n],
            sample.prior_test,
        )  # fmt: skip
        for with_prior in (False, True):
            for name, certificate, gibbs, margin, outputs in _certificates(first, with_prior, delta):
                right = outputs.argmax(1) if outputs.ndim == 2 else np.where(outputs > 0, 1.0, -1.0)
                wrong = right != first.test_labels
                low, high = clopper_pearson(int(wrong.sum()), len(wrong), delta)
                yield {
                    "examples": n, "f_0": "from other images" if with_prior else "none", "bound": name,
                    "certificate": certificate, "gibbs": gibbs, "margin": margin, "measured error": float(wrong.mean()),
                    "error low": float(low), "error high": float(high),
                }  # fmt: skip


def _certificates(sample: Sample, with_prior: bool, delta: float) -> Iterator[tuple[str, float, Any, Any, np.ndarray]]:
    """`(name, certificate, gibbs, margin, outputs on the test images)` of three students."""
    classes = sample.prior.shape[1] if sample.prior.ndim == 2 else 1
    share = float(with_prior)
    prior, prior_test = share * sample.prior, share * sample.prior_test
    given: dict[str, Any] = dict(prior=prior, choices=len(SCALES)) if with_prior else {}
    targets = sample.labels if classes == 1 else np.eye(classes)[sample.labels] - 1 / classes
    slow, fast = [], []
    for ridge in RIDGES:
        factor = cho_factor(sample.gram + ridge * np.eye(len(sample.gram)))
        coefficients = cho_solve(factor, targets - prior)
        moved = sample.gram @ coefficients
        norm = float(np.sqrt(np.sum(coefficients * moved)))
        outputs = sample.cross @ coefficients + prior_test
        bound = margin_bound(
            sample.gram, moved + prior, sample.labels, margins=MARGINS, delta=delta, norm=norm, unit=0.1,
            constant_diagonal=True,
        )  # fmt: skip
        slow.append((bound.value, outputs))
        for scale in SCALES if with_prior else (1.0,):
            first = pac_bayes_bound(
                moved + prior, sample.labels, norm=norm, delta=delta, margins=(0.0,), prior_scale=scale, **given
            )
            fast.append((first.value, first.gibbs, outputs))
    certificate, outputs = min(slow, key=lambda row: row[0])
    yield "S3" if classes == 1 else "S5", certificate, "", "", outputs
    certificate, gibbs, outputs = min(fast, key=lambda row: row[0])
    name = "S8" if classes == 1 else "S9"
    yield f"{name}, no margin", certificate, gibbs, 0.0, outputs
    options: dict[str, Any] = dict(prior=prior, prior_scales=SCALES) if with_prior else {}
    student = least_certificate(sample.gram, sample.labels, delta=delta, **options)
    outputs = sample.cross @ student.coefficients + prior_test
    yield f"{name}, best student", student.bound.value, student.bound.gibbs, student.bound.margin, outputs


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Certificates by the size of the sample, as a table; goes on where it was."
    )
    parser.add_argument("--examples", type=int, default=max(SIZES), help="the largest size")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = own_records_folder() / "certificates_by_size.csv"
    rows: list[dict[str, Any]] = [*read_rows(path)] if path.exists() else []
    for classes in TASKS:
        name, sample = task_name(classes), None
        for n in (size for size in SIZES if size <= options.examples):
            if any((row["task"], int(row["examples"]), int(row["seed"])) == (name, n, options.seed) for row in rows):
                continue
            sample = sample or fashion_sample(classes, options.examples, seed=options.seed)
            for row in by_size(sample, [n], delta=0.05):
                about = {"delta": 0.05, "seed": options.seed, "device": device_name(), **provenance()}
                rows.append({"task": name, **row, **about})
                print(name, *row.values(), sep="  ", flush=True)
            write_rows(path, rows)


if __name__ == "__main__":
    main()
