"""The machinery of the exercises, and that the notebooks hold what the exercises say."""

import ast
import copy
import csv
import io
import json
import math
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from minidiff.course import (
    Mistake,
    call,
    check,
    exercises,
    expect,
    expect_number,
    grade,
    hint,
    solution,
    solution_markdown,
    solve,
)
from minidiff.course.cells import refresh
from minidiff.course.tasks import BEGIN, END, EXERCISES, checks, exercise
from minidiff.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
BOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}


def sources(lesson: str, kind: str) -> list[str]:
    return [c.source for c in nbformat.read(BOOKS[lesson], as_version=4).cells if c.cell_type == kind]


def test_the_first_four_lessons_are_there_with_twenty_exercises():
    assert [*BOOKS][:4] == ["00", "01", "02", "03"]
    assert len(exercises()) >= 20 and {id[:2] for id in exercises()} >= {"00", "01", "02", "03"}


@pytest.mark.parametrize("id", exercises())
def test_stub_and_solution_are_cut_from_one_function(id):
    """By its syntax tree: the stub is the function with ``...`` for a body, the solution the function itself."""
    task = exercises()[id]
    whole, cut = ast.parse(task.source).body[0], ast.parse(task.stub).body[0]
    assert task.test is not None and task.source.count(BEGIN) == task.source.count(END) == 1
    assert "SOLUTION" not in task.stub + task.solution and not any(line != line.rstrip() for line in task.stub.splitlines())
    if task.is_value:
        assert ast.unparse(cut) == f"{task.name} = ..." and solve(task.solution, task.name) == task.answer()
        said = " ".join(line.removeprefix("# ") for line in task.stub.splitlines()[:-1])
        assert said == " ".join(ast.get_docstring(whole).split())
    else:
        assert ast.unparse(cut.args) == ast.unparse(whole.args) and ast.get_docstring(cut) == ast.get_docstring(whole)
        assert ast.unparse(cut.body[1:]) == "..."
        solved = next(node for node in ast.parse(task.solution).body if isinstance(node, ast.FunctionDef))
        assert ast.dump(solved) == ast.dump(whole)


def test_what_cutting_keeps_and_refuses():
    @exercise("98.planted", "A plant", hints=("none",))
    def planted(a, b=2):
        """Two.

        Lines.
        """
        c = a
        ### BEGIN SOLUTION
        return [math.sqrt(x) for x in (b, c)]      # a comment stays
        ### END SOLUTION

    @exercise("98.bare", "No marks", hints=("none",))
    def bare(a):
        return a

    try:
        task = EXERCISES["98.planted"]
        assert task.stub == 'def planted(a, b=2):\n    """Two.\n\n    Lines.\n    """\n    c = a\n    ...'
        assert task.solution.startswith("import math\n\n\ndef planted(a, b=2):") and "# a comment stays" in task.solution
        assert solve(task.solution, "planted")(4) == [math.sqrt(2), 2.0]
        with pytest.raises(BadInput, match="BEGIN SOLUTION"):
            print(EXERCISES["98.bare"].stub)
        with pytest.raises(BadInput, match="decorated"):
            checks(lambda a: a)
    finally:
        del EXERCISES["98.planted"], EXERCISES["98.bare"]


def test_the_cells_of_a_notebook_are_written_anew():
    task, value = exercises()["00.iou"], exercises()["00.forty_of_forty"]
    book = nbformat.v4.new_notebook()
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    old = "<details>\n<summary>Solution: old</summary>\n\nold\n\n</details>"
    book.cells = [code("x = 1"), text("before"), code("def old(a):\n    ..."), code('check("00.iou", old)'),
                  text(f"why\n\n{old}\n\nafter"), code("# ?\nold = ..."), code('check("00.forty_of_forty", old)'), text(old)]
    before = copy.deepcopy(book)
    new = ["".join(cell["source"]) for cell in refresh(book)["cells"]]
    assert book == before
    assert new == ["x = 1", "before", task.stub, 'check("00.iou", iou)', f"why\n\n{solution_markdown(task.id)}\n\nafter",
                   value.stub, 'check("00.forty_of_forty", forty_of_forty)', solution_markdown(value.id)]
    for missing, words in ((2, "stub"), (7, "solution")):
        broken = copy.deepcopy(before)
        del broken.cells[missing]
        with pytest.raises(BadInput, match=words):
            refresh(broken)


