"""A training run as an object: one network, its moving average, its optimiser, the folder that keeps them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn
from torch.utils._pytree import tree_map

from minidiff.errors import BadInput, require
from minidiff.rng import key, seeded_rng
from minidiff.train.checkpoint import Snapshot
from minidiff.train.distributed import Workers
from minidiff.train.folder import RunFolder
from minidiff.train.optimiser import Ema, adamw, moments, restore_moments
from minidiff.train.progress import TrainState
from minidiff.train.recipe import Plan
from minidiff.train.speed import Speed, fast_matmul

__all__ = ["Run"]

READ_STEPS, READ_SECONDS = 50, 3.0  # the losses are read this often, whichever comes first: reading makes a GPU wait


class Run:
    """A network, its average and its optimiser at one step, and the folder that keeps them.

    ``.step``: steps taken; ``.whole``: False while one is under way; ``.history``: the cycles of the learning rate, see
    :meth:`Plan.history`. A folder with a checkpoint of the same run is gone on from.
    """

    def __init__(self, plan: Plan, workers: Workers, speed: Speed, out: Path | None = None, *, extend: bool = False,
                 say: Callable[[str], None] = print) -> None:
        self.plan, self.workers, self.speed = plan, workers, speed
        recipe = plan.recipe
        with seeded_rng(recipe.seed, "build"):
            model = recipe.build()
        self.model = speed.place(model).train()
        self.ema = Ema(self.model, recipe.ema)
        self.optimiser = adamw(self.model, lr=plan.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.step, self.whole, self.history = 0, True, plan.history()
        self.hardware = {"device": speed.device.type, "bf16": speed.bf16, "threads": torch.get_num_threads(),
                         "processes": workers.size}
        self.recent = self.rate = float("nan")
        self.seconds = 0.0  # of training, over all the times the run was taken up
        self.folder: RunFolder | None = None
        self._losses: list[torch.Tensor] = []  # on the device, since the last reading
        try:
            snapshot = None if out is None else workers.share(lambda: self._open(out, extend, say))
            if snapshot is not None:
                self.load(snapshot, say)
        except BaseException:
            self.close()
            raise
        self._read_at, self._read_step = time.monotonic(), self.step

    def _open(self, out: Path, extend: bool, say: Callable[[str], None]) -> Snapshot | None:
        """Process 0: take the folder and read the newest checkpoint."""
        shapes = {name: list(x.shape) for name, x in self.model.state_dict().items()}
        count = sum(p.numel() for p in self.model.parameters())
        network = f"{count:,} weights, shapes {key(repr(shapes)) >> 32:08x}"
        self.folder = RunFolder(out, {**self.plan.settings(), "network": network}, say=say, extend=extend)
        snapshot, self.folder.snapshot = self.folder.snapshot, None
        return snapshot

    def load(self, snapshot: Snapshot, say: Callable[[str], None] = print) -> None:
        """Go on from ``snapshot``."""
        self.step = snapshot.step
        self.model.load_state_dict(snapshot.model)
        self.ema.model.load_state_dict(snapshot.ema)
        restore_moments(self.optimiser, self.model, snapshot.optimiser)
        meta = snapshot.meta
        self.seconds, self.history = meta.get("seconds", 0.0), meta.get("schedule_history", self.history)
        earlier = self.history[-1][1]
        if earlier != self.plan.images:
            self.history = [c for c in self.history if c[0] < self.images] + [[self.images, self.plan.images]]
            say(f"This run was planned for {earlier:,} images; from here on it is planned for {self.plan.images:,}.")
        before = meta.get("hardware", self.hardware)
        odds = [f"{k} {before.get(k)} then, {v} now" for k, v in self.hardware.items() if before.get(k) != v]
        if odds:
            say(f"The checkpoint was made otherwise ({', '.join(odds)}): the same run, no longer bit for bit.")

    def snapshot(self) -> Snapshot:
        meta = {"images": self.images, "schedule_history": self.history, "seconds": round(self.seconds, 1),
                "hardware": self.hardware}
        return Snapshot(self.step, self.model.state_dict(), self.ema.model.state_dict(), moments(self.optimiser, self.model),
                        meta)

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
        with seeded_rng(recipe.seed, "step", self.step * self.workers.size + self.workers.rank, device=device):
            batch = self.workers.rows(recipe.draw(self.step, plan.batch, device), plan.batch)
            batch = {name: self.speed.arrange(value) for name, value in batch.items()}
            with self.speed.autocast():
                rows = recipe.loss(self.model, batch)
            require(rows.ndim == 1, "recipe.loss", f"losses of shape {tuple(rows.shape)}", "one loss a row, shape (rows,)",
                    "((a - b) ** 2).mean((1, 2, 3))")
            loss = rows.float().mean()
            loss.backward()
        loss = self.workers.average(self.model, loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.step += 1
        for group in self.optimiser.param_groups:
            group["lr"] = plan.lr_at(self.images, self.history)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update(self.model, self.step)
        self.whole = True
        self._losses.append(loss)
        return loss

    @contextlib.contextmanager
    def fast(self) -> Iterator[None]:
        """Compiled, cast and multiplied as the machine likes; the network's own forward comes back after."""
        hook = self.model.register_forward_hook(_to_float) if self.speed.bf16 else contextlib.nullcontext()
        if self.speed.compile:
            self.model.compile()
        with hook, fast_matmul(self.speed.device):
            yield

    def read_losses(self, *, now: bool = True) -> None:
        """Bring the losses since the last reading to the CPU, check them, log them. now: also where it is not yet time."""
        late = time.monotonic() - self._read_at > READ_SECONDS
        if not self._losses or not (now or late or self.step % READ_STEPS == 0):
            return
        losses = torch.stack(self._losses).float().cpu()
        self._losses.clear()
        if not losses.isfinite().all():
            first = int((~losses.isfinite()).nonzero()[0])
            self._diverged(f"a loss of {float(losses[first])} at step {self.step - len(losses) + first + 1}")
        spent = time.monotonic() - self._read_at
        self.recent, self.rate = float(losses.mean()), (self.step - self._read_step) * self.plan.batch / max(spent, 1e-9)
        self.seconds, self._read_at, self._read_step = self.seconds + spent, self._read_at + spent, self.step
        if self.folder is not None:
            self.folder.add_losses(losses)

    def _diverged(self, got: str) -> NoReturn:
        kept = "nothing was saved" if self.folder is None else self.folder.kept()
        raise BadInput(f"recipe {self.plan.recipe.name!r}", got, "finite numbers",
                       f"a smaller lr or clip, and a new folder ({kept})")

    def save(self) -> None:
        """Write a checkpoint, unless this step has one; never one that holds NaN."""
        if self.folder is None or self.folder.step == self.step:
            return
        self.read_losses()
        if not all(bool(x.isfinite().all()) for x in self.model.state_dict().values()):
            self._diverged(f"a weight that is not finite after step {self.step}")
        self.folder.save(self.snapshot())

    def preview(self) -> Path | None:
        """The average network's pictures, in the folder of the run; None where there are none to show."""
        recipe = self.plan.recipe
        if recipe.preview is None or self.folder is None:
            return None
        with seeded_rng(recipe.seed, "preview", device=self.speed.device), torch.no_grad():
            images = recipe.preview(self.ema.model)
        return None if images is None else self.folder.preview(images, self.images)

    def due(self, every: int) -> bool:
        """True when this step went over a multiple of ``every`` images."""
        return self.images // every > (self.images - self.plan.batch) // every

    def late(self, end: float | None) -> bool:
        """True when the clock is past ``end``; several processes ask the first one, now and then."""
        late = end is not None and time.monotonic() > end
        if self.workers.size == 1 or end is None:
            return late
        return self.step % READ_STEPS == 0 and self.workers.agree(late)

    def where(self) -> str:
        return f"step {self.step}, {self.images:,} of {self.plan.images:,} images"

    def state(self, loss: torch.Tensor, preview: Path | None = None) -> TrainState:
        """What the loop yields."""
        return TrainState(self.step, self.images, self.plan.images, loss, self.recent, self.rate, self.model, self.ema.model,
                          preview)

    def close(self) -> None:
        if self.folder is not None:
            self.folder.close()


def _to_float(_model: nn.Module, _args: object, output: object) -> object:
    """Predictions leave a bfloat16 network as float32, so that losses are float32 arithmetic."""
    return tree_map(lambda x: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, output)
