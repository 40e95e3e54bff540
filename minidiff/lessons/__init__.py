"""Exercises that check themselves: check, hint, solution for learners; grade for instructors."""

from .check import Result, check, hint, solution, solution_markdown
from .exercise import EXERCISES, Exercise, Mistake, call, exercise, exercises, expect, expect_number, find, solve
from .grade import Grade, grade

__all__ = ["Result", "check", "hint", "solution", "solution_markdown", "EXERCISES", "Exercise", "Mistake", "call", "exercise",
           "exercises", "expect", "expect_number", "find", "solve", "Grade", "grade"]
