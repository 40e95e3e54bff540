"""Exercises that check themselves: check, hint, solution for learners; grade for instructors."""

from minidiff.lessons.checking import Result, check, hint, solution, solution_markdown
from minidiff.lessons.grading import Grade, grade
from minidiff.lessons.tasks import EXERCISES, Exercise, Mistake, call, exercise, exercises, expect, expect_number, find, solve

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
