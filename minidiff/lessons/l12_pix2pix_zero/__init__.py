"""Lesson 12: what its notebook imports."""

from minidiff.lessons.l12_pix2pix_zero.claims import of_pictures, shifted
from minidiff.lessons.l12_pix2pix_zero.data import directions, rendered, seen
from minidiff.lessons.l12_pix2pix_zero.panels import Amounts, Banks, Regularised

__all__ = ["Amounts", "Banks", "Regularised", "directions", "of_pictures", "rendered", "seen", "shifted"]
