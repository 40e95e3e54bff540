"""Floor 2: the networks. ``UNet`` predicts; what its output means is said by the wrappers of ``minidiff.diffusion``."""

from __future__ import annotations

from minidiff.guard import guard
from minidiff.nets.count import multiply_adds, parameters
from minidiff.nets.lucidrains import LucidrainsUNet
from minidiff.nets.unet import PRESETS, UNet

__all__ = ["PRESETS", "LucidrainsUNet", "UNet", "multiply_adds", "parameters"]

guard(globals(), __all__)
