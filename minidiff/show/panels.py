"""A thin live panel around a pure render function; on pages without a kernel it is the picture of its first state."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ipywidgets as widgets
import numpy as np

from minidiff.errors import BadInput, require
from minidiff.show.canvas import Mask
from minidiff.show.front import BUSY, LATE, STALE, front
from minidiff.show.knobs import Knob, Play, Seed, Slider
from minidiff.show.saving import VIEW
from minidiff.show.sheet import Picture, encode, picture
from minidiff.show.stills import with_knobs
from minidiff.show.theme import DENSITY

__all__ = ["Panel", "panel"]

_WIDEST = 700  # display pixels: the width of a notebook column


def _lines(text: str) -> str:
    """Text as an HTML widget shows it; a Label would not wrap it."""
    return html.escape(text, quote=False)


class Panel(widgets.VBox):
    """Knobs, a line of text, one picture, a caption. ``panel.set(t=3)`` moves a knob from Python, through its widget.

    knobs: name -> widget; button: the widget of the action, if any; image: the picture's widget.
    text: the line above the picture, which says what the picture shows, or why there is no new one.
    stale: whether the knobs have moved on since the picture was drawn.
    """

    def __init__(self, render: Callable[..., Any], knobs: tuple[Knob, ...], *, action: str, check: Callable[..., str] | None,
                 caption: str, alt: str) -> None:
        self.render, self.action, self.check, self.alt = render, action, check, alt
        self.specs = {k.name: k for k in knobs}
        self.knobs = {k.name: k.widget() for k in knobs}
        wide = widgets.Layout(max_width=f"{_WIDEST}px")
        self.image, self.status = widgets.Image(format="png"), widgets.HTML(layout=wide)
        self.button = widgets.Button(description=action, layout=widgets.Layout(width="160px")) if action else None
        self.stale, self._quiet = False, False
        array, text = self._draw(self.values)
        drawn = with_knobs(array, [(k, k.value) for k in knobs], text=text, action=action)
        self.still = picture(drawn, alt=alt, caption=caption)
        for name, handle in self.knobs.items():
            handle.observe(lambda _, name=name: self._moved(name), self.specs[name].trait)
        if self.button is not None:
            self.button.add_class("minidiff-action")
            self.button.on_click(lambda _: self.draw())
        self.image.add_class("minidiff-picture")
        self.status.add_class("minidiff-status")
        super().__init__([*self._rows(), self.status, self.image, widgets.HTML(_lines(caption), layout=wide)])
        self.add_class("minidiff-panel")
        self._place(array, text)
        self.front = front(self, self._ahead)
        self.children += () if self.front is None else (self.front,)

    def _rows(self) -> list[widgets.Widget]:
        """One row for each knob; beside a canvas they stand in a column."""
        rows = [_player(self.specs[n], w) for n, w in self.knobs.items() if not isinstance(self.specs[n], Mask)]
        rows += [self.button] if self.button is not None else []
        canvas = [w for n, w in self.knobs.items() if isinstance(self.specs[n], Mask)]
        for row in rows if canvas else []:
            row.layout.width = "auto"
        column = widgets.VBox(rows, layout=widgets.Layout(flex="1 1 0%", min_width="260px"))
        return [widgets.HBox([*canvas, column], layout=widgets.Layout(max_width=f"{_WIDEST}px"))] if canvas else rows

    @property
    def values(self) -> dict[str, Any]:
        """Where every knob stands, as render gets it."""
        return {name: self.specs[name].read(widget) for name, widget in self.knobs.items()}

    @property
    def text(self) -> str:
        """The line above the picture."""
        return html.unescape(self.status.value)

    def set(self, **values: Any) -> None:
        """Move knobs as a hand would, then draw once. An unknown knob or a value that it cannot have is an error."""
        for name, value in values.items():
            require(name in self.specs, "knob", repr(name), f"one of {', '.join(self.specs)}")
            self.specs[name].check(value)
        with self._silently():
            for name, value in values.items():
                self.specs[name].write(self.knobs[name], value)
        self._act(slow=False)

    def draw(self) -> None:
        """What the button does: draw for the knobs as they stand; if they stand as they stood, with the next seed."""
        require(self.button is not None, "draw", "a panel without a button", "a panel with one", "panel(..., action='draw')")
        if not self.stale:
            with self._silently():
                for name, spec in self.specs.items():
                    if isinstance(spec, Seed):
                        spec.write(self.knobs[name], (self.values[name] + 1) % len(spec.values))
        with self._settled():
            if self._checked("Nothing drawn. ") is None:
                return
            self.button.disabled, self.button.description = True, BUSY
            try:
                self._show(slow=True)
            finally:
                self.button.disabled, self.button.description = False, self.action

    def slow(self, knob: Knob) -> bool:
        """Whether a move of the knob draws so slowly that the text says so: a list is as slow as the sliders beside it."""
        slow = not knob.live or not isinstance(knob, Slider) and not all(k.live for k in self.specs.values())
        return slow and self.button is None

    def says_after(self, knob: Knob) -> int | None:
        """Milliseconds after which the page itself says that a move of the knob draws; None: it never does."""
        if self.button is not None or isinstance(knob, Slider) and knob.live:
            return None
        return 0 if self.slow(knob) else LATE

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Whatever happens in here, the page is told how it ended: it may have said "drawing" by itself."""
        try:
            yield
        finally:
            if self.front is not None:
                self.front.send({"settled": {"text": self.status.value, "stale": self.stale}})

    @contextmanager
    def _silently(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _moved(self, name: str) -> None:
        """A hand has moved a knob."""
        if self._quiet:
            return
        spec, widget = self.specs[name], self.knobs[name]
        if isinstance(spec, Slider) and widget.value != spec.read(widget):           # a number typed off the grid
            with self._silently():
                spec.write(widget, spec.read(widget))
        slow = self.slow(spec)
        with nullcontext() if self.says_after(spec) is None else self._settled():
            self._act(slow=slow)

    def _act(self, *, slow: bool) -> None:
        """After a move: draw, or say what the button would draw."""
        checked = self._checked()
        if checked is not None and self.button is None:
            self._show(slow=slow)
        elif checked is not None:
            self._mark(f'{checked}; press "{self.action}"' if checked else f'press "{self.action}" to draw this', stale=True)

    def _checked(self, before: str = "") -> str | None:
        """What ``check`` says of the knobs; None if it refuses them: then the text says why, and the picture is an old one."""
        try:
            return "" if self.check is None else self.check(**self.values)
        except BadInput as problem:
            self._mark(f"{before}{problem}", stale=True)
            return None

    def _mark(self, text: str, *, stale: bool) -> None:
        self.status.value, self.stale = _lines(text), stale
        (self.image.add_class if stale else self.image.remove_class)(STALE)

    def _show(self, *, slow: bool) -> None:
        if slow:
            self._mark(BUSY, stale=True)
        try:
            array, text = self._draw(self.values)
        except Exception as error:
            self._mark(f"{type(error).__name__}: {error}", stale=True)
            raise
        self._place(array, text)

    def _draw(self, values: dict[str, Any]) -> tuple[np.ndarray, str]:
        out = self.render(**values)
        shown, text = out if isinstance(out, tuple) else (out, "")
        if isinstance(shown, Picture):
            one = shown.array.shape[1] < DENSITY * shown.width  # a large picture comes with one pixel a display pixel
            shown = np.repeat(np.repeat(shown.array, DENSITY, 0), DENSITY, 1) if one else shown.array
        if not (isinstance(shown, np.ndarray) and shown.dtype == np.uint8 and shown.ndim == 3 and shown.shape[2] == 3):
            raise BadInput("render", f"{type(shown).__name__} {getattr(shown, 'shape', '')}",
                           "uint8 pixels (H, W, 3) or a Picture, alone or with a line of text", "show.tile(images)")
        return shown, str(text)

    def _place(self, array: np.ndarray, text: str) -> None:
        width, height = _size(array)
        with self.image.hold_sync():
            self.image.width, self.image.height, self.image.value = width, height, encode(array, fast=True)
        self._mark(text, stale=False)

    def _ahead(self, values: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """The picture for other values of the knobs, and what the page shows with it."""
        if self.check is not None:
            self.check(**values)
        array, text = self._draw(values)
        width, height = _size(array)
        return encode(array, fast=True), {"text": _lines(text), "width": width, "height": height}

    _ipython_display_ = None    # that of ipywidgets 7, which Google Colab has, would show the live view alone

    def _repr_mimebundle_(self, **_: Any) -> Any:
        still, words = self.still._repr_mimebundle_()
        return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}, **still}, words


