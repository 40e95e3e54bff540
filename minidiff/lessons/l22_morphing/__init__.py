"""Lesson 22: what its notebook imports."""

from minidiff.lessons.l21_interpolation.data import drawn, pairs
from minidiff.lessons.l22_morphing.panels import Guided, Walk

__all__ = ["Guided", "Walk", "drawn", "pairs"]
