"""The one training loop: a generator that yields its state after every step, and can be killed and resumed anywhere."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch

from minidiff.errors import BadInput, require
from minidiff.rng import key
from minidiff.train.checkpoint import Snapshot
from minidiff.train.dice import dice
from minidiff.train.interrupt import DeferInterrupt
from minidiff.train.recipe import Plan, Recipe
from minidiff.train.record import Record
from minidiff.train.speed import Speed, tuned
from minidiff.train.state import TrainState
from minidiff.train.team import Team, team
from minidiff.train.trainer import Trainer

__all__ = ["fit"]

AGAIN = "To go on, run the same command again."
READ_STEPS, READ_SECONDS = 50, 3.0  # the losses are read this often, whichever comes first: reading makes a GPU wait


def fit(recipe: Recipe, *, budget: str = "laptop", images: int | None = None, minutes: float | None = None,
        device: str | torch.device | None = None, out: str | Path | None = None, save_every: int | None = None,
        preview_every: int | None = None, precision: str = "auto", compile: bool | None = None, extend: bool = False,
        say: Callable[[str], None] = print) -> Iterator[TrainState]:
    """Train ``recipe``; iterate over the result to make it run. Yields a :class:`TrainState` after every step.

    budget: which of the recipe's budgets gives the number of images; images: that number, instead. minutes: stop then
    (the learning rate follows the images, not the clock, so a stopped run can be taken up again). out: folder for
    checkpoints, losses and previews; None keeps nothing. To resume, call again with the same arguments: parameters,
    EMA, moments and losses are bit-equal to a run that was never stopped, on one machine with one number of threads.
    A run that is already complete yields its last state once. save_every, preview_every: in images; None = 50 and 10
    times a run. precision: auto, float32 or bf16 (auto: see :func:`~minidiff.train.speed.automatic_bf16`).
    compile: None = on CUDA.
    extend: go on with a run that was planned for another number of images; its learning rate follows the new plan from
    there on, and every checkpoint keeps the list of plans. say: called with what a person should know, one sentence at a time.

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
    out = None if out is None else Path(out)
    where = None if out is None else out.resolve()
    earlier = _RUNNING.pop(where, None)
    if earlier is not None:  # a notebook cell that was interrupted and is run again
        earlier.stop()
    run = _Run(plan, workers, speed, out, minutes, say if workers.rank == 0 else _silent,
               save_every=save_every or max(1, plan.images // 50), preview_every=preview_every or max(1, plan.images // 10),
               extend=extend)
    if where is not None:
        _RUNNING[where] = run
    return run.start()


_RUNNING: weakref.WeakValueDictionary[Path, _Run] = weakref.WeakValueDictionary()  # the runs of this process that write


def _silent(_: str) -> None:
    pass


class _Run:
    """When to read, save, show and stop."""

    def __init__(self, plan: Plan, workers: Team, speed: Speed, out: Path | None, minutes: float | None,
                 say: Callable[[str], None], *, save_every: int, preview_every: int, extend: bool) -> None:
        self.plan, self.team, self.minutes, self.say = plan, workers, minutes, say
        self.save_every, self.preview_every = save_every, preview_every
        self.record: Record | None = None
        self.trainer = Trainer(plan, workers, speed)
        self.losses: list[torch.Tensor] = []  # on the device, since the last reading
        self.recent = self.rate = float("nan")
        self.spent = 0.0  # seconds of training, over all the times the run was taken up
        self.extend, self.plans = extend, [[0, plan.images]]  # from which image on the run was planned for how many
        self.made_on = {"device": speed.device.type, "bf16": speed.bf16, "threads": torch.get_num_threads(),
                        "processes": workers.size}
        try:
            snapshot = workers.share(lambda: self._open(out))
            if snapshot is not None:
                self._restore(snapshot)
        except BaseException:
            self._close()
            raise

    def _open(self, out: Path | None) -> Snapshot | None:
        """Process 0: take the folder and read the newest checkpoint."""
        if out is None:
            return None
        shapes = {name: list(x.shape) for name, x in self.trainer.model.state_dict().items()}
        count = sum(p.numel() for p in self.trainer.model.parameters())
        network = f"{count:,} weights, shapes {key(repr(shapes)) >> 32:08x}"
        self.record = Record(out, {**self.plan.settings(), "network": network}, say=self.say, extend=self.extend)
        snapshot, self.record.snapshot = self.record.snapshot, None
        return snapshot

    def _restore(self, snapshot: Snapshot) -> None:
        self.trainer.restore(snapshot)
        self.spent = snapshot.meta.get("seconds", 0.0)
        earlier = snapshot.meta["settings"]["images"]
        self.plans = snapshot.meta.get("plans", [[0, earlier]])
        if earlier != self.plan.images:
            self.plans = [*self.plans, [self.trainer.images, self.plan.images]]
            self.say(f"This run was planned for {earlier:,} images; from here on it is planned for {self.plan.images:,}.")
        before = snapshot.meta.get("made_on", {})
        odds = [f"{k} {before.get(k)} then, {v} now" for k, v in self.made_on.items() if before.get(k) != v]
        if odds:
            self.say(f"The checkpoint was made otherwise ({', '.join(odds)}): the same run, no longer bit for bit.")

    def start(self) -> Iterator[TrainState]:
        iterator = self._states()
        self._iterator = weakref.ref(iterator)  # weak, so that a loop that is left closes the run at once
        return iterator

    def stop(self) -> None:
        """Save and let go of the folder."""
        iterator = self._iterator()
        if iterator is not None:
            iterator.close()
        self._close()

    def _states(self) -> Iterator[TrainState]:
        trainer = self.trainer
        self._mark, self._marked = time.monotonic(), trainer.step
        self._end = self._mark + 60 * self.minutes if self.minutes is not None else None
        try:
            if trainer.step >= self.plan.steps:
                self.say(f"This run is complete: {trainer.images:,} images.")
                yield self._state(torch.tensor(float("nan")) if self.record is None else self.record.last_loss())
                return
            if trainer.step:
                self.say(f"Going on from {self._where()}.")
            trainer.speed_up()
            with tuned(self.team.device):
                while trainer.step < self.plan.steps:
                    with DeferInterrupt():  # Ctrl-C waits until the step is whole
                        loss = trainer.take_step()
                        self.losses.append(loss)
                        last, late = trainer.step == self.plan.steps, self._late()
                        if last or trainer.step % READ_STEPS == 0 or time.monotonic() - self._mark > READ_SECONDS:
                            self._read_losses()
                        if last or late or self._due(self.save_every):
                            self._save()
                    yield self._state(loss, self._preview() if last or self._due(self.preview_every) else None)
                    if late and not last:
                        self.say(f"{self.minutes:g} minutes are over at {self._where()}. {AGAIN}")
                        return
        except (KeyboardInterrupt, GeneratorExit):
            if trainer.whole and self.record is not None and not sys.is_finalizing():
                self._save_and_say()
            raise
        finally:
            self._close()

    def _save_and_say(self) -> None:
        """On the way out, where an error would hide what stopped the run."""
        try:
            with DeferInterrupt():
                self._save()
            self.say(f"Stopped and saved at {self._where()}. {AGAIN}")
        except BadInput as error:
            self.say(f"Stopped at {self._where()}, and could not save. {error}")

    def _late(self) -> bool:
        """True when the time is over; several processes ask the first one, now and then."""
        late = self._end is not None and time.monotonic() > self._end
        if self.team.size == 1 or self._end is None:
            return late
        return self.trainer.step % READ_STEPS == 0 and self.team.agree(late)

    def _where(self) -> str:
        return f"step {self.trainer.step}, {self.trainer.images:,} of {self.plan.images:,} images"

    def _due(self, every: int) -> bool:
        """True when this step went over a multiple of ``every`` images."""
        images = self.trainer.images
        return images // every > (images - self.plan.batch) // every

    def _state(self, loss: torch.Tensor, preview: Path | None = None) -> TrainState:
        trainer = self.trainer
        return TrainState(trainer.step, trainer.images, self.plan.images, loss, self.recent, self.rate, trainer.model,
                          trainer.ema.model, preview)

    def _read_losses(self) -> None:
        """Bring the losses since the last reading to the CPU, check them, log them."""
        if not self.losses:
            return
        losses, step = torch.stack(self.losses).float().cpu(), self.trainer.step
        self.losses.clear()
        if not losses.isfinite().all():
            first = int((~losses.isfinite()).nonzero()[0])
            self._diverged(f"a loss of {float(losses[first])} at step {step - len(losses) + first + 1}")
        now = time.monotonic()
        self.recent, self.rate = float(losses.mean()), (step - self._marked) * self.plan.batch / max(now - self._mark, 1e-9)
        self.spent, self._mark, self._marked = self.spent + now - self._mark, now, step
        if self.record is not None:
            self.record.add_losses(losses)

    def _diverged(self, got: str) -> NoReturn:
        kept = "nothing was saved" if self.record is None else self.record.kept()
        raise BadInput(f"recipe {self.plan.recipe.name!r}", got, "finite numbers",
                       f"a smaller lr or clip, and a new folder ({kept})")

    def _save(self) -> None:
        """Write a checkpoint, unless this step has one; never one that holds NaN."""
        if self.record is None or self.record.step == self.trainer.step:
            return
        self._read_losses()
        if not self.trainer.finite():
            self._diverged(f"a weight that is not finite after step {self.trainer.step}")
        self.record.save(self.trainer.snapshot({"images": self.trainer.images, "plans": self.plans,
                                                "seconds": round(self.spent, 1), "made_on": self.made_on}))

    def _preview(self) -> Path | None:
        recipe = self.plan.recipe
        if recipe.preview is None or self.record is None:
            return None
        with dice(recipe.seed, "preview", device=self.team.device), torch.no_grad():
            images = recipe.preview(self.trainer.ema.model)
        return None if images is None else self.record.preview(images, self.trainer.images)

    def _close(self) -> None:
        self.trainer.slow_down()
        if self.record is not None:
            self.record.close()

    __del__ = _close