@pytest.mark.parametrize("id", exercises())
def test_the_notebook_holds_stub_check_and_solution(id):
    task, code = exercises()[id], sources(id[:2], "code")
    assert task.stub in [c.strip("\n") for c in code], "the stub's cell differs from the exercise"
    assert any(f'check("{id}", {task.name})' in c for c in code), "no cell checks the answer"
    assert any(solution_markdown(id) in m for m in sources(id[:2], "markdown")), "the folded solution differs from the exercise"


def test_a_learners_mistakes_never_stop_the_notebook(capsys):
    def raises(x0):
        y = x0 + 1
        return y.nothing

    result = check("00.to_pixels", raises)
    assert result.state == "wrong" and "line 3" in result.message and "AttributeError" in result.message
    for answer in (3, "text", [], lambda: 0, lambda x: None, torch.zeros(2), object()):
        assert check("00.to_pixels", answer).state != "correct"
    assert "Traceback" not in capsys.readouterr().out
    for stub in (..., None, solve("def f(x):\n    '''doc'''\n    ...", "f"), solve("def f(x): pass", "f")):
        assert check("00.to_pixels", stub).state == "not attempted"

    def later(x):
        raise NotImplementedError

    assert check("00.to_pixels", later).state == "not attempted"


def test_a_cell_that_did_not_run_is_told_from_one_that_was_not_written():
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    try:
        def states(*cells):
            for cell in cells:
                shell.run_cell(cell, store_history=True, silent=False)
            return check("00.to_pixels", shell.user_ns["to_pixels"])

        stub = "def to_pixels(x0):\n    ..."
        assert states("y = 1", stub).state == "not attempted"
        result = states("def to_pixels(x0)\n    return x0", "z = (1")            # the second one is about something else
        assert result.state == "did not run" and result.points == 0
        assert "your cell did not run (line 1: expected ':')" in result.message
        assert states("def to_pixel(x0):\n    return x0", "print(to_pixels)").state == "did not run", "still not mended"
        assert states(stub).state == "not attempted"
    finally:
        InteractiveShell.clear_instance()
    assert check("00.to_pixels", ...).state == "not attempted", "outside a notebook"


def test_what_an_answer_may_do_without_harm(monkeypatch):
    """Each of these once stopped a notebook, spoilt a check for the rest of the session, or was told something untrue."""
    monkeypatch.setattr(sys.modules["minidiff.course.checking"], "LIMIT", 0.5)

    class Nameless(Exception):
        def __str__(self):
            raise ValueError("no words")

    def raises(error):
        def answer(*_):
            raise error
        return answer

    def endless(images):
        while True:
            try:
                images = images + 0
            except Exception:  # noqa: BLE001, S112
                continue

    assert check("00.to_pixels", raises(Nameless())).state == "wrong"
    assert "SystemExit" in check("00.to_pixels", raises(SystemExit(0))).message
    assert check("00.to_pixels", raises(NotImplementedError())).state == "not attempted"
    assert check("00.to_pixels", raises(NotImplementedError("'add' for 'Bool'"))).state == "wrong", "that is torch's own"
    assert "never stops" in check("00.to_pixels", endless).message
    with torch.no_grad():
        assert check("07.straight_through", exercises()["07.straight_through"].answer).state == "correct"
    right = exercises()["09.start"].answer

    def extends(visited, strength):
        out = right(visited, strength)
        visited += [7]
        return out

    assert "changes the list" in check("09.start", extends).message
    assert check("09.start", right).state == "correct"


