"""Grids and film strips: many pictures tiled into one array at integer scale, with crisp labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from minidiff.errors import BadInput, check_images, require
from minidiff.show.sheet import FULL, Picture, encode, font, framed, paper, plural, text_height, wrap, write_file, write_text
from minidiff.show.theme import DENSITY, INK, SOFT

__all__ = ["pixels", "tile", "grid", "strip", "spread", "lay_out", "below", "save_grid"]

Images = torch.Tensor | Sequence[torch.Tensor]
GAP, LABEL, SIDE = 4, 11.5, 130                       # display pixels: gap, label size, widest column of row labels


def pixels(images: torch.Tensor) -> np.ndarray:
    """(B, C, H, W) in [-1, 1], C = 1 or 3, as uint8 (B, H, W, 3); values outside the range are clipped."""
    check_images("images", images)
    require(images.shape[1] in (1, 3), "images", f"{images.shape[1]} channels", "1 or 3 channels",
            "images[:, :3], or show.heatmap(maps) for maps that are not colours")
    x = images.detach().to("cpu", torch.float32)
    x = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def _rows(images: Images) -> list[np.ndarray]:
    """One uint8 array (b, H, W, 3) for each row that was given as such; one in all for a tensor."""
    if isinstance(images, torch.Tensor):
        return [pixels(images)]
    require(isinstance(images, Sequence) and len(images) > 0, "images", type(images).__name__,
            "a tensor (B, C, H, W) or a list of them, one for each row")
    rows = [pixels(row[None] if isinstance(row, torch.Tensor) and row.ndim == 3 else row) for row in images]
    sizes = {row.shape[1:3] for row in rows}
    require(len(sizes) == 1, "images", f"rows of different picture sizes {sorted(sizes)}", "one height and width for all rows")
    if all(isinstance(row, torch.Tensor) and row.ndim == 3 for row in images):       # a list of single pictures
        return [np.concatenate(rows)]
    return rows


def _arrange(rows: list[np.ndarray], columns: int | None, scale: int | None, available: int) -> tuple[list[np.ndarray], int, int]:
    """Choose columns and scale (display pixels a picture pixel) so that the grid fits ``available`` and can be seen."""
    count, width = max(map(len, rows)), rows[0].shape[2]
    for argument, value in {"columns": columns, "scale": scale}.items():
        require(value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1), argument, repr(value),
                "a whole number, 1 or more", f"{argument}=2")
    if columns is None:
        def fits(size: int) -> int:
            return max(1, (available + GAP) // (width * size + GAP))
        columns = count
        if len(rows) == 1 and scale is not None:
            columns = fits(scale)
        elif len(rows) == 1 and count > fits(2):
            columns = fits(2) if -(-count // fits(2)) <= 4 else fits(1)
        columns = -(-count // -(-count // columns))           # even rows: 12 pictures in two rows are 6 and 6
    if len(rows) == 1:
        rows = [rows[0][first:first + columns] for first in range(0, count, columns)]
    columns = max(map(len, rows))
    if scale is None:
        scale = max(1, min((available - (columns - 1) * GAP) // (columns * width), max(1, 256 // width)))
    return rows, columns, scale


def tile(images: Images, *, columns: int | None = None, scale: int = 1, gap: int = 2) -> np.ndarray:
    """Tile pictures into one uint8 array (H, W, 3) without text: what a panel's ``render`` returns.

    scale: array pixels a picture pixel (nearest neighbour, never blurred); gap: array pixels between pictures
    """
    require(gap >= 0, "gap", gap, "0 or more array pixels", "gap=2")
    rows, columns, scale = _arrange(_rows(images), columns, scale, FULL)
    sheet = paper(1, 1).resize((columns * rows[0].shape[2] * scale + (columns - 1) * gap,
                                len(rows) * rows[0].shape[1] * scale + (len(rows) - 1) * gap))
    _paste(sheet, rows, scale, gap, 0, [j * (rows[0].shape[1] * scale + gap) for j in range(len(rows))])
    return np.asarray(sheet)


def _paste(sheet: Image.Image, rows: list[np.ndarray], size: int, gap: int, left: int, tops: Sequence[int]) -> None:
    for row, top in zip(rows, tops, strict=True):
        for place, array in enumerate(row):
            big = np.repeat(np.repeat(array, size, 0), size, 1)
            sheet.paste(Image.fromarray(big), (left + place * (big.shape[1] + gap), top))


def _texts(argument: str, texts: Sequence[object] | None, count: int, of: str) -> list[str]:
    if texts is None:
        return []
    require(not isinstance(texts, str) and len(texts) == count, argument, f"{len(texts)} texts", f"{count}, one for each {of}")
    return [str(text) for text in texts]


def lay_out(rows: list[np.ndarray], scale: int, *, labels: Sequence[str] = (), row_labels: Sequence[str] = (),
            column_labels: Sequence[str] = ()) -> np.ndarray:
    """Rows of uint8 pictures with their texts as one array of device pixels (no margin, no caption)."""
    size, gap = scale * DENSITY, GAP * DENSITY
    high, wide = rows[0].shape[1] * size, rows[0].shape[2] * size
    columns = max(map(len, rows))
    side = [wrap(text, SIDE * DENSITY, LABEL, 4) for text in row_labels]
    left = 0
    if side:
        left = 2 * round(max(font(LABEL).getlength(line) for lines in side for line in lines) / 2) + 8 * DENSITY
    head = [wrap(text, wide, LABEL, 2) for text in column_labels]
    y = text_height(max(map(len, head)), LABEL) + 2 * DENSITY if head else 0
    tops, places, start = [], [], 0
    below = [wrap(text, wide, LABEL, 3) for text in labels]
    for row in rows:
        tops.append(y)
        mine = below[start:start + len(row)]
        places.append(mine)
        start += len(row)
        y += high + (text_height(max(map(len, mine)), LABEL) + 3 * DENSITY if mine else 0) + gap
    sheet = paper(left + columns * wide + (columns - 1) * gap, y - gap)
    _paste(sheet, rows, size, gap, left, tops)
    for place, lines in enumerate(head):
        foot = max(map(len, head)) - len(lines)
        write_text(sheet, (left + place * (wide + gap) + wide / 2, text_height(foot, LABEL)), lines, size=LABEL, anchor="centre")
    for row, top in enumerate(tops):
        if side:
            middle = top + (high - text_height(len(side[row]), LABEL)) / 2
            write_text(sheet, (left - 8 * DENSITY, middle), side[row], size=LABEL, anchor="right")
        for place, lines in enumerate(places[row]):
            spot = (left + place * (wide + gap) + wide / 2, top + high + 2 * DENSITY)
            write_text(sheet, spot, lines, size=LABEL, fill=SOFT if column_labels or row_labels else INK, anchor="centre")
    return np.asarray(sheet)


def grid(images: Images, *, columns: int | None = None, labels: Sequence[object] | None = None,
         row_labels: Sequence[object] | None = None, column_labels: Sequence[object] | None = None, scale: int | None = None,
         alt: str = "", caption: str = "") -> Picture:
    """Pictures in rows and columns as one :class:`Picture`.

    images:        (B, C, H, W) in [-1, 1], C = 1 or 3, any float type or device; or a list of such tensors, one for each row
    columns:       pictures a row (chosen to fit a notebook column if left out)
    labels:        one text below each picture
    row_labels, column_labels: one text left of each row, above each column
    scale:         display pixels a picture pixel, a whole number; nearest neighbour, never blurred
    alt, caption:  text for readers who cannot see it (made from the labels if left out); what to look for
    Errors: :class:`BadInput` for a wrong shape, type, range of channels, NaN, or a wrong number of labels.
    """
    given = _rows(images)
    count = sum(map(len, given))
    below = _texts("labels", labels, count, "picture")
    available = FULL - (SIDE if row_labels is not None else 0)
    rows, wide, scale = _arrange(given, columns, scale, available)
    side = _texts("row_labels", row_labels, len(rows), "row")
    head = _texts("column_labels", column_labels, wide, "column")
    array = lay_out(rows, scale, labels=below, row_labels=side, column_labels=head)
    if not alt:
        named = "; ".join([*side, *head, *below][:12])
        alt = f"{plural(count, 'picture')} in {plural(len(rows), 'row')} and {plural(wide, 'column')}"
        alt += f": {named}" if named else ""
        alt = f"{caption} {alt}".strip()
    return Picture.of(framed(array, caption=caption), alt=alt, caption=caption)


def spread(total: int, count: int) -> list[int]:
    """``count`` places from 0 to ``total - 1``, first and last included, as even as whole numbers allow."""
    for name, value in (("total", total), ("count", count)):
        require(value >= 1, name, value, "1 or more")
    if count >= total:
        return list(range(total))
    return [round(place * (total - 1) / max(count - 1, 1)) for place in range(count)]


def strip(frames: Images, *, labels: Sequence[object] | Callable[[int], object] | None = None, count: int = 8,
          row_labels: Sequence[object] | None = None, scale: int | None = None, alt: str = "", caption: str = "") -> Picture:
    """A film strip: time runs from left to right, one row for each sample.

    frames: (T, C, H, W), or a list of T tensors (B, C, H, W) such as ``[step.x for step in ddim(model, x)]``
    labels: T texts above the frames, or a function of the frame's number, e.g. ``lambda k: f"t = {times[k]}"``
    count:  at most so many frames are shown, evenly chosen, first and last included
    """
    require(isinstance(count, int) and count >= 1, "count", repr(count), "a whole number, 1 or more", "count=8")
    frames = list(frames[:, None]) if isinstance(frames, torch.Tensor) and frames.ndim == 4 else frames
    sound = isinstance(frames, Sequence) and len(frames) > 0 and all(isinstance(frame, torch.Tensor) for frame in frames)
    require(sound, "frames", type(frames).__name__, "a tensor (T, C, H, W) or a list of T tensors (B, C, H, W)",
            "[step.x for step in steps]")
    frames = [frame[None] if frame.ndim == 3 else frame for frame in frames]
    if len({tuple(frame.shape) for frame in frames}) != 1:
        raise BadInput("frames", "frames of different shapes", "the same shape (B, C, H, W) at every time")
    chosen = spread(len(frames), count)
    if callable(labels):
        labels = [labels(place) for place in range(len(frames))]
    texts = _texts("labels", labels, len(frames), "frame")
    rows = list(torch.stack([frames[place].detach().cpu() for place in chosen], 1))          # B tensors (T, C, H, W)
    span = f": {texts[0]} to {texts[-1]}" if texts else ""
    alt = alt or f"{caption} Film strip of {plural(len(chosen), 'frame')}, {plural(len(rows), 'row')}{span}"
    return grid(rows, column_labels=[texts[place] for place in chosen] if texts else None, row_labels=row_labels, scale=scale,
                columns=len(chosen), alt=alt.strip(), caption=caption)


def below(*parts: np.ndarray) -> np.ndarray:
    """Pictures, uint8 (H, W, 3) each, one below the other in the middle of one sheet: a panel's tiles over its graph."""
    require(bool(parts), "parts", "none", "at least one picture", "below(lay_out(rows), curve(lines, alt=...).array)")
    wide, top = max(part.shape[1] for part in parts), 0
    sheet = paper(wide, sum(part.shape[0] for part in parts) + GAP * DENSITY * (len(parts) - 1))
    for part in parts:
        sheet.paste(Image.fromarray(part), ((wide - part.shape[1]) // 2, top))
        top += part.shape[0] + GAP * DENSITY
    return np.asarray(sheet)


def save_grid(path: str | os.PathLike[str], images: Images, *, columns: int | None = None, scale: int = 1, gap: int = 2) -> Path:
    """Write a grid without text or margin as PNG; an older file is replaced by a whole one or stays as it was."""
    return write_file(path, encode(tile(images, columns=columns, scale=scale, gap=gap), budget=1 << 62), suffix=".png")
