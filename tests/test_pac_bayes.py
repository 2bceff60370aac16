"""S8 and S9 against their definitions, by other ways; where they must fail."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom
from scipy.stats import norm as gaussian

from kdlib.pac_bayes import _draw_errors, _error_slopes, _largest, least_certificate, pac_bayes_bound


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a)


@pytest.mark.parametrize("empirical, budget", [(0.0, 0.01), (0.1, 0.02), (0.5, 0.3), (1.0, 0.1), (0.2, 50.0)])
def test_the_largest_error_within_the_budget(empirical, budget):
    found = _largest(empirical, budget)
    if empirical == 1 or budget > 40:
        assert found == pytest.approx(1.0)
    else:
        assert found == pytest.approx(
            brentq(lambda q: kl(empirical, q) - budget, empirical + 1e-15, 1 - 1e-15), abs=1e-10
        )


def student(n=200, seed=0):
    """Values, labels and norm of a ridge student on the line, with a kernel whose diagonal is one."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(-2, 2, n)
    labels = np.where(x + 0.3 * generator.normal(size=n) > 0, 1.0, -1.0)
    gram = np.exp(-((x[:, None] - x) ** 2))
    coefficients = np.linalg.solve(gram + np.eye(n), labels)
    values = gram @ coefficients
    return values, labels, float(np.sqrt(coefficients @ values)), x, coefficients


def test_two_classes_by_the_definition():
    values, labels, size, *_ = student()
    bound = pac_bayes_bound(values, labels, norm=size, delta=0.1, margins=(0.0,))
    empirical = gaussian.cdf(-bound.scale * labels * values / size).mean()
    assert bound.empirical == pytest.approx(empirical, abs=1e-12)
    budget = (bound.scale**2 / 2 + np.log(2 * np.sqrt(200) / 0.1)) / 200
    assert kl(empirical, bound.gibbs) == pytest.approx(budget, rel=1e-6)
    assert bound.value == min(1.0, 2 * bound.gibbs)
    for scale in np.geomspace(0.2, 50, 200):  # no scale of a fine grid is better by one part in ten thousand
        other = _largest(
            gaussian.cdf(-scale * labels * values / size).mean(), (scale**2 / 2 + np.log(2 * np.sqrt(200) / 0.1)) / 200
        )
        assert bound.gibbs <= other * (1 + 1e-4)


def test_coins_learnt_by_heart_leave_little_room():
    """A draw around a student of coins errs half of the time at a new point; a norm short by a half would show."""
    coins = np.random.default_rng(0).choice([-1.0, 1.0], 2000)
    bounds = [pac_bayes_bound(coins, coins, norm=np.sqrt(2000) / by, margins=(0.0,)) for by in (1, 1.5)]
    assert bounds[0].gibbs >= 0.5 > bounds[1].gibbs


def test_the_scale_of_the_student_does_nothing():
    values, labels, size, *_ = student()
    first = pac_bayes_bound(values, labels, norm=size)
    again = pac_bayes_bound(3 * values, labels, norm=3 * size)
    assert again.gibbs == pytest.approx(first.gibbs, abs=1e-9)
    wider = pac_bayes_bound(values, labels, norm=size * np.sqrt(1 / 4), diagonal=4.0)  # the kernel times four
    assert wider.gibbs == pytest.approx(first.gibbs, abs=1e-9)


def test_several_classes_by_drawing():
    """The Gauss-Hermite sum against a million draws: an error of half a point would be noticed."""
    generator = np.random.default_rng(0)
    means, labels = generator.normal(size=(5, 4)), np.array([0, 1, 2, 3, 0])
    draws = means + generator.normal(size=(200_000, 5, 4))
    true = draws[:, np.arange(5), labels][..., None]
    for margin in (0.0, 1.0):  # in standard deviations of the difference of two outputs
        wrong = np.sum(draws >= true - np.sqrt(2) * margin, axis=2) > 1  # the label itself is one
        assert _draw_errors(means, labels, np.ones(5), margin).mean() == pytest.approx(wrong.mean(), abs=3e-3)
    two = generator.normal(size=(6, 2))  # the difference of two draws is one draw of twice the variance
    expected = gaussian.cdf(-np.diff(two)[:, 0] * np.where(np.arange(6) % 2, 1, -1) / np.sqrt(2)).mean()
    assert _draw_errors(two, np.arange(6) % 2, np.ones(6), 0.0).mean() == pytest.approx(expected, abs=1e-9)


