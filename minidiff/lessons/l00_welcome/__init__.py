"""Lesson 00: what its notebook imports."""

from minidiff.lessons.l00_welcome.claims import damaged
from minidiff.lessons.l00_welcome.panels import CHOICES, draw_scene, fades, share_interval, show_fade

__all__ = ["CHOICES", "damaged", "draw_scene", "fades", "share_interval", "show_fade"]
