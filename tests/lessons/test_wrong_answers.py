"""Every check against its bank: five or more mistakes rejected by name, honest variants accepted, stub and solution."""

import importlib.util
from pathlib import Path

import pytest

from minidiff.course import check, exercises, solve

BANKS = {path.parent.name[1:3]: path for path in sorted(Path(__file__).parent.glob("l*/wrong_answers.py"))}
ALL = exercises()


def bank(lesson: str):
    spec = importlib.util.spec_from_file_location(f"bank{lesson}", BANKS[lesson])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(table: str):
    for lesson in BANKS:
        for id, cases in getattr(bank(lesson), table).items():
            for name, case in cases.items():
                yield pytest.param(id, case, id=f"{id}-{name}")


@pytest.mark.parametrize("id", ALL)
def test_the_bank_is_large_enough(id):
    module = bank(id[:2])
    assert len(module.WRONG.get(id, {})) >= 5, "at least five mistakes an exercise"
    assert len(module.HONEST.get(id, {})) >= 2, "at least two honest variants an exercise"


@pytest.mark.parametrize("id", ALL)
def test_stub_and_solution(id):
    task = ALL[id]
    assert check(id, solve(task.stub, task.name)).state == "not attempted"
    result = check(id, solve(task.solution, task.name))
    assert result.state == "correct", result.message
    assert result.points == task.points > 0 and task.hints and task.title


@pytest.mark.parametrize("id,case", list(entries("WRONG")))
def test_mistakes_are_rejected_by_name(id, case):
    """A case is (answer, words that the message must hold)."""
    answer, words = case
    result = check(id, answer)
    assert result.state == "wrong", "a wrong answer was accepted"
    assert words.lower() in result.message.lower(), f"the message is {result.message!r}"


@pytest.mark.parametrize("id,case", list(entries("HONEST")))
def test_honest_variants_are_accepted(id, case):
    result = check(id, case)
    assert result.state == "correct", result.message
