"""A sheet of pictures in one small PNG."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from PIL import Image

from minidiff.errors import check_images
from minidiff.train.files import replace_file

__all__ = ["save_preview"]


def save_preview(images: torch.Tensor, path: Path, *, gap: int = 2, height: int = 512) -> Path:
    """Tile (B, 1 or 3, H, W) in [-1, 1] into a nearly square PNG, enlarged by a whole number to at most ``height`` rows."""
    check_images("images", images, finite=False)
    images = torch.nan_to_num(images.detach().float().cpu()).clamp(-1, 1).expand(-1, 3, -1, -1)
    b, _, h, w = images.shape
    columns = math.ceil(math.sqrt(b))
    rows = math.ceil(b / columns)
    sheet = torch.ones(3, rows * (h + gap) - gap, columns * (w + gap) - gap)
    for k in range(b):
        y, x = k // columns * (h + gap), k % columns * (w + gap)
        sheet[:, y:y + h, x:x + w] = images[k]
    pixels = ((sheet + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels)
    times = max(1, height // picture.height)
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    data = io.BytesIO()
    picture.save(data, "png", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data.getvalue())
    return path
