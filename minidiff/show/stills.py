"""The picture of a panel for pages without a kernel: its knobs as they stand, the line of text, what it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from minidiff.show.canvas import Mask
from minidiff.show.knobs import Choice, Knob, Slider, Text, Toggle
from minidiff.show.sheet import font, paper, text_height, wrap, write_text
from minidiff.show.theme import DENSITY, HAIR, INK, SOFT, rgb

__all__ = ["with_knobs"]

_SIZE, _ROW, _NAME, _TRACK, _VALUE = 11.5, 24, 84, 150, 56          # display pixels
_WHITE = (255, 255, 255)
_LINE = max(1, DENSITY // 2 + 1)                                     # device pixels
_WIDE = _NAME + _TRACK + _VALUE + 24


def _draw(sheet: Image.Image, knob: Knob, value: Any, left: int, top: int) -> None:
    """One knob with its name, in device pixels."""
    d, pen = DENSITY, ImageDraw.Draw(sheet)
    middle, start = top + _ROW * d // 2, left + (_NAME + 8) * d
    text = top + round((_ROW - _SIZE * 1.4) * d / 2)
    if isinstance(knob, Toggle):
        box = (start, middle - 6 * d, start + 12 * d, middle + 6 * d)
        pen.rounded_rectangle(box, 2 * d, fill=rgb("blue") if value else _WHITE, outline=rgb("grey"), width=_LINE)
        if value:
            tick = [(start + 3 * d, middle), (start + 5 * d, middle + 3 * d), (start + 9 * d, middle - 3 * d)]
            pen.line(tick, fill=_WHITE, width=2 * d)
        write_text(sheet, (start + 18 * d, text), (knob.label,), size=_SIZE)
        return
    name = wrap(knob.label, _NAME * d, _SIZE, 1)
    write_text(sheet, (left + _NAME * d, text), name, size=_SIZE, fill=SOFT, anchor="right")
    if isinstance(knob, Slider):
        low, high = knob.values[0], knob.values[-1]
        at = start + round((value - low) / (high - low) * _TRACK * d)
        pen.rounded_rectangle((start, middle - 2 * d, start + _TRACK * d, middle + 2 * d), 2 * d, fill=rgb(HAIR))
        pen.rounded_rectangle((start, middle - 2 * d, at, middle + 2 * d), 2 * d, fill=rgb("blue"))
        pen.ellipse((at - 6 * d, middle - 6 * d, at + 6 * d, middle + 6 * d), fill=_WHITE, outline=rgb("blue"), width=2 * d)
        number = f"{value:.{knob.digits}f}" if isinstance(value, float) else str(value)
        write_text(sheet, (start + (_TRACK + 12) * d, text), (number,), size=_SIZE)
        return
    most = sheet.width - start - 30 * d if isinstance(knob, Text) else (_TRACK + _VALUE - 30) * d
    end = _boxed(sheet, (wrap(str(value), most, _SIZE, 1) or ("",))[0], start, top, least=_TRACK)
    if isinstance(knob, Choice):
        arrow = [(end - 15 * d, middle - 2 * d), (end - 7 * d, middle - 2 * d), (end - 11 * d, middle + 3 * d)]
        pen.polygon(arrow, fill=rgb("grey"))


def _boxed(sheet: Image.Image, words: str, start: int, top: int, *, least: int = 0) -> int:
    """Words in a box, in device pixels; gives its right edge. least: display pixels."""
    end = start + max(least * DENSITY, round(font(_SIZE).getlength(words)) + 30 * DENSITY)
    box = (start, top + 3 * DENSITY, end, top + (_ROW - 3) * DENSITY)
    ImageDraw.Draw(sheet).rounded_rectangle(box, 3 * DENSITY, fill=_WHITE, outline=rgb("grey"), width=_LINE)
    text = top + round((_ROW - _SIZE * 1.4) * DENSITY / 2)
    write_text(sheet, (start + 8 * DENSITY, text), (words,), size=_SIZE, fill=INK)
    return end


def with_knobs(array: np.ndarray, knobs: list[tuple[Knob, Any]], *, text: str = "", action: str = "") -> np.ndarray:
    """uint8 device pixels (H, W, 3) below a drawing of the knobs at the given values; returns uint8 (H', W', 3).

    Up to three knobs stand one below the other; more stand in two columns, and so do fewer beside a picture to paint on, which is
    drawn on their left. text: the line above the picture; action: the words on the panel's button.
    """
    d = DENSITY
    painted = [knob.drawn() for knob, _ in knobs if isinstance(knob, Mask)]
    others = [(knob, value) for knob, value in knobs if not isinstance(knob, Mask)]
    left = max((p.shape[1] + 8 * d for p in painted), default=0)
    columns = 2 if len(others) > 3 and not painted else 1
    rows = -(-len(others) // columns)
    head = max([(rows + bool(action)) * _ROW * d, *(p.shape[0] for p in painted)]) + 8 * d
    width = max(array.shape[1], left + columns * _WIDE * d)
    lines = wrap(text, width, _SIZE) if text else ()
    above = head + (text_height(len(lines), _SIZE) + 6 * d if lines else 0)
    sheet = paper(width, above + array.shape[0])
    for canvas in painted:
        sheet.paste(Image.fromarray(canvas), (0, 0))
    for place, (knob, value) in enumerate(others):
        column, row = divmod(place, rows)
        _draw(sheet, knob, value, left + column * _WIDE * d, row * _ROW * d)
    if action:
        _boxed(sheet, action, left + (_NAME + 8) * d, rows * _ROW * d)
    write_text(sheet, (0, head), lines, size=_SIZE)
    sheet.paste(Image.fromarray(array), (0, above))
    return np.asarray(sheet)
