"""Heat maps laid over pictures, and short animations."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..errors import require
from .sheet import Picture, framed
from .tiles import lay_out, pixels

__all__ = ["heatmap", "animation", "Animation"]


def _colours(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as viridis colours, uint8."""
    from matplotlib import colormaps

    return (colormaps["viridis"](values)[..., :3] * 255).round().astype(np.uint8)


def heatmap(
    maps: torch.Tensor,
    *,
    over: torch.Tensor | None = None,
    labels: Sequence[object] | None = None,
    scale: int = 2,
    limits: tuple[float, float] | None = None,
    alt: str,
    caption: str = "",
) -> Picture:
    """Maps (B, H, W) as colours, dark for low and bright for high; ``over`` (B, 3, S, S) shows through at half strength.

    limits: values of the darkest and the brightest colour; the smallest and largest of all maps when left out.
    """
    require(
        isinstance(maps, torch.Tensor) and maps.ndim == 3, "maps", f"{getattr(maps, 'shape', type(maps))}", "a tensor (B, H, W)"
    )
    values = maps.detach().cpu().double()
    low, high = limits or (float(values.min()), float(values.max()))
    if over is not None:
        values = torch.nn.functional.interpolate(values[:, None], size=over.shape[-2:], mode="nearest")[:, 0]
    shown = _colours(((values - low) / max(high - low, 1e-12)).clamp(0, 1).numpy())
    if over is not None:
        shown = (0.55 * shown + 0.45 * pixels(over)).round().astype(np.uint8)
    array = lay_out([shown], scale, labels=[str(label) for label in labels] if labels is not None else [])
    return Picture.of(framed(array, caption=caption), alt=alt, caption=caption)


class Animation(Picture):
    """A still Picture (the last frame) that can also be saved as a moving GIF."""

    frames: list[Image.Image]

    def save_gif(self, path: str, *, milliseconds: int = 120) -> None:
        """Write all frames as a looping GIF."""
        from .sheet import write_file

        buffer = io.BytesIO()
        self.frames[0].save(buffer, "GIF", save_all=True, append_images=self.frames[1:], duration=milliseconds, loop=0)
        write_file(path, buffer.getvalue(), suffix=".gif")


def animation(frames: Sequence[np.ndarray], *, alt: str, caption: str = "") -> Animation:
    """Frames (each uint8 (H, W, 3), all of one size) as an Animation."""
    require(len(frames) > 0, "frames", "none", "at least one uint8 array (H, W, 3)")
    made = Animation.of(framed(frames[-1], caption=caption), alt=alt, caption=caption)
    made.frames = [Image.fromarray(f) for f in frames]
    return made
