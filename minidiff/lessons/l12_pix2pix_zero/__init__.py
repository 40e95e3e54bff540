"""Lesson 12: what its notebook imports."""

from minidiff.lessons.l12_pix2pix_zero.claims import edited, shifted
from minidiff.lessons.l12_pix2pix_zero.data import bank_direction, directions, neighbours, token_norms
from minidiff.lessons.l12_pix2pix_zero.panels import Amounts, Banks, Regularised

__all__ = ["Amounts", "Banks", "Regularised", "bank_direction", "directions", "edited", "neighbours", "shifted", "token_norms"]
