"""The kit that lessons are made with: exercises that check themselves, points for a notebook, claims with measured rows."""

from minidiff.course.answers import Mistake, call, expect, expect_number
from minidiff.course.checking import Result, check, hint, solution, solution_markdown, solved
from minidiff.course.claims import CLAIMS, Claim, Outcome, Row, claim, claims, compute, limits, score, stored, verdict_of
from minidiff.course.grading import Grade, grade
from minidiff.course.rooms import rooms
from minidiff.course.shown import board
from minidiff.course.tasks import EXERCISES, Exercise, checks, exercise, exercises, find, solve
from minidiff.guard import guard

__all__ = [
    "board",
    "solved",
    "Result",
    "check",
    "hint",
    "solution",
    "solution_markdown",
    "CLAIMS",
    "Claim",
    "Outcome",
    "Row",
    "claim",
    "claims",
    "compute",
    "limits",
    "score",
    "stored",
    "verdict_of",
    "Grade",
    "grade",
    "rooms",
    "EXERCISES",
    "Exercise",
    "Mistake",
    "call",
    "checks",
    "exercise",
    "exercises",
    "expect",
    "expect_number",
    "find",
    "solve",
]

# Those that run a learner's code hand on what it raises; a row of NaN has a verdict: failed.
guard(globals(), [name for name in __all__ if name not in ("call", "expect", "expect_number", "solve")], infinite=["verdict_of"])
