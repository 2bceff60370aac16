"""The rendered pages as a reader meets them: what folds and what opens, names, notes, the ledger, the map, the PDF."""

import re

import pytest
from browser import contrast
from bs4 import BeautifulSoup

from kdlib.ledger import STATEMENTS, read_records
from kdlib.tools.files import read_rows
from kdlib.tools.provenance import ROOT
from workflow import pdf

HTML = ROOT / "_build" / "html" / "book"
RECORDS = ROOT / "_build" / "quick" / "records"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def articles():
    """`{page: its article, parsed}`."""
    pages = {path.stem: BeautifulSoup(path.read_text(), "html.parser") for path in sorted(HTML.glob("*.html"))}
    return {name: page.select_one("article.bd-article") for name, page in pages.items()}


@pytest.fixture
def at(chromium):
    """Open a page at an address, wide and light if nothing else is said; scripts must not fail."""
    contexts, errors = [], []

    def opened(address, **options):
        contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{HTML.as_uri()}/{address}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def test_about_a_dozen_cells_stand_open(articles):
    standing = [
        (name, cell.get_text()[:40])
        for name, article in articles.items()
        for cell in article.select(".cell_input")
        if not cell.find_parent("details")
    ]
    assert 10 <= len(standing) <= 18, standing
    assert sum(len(article.select("details.code-behind .cell_input")) for article in articles.values()) > 250


def test_every_check_is_one_line_with_an_address_of_its_own(articles):
    records = [record for record in read_records(RECORDS) if record.kind != "evidence"]
    for name in {record.chapter for record in records}:
        cards = [card["id"] for card in articles[name].select("details.check[id]")]
        own = [record for record in records if record.chapter == name]
        assert len(set(cards)) == len(cards) == len(own), name


def test_a_statement_has_one_name_and_leads_to_its_checks(articles):
    for statement in STATEMENTS.values():
        box = articles[statement.chapter].find(id=statement.id.lower())
        assert box.select_one(f'a[href$="ledger.html#ledger-{statement.id.lower()}"]'), statement.id
    for name, article in articles.items():
        for link in article.find_all("a", href=re.compile(r"#[a-z]\d$")):
            assert not re.match(r"(Theorem|Definition) \d", link.get_text()), (name, link)


def test_a_number_leads_to_its_code_and_the_code_to_its_run(articles, at):
    seen = 0
    for name, article in articles.items():
        for number in article.select("span.pasted-text"):
            link = number.find_parent("a", class_="number")
            assert link, (name, number)
            source = article.find(id=link["href"].removeprefix("#"))
            assert "glue(" in source.get_text(), (name, number)
            around = source.find_parent("details") or source.find_parent(class_="cell")
            assert around.select_one('a[href="ledger.html#the-run"]'), (name, number)
            seen += 1
    assert seen > 250 and articles["ledger"].find(id="the-run")
    page = at("transfer_risk.html")
    number = page.locator("a.number").first
    bar = page.locator(f"details:has({number.get_attribute('href')})")
    assert not bar.evaluate("bar => bar.open")
    number.click()
    assert bar.evaluate("bar => bar.open")
    assert bar.locator("a[href^='#check-r']").count()  # the second click
    long = at("teachers.html")  # more code than fits: the line stays in sight
    long.locator("p:has-text('repaired in part') a.number").first.click()
    line = long.locator("details.code-behind[open] > .of-run").bounding_box()
    assert 0 <= line["y"] <= long.viewport_size["height"] - line["height"]


