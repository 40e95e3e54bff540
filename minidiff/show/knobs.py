"""Knobs of a panel: what they are called, what they range over, and the ipywidget behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from minidiff.errors import require

__all__ = ["Knob", "Slider", "Play", "Seed", "Choice", "Toggle", "Text", "slider", "play", "seed", "choice", "toggle", "text"]

_WIDE, _LABEL = "440px", {"description_width": "90px"}


@dataclass(frozen=True)
class Knob:
    """One argument of a panel's render function.

    values: everything it can be, in order, for tests that visit all of it and for pictures fetched ahead.
    live: acts while a hand moves it (for what is drawn in an instant); else when it is let go.
    trait: the widget's trait that the page changes; place: how the page counts in ``values``, see :mod:`minidiff.show.front`.
    """

    name: str
    value: Any
    values: tuple[Any, ...]
    live: bool = True
    trait: ClassVar[str] = "value"
    place: ClassVar[str | None] = None

    @property
    def label(self) -> str:
        """The name as it stands beside the knob."""
        return self.name.replace("_", " ")

    def widget(self) -> Any:
        """A new ipywidget, labelled and reachable by keyboard."""
        raise NotImplementedError

    def read(self, widget: Any) -> Any:
        """What the widget stands at, as render gets it."""
        return getattr(widget, self.trait)

    def write(self, widget: Any, value: Any) -> None:
        """Move the widget."""
        setattr(widget, self.trait, value)

    def check(self, value: Any) -> None:
        """Raise BadInput for what the knob cannot be."""
        require(value in self.values, self.name, repr(value), f"one of {', '.join(map(repr, self.values))}")


@dataclass(frozen=True)
class Slider(Knob):
    """Numbers at equal steps; a value typed beside the slider is moved to the nearest of them."""

    digits: int = 0
    place: ClassVar[str | None] = "value"

    @property
    def step(self) -> float:
        """The distance of neighbours."""
        return self.values[1] - self.values[0]

    def nearest(self, value: float) -> int:
        """The position in ``values`` of the one nearest to ``value``."""
        return min(range(len(self.values)), key=lambda i: abs(self.values[i] - value))

    def widget(self) -> Any:
        """An IntSlider or FloatSlider."""
        import ipywidgets as w

        whole = isinstance(self.value, int)
        kind, extra = (w.IntSlider, {}) if whole else (w.FloatSlider, {"readout_format": f".{self.digits}f"})
        limits = {"min": self.values[0], "max": self.values[-1], "step": round(self.step, self.digits + 3)}
        return kind(value=self.value, continuous_update=self.live, description=self.label, style=_LABEL,
                    layout=w.Layout(width=_WIDE), **limits, **extra)

    def read(self, widget: Any) -> Any:
        """The value on the grid that is nearest to the widget's."""
        return self.values[self.nearest(widget.value)]

    def check(self, value: Any) -> None:
        """Raise BadInput for what is off the grid."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(number and abs(self.values[self.nearest(value)] - value) < 1e-6, self.name, repr(value),
                f"a number from {self.values[0]} to {self.values[-1]} in steps of {round(self.step, self.digits + 3)}")


@dataclass(frozen=True)
class Play(Slider):
    """A slider with a play button beside it."""

    milliseconds: int = 120


@dataclass(frozen=True)
class Seed(Slider):
    """A slider that moves on by one when the button of its panel is pressed again with all knobs as they stood."""


@dataclass(frozen=True)
class Choice(Knob):
    """A list to choose from."""

    place: ClassVar[str | None] = "index"

    def widget(self) -> Any:
        """A Dropdown."""
        import ipywidgets as w

        return w.Dropdown(options=list(self.values), value=self.value, description=self.label, style=_LABEL,
                          layout=w.Layout(width="260px"))


@dataclass(frozen=True)
class Toggle(Knob):
    """On or off."""

    place: ClassVar[str | None] = "value"

    def widget(self) -> Any:
        """A Checkbox."""
        import ipywidgets as w

        return w.Checkbox(value=self.value, indent=False, description=self.label, layout=w.Layout(width=_WIDE))


@dataclass(frozen=True)
class Text(Knob):
    """A box to type into; it acts on Enter or when it is left."""

    def widget(self) -> Any:
        """A Text."""
        import ipywidgets as w

        return w.Text(value=self.value, continuous_update=False, description=self.label, style=_LABEL,
                      layout=w.Layout(width="560px"))

    def check(self, value: Any) -> None:
        """Raise BadInput for what is no string."""
        require(isinstance(value, str), self.name, repr(value), "a string")


def _grid(name: str, low: float, high: float, step: float, value: float | None) -> dict[str, Any]:
    """The fields of a Slider: its values, exact to three digits more than the step has, and the one to begin with."""
    require(isinstance(name, str) and name.isidentifier(), "name", repr(name), "the name of an argument of render",
            "slider('t', ...)")
    require(low < high and step > 0, "low, high, step", (low, high, step), "low < high and a positive step",
            "slider('t', 0, 10, 1)")
    value = low if value is None else value
    count = round((high - low) / step)
    whole = all(isinstance(v, int) for v in (low, high, step, value))
    digits = max(0, len(f"{step:.6f}".rstrip("0").partition(".")[2]))
    values = tuple(low + k * step if whole else round(float(low + k * step), digits + 3) for k in range(count + 1))
    require(count > 0 and abs(values[-1] - high) < 1e-6, "high", high, f"a whole number of steps of {step} above {low}",
            f"slider({name!r}, {low}, {values[-1]}, {step})")
    near = min(values, key=lambda v: abs(v - value))
    require(abs(near - value) < 1e-6, "value", value, f"a number from {low} to {high} in steps of {step}", f"value={near}")
    return {"name": name, "value": near, "values": values, "digits": digits}


def slider(name: str, low: float, high: float, step: float, value: float | None = None, *, live: bool = True) -> Slider:
    """A slider from low to high in whole steps. live: follow the hand (for what is drawn at once); else act when let go."""
    return Slider(live=live, **_grid(name, low, high, step, value))


def play(name: str, low: int, high: int, step: int = 1, value: int | None = None, *, milliseconds: int = 120) -> Play:
    """A slider with a play button beside it; the slider alone does everything that the button does."""
    require(milliseconds >= 1, "milliseconds", milliseconds, "1 or more for each frame", "milliseconds=120")
    return Play(milliseconds=milliseconds, **_grid(name, low, high, step, value))


def seed(count: int = 20, value: int = 0, *, name: str = "seed") -> Seed:
    """Seeds 0 to count - 1. In a panel with a button, a second press without another move draws the next seed."""
    return Seed(live=False, **_grid(name, 0, count - 1, 1, value))


def choice(name: str, values: Sequence[Any], value: Any = None) -> Choice:
    """A list to choose from."""
    require(len(values) > 0, "values", repr(values), "at least one value", "choice('solver', ('DDIM', '2M'))")
    value = values[0] if value is None else value
    require(value in values, "value", repr(value), f"one of {', '.join(map(repr, values))}")
    return Choice(name, value, tuple(values))


def toggle(name: str, value: bool = False) -> Toggle:
    """On or off."""
    return Toggle(name, bool(value), (False, True))


def text(name: str, value: str, *, examples: Sequence[str] = ()) -> Text:
    """A box to type into; it acts on Enter or when it is left. examples: further texts that a test of the panel visits."""
    require(all(isinstance(v, str) for v in (value, *examples)), "value", repr(value), "a string", "text('prompt', 'a red cat')")
    return Text(name, value, tuple(dict.fromkeys((value, *examples))), live=False)
