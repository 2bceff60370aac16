"""The book's chapters. `_toc.yml` names them and sets their order; nothing else does.

A chapter's name is that of its notebook. Its number is its place in `_toc.yml`, as on the rendered page; its title is
the notebook's first heading.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

import yaml

from kdlib.tools.provenance import ROOT


@dataclass(frozen=True)
class Chapter:
    """A chapter: its name, the number that the rendered page shows, and its title."""

    name: str
    number: int
    title: str

    @property
    def link(self) -> str:
        """An HTML link to the chapter from another page of the book."""
        return f'<a href="{self.name}.html">{self.number}. {self.title}</a>'


@lru_cache(maxsize=1)
def chapters() -> dict[str, Chapter]:
    """`{name: Chapter}` of all numbered chapters, in order."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    entries = [entry["file"] for part in contents["parts"] if part.get("numbered") for entry in part["chapters"]]
    names = [entry.removeprefix("book/") for entry in entries]
    return {name: Chapter(name, number, _title(name)) for number, name in enumerate(names, start=1)}


def chapter(name: str) -> Chapter:
    """The chapter of this name; ValueError with the names that there are."""
    if name not in chapters():
        raise ValueError(f"no chapter {name!r} in _toc.yml: the chapters are {', '.join(chapters())}")
    return chapters()[name]


def _title(name: str) -> str:
    cells = json.loads((ROOT / "book" / f"{name}.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    heading = re.search(r"^# (.+)$", text, re.M)
    if heading is None:
        raise ValueError(f"book/{name}.ipynb has no title: its first heading must be `# ...`")
    return heading.group(1).strip()
