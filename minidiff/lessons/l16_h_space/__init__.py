"""Lesson 16: what its notebook imports."""

from minidiff.lessons.l16_h_space.claims import spacing_of
from minidiff.lessons.l16_h_space.data import changes, end_ratio, inverted_pairs, passes, pictures_of, pixel_edit
from minidiff.lessons.l16_h_space.panels import Along, Injected

__all__ = ["Along", "Injected", "changes", "end_ratio", "inverted_pairs", "passes", "pictures_of", "pixel_edit",
           "spacing_of"]
