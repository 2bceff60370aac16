"""The whole book as one PDF, `_build/book.pdf`, from the rendered pages: `make pdf`.

A browser prints it, so that formulas, figures and tables are those of the pages. Links between pages lead on inside the
PDF; figures that move are there as they are printed; code stays in the notebooks.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml
from bs4 import BeautifulSoup

from kdlib.tools.provenance import ROOT

HTML = ROOT / "_build" / "html"
LEFT_OUT = ".headerlink, .interactive, .ledger-filter, .code-behind, .copybtn, .map input, script"


def pages() -> list[str]:
    """The names of all pages, in the order of `_toc.yml`."""
    text = (ROOT / "_toc.yml").read_text()
    contents = yaml.safe_load(text)
    return [name.removeprefix("book/") for name in [contents["root"], *re.findall(r"file: (\S+)", text)]]


def whole(names: list[str]) -> str:
    """One HTML page with all articles; ids carry the name of their page."""
    first = BeautifulSoup((HTML / "book" / f"{names[0]}.html").read_text(), "html.parser")
    articles = [article(name, names) for name in names]
    for link in first.head.find_all("link", href=True):
        link["href"] = link["href"].removeprefix("../")
    for script in first.head.find_all("script"):
        source = script.get("src", "")
        if "mathjax" in source.lower() or "MathJax" in (script.string or ""):
            script["src"] = source.removeprefix("../") if source else ""
            if not source:
                del script["src"]
        else:
            script.decompose()
    style = (
        "article { break-before: page; } article:first-of-type { break-before: auto; } body { font-size: 11pt; } "
        "h1, h2, h3 { break-after: avoid; } tr, figure, .check { break-inside: avoid; }"
    )
    return (
        f'<!DOCTYPE html><html data-theme="light">{first.head}<style>{style}</style>'
        f'<body class="bd-article">{"".join(articles)}</body></html>'
    )


def article(name: str, names: list[str]) -> str:
    """The article of one page, its addresses changed so that all can stand on one."""
    page = BeautifulSoup((HTML / "book" / f"{name}.html").read_text(), "html.parser")
    found = page.select_one("article.bd-article")
    if found is None:
        sys.exit(f"{name}.html has no article: run `make book`")
    for node in found.select(LEFT_OUT):
        node.decompose()
    for node in found.find_all(id=True):
        node["id"] = f"{name}--{node['id']}"
    for node in found.select("details.in-print, details.proof-behind"):
        node.summary.decompose()
        node.unwrap()
    for link in found.select("a.number"):  # to code, which is left out
        link.unwrap()
    for link in found.find_all("a", href=True):
        link["href"] = _inside(link["href"], name, names)
    for picture in found.find_all("img", src=True):
        picture["src"] = picture["src"].removeprefix("../")
    found["id"] = f"{name}--"
    return str(found)


def _inside(address: str, name: str, names: list[str]) -> str:
    """An address on the one page."""
    page, _, place = address.partition("#")
    target = page.removesuffix(".html") if page else name
    return f"#{target}--{place}" if target in names else address


def write(target: Path, names: list[str], chromium):
    """Print these pages by a browser that Playwright has started."""
    page_file = HTML / "whole.html"
    page_file.write_text(whole(names))
    page = chromium.new_page()
    try:
        page.goto(page_file.as_uri())
        page.wait_for_function("MathJax.startup && MathJax.startup.promise", timeout=120_000)
        page.evaluate("MathJax.startup.promise")
        number = '<span style="font-size:8px;width:100%;text-align:center" class="pageNumber"></span>'
        page.pdf(
            path=target,
            format="A4",
            margin={side: "17mm" for side in ("top", "bottom", "left", "right")},
            print_background=True,
            outline=True,
            tagged=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=number,
        )
    finally:
        page.close()
        page_file.unlink()


def main():
    """Print the whole book."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT / "tests"))
    import browser

    executable = browser.find()
    if executable is None:
        sys.exit("no browser: run `make browser`, or set CHROMIUM to the executable of a Chromium or Chrome")
    book = ROOT / "_build" / "book.pdf"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=list(browser.FLAGS))
        write(book, pages(), chromium)
        chromium.close()
    print(f"{book.relative_to(ROOT)}: {book.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
