"""Points for notebooks as they are handed in: any name, dead kernels, endless loops; and the assignment that is handed out."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from graded_class import PLANTED, copies
from IPython.core.inputtransformer2 import TransformerManager

from minidiff.cli import main
from minidiff.course import exercises, grade
from minidiff.course.assignment import instructors, students
from minidiff.course.grading import Grade, gradebook, lesson_of
from minidiff.course.slicing import names_in, needed
from minidiff.course.tasks import BEGIN, END
from minidiff.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
LESSONS = sorted({id[:2] for id in exercises()} & {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")})
PSNR, IOU, PIXELS = (exercises()[f"00.{name}"] for name in ("psnr", "iou", "to_pixels"))
START = "from minidiff.course import check\nimport os, time"


def handed_in(path: Path, *cells: str) -> Path:
    book = nbformat.v4.new_notebook(metadata=KERNEL, cells=[nbformat.v4.new_code_cell(code) for code in (START, *cells)])
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    return path


def course(lesson: str) -> dict:
    return json.loads(next((ROOT / "notebooks").glob(f"{lesson}_*.ipynb")).read_text(encoding="utf-8"))


def states(found: Grade) -> dict[str, str]:
    return {r.id[3:]: r.state for r in found.results if r.state != "not attempted"}


def test_a_class_of_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, side by side: what was right counts whatever else the copy does; the report says what happened."""
    right, checked = PSNR.solution, 'check("00.psnr", psnr)'
    folder = tmp_path / "handed in"
    files = {
        "Submission 1 (late).ipynb": (right, checked, "os._exit(1)\ndef iou(a, b): ...", 'check("00.iou", iou)', PIXELS.solution,
                                      'check("00.to_pixels", to_pixels)'),
        "answer kills=final.ipynb": ("def iou(a, b):\n    os._exit(1)", 'check("00.iou", iou)', right, checked),
        "loop_Müller.ipynb": ("time.sleep(10 ** 6)\ndef iou(a, b):\n    return a", 'check("00.iou", iou)', right, checked),
        "01_wrong name.ipynb": ("def iou(a, b):\n    return a.sum()", 'check("00.iou", iou)', right, checked),
    }
    for name, cells in files.items():
        handed_in(folder / name, *cells)
    (folder / "broken.ipynb").write_text("{")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["grade", str(folder), "--csv", "--jobs", "2", "--timeout", "20"]) == 1
    said = capsys.readouterr()
    rows = {Path(row["file"]).name: row for row in csv.DictReader(io.StringIO(said.out))}
    got = {name: (row["lesson"], row["points"], row.get("00.psnr"), row.get("00.to_pixels")) for name, row in rows.items()}
    assert got == {"Submission 1 (late).ipynb": ("00", "2", "1", "1"), "answer kills=final.ipynb": ("00", "1", "1", "0"),
                   "loop_Müller.ipynb": ("00", "1", "1", "0"), "01_wrong name.ipynb": ("00", "1", "1", "0"),
                   "broken.ipynb": ("", "0", "", "")}
    notes = {name: row["note"] for name, row in rows.items()}
    assert "kernel died" in notes["Submission 1 (late).ipynb"] and "kernel died" in notes["answer kills=final.ipynb"]
    assert "more than 20 s" in notes["loop_Müller.ipynb"] and "cannot be read" in notes["broken.ipynb"]
    assert notes["01_wrong name.ipynb"] == "" and said.err.count(" of ") >= 5 and said.err.count(".ipynb: ") == 5
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_grading_that_is_stopped_prints_what_it_has(tmp_path: Path) -> None:
    """Ctrl-C while one copy never ends: its earlier point counts, the copy that is done has its row, the third says why not."""
    right, checked = PSNR.solution, 'check("00.psnr", psnr)'
    handed_in(tmp_path / "in/a.ipynb", right, checked)
    begun, never = tmp_path / "begun", tmp_path / "never"
    loop = f"open({str(begun)!r}, 'w')\ntime.sleep(10 ** 6)\ndef iou(a, b):\n    return a"
    late = f"open({str(never)!r}, 'w')\n{PIXELS.solution}"
    handed_in(tmp_path / "in/b.ipynb", right, checked, loop, 'check("00.iou", iou)', late, 'check("00.to_pixels", to_pixels)')
    handed_in(tmp_path / "in/c.ipynb", right, checked)
    command = [sys.executable, "-m", "minidiff", "grade", str(tmp_path / "in"), "--csv", "--jobs", "1", "--timeout", "5000",
               "--limit", "5000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        while not begun.exists():
            assert running.poll() is None
            time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=120)
    rows = {Path(row["file"]).name: row for row in csv.DictReader(io.StringIO(out))}
    assert {name: row["points"] for name, row in rows.items()} == {"a.ipynb": "1", "b.ipynb": "1", "c.ipynb": "0"}
    assert rows["a.ipynb"]["note"] == "" and "stopped" in rows["b.ipynb"]["note"] and "stopped" in rows["c.ipynb"]["note"]
    assert running.returncode == 1 and not never.exists()


