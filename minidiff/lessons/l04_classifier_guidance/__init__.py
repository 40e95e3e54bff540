"""Lesson 04: what its notebook imports."""

from minidiff.lessons.l04_classifier_guidance import data as pictures
from minidiff.lessons.l04_classifier_guidance import panels, toys
from minidiff.lessons.l04_classifier_guidance.claims import ADM, ablation

__all__ = ["ADM", "ablation", "panels", "pictures", "toys"]
