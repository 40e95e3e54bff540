"""Pages with every exercise solved: they run from the top, and afterwards any cell may be run again, twice and in any order.

A page takes three times its own time, so that all of them are for a day on which pages changed:
``python -m pytest tests/lessons/test_reruns.py -m visit``. CI runs the cheapest.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from page_kernel import broken_cells

from minidiff.course.assignment import instructors
from minidiff.notebooks import COURSE

PAGES = {path.stem[:2]: path for path in sorted(COURSE.glob("*.ipynb"))}
ALWAYS = ("04",)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [pytest.param(n, marks=() if n in ALWAYS else pytest.mark.visit) for n in PAGES])
def test_a_solved_page_runs_in_any_order(number: str) -> None:
    """The instructor's copy: its check cells fail unless the answer above them is right."""
    book = instructors(json.loads(PAGES[number].read_text(encoding="utf-8")))
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert broken_cells(cells, COURSE, seed=int(number)) == []


def test_a_cell_that_breaks_when_it_runs_again_is_seen(tmp_path: Path) -> None:
    good = ["rows = [1]", "more = [*rows, 2]", "assert more == [1, 2]"]
    assert broken_cells(good, tmp_path) == []
    assert [where.split(" (")[0] for where in broken_cells(["rows = [1]", "rows.pop()"], tmp_path)] == ["backwards, code cell 2"]
    first = broken_cells(["x = 1 / 0", "x"], tmp_path)
    assert [where.split(",")[0] for where in first] == ["from the top", "from the top"] and "ZeroDivisionError" in first[0]
