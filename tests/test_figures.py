"""The figures that move: their formulas against kdlib, their controls by keyboard, mouse and touch, their static twins.

The formulas run in a real browser, at twenty random settings each; they agree to nine digits (an error of 1e-6 in a
constant of any of them is noticed).
"""

from pathlib import Path

import numpy as np
import pytest

from kdlib.complexity import adjusted_supervision_complexity, data_inefficiency, supervision_complexity
from kdlib.data import CircleTask
from kdlib.dynamics import best_mixture, flow_filter, online_filter, self_distillation_filter
from kdlib.labels import correction_threshold, effective_logits, is_corrected
from kdlib.margin import margin_bound
from kdlib.path import interpolation_path
from kdlib.tools import plots

ROOT = Path(__file__).resolve().parent.parent
STATIC, HTML = ROOT / "book" / "_static", ROOT / "_build" / "html" / "book"
SETTINGS = 20
PAGES = {
    "effective-labels": "wide_limit",
    "agreement": "transfer_risk",
    "norm-and-bound": "bridge",
    "certificate": "supervision_complexity",
    "temperature-square": "temperature_early_stopping",
    "online-filters": "online_distillation",
    "best-mixture": "teachers",
    "self-distillation": "since",
}
STANDS_BESIDE = {
    "effective-labels": "fig-correction",
    "norm-and-bound": "fig-bridge",
    "certificate": "fig-certificates",
    "online-filters": "fig-filters",
    "self-distillation": "fig-every-filter",
}


@pytest.fixture(scope="module")
def formulas(chromium):
    """Call JavaScript with the formulas as `f` and the arguments as `a`."""
    page = chromium.new_page()
    page.add_script_tag(path=STATIC / "formulas.js")
    return lambda code, arguments: page.evaluate(f"a => {{ const f = kd.formulas; return {code}; }}", arguments)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def random_settings(seed):
    draw = np.random.default_rng(seed)
    for _ in range(SETTINGS):
        yield draw


def test_effective_logits(formulas):
    for draw in random_settings(0):
        loss = {
            "soft_ratio": draw.uniform(0.05, 1),
            "temperature": 10 ** draw.uniform(-0.6, 0.9),
            "temperature_scaling": draw.choice(["none", "squared"]).item(),
        }
        logits, labels = draw.normal(scale=3, size=10), draw.choice([-1, 1], 10)
        a = {"z": logits.tolist(), "y": labels.tolist(), **loss}
        rest = "a.soft_ratio, a.temperature, a.temperature_scaling"
        close(
            formulas(f"a.z.map((z, i) => f.effectiveLogit(z, a.y[i], {rest}))", a),
            effective_logits(logits, labels, **loss),
        )
        corrected = formulas(f"a.z.map((z, i) => f.isCorrected(z, a.y[i], {rest}))", a)
        assert corrected == is_corrected(logits, labels, **loss).tolist()
        kept = {name: loss[name] for name in ("temperature", "temperature_scaling")}
        close(formulas("f.correctionThreshold(a.temperature, a.temperature_scaling)", a), correction_threshold(**kept))


