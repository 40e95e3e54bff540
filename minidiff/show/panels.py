"""A thin live panel around a pure render function; on pages without a kernel it is the picture of its first state."""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets
import numpy as np

from minidiff.errors import BadInput, require
from minidiff.show.flipbook import Flipbook, flipbook, mark
from minidiff.show.knobs import Knob
from minidiff.show.sheet import Picture, encode, picture
from minidiff.show.stills import with_knobs
from minidiff.show.theme import DENSITY

__all__ = ["Panel", "panel"]

_WIDEST = 700  # display pixels: the width of a notebook column
_TEXT = '<div style="max-width: 700px; line-height: 1.45">{}</div>'  # a caption breaks into lines; a Label would cut it off


class Panel(widgets.VBox):
    """Knobs above one picture and a line of text. ``panel.set(t=3)`` moves a knob from Python, through its widget.

    knobs: name -> widget; image: the picture's widget; status: the line of text, whose ``value`` tests may read.
    """

    def __init__(self, render: Callable[..., Any], knobs: tuple[Knob, ...], caption: str, alt: str) -> None:
        self.render, self.specs, self.alt = render, {k.name: k for k in knobs}, alt
        self.knobs = {k.name: k.widget() for k in knobs}
        self.presses = {k.name: 0 for k in knobs if k.kind == "button"}
        self.image = widgets.Image(format="png")
        self.status = widgets.Label()
        self.caption = widgets.HTML(_TEXT.format(html.escape(caption)))
        self.failed = widgets.HTML()
        self._quiet = False
        array, text = self._draw()
        self._place(array, text)
        self.image.add_class("minidiff-picture")
        drawn = with_knobs(array, [(k, k.value) for k in knobs])
        self.still = picture(drawn, alt=alt, caption=f"{text}. {caption}" if text and caption else text or caption)
        rows = [self._row(k) for k in knobs]
        for k in knobs:
            if k.kind == "button":
                self.knobs[k.name].on_click(lambda _, name=k.name: self._press(name))
            else:
                self.knobs[k.name].observe(lambda _: self._changed(), "value")
        super().__init__([*rows, self.image, self.status, self.caption, self.failed])
        self.pages = self._pages()

    def _pages(self) -> Flipbook | None:
        """The pictures sent ahead, for a panel that has a slider to follow and no knob without a place (text, button)."""
        kinds = {k.kind for k in self.specs.values()}
        if kinds & {"text", "button"} or not any(k.live and k.kind in ("slider", "play") for k in self.specs.values()):
            return None
        book = flipbook(self.image, self.specs.values(), self.knobs)
        return None if book is None else Flipbook(book, lambda values: encode(self._draw(values)[0], fast=True), self._around)

    def _around(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """As all knobs stand; then what each live slider can be with the others as they are, nearest to where it stands first."""
        here = self.values
        sliders = [k for k in self.specs.values() if k.live and k.kind in ("slider", "play")]
        nearest = [[here | {k.name: v} for v in sorted(k.values, key=lambda v, at=here[k.name]: abs(v - at)) if v != here[k.name]]
                   for k in sliders]
        for values in (here, *itertools.chain.from_iterable(itertools.zip_longest(*nearest))):
            if values is not None:
                yield mark(self.specs.values(), values), values

    def _row(self, knob: Knob) -> widgets.Widget:
        widget = self.knobs[knob.name]
        if knob.kind != "play":
            return widget
        limits = {name: knob.options[name] for name in ("min", "max", "step", "interval")}
        player = widgets.Play(value=knob.value, **limits)
        widgets.jslink((widget, "value"), (player, "value"))  # the slider leads: at first the button takes its value
        return widgets.HBox([player, widget])

    @property
    def values(self) -> dict[str, Any]:
        """What every knob says now, as render gets it."""
        return {name: self.presses[name] if name in self.presses else widget.value for name, widget in self.knobs.items()}

    def set(self, **values: Any) -> None:
        """Move knobs as a hand would, then draw once. An unknown knob or a value out of range is an error."""
        for name, value in values.items():
            require(name in self.specs, "knob", repr(name), f"one of {', '.join(self.specs)}")
            spec = self.specs[name]
            if spec.kind in ("choice", "toggle"):
                require(value in spec.values, name, repr(value), f"one of {', '.join(map(repr, spec.values))}")
            elif spec.kind == "text":
                require(isinstance(value, str), name, repr(value), "a string")
            elif spec.kind != "button":
                require(
                    spec.options["min"] <= value <= spec.options["max"],
                    name,
                    value,
                    f"a number from {spec.options['min']} to {spec.options['max']}",
                )
        self._quiet = True
        try:
            for name, value in values.items():
                if name in self.presses:
                    self.presses[name] = value
                else:
                    self.knobs[name].value = value
        finally:
            self._quiet = False
        self._changed()

    def _press(self, name: str) -> None:
        self.presses[name] += 1
        self._changed()

    def _changed(self) -> None:
        if self._quiet:
            return
        try:
            array, text = self._draw()
        except Exception as error:
            self.failed.value = f"<pre>{html.escape(f'{type(error).__name__}: {error}')}</pre>"
            raise
        self.failed.value = ""
        self._place(array, text)
        if self.pages is not None:
            self.pages.moved()

    def _draw(self, values: dict[str, Any] | None = None) -> tuple[np.ndarray, str]:
        out = self.render(**(self.values if values is None else values))
        shown, text = out if isinstance(out, tuple) else (out, "")
        if isinstance(shown, Picture):
            one = shown.array.shape[1] < DENSITY * shown.width  # a large picture comes with one pixel a display pixel
            shown = np.repeat(np.repeat(shown.array, DENSITY, 0), DENSITY, 1) if one else shown.array
        if not (isinstance(shown, np.ndarray) and shown.dtype == np.uint8 and shown.ndim == 3 and shown.shape[2] == 3):
            raise BadInput(
                "render",
                f"{type(shown).__name__} {getattr(shown, 'shape', '')}",
                "uint8 pixels (H, W, 3) or a Picture, alone or with a line of text",
                "show.tile(images)",
            )
        return shown, str(text)

    def _place(self, array: np.ndarray, text: str) -> None:
        width = min(_WIDEST, -(-array.shape[1] // DENSITY))
        with self.image.hold_sync():
            self.image.width, self.image.height = str(width), str(round(array.shape[0] * width / array.shape[1]))
            self.image.value = encode(array, fast=True)
        self.status.value = text

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, meta = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        still = {"image/png": base64.b64encode(self.still.png).decode(), "text/plain": "<Panel>"}
        return {**data, **still}, {**meta, "image/png": {"alt": self.alt, "width": self.still.width, "height": self.still.height}}


def panel(render: Callable[..., Any], *knobs: Knob, caption: str = "", alt: str) -> Panel:
    """A live panel: ``render(**{knob.name: value})`` is called when a knob moves and returns what to show.

    render: gives uint8 device pixels (H, W, 3) (two for each display pixel) or a Picture; or a pair of that and a line
            of text that says what the picture shows now. It must be pure: the same knobs, the same picture.
    knobs:  slider, choice, toggle, play, button or text of ``minidiff.show``
    caption: what to try and what to look for; alt: what the first picture shows, for readers who cannot see it
    """
    require(len(knobs) > 0, "knobs", "none", "at least one", "panel(render, slider('t', 0, 10, 1), alt='...')")
    names = [k.name for k in knobs]
    require(len(set(names)) == len(names), "knobs", names, "different names")
    return Panel(render, knobs, caption, alt)
