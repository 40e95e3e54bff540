"""Points for a notebook: run what its checks need and collect what they say."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
import signal
import site
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minidiff.course.checking import RECORD, Result
from minidiff.course.rooms import rooms
from minidiff.course.slicing import needed
from minidiff.course.tasks import Exercise, exercises
from minidiff.errors import BadInput, require

__all__ = ["CSV_HEAD", "Grade", "Stop", "grade", "gradebook", "lesson_of"]

KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH",
        "MINIDIFF_DATA", "MINIDIFF_PRECISION", "OMP_NUM_THREADS")
CHECK = re.compile(r"""\bcheck\(\s*["'](\d\d)\.(\w+)["']""")
UNFINISHED, STOPPED = "did not finish", "the grading was stopped"
CSV_HEAD = ["file", "lesson", "points", "of", "note"]


class Stop:
    """Ends gradings from outside, from a signal's handler too: ``stop()`` kills their kernels, and no new one is started.

    What was checked before keeps its points. One object may be given to many gradings; ``asked``: whether it was called.
    """

    def __init__(self) -> None:
        self.asked = False
        self.clients: set[Any] = set()

    def __call__(self) -> None:
        self.asked = True
        for client in list(self.clients):
            pid = getattr(getattr(client.km, "provisioner", None), "pid", None)
            if pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


@dataclass(frozen=True)
class Grade:
    """The points of one notebook, one result for each exercise of its lesson; the last check of an exercise counts.

    note: what an instructor should know: a kernel that died, a time limit, a file that cannot be read ("" if nothing).
    """

    notebook: str
    results: tuple[Result, ...]
    lesson: str = ""
    note: str = ""

    @property
    def points(self) -> int:
        return sum(r.points for r in self.results)

    @property
    def of(self) -> int:
        return sum(r.of for r in self.results)

    def to_json(self) -> str:
        """{"notebook", "lesson", "points", "of", "note", "results": [{"id", "state", "message", "points", "of"}, ...]}."""
        return json.dumps({"notebook": self.notebook, "lesson": self.lesson, "points": self.points, "of": self.of,
                           "note": self.note, "results": [asdict(r) for r in self.results]}, indent=1)

    def to_csv(self) -> str:
        """One line for each exercise: notebook, id, state, points, of, message."""
        lines = [[self.notebook, r.id, r.state, r.points, r.of, r.message] for r in self.results]
        return _csv([["notebook", "id", "state", "points", "of", "message"], *lines])


def _csv(rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[_plain(value) for value in row] for row in rows])
    return out.getvalue()


def _plain(value: object) -> object:
    """A text that no spreadsheet takes for a formula: file names and messages are the learners' own."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t" and value[:1] else value


def gradebook(grades: Iterable[Grade]) -> str:
    """CSV with one line for each copy: file, lesson, points, of, note, then the points of each exercise by id."""
    grades = list(grades)
    ids = sorted({r.id for g in grades for r in g.results})
    lines = []
    for g in grades:
        points = {r.id: r.points for r in g.results}
        lines.append([g.notebook, g.lesson, g.points, g.of, g.note, *(points.get(id, "") for id in ids)])
    return _csv([[*CSV_HEAD, *ids], *lines])


def lesson_of(sources: Iterable[str], name: str = "") -> str:
    """The number of the lesson that most checks in the code cells belong to; without a check, the one a file name begins with.

    Raises BadInput where neither names a lesson of the course.
    """
    counts = Counter(number for source in sources for number, _ in CHECK.findall(source) if number in rooms())
    number = counts.most_common(1)[0][0] if counts else name[:2]
    require(number in rooms(), "notebook", name, f"a notebook with a check of a lesson of the course ({', '.join(rooms())})",
            'check("02.v_target", v_target)')
    return number


def _environment(folder: Path) -> dict[str, str]:
    """What a learner's code may see: where Python and this package are, and a home of its own."""
    here = str(Path(__file__).resolve().parents[2])                 # the kernel must find this very package
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    homes = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA"), str(folder / "home"))
    return {k: os.environ[k] for k in KEPT if k in os.environ} | homes | {
        "PYTHONPATH": paths, "PYTHONUSERBASE": site.getuserbase(), RECORD: str(folder / "record.jsonl")}


def _run(cells: list[Any], wanted: list[int], *, client: Callable[..., Any], env: dict[str, str], ends: float,
         timeout: float, stop: Stop) -> tuple[int | None, str]:
    """Run the cells ``wanted`` in a new kernel. Returns (the cell that stopped it or None, why)."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    running = client()
    with _listed(running, stop), running.setup_kernel(env=env, stderr=subprocess.DEVNULL):
        for i in wanted:
            if stop.asked:
                return i, STOPPED
            left = ends - time.monotonic()
            if left <= 0:
                return i, "the time for the whole notebook was over"
            running.timeout = math.ceil(min(timeout, left))
            try:
                running.execute_cell(cells[i], i)
            except CellTimeoutError:
                over = timeout < left
                return i, f"a cell took more than {timeout:g} s" if over else "the time for the whole notebook was over"
            except DeadKernelError:
                return i, STOPPED if stop.asked else "the kernel died"
    return None, ""


@contextlib.contextmanager
def _listed(client: Any, stop: Stop) -> Iterator[None]:
    """In here ``stop`` knows the client."""
    stop.clients.add(client)
    try:
        yield
    finally:
        stop.clients.discard(client)


def grade(notebook: str | Path, *, timeout: float = 40.0, limit: float = 300.0, whole: bool = False,
          stop: Stop | None = None) -> Grade:
    """Run what the checks of a learner's notebook need, in a kernel of its own, and add up the points.

    A cell that fails costs its own points only. Where one kills the kernel or takes more than ``timeout`` seconds, a new kernel
    goes on without it; after ``limit`` seconds in all the notebook ends. What was checked before counts in each case. Only cells
    that a check needs are run (:mod:`minidiff.course.slicing`), all of them with ``whole``. The lesson is found from the checks,
    whatever the file is called. Code runs in an empty folder, with no variables of this process but those Python needs; the
    notebook's file is not changed. ``stop`` ends it from another thread. Raises BadInput when the notebook cannot be read or has
    no check of the course.
    """
    import nbformat
    from nbclient import NotebookClient

    path = Path(notebook)
    require(path.is_file(), "notebook", repr(str(notebook)), "the path of a notebook", "grade('notebooks/02_ddpm.ipynb')")
    try:
        book = nbformat.read(path, as_version=4)
        book.cells = [cell for cell in book.cells if cell.cell_type == "code"]
        sources = [cell.source for cell in book.cells]
        for cell in book.cells:
            cell.outputs = []
    except Exception as error:
        raise BadInput("notebook", f"{path.name}, which cannot be read ({error})", "a Jupyter notebook") from None
    number = lesson_of(sources, path.name)
    everything = exercises(number)
    targets = {i for i, source in enumerate(sources) if any(f"{n}.{id}" in everything for n, id in CHECK.findall(source))}
    notes: list[str] = []
    stop = stop or Stop()
    lost: set[int] = set()
    ends = time.monotonic() + limit
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part in ("home", "work"):
            (folder / part).mkdir()

        def client() -> Any:
            where = {"metadata": {"path": str(folder / "work")}}
            return NotebookClient(book, allow_errors=True, kernel_name="python3", startup_timeout=120,
                                  shutdown_kernel="immediate", resources=where)

        left = set(targets)
        while left and time.monotonic() < ends and not stop.asked:
            wanted = [i for i in (range(len(sources)) if whole else needed(sources, left)) if i not in lost]
            stopped, why = _run(book.cells, wanted, client=client, env=_environment(folder), ends=ends, timeout=timeout,
                                stop=stop)
            if stopped is None:
                break
            notes.append(f"code cell {stopped + 1}: {why}")
            lost.add(stopped)
            left = {i for i in left if i > stopped}
        record = folder / "record.jsonl"
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else []
    unfinished = {f"{n}.{id}" for i in lost & targets for n, id in CHECK.findall(sources[i])}
    results = _results(lines, everything, unfinished, {id: _broken(book.cells, task.name) for id, task in everything.items()})
    return Grade(path.name, results, number, "; ".join(notes))


def _broken(cells: Iterable[Any], name: str) -> str:
    """Why the first cell that is about ``name`` and failed did so; "" where none has."""
    failed = (output for cell in cells if re.search(rf"\b{name}\b", cell.source) for output in cell.outputs
              if output.output_type == "error")
    first = next(failed, None)
    return "" if first is None else f"{first.ename}: {str(first.evalue).partition(chr(10))[0][:160]}"


def _results(lines: Iterable[str], everything: dict[str, Exercise], unfinished: set[str],
             broken: dict[str, str]) -> tuple[Result, ...]:
    """One result for each exercise, from the lines that the checks have written; any other line counts nothing."""
    last: dict[str, Result] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            task = everything[said["id"]]
            right = said["state"] == "correct"
            last[task.id] = Result(task.id, str(said["state"]), str(said["message"]), task.points * right, task.points)
    for id in unfinished - last.keys():
        said = "its check came to no end: the kernel died or the time was over."
        last[id] = Result(id, UNFINISHED, said, 0, everything[id].points)
    for id, task in everything.items():
        state, said = ("did not run", f"your cell did not run ({broken[id]}).") if broken[id] else (
            "not attempted", "not attempted yet.")
        last.setdefault(id, Result(id, state, said, 0, task.points))
    return tuple(last[id] for id in everything)
