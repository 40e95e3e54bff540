"""Every check against its bank: five or more mistakes rejected by name, honest variants accepted, stub and solution."""

import importlib.util
import re
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


def words_of(text: str) -> str:
    """A message without what stands before its first colon, and without its numbers: these differ from case to case."""
    return re.sub(r"\d+", "#", text.split(": ", 1)[-1])


@pytest.mark.parametrize("id", ALL)
def test_every_mistake_that_a_check_can_name_is_in_the_bank(id, monkeypatch):
    """A message that no answer brings about is one that nobody has read; two that stand for the same numbers hide each other."""
    offered, given = set(), set()
    space = ALL[id].test.__globals__
    for name in {"expect", "expect_number"} & space.keys():
        def spy(*args, real=space[name], wrong=None, **kwargs):
            offered.update(words_of(message) for message in wrong or {})
            return real(*args, wrong=wrong, **kwargs)
        monkeypatch.setitem(space, name, spy)
    for answer, _ in bank(id[:2]).WRONG[id].values():
        given.add(words_of(check(id, answer).message.removeprefix("not yet. ")))
    assert offered <= given


@pytest.mark.parametrize("id,case", list(entries("HONEST")))
def test_honest_variants_are_accepted(id, case):
    result = check(id, case)
    assert result.state == "correct", result.message
