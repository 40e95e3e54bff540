"""What a learner calls: check an answer, ask for a hint, ask for the solution. None of them ever stops a notebook."""

from __future__ import annotations

import dis
import json
import os
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from types import FunctionType
from typing import Any

from minidiff.course.answers import Mistake
from minidiff.course.tasks import Exercise, find

__all__ = ["Result", "check", "hint", "solution", "solution_markdown", "RECORD"]

RECORD = "MINIDIFF_GRADE"        # environment variable: file to which every check appends one line of JSON
_HINTS: Counter[str] = Counter()


@dataclass(frozen=True)
class Result:
    """What a check found. state: "correct", "wrong" or "not attempted"."""

    id: str
    state: str
    message: str
    points: int
    of: int

    def _ipython_display_(self) -> None:
        """Nothing: the line was printed already."""


def check(id: str, answer: Any) -> Result:
    """Check an answer to the exercise ``id`` and print one line: correct, a likely mistake by name, or not attempted yet.

    answer: the learner's function, or a number for a question. An unknown id is the only error raised.
    """
    task = find(id)
    state, message = _judge(task, answer)
    result = Result(id, state, message, task.points if state == "correct" else 0, task.points)
    print(f"{id}: {message}")
    if os.environ.get(RECORD):
        with open(os.environ[RECORD], "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
    return result


def _judge(task: Exercise, answer: Any) -> tuple[str, str]:
    if answer is None or answer is Ellipsis or _is_stub(answer):
        return "not attempted", "not attempted yet."
    try:
        task.test(answer)
    except NotImplementedError:
        return "not attempted", "not attempted yet."
    except Mistake as mistake:
        return "wrong", f"not yet. {mistake}"
    except Exception as error:  # noqa: BLE001  whatever a learner's code raises
        return "wrong", f"not yet. {_where(answer, error)}"
    return "correct", f"correct ({task.points} point{'s' * (task.points != 1)})."


def _is_stub(answer: Any) -> bool:
    """A function whose body is nothing but a docstring, ``...`` or ``pass``."""
    if not isinstance(answer, FunctionType):
        return False
    code = answer.__code__
    doc = (answer.__doc__,) if answer.__doc__ else ()
    return (not code.co_names and code.co_nlocals == code.co_argcount + code.co_kwonlyargcount
            and set(code.co_consts) <= {None, Ellipsis, *doc}
            and not any(step.opname.startswith("LOAD_FAST") for step in dis.get_instructions(code)))


def _where(answer: Any, error: Exception) -> str:
    what = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'}"
    code = getattr(answer, "__code__", None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if code is not None and f.filename == code.co_filename]
    if not lines:
        return f"The check could not use this answer ({what})."
    first = code.co_firstlineno
    return f"Your code stops in its line {lines[-1] - first + 1} with {what}"


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
