"""Lesson 11: what its notebook imports."""

from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.lessons.l11_inversion.panels import CodeMap, Skipping, WayBack

__all__ = ["CodeMap", "Skipping", "WayBack", "as_in_training"]
