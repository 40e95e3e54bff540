"""Visit the whole range of a panel's knobs, as a test should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from minidiff.errors import require

if TYPE_CHECKING:
    from minidiff.show.panels import Panel

__all__ = ["sweep"]


def sweep(panel: Panel, *, most: int = 12) -> Iterator[dict[str, Any]]:
    """Move each knob over its range (at most ``most`` stops, ends included), the others at their first value.

    Yields the knobs' values after each move; the panel draws at every stop, so an error in render comes through. At the
    end all knobs stand as they stood.
    """
    require(most >= 1, "most", most, "at least one stop a knob", "most=12")
    start = dict(panel.values)
    for name, spec in panel.specs.items():
        count = min(most, len(spec.values))
        for k in range(count):
            value = spec.values[round(k * (len(spec.values) - 1) / max(count - 1, 1))]
            panel.set(**{name: value})
            yield dict(panel.values)
        panel.set(**{name: start[name]})