def test_paths_of_all_sizes(formulas):
    for k, draw in enumerate(random_settings(1)):
        task = CircleTask(frequencies=int(draw.integers(40, 60)), decay=draw.uniform(0.6, 1.2))
        theta, at = task.sample(12, k), task.sample(5, k + 100)
        features, others, n = task.features(theta), task.features(at), int(draw.integers(1, 13))
        path = interpolation_path(
            features @ features.T, task.teacher(theta), others @ features.T, np.einsum("ij,ij->i", others, others)
        )
        a = {
            "frequencies": task.frequencies, "decay": task.decay, "x": theta.tolist(), "at": at.tolist(), "n": n,
            "y": task.teacher(theta).tolist(),
        }  # fmt: skip
        found = formulas("f.paths(f.circleKernel(a.frequencies, a.decay), a.x, a.y, a.at)(a.n)", a)
        assert found["squaredNorm"] == pytest.approx(path.squared_norm[n - 1], rel=1e-8)
        np.testing.assert_allclose(found["student"], path.predict(n), rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(found["power"], path.power_function(n), rtol=1e-7, atol=1e-7)


def test_the_norm_s_slope_and_the_complexity_term(formulas):
    for draw in random_settings(2):
        norms = np.cumsum(draw.exponential(size=64))
        low, high = sorted(draw.choice(np.arange(2, 65), 2, replace=False).tolist())
        a = {"norms": [norms[low - 1], norms[high - 1]], "sizes": [low, high], "n": high}
        expected = data_inefficiency(np.array([norms, norms]), resamples=2).between([low, high])[0]
        close(formulas("f.inefficiency(a.norms, a.sizes)", a), expected[0])
        gram = np.eye(high) + 0.3
        gram /= gram[0, 0]
        targets = draw.normal(size=high)
        a |= {"norm": supervision_complexity(gram, targets).value, "margin": draw.uniform(0.1, 2)}
        close(
            formulas("f.complexityTerm(a.norm, a.n, a.margin)", a),
            2 * adjusted_supervision_complexity(gram, targets) / a["margin"],
        )


def test_the_best_mixture(formulas):
    for draw in random_settings(3):
        features, others = draw.normal(size=(8, 30)), draw.normal(size=(20, 30))
        gram, cross = features @ features.T, others @ features.T
        labels, truth, ridge = draw.normal(size=8), draw.normal(size=20), 10 ** draw.uniform(-1, 2)
        values, modes = np.linalg.eigh(gram)
        at = cross @ modes
        problem = {
            "eigenvalues": values.tolist(), "coefficients": (modes.T @ labels).tolist(),
            "moments": (at.T @ at / 20)[np.tril_indices(8)].tolist(), "cross": (at.T @ truth / 20).tolist(),
            "truth": float(np.mean(truth**2)),
        }  # fmt: skip
        found = formulas("f.bestMixture(a.problem, a.ridge)", {"problem": problem, "ridge": ridge})
        expected = best_mixture(gram, labels, ridge=ridge, cross=cross, truth=truth)
        close(
            [found["share"], found["risk"], found["teacherRisk"]],
            [expected.share, expected.risk, expected.teacher_risk],
        )


def test_the_margin_bound(formulas):
    for draw in random_settings(4):
        n, norm, unit, delta = 30, draw.uniform(0.1, 5), draw.uniform(0.05, 1), 10 ** draw.uniform(-4, -1)
        values, labels, choices = draw.normal(size=n), draw.choice([-1, 1], n), int(draw.integers(1, 50))
        margins = np.sort(draw.uniform(0.1, 2, 7))
        bound = margin_bound(
            np.eye(n), values, labels, margins=margins, delta=delta, norm=norm, unit=unit, choices=choices,
            constant_diagonal=True,
        )  # fmt: skip
        for i, margin in enumerate(margins):
            a = {"achieved": (values * labels).tolist(), "norm": norm, "o": {
                "margin": margin, "margins": len(margins), "unit": unit, "delta": delta, "choices": choices,
            }}  # fmt: skip
            found = formulas("f.marginBound(a.achieved, a.norm, a.o)", a)
            close(
                [found[key] for key in ("ramp", "complexity", "confidence")],
                [bound.ramp[i], bound.complexity[i], bound.confidence],
            )


def test_complexity_of_two_softened_answers(formulas):
    for draw in random_settings(5):
        correlation, temperature, z = draw.uniform(-0.99, 0.99), 10 ** draw.uniform(-1, 2), draw.normal(size=2)
        a = {"c": correlation, "t": temperature, "z": z.tolist()}
        found = formulas("f.pairComplexity(f.softened(a.z[0], a.t), f.softened(a.z[1], a.t), a.c)", a)
        gram = np.array([[1, correlation], [correlation, 1]])
        close(found, supervision_complexity(gram, np.tanh(z / (2 * temperature))).value)


def test_filters(formulas):
    for draw in random_settings(6):
        x, speed, ridge = 10 ** draw.uniform(-4, 1.5, 6), 10 ** draw.uniform(-1, 1), 10 ** draw.uniform(-2, 2)
        rounds, share = int(draw.integers(1, 40)), draw.uniform(0, 1)
        a = {"x": x.tolist(), "r": speed, "ridge": ridge, "k": rounds, "share": share}
        close(formulas("a.x.map(f.offlineFilter)", a), flow_filter(x, [1.0])[0])
        close(formulas("a.x.map(x => f.onlineFilter(x, a.r))", a), online_filter(x, speed))
        expected = self_distillation_filter(x, ridge=ridge, rounds=rounds, label_share=share)
        close(formulas("a.x.map(x => f.selfDistillationFilter(x, a.ridge, a.k, a.share))", a), expected)
    close(formulas("a.map(x => f.onlineFilter(x, 1))", [0.1, 1.0, 10.0]), online_filter(np.array([0.1, 1.0, 10.0])))


def test_every_formula_is_compared(formulas):
    """What this file does not name, no test has seen."""
    names = formulas("Object.keys(f)", {})
    unseen = [name for name in names if f"f.{name}" not in Path(__file__).read_text()]
    assert unseen == ["sigmoid"]


def test_a_figure_s_data_keep_five_digits_and_close_no_script():
    shown = plots.moving("agreement", {"x": np.array([1 / 3]), "name": "</script>"}, replaces="fig-x").data
    assert '"x":[0.33333]' in shown and shown.count("</script>") == 1 and 'data-replaces="fig-x"' in shown


# --- On the built pages ------------------------------------------------------------------------------------------


@pytest.fixture
def opened(chromium, request):
    """A page with its figure; touch and a phone's width where asked for."""
    name, options = request.param
    context = chromium.new_context(**options)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((HTML / f"{PAGES[name]}.html").as_uri())
    page.wait_for_selector(f".interactive[data-figure={name}].ready")
    yield name, page
    assert errors == []
    context.close()


DESK = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": "dark"}


@pytest.mark.slow
@pytest.mark.parametrize("opened", [(name, DESK) for name in PAGES], ids=PAGES, indirect=True)
def test_controls_by_keyboard(opened):
    """Each slider moves the figure by an arrow key, says its value, and Reset undoes it."""
    name, page = opened
    figure = f".interactive[data-figure={name}]"
    picture = f"document.querySelector('{figure} .interactive-panels').innerHTML"
    sliders = page.query_selector_all(f"{figure} input[type=range]")
    assert sliders
    start = page.evaluate(picture)
    for slider in sliders:  # each alone: with soft labels only (E1) a temperature rightly moves nothing
        said = slider.get_attribute("aria-valuetext")
        slider.focus()
        at_the_end = slider.evaluate("one => one.value === one.max")
        for _ in range(40):
            page.keyboard.press("ArrowLeft" if at_the_end else "ArrowRight")
        assert page.evaluate(picture) != start and slider.get_attribute("aria-valuetext") != said
        page.click(f"{figure} .interactive-reset")
        assert page.evaluate(picture) == start


@pytest.mark.slow
@pytest.mark.parametrize(
    "opened", [("agreement", PHONE), ("online-filters", PHONE)], ids=["agreement", "online-filters"], indirect=True
)
def test_a_figure_is_dragged_by_a_finger(opened):
    name, page = opened
    panel = page.query_selector(f".interactive[data-figure={name}] svg.draggable")
    panel.scroll_into_view_if_needed()
    said = f"document.querySelector('.interactive[data-figure={name}] .interactive-said').textContent"
    before, box = page.evaluate(said), panel.bounding_box()
    page.touchscreen.tap(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    assert page.evaluate(said) != before


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_without_a_script_the_static_figure_is_there(chromium, name):
    """And in print, where one that was folded is opened. One that shows something else is never folded."""
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((HTML / f"{PAGES[name]}.html").as_uri())
    folds = page.get_attribute(f".interactive[data-figure={name}]", "data-replaces")
    static = folds or STANDS_BESIDE[name]
    assert page.is_visible(f"#{static} img") and not page.is_visible(f".interactive[data-figure={name}]")
    context.close()
    page = chromium.new_page()
    page.goto((HTML / f"{PAGES[name]}.html").as_uri())
    page.wait_for_selector(f".interactive[data-figure={name}].ready")
    assert page.is_visible(f"#{static} img") != bool(folds)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.is_visible(f"#{static} img") and not page.is_visible(f".interactive[data-figure={name}]")
    page.close()


@pytest.mark.slow
def test_pages_are_light_enough():
    """A page with its figure's data is below two megabytes, images aside."""
    heavy = {path.name: path.stat().st_size for path in HTML.glob("*.html") if path.stat().st_size > 2e6}
    assert not heavy
