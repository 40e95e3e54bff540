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

__all__ = ["DeferInterrupt", "Terminated", "ends_on_sigterm", "fit"]

AGAIN = "To go on, run the same command again."


def fit(recipe: Recipe, *, budget: str = "laptop", images: int | None = None, minutes: float | None = None,
        device: str | torch.device | None = None, out: str | Path | None = None, save_every: int | None = None,
        preview_every: int | None = None, precision: str = "auto", compile: bool = False, extend: bool = False,
        by_clock: bool = False, log: Callable[[str], None] = print) -> Iterator[TrainState]:
    """Train ``recipe``; iterate over the result to make it run. Yields a :class:`TrainState` after every step.

    budget: which of the recipe's budgets gives the number of images; images: that number, instead. minutes: stop then (the
    learning rate follows the images, not the clock, so a stopped run can be taken up again). by_clock: the whole run takes
    ``minutes``, however many images that makes; the learning rate follows the time of training and ends at its end, also when
    the run is stopped and taken up again. out: folder for checkpoints, losses and previews; None keeps nothing. To resume,
    call again with the same arguments: parameters, EMA, moments and losses are bit-equal to a run that was never stopped, on
    one machine with one number of threads. SIGTERM during a step saves as Ctrl-C does.
    A run that is already complete yields its last state once. save_every, preview_every: in images; None = 50 and 10 times a
    run. precision: auto, float32 or bf16 (auto: see :func:`~minidiff.train.speed.automatic_bf16`). compile: with torch.compile;
    without it a step on CUDA is one CUDA graph. extend: go on with a run that was planned for another number of images: a warm
    restart, a new cycle of the learning rate from there to the new end; every checkpoint keeps the list of cycles. log: called
    with what a person should know, one sentence at a time.

    Raises BadInput before any work starts; CheckpointError when the folder holds another run, is in use or cannot be
    written; BadInput when the loss is no longer finite.
    """
    plan = recipe.plan(budget, images)
    require(minutes is None or minutes > 0, "minutes", minutes, "a positive number of minutes, or None for no limit")
    for name, value in (("save_every", save_every), ("preview_every", preview_every)):
        require(value is None or value > 0, name, value, "a positive number of images, or None")
    require(minutes is not None or not by_clock, "by_clock", "True without minutes", "minutes, which are the length of the run",
            "fit(recipe, minutes=9, by_clock=True)")
    require(not (by_clock and extend), "extend", "True with by_clock=True", "one of the two: a run by the clock has one length")
    workers = distributed(device)
    workers.check(plan.batch)
    require(workers.size == 1 or not by_clock, "by_clock", f"True in {workers.size} processes", "one process")
    speed = Speed.choose(workers.device, precision=precision, compile=compile, alone=workers.size == 1)
    out = None if out is None else Path(out)
    where = None if out is None else out.resolve()
    earlier = _RUNNING.pop(where, None)
    if earlier is not None:  # a notebook cell that was interrupted and is run again
        earlier.close()
    log = log if workers.rank == 0 else lambda _: None
    if by_clock:
        states = _by_clock(plan, workers, speed, out, 60 * minutes, log)
    else:
        states = _states(plan, workers, speed, out, minutes=minutes, save_every=save_every or max(1, plan.images // 50),
                         preview_every=preview_every or max(1, plan.images // 10), extend=extend, log=log)
    if where is not None:
        _RUNNING[where] = states
    return states


_RUNNING: weakref.WeakValueDictionary[Path, Any] = weakref.WeakValueDictionary()  # the loops of this process that write


def _states(plan: Plan, workers: Workers, speed: Speed, out: Path | None, *, minutes: float | None, save_every: int,
            preview_every: int, extend: bool, log: Callable[[str], None]) -> Iterator[TrainState]:
    """When to read, save, show and stop."""
    with contextlib.closing(Run(plan, workers, speed, out, extend=extend, log=log)) as run:
        if run.over:
            yield _complete(run, log)
            return
        if run.step:
            log(f"Going on from {run.where()}.")
        end = None if minutes is None else time.monotonic() + 60 * minutes
        with _saved_when_stopped(run, log), run.fast():
            while not run.over:
                with DeferInterrupt():  # Ctrl-C waits until the step is whole
                    loss = run.take_step()
                    last, late = run.over, run.late(end)
                    run.read_losses(now=last)
                    preview = run.keep(show=last or run.due(preview_every), save=last or late or run.due(save_every))
                yield run.state(loss, preview)
                if late and not last:
                    over = "minute is" if minutes == 1 else "minutes are"
                    log(f"{minutes:g} {over} over at {run.where()}. {AGAIN}")
                    return


SAVE_SECONDS = 45.0  # between two checkpoints of a run by the clock


def _by_clock(plan: Plan, workers: Workers, speed: Speed, out: Path | None, seconds: float,
              log: Callable[[str], None]) -> Iterator[TrainState]:
    """Steps until ``seconds`` of training are over."""
    with contextlib.closing(Run(plan, workers, speed, out, clock=seconds, log=log)) as run:
        if run.over:
            yield _complete(run, log)
            return
        if run.step:
            log(f"Going on from {run.where()}.")
        saved = time.monotonic()
        with _saved_when_stopped(run, log), run.fast():
            while not run.over:
                with DeferInterrupt():
                    loss = run.take_step()
                    run.finished = run.spent() >= seconds
                    run.read_losses(now=run.over)
                    save = run.over or time.monotonic() - saved > SAVE_SECONDS
                    preview, saved = run.keep(show=run.over, save=save), time.monotonic() if save else saved
                yield run.state(loss, preview)


def _complete(run: Run, log: Callable[[str], None]) -> TrainState:
    log(f"This run is complete: {run.images:,} images.")
    return run.state(torch.tensor(float("nan")) if run.folder is None else run.folder.last_loss())


class Terminated(KeyboardInterrupt):
    """SIGTERM: what stops a process politely (``kill``, a queue, a container). It saves and ends the run as Ctrl-C does."""


@contextlib.contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """In the block SIGTERM raises :class:`Terminated`, where Python can set a handler at all (the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def terminate(_number: int, _frame: FrameType | None) -> None:
    """A handler for SIGTERM."""
    raise Terminated


@contextlib.contextmanager
def _saved_when_stopped(run: Run, log: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed loop leave a checkpoint behind."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        if run.whole and run.folder is not None and not sys.is_finalizing():
            try:
                with DeferInterrupt():
                    run.save()
                log(f"Stopped and saved at {run.where()}. {AGAIN}")
            except BadInput as error:  # it must not hide what stopped the run
                log(f"Stopped at {run.where()}, and could not save. {error}")
        raise


class DeferInterrupt:
    """Holds back the first Ctrl-C or SIGTERM until the block ends, so that weights, moments and files agree with each other.

    A second one is let through at once. SIGTERM then becomes :class:`Terminated`, unless the program has a handler of its own.
    Outside the main thread, which never sees signals, this does nothing.
    """

    def __enter__(self) -> DeferInterrupt:
        self._seen: tuple[int, FrameType | None] | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if callable(before) or (number == signal.SIGTERM and before is signal.SIG_DFL):
                    self._before[number] = before
                    signal.signal(number, self._catch)
        return self

    def _act(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        (before if callable(before) else terminate)(number, frame)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._seen is not None:
            self._act(number, frame)
        self._seen = (number, frame)

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._seen is not None and error[0] is None:
            self._act(*self._seen)
