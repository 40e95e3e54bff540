"""Thirty copies with planted answers, graded by the command: are the points right, and how long does it take?

Called as ``python tests/kit/graded_class.py [OPTION...]`` it writes copies of the course's own lessons, runs ``minidiff grade``
on them with these options of it, and prints for each copy what was planted, the points it must get, the points it got and the
note; then the minutes, and those of a processor. Exit code 0 if every copy got what was planted. On a machine with much other
work ``--timeout 400 --limit 3000`` keep a slow cell from being taken for one that never ends.
"""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from minidiff.course.assignment import students  # noqa: E402
from minidiff.course.cells import CHECK  # noqa: E402
from minidiff.course.tasks import Exercise, exercises  # noqa: E402

__all__ = ["PLANTED", "Copy", "copies", "grade_all"]

LOOP = "while True: pass"
Cells = list[dict[str, Any]]


class Copy(NamedTuple):
    """One copy. name: of its file; planted: in words; want: its points by exercise; note: words of its note."""

    name: str
    planted: str
    want: dict[str, int]
    note: str
    book: dict[str, Any]


def _body(task: Exercise, lines: str) -> str:
    """The cell of an exercise with ``lines`` for a body; of a question, run before its value."""
    if task.is_value:
        return f"{lines}\n{task.name} = 0"
    head = task.solution[:task.solution.index(f"def {task.name}(")]
    return f"{head}def {task.name}(*args, **kwargs):\n    {lines}"


# What an exercise of a copy holds: its cell, and whether it earns its points.
Answer = tuple[Callable[[Exercise], str], bool]
RIGHT: Answer = (lambda task: task.solution, True)
BLANK = (lambda task: task.stub, False)
WRONG = (lambda task: f"{task.name} = -12345" if task.is_value else _body(task, "return -12345.0"), False)
RAISES = (lambda task: _body(task, "raise RuntimeError('no idea')"), False)
SYNTAX = (lambda task: f"def {task.name}(x)\n    return x", False)
KILLS = (lambda task: _body(task, "import os; os._exit(1)"), False)
LOOPS = (lambda task: _body(task, LOOP), False)
EXITS = (lambda task: _body(task, "raise SystemExit"), False)


def _extra(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "id": "planted", "metadata": {}, "source": source, "outputs": [], "execution_count": None}


def _dead_between(cells: Cells, at: int) -> Cells:
    """A cell that ends the kernel before the check at ``at``, and on which that check rests by name."""
    name = re.search(r",\s*(\w+)", cells[at]["source"])[1]
    return [*cells[:at], _extra(f"import os\n{name} = {name}\nos._exit(1)"), *cells[at:]]


def _loop_between(cells: Cells, at: int) -> Cells:
    name = re.search(r",\s*(\w+)", cells[at]["source"])[1]
    return [*cells[:at], _extra(f"import time\n{name} = {name}\nwhile True: time.sleep(1)"), *cells[at:]]


class Planted(NamedTuple):
    """What a copy holds. answer: of the exercise at a place; change: of the cells, before the second check; note: words of it."""

    answer: Callable[[int], Answer]
    change: Callable[[Cells, int], Cells] | None = None
    note: str = ""


PLANTED = {
    "all right": Planted(lambda place: RIGHT),
    "nothing done": Planted(lambda place: BLANK),
    "every second right, the others blank": Planted(lambda place: (RIGHT, BLANK)[place % 2]),
    "every second right, the others wrong": Planted(lambda place: (WRONG, RIGHT)[place % 2]),
    "right, raises, does not parse, in turn": Planted(lambda place: (RIGHT, RAISES, SYNTAX)[place % 3]),
    "right, the first answer kills the kernel": Planted(lambda place: RIGHT if place else KILLS, None, "kernel died"),
    "right, the second answer never ends": Planted(lambda place: RIGHT if place != 1 else LOOPS),
    "right and exits in turn": Planted(lambda place: (RIGHT, EXITS)[place % 2]),
    "right, a cell between kills the kernel": Planted(lambda place: RIGHT, _dead_between, "kernel died"),
    "right, a cell between never ends": Planted(lambda place: RIGHT, _loop_between, "more than"),
}


def copies(count: int = 30) -> Iterator[Copy]:
    """Copies of the lessons in turn, what is planted in turn; file names as a learning platform gives them."""
    books = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for number in range(count):
        path = books[number % len(books)]
        planted = list(PLANTED)[number % len(PLANTED)]
        answer, change, note = PLANTED[planted]
        book = students(json.loads(path.read_text(encoding="utf-8")))
        cells = book["cells"]
        checks = [(i, match[1]) for i, cell in enumerate(cells) if cell["cell_type"] == "code"
                  and (match := CHECK.search(cell["source"]))]
        tasks, want = exercises(path.name[:2]), {}
        for place, (i, id) in enumerate(checks):
            write, earns = answer(place)
            cells[i - 1]["source"] = write(tasks[id])
            want[id] = tasks[id].points * earns
            if answer(place) is LOOPS and tasks[id].is_value:          # the cell itself never ends, not a call of it
                note = "more than"
        if change is not None:
            book["cells"] = change(cells, checks[1][0])
        yield Copy(f"Submission {number:02d} (late)={'äß'[number % 2]}.ipynb", planted, want, note, book)


def grade_all(folder: Path, made: list[Copy], *options: str) -> list[tuple[Copy, dict[str, str], bool]]:
    """Write the copies into ``folder`` and grade them by the command: (copy, its line of the CSV, as planted?)."""
    for copy in made:
        (folder / copy.name).write_text(json.dumps(copy.book), encoding="utf-8")
    command = [sys.executable, "-m", "minidiff", "grade", str(folder), "--csv", *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    rows = {Path(row["file"]).name: row for row in csv.DictReader(io.StringIO(done.stdout))}
    found = []
    for copy in made:
        row = rows.get(copy.name, {})
        same = all(row.get(id) == str(points) for id, points in copy.want.items())
        same &= row.get("points") == str(sum(copy.want.values())) and bool(row.get("note")) == bool(copy.note)
        found.append((copy, row, same and copy.note in row["note"]))
    return found


def main(options: list[str]) -> int:
    """Print the table; 0 if all is as planted."""
    made, start = list(copies()), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        found = grade_all(Path(name), made, *options)
    minutes, spent = (time.monotonic() - start) / 60, resource.getrusage(resource.RUSAGE_CHILDREN)
    for copy, row, same in found:
        wanted = sum(copy.want.values())
        odd = [id for id, points in copy.want.items() if row.get(id) != str(points)]
        print(f"lesson {row.get('lesson', '?')}: {wanted:3d} points planted, {row.get('points', '?'):>3s} given; {copy.planted}"
              + f"; note: {row.get('note')}" * bool(row.get("note")) + ("" if same else f"; NOT AS PLANTED {odd}"))
    wrong = sum(not same for *_, same in found)
    print(f"{len(found)} copies in {minutes:.1f} minutes ({(spent.ru_utime + spent.ru_stime) / 60:.1f} of a processor); "
          f"{wrong} not as planted")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
