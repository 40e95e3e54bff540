"""Lesson 21: what its notebook imports."""

from minidiff.lessons.l21_interpolation.data import drawn, pairs
from minidiff.lessons.l21_interpolation.panels import Levels, Norms, Ways

__all__ = ["Levels", "Norms", "Ways", "drawn", "pairs"]
