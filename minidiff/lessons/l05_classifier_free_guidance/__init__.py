"""Lesson 05: what its notebook imports."""

from minidiff.lessons.l04_classifier_guidance.data import Guided, combinations, sample, see
from minidiff.lessons.l05_classifier_free_guidance import panels, toys
from minidiff.lessons.l05_classifier_free_guidance.data import examples

__all__ = ["Guided", "combinations", "examples", "panels", "sample", "see", "toys"]
