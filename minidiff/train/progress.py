"""What the training loop yields, and where a run is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

__all__ = ["Progress", "TrainState", "describe"]


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


def describe(state: TrainState) -> str:
    """Images, images a second, recent loss and time left: those of them that are known."""
    parts = [f"{state.images:,} of {state.total:,} images"]
    if state.rate == state.rate:  # not before the first reading, and not of a run that was complete already
        parts.append(f"{state.rate:,.0f} images/s" if state.rate >= 10 else f"{state.rate:.1f} images/s")
    if state.recent == state.recent:
        parts.append(f"loss {state.recent:.4f}")
    if state.images < state.total and state.seconds_left < float("inf"):
        parts.append(f"{tqdm.format_interval(state.seconds_left)} left")
    return "   ".join(parts)


class Progress:
    """Shows where a run is: ``for state in Progress(fit(recipe)): ...``

    every: seconds between two lines. log: where lines go; by default a tqdm bar in a terminal, and lines to stderr
    elsewhere. Never makes a GPU wait: it shows the losses that the loop has read anyway.
    """

    def __init__(self, states: Iterable[TrainState], *, every: float = 5.0, log: Callable[[str], None] | None = None) -> None:
        self.states, self.every, self.log = states, every, log

    def __iter__(self) -> Iterator[TrainState]:
        if self.log is not None:
            return self._lines(self.log)
        return self._bar() if sys.stderr.isatty() else self._lines(functools.partial(print, file=sys.stderr, flush=True))

    def _bar(self) -> Iterator[TrainState]:
        bar = None
        try:
            for state in self.states:
                if bar is None:
                    bar = tqdm(total=state.total, initial=state.images, unit=" images", smoothing=0.05)
                if state.recent == state.recent:
                    bar.set_postfix_str(f"loss {state.recent:.4f}", refresh=False)
                if state.preview is not None:
                    bar.write(f"see {state.preview}", file=sys.stderr)
                bar.update(state.images - bar.n)
                yield state
        finally:
            if bar is not None:
                bar.close()

    def _lines(self, log: Callable[[str], None]) -> Iterator[TrainState]:
        shown = time.monotonic() - self.every
        state = None
        for state in self.states:
            due = time.monotonic() - shown >= self.every and state.rate == state.rate
            if due or state.preview is not None:
                shown = time.monotonic()
                log(describe(state) + (f"   see {state.preview}" if state.preview is not None else ""))
            yield state
        if state is not None:
            log(describe(state))
