"""The cells of an exercise in a notebook: stub, check and folded solution, brought up to date from the exercise's source."""

from __future__ import annotations

import copy
import re
from typing import Any

from minidiff.course.checking import solution_markdown
from minidiff.course.tasks import find
from minidiff.errors import BadInput

__all__ = ["refresh"]

CHECK = re.compile(r'check\("(\d\d\.\w+)", (\w+)\)')
FOLDED = re.compile(r"<details>\s*<summary>Solution: .*?</details>", re.S)


def refresh(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook (a parsed ``.ipynb``) with the cells of its exercises as their source says; the argument is left as it is.

    The stub is the code cell before ``check("02.v_target", v_target)``, the folded solution stands in the next text cell that
    has one. Raises BadInput where one of the two is missing; only ``notebook["cells"]`` is looked at.
    """
    out = copy.deepcopy(notebook)
    cells = out["cells"]
    for i, cell in enumerate(cells):
        source = "".join(cell["source"])
        found = CHECK.search(source) if cell["cell_type"] == "code" else None
        if found is None:
            continue
        task = find(found.group(1))
        if not i or cells[i - 1]["cell_type"] != "code" or not re.search(r"^(def \w+\(|\w+ = \.\.\.)", _text(cells[i - 1]), re.M):
            raise BadInput("FILES", f"no stub before the check of {task.id}", "the stub's cell right before it", task.stub)
        _write(cells[i - 1], task.stub)
        _write(cell, source.replace(found.group(), f'check("{task.id}", {task.name})'))
        folded = next((c for c in cells[i + 1:] if c["cell_type"] == "markdown" and FOLDED.search(_text(c))), None)
        if folded is None:
            raise BadInput("FILES", f"no solution after the check of {task.id}", "a text cell that folds it")
        _write(folded, FOLDED.sub(lambda _, task=task: solution_markdown(task.id), _text(folded), count=1))
    return out


def _text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def _write(cell: dict[str, Any], text: str) -> None:
    cell["source"] = text.splitlines(keepends=True)
