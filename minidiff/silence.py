"""Loading models without the chatter of their libraries: progress bars, and a note about a package the course does not need."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["silence_libraries"]

_NOTE = "requires torchvision"      # transformers, of image processors that nobody here uses


class _Heard(logging.Handler):
    """Keeps what the libraries log, as text."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def silence_libraries(*, bars: bool = False) -> Iterator[list[str]]:
    """``with silence_libraries() as messages:`` diffusers and transformers draw no progress bars and do not ask for torchvision.

    Everything else that they log still appears, and is in ``messages`` as well. bars: leave the bars on (for a download).
    Their settings are afterwards as they were before, whatever happens.
    """
    from diffusers.utils import logging as diffusers_log
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    shown, hub = [log.is_progress_bar_enabled() for log in logs], not are_progress_bars_disabled()
    heard = _Heard()
    roots = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    source = logging.getLogger("transformers.utils.import_utils")

    def wanted(record: logging.LogRecord) -> bool:
        return _NOTE not in record.getMessage()

    source.addFilter(wanted)
    for root in roots:
        root.addHandler(heard)
    if not bars:
        for log in logs:
            log.disable_progress_bar()
    try:
        yield heard.messages
    finally:
        source.removeFilter(wanted)
        for root in roots:
            root.removeHandler(heard)
        for log, was in zip(logs, shown):
            (log.enable_progress_bar if was else log.disable_progress_bar)()
        (enable_progress_bars if hub else disable_progress_bars)()
