"""Lesson 20: what its notebook imports."""

from minidiff.lessons.l20_dreambooth_lora.panels import Frames

__all__ = ["Frames"]
