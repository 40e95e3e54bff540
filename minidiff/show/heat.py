"""Heat maps laid over pictures, and short animations."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from minidiff.errors import require
from minidiff.show.sheet import Picture, font, framed, paper, text_height, write_text
from minidiff.show.theme import DENSITY, SOFT
from minidiff.show.tiles import LABEL, lay_out, pixels

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
    unit: str = "",
    alt: str,
    caption: str = "",
) -> Picture:
    """Maps (B, H, W) as colours, dark for low and bright for high; ``over`` (B, 3, S, S) shows through at half strength.

    limits: values of the darkest and the brightest colour, written at the ends of the scale below the maps; the smallest and
            largest of all maps when left out. unit: what the numbers are, such as "nats" or "share of attention".
    """
    require(
        isinstance(maps, torch.Tensor) and maps.ndim == 3, "maps", f"{getattr(maps, 'shape', type(maps))}", "a tensor (B, H, W)"
    )
    values = maps.detach().cpu().double()
    low, high = limits or (float(values.min()), float(values.max()))
    require(limits is None or low < high, "limits", limits, "(the value of the darkest colour, a larger one for the brightest)",
            f"limits=({min(low, high)}, {max(low, high)})" if low != high else "limits=(0, 1)")
    if over is not None:
        values = torch.nn.functional.interpolate(values[:, None], size=over.shape[-2:], mode="nearest")[:, 0]
    shown = _colours(((values - low) / max(high - low, 1e-12)).clamp(0, 1).numpy())
    if over is not None:
        shown = (0.55 * shown + 0.45 * pixels(over)).round().astype(np.uint8)
    array = lay_out([shown], scale, labels=[str(label) for label in labels] if labels is not None else [])
    return Picture.of(framed(_with_scale(array, low, high, unit), caption=caption), alt=alt, caption=caption)


def _with_scale(array: np.ndarray, low: float, high: float, unit: str) -> np.ndarray:
    """uint8 device pixels above a bar from the darkest to the brightest colour, with the numbers at its ends."""
    long, thick, gap, text = 180 * DENSITY, 8 * DENSITY, 8 * DENSITY, text_height(1, LABEL)
    width = max(array.shape[1], long + (round(font(LABEL).getlength(unit)) + gap if unit else 0))
    sheet = paper(width, array.shape[0] + gap + thick + text)
    sheet.paste(Image.fromarray(array), ((width - array.shape[1]) // 2, 0))
    bar, top = _colours(np.tile(np.linspace(0, 1, long), (thick, 1))), array.shape[0] + gap
    sheet.paste(Image.fromarray(bar), (0, top))
    write_text(sheet, (0, top + thick), (f"{low:.3g}",), size=LABEL, fill=SOFT)
    write_text(sheet, (long, top + thick), (f"{high:.3g}",), size=LABEL, fill=SOFT, anchor="right")
    write_text(sheet, (long + gap, top + (thick - text) / 2), (unit,), size=LABEL, fill=SOFT)
    return np.asarray(sheet)


class Animation(Picture):
    """A still Picture (the last frame) that can also be saved as a moving GIF."""

    frames: list[Image.Image]

    def save_gif(self, path: str, *, milliseconds: int = 120) -> None:
        """Write all frames as a looping GIF."""
        from minidiff.show.sheet import write_file

        buffer = io.BytesIO()
        self.frames[0].save(buffer, "GIF", save_all=True, append_images=self.frames[1:], duration=milliseconds, loop=0)
        write_file(path, buffer.getvalue(), suffix=".gif")


def animation(frames: Sequence[np.ndarray], *, alt: str, caption: str = "") -> Animation:
    """Frames (each uint8 (H, W, 3), all of one size) as an Animation."""
    require(len(frames) > 0, "frames", "none", "at least one uint8 array (H, W, 3)")
    made = Animation.of(framed(frames[-1], caption=caption), alt=alt, caption=caption)
    made.frames = [Image.fromarray(f) for f in frames]
    return made
