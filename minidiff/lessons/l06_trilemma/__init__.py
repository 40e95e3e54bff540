"""Lesson 06: what its notebook imports."""

from minidiff.lessons.l06_trilemma import data, panels, toys
from minidiff.lessons.l06_trilemma.claims import left_open, of_shipped, table

__all__ = ["data", "left_open", "of_shipped", "panels", "table", "toys"]