def test_the_end_of_a_bar_leads_to_checks_and_trainings(articles):
    checked = sum(bool(article.select('.of-run a[href^="#check-"]')) for article in articles.values())
    assert checked >= 10
    for name, article in articles.items():
        for link in article.select('.of-run a[href^="#"]'):
            said = article.find(id=link["href"][1:]).select_one("summary strong").get_text()
            assert said == link["aria-label"].partition(": ")[0] and len(link["title"]) > len(said) + 5, name
    of_trainings = lambda name: articles[name].select('.of-run a[href="experiments.html#the-trainings"]')
    assert articles["experiments"].find(id="the-trainings") and articles["ledger"].find(id="the-evidence")
    assert all(map(of_trainings, ("experiments", "choosing", "online_distillation")))
    assert not any(map(of_trainings, ("bridge", "transfer_risk", "index")))
    for name, asked in (("online_distillation", ("x1", "x3", "x4")), ("experiments", ("x1", "x7"))):
        for one in asked:
            assert articles[name].select(f'.of-run a[href="ledger.html#ledger-{one}"]'), name
            assert articles["ledger"].find(id=f"ledger-{one}")


def test_a_number_of_a_committed_table_leads_to_the_table(articles):
    links = articles["supervision_complexity"].select('.of-run a[href*="/tables/standard/"]')
    assert {link.get_text() for link in links} == {"standard/certificates", "standard/certificates_by_size"}
    tables = {link["href"] for name in ("supervision_complexity", "experiments", "engine")
              for link in articles[name].select('a[href*="/tables/"]')}  # fmt: skip
    assert len(tables) >= 4
    told = articles["choosing"].select('.of-run a[href="../_static/tables/core/choice.csv"]')
    assert told and read_rows(HTML / told[0]["href"])
    for table in tables:
        assert {"kdlib", "device"} <= set(read_rows(HTML / table)[0]), table


def test_what_goes_on_to_the_right_is_marked_on_a_phone(at):
    page = at("supervision_complexity.html", viewport={"width": 390, "height": 800})
    table = page.locator(".figure-table.more-right").first.element_handle()
    table.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    page.wait_for_function("box => !box.classList.contains('more-right')", arg=table)
    assert page.locator(".more-right").count()
    # a formula in a line, too, and not for what only a screen reader sees of it
    wide = page.evaluate("""() => [...document.querySelectorAll("mjx-container:not([display])")].map(box => [
        box.querySelector("mjx-math").getBoundingClientRect().width - box.clientWidth > 5,
        box.classList.contains("more-right")])""")
    assert any(marked for _, marked in wide) and all(long == marked for long, marked in wide)


def test_the_first_column_of_a_table_stays_in_sight_on_a_phone(at):
    page = at("supervision_complexity.html", viewport={"width": 390, "height": 800})
    table = page.locator(".figure-table.more-right").first
    name = table.locator("tbody td").first
    before = name.bounding_box()["x"]
    table.evaluate("box => { box.scrollLeft = 100; }")
    assert abs(name.bounding_box()["x"] - before) < 2


def test_panels_stand_below_each_other_on_a_phone(at):
    wide = at("teachers.html")
    assert wide.locator("img[data-whole]:visible").count() >= 3 and not wide.locator(".panel:visible").count()
    page = at("teachers.html", viewport={"width": 390, "height": 800})
    assert not page.locator("img[data-whole]:visible").count()
    panels = page.locator(".panel:visible")
    assert panels.count() >= 6
    for panel in panels.all():
        box = panel.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and 150 < box["height"] < 600
    # nothing is squashed, and every figure says what it shows once
    images = page.locator(".panel img")
    images.first.scroll_into_view_if_needed()
    shape = "one => one.clientWidth / one.clientHeight / (one.naturalWidth / one.naturalHeight)"
    assert abs(images.first.evaluate(shape) - 1) < 0.02
    for figure in page.locator(".panels").all():
        assert [len(text) > 30 for text in figure.locator("img").evaluate_all("all => all.map(one => one.alt)")][0]
        assert len(figure.locator('img:not([alt=""])').all()) == 1


@pytest.mark.parametrize("ending", ["What to take away", "What breaks it", "Exercises"])
def test_a_chapter_of_the_theory_ends_with(articles, ending):
    chapters = {statement.chapter for statement in STATEMENTS.values()} - {"since", "width", "teachers"}
    for name in chapters:
        assert any(ending in heading.get_text() for heading in articles[name].find_all("h2")), (name, ending)


