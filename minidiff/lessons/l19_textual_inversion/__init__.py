"""Lesson 19: what its notebook imports."""

from minidiff.lessons.l19_textual_inversion.panels import Frames

__all__ = ["Frames"]
