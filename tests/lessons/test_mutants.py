"""Every check against mistakes made by machine, and against its own narrowness.

Beside a lesson's wrong answers ``EQUIVALENT`` lists the mutants that are right after all, and ``ONCE`` the arguments and sizes
that may take one value only, each with the reason.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mutants import mutants
from recorder import Recorder

from minidiff.course import check, exercises, solve
from minidiff.course.tasks import Exercise


@cache
def bank(lesson: str) -> ModuleType:
    path = next(Path(__file__).parent.glob(f"l{lesson}_*/wrong_answers.py"))
    spec = importlib.util.spec_from_file_location(f"bank_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(id: str, table: str) -> dict[str, str]:
    return getattr(bank(id[:2]), table, {}).get(id, {})


ALL = exercises()
FUNCTIONS = [id for id, task in ALL.items() if not task.is_value]


def program(task: Exercise) -> str:
    """The solution as a function, below all the imports of its lesson's exercises."""
    nodes = ast.parse(inspect.getsource(sys.modules[task.answer.__module__])).body
    lines = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(lines) + "\n\n" + task.source


def answers(task: Exercise) -> dict[str, Any]:
    """line -> what a mutant with that line answers: a function, or for a question a value other than the right one."""
    found: dict[str, Any] = {}
    for mutant in mutants(program(task), task.name):
        try:
            answer = solve(mutant.source, task.name)
            answer = answer() if task.is_value else answer
        except Exception:  # noqa: BLE001  no answer at all
            continue
        if not (task.is_value and answer == task.answer()):
            found[mutant.line] = answer
    return found


@pytest.mark.parametrize("id", ALL)
def test_every_mutant_is_rejected(id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.modules["minidiff.course.checking"], "LIMIT", 3.0)
    equivalent, passed = listed(id, "EQUIVALENT"), set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                    # mutants divide by zero and convert what is not to be converted
        made = answers(ALL[id])
        for line, answer in made.items():
            if check(id, answer).state != "wrong":
                passed.add(line)
    capsys.readouterr()
    assert len(made) >= (1 if ALL[id].is_value else 5)
    assert passed - equivalent.keys() == set(), "accepted: mend the check, or list them in EQUIVALENT with the reason"
    assert equivalent.keys() - passed == set(), "listed as equivalent, but not made, or rejected"
    assert all(equivalent.values())


@pytest.mark.parametrize("id", FUNCTIONS)
def test_no_argument_and_no_size_takes_one_value_only(id: str) -> None:
    recorder, once = Recorder(), listed(id, "ONCE")
    assert check(id, recorder.watch(ALL[id].answer)).state == "correct"
    narrow = set(recorder.narrow())
    assert narrow - once.keys() == set(), "one value only: give the check another case, or list it in ONCE with the reason"
    assert once.keys() - narrow == set(), "listed, but it takes several values"
