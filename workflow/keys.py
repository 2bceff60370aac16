"""What each page is made from, as a key: a page is executed again only when its key, or a table it shows, has changed.

A key is a readable JSON file, `_build/SCALE/keys/PAGE.json`: a hash of each file of kdlib that the page's code reaches,
of its code cells, the data, the lock and the executor, and its parameters at this scale. Comments, docstrings and prose
do not count. Snakemake is given that file instead of kdlib and the notebook; it is written only when its content
changes. The key of the last execution is kept beside the executed notebook, and tells why a page is executed again.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path

import yaml

from kdlib.experiments import questions
from kdlib.ledger.chapters import chapters
from kdlib.tools import provenance
from kdlib.tools.files import write_whole

CAMPAIGN_TABLES = ("runs", "along")  # what a campaign leaves; other tables are saved by a page or a benchmark


def notebook_of(page: str) -> Path:
    """The committed notebook of a page."""
    return provenance.ROOT / "book" / f"{page}.ipynb"


def pages() -> list[str]:
    """The notebooks that `_toc.yml` names, in its order."""
    contents = yaml.safe_load((provenance.ROOT / "_toc.yml").read_text())

    def files(entry):
        if isinstance(entry, dict):
            if "file" in entry:
                yield entry["file"].removeprefix("book/")
            entry = list(entry.values())
        if isinstance(entry, list):
            for below in entry:
                yield from files(below)

    first = contents["root"].removeprefix("book/")
    return [name for name in (first, *files(contents)) if notebook_of(name).exists()]


def code(page: str) -> str:
    """The page's code cells, one after the other."""
    return "\n\n".join(provenance.code_cells(notebook_of(page)))


def writes_records(page: str) -> bool:
    """Whether the page checks statements: it opens a ledger."""
    return "Ledger(" in code(page)


def reads_records(page: str) -> bool:
    """Whether the page is made from the records of others: it reaches the ledger, and opens none."""
    ledger = provenance.ROOT / "kdlib" / "ledger"
    return not writes_records(page) and any(ledger in path.parents for path in provenance.reached(notebook_of(page)))


def tables(page: str) -> set[str]:
    """Names of the tables that the page shows, as its calls of `kdlib.experiments` say them."""
    found = set(re.findall(r'\b(?:campaign|published|published_scales)\(\s*"(\w+)"', code(page)))
    return found | (set(questions.TABLES) if "contrasts.of_scales(" in code(page) else set())


def files_shown(page: str, campaign_folder: str | None) -> list[str]:
    """The files of those tables: published ones and, given a folder, those of the campaign there; benchmarks, too."""
    shown = [path for table in tables(page) for path in provenance.ROOT.glob(f"results/*/{table}.csv")]
    if "benchmarks" in code(page):
        shown += provenance.ROOT.glob("benchmarks/results/*.json")
    if "read_answers" in code(page):
        shown += provenance.ROOT.glob("results/*/teachers/*.npz")
    of_campaign = (
        [f"{campaign_folder}/{table}.csv" for table in tables(page) & set(CAMPAIGN_TABLES)] if campaign_folder else []
    )
    return sorted(str(path.relative_to(provenance.ROOT)) for path in shown) + sorted(of_campaign)


def key(notebook: Path, lock: str, parameters: dict | None = None, starts: tuple[str | Path, ...] = ()) -> dict:
    """The key of a notebook; of the code that `starts` reach, if they are given, instead of the notebook's imports."""
    files = [path for path in provenance.reached(*(starts or (notebook,))) if path != notebook]
    found = {str(path.relative_to(provenance.ROOT)): provenance.source_hash(path)[:12] for path in files}
    found["code cells"] = provenance.source_hash(notebook)[:12]
    if provenance.ROOT / "kdlib" / "ledger" / "pages.py" in files:  # it writes the numbers and titles of all chapters
        found["chapters"] = _hash(repr(list(chapters().values())).encode())
    if provenance.ROOT / "kdlib" / "experiments" / "questions.py" in files:
        found["experiments"] = _hash(questions.PLAN.read_bytes())
    found["data"] = _data()
    found["lock"] = _hash((provenance.ROOT / lock).read_bytes())
    found["workflow/execute.py"] = provenance.source_hash(provenance.ROOT / "workflow" / "execute.py")[:12]
    return {**found, "parameters": parameters or {}}


def words(of_pages: list[str]) -> dict[str, str]:
    """Hash of what each committed notebook says, code and prose without outputs: a change is rendered again."""
    found = {}
    for page in of_pages:
        cells = json.loads(notebook_of(page).read_text())["cells"]
        said = [{name: cell[name] for name in ("cell_type", "source", "metadata")} for cell in cells]
        found[page] = _hash(json.dumps(said).encode())
    return found


def keep(path: str, content: dict) -> str:
    """Write `content` as JSON if it is not what the file holds already; return the path."""
    text = json.dumps(content, indent=1) + "\n"
    if not Path(path).exists() or Path(path).read_text() != text:
        write_whole(path, text)
    return path


@lru_cache
def _data() -> str:
    """Hash of all files under `data/`: thirty megabytes, a tenth of a second."""
    digest = hashlib.sha256()
    for path in sorted(path for path in (provenance.ROOT / "data").rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(provenance.ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
