"""Lesson 09: what its notebook imports."""

from minidiff.lessons.l09_stable_diffusion.panels import Colours, PromptBox, Return, Scrubber

__all__ = ["Colours", "PromptBox", "Return", "Scrubber"]
