"""``minidiff start``, ``grade`` and ``assignment``: the course in a learner's and an instructor's hands."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from minidiff.options import number, path, whole

__all__ = ["add_parsers", "assignment", "copies", "grade", "start"]

COURSE = Path(__file__).resolve().parents[1] / "notebooks"


def add_parsers(commands: Any) -> None:
    """Add the three commands to those of ``minidiff``."""
    begin = commands.add_parser("start", help="copy the notebooks to a folder of your own, which git pull never touches")
    begin.add_argument("folder", type=path, metavar="DIR", nargs="?", default="my-course",
                       help="where to (my-course); what is there stays")

    mark = commands.add_parser("grade", help="points for learners' notebooks, whatever the files are called")
    mark.add_argument("files", metavar="FILE", nargs="+", help="notebooks, or folders that are searched for them")
    mark.add_argument("--csv", action="store_true", help="print a line for each copy with the points of each exercise")
    mark.add_argument("--details", action="store_true", help="print CSV with a line for each exercise and what its check said")
    mark.add_argument("--timeout", type=number(0, above=True), default=40.0, help="seconds a cell may take (40)")
    mark.add_argument("--limit", type=number(0, above=True), default=300.0, help="seconds a notebook may take in all (300)")
    mark.add_argument("--jobs", type=whole(1), default=os.cpu_count() or 1, help="notebooks side by side (one a core)")
    mark.add_argument("--whole", action="store_true", help="run every cell, not only what the checks need")

    task = commands.add_parser("assignment", help="a lesson for a class: without solutions, and with them for nbgrader")
    task.add_argument("lesson", metavar="LESSON", help="its number, such as 02")
    task.add_argument("-o", "--out", required=True, type=path, metavar="DIR",
                      help="gets source/ (the instructor's) and release/ (the students')")


def start(given: argparse.Namespace) -> int:
    """Copy every notebook that is not there yet."""
    from minidiff.errors import require
    from minidiff.files import replace
    from minidiff.show import plural
    folder = Path(given.folder)
    books = sorted(COURSE.glob("[0-9]*.ipynb"))
    require(bool(books), "DIR", f"no notebooks in {COURSE}", "a checkout of the course", "pip install --editable . there")
    require(folder.resolve() != COURSE, "DIR", "the folder of the course", "a folder of your own", "minidiff start my-course")
    folder.mkdir(parents=True, exist_ok=True)
    new = [book for book in books if not (folder / book.name).exists()]
    for book in new:
        replace(folder / book.name, book.read_bytes())
    kept = len(books) - len(new)
    print(f"{folder}: {plural(len(new), 'notebook')} copied" + (f"; there already, left as they are: {kept}" if kept else ""))
    print(f"Open them with: jupyter lab {folder}")
    return 0


def copies(names: list[str]) -> list[Path]:
    """The notebooks named, and those below the folders named, hidden folders left out. BadInput for a name that is neither."""
    from minidiff.errors import BadInput
    found: list[Path] = []
    for name in names:
        at = Path(name)
        here = [at] if at.is_file() else sorted(p for p in at.rglob("*.ipynb") if not any(
            part.startswith(".") for part in p.relative_to(at).parts))
        if not here:
            raise BadInput("FILE", repr(name), "a notebook, or a folder that holds some", "minidiff grade handed_in/ --csv")
        found += here
    return found


@contextlib.contextmanager
def _ended_by(stop: Callable[[], None]) -> Iterator[None]:
    """In here the first Ctrl-C or request to end calls ``stop``; the second does what the first used to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def back() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def once(*_: object) -> None:
        back()
        stop()

    for kind in before:
        signal.signal(kind, once)
    try:
        yield
    finally:
        back()


def grade(given: argparse.Namespace) -> int:
    """Grade the copies side by side and print; 1 if one of them could not be graded at all, else 0.

    Stopped by Ctrl-C, it prints what it has: each copy keeps the points that it had until then.
    """
    from minidiff.course.grading import Grade, Stop, gradebook
    from minidiff.course.grading import grade as points
    from minidiff.course.rooms import enter
    from minidiff.errors import BadInput
    paths = copies(given.files)
    enter("exercises")
    if given.jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")

    stop = Stop()

    def one(copy: Path) -> Grade:
        if stop.asked:
            return Grade(str(copy), (), note="not graded: the grading was stopped")
        try:
            found = points(copy, timeout=given.timeout, limit=given.limit, whole=given.whole, stop=stop)
        except BadInput as error:
            found = Grade(str(copy), (), note=f"not graded: {error}")
        except Exception as error:  # noqa: BLE001  such as a kernel that does not start: the other copies have their points
            found = Grade(str(copy), (), note=f"not graded: {type(error).__name__}: {error}")
        found = Grade(str(copy), found.results, found.lesson, found.note)
        print(f"{copy}: {found.points} of {found.of}" + (f" ({found.note})" if found.note else ""), file=sys.stderr, flush=True)
        return found

    with _ended_by(stop), ThreadPoolExecutor(given.jobs) as pool:
        grades = list(pool.map(one, paths))
    if given.csv or given.details:
        text = gradebook(grades) if given.csv else "".join(
            g.to_csv() if i == 0 else g.to_csv().partition("\n")[2] for i, g in enumerate(grades))
        print(text, end="")
    else:
        for g in grades:
            print(f"\n{g.notebook}: lesson {g.lesson or '?'}, {g.points} of {g.of} points")
            print(f"  note: {g.note}\n" * bool(g.note), end="")
            for r in g.results:
                said = "" if r.state in ("correct", "not attempted") else f". {r.message}"
                print(f"  {r.points}/{r.of}  {r.id}: {r.state}{said}")
    return int(stop.asked or any(not g.results for g in grades))


def assignment(given: argparse.Namespace) -> int:
    """Write both notebooks and say where they are."""
    from minidiff.course.assignment import assignment
    source, release = assignment(given.lesson, given.out)
    print(f"for the instructor, with solutions: {source}\nfor the students: {release}")
    return 0
