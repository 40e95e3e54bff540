"""Good calls of the constructors of hooks, guiders and energies, for the sweep of :mod:`sweep`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sweep import pipe
from torch import Tensor

from minidiff.personal import LoRA
from minidiff.rng import normal
from minidiff.steer import CFG, Dual, Energy, Trajectory

__all__ = ["HOOKS"]

STATES = {"branch": "source", "text": "prompt"}
PAIR = {"source": "source", "edit": "edit"}


def tokens() -> Tensor:
    return torch.linspace(0, 1, 20)


def mapper() -> Tensor:
    return torch.eye(20)


def way() -> Trajectory:
    eps, noises = (normal((2, 1, 4, 8, 8), name) for name in ("eps", "noise"))
    return Trajectory(normal((3, 1, 4, 8, 8), "way"), (500, 100), eps, noises)


def energy() -> Energy:
    return Energy(lambda maps, state: state.x0.flatten(1).square().mean(1))


def push(**more: Any) -> dict[str, Any]:
    return {"energy": energy(), "scale": 1.0, "until": 0.5, **STATES, **more}


def chosen(site: Any) -> bool:
    return site.kind == "self"


def lora(seed: int) -> LoRA:
    made = LoRA(pipe().unet, rank=2, seed=seed)
    if made.attached:
        made.detach()
    return made


HOOKS: dict[str, dict[str, Callable[[], dict[str, Any]]]] = {
    "steer": {
        "CFG": lambda: {"weight": 4.0},
        "Composable": lambda: {"weights": {"cat": 4.0}},
        "Dual": lambda: {"style": 5.0, "content": 5.0},
        "InstructPix2Pix": lambda: {"image": 1.5, "text": 7.5},
        "Energy": lambda: {"fn": lambda maps, state: state.x0.flatten(1).mean(1), "sites": chosen, "modules": ["mid_block"]},
        "EpsGuidance": push,
        "MeanGuidance": push,
        "LatentGuidance": lambda: {"energy": energy(), "decay": lambda progress: 1.0, "refine": {0: 0.1}, "most": 3},
        "Pin": lambda: {"trajectory": way(), "branch": "source"},
        "Recorder": lambda: {"sites": chosen, "modules": ["mid_block"], **STATES},
    },
    "editing": {
        "AddNoise": lambda: {"trajectory": way(), "eta": 1.0},
        "Alone": lambda: {"text": "prompt"},
        "Blend": lambda: {"known": normal((1, 4, 8, 8), "known"), "mask": torch.ones(1, 1, 8, 8), "branch": "source",
                          "repeats": 1, "seed": 0},
        "Boost": lambda: {"t_boost": 200.0, "seed": 0},
        "CopyModule": lambda: {"modules": "mid_block", "until": 0.5},
        "CopyQK": lambda: {"sites": chosen, "until": 0.5},
        "Coupled": lambda: {"other": normal((1, 4, 8, 8), "other"), "mix": 0.93, "inverse": False},
        "EmphasiseValue": lambda: {"tokens": tokens(), "until": 0.5, **STATES},
        "FitEmpty": lambda: {"pivot": way(), "empty": normal((1, 20, 16), "empty"), "guidance": 4.0, "inner": 2, "lr": 0.1,
                             "stop": 1e-5, "branch": "source"},
        "IgnoreKey": lambda: {"tokens": tokens(), "until": 0.5, **STATES},
        "LocalBlend": lambda: {"tokens": {"source": tokens(), "edit": tokens()}, "threshold": 0.3, "start": 0.2, "level": 0,
                               **PAIR},
        "NoiseRegularizer": lambda: {"weight": 20.0, "kl": 20.0, "rounds": 2, "correlations": 2, "branch": "source", "seed": 0,
                                     "compat": "diffusers"},
        "Refine": lambda: {"mapper": mapper(), "new": tokens()},
        "Replace": lambda: {"mapper": mapper(), "until": 0.5, **PAIR},
        "Reweight": lambda: {"weights": tokens(), "until": 0.5, "edit": "edit"},
        "SelfCopy": lambda: {"until": 0.4, "level": 0, **PAIR},
        "ShareKV": lambda: {"select": chosen, "levels": 1, "start": 0.0, **PAIR},
        "ShiftH": lambda: {"delta": normal((1, 16, 2, 2), "delta"), "scale": 1.0, "t_edit": 100.0, "branch": "source",
                           "path": "mid_block"},
        "Switch": lambda: {"first": Dual(), "then": CFG(4.0), "at": 1},
    },
    "morphing": {
        "Inner": lambda: {"weights": {"frame 1": 0.5}, "fused": True, "until": 0.5, "sites": chosen},
        "Outer": lambda: {"weights": {"frame 1": 0.5}, "fused": True, "until": 0.5, "sites": chosen},
        "LerpLoRA": lambda: {"first": lora(0), "other": lora(1), "weights": {"frame 1": 0.5}},
        "RowCFG": lambda: {"weight": torch.tensor([1.0, 4.0])},
    },
}
