"""A plan of tiny models for the tests of ``minidiff remake``: MINIDIFF_PLAN=tiny_jobs.

TINY_GATE names a file: from step 5 on "gated" writes FILE.reached and waits, for at most a minute, until FILE exists.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minidiff import rng
from minidiff.files import data_folder
from minidiff.train import Budget, Recipe, loop

loop.SAVE_SECONDS = 0.0            # a checkpoint after each step, also by the clock


class Job(NamedTuple):
    needs: tuple[str, ...]
    minutes: float
    lane: int | None = None


PLAN = {"second": Job(("first",), 0.15), "first": Job((), 0.15), "broken": Job((), 0.15), "after/broken": Job(("broken",), 0.15),
        "gated": Job((), 9.0)}


def wait_at_gate() -> None:
    gate = Path(os.environ["TINY_GATE"])
    gate.with_name(gate.name + ".reached").touch()
    end = time.monotonic() + 60
    while not gate.exists() and time.monotonic() < end:
        time.sleep(0.02)


def recipe(name: str) -> Recipe:
    """The weight learns to be the identity; "second" keeps what "first" shipped, which tells whose weights it has loaded."""

    def build() -> nn.Module:
        net = nn.Linear(4, 4, bias=False)
        nn.init.zeros_(net.weight)
        if name == "second":
            shipped = load_file(data_folder() / "first" / "model.safetensors")["weight"]
            net.first = nn.Parameter(shipped, requires_grad=False)
        return net

    def draw(i: int, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        if name == "gated" and i >= 5:
            wait_at_gate()
        time.sleep(0.01)
        return {"x": rng.normal((n, 4), 5, "x", i, device=device)}

    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if name == "broken":
            raise RuntimeError("this model breaks on purpose")
        return ((model(batch["x"]) - batch["x"]) ** 2).mean(1)

    def export(net: nn.Module, folder: Path) -> dict[str, int]:
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}\n")
        return {"parameters": 16}

    budgets = {"laptop": Budget(1600, 1), "gpu": Budget(1600, 1)}
    return Recipe(name=name, seed=5, build=build, draw=draw, loss=loss, batch=8, lr=1e-2, warmup=8, ema=0.5, budgets=budgets,
                  export=export)
