"""Lesson 04: what its notebook imports."""

from minidiff.lessons.l04_classifier_guidance import panels, pictures, toys

__all__ = ["panels", "pictures", "toys"]
