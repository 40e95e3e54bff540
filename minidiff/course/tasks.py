"""Exercises: one real function each, from which the learner's stub, the folded solution and the instructor's version are cut.

    @exercise("02.v_target", "The target v", hints=("x_t is a rotation.",))
    def v_target(x0, eps, abar):
        \"\"\"What a v-network is trained to predict: (B, C, H, W). abar: (B, 1, 1, 1).\"\"\"
        ### BEGIN SOLUTION
        return abar ** 0.5 * eps - (1 - abar) ** 0.5 * x0
        ### END SOLUTION

    @checks(v_target)
    def _v_target(fn):
        expect(call(fn, x0, eps, abar), ...)

A function without arguments is a question, whose answer is a plain value: the stub is its docstring as a comment and
``name = ...``, the solution ``name = `` what it returns.
"""

from __future__ import annotations

import ast
import dis
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from types import CodeType
from typing import Any

from minidiff.course.rooms import enter, rooms
from minidiff.errors import BadInput, check_choice, require

__all__ = ["BEGIN", "END", "EXERCISES", "Exercise", "checks", "exercise", "exercises", "find", "solve"]

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"      # nbgrader's own


@dataclass(frozen=True)
class Exercise:
    """One exercise. ``answer`` is the solution; ``test(another answer)`` returns when that is right, else raises Mistake."""

    id: str
    title: str
    points: int
    hints: tuple[str, ...]
    answer: Callable
    test: Callable[[Any], None] | None = None

    @property
    def name(self) -> str:
        """What the learner's function or value is called."""
        return self.answer.__name__

    @property
    def is_value(self) -> bool:
        """A question whose answer is a plain value, not a function."""
        return not inspect.signature(self.answer).parameters

    @property
    def source(self) -> str:
        """The instructor's version: the function without its decorator, markers included."""
        return _source(self.answer)

    @property
    def stub(self) -> str:
        """The learner's cell: what stands between the markers is ``...``, and so is a plain value."""
        if self.is_value:
            said = (inspect.getdoc(self.answer) or "").strip()
            return "".join(f"# {line}\n" for line in said.splitlines()) + f"{self.name} = ..."
        head, _, tail = _cut(self.source)
        return f"{head}    ...{tail}"

    @property
    def solution(self) -> str:
        """One right answer, as source that runs by itself: the imports it needs, then the function or the value."""
        head, body, tail = _cut(self.source)
        needed = _imports(self.answer)
        if self.is_value:
            body = re.sub(r"^return (?!.*^return )", f"{self.name} = ", textwrap.dedent(body), flags=re.M | re.S)
            return needed + "\n" * bool(needed) + body
        return needed + "\n\n" * bool(needed) + head + body + tail


EXERCISES: dict[str, Exercise] = {}


def exercise(id: str, title: str, *, hints: tuple[str, ...], points: int = 1) -> Callable[[Callable], Callable]:
    """Register the decorated function, which is the solution, as the exercise ``id``, such as "02.posterior_mean"."""
    require(re.fullmatch(r"\d\d\.[a-z0-9_]+", id) is not None, "id", repr(id), "a lesson and a name", "'02.posterior_mean'")
    require(points >= 1, "points", points, "1 or more")

    def register(answer: Callable) -> Callable:
        EXERCISES[id] = Exercise(id, title, points, tuple(hints), answer)
        return answer

    return register


def checks(answer: Callable) -> Callable[[Callable], Callable]:
    """Register the decorated function as the test of the exercise whose solution is ``answer``."""
    id = next((id for id, e in EXERCISES.items() if e.answer is answer), None)
    require(id is not None, "answer", getattr(answer, "__name__", answer), "a function decorated with @exercise above")

    def register(test: Callable[[Any], None]) -> Callable[[Any], None]:
        EXERCISES[id] = replace(EXERCISES[id], test=test)
        return test

    return register


@cache
def _source(function: Callable) -> str:
    text = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(text).body[0]
    return "\n".join(text.splitlines()[node.lineno - 1:])


def _cut(source: str) -> tuple[str, str, str]:
    """(what stands before the solution, the solution, what stands after it); the lines of the markers are in none of them."""
    parts = re.fullmatch(rf"(.*?\n) *{BEGIN}\n(.*?)\n *{END}(.*)", source, re.S)
    if parts is None:
        raise BadInput("exercise", source.splitlines()[0], f"lines with {BEGIN!r} and {END!r} around its solution")
    return parts.group(1), parts.group(2), parts.group(3)


@cache
def _statements(module: str) -> dict[str, tuple[int, str]]:
    """name -> (0 standard library, 1 other libraries, 2 minidiff; the statement that imports it alone), for one module."""
    found = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            home = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
            for alias in node.names:
                top = (getattr(node, "module", None) or alias.name).split(".")[0]
                group = 0 if top in sys.stdlib_module_names else 2 if top == "minidiff" else 1
                found[alias.asname or alias.name] = (group, ast.unparse(ast.Import([alias])).replace("import ", home, 1))
    return found


def _globals(code: CodeType) -> set[str]:
    """The global names that a function reads, those of its inner functions included."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return own.union(*(_globals(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _imports(function: Callable) -> str:
    """The import statements that a function's body needs, in three groups; empty when it needs none."""
    known = _statements(function.__module__)
    lines = sorted(known[name] for name in _globals(function.__code__) & known.keys())
    groups = ["".join(f"{line}\n" for g, line in lines if g == group) for group in range(3)]
    return "\n".join(group for group in groups if group)


def exercises(lesson: str | None = None) -> dict[str, Exercise]:
    """All exercises, or those of one lesson ("02"), in the order in which they were written."""
    if lesson is not None:
        check_choice("lesson", lesson, rooms())
    enter("exercises", lesson)
    return {id: e for id, e in EXERCISES.items() if lesson is None or id.startswith(f"{lesson}.")}


def find(id: str) -> Exercise:
    """The exercise called ``id``; an unknown id is an error that names the nearest."""
    require(isinstance(id, str), "id", repr(id), "the name of an exercise", "check('02.posterior_mean', posterior_mean)")
    known = exercises(id[:2]) if re.match(r"\d\d\.", id) and id[:2] in rooms() else {}
    if id not in known:
        check_choice("exercise", id, exercises())
    return known[id]


def solve(source: str, name: str) -> Any:
    """Run source text and give back what it calls ``name``."""
    space: dict[str, Any] = {}
    exec(compile(source, f"<{name}>", "exec"), space)
    return space[name]
