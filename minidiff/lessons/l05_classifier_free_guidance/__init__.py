"""Lesson 05: what its notebook imports."""

from minidiff.lessons.l05_classifier_free_guidance import panels, toys

__all__ = ["panels", "toys"]
