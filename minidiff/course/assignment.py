"""A lesson as an assignment: the student's notebook without solutions, the instructor's with them, both cut from the one source.

The instructor's notebook carries nbgrader's markers and metadata (nbgrader 0.9, schema 3), so that `nbgrader generate_assignment`
and `nbgrader autograde` take it as it is; without nbgrader, ``minidiff grade`` gives the points of what comes back.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from minidiff.course.cells import CHECK, FOLDED, refresh
from minidiff.course.rooms import rooms
from minidiff.course.tasks import BEGIN, END, Exercise, find
from minidiff.errors import BadInput, check_choice, require
from minidiff.files import replace

__all__ = ["assignment", "instructors", "students"]

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def _bare(notebook: dict[str, Any]) -> dict[str, Any]:
    """A copy without folded solutions and without outputs; text cells that held nothing else are gone."""
    out = copy.deepcopy(notebook)
    for cell in out["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        else:
            source = FOLDED.sub("", source).strip()
        cell["source"] = source
    out["cells"] = [cell for cell in out["cells"] if cell["source"]]
    return out


def _exercise_cells(notebook: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any], Exercise]]:
    """(cell of the answer, cell of its check, exercise) for every exercise in a notebook."""
    cells = notebook["cells"]
    found = [(i, CHECK.search(cell["source"])) for i, cell in enumerate(cells) if cell["cell_type"] == "code"]
    return [(cells[i - 1], cells[i], find(match[1])) for i, match in found if match]


def students(notebook: dict[str, Any]) -> dict[str, Any]:
    """What is handed out: stubs and checks, no solution, no outputs. notebook: a parsed ``.ipynb``, left as it is."""
    return _bare(refresh(notebook))


def _marked(task: Exercise) -> str:
    """The instructor's cell: a right answer between nbgrader's markers, the imports that it needs above them."""
    if task.is_value:
        *said, value = task.stub.splitlines()
        return "\n".join([*said, value, BEGIN, task.solution, END])
    imports = task.solution.partition(f"def {task.name}(")[0].rstrip()
    return f"{imports}\n\n\n{task.source}" if imports else task.source


def _kept(check: re.Match[str]) -> str:
    """The call of a check, its result kept under the name ``found``: as a line of its own, or within a longer one."""
    alone = not check.string[:check.start()].rpartition("\n")[2].strip()
    return f"found = {check.group()}" if alone else f"(found := {check.group()})"


def instructors(notebook: dict[str, Any]) -> dict[str, Any]:
    """What stays with the instructor: every answer between nbgrader's markers, every check with its points and hidden test."""
    out = _bare(refresh(notebook))
    plain = {"schema_version": 3, "task": False}
    for answer, test, task in _exercise_cells(out):
        name = re.sub(r"\W", "_", task.id)
        answer["source"] = _marked(task)
        answer["metadata"]["nbgrader"] = plain | {"grade": False, "grade_id": name, "locked": False, "solution": True}
        test["source"] = CHECK.sub(_kept, test["source"], count=1) + (
            '\n### BEGIN HIDDEN TESTS\nassert found.state == "correct", found.message\n### END HIDDEN TESTS')
        test["metadata"]["nbgrader"] = plain | {"grade": True, "grade_id": f"check_{name}", "locked": True, "solution": False,
                                                "points": task.points}
    return out


def assignment(lesson: str, folder: str | Path, *, notebooks: Path = NOTEBOOKS) -> tuple[Path, Path]:
    """Write source/NAME/NAME.ipynb (the instructor's) and release/NAME/NAME.ipynb (the students') into ``folder``.

    lesson: its number, "02". Files that are there already are never overwritten: BadInput names the first of them.
    """
    check_choice("LESSON", lesson, rooms())
    path = next(iter(sorted(notebooks.glob(f"{lesson}_*.ipynb"))), None)
    if path is None:
        raise BadInput("LESSON", lesson, f"a lesson with a notebook in {notebooks}", "a checkout of the course")
    book = json.loads(path.read_text(encoding="utf-8"))
    made = [(Path(folder) / kind / path.stem / path.name, cut(book)) for kind, cut in
            (("source", instructors), ("release", students))]
    for where, _ in made:
        require(not where.exists(), "-o", f"a folder that has {where.relative_to(folder)} already", "a folder without it",
                f"-o {Path(folder).name}-2")
    for where, notebook in made:
        where.parent.mkdir(parents=True, exist_ok=True)
        replace(where, json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    return made[0][0], made[1][0]
