"""Lesson 04: what its notebook imports."""

from minidiff.lessons.l04_classifier_guidance import data as pictures
from minidiff.lessons.l04_classifier_guidance import panels, toys

__all__ = ["panels", "pictures", "toys"]
