"""Notebooks in the committed form: what is tidied, what is refused, and that a failed run changes nothing."""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from minidiff import notebooks
from minidiff.cli import main
from minidiff.errors import BadInput

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HERE = "/" + "home/ada/course"          # put together here, so that this file names no place on a machine itself


def text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": "t", "metadata": {}, "source": source}


def code(source: str, *outputs: dict[str, Any], count: int | None = 1, **metadata: Any) -> dict[str, Any]:
    return {"cell_type": "code", "id": "c", "metadata": metadata, "source": source, "execution_count": count,
            "outputs": list(outputs)}


def shown(data: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def printed(words: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": words}


def book(*cells: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def save(path: Path, notebook: dict[str, Any]) -> Path:
    path.write_text(json.dumps(notebook))
    return path


def checked(tmp_path: Path, *cells: dict[str, Any]) -> list[str]:
    """What check says of these cells once they are tidied."""
    path = save(tmp_path / "a.ipynb", book(*cells))
    notebooks.tidy(path)
    return notebooks.check(path)


MESSY = book(
    text("# Title\r\n\r\nText  "), text("   "),
    code("print('a')", printed("a\x1b[31mb\x1b[0m\n"), printed("c\n"), printed("oh", "stderr"), execution={"t": 1},
         tags=["keep"]),
    code("x", {"output_type": "execute_result", "execution_count": 2, "metadata": {"image/png": {"alt": "a dot", "needs": 1}},
               "data": {"image/png": PIXEL + "\n", "text/plain": "<Panel>",
                        "application/vnd.jupyter.widget-view+json": {"model_id": "1"}}}, count=2, collapsed=False),
    code("x", shown({"application/vnd.jupyter.widget-view+json": {}, "text/plain": "IntSlider(value=0)"}), count=3),
    code("x", count=4), kernelspec={"name": "ada"}, language_info={"version": "3"},
    widgets={"application/vnd.jupyter.widget-state+json": {"state": {}}})


def test_normalise_keeps_what_a_reader_sees_and_nothing_of_the_machine() -> None:
    before = copy.deepcopy(MESSY)
    clean = notebooks.normalise(MESSY)
    assert MESSY == before, "the argument is left as it is"
    assert clean["metadata"] == {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                                 "language_info": {"name": "python"}}
    title, first, panel, slider, again = clean["cells"]
    assert title["source"] == ["# Title\n", "\n", "Text"]
    assert first["metadata"] == {"tags": ["keep"]} and panel["metadata"] == {}
    assert first["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["ab\n", "c\n"]},
                                {"output_type": "stream", "name": "stderr", "text": ["oh"]}]
    assert panel["outputs"] == [{"output_type": "execute_result", "execution_count": 2,
                                 "metadata": {"image/png": {"alt": "a dot"}},
                                 "data": {"image/png": PIXEL, "text/plain": ["<Panel>"]}}]
    assert slider["outputs"] == []                    # a bare widget leaves nothing that a page could show
    assert len({cell["id"] for cell in clean["cells"]}) == 5 and again["id"].endswith("-3")
    nbformat.validate(nbformat.from_dict(clean))


def test_normalise_twice_is_once_and_ids_follow_the_text() -> None:
    clean = notebooks.normalise(MESSY)
    assert notebooks.normalise(clean) == clean
    longer = notebooks.normalise(book(text("new first cell"), *MESSY["cells"]))
    assert [c["id"] for c in longer["cells"][1:]] == [c["id"] for c in clean["cells"]], "an inserted cell renames no other"


def test_the_form_is_the_one_that_jupyter_saves(tmp_path: Path) -> None:
    """Saving in JupyterLab and tidying gives no difference: nbformat writes the same text, but for what we remove."""
    path = save(tmp_path / "a.ipynb", MESSY)
    assert notebooks.tidy(path) and not notebooks.tidy(path)
    ours = path.read_text()
    assert nbformat.writes(nbformat.reads(ours, as_version=4)) + "\n" == ours


GOOD = [text("Words."), code("1 + 1", printed("2\n"))]


def test_a_good_notebook_has_no_problems(tmp_path: Path) -> None:
    assert checked(tmp_path, *GOOD) == []
    assert checked(tmp_path, text("![a cat](a.png)"), code("x", shown({"image/png": PIXEL}, **{"image/png": {"alt": "a"}}))) == []
    assert checked(tmp_path, code("# NBVAL_IGNORE_OUTPUT\nx"), code("f('../work/a')  # https://a.org/tmp/x", count=2)) == []


@pytest.mark.parametrize(("cell", "said"), [
    (code("x", printed("no", "stderr")), "wrote to stderr: 'no'"),
    (code("x", {"output_type": "error", "ename": "KeyError", "evalue": "'a'", "traceback": []}), "ended in KeyError: 'a'"),
    (code("x", shown({"text/html": "<b>", "text/plain": "b"})), "text/html output"),
    (code("x", shown({"application/javascript": "1"})), "application/javascript output"),
    (code("x", shown({"image/png": PIXEL})), "without alternative text"),
    (code("x", shown({"image/png": PIXEL}, **{"image/png": {"alt": " "}})), "without alternative text"),
    (code("x", printed("saved " + HERE)), "a path of this machine"),
    (code("x", shown({"text/plain": "PosixPath('" + HERE + "')"})), "a path of this machine"),
    (code("open('" + HERE + "')"), "a path of one machine"),
    (text("see " + HERE), "a path of one machine"),
    (text("![](cat.png)"), "without alternative text"),
    (text("<img src='cat.png'>"), "without alternative text"),
    (code("x", printed("a" * 151_000)), "an output of 151 KB"),
    (code("# NBVAL_CHECK_OUTPUT  (stable)"), "no marker that nbval knows"),
    (code("# NBVAL_SKIP"), "leaves the cell untested"),
    (code("x", tags=["raises-exception"]), "leaves the cell untested"),
    (code("x", tags=["nbval-skip"]), "leaves the cell untested"),
    (code("x", count=2), "code cell 1 has execution count 2"),
    (code("x", count=None), "code cell 1 has execution count None"),
])
def test_check_names_each_problem(tmp_path: Path, cell: dict[str, Any], said: str) -> None:
    problems = checked(tmp_path, cell)
    assert len(problems) == 1 and said in problems[0]


def test_check_sees_cells_run_out_of_order_and_a_heavy_notebook(tmp_path: Path) -> None:
    assert "code cell 2 has execution count 3" in checked(tmp_path, code("a"), code("b", count=3), code("c", count=2))[0]
    heavy = [code(f"x{i}", printed("a" * 140_000), count=i) for i in range(1, 9)]
    assert checked(tmp_path, *heavy) == ["1122 KB; at most 1000"]


def test_check_wants_the_committed_form(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ipynb", book(*GOOD))
    assert notebooks.check(path) == ["not in the committed form: run `minidiff notebooks normalise`"]


def test_a_notebook_of_the_course_starts_on_colab_and_explains_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebooks, "COURSE", tmp_path)
    problems = checked(tmp_path, text("a"), code("x"), code("y", count=2))
    assert "first code cell is not" in problems[0] and "0.50 text cells" in problems[1] and len(problems) == 2
    assert checked(tmp_path, text("a"), code(notebooks.SETUP_CELL)) == []


def test_tidying_brings_the_setup_cell_up_to_date(tmp_path: Path) -> None:
    old = notebooks.SETUP_CELL.splitlines()[0] + "\nsomething = 'older'"
    path = save(tmp_path / "a.ipynb", book(code(old), code("something = 'mine'", count=2)))
    assert notebooks.tidy(path) and not notebooks.tidy(path)
    assert ["".join(c["source"]) for c in json.loads(path.read_text())["cells"]] == [notebooks.SETUP_CELL, "something = 'mine'"]


def test_find_takes_files_and_folders_and_refuses_the_rest(tmp_path: Path) -> None:
    second, first = save(tmp_path / "02.ipynb", book()), save(tmp_path / "01.ipynb", book())
    assert notebooks.find([str(tmp_path)]) == [first, second] and notebooks.find([str(second)]) == [second]
    (tmp_path / "x.txt").touch()
    (tmp_path / "empty").mkdir()
    for name in ("x.txt", "none.ipynb", "empty"):
        with pytest.raises(BadInput, match="FILES: got .* expected notebooks"):
            notebooks.find([str(tmp_path / name)])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"nbformat": 3, "cells": []}', '{"nbformat": 4, "cells": 1}'])
def test_a_file_that_is_no_notebook_is_named_and_left(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(content)
    for act in (notebooks.check, notebooks.tidy, notebooks.run):
        with pytest.raises(BadInput, match=r"a\.ipynb.*which cannot be read"):
            act(path)
    assert path.read_text() == content


def test_run_executes_from_the_top_in_the_notebooks_folder(tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_text("here")
    path = save(tmp_path / "a.ipynb", book(text("t"), code("import minidiff\nx = open('word.txt').read()", count=7),
                                           code("print(x)", printed("stale"), count=3)))
    notebooks.run(path)
    cells = json.loads(path.read_text())["cells"]
    assert [c.get("execution_count") for c in cells] == [None, 1, 2]
    assert cells[2]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["here\n"]}]
    assert notebooks.check(path) == []


@pytest.mark.parametrize(("source", "said"), [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    {}['gone']\nout", "KeyError in a widget: 'gone'"),
    ("import time; time.sleep(60)", "timed out"),
    ("import os; os._exit(1)", "Kernel died"),
])
def test_a_run_that_fails_says_where_and_leaves_the_file(tmp_path: Path, source: str, said: str) -> None:
    path = save(tmp_path / "a.ipynb", book(code(source)))
    before = path.read_text()
    with pytest.raises(BadInput, match=said):
        notebooks.run(path, timeout=5)
    assert path.read_text() == before


def test_the_command_gives_zero_when_all_is_well_and_one_when_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.ipynb", book(*GOOD))
    assert main(["notebooks", "check", str(path)]) == 1
    assert main(["notebooks", "normalise", str(path)]) == 0
    assert main(["notebooks", "check", str(path)]) == 0
    assert main(["notebooks", "check", str(tmp_path / "b.ipynb")]) == 2
    said = capsys.readouterr()
    assert "a.ipynb: as it should be" in said.out and "Traceback" not in said.err and said.err.startswith("minidiff: FILES")


@pytest.mark.parametrize("path", sorted(notebooks.COURSE.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_courses_notebooks_are_in_the_committed_form(path: Path) -> None:
    assert notebooks.check(path) == []


def moved_panels(source: str) -> list[str]:
    """The panels that a page moves by program after it has shown them: then run-all does not leave them as the text says."""
    tree = ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.M))
    made = {target.id for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func).split(".")[-1] == "panel" for target in node.targets if isinstance(target, ast.Name)}
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            and node.value.id in made and node.attr in ("set", "draw", "knobs", "button")]