def _size(array: np.ndarray) -> tuple[str, str]:
    """Width and height in display pixels, as an Image widget takes them."""
    width = min(_WIDEST, -(-array.shape[1] // DENSITY))
    return str(width), str(round(array.shape[0] * width / array.shape[1]))


def _player(spec: Knob, widget: widgets.Widget) -> widgets.Widget:
    """The widget, with a play button beside it where the knob has one."""
    if not isinstance(spec, Play):
        return widget
    limits = {name: getattr(widget, name) for name in ("min", "max", "step", "value")}
    player = widgets.Play(interval=spec.milliseconds, **limits)
    widgets.jslink((widget, "value"), (player, "value"))  # the slider leads: at first the button takes its value
    return widgets.HBox([player, widget])


def panel(render: Callable[..., Any], *knobs: Knob, action: str = "", check: Callable[..., str] | None = None,
          caption: str = "", alt: str) -> Panel:
    """A live panel: ``render(**{knob.name: value})`` is called when a knob moves and returns what to show.

    render: gives uint8 device pixels (H, W, 3) (two for each display pixel) or a Picture; or a pair of that and a line
            of text that says what the picture shows now. It must be pure: the same knobs, the same picture.
    knobs:  slider, play, seed, choice, toggle, text or mask of ``minidiff.show``
    action: the words on a button, for what takes longer: render is then called when it is pressed, not when a knob moves
    check:  gets the same values beforehand and raises BadInput for what cannot be drawn, such as a prompt with an unknown
            word: that is shown, and the picture stays, marked as old. What it returns is shown until the button is pressed.
    caption: what to try and what to look for, below the picture; alt: what the first picture shows, for who cannot see it
    """
    require(len(knobs) > 0, "knobs", "none", "at least one", "panel(render, slider('t', 0, 10, 1), alt='...')")
    names = [k.name for k in knobs]
    require(len(set(names)) == len(names), "knobs", names, "different names")
    return Panel(render, knobs, action=action, check=check, caption=caption, alt=alt)
