"""Lesson 08: what its notebook imports."""

from minidiff.lessons.l08_latent_diffusion.claims import drawn, seen_right
from minidiff.lessons.l08_latent_diffusion.panels import Film, Holes, Painter, over

__all__ = ["Film", "Holes", "Painter", "drawn", "over", "seen_right"]