def test_centring_over_classes_and_zero_diagonals():
    generator = np.random.default_rng(1)
    values, labels = generator.normal(size=(30, 3)), generator.integers(0, 3, 30)
    first = pac_bayes_bound(values, labels, norm=10.0)
    again = pac_bayes_bound(values + generator.normal(size=(30, 1)), labels, norm=10.0)
    assert again.gibbs == pytest.approx(first.gibbs, abs=1e-9)
    still = lambda means, labels, margin: _draw_errors(means, labels, np.zeros(2), margin)
    np.testing.assert_array_equal(still(np.zeros((2, 3)), np.array([0, 1]), 0.0), 1.0)
    np.testing.assert_array_equal(still(np.array([5.0, -5.0]), np.array([1.0, 1.0]), 0.0), 0.5)
    np.testing.assert_array_equal(still(np.array([5.0, -5.0]), np.array([1.0, 1.0]), 1.0), 1.0)


def test_a_prior_mean_has_a_scale_fixed_before():
    """With one, the bound is that of a grid of one scale; a free scale would certify anything (the broken twin)."""
    values, labels, size, *_ = student()
    prior = 0.9 * values
    single = dict(prior=prior, prior_scale=0.1, margins=(0.0,))
    bound = pac_bayes_bound(values, labels, norm=0.1 * size, **single)
    assert bound.scale == pytest.approx(size)
    empirical = gaussian.cdf(-labels * values / 0.1).mean()
    assert bound.empirical == pytest.approx(empirical, abs=1e-12)
    budget = (size**2 / 2 + np.log(2 * np.sqrt(200) / 0.05)) / 200
    assert bound.gibbs == pytest.approx(_largest(empirical, budget), abs=1e-12)
    paid = pac_bayes_bound(values, labels, norm=0.1 * size, choices=10, **single)
    assert paid.gibbs > bound.gibbs
    # f = -f_0 errs everywhere; its own scale says so, however small the norm of the difference is made by 1/s
    wrong = pac_bayes_bound(-labels, labels, norm=2.0, prior=labels, prior_scale=1.0)
    assert wrong.value == 1.0


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_it_covers_where_it_is_tight(margin):
    """One input and one feature: the draw's error is known. Over 4,000 samples the bound fails with probability at most
    delta, and divided by two it fails in most of them: a bound that is wrong by that factor would be noticed."""
    n, share, delta = 400, 0.1, 0.2
    counts, times = np.unique(np.random.default_rng(0).binomial(n, share, 4000), return_counts=True)
    failed = halved = 0
    for count, many in zip(counts, times, strict=True):
        labels = np.where(np.arange(n) < count, -1.0, 1.0)
        bound = pac_bayes_bound(np.ones(n), labels, norm=1.0, delta=delta, margins=(margin,))
        truth = share * gaussian.cdf(margin + bound.scale) + (1 - share) * gaussian.cdf(margin - bound.scale)
        assert share <= truth / gaussian.cdf(margin)  # the student's error, by the error of a draw with a margin
        failed += many * (truth > bound.gibbs)
        halved += many * (truth > bound.gibbs / 2)
    assert binom.sf(failed - 1, 4000, delta) > 1e-3
    assert halved > 0.5 * 4000


def test_the_factor_of_a_margin_is_needed():
    """An error of the student is an error of its draws with probability `Phi(margin)` at least, and no more at zero."""
    for margin in (0.0, 0.5, 2.0):
        errors = _draw_errors(np.zeros(1), np.ones(1), np.ones(1), margin)
        assert errors[0] == pytest.approx(gaussian.cdf(margin))
        errors = _draw_errors(np.zeros((1, 2)), np.zeros(1, int), np.ones(1), margin)  # a tie is an error
        assert errors[0] == pytest.approx(gaussian.cdf(margin))


def test_more_margins_cost_their_logarithm():
    values, labels, size, *_ = student()
    one = pac_bayes_bound(values, labels, norm=size, margins=(1.0,), choices=3)
    assert pac_bayes_bound(values, labels, norm=size, margins=(1.0, 1.0, 1.0)).gibbs == pytest.approx(one.gibbs)
    best = pac_bayes_bound(values, labels, norm=size)
    assert best.value < pac_bayes_bound(values, labels, norm=size, margins=(0.0,)).value
    assert best.value == pytest.approx(best.gibbs / gaussian.cdf(best.margin))


