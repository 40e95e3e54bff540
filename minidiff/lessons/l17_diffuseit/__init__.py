"""Lesson 17: what its notebook imports."""

from minidiff.lessons.l17_diffuseit.data import layout_edits, patches, preferred, reader_features
from minidiff.lessons.l17_diffuseit.panels import Patches, StartPlane
from minidiff.lessons.l17_diffuseit.toys import angles, descend, key_grid, turned

__all__ = ["Patches", "StartPlane", "angles", "descend", "key_grid", "layout_edits", "patches", "preferred",
           "reader_features", "turned"]
