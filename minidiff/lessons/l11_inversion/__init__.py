"""Lesson 11: what its notebook imports."""

from minidiff.lessons.l11_inversion.panels import CodeMap, Skipping, WayBack

__all__ = ["CodeMap", "Skipping", "WayBack"]