def test_a_page_that_moves_its_panel_is_seen() -> None:
    assert moved_panels("p = show.panel(f, k)\np\np.set(t=3)\nax.set(xlim=1)\nq = panel(f, k)\nq.draw()\nprint(p.text)") == [
        "p.set", "q.draw"]


@pytest.mark.parametrize("path", sorted(notebooks.COURSE.glob("*.ipynb")), ids=lambda path: path.stem)
def test_run_all_leaves_the_panels_as_the_page_describes_them(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert moved_panels("\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")) == []


MANY_OF_ONE = re.compile(r"(?<![\d.,^/-])1 (?:calls|columns|frames|images|networks|pictures|pixels|places|points|prompts|"
                         r"rows|samples|seeds|steps|tenths|things|tokens|words)\b")


def counted_wrongly(notebook: dict[str, Any]) -> list[str]:
    """Outputs and alternative texts that count one thing as many: "1 rows"."""
    said = [json.dumps([o.get("text", ""), o.get("data", {}).get("text/plain", ""), o.get("metadata", {})])
            for cell in notebook["cells"] for o in cell.get("outputs", [])]
    return [found.group() for words in said for found in MANY_OF_ONE.finditer(words)]


def test_one_of_many_is_seen() -> None:
    assert counted_wrongly(book(code("x", printed("1 rows, 11 rows, 1.1 rows, 1 row, 1 is")))) == ["1 rows"]


