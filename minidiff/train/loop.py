"""The one training loop: a generator that yields its state after every step, and can be killed and resumed anywhere."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from minidiff.errors import BadInput, require
from minidiff.train.distributed import Workers, distributed
from minidiff.train.progress import TrainState
from minidiff.train.recipe import Plan, Recipe
from minidiff.train.run import Run
from minidiff.train.speed import Speed

__all__ = ["DeferInterrupt", "fit"]

AGAIN = "To go on, run the same command again."


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
    compile: None = on CUDA. extend: go on with a run that was planned for another number of images: a warm restart, a new
    cycle of the learning rate from there to the new end; every checkpoint keeps the list of cycles. say: called with what
    a person should know, one sentence at a time.

    Raises BadInput before any work starts; CheckpointError when the folder holds another run, is in use or cannot be
    written; BadInput when the loss is no longer finite.
    """
    plan = recipe.plan(budget, images)
    require(minutes is None or minutes > 0, "minutes", minutes, "a positive number of minutes, or None for no limit")
    for name, value in (("save_every", save_every), ("preview_every", preview_every)):
        require(value is None or value > 0, name, value, "a positive number of images, or None")
    workers = distributed(device)
    workers.check(plan.batch)
    speed = Speed.choose(workers.device, precision=precision, compile=compile)
    out = None if out is None else Path(out)
    where = None if out is None else out.resolve()
    earlier = _RUNNING.pop(where, None)
    if earlier is not None:  # a notebook cell that was interrupted and is run again
        earlier.close()
    states = _states(plan, workers, speed, out, minutes=minutes, save_every=save_every or max(1, plan.images // 50),
                     preview_every=preview_every or max(1, plan.images // 10), extend=extend,
                     say=say if workers.rank == 0 else lambda _: None)
    if where is not None:
        _RUNNING[where] = states
    return states


_RUNNING: weakref.WeakValueDictionary[Path, Any] = weakref.WeakValueDictionary()  # the loops of this process that write


def _states(plan: Plan, workers: Workers, speed: Speed, out: Path | None, *, minutes: float | None, save_every: int,
            preview_every: int, extend: bool, say: Callable[[str], None]) -> Iterator[TrainState]:
    """When to read, save, show and stop."""
    with contextlib.closing(Run(plan, workers, speed, out, extend=extend, say=say)) as run:
        if run.step >= plan.steps:
            say(f"This run is complete: {run.images:,} images.")
            yield run.state(torch.tensor(float("nan")) if run.folder is None else run.folder.last_loss())
            return
        if run.step:
            say(f"Going on from {run.where()}.")
        end = None if minutes is None else time.monotonic() + 60 * minutes
        try:
            with run.fast():
                while run.step < plan.steps:
                    with DeferInterrupt():  # Ctrl-C waits until the step is whole
                        loss = run.take_step()
                        last, late = run.step == plan.steps, run.late(end)
                        run.read_losses(now=last)
                        if last or late or run.due(save_every):
                            run.save()
                    yield run.state(loss, run.preview() if last or run.due(preview_every) else None)
                    if late and not last:
                        say(f"{minutes:g} minutes are over at {run.where()}. {AGAIN}")
                        return
        except (KeyboardInterrupt, GeneratorExit):
            if run.whole and run.folder is not None and not sys.is_finalizing():
                try:
                    with DeferInterrupt():
                        run.save()
                    say(f"Stopped and saved at {run.where()}. {AGAIN}")
                except BadInput as error:  # it must not hide what stopped the run
                    say(f"Stopped at {run.where()}, and could not save. {error}")
            raise


class DeferInterrupt:
    """Holds back the first Ctrl-C until the block ends, so that weights, moments and files agree with each other.

    A second Ctrl-C is let through at once. Outside the main thread, which never sees Ctrl-C, this does nothing.
    """

    def __enter__(self) -> DeferInterrupt:
        self._seen: tuple[int, FrameType | None] | None = None
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._catch)
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._seen is not None:
            self._before(number, frame)
        self._seen = (number, frame)

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._seen is not None and error[0] is None:
                self._before(*self._seen)
