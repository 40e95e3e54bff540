"""Where a run is, in one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from minidiff.train.state import TrainState

__all__ = ["Progress", "describe"]


def _duration(seconds: float) -> str:
    if not seconds < float("inf"):
        return "-"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"


def describe(state: TrainState) -> str:
    """Images, images a second, recent loss and time left."""
    rate = f"{state.rate:,.0f}" if state.rate >= 10 else f"{state.rate:.1f}"
    return (f"{state.images:,} of {state.total:,} images   {rate} images/s   loss {state.recent:.4f}   "
            f"{_duration(state.seconds_left)} left")


class Progress:
    """Prints a line about a run now and then: ``for state in Progress(fit(recipe)): ...``

    every: seconds between two lines. say: where lines go; by default one line that is written over in a terminal,
    and plain lines elsewhere. Never makes a GPU wait: it shows the losses that the loop has read anyway.
    """

    def __init__(self, states: Iterable[TrainState], *, every: float = 5.0, say: Callable[[str], None] | None = None) -> None:
        self.states, self.every, self.say = states, every, say

    def __iter__(self) -> Iterator[TrainState]:
        shown = time.monotonic() - self.every
        state = None
        for state in self.states:
            due = time.monotonic() - shown >= self.every and state.rate == state.rate
            if due or state.preview is not None:
                shown = time.monotonic()
                self._line(describe(state) + (f"   see {state.preview}" if state.preview is not None else ""))
            yield state
        if state is not None:
            self._line(describe(state), last=True)

    def _line(self, text: str, *, last: bool = False) -> None:
        if self.say is not None:
            self.say(text)
        elif sys.stderr.isatty():
            print(f"\r\x1b[2K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
