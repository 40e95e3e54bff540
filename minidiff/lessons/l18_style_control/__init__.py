"""Lesson 18: what its notebook imports."""

from minidiff.lessons.l18_style_control.data import codes_of, draw, marks, models, triplets
from minidiff.lessons.l18_style_control.panels import Blends, Kept, StyleByContent, Weights, gallery_codes

__all__ = ["Blends", "Kept", "StyleByContent", "Weights", "codes_of", "draw", "gallery_codes", "marks", "models", "triplets"]
