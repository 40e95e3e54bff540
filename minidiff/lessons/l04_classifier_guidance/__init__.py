"""Lesson 04: what its notebook imports."""

from minidiff.lessons.l04_classifier_guidance import pictures

__all__ = ["pictures"]