def test_words_of_the_glossary_carry_their_note_once_a_page(articles):
    notes = articles["transfer_risk"].select("a.note")
    assert len(notes) >= 5 and all(len(note["title"]) > 30 for note in notes)
    assert len({note["href"] for note in notes}) == len(notes)
    assert not articles["glossary"].select("a.note")


def test_headings_skip_no_level(articles):
    for name, article in articles.items():
        levels = [int(heading.name[1]) for heading in article.find_all(re.compile(r"^h[1-6]$"))]
        assert levels[0] == 1 and levels.count(1) == 1, name
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), (name, levels)


def test_controls_have_names(at):
    """Sliders, boxes, buttons and searches are labelled for who cannot see them."""
    for name in ("index.html", "ledger.html", "map.html", "wide_limit.html"):
        page = at(name)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('article input, article select, article button')]
                .filter(one => !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim())
                .map(one => one.outerHTML)"""
        )
        assert nameless == [], name


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read(at, theme):
    """Contrast of at least 4.5, as WCAG asks for text."""
    page = at("wide_limit.html", color_scheme=theme)
    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    for what in (".check summary", ".check .facts", ".check .facts b", "a.note", ".code-behind > summary",
                 ".interactive-said", ".interactive-control", ".to-ledger a"):  # fmt: skip
        element = page.query_selector(f"article {what}")
        assert contrast(page, element) >= 4.5, what


def test_the_ledger_is_short_and_shows_what_is_asked_for(at):
    page = at("ledger.html")
    assert page.evaluate("document.documentElement.scrollHeight") < 20_000
    rows = "document.querySelectorAll('.ledger-row:not([hidden])').length"
    everything = page.evaluate(rows)
    assert everything > len(STATEMENTS)
    page.check(".ledger-filter input[value=against]")
    some = page.evaluate(rows)
    assert 0 < some < everything
    states = page.evaluate("[...document.querySelectorAll('.ledger-row:not([hidden])')].map(r => r.dataset.states)")
    assert all("against" in state.split() for state in states)
    page.uncheck(".ledger-filter input[value=against]")
    page.fill(".ledger-filter input[type=search]", "power-function")
    assert 0 < page.evaluate(rows) < 10


def test_an_address_opens_what_it_points_at(at):
    page = at("ledger.html#ledger-r2")
    assert page.evaluate("document.getElementById('ledger-r2').open")
    link = page.query_selector("#ledger-r2 details.check summary")
    link.click()
    page.click("#ledger-r2 details.check a[href*='transfer_risk.html#check-r2']")
    page.wait_for_url("**/transfer_risk.html#check-r2-*")
    assert page.evaluate("document.getElementById(location.hash.slice(1)).open")


def test_the_map_lights_up_what_is_joined(at):
    page = at("map.html")
    page.focus("[data-node=B1]")
    lit = page.evaluate("[...document.querySelectorAll('.map .lit[data-node]')].map(n => n.dataset.node)")
    assert {"B1", "R1", "S1"} <= set(lit) and "W3" not in lit
    page.fill(".map input", "leave_one_out")
    lit = page.evaluate("[...document.querySelectorAll('.map .chosen')].map(n => n.dataset.node)")
    assert lit == ["kdlib.complexity.leave_one_out"]


def test_links_inside_the_pdf_lead_somewhere():
    """Each page's ids are its own, and what linked to another page leads to its place."""
    names = pdf.pages()
    page = BeautifulSoup(pdf.whole(names), "html.parser")
    identities = [node["id"] for node in page.find_all(id=True) if "--" in node["id"]]
    assert len(names) > 20 and {f"{name}--" for name in names} <= set(identities)
    inside = {link["href"][1:] for link in page.select("article a[href^='#']")}
    assert len(inside) > 300 and inside <= set(identities)


def test_the_pdf_is_printed(chromium, tmp_path):
    pdf.write(tmp_path / "book.pdf", ["index", "glossary"], chromium)
    content = (tmp_path / "book.pdf").read_bytes()
    assert content.startswith(b"%PDF") and len(content) > 20_000 and not (HTML.parent / "whole.html").exists()
