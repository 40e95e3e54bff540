"""The picture of a panel for pages without a kernel: its knobs as they stand, what it shows, and what to look for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from minidiff.show.sheet import font, paper, wrap, write_text
from minidiff.show.theme import DENSITY, HAIR, INK, SOFT, rgb

if TYPE_CHECKING:
    from minidiff.show.knobs import Knob

__all__ = ["with_knobs"]

_SIZE, _ROW, _NAME, _TRACK, _VALUE = 11.5, 24, 84, 150, 56          # display pixels
_WHITE = (255, 255, 255)
_WIDE = _NAME + _TRACK + _VALUE + 24


def _value(knob: Knob, value: Any) -> str:
    return f"{value:.{knob.options['digits']}f}" if isinstance(value, float) else str(value)


def _draw(sheet: Image.Image, knob: Knob, value: Any, left: int, top: int) -> None:
    """One knob with its name, in device pixels."""
    d, pen = DENSITY, ImageDraw.Draw(sheet)
    middle, start = top + _ROW * d // 2, left + (_NAME + 8) * d
    line, text = max(1, d // 2 + 1), top + round((_ROW - _SIZE * 1.4) * d / 2)
    if knob.kind not in ("toggle", "button"):
        name = wrap(knob.name.replace("_", " "), _NAME * d, _SIZE, 1)
        write_text(sheet, (left + _NAME * d, text), name, size=_SIZE, fill=SOFT, anchor="right")
    if knob.kind in ("slider", "play"):
        low, high = knob.options["min"], knob.options["max"]
        at = start + round((value - low) / (high - low) * _TRACK * d)
        pen.rounded_rectangle((start, middle - 2 * d, start + _TRACK * d, middle + 2 * d), 2 * d, fill=rgb(HAIR))
        pen.rounded_rectangle((start, middle - 2 * d, at, middle + 2 * d), 2 * d, fill=rgb("blue"))
        pen.ellipse((at - 6 * d, middle - 6 * d, at + 6 * d, middle + 6 * d), fill=_WHITE, outline=rgb("blue"), width=2 * d)
        write_text(sheet, (start + (_TRACK + 12) * d, text), (_value(knob, value),), size=_SIZE)
        return
    words = str(value) if knob.kind in ("choice", "text") else knob.name.replace("_", " ")
    if knob.kind == "toggle":
        box = (start, middle - 6 * d, start + 12 * d, middle + 6 * d)
        pen.rounded_rectangle(box, 2 * d, fill=rgb("blue") if value else (255, 255, 255), outline=rgb("grey"), width=line)
        if value:
            tick = [(start + 3 * d, middle), (start + 5 * d, middle + 3 * d), (start + 9 * d, middle - 3 * d)]
            pen.line(tick, fill=_WHITE, width=2 * d)
        write_text(sheet, (start + 18 * d, text), (words,), size=_SIZE)
        return
    room = sheet.width - start - 30 * d if knob.kind == "text" else (_TRACK + _VALUE - 30) * d
    words = (wrap(words, room, _SIZE, 1) or ("",))[0]
    end = start + (max(_TRACK * d, round(font(_SIZE).getlength(words)) + 30 * d) if knob.kind in ("choice", "text")
                   else round(font(_SIZE).getlength(words)) + 20 * d)
    pen.rounded_rectangle((start, top + 3 * d, end, top + (_ROW - 3) * d), 3 * d, fill=_WHITE, outline=rgb("grey"), width=line)
    write_text(sheet, (start + 8 * d, text), (words,), size=_SIZE, fill=INK)
    if knob.kind == "choice":
        arrow = [(end - 15 * d, middle - 2 * d), (end - 7 * d, middle - 2 * d), (end - 11 * d, middle + 3 * d)]
        pen.polygon(arrow, fill=rgb("grey"))


def with_knobs(array: np.ndarray, knobs: list[tuple[Knob, Any]]) -> np.ndarray:
    """uint8 device pixels (H, W, 3) below a drawing of the knobs at the given values; returns uint8 (H', W', 3).

    Up to three knobs stand one below the other; more stand in two columns.
    """
    columns = 2 if len(knobs) > 3 else 1
    rows = -(-len(knobs) // columns)
    head = (rows * _ROW + 8) * DENSITY
    sheet = paper(max(array.shape[1], columns * _WIDE * DENSITY), head + array.shape[0])
    for place, (knob, value) in enumerate(knobs):
        column, row = divmod(place, rows)
        _draw(sheet, knob, value, column * _WIDE * DENSITY, row * _ROW * DENSITY)
    sheet.paste(Image.fromarray(array), (0, head))
    return np.asarray(sheet)