@pytest.mark.parametrize("path", sorted(notebooks.COURSE.glob("*.ipynb")), ids=lambda path: path.stem)
def test_nothing_is_counted_as_1_things(path: Path) -> None:
    assert counted_wrongly(json.loads(path.read_text(encoding="utf-8"))) == []


def prerequisites(cells: list[dict[str, Any]]) -> list[str]:
    """The lessons that the first cell of a page says one should know, in the row that says it."""
    rows = re.findall(r"^\|[ *]*(?:Before it|You need|needs)[ *]*\|(.*)\|$", "".join(cells[0]["source"]), re.M)
    return [number for row in rows for number in re.findall(r"\b\d\d\b", row.partition("nothing from")[0])]


def test_prerequisites_are_read() -> None:
    row = "| **You need** | 02 or section 4 of 08; nothing from 04 |"
    assert prerequisites([text(f"# 12\n\n| | |\n|---|---|\n{row}\n| Time | 10 |")]) == ["02", "08"]


@pytest.mark.parametrize("path", sorted(notebooks.COURSE.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_page_asks_for_lessons_that_exist_and_come_before_it(path: Path) -> None:
    there = {other.name[:2] for other in notebooks.COURSE.glob("*.ipynb")}
    wanted = prerequisites(json.loads(path.read_text(encoding="utf-8"))["cells"])
    assert set(wanted) <= there and all(number < path.name[:2] for number in wanted)
    assert wanted or path.name[:2] in ("00",), "a lesson after the first one builds on something"
