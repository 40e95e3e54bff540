"""Ctrl-C between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["DeferInterrupt"]


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
