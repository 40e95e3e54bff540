"""Lesson 13: what its notebook imports."""

from minidiff.lessons.l13_self_guidance.claims import joint, measured, slope
from minidiff.lessons.l13_self_guidance.data import positions, requested
from minidiff.lessons.l13_self_guidance.panels import Sites, Targets, marked, over

__all__ = ["Sites", "Targets", "joint", "marked", "measured", "over", "positions", "requested", "slope"]
