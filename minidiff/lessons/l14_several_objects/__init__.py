"""Lesson 14: what its notebook imports."""

from minidiff.lessons.l14_several_objects.claims import at_place
from minidiff.lessons.l14_several_objects.data import shown, threes
from minidiff.lessons.l14_several_objects.panels import Pushes, Sharpness, Sums, crossed

__all__ = ["Pushes", "Sharpness", "Sums", "at_place", "crossed", "shown", "threes"]
