"""Exercises that check themselves: check, hint, solution for learners; grade for instructors."""

from .checking import Result, check, hint, solution, solution_markdown
from .grading import Grade, grade
from .tasks import EXERCISES, Exercise, Mistake, call, exercise, exercises, expect, expect_number, find, solve

__all__ = [
    "Result",
    "check",
    "hint",
    "solution",
    "solution_markdown",
    "EXERCISES",
    "Exercise",
    "Mistake",
    "call",
    "exercise",
    "exercises",
    "expect",
    "expect_number",
    "find",
    "solve",
    "Grade",
    "grade",
]