@pytest.mark.parametrize("classes", [None, 4])
def test_slopes_of_the_errors(classes):
    """By central differences: an error of one part in a million would be noticed."""
    generator, n = np.random.default_rng(0), 6
    means = generator.normal(size=n if classes is None else (n, classes))
    labels = np.where(np.arange(n) % 2, 1.0, -1.0) if classes is None else np.arange(n) % classes
    error = lambda means: _draw_errors(means, labels, np.ones(n), 0.5).sum()
    slopes = _error_slopes(means, labels, np.ones(n), 0.5)
    for place in np.ndindex(means.shape):
        step = np.zeros(means.shape)
        step[place] = 1e-5
        assert (error(means + step) - error(means - step)) / 2e-5 == pytest.approx(slopes[place], rel=1e-6, abs=1e-9)


def test_the_student_of_the_least_certificate():
    """Better than every ridge student, and its certificate is the one that its own values have."""
    values, labels, size, x, _ = student()
    gram = np.exp(-((x[:, None] - x) ** 2))
    ridge = []
    for strength in np.geomspace(0.01, 100, 20):
        coefficients = np.linalg.solve(gram + strength * np.eye(200), labels)
        ridge.append(
            pac_bayes_bound(gram @ coefficients, labels, norm=np.sqrt(coefficients @ gram @ coefficients)).value
        )
    found = least_certificate(gram, labels)
    assert found.bound.value < min(ridge)
    again = pac_bayes_bound(gram @ found.coefficients, labels, norm=found.norm)
    assert again.value == pytest.approx(found.bound.value, rel=1e-9)
    prior = 0.5 * np.tanh(3 * x)
    led = least_certificate(gram, labels, prior=prior, prior_scales=(0.3, 1.0))
    values = prior + gram @ led.coefficients
    again = pac_bayes_bound(values, labels, norm=led.norm, prior=prior, prior_scale=led.prior_scale, choices=2)
    assert again.value == pytest.approx(led.bound.value, rel=1e-9)
    assert led.bound.value < found.bound.value


def test_the_student_of_several_classes_and_equal_examples():
    """A Gram without an inverse (each example twice), three classes: below the ridge students' certificates."""
    generator = np.random.default_rng(0)
    x = np.repeat(generator.uniform(-2, 2, 100), 2)
    labels = np.digitize(x, [-0.7, 0.7])
    gram = np.exp(-((x[:, None] - x) ** 2))
    found = least_certificate(gram, labels)
    coefficients = np.linalg.solve(gram + np.eye(200), np.eye(3)[labels] - 1 / 3)
    norm = np.sqrt(np.sum(coefficients * (gram @ coefficients)))
    assert found.bound.value < pac_bayes_bound(gram @ coefficients, labels, norm=norm).value < 1
    assert ((gram @ found.coefficients).argmax(1) == labels).mean() > 0.9


def test_labels_that_leave_it_open_are_asked_about():
    gram = np.eye(20)
    with pytest.raises(ValueError, match="labels are all 1"):
        least_certificate(gram, np.ones(20))
    assert least_certificate(gram, np.ones(20), prior=np.zeros(20), steps=2).coefficients.shape == (20,)
    with pytest.raises(ValueError, match="one scale at least"):
        least_certificate(gram, np.ones(20), prior=np.zeros(20), prior_scales=())


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(norm=0.1), r"at example \d+ the values move by"),
        (dict(norm=0.0), "norm"),
        (dict(delta=1.0), "delta"),
        (dict(labels=np.zeros(200)), "-1 or 1"),
        (dict(diagonal=-1.0), "not negative"),
        (dict(prior=np.zeros(3)), "prior"),
        (dict(choices=0), "choices"),
        (dict(prior_scale=0.0), "prior_scale"),
        (dict(margins=()), "margins"),
        (dict(margins=(-1.0,)), "margins"),
    ],
)
def test_wrong_input(changes, message):
    values, labels, size, *_ = student()
    with pytest.raises(ValueError, match=message):
        pac_bayes_bound(**{"values": values, "labels": labels, "norm": size, **changes})
