"""Lesson 12: what its notebook imports."""

from minidiff.lessons.l12_pix2pix_zero.claims import shifted
from minidiff.lessons.l12_pix2pix_zero.data import directions, rendered
from minidiff.lessons.l12_pix2pix_zero.panels import Amounts, Banks, Regularised

__all__ = ["Amounts", "Banks", "Regularised", "directions", "rendered", "shifted"]
