"""Lesson 05: what its notebook imports."""

from minidiff.lessons.l04_classifier_guidance.data import Guided, ask_all, sample, see
from minidiff.lessons.l05_classifier_free_guidance import panels, toys

__all__ = ["Guided", "ask_all", "panels", "sample", "see", "toys"]
