"""The maths of a run: one network, its moving average, its optimiser, one step at a time. No files, no clock."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from minidiff.errors import require
from minidiff.train.checkpoint import Snapshot
from minidiff.train.dice import dice
from minidiff.train.ema import Ema
from minidiff.train.optimiser import adamw, moments, restore_moments
from minidiff.train.recipe import Plan
from minidiff.train.speed import Speed
from minidiff.train.team import Team

__all__ = ["Trainer"]


class Trainer:
    """What a checkpoint holds, and how it changes. ``.step``: steps taken; ``.whole``: False while one is under way."""

    def __init__(self, plan: Plan, team: Team, speed: Speed) -> None:
        self.plan, self.team, self.speed = plan, team, speed
        recipe = plan.recipe
        with dice(recipe.seed, "build"):
            model = recipe.build()
        self.model = speed.place(model).train()
        self.ema = Ema(self.model, recipe.ema)
        self.optimiser = adamw(self.model, lr=plan.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.step, self.whole = 0, True

    @property
    def images(self) -> int:
        """Images seen."""
        return self.step * self.plan.batch

    def take_step(self) -> torch.Tensor:
        """One optimiser step on batch number ``step``. Returns the mean loss, a 0-d tensor; nothing here waits for a GPU."""
        plan, recipe, device = self.plan, self.plan.recipe, self.speed.device
        self.whole = False
        if not self.model.training:
            self.model.train()
        with dice(recipe.seed, "step", self.step * self.team.size + self.team.rank, device=device):
            batch = self.team.rows(recipe.draw(self.step, plan.batch, device), plan.batch)
            batch = {name: self.speed.arrange(value) for name, value in batch.items()}
            with self.speed.autocast():
                rows = recipe.loss(self.model, batch)
            require(rows.ndim == 1, "recipe.loss", f"losses of shape {tuple(rows.shape)}", "one loss a row, shape (rows,)",
                    "((a - b) ** 2).mean((1, 2, 3))")
            loss = rows.float().mean()
            loss.backward()
        loss = self.team.average(self.model, loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.step += 1
        for group in self.optimiser.param_groups:
            group["lr"] = plan.lr_at(self.images)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update(self.model, self.step)
        self.whole = True
        return loss

    def speed_up(self) -> None:
        """Compile and cast as the machine likes; after :meth:`restore`, and undone by :meth:`slow_down`."""
        self._hook = self.model.register_forward_hook(_to_float) if self.speed.bf16 else None
        if self.speed.compile:
            self.model.compile()

    def slow_down(self) -> None:
        if getattr(self, "_hook", None) is not None:
            self._hook.remove()

    def finite(self) -> bool:
        """False if any weight is NaN or infinite (waits for a GPU)."""
        return all(bool(x.isfinite().all()) for x in self.model.state_dict().values())

    def snapshot(self, meta: dict[str, Any]) -> Snapshot:
        return Snapshot(self.step, self.model.state_dict(), self.ema.model.state_dict(), moments(self.optimiser, self.model),
                        meta)

    def restore(self, snapshot: Snapshot) -> None:
        self.step = snapshot.step
        self.model.load_state_dict(snapshot.model)
        self.ema.model.load_state_dict(snapshot.ema)
        restore_moments(self.optimiser, self.model, snapshot.optimiser)


def _to_float(_model: nn.Module, _args: object, output: object) -> object:
    """Predictions leave a bfloat16 network as float32, so that losses are float32 arithmetic."""
    return tree_map(lambda x: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, output)
