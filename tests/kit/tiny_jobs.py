"""A plan of four tiny models for the tests of ``minidiff remake``: MINIDIFF_PLAN=tiny_jobs."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minidiff import rng
from minidiff.files import data_folder
from minidiff.train import Budget, Recipe


class Job(NamedTuple):
    needs: tuple[str, ...]
    minutes: float


PLAN = {"second": Job(("first",), 3.0), "first": Job((), 3.0), "broken": Job((), 3.0), "after/broken": Job(("broken",), 3.0),
        "deaf": Job((), 9.0)}
PAUSE = float(os.environ.get("TINY_PAUSE", "0.01"))


def recipe(name: str) -> Recipe:
    """w learns to be 1; "second" begins with what "first" shipped, so its w tells whose weights it has loaded."""

    def build() -> nn.Module:
        net = nn.Linear(4, 4, bias=False)
        nn.init.zeros_(net.weight)
        if PLAN[name].needs and name == "second":
            net.base = nn.Parameter(load_file(data_folder() / "first" / "model.safetensors")["weight"], requires_grad=False)
        return net

    def draw(i: int, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        time.sleep(60 if name == "deaf" and i == 5 else PAUSE)
        return {"x": rng.normal((n, 4), 5, "x", i, device=device)}

    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if name == "broken" and getattr(model, "tired", False):
            raise RuntimeError("this model breaks on purpose")
        model.tired = True
        return ((model(batch["x"]) - batch["x"]) ** 2).mean(1)

    def export(net: nn.Module, folder) -> dict[str, int]:
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}\n")
        return {"parameters": 16}

    budgets = {"laptop": Budget(640, 1), "gpu": Budget(640, 1)}
    return Recipe(name=name, seed=5, build=build, draw=draw, loss=loss, batch=8, lr=1e-2, warmup=8, ema=0.5, budgets=budgets,
                  export=export)
