"""Lesson 03: what its notebook imports."""

from minidiff.lessons.l03_ddim.claims import even_lambda
from minidiff.lessons.l03_ddim.panels import SOLVERS, EtaPaths, Explorer, Trajectories, Walk

__all__ = ["EtaPaths", "Explorer", "SOLVERS", "Trajectories", "Walk", "even_lambda"]
