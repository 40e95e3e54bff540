"""What a learner calls: check an answer, ask for a hint, ask for the solution. None of them ever stops a notebook."""

from __future__ import annotations

import ast
import contextlib
import dis
import json
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import FunctionType
from typing import Any

import torch

from minidiff.course.answers import Mistake
from minidiff.course.tasks import Exercise, find

__all__ = ["Result", "check", "hint", "solution", "solution_markdown", "solved", "RECORD"]

LIMIT = 20.0                    # seconds of computing that an answer may take, however busy the machine is
RECORD = "MINIDIFF_GRADE"        # environment variable: file to which every check appends one line of JSON
_HINTS: Counter[str] = Counter()


@dataclass(frozen=True)
class Result:
    """What a check found. state: "correct", "wrong", "not attempted" or "did not run" (the answer's cell has a syntax error)."""

    id: str
    state: str
    message: str
    points: int
    of: int

    def _ipython_display_(self) -> None:
        """Nothing: the line was printed already."""


def check(id: str, answer: Any) -> Result:
    """Check an answer to the exercise ``id`` and print one line: correct, a likely mistake by name, not attempted yet, or that
    the cell of the answer did not run.

    answer: the learner's function, or a number for a question. An unknown id is the only error raised.
    """
    task = find(id)
    state, message = _judge(task, answer)
    if state == "not attempted" and (broken := _broken_cell(task.name)):
        state, message = "did not run", f"your cell did not run ({broken}), so the answer is still the one before it."
    result = Result(id, state, message, task.points if state == "correct" else 0, task.points)
    print(f"{id}: {message}")
    if os.environ.get(RECORD):
        with open(os.environ[RECORD], "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
    return result


def solved(id: str, answer: Any) -> Any:
    """The learner's own answer where it passes its check, otherwise the course's, so that the cells below run either way.

    For a question the number, for an exercise the function. Prints nothing: the check above it has said which it is.
    """
    task = find(id)
    if _judge(task, answer)[0] == "correct":
        return answer
    return task.answer() if task.is_value else task.answer


def _judge(task: Exercise, answer: Any) -> tuple[str, str]:
    if answer is None or answer is Ellipsis or _is_stub(answer):
        return "not attempted", "not attempted yet."
    try:
        with torch.enable_grad(), _time_limit(LIMIT):
            task.test(answer)
    except Mistake as mistake:
        return "wrong", f"not yet. {mistake}"
    except _Late:
        return "wrong", f"not yet. It has not come to an end after {LIMIT:g} seconds; is there a loop that never stops?"
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a learner's code raises
        if isinstance(error, NotImplementedError) and not error.args:           # a stub that says so itself
            return "not attempted", "not attempted yet."
        return "wrong", f"not yet. {_where(answer, error)}"
    return "correct", f"correct ({task.points} point{'s' * (task.points != 1)})."


class _Late(BaseException):
    """Raised in a learner's code when its time is over; no Exception, so that nothing there catches it."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Stop the block after so many seconds of computing; without an alarm (Windows, another thread) it runs on."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _is_stub(answer: Any) -> bool:
    """A function whose body is nothing but a docstring, ``...`` or ``pass``."""
    if not isinstance(answer, FunctionType):
        return False
    code = answer.__code__
    doc = (answer.__doc__,) if answer.__doc__ else ()
    return (not code.co_names and code.co_nlocals == code.co_argcount + code.co_kwonlyargcount
            and set(code.co_consts) <= {None, Ellipsis, *doc}
            and not any(step.opname.startswith("LOAD_FAST") for step in dis.get_instructions(code)))


def _broken_cell(name: str) -> str:
    """The syntax error of the newest cell of this notebook that is about ``name``; "" where there is none, or no notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    for cell in reversed(shell.user_ns.get("In", []) if shell else []):
        if not re.search(rf"\b{name}\b", cell):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = compile(cell, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except (SyntaxError, ValueError) as error:
            return f"line {getattr(error, 'lineno', None) or 1}: {getattr(error, 'msg', error)}"
        if any(getattr(node, "name", None) == name or isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
               and node.id == name for node in ast.walk(tree)):
            return ""
    return ""


def _where(answer: Any, error: BaseException) -> str:
    try:
        said = str(error).splitlines()[0][:160] if str(error) else "no message"
    except Exception:  # noqa: BLE001  an error of the learner's own whose message is an error
        said = "no message"
    what = f"{type(error).__name__}: {said}"
    code = getattr(answer, "__code__", None)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if code is not None and frame.f_code is code]
    if not lines:
        return f"The check could not use this answer ({what})."
    return f"Your code stops in its line {lines[-1] - code.co_firstlineno + 1} with {what}"


def hint(id: str) -> None:
    """Print the next hint for an exercise; after the last one, the first again."""
    task = find(id)
    number = _HINTS[id] % len(task.hints)
    _HINTS[id] += 1
    print(f"{id}, hint {number + 1} of {len(task.hints)}: {task.hints[number]}")


def solution(id: str) -> None:
    """Print one right answer to the exercise ``id``."""
    print(find(id).solution)


def solution_markdown(id: str) -> str:
    """The folded solution as it stands in the notebook: Markdown with the source inside."""
    task = find(id)
    return f"<details>\n<summary>Solution: {task.title}</summary>\n\n```python\n{task.solution}\n```\n\n</details>"
