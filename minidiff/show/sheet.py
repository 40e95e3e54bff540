"""A picture as a notebook wants it: PNG bytes on paper, a caption, alternative text, and a constant text form."""

from __future__ import annotations

import base64
import functools
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from minidiff.errors import BadInput, require
from minidiff.files import replace
from minidiff.show.theme import COLUMN, DENSITY, INK, PAPER, PIXELS, SOFT, font_file, png, rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "picture", "plural", "encode", "font", "wrap", "text_height", "write_text", "paper", "framed", "write_file",
           "FULL"]

FULL = int(COLUMN * PIXELS)          # display pixels of a full-width picture
SMALL, BUDGET = 20_000, 106_000      # bytes: stored exactly; the most (a notebook output may have 150 KB, where a byte takes 4/3)
_PAD, _CAPTION = 12, 12.5            # display pixels: margin and caption size


class Picture:
    """PNG bytes with alternative text, shown at ``width`` x ``height`` display pixels (half the device pixels)."""

    def __init__(self, data: bytes, *, alt: str, caption: str = "", density: int = DENSITY) -> None:
        require(isinstance(alt, str) and bool(alt.strip()), "alt", repr(alt), "a sentence for readers who cannot see the picture",
                'alt="Eight noised cats, from clean on the left to pure noise on the right"')
        self.png, self.alt, self.caption = data, " ".join(alt.split()), caption
        with Image.open(io.BytesIO(data)) as opened:
            self.width, self.height = -(-opened.width // density), -(-opened.height // density)

    @classmethod
    def of(cls, array: np.ndarray, *, alt: str, caption: str = "") -> Picture:
        """From uint8 device pixels (H, W, 3): exactly if that is small, else with a palette of its own, else as ``encode`` does.

        At half the density if it would be too large for a notebook otherwise.
        """
        data = _exactly(array)
        if len(data) > SMALL:
            data = few_colours(array) or encode(array)
        if len(data) <= BUDGET:
            return cls(data, alt=alt, caption=caption)
        small = np.asarray(Image.fromarray(array).reduce(DENSITY))
        return cls(few_colours(small) or encode(small), alt=alt, caption=caption, density=1)

    @property
    def array(self) -> np.ndarray:
        """The device pixels as uint8 (H, W, 3)."""
        with Image.open(io.BytesIO(self.png)) as opened:
            return np.asarray(opened.convert("RGB"))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the PNG; the file appears whole or not at all."""
        return write_file(path, self.png, suffix=".png")

    def _repr_png_(self) -> bytes:
        return self.png

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict[str, str], dict[str, Any]]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": repr(self)}
        return data, {"image/png": {"alt": self.alt, "width": self.width, "height": self.height}}

    def __repr__(self) -> str:
        return f"<Picture: {self.alt}>"


def plural(count: int, noun: str) -> str:
    """The count and its noun: "1 row", "3 rows"."""
    require(count >= 0, "count", count, "0 or more")
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def picture(source: Figure | np.ndarray, *, alt: str, caption: str = "") -> Picture:
    """A matplotlib figure, or an array of shape (H, W, 3) or (H, W), as a :class:`Picture` with its caption below.

    source:  a figure of ``show.figure``, or uint8 device pixels (float arrays must lie in [0, 1])
    alt:     what the picture shows, for readers who cannot see it
    caption: what to look for, one or two sentences
    """
    if hasattr(source, "savefig"):
        with Image.open(io.BytesIO(png(source))) as opened:
            array = np.asarray(opened.convert("RGB"))
        return Picture.of(framed(array, caption=caption, margin=0), alt=alt, caption=caption)
    array = np.asarray(source)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, 2)
    require(array.ndim == 3 and array.shape[2] == 3 and array.size > 0, "source", f"an array of shape {np.shape(source)}",
            "a figure, or pixels of shape (H, W, 3)", "show.grid(images) for tensors of shape (B, C, H, W)")
    if array.dtype != np.uint8:
        ok = np.issubdtype(array.dtype, np.floating) and bool(np.isfinite(array).all()) and array.min() >= 0 and array.max() <= 1
        require(ok, "source", f"{array.dtype} values from {array.min():.3g} to {array.max():.3g}", "uint8, or floats in [0, 1]",
                "show.grid(images) for tensors in [-1, 1]")
        array = np.round(array * 255).astype(np.uint8)
    return Picture.of(framed(array, caption=caption), alt=alt, caption=caption)


def few_colours(array: np.ndarray, *, moved: float = 4.0) -> bytes | None:
    """uint8 (H, W, 3) as PNG bytes with a palette of 256 colours chosen for it: a third of the size.

    None for what a palette would show: values that move by more than ``moved``/255 on average (pictures of noise).
    """
    image = Image.fromarray(np.ascontiguousarray(array))
    small = image.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    if float(np.abs(np.asarray(small.convert("RGB")).astype(np.int16) - array).mean()) > moved:
        return None
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def encode(array: np.ndarray, *, fast: bool = False, budget: int = BUDGET) -> bytes:
    """uint8 (H, W, 3) as PNG bytes, without loss if that fits the budget (or if ``fast``, for live panels).

    Only pictures of noise are larger. There values are rounded to steps of 17, 36 or 51, but only where most neighbours
    differ by more than the step, so that it cannot be seen; smooth parts stay exact.
    """
    data = _exactly(array, fast=fast)
    if fast or len(data) <= budget:
        return data
    jump = np.zeros(array.shape[:2], np.float32)
    jump[:, 8:] = np.abs(array[:, 8:].astype(np.int16) - array[:, :-8]).mean(2)     # eight away: scaled pixels repeat
    free = (array != np.array(rgb(PAPER), np.uint8)).any(2)
    for step in (17, 36, 51):
        often = np.asarray(Image.fromarray(np.where(jump > step, 255, 0).astype(np.uint8)).filter(ImageFilter.BoxBlur(12)))
        table = np.minimum(np.round(np.arange(256) / step) * step, 255).astype(np.uint8)
        array = np.where((free & (often > 140))[..., None], table[array], array)
        data = _exactly(array)
        if len(data) <= budget:
            break
    return data


def _exactly(array: np.ndarray, *, fast: bool = False) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", **({"compress_level": 1} if fast else {"optimize": True}))
    return buffer.getvalue()


@functools.lru_cache(maxsize=32)
def font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The course's font at ``size`` display pixels."""
    return ImageFont.truetype(str(font_file(bold)), size * DENSITY)


@functools.lru_cache(maxsize=4096)
def wrap(text: str, width: int, size: float, lines: int = 99, bold: bool = False) -> tuple[str, ...]:
    """Break ``text`` into lines of at most ``width`` device pixels; what does not fit ends in an ellipsis."""
    face, done = font(size, bold), []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            trial = f"{line} {word}".strip()
            if line and face.getlength(trial) > width:
                done.append(line)
                line = word
            else:
                line = trial
        done.append(line)
    if len(done) > lines:
        done = [*done[:lines - 1], done[lines - 1] + "\u2026"]
    for place, line in enumerate(done):
        cut = line
        while face.getlength(cut) > width and len(cut) > 1:
            cut = cut.rstrip("\u2026")[:-1].rstrip() + "\u2026"
        done[place] = cut
    return tuple(done)


def text_height(lines: int, size: float) -> int:
    """Device pixels that so many lines of text take."""
    return round(lines * size * 1.4 * DENSITY)


def write_text(image: Image.Image, place: tuple[float, float], lines: tuple[str, ...], *, size: float, fill: str = INK,
               anchor: str = "left", bold: bool = False) -> None:
    """Write lines from ``place`` (device pixels) downwards, each to the left, centre or right of it."""
    draw = ImageDraw.Draw(image)
    letter = {"left": "l", "centre": "m", "right": "r"}[anchor]
    for row, line in enumerate(lines):
        y = place[1] + (row + 0.72) * size * 1.4 * DENSITY          # the line's foot
        draw.text((round(place[0]), round(y)), line, fill=rgb(fill), font=font(size, bold), anchor=letter + "s")


def paper(width: int, height: int) -> Image.Image:
    """A blank sheet of device pixels."""
    return Image.new("RGB", (width, height), rgb(PAPER))


def framed(array: np.ndarray, *, caption: str = "", margin: int = _PAD, least: int = 240) -> np.ndarray:
    """Put uint8 (H, W, 3) on paper with a margin and the caption below; returns uint8 (H', W', 3)."""
    edge, height, width = margin * DENSITY, array.shape[0], array.shape[1]
    full = max(width + 2 * edge, least * DENSITY if caption else 0)
    side = max(edge, _PAD * DENSITY)
    lines = wrap(caption, full - 2 * side, _CAPTION) if caption else ()
    below = text_height(len(lines), _CAPTION) + (7 + _PAD * (margin == 0)) * DENSITY if lines else 0
    sheet = paper(full, height + 2 * edge + below)
    left = edge if width + 2 * edge == full else (full - width) // 2
    sheet.paste(Image.fromarray(array), (left, edge))
    if lines:
        write_text(sheet, (side, height + edge + (7 if margin else 0) * DENSITY), lines, size=_CAPTION, fill=SOFT)
    return np.asarray(sheet)


def write_file(path: str | os.PathLike[str], data: bytes, *, suffix: str) -> Path:
    """Write bytes beside ``path`` and rename: an older file is replaced by a whole one or stays as it was."""
    target = Path(path)
    require(target.suffix.lower() == suffix, "path", repr(str(path)), f"a file name that ends in {suffix}",
            repr(str(target.with_suffix(suffix))))
    require(target.parent.is_dir(), "path", repr(str(path)), "a folder that exists", f"mkdir -p {target.parent}")
    require(not target.is_dir(), "path", f"the folder {str(path)!r}", "a file name")
    try:
        replace(target, data)
    except OSError as problem:
        raise BadInput("path", f"{str(path)!r} ({problem.strerror})", "a folder that can be written to and has room") from problem
    return target
