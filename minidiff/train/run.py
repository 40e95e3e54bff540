"""A training run as an object: one network, its moving average, its optimiser, the folder that keeps them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn
from torch.utils._pytree import tree_map

from minidiff.errors import BadInput, require
from minidiff.rng import key, seeded_rng
from minidiff.train.distributed import Workers
from minidiff.train.folder import RunFolder
from minidiff.train.graph import GraphedStep
from minidiff.train.optimiser import Ema, adamw, moments, restore_moments, set_lr
from minidiff.train.progress import TrainState
from minidiff.train.recipe import Plan
from minidiff.train.speed import Speed, fast_matmul
from minidiff.train.stored import Snapshot

__all__ = ["Run"]

READ_STEPS, READ_SECONDS = 50, 3.0  # the losses are read this often, whichever comes first: reading makes a GPU wait


class Run:
    """A network, its average and its optimiser at one step, and the folder that keeps them.

    ``.step``: steps taken; ``.whole``: False while one is under way; ``.history``: the cycles of the learning rate, see
    :meth:`Plan.history`. clock: seconds of training after which the run ends, whatever the number of images; the learning rate
    then follows the time. A folder with a checkpoint of the same run is gone on from.
    """

    def __init__(self, plan: Plan, workers: Workers, speed: Speed, out: Path | None = None, *, extend: bool = False,
                 clock: float | None = None, log: Callable[[str], None] = print) -> None:
        self.plan, self.workers, self.speed, self.clock = plan, workers, speed, clock
        recipe = plan.recipe
        with seeded_rng(recipe.seed, "build"):
            model = recipe.build()
        self.model = speed.place(model).train()
        self.ema = Ema(self.model, recipe.ema)
        self.optimiser = adamw(self.model, lr=plan.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, graph=speed.graph)
        self._update = GraphedStep(self._learn, speed.device) if speed.graph else self._learn
        self.finished = False
        self.step, self.whole, self.history = 0, True, plan.history()
        self.hardware = {"device": speed.device.type, "bf16": speed.bf16, "channels_last": speed.channels_last,
                         "threads": torch.get_num_threads(), "processes": workers.size}
        self.recent = self.rate = float("nan")
        self.seconds = 0.0  # of training, over all the times the run was taken up
        self.folder: RunFolder | None = None
        self._losses: list[torch.Tensor] = []  # on the device, since the last reading
        try:
            snapshot = None if out is None else workers.share(lambda: self._open(out, extend, log))
            if snapshot is not None:
                self.load(snapshot, log)
        except BaseException:
            self.close()
            raise
        self._read_at, self._read_step = time.monotonic(), self.step

    def _open(self, out: Path, extend: bool, log: Callable[[str], None]) -> Snapshot | None:
        """Process 0: take the folder and read the newest checkpoint."""
        if not self.plan.recipe.identity:
            log(f"Recipe {self.plan.recipe.name!r} names no identity=: other data or another objective would not be noticed.")
        shapes = {name: list(x.shape) for name, x in self.model.state_dict().items()}
        count = sum(p.numel() for p in self.model.parameters())
        network = f"{count:,} weights, shapes {key(repr(shapes)) >> 32:08x}"
        by = {} if self.clock is None else {"seconds_planned": round(self.clock, 3)}
        self.folder = RunFolder(out, {**self.plan.settings(), "network": network, **by}, log=log, extend=extend)
        snapshot, self.folder.snapshot = self.folder.snapshot, None
        return snapshot

    def load(self, snapshot: Snapshot, log: Callable[[str], None] = print) -> None:
        """Go on from ``snapshot``."""
        self.step = snapshot.step
        self.model.load_state_dict(snapshot.model)
        self.ema.model.load_state_dict(snapshot.ema)
        restore_moments(self.optimiser, self.model, snapshot.optimiser)
        meta = snapshot.meta
        self.seconds, self.history = meta.get("seconds", 0.0), meta.get("schedule_history", self.history)
        self.finished = bool(meta.get("finished"))
        earlier = self.history[-1][1]
        if self.clock is None and earlier != self.plan.images:
            self.history = [c for c in self.history if c[0] < self.images] + [[self.images, self.plan.images]]
            log(f"This run was planned for {earlier:,} images; from here on it is planned for {self.plan.images:,}.")
        before = meta.get("hardware", self.hardware)
        odds = [f"{k} {before.get(k)} then, {v} now" for k, v in self.hardware.items() if before.get(k) != v]
        if odds:
            log(f"The checkpoint was made otherwise ({', '.join(odds)}): the same run, no longer bit for bit.")

    def snapshot(self) -> Snapshot:
        history = self.history if self.clock is None else [[0, self.images]]
        meta = {"images": self.images, "schedule_history": history, "seconds": round(self.seconds, 1), "hardware": self.hardware}
        if self.clock is not None:
            meta["finished"] = self.finished
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
        number = self.step * self.workers.size + self.workers.rank
        # a recorded step draws from the device's own generator: putting that back would wait for the device
        with contextlib.nullcontext() if self.speed.graph else seeded_rng(recipe.seed, "step", number, device=device):
            batch = self.workers.rows(recipe.draw(self.step, plan.batch, device), plan.batch)
            batch = {name: self.speed.arrange(value) for name, value in batch.items()}
            self.step += 1
            set_lr(self.optimiser, self.lr())
            loss = self._update(batch)
        self.ema.update(self.model, self.step)
        self.whole = True
        self._losses.append(loss)
        return loss

    def _learn(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Forward, backward and update; returns the mean loss."""
        recipe = self.plan.recipe
        self.optimiser.zero_grad(set_to_none=True)
        with self.speed.autocast():
            rows = recipe.loss(self.model, batch)
        require(rows.ndim == 1, "recipe.loss", f"losses of shape {tuple(rows.shape)}", "one loss a row, shape (rows,)",
                "((a - b) ** 2).mean((1, 2, 3))")
        loss = rows.float().mean()
        loss.backward()
        loss = self.workers.average(self.model, loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimiser.step()
        return loss

    def lr(self) -> float:
        """The learning rate of the step that is being taken."""
        if self.clock is None:
            return self.plan.lr_at(self.images, self.history)
        return self.plan.lr_by_clock(self.images, self.spent() / self.clock)

    def spent(self) -> float:
        """Seconds of training so far, those since the last reading of the losses included."""
        return self.seconds + time.monotonic() - self._read_at

    @property
    def over(self) -> bool:
        """True when nothing is left to train."""
        return self.step >= self.plan.steps if self.clock is None else self.finished

    @contextlib.contextmanager
    def fast(self) -> Iterator[None]:
        """Compiled, cast and multiplied as the machine likes; the network's own forward comes back after."""
        hook = self.model.register_forward_hook(_to_float) if self.speed.bf16 else contextlib.nullcontext()
        if self.speed.compile:
            self.model.compile()
        if self.speed.graph:
            torch.cuda.manual_seed(key(self.plan.recipe.seed, "graph", self.step) & ((1 << 63) - 1))
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

    def keep(self, *, show: bool, save: bool) -> Path | None:
        """The preview first, since the checkpoint vouches for it; a preview that fails does not cost the checkpoint."""
        try:
            preview = self.preview() if show else None
        except Exception:
            self.save() if save else None
            raise
        self.save() if save else None
        return preview

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
        if self.clock is None:
            return f"step {self.step}, {self.images:,} of {self.plan.images:,} images"
        return f"step {self.step}, {self.images:,} images, {self.seconds:.0f} of {self.clock:.0f} s"

    def state(self, loss: torch.Tensor, preview: Path | None = None) -> TrainState:
        """What the loop yields."""
        total = self.plan.images
        if self.clock is not None:
            total = max(self.images, round(self.images * self.clock / max(self.spent(), 1e-9)))
        return TrainState(self.step, self.images, total, loss, self.recent, self.rate, self.model, self.ema.model,
                          preview)

    def close(self) -> None:
        if self.folder is not None:
            self.folder.close()


def _to_float(_model: nn.Module, _args: object, output: object) -> object:
    """Predictions leave a bfloat16 network as float32, so that losses are float32 arithmetic."""
    return tree_map(lambda x: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, output)
