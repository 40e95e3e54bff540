"""Lesson 01: what its notebook imports."""

from minidiff.lessons.l01_forward_process import panels, toys

__all__ = ["panels", "toys"]
