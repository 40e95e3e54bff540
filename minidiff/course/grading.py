"""Points for a notebook: run it from the top and collect what its checks say."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from minidiff.course.checking import RECORD, Result
from minidiff.course.rooms import rooms
from minidiff.course.tasks import exercises
from minidiff.errors import BadInput, require

__all__ = ["Grade", "grade"]

PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "HOME", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "USERPROFILE", "APPDATA",
             "VIRTUAL_ENV", "CONDA_PREFIX")


@dataclass(frozen=True)
class Grade:
    """The points of one notebook, one result for each exercise of its lesson; the last check of an exercise counts."""

    notebook: str
    results: tuple[Result, ...]

    @property
    def points(self) -> int:
        return sum(r.points for r in self.results)

    @property
    def of(self) -> int:
        return sum(r.of for r in self.results)

    def to_json(self) -> str:
        """{"notebook", "points", "of", "results": [{"id", "state", "message", "points", "of"}, ...]}."""
        return json.dumps(
            {"notebook": self.notebook, "points": self.points, "of": self.of, "results": [asdict(r) for r in self.results]},
            indent=1,
        )

    def to_csv(self) -> str:
        """One line for each exercise: notebook, id, state, points, of, message."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["notebook", "id", "state", "points", "of", "message"])
        for r in self.results:
            writer.writerow([self.notebook, r.id, r.state, r.points, r.of, r.message])
        return out.getvalue()


def grade(notebook: str | Path, *, timeout: float = 120.0) -> Grade:
    """Run a learner's notebook from the top, in its own kernel and folder, and add up its points.

    A cell that fails costs its own points only; where the kernel dies or a cell takes more than ``timeout`` seconds, what was
    checked before counts. The notebook's file is not changed, and its code sees no environment variables but those Python needs.
    Raises BadInput when it cannot be read or its name does not begin with a lesson's number.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    path = Path(notebook)
    require(path.is_file(), "notebook", repr(str(notebook)), "the path of a notebook", "grade('notebooks/02_ddpm.ipynb')")
    number = re.match(r"\d\d", path.name)
    require(number is not None and number.group() in rooms(), "notebook", path.name,
            f"a name that begins with a lesson's number: {', '.join(rooms())}", "02_ddpm.ipynb")
    try:
        book = nbformat.read(path, as_version=4)
    except Exception as error:
        raise BadInput("notebook", f"{path.name}, which cannot be read ({error})", "a Jupyter notebook") from None
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.jsonl"
        here = str(Path(__file__).resolve().parents[2])  # the kernel must find this very package
        paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith(("PYTHON", "MINIDIFF_", "OMP_", "LC_"))}
        client = NotebookClient(
            book, timeout=timeout, allow_errors=True, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
        )
        with contextlib.suppress(DeadKernelError, CellTimeoutError):            # what was checked before counts
            client.execute(env=env | {RECORD: str(record), "PYTHONPATH": paths})
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else []
    everything = exercises(number.group())
    last: dict[str, Result] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):              # a line that no check has written counts nothing
            said = json.loads(line)
            task = everything[said["id"]]
            right = said["state"] == "correct"
            last[task.id] = Result(task.id, str(said["state"]), str(said["message"]), task.points * right, task.points)
    results = tuple(
        last.get(id, Result(id, "not attempted", "not attempted yet.", 0, task.points)) for id, task in everything.items()
    )
    return Grade(path.name, results)
