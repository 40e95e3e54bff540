"""A recipe: everything a training run depends on, in one frozen object."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minidiff.errors import BadInput, check_choice, require

__all__ = ["LR_SHAPES", "Budget", "Recipe", "Plan", "lr_at"]

LR_SHAPES = ("cosine", "linear")


@dataclass(frozen=True)
class Budget:
    """How long a run lasts.

    images: images seen in all (steps times batch). minutes: what that takes on the machine the budget is named after
    (a promise to the reader, not a limit). batch, lr: replace the recipe's own, for a machine that wants larger batches.
    """

    images: int
    minutes: float
    batch: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        require(self.images > 0, "images", self.images, "a positive number of images")
        require(self.batch is None or self.batch > 0, "batch", self.batch, "a positive number of images")
        require(self.lr is None or self.lr > 0, "lr", self.lr, "a positive learning rate")


@dataclass(frozen=True)
class Recipe:
    """A training run as a value; the same recipe gives the same weights on the same machine.

    build: () -> the network; called with torch's generator seeded by ``seed``.
    draw: (i, n, device) -> dict of tensors, the whole of batch i: images, t, noise. A pure function of the seed and i;
        each tensor has n rows. Row j must not depend on how the batch is later cut into pieces.
    loss: (network, batch) -> (rows,) losses, one a row.
    lr: the highest learning rate. warmup: images until it is reached. lr_shape: "cosine" or "linear", see :func:`lr_at`.
    restarts: shares of the run, rising in (0, 1), at which the rate starts anew (warm restarts: Loshchilov and Hutter 2017).
    ema: decay a step, in [0, 1). clip: largest norm of the gradient. preview: network -> (B, C, H, W) in [-1, 1], or None.
    expect: one sentence, what a good run ends with. identity: what else makes the run the one it is (data, objective,
        schedule, weighting): JSON values, which a checkpoint must agree with before a run goes on from it, and which the card
        states. A value may be a function without arguments, called when the run starts. The network is compared by itself.
    export: (trained network, folder) -> facts for the card; writes the files that ship. None: nothing ships.
    """

    name: str
    seed: int
    build: Callable[[], nn.Module]
    draw: Callable[[int, int, torch.device], Mapping[str, Any]]
    loss: Callable[[nn.Module, Mapping[str, Any]], torch.Tensor]
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 10_000
    lr_shape: str = "cosine"
    restarts: tuple[float, ...] = ()
    ema: float = 0.999
    clip: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    preview: Callable[[nn.Module], torch.Tensor | None] | None = None
    expect: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)
    export: Callable[[nn.Module, Path], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        require(bool(self.name), "name", repr(self.name), "a word that names the run")
        require(self.batch > 0, "batch", self.batch, "a positive number of images")
        require(self.lr > 0, "lr", self.lr, "a positive learning rate", "lr=1e-3")
        require(self.warmup >= 0, "warmup", self.warmup, "a number of images, 0 or more")
        check_choice("lr_shape", self.lr_shape, LR_SHAPES)
        shares = (0.0, *self.restarts, 1.0)
        require(all(a < b for a, b in zip(shares, shares[1:])), "restarts", self.restarts, "rising shares of the run in (0, 1)",
                "restarts=(0.5,)")
        require(0 <= self.ema < 1, "ema", self.ema, "a decay in [0, 1)", "ema=0.999")
        require(self.clip > 0, "clip", self.clip, "a positive norm", "clip=1.0")
        require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two numbers in [0, 1)", "betas=(0.9, 0.99)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")

    def plan(self, budget: str = "laptop", images: int | None = None) -> Plan:
        """The numbers of one run: ``images`` replaces the budget's own count (a recipe without budgets needs it)."""
        if self.budgets:
            check_choice("budget", budget, self.budgets)
            chosen = self.budgets[budget]
        else:
            require(images is not None, "images", None, f"a number of images ({self.name!r} has no budgets)", "images=100_000")
            chosen = Budget(images=1, minutes=math.inf)
        total = chosen.images if images is None else images
        if isinstance(total, bool) or not isinstance(total, int) or total <= 0:
            raise BadInput("images", repr(total), "a positive whole number of images", "images=100_000")
        return Plan(self, batch=chosen.batch or self.batch, lr=chosen.lr or self.lr, images=total)


@dataclass(frozen=True)
class Plan:
    """A recipe with its length settled."""

    recipe: Recipe
    batch: int
    lr: float
    images: int

    @property
    def steps(self) -> int:
        return -(-self.images // self.batch)

    def history(self) -> list[list[int]]:
        """The cycles of a run from nothing, as a checkpoint keeps them: [its first image, the image it is planned to end at]."""
        ends = [round(share * self.images) for share in self.recipe.restarts] + [self.images]
        return [[start, end] for start, end in zip([0, *ends], ends)]

    def lr_at(self, images: int, history: Sequence[Sequence[int]] | None = None) -> float:
        """Learning rate of the step that makes it ``images`` images; history: the cycles of this run, where it was extended."""
        start, end = next(cycle for cycle in reversed(history or self.history()) if cycle[0] < images or cycle[0] == 0)
        return lr_at(images - start, peak=self.lr, warmup=self.recipe.warmup, total=end - start, shape=self.recipe.lr_shape)

    def lr_by_clock(self, images: int, share: float) -> float:
        """Learning rate after ``images`` images when ``share`` of the time is over: the warm-up counts images, the rest time."""
        warm = min(1.0, images / max(1, self.recipe.warmup))
        return warm * lr_at(round(1e6 * min(1.0, share)), peak=self.lr, warmup=0, total=1_000_000, shape=self.recipe.lr_shape)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree with before a run goes on from it; plain JSON values."""
        r = self.recipe
        own = {name: value() if callable(value) else value for name, value in r.identity.items()}
        return {"recipe": r.name, "seed": r.seed, "images": self.images, "batch": self.batch, "lr": self.lr, "warmup": r.warmup,
                "lr_shape": r.lr_shape, "restarts": list(r.restarts), "ema": r.ema, "clip": r.clip,
                "weight_decay": r.weight_decay, "betas": list(r.betas), **json.loads(json.dumps(own))}


def lr_at(images: int, *, peak: float, warmup: int, total: int, shape: str = "cosine") -> float:
    """Learning rate after ``images`` images of a cycle of ``total``: a straight line up to ``peak`` over ``warmup`` images,
    then down. A function of images only.

    shape: "cosine", half a cosine to 2 % of the peak (Loshchilov and Hutter 2017, equation 5); "linear", a line to zero.
    """
    check_choice("shape", shape, ("cosine", "linear"))
    require(images >= 0 and warmup >= 0 and total >= 1, "images, warmup, total", (images, warmup, total),
            "no negative numbers of images, and a cycle of at least one")
    warmup = min(warmup, total)
    if images < warmup:
        return peak * images / warmup
    done = min(1.0, (images - warmup) / max(1, total - warmup))
    return peak * (1 - done if shape == "linear" else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
