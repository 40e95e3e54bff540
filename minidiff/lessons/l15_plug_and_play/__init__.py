"""Lesson 15: what its notebook imports."""

from minidiff.lessons.l15_plug_and_play.data import mode_boundary, principal_colours, rendered
from minidiff.lessons.l15_plug_and_play.panels import DragFilm, Shares, Strengths

__all__ = ["DragFilm", "Shares", "Strengths", "mode_boundary", "principal_colours", "rendered"]
