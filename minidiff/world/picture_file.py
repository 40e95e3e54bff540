"""One picture file as a tensor: upright, on white, its middle square averaged down."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from minidiff.errors import BadInput

__all__ = ["area_square", "read_image"]


def read_image(path: str | Path, *, size: int, channels: int = 3) -> Tensor:
    """One picture as (channels, size, size) uint8: turned upright (EXIF), laid on white where it is transparent, its middle
    square averaged down to ``size`` pixels. Of an animation, the first frame. Raises BadInput naming the file."""
    import numpy as np
    from PIL import Image, ImageOps

    path = Path(path)
    got = f"{str(path)!r}, which cannot be read as an image"
    try:
        if path.stat().st_size == 0:
            raise OSError("the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                picture = _eight_bit(ImageOps.exif_transpose(opened))
        if "A" in picture.mode or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture)
        pixels = np.array(picture.convert("RGB" if channels == 3 else "L"))
    except Exception as error:  # Pillow raises many kinds for broken files
        raise BadInput("path", f"{got} ({error})", "an image file that is whole", "a fresh copy of it, or take it away") from None
    return area_square(torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1), size)


def _eight_bit(picture):  # noqa: ANN001, ANN202  Pillow is imported late
    """Sixteen-bit and floating point greys scaled to eight bits; everything else unchanged."""
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    import numpy as np
    from PIL import Image
    values = np.asarray(picture, dtype=np.float64)
    top = 65535.0 if picture.mode != "F" else (1.0 if values.max() <= 1 else 255.0)
    return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8))


def area_square(pixels: Tensor, size: int) -> Tensor:
    """The middle square of (C, H, W) uint8, averaged over the exact area of each of size x size pixels -> uint8."""
    height, width = pixels.shape[1:]
    side = min(height, width)
    rows, columns = (_shares(n, side, size) for n in (height, width))
    return (rows @ pixels.float() @ columns.T).round().clamp(0, 255).to(torch.uint8)


def _shares(n: int, side: int, size: int) -> Tensor:
    """(size, n): how much of each new pixel comes from each old one, when ``side`` of n pixels in the middle are kept."""
    edges = (n - side) / 2 + torch.arange(size + 1, dtype=torch.float64) * side / size
    old = torch.arange(n, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], old + 1) - torch.maximum(edges[:-1, None], old)
    return (overlap.clamp(min=0) * size / side).float()