def test_a_kernel_that_does_not_start_costs_no_other_copy_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    import minidiff.course.grading as module
    for name in ("a", "b"):
        handed_in(tmp_path / f"in/{name}.ipynb", PSNR.solution, 'check("00.psnr", psnr)')
    whole = module.grade

    def weak(path: Path, **options: object) -> Grade:
        if path.name == "a.ipynb":
            raise RuntimeError("Kernel died before replying to kernel_info")
        return whole(path, **options)

    monkeypatch.setattr(module, "grade", weak)
    assert main(["grade", str(tmp_path / "in"), "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["points"] for row in rows] == ["0", "1"] and "Kernel died before replying" in rows[0]["note"]


def test_the_thirty_copies_of_the_command_hold_what_they_say() -> None:
    """tests/kit/graded_class.py grades them, in minutes; here, that each lesson and each fault is among them."""
    made = list(copies())
    assert len(made) == len({copy.name for copy in made}) == 30 and {id[:2] for copy in made for id in copy.want} == set(LESSONS)
    for kind in PLANTED:
        mine = [copy for copy in made if copy.planted == kind]
        assert len(mine) == 3 and all((sum(copy.want.values()) > 0) == (kind != "nothing done") for copy in mine)
    for copy in made:
        nbformat.validate(nbformat.from_dict(copy.book))
        assert set(copy.want) == set(exercises(next(iter(copy.want))[:2]))


def test_a_notebook_ends_in_time_and_says_what_did_not(tmp_path: Path) -> None:
    path = handed_in(tmp_path / "x.ipynb", PSNR.solution, 'check("00.psnr", psnr)', "def iou(a, b):\n    time.sleep(10 ** 6)",
                     'check("00.iou", iou)', PIXELS.solution, 'check("00.to_pixels", to_pixels)')
    found = grade(path, limit=30)
    assert states(found) == {"psnr": "correct", "iou": "did not finish"} and "time for the whole notebook was over" in found.note


def test_an_answer_with_a_syntax_error_did_not_run(tmp_path: Path) -> None:
    path = handed_in(tmp_path / "x.ipynb", "def psnr(a, b)\n    return a", 'check("00.psnr", psnr)', "def iou(a, b):\n    ...",
                     'check("00.iou", iou)')
    found = grade(path)
    assert states(found) == {"psnr": "did not run"} and found.points == 0
    assert "your cell did not run (SyntaxError: expected ':'" in next(r.message for r in found.results if r.id == "00.psnr")


def test_a_forged_record_and_what_the_learners_code_can_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN_OF_THE_INSTRUCTOR", "secret")
    forged = json.dumps({"id": "00.psnr", "state": "correct", "message": "", "points": 1000, "of": 10})
    seen = "def iou(a, b):\n    raise ValueError(sorted(os.environ), os.path.expanduser('~'), os.getcwd(), os.listdir())"
    path = handed_in(tmp_path / "x.ipynb", seen, 'check("00.iou", iou)',
                     "with open(os.environ['MINIDIFF_GRADE'], 'a') as f:\n"
                     f"    print({forged!r}, 'no JSON', '[]', sep='\\n', file=f)")
    (tmp_path / "other student.ipynb").write_text("{}")
    assert states(grade(path)) == {"iou": "wrong"}, "a cell that no check needs does not run"
    found = grade(path, whole=True)
    assert found.points == PSNR.points and found.of == sum(e.points for e in exercises("00").values())
    kernel = handed_in(tmp_path / "y.ipynb", 'assert "A_TOKEN_OF_THE_INSTRUCTOR" not in os.environ\n'
                       f'assert os.path.expanduser("~") != {os.path.expanduser("~")!r} and not os.listdir()\n{PSNR.solution}',
                       'check("00.psnr", psnr)')
    assert states(grade(kernel)) == {"psnr": "correct"}


def test_the_lesson_is_found_from_the_checks() -> None:
    assert lesson_of(['check("03.a", a)', "x = 1", "check( '03.b', b)", 'check("00.psnr", psnr)'], "00_x.ipynb") == "03"
    assert lesson_of(["x = 1"], "02_ddpm.ipynb") == "02"
    for sources, name in (([], "mine.ipynb"), (['check("77.x", x)'], "essay.ipynb"), (["x"], "77_mine.ipynb")):
        with pytest.raises(BadInput, match="a check of a lesson of the course"):
            lesson_of(sources, name)


def test_a_gradebook_has_a_line_a_copy_and_no_formula() -> None:
    from minidiff.course.checking import Result
    grades = [Grade("=cmd.ipynb", (Result("00.a", "correct", "", 2, 2),), "00", ""),
              Grade("b", (Result("01.b", "wrong", "", 0, 1),), "01"), Grade("c", (), note="not graded: x")]
    assert gradebook(grades).splitlines() == ["file,lesson,points,of,note,00.a,01.b", "'=cmd.ipynb,00,2,2,,2,", "b,01,0,1,,,0",
                                              "c,,0,0,not graded: x,,"]


USES = "def f(x):\n    return "


@pytest.mark.parametrize(("cells", "want"), [
    (["import torch", "net = 1", "y = net", USES + "torch.sin(x)", "f"], [0, 3]),              # pictures are left out
    (["k = 1", "k = 2", USES + "k * x", "f"], [0, 1, 2]),                                      # all that make it
    ([USES + "g(x)", "def g(x):\n    return x", "f"], [0, 1]),                                 # written before what it calls
    (["rows = []", "rows.append(1)", "other.append(2)", USES + "rows", "f"], [0, 1, 3]),       # changed in place
    (["net = 1", "losses = train(net)", USES + "net", "f"], [0, 1, 2]),                        # handed to a call
    (["d = {}", "d['k'] = 1", "d.x = 2", "def f(x, d=d):\n    return d", "f"], [0, 1, 2, 3]),  # a part of it is set
    (["n = 0", "n += 1", "def f(x):\n    global m\n    m = n", "f"], [0, 1, 2]),
    (["x = 5", "def f(x):\n    y = [x for x in x]\n    return y", "f"], [1]),                  # an x of its own
    (["%matplotlib inline", "from math import *", "def f(:", "z = 3", "f = sin", "f"], [0, 1, 2, 4]),      # cannot be followed
    ([USES + "1", USES + "x", "f", "f = 2"], [0, 1]),                                          # what comes later is left out
])
def test_the_cells_that_a_check_needs(cells: list[str], want: list[int]) -> None:
    target = cells.index("f")
    assert needed(cells, [target]) == sorted([*want, target])


def test_names_of_a_cell() -> None:
    found = names_in("import a.b as c, d.e\nfor i in range(3):\n    c.f(i, key=g[0])\nclass K: pass")
    assert found.makes == {"c", "d", "i", "K"} and found.data == {"i"} and found.touched == {"c", "i", "g"}
    assert {"c", "i", "g", "range"} <= found.reads and not found.always


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_students_notebook_holds_no_solution_and_the_instructors_all(lesson: str) -> None:
    book = course(lesson)
    before = json.dumps(book)
    given, kept = students(book), instructors(book)
    assert json.dumps(book) == before
    for made in (given, kept):
        nbformat.validate(nbformat.from_dict(made))
        assert "<summary>Solution" not in json.dumps(made) and not any(c.get("outputs") for c in made["cells"])
    code = TransformerManager().transform_cell
    for cell in (c for made in (given, kept) for c in made["cells"] if c["cell_type"] == "code"):
        ast.parse(code(cell["source"]))
    text = "\n".join(c["source"] for c in given["cells"])
    assert "SOLUTION" not in text and "HIDDEN" not in text
    answers = [c for c in kept["cells"] if c["metadata"].get("nbgrader", {}).get("solution")]
    tests = [c for c in kept["cells"] if c["metadata"].get("nbgrader", {}).get("grade")]
    tasks = [task for id, task in exercises(lesson).items() if f'check("{id}"' in text]
    assert len(answers) == len(tests) == len(tasks) == len(exercises(lesson))
    assert sum(c["metadata"]["nbgrader"]["points"] for c in tests) == sum(task.points for task in tasks)
    ids = [c["metadata"]["nbgrader"]["grade_id"] for c in answers + tests]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]+", id) for id in ids)
    for task in tasks:
        mine = next(c["source"] for c in answers if c["metadata"]["nbgrader"]["grade_id"] == task.id.replace(".", "_"))
        assert task.stub in text and mine.count(BEGIN) == mine.count(END) == 1
        assert ast.dump(ast.parse(mine).body[-1]) == ast.dump(ast.parse(task.solution).body[-1])
        blank = r"\1# YOUR CODE HERE\n\1raise NotImplementedError()"                # as nbgrader's ClearSolutions writes it
        released = re.sub(rf"^( *){BEGIN}\n.*?{END}$", blank, mine, flags=re.M | re.S)
        secret = [line.strip() for line in task.source.partition(BEGIN)[2].partition(END)[0].splitlines()]
        assert ast.parse(released) and not [x for x in secret if len(x) > 20 and x in released and x not in task.stub]


def test_the_instructors_notebook_gets_all_points_and_the_students_none(tmp_path: Path,
                                                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assignment", "00", "-o", str(tmp_path)]) == 0
    found = {kind: grade(next((tmp_path / kind).rglob("*.ipynb"))) for kind in ("source", "release")}
    assert found["source"].points == found["source"].of == sum(e.points for e in exercises("00").values())
    assert found["source"].note == ""
    assert found["release"].points == 0 and states(found["release"]) == {}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.ipynb")}
    assert main(["assignment", "00", "-o", str(tmp_path)]) == 2
    assert "source/00_welcome/00_welcome.ipynb already" in capsys.readouterr().err
    assert main(["assignment", "99", "-o", str(tmp_path)]) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ipynb")} == before


def test_start_copies_the_notebooks_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    assert main(["start", str(mine)]) == 0
    books = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert [path.name for path in sorted(mine.iterdir())] == [path.name for path in books]
    assert all((mine / path.name).read_bytes() == path.read_bytes() for path in books)
    (mine / books[0].name).write_text("my work")
    (mine / books[1].name).unlink()
    assert main(["start", str(mine)]) == 0
    assert f"1 notebook copied; there already, left as they are: {len(books) - 1}\n" in capsys.readouterr().out
    assert (mine / books[0].name).read_text() == "my work" and (mine / books[1].name).read_bytes() == books[1].read_bytes()
    assert main(["start", str(ROOT / "notebooks")]) == 2
    (tmp_path / "file").write_text("x")
    assert main(["start", str(tmp_path / "file")]) == 2


def test_no_command_for_learners_changes_a_tracked_file(tmp_path: Path) -> None:
    """`git status` before and after, of the commands that only read the course."""
    def tracked() -> str:
        command = ["git", "status", "--porcelain", "--untracked-files=no"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout

    before = tracked()
    run = [sys.executable, "-m", "minidiff"]
    for command in (["start", str(tmp_path / "a")], ["assignment", "01", "-o", str(tmp_path / "b")],
                    ["score", "01.closed_form"], ["notebooks", "check"], ["train"]):
        subprocess.run([*run, *command], cwd=ROOT, capture_output=True, check=True)
    assert tracked() == before
