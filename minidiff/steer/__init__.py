"""Floor 2: the engine. One loop over named rows, hooks that read and change it, energies that steer it."""

from __future__ import annotations

from minidiff.guard import guard
from minidiff.steer.attention import ExplicitAttnProcessor, Site, attention, sites
from minidiff.steer.energy import Energy, EnergyState, EpsGuidance, LatentGuidance, MeanGuidance
from minidiff.steer.guiders import CFG, Composable, Dual, Guider, InstructPix2Pix
from minidiff.steer.hooks import Hook, Row, StepContext
from minidiff.steer.loop import State, invert, run
from minidiff.steer.record import Maps, Pin, Recorder, Trajectory
from minidiff.steer.tap import Tap

__all__ = [
    "CFG",
    "Composable",
    "Dual",
    "Energy",
    "EnergyState",
    "EpsGuidance",
    "ExplicitAttnProcessor",
    "Guider",
    "Hook",
    "InstructPix2Pix",
    "LatentGuidance",
    "Maps",
    "MeanGuidance",
    "Pin",
    "Recorder",
    "Row",
    "Site",
    "State",
    "StepContext",
    "Tap",
    "Trajectory",
    "attention",
    "invert",
    "run",
    "sites",
]

guard(globals(), __all__, classes=(Hook, Guider, Energy))
