"""Certified supervision complexity: the interval contains the truth, in both precisions, stopped early or not."""

import numpy as np
import pytest

from kdlib.complexity import certified, certified_supervision_complexity, supervision_complexity
from kdlib.kernels import empirical_ntk, ntk_operator
from kdlib.training.networks import Perceptron


class Matrix:
    """A symmetric matrix of known spectrum, applied in a given precision."""

    def __init__(self, n, condition, dtype, seed):
        generator = np.random.default_rng(seed)
        basis = np.linalg.qr(generator.normal(size=(n, n)))[0]
        self.eigenvalues, self.basis = 7 * np.geomspace(1 / condition, 1, n), basis
        matrix = (basis * self.eigenvalues) @ basis.T
        self.matrix, self.dtype, self.shape = ((matrix + matrix.T) / 2).astype(dtype), dtype, (n, n)
        self.trace, self.stop_after, self.calls = float(self.eigenvalues.sum()), None, 0
        self.jitter, self.noise = 0.0, np.random.default_rng(seed)

    def __call__(self, v):
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        return self.wobbled((self.matrix @ v.astype(self.dtype)).astype(np.float64))

    def rows(self, examples):
        return self.wobbled(self.matrix[np.asarray(examples)])

    def wobbled(self, image):
        return image * (1 + self.jitter * self.noise.normal(size=image.shape)) if self.jitter else image

    def truth(self, y, ridge=0.0):
        return float(np.sum((self.basis.T @ y) ** 2 / (self.eigenvalues + ridge)))


class Pairs(Matrix):
    """As if of ten examples with two outputs."""

    examples = 10


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5, 1e8, 1e10])
@pytest.mark.parametrize("rank", [0, 20])
def test_the_interval_contains_the_truth(condition, dtype, rank):
    for seed in range(4):
        matrix = Matrix(120, condition, dtype, seed)
        y = np.random.default_rng(100 + seed).choice([-1.0, 1.0], 120)
        for ridge, smallest in ((0.0, matrix.eigenvalues[0]), (0.01, 0.0)):
            for iterations in (1, 7, 400):
                found = certified_supervision_complexity(
                    matrix, y, ridge=ridge, smallest_eigenvalue=smallest, tolerance=1e-3, max_iterations=iterations,
                    rank=rank, progress=False,
                )  # fmt: skip
                assert found.lower <= matrix.truth(y, ridge) <= found.upper
                assert found.iterations <= iterations and found.products >= found.iterations


def test_a_narrow_interval_where_the_precision_allows_it():
    matrix, y = Matrix(120, 1e6, np.float64, 0), np.ones(120)
    found = certified_supervision_complexity(
        matrix, y, smallest_eigenvalue=matrix.eigenvalues[0], tolerance=1e-6, rank=100, progress=False
    )
    assert found.reason == "tolerance" and found.relative_width < 2e-6
    np.testing.assert_allclose(found.lower, matrix.truth(y), rtol=2e-6)
    assert found.adjusted[0] == pytest.approx(np.sqrt(found.lower * found.trace) / 120)
    stopped = certified_supervision_complexity(
        matrix, y, smallest_eigenvalue=matrix.eigenvalues[0], max_iterations=3, rank=0, progress=False
    )
    assert stopped.reason == "iterations" and stopped.relative_width > 0.1


def test_float32_says_when_it_can_do_no_better():
    matrix, y = Matrix(120, 1e4, np.float32, 0), np.ones(120)
    found = certified_supervision_complexity(
        matrix, y, smallest_eigenvalue=matrix.eigenvalues[0], tolerance=1e-6, progress=False
    )
    assert found.reason == "rounding" and found.lower <= matrix.truth(y) <= found.upper


def test_without_a_bound_of_the_spectrum_there_is_no_upper_end():
    matrix, y = Matrix(60, 1e3, np.float64, 0), np.ones(60)
    found = certified_supervision_complexity(matrix, y, progress=False)
    assert found.upper == np.inf and 0 < found.lower <= matrix.truth(y)


@pytest.mark.parametrize("rank", [0, 100])
def test_the_interval_holds_whatever_the_iteration_did(monkeypatch, rank):
    """Steps that spoil the iterate by 1 % and report a tenth of its residual: an interval from the recurrence's own
    numbers would miss the truth by 1e-2, this one contains it, and is wide."""
    step = certified._step

    def spoiled(state, *given):
        after = step(state, *given)
        return after._replace(x=1.01 * after.x, r=0.1 * after.r, rz=0.01 * after.rz)

    matrix, y = Matrix(120, 1e3, np.float64, 0), np.ones(120)
    options = dict(smallest_eigenvalue=matrix.eigenvalues[0], tolerance=1e-4, rank=rank, progress=False)
    honest = certified_supervision_complexity(matrix, y, **options)
    monkeypatch.setattr(certified, "_step", spoiled)
    found = certified_supervision_complexity(matrix, y, **options)
    assert found.lower <= matrix.truth(y) <= found.upper
    assert honest.relative_width < 2e-4 < 1e-3 < found.relative_width


