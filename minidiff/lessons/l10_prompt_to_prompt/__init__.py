"""Lesson 10: what its notebook imports."""

from minidiff.lessons.l10_prompt_to_prompt.claims import edited
from minidiff.lessons.l10_prompt_to_prompt.panels import Fader, Keeping, TokenSwap

__all__ = ["Fader", "Keeping", "TokenSwap", "edited"]
