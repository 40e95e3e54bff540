"""Lesson 07: what its notebook imports."""

from minidiff.lessons.l07_autoencoders.claims import STUDY
from minidiff.lessons.l07_autoencoders.panels import Chooser, LatentExplorer, caption_of

__all__ = ["Chooser", "LatentExplorer", "STUDY", "caption_of"]
