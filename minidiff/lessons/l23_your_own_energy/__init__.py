"""Lesson 23: what its notebook imports."""

from minidiff.lessons.l14_several_objects import at_place, crossed, shown, threes
from minidiff.lessons.l21_interpolation.data import drawn, pairs
from minidiff.lessons.l23_your_own_energy import data, toys
from minidiff.lessons.l23_your_own_energy.panels import Films, Tilts, Walk, all_rows, downhill

__all__ = ["Films", "Tilts", "Walk", "all_rows", "at_place", "crossed", "data", "downhill", "drawn", "pairs", "shown", "threes",
           "toys"]
