"""The one training loop: a generator that yields its state after every step, and can be killed and resumed anywhere."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils._pytree import tree_map

from minidiff.counter import key
from minidiff.errors import BadInput, require
from minidiff.train.checkpoint import Snapshot, Store
from minidiff.train.dice import dice
from minidiff.train.ema import Ema
from minidiff.train.files import disk_error
from minidiff.train.interrupt import Patience
from minidiff.train.losses import LossLog, read_losses
from minidiff.train.optimiser import adamw, moments, restore_moments
from minidiff.train.preview import save_preview
from minidiff.train.recipe import Plan, Recipe
from minidiff.train.speed import Speed, tuned
from minidiff.train.team import Team, team

__all__ = ["TrainState", "fit"]

READ_EVERY = 50  # steps between two looks at the losses: each look makes a GPU wait


@dataclass
class TrainState:
    """One step of a run, after it was taken.

    step: steps taken. images, total: images seen and to be seen. loss: 0-d tensor on the device, the mean of this
    step's batch (reading it makes a GPU wait). recent: mean loss of the last steps that were read (a float; NaN before
    the first reading). rate: images a second. model, ema: the networks. preview: the picture just written, or None.
    """

    step: int
    images: int
    total: int
    loss: torch.Tensor
    recent: float
    rate: float
    model: nn.Module
    ema: nn.Module
    preview: Path | None = None

    @property
    def seconds_left(self) -> float:
        return (self.total - self.images) / self.rate if self.rate > 0 else float("nan")


def fit(recipe: Recipe, *, budget: str = "laptop", images: int | None = None, minutes: float | None = None,
        device: str | torch.device | None = None, out: str | Path | None = None, save_every: int | None = None,
        preview_every: int | None = None, precision: str = "auto", compile: bool | None = None,
        say: Callable[[str], None] = print) -> Iterator[TrainState]:
    """Train ``recipe``; iterate over the result to make it run. Yields a :class:`TrainState` after every step.

    budget: which of the recipe's budgets gives the number of images; images: that number, instead. minutes: stop then
    (the learning rate follows the images, not the clock, so a stopped run can be taken up again). out: folder for
    checkpoints, losses and previews; None keeps nothing. To resume, call again with the same arguments: parameters,
    EMA, moments and losses are bit-equal to a run that was never stopped, on one machine with one number of threads.
    A run that is already complete yields its last state once. save_every, preview_every: in images; None = 50 and 10
    times a run. precision: auto, float32 or bf16 (auto: bf16 where the processor has it). compile: None = on CUDA.
    say: called with what a person should know, one sentence at a time.

    Raises BadInput or CheckpointError before any work starts; CheckpointError when the folder cannot be written;
    BadInput when the loss is no longer finite.
    """
    plan = recipe.plan(budget, images)
    require(minutes is None or minutes > 0, "minutes", minutes, "a positive number of minutes, or None for no limit")
    for name, value in (("save_every", save_every), ("preview_every", preview_every)):
        require(value is None or value > 0, name, value, "a positive number of images, or None")
    workers = team(device)
    workers.check(plan.batch)
    speed = Speed.choose(workers.device, precision=precision, compile=compile)
    run = _Run(plan, workers, speed, None if out is None else Path(out), save_every or max(1, plan.images // 50),
               preview_every or max(1, plan.images // 10), minutes, say if workers.rank == 0 else _silent)
    return run.states()


def _silent(_: str) -> None:
    pass


def _to_float(_model: nn.Module, _args: object, output: object) -> object:
    """Predictions leave a bfloat16 network as float32, so that losses are float32 arithmetic."""
    return tree_map(lambda x: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, output)


_RUNNING: weakref.WeakValueDictionary[Path, _Run] = weakref.WeakValueDictionary()


class _Run:
    def __init__(self, plan: Plan, workers: Team, speed: Speed, out: Path | None, save_every: int, preview_every: int,
                 minutes: float | None, say: Callable[[str], None]) -> None:
        self.plan, self.team, self.speed, self.out, self.say = plan, workers, speed, out, say
        self.save_every, self.preview_every, self.minutes = save_every, preview_every, minutes
        recipe = plan.recipe
        with dice(recipe.seed, "build"):
            model = recipe.build()
        self.model = speed.place(model).train()
        self.ema = Ema(self.model, recipe.ema)
        self.optimiser = adamw(self.model, lr=plan.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.step, self.whole = 0, True
        self.losses: list[torch.Tensor] = []
        self.recent, self.rate, self.spent = float("nan"), float("nan"), 0.0
        self.hook = None
        self.store: Store | None = None
        self.log: LossLog | None = None
        snapshot = workers.share(self._open)
        if snapshot is not None:
            self.step = snapshot.step
            self.model.load_state_dict(snapshot.model)
            self.ema.model.load_state_dict(snapshot.ema)
            self.spent = snapshot.meta.get("seconds", 0.0)
            restore_moments(self.optimiser, self.model, snapshot.optimiser)
            if snapshot.meta.get("made_on") != self._made_on():
                say(f"The checkpoint was made with {snapshot.meta.get('made_on')}, this run has {self._made_on()}: "
                    "the same run, no longer bit for bit.")
        if speed.compile:
            self.model.compile()
        if speed.bf16:
            self.hook = self.model.register_forward_hook(_to_float)

    def _open(self) -> Snapshot | None:
        """Process 0: take the folder, read the newest checkpoint."""
        if self.out is None:
            return None
        path = self.out.resolve()
        if (earlier := _RUNNING.get(path)) is not None:
            earlier.stop()  # a notebook cell that was interrupted and run again
        weights = {name: list(x.shape) for name, x in self.model.state_dict().items()}
        self.store = Store(self.out, {**self.plan.settings(), "weights": f"{key(repr(weights)):016x}"}, say=self.say)
        snapshot = self.store.load()
        try:
            self.log = LossLog(self.out, snapshot.step if snapshot else 0)
        except OSError as error:
            raise disk_error(self.out, error, self.store.kept()) from error
        _RUNNING[path] = self
        return snapshot

    def states(self) -> Iterator[TrainState]:
        iterator = self._states()
        self._iterator = weakref.ref(iterator)
        return iterator

    def stop(self) -> None:
        """Save and let go of the folder, if the run is between two steps."""
        iterator = self._iterator()
        if iterator is not None:
            iterator.close()
        self._close()

    def _states(self) -> Iterator[TrainState]:
        plan, steps = self.plan, self.plan.steps
        began = self._mark = time.monotonic()
        self._marked = self.step
        try:
            if self.step >= steps:
                self.say(f"This run is complete: {self._seen():,} images.")
                yield self._state(self._last_loss())
                return
            if self.step:
                self.say(f"Going on from step {self.step} ({self._seen():,} of {plan.images:,} images).")
            with tuned(self.speed.device):
                while self.step < steps:
                    with Patience():  # Ctrl-C waits until the step is whole
                        self.whole = False
                        loss = self._take_step()
                        self.whole = True
                        last = self.step == steps
                        read = last or self.step % READ_EVERY == 0
                        if read:
                            self._read_losses()
                        late = self.minutes is not None and time.monotonic() - began > 60 * self.minutes
                        if self.team.size > 1:
                            late = read and self.team.agree(late)
                        if last or late or self._due(self.save_every):
                            self._save()
                    preview = self._preview() if last or self._due(self.preview_every) else None
                    yield self._state(loss, preview)
                    if late and not last:
                        self.say(f"{self.minutes:g} minutes are over at step {self.step}, {self._seen():,} of {plan.images:,} images. "
                                 "To go on, run the same command again.")
                        return
        except (KeyboardInterrupt, GeneratorExit):
            if self.whole and self.store is not None and not sys.is_finalizing():
                with Patience():
                    self._save()
                self.say(f"Stopped and saved at step {self.step} of {steps} in {self.out}. To go on, run the same command again.")
            raise
        finally:
            self._close()

    def _take_step(self) -> torch.Tensor:
        """One optimiser step on batch number ``self.step``; nothing in here waits for a GPU."""
        plan, recipe, device = self.plan, self.plan.recipe, self.speed.device
        with dice(recipe.seed, "step", self.step * self.team.size + self.team.rank, device=device):
            batch = self.team.rows(recipe.draw(self.step, plan.batch, device), plan.batch)
            batch = {name: self.speed.arrange(value) for name, value in batch.items()}
            if not self.model.training:
                self.model.train()
            with self.speed.autocast():
                rows = recipe.loss(self.model, batch)
            loss = rows.float().mean()
            loss.backward()
        loss = self.team.average(self.model, loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.step += 1
        for group in self.optimiser.param_groups:
            group["lr"] = plan.lr_at(self._seen())
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update(self.model, self.step)
        self.losses.append(loss)
        return loss

    def _seen(self) -> int:
        return self.step * self.plan.batch

    def _due(self, every: int) -> bool:
        """True when this step went over a multiple of ``every`` images."""
        return self._seen() // every > (self._seen() - self.plan.batch) // every

    def _state(self, loss: torch.Tensor, preview: Path | None = None) -> TrainState:
        return TrainState(self.step, self._seen(), self.plan.images, loss, self.recent, self.rate, self.model, self.ema.model, preview)

    def _read_losses(self) -> None:
        """Bring the losses since the last reading to the CPU (the one wait for a GPU), check them, log them."""
        if not self.losses:
            return
        losses = torch.stack(self.losses).float().cpu()
        first = self.step - len(losses)
        self.losses.clear()
        if not losses.isfinite().all():
            bad = first + int((~losses.isfinite()).nonzero()[0])
            kept = "nothing was saved" if self.store is None else self.store.kept()
            raise BadInput("loss", f"{float(losses[bad - first])} at step {bad}", "a finite number",
                           f"a smaller lr or clip in the recipe, and a new folder ({kept})")
        now = time.monotonic()
        self.recent, self.rate = float(losses.mean()), (self.step - self._marked) * self.plan.batch / max(now - self._mark, 1e-9)
        self.spent, self._mark, self._marked = self.spent + now - self._mark, now, self.step
        if self.log is not None:
            try:
                self.log.append(losses)
            except OSError as error:
                raise disk_error(self.log.path.parent, error, self.store.kept()) from error

    def _save(self) -> None:
        self._read_losses()
        if self.store is None or self.store.saved == self.step:
            return
        try:
            self.log.sync()
        except OSError as error:
            raise disk_error(self.out, error, self.store.kept()) from error
        model = self.model.state_dict()
        if not all(x.isfinite().all() for x in model.values() if x.is_floating_point()):
            raise BadInput("weights", f"a number that is not finite after step {self.step}", "finite weights",
                           f"a smaller lr or clip in the recipe, and a new folder ({self.store.kept()})")
        meta = {"images": self._seen(), "seconds": round(self.spent, 1), "made_on": self._made_on()}
        self.store.save(Snapshot(self.step, model, self.ema.model.state_dict(), moments(self.optimiser, self.model), meta))

    def _made_on(self) -> dict[str, object]:
        return {"device": self.speed.device.type, "bf16": self.speed.bf16, "threads": torch.get_num_threads(), "processes": self.team.size}

    def _preview(self) -> Path | None:
        recipe = self.plan.recipe
        if recipe.preview is None or self.log is None:
            return None
        with dice(recipe.seed, "preview", device=self.speed.device), torch.no_grad():
            images = recipe.preview(self.ema.model)
        if images is None:
            return None
        try:
            return save_preview(images, self.out / "previews" / f"{self._seen():010d}.png")
        except OSError as error:
            raise disk_error(self.out, error, self.store.kept()) from error

    def _last_loss(self) -> torch.Tensor:
        losses = torch.empty(0) if self.out is None else read_losses(self.out)
        return losses[-1] if len(losses) else torch.tensor(float("nan"))

    def _close(self) -> None:
        if self.hook is not None:
            self.hook.remove()
        if self.log is not None:
            self.log.close()
        if self.store is not None:
            self.store.close()
