"""Knobs of a panel: what they are called, what they range over, and the ipywidget behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minidiff.errors import require

__all__ = ["Knob", "slider", "choice", "toggle", "play", "button", "text"]


@dataclass(frozen=True)
class Knob:
    """One argument of a panel's render function. values: everything it can be, in order, for tests that visit all of it."""

    name: str
    kind: str
    value: Any
    values: tuple[Any, ...]
    live: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def widget(self) -> Any:
        """A new ipywidget, labelled and reachable by keyboard."""
        import ipywidgets as w

        label = {"description": self.name.replace("_", " "), "style": {"description_width": "90px"}}
        wide = w.Layout(width="440px")
        if self.kind == "choice":
            return w.Dropdown(options=list(self.values), value=self.value, layout=w.Layout(width="260px"), **label)
        if self.kind == "text":
            return w.Text(value=self.value, continuous_update=False, layout=wide, **label)
        if self.kind == "toggle":
            return w.Checkbox(value=self.value, indent=False, layout=wide, description=label["description"])
        if self.kind == "button":
            return w.Button(description=label["description"], layout=w.Layout(width="160px"))
        whole = all(isinstance(self.options[k], int) for k in ("min", "max", "step"))
        kind = w.IntSlider if whole else w.FloatSlider
        extra = {} if whole else {"readout_format": f".{self.options['digits']}f"}
        limits = {k: self.options[k] for k in ("min", "max", "step")}
        return kind(value=self.value, continuous_update=self.live, layout=wide, **limits, **extra, **label)


def slider(name: str, low: float, high: float, step: float, value: float | None = None, *, live: bool = True) -> Knob:
    """A slider from low to high. live: follow the hand (for what is computed beforehand); else act when it is let go."""
    require(
        isinstance(name, str) and name.isidentifier(), "name", repr(name), "the name of an argument of render", "slider('t', ...)"
    )
    require(
        low < high and step > 0, "low, high, step", (low, high, step), "low < high and a positive step", "slider('t', 0, 10, 1)"
    )
    value = low if value is None else value
    require(low <= value <= high, "value", value, f"a number from {low} to {high}")
    count = int(round((high - low) / step)) + 1
    whole = all(isinstance(v, int) for v in (low, high, step, value))
    digits = max(0, len(f"{step:.6f}".rstrip("0").partition(".")[2]))
    values = tuple(
        low + k * step if whole else round(low + k * step, digits + 3) for k in range(count) if low + k * step <= high + 1e-9
    )
    return Knob(name, "slider", value, values, live, {"min": low, "max": high, "step": step, "digits": digits})


def play(name: str, low: int, high: int, step: int = 1, value: int | None = None, *, milliseconds: int = 120) -> Knob:
    """A slider with a play button beside it; the slider alone does everything that the button does."""
    made = slider(name, low, high, step, value)
    return Knob(name, "play", made.value, made.values, True, made.options | {"interval": milliseconds})


def choice(name: str, values: Sequence[Any], value: Any = None) -> Knob:
    """A list to choose from."""
    require(len(values) > 0, "values", repr(values), "at least one value", "choice('solver', ('DDIM', '2M'))")
    value = values[0] if value is None else value
    require(value in values, "value", repr(value), f"one of {', '.join(map(repr, values))}")
    return Knob(name, "choice", value, tuple(values))


def toggle(name: str, value: bool = False) -> Knob:
    """On or off."""
    return Knob(name, "toggle", bool(value), (False, True))


def button(name: str) -> Knob:
    """A button; render gets the number of times it was pressed."""
    return Knob(name, "button", 0, (0, 1, 2))


def text(name: str, value: str, *, examples: Sequence[str] = ()) -> Knob:
    """A box to type into; it acts on Enter or when it is left. examples: further texts that a test of the panel visits."""
    require(all(isinstance(v, str) for v in (value, *examples)), "value", repr(value), "a string", "text('prompt', 'a red cat')")
    return Knob(name, "text", value, tuple(dict.fromkeys((value, *examples))), False)