def test_the_line_of_an_error_is_counted_in_the_answer():
    space, cell = {}, "def helper(x):\n    return x.nothing\n\n\ndef answer(images):\n    y = images\n    return helper(y)"
    exec(compile(cell, "cell", "exec"), space)
    assert "stops in its line 3 with AttributeError" in check("00.to_pixels", space["answer"]).message


def test_an_unknown_exercise_names_the_nearest():
    with pytest.raises(BadInput, match="00.to_pixels"):
        check("00.to_pixel", None)
    with pytest.raises(BadInput):
        check(7, None)


def test_hints_come_one_by_one_and_the_solution_on_request(capsys):
    count = len(exercises()["00.psnr"].hints)
    seen = []
    for _ in range(count + 1):
        hint("00.psnr")
        seen.append(capsys.readouterr().out)
    assert len(set(seen[:count])) == count and seen[0] == seen[count]
    solution("00.psnr")
    assert capsys.readouterr().out.strip() == exercises()["00.psnr"].solution


def test_call_looks_at_what_comes_back():
    x = torch.zeros(3)
    assert call(lambda x: 1, x).item() == 1
    for fn, words in (
        (lambda x: x.add_(1), "in place"),
        (lambda x: x / 0, "NaN"),
        (lambda x: None, "nothing"),
        (lambda x: "text", "str"),
        (lambda x: x[:2] + 1, "shape"),
    ):
        with pytest.raises(Mistake, match=words):
            call(fn, x, shape=(3,))
    with pytest.raises(Mistake, match="torch.float32, but torch.uint8"):
        call(lambda x: x, x, dtype=torch.uint8)
    with pytest.raises(Mistake, match="whole numbers"):
        call(lambda x: [1.0, 2.0], x, dtype=torch.int64)
    assert call(lambda x: torch.ones(2, dtype=torch.int16), x, dtype=torch.int64).tolist() == [1, 1]
    assert call(lambda x: [0.1, 0.2], x, dtype=torch.float64).tolist() == [0.1, 0.2], "numbers of Python are float64"
    table = {"a": [1, 2]}
    for spoil in (lambda t: t["a"].append(3) or 1, lambda t: t.clear() or 1):
        with pytest.raises(Mistake, match="in place"):
            call(spoil, table)
    assert table == {"a": [1, 2]}
    expect(x + 1e-6, x + 0.0 + 1e-6)
    with pytest.raises(Mistake, match="named"):
        expect(x + 1, x + 2, wrong={"named": x + 1})
    with pytest.raises(Mistake, match="off by up to 1"):
        expect(x + 1, x + 2)
    with pytest.raises(Mistake, match="one number"):
        expect_number("three", 3.0, tol=0.1)


def test_grading_a_notebook(tmp_path):
    book = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    task = exercises()["00.psnr"]
    for code in (
        "from minidiff.course import check",
        task.solution,
        'check("00.psnr", psnr)',
        "1 / 0",
        "def iou(a, b):\n    return a.sum()",
        'check("00.iou", iou)',
        'check("00.to_pixels", ...)',
    ):
        book.cells.append(nbformat.v4.new_code_cell(code))
    path = tmp_path / "00_mine.ipynb"
    nbformat.write(book, path)
    before = path.read_bytes()
    result = grade(path)
    assert path.read_bytes() == before
    states = {r.id: r.state for r in result.results}
    assert states["00.psnr"] == "correct" and states["00.iou"] == "wrong" and states["00.to_pixels"] == "not attempted"
    assert set(states) == set(exercises("00")) and result.points == task.points < result.of
    assert json.loads(result.to_json())["points"] == task.points
    lines = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert len(lines) == len(states) and sum(int(line["points"]) for line in lines) == task.points
    for bad in (tmp_path / "none.ipynb", tmp_path):
        with pytest.raises(BadInput):
            grade(bad)
