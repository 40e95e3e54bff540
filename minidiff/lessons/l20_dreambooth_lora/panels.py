"""The panels of lesson 20: pictures made beforehand, one set for each place of a knob, as in lesson 19."""

from __future__ import annotations

from minidiff.lessons.l19_textual_inversion.panels import Frames

__all__ = ["Frames"]
