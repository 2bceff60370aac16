"""A page of two notebooks: prose and code from the committed one, outputs from the executed one."""

from __future__ import annotations

from pathlib import Path

import nbformat

from kdlib.tools.provenance import cell_hash


class OutOfDate(ValueError):
    """The committed notebook has other code than the executed one."""


def with_outputs(committed: Path, executed: Path) -> nbformat.NotebookNode:
    """The committed notebook with the outputs of the executed one, cell by cell; OutOfDate if its code is another.

    A cell with the parameters of a scale, which papermill adds, comes along: what stands below was made with those.
    """
    page, ran = nbformat.read(committed, as_version=4), nbformat.read(executed, as_version=4)
    given = [cell for cell in ran.cells if is_given(cell)]
    done = [cell for cell in ran.cells if cell.cell_type == "code" and not is_given(cell)]
    cells = [cell for cell in page.cells if cell.cell_type == "code"]
    if [cell_hash(cell.source) for cell in cells] != [cell_hash(cell.source) for cell in done]:
        raise OutOfDate(f"{committed.name}: its code is not what was executed; execute it again (`make book`)")
    for cell, of in zip(cells, done, strict=True):
        cell.outputs, cell.execution_count = of.outputs, of.execution_count
    if given:
        place = next(k for k, cell in enumerate(page.cells) if "parameters" in cell.metadata.get("tags", []))
        page.cells[place + 1 : place + 1] = given
    return page


def is_given(cell: nbformat.NotebookNode) -> bool:
    """Whether papermill has put this cell there, with parameters."""
    return "injected-parameters" in cell.metadata.get("tags", [])
