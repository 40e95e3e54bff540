"""One folder a lesson: the rooms it needs, its notebook beside it, and a front door with exactly what the notebook asks for."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from minidiff.course import claims, exercises, rooms

ROOT = Path(__file__).resolve().parents[2]
LESSONS = ROOT / "minidiff" / "lessons"
FOLDERS = sorted(path for path in LESSONS.iterdir() if path.is_dir() and path.name != "__pycache__")
NEEDED = {"__init__.py", "exercises.py", "panels.py", "claims.py"}
ALLOWED = NEEDED | {"toys.py", "data.py"}


def imported_by_the_notebook(folder: Path) -> set[str]:
    """The names that cells of the lesson's notebook import from its package."""
    book = json.loads((ROOT / "notebooks" / f"{folder.name[1:]}.ipynb").read_text(encoding="utf-8"))
    found: set[str] = set()
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"])
            for names in re.findall(rf"from minidiff\.lessons\.{folder.name} import (\([^)]*\)|[^#\n]*)", lines):
                found |= {name.split(" as ")[0].strip() for name in names.strip("()").replace("\n", " ").split(",")} - {""}
            assert not re.search(rf"minidiff\.lessons\.(?!{folder.name} import)", lines), "through the lesson's front door only"
    return found


def test_the_folders_are_the_lessons() -> None:
    assert [f"minidiff.lessons.{folder.name}" for folder in FOLDERS] == list(rooms().values())
    assert {path.name for path in LESSONS.iterdir()} - {"__pycache__"} == {"__init__.py", *(folder.name for folder in FOLDERS)}
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == {folder.name[1:] for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_lesson_has_its_rooms_and_no_more(folder: Path) -> None:
    assert re.fullmatch(r"l\d\d_[a-z0-9_]+", folder.name)
    held = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert NEEDED <= held <= ALLOWED
    tests = ROOT / "tests" / "lessons" / folder.name
    assert (tests / "wrong_answers.py").is_file() and list(tests.glob("test_*.py"))
    number = folder.name[1:3]
    assert exercises(number) and any(id.startswith(f"{number}.") for id in claims())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_front_door_gives_what_the_notebook_imports(folder: Path) -> None:
    module = importlib.import_module(f"minidiff.lessons.{folder.name}")
    assert sorted(module.__all__) == module.__all__ and set(module.__all__) == imported_by_the_notebook(folder)
    assert all(hasattr(module, name) for name in module.__all__)


def test_no_file_is_the_rest_of_another() -> None:
    """A module is cut by subject: no ``_more``, no ``_b``, no ``part2``."""
    for path in [*(ROOT / "minidiff").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert not re.search(r"(_more|_rest|_b|_c|_?part_?\d|_?\d+)$", path.stem), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").endswith("_more"), path