@pytest.mark.parametrize("rank", [50, 100, 110])
def test_a_preconditioner_that_is_nearly_exact_claims_no_more_than_it_knows(rank):
    for seed in range(12):
        matrix = Matrix(120, 10.0 ** (4 + seed % 6), np.float64, seed)
        y = np.random.default_rng(seed).normal(size=120)
        for ridge in (1e-6, 1e-3, 1.0):
            found = certified_supervision_complexity(
                matrix, y, ridge=ridge, tolerance=0.05, rank=rank, seed=seed, progress=False
            )
            assert found.lower <= matrix.truth(y, ridge) <= found.upper


def test_a_killed_run_goes_on(tmp_path):
    matrix, y = Matrix(120, 1e5, np.float64, 0), np.ones(120)
    options = dict(
        smallest_eigenvalue=matrix.eigenvalues[0],
        tolerance=1e-4,
        rank=20,
        checkpoint=tmp_path / "state.npz",
        progress=False,
    )
    matrix.stop_after = 60
    with pytest.raises(KeyboardInterrupt):
        certified_supervision_complexity(matrix, y, **options)
    spent, matrix.stop_after, matrix.calls = matrix.calls, None, 0
    resumed = certified_supervision_complexity(matrix, y, **options)
    alone = certified_supervision_complexity(matrix, y, **{**options, "checkpoint": None})
    assert (resumed.lower, resumed.upper, resumed.iterations) == (alone.lower, alone.upper, alone.iterations)
    assert matrix.calls - alone.products < alone.iterations - 40  # what had been done was not done again
    again = matrix.calls
    assert spent - 11 <= resumed.products - (again - alone.products) <= spent  # of both processes
    with pytest.raises(ValueError, match="other targets"):
        certified_supervision_complexity(matrix, -y, **options)
    with pytest.raises(ValueError, match="another operator"):
        certified_supervision_complexity(Matrix(120, 1e5, np.float64, 1), y, **options)


def test_a_run_goes_on_where_products_are_not_the_same_to_the_bit(tmp_path):
    """As on a GPU, whose sums have no fixed order."""
    matrix, y = Matrix(120, 1e4, np.float64, 0), np.ones(120)
    options = dict(tolerance=1e-4, rank=60, progress=False, checkpoint=tmp_path / "state.npz")
    matrix.jitter, wobble = 1e-12, 1 + 1e-9
    begun = certified_supervision_complexity(matrix, y, ridge=0.01, max_iterations=3, **options)
    found = certified_supervision_complexity(matrix, wobble * y, ridge=0.01 * wobble, **options)
    again = certified_supervision_complexity(matrix, y, ridge=0.01, **options)
    assert again.iterations == found.iterations  # nothing left to do
    assert begun.reason == "iterations" and found.reason == "tolerance" and found.products > begun.products
    assert found.lower <= matrix.truth(y, 0.01) <= found.upper


def test_misuse_is_refused():
    matrix, y = Matrix(20, 10, np.float64, 0), np.ones(20)
    refused = {
        "not all zero": (matrix, 0 * y, {}),
        "targets have": (matrix, y[:5], {}),
        r"shape \(n, C\) with n = 10": (Pairs(20, 10, np.float64, 0), y, {}),
        "ridge": (matrix, y, dict(ridge=-1)),
    }
    for message, (operator, targets, options) in refused.items():
        with pytest.raises(ValueError, match=message):
            certified_supervision_complexity(operator, targets, progress=False, **options)
    with pytest.raises(ValueError, match="not positive definite"):
        certified_supervision_complexity(lambda v: np.r_[v[:10], -v[10:]], y, progress=False)


@pytest.mark.slow
def test_a_supposed_bound_of_the_spectrum_that_the_operator_contradicts():
    """A smallest eigenvalue that is too large gives an interval beside the value: what contradicts it is refused."""
    generator = np.random.default_rng(0)
    features, weights = generator.normal(size=(20, 30)), generator.normal(size=30)
    gram = features @ features.T
    targets, true = features @ weights, float(np.linalg.eigvalsh(gram)[0])
    exact = supervision_complexity(gram, targets, ridge=0.1).value
    run = lambda smallest: certified_supervision_complexity(
        lambda v: gram @ v, targets, ridge=0.1, smallest_eigenvalue=smallest, progress=False
    )
    for smallest in (0.0, true, 2 * true):
        assert run(smallest).lower <= exact <= run(smallest).upper
    for smallest in (50 * true, 1e6):
        with pytest.raises(ValueError, match="Rayleigh quotient"):
            run(smallest)


def test_a_finite_network_without_its_gram():
    x = np.random.default_rng(0).normal(size=(60, 5, 5, 1))
    network = Perceptron((64,), 3)
    import jax

    params = network.init(jax.random.key(0), x[:1])
    targets = np.eye(3)[np.random.default_rng(1).integers(0, 3, 60)] - 1 / 3
    gram = empirical_ntk(network, params, x, dtype=np.float64)
    for ridge in (0.1, 10.0):
        truth = supervision_complexity(gram, targets, ridge=ridge)
        found = certified_supervision_complexity(
            ntk_operator(network, params, x, batch=16), targets, ridge=ridge, rank=30, progress=False
        )
        assert found.lower <= truth.value <= found.upper and found.relative_width < 0.03
        assert found.trace == pytest.approx(truth.trace, rel=1e-5)
