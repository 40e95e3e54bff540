"""Lesson 02: what its notebook imports."""

from minidiff.lessons.l02_ddpm.claims import gaussian_bound
from minidiff.lessons.l02_ddpm.panels import Chain, Sampler, weights

__all__ = ["Chain", "Sampler", "gaussian_bound", "weights"]
