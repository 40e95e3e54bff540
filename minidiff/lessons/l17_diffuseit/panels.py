"""The panels of lesson 17: a patch and what is like it, and the plane of start and push with SDEdit as the curve to beat.

Each ``render`` is a pure function of its knobs; everything is drawn beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from minidiff.editing.diffuseit import diffuseit
from minidiff.editing.key_losses import Features, self_similarity
from minidiff.editing.sdedit import sdedit
from minidiff.errors import require
from minidiff.measure import EditTruth, edit_score
from minidiff.show import curve
from minidiff.show.tiles import below, lay_out, pixels

__all__ = ["Patches", "StartPlane", "framed_patch", "likeness"]


def framed_patch(picture: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    """A uint8 picture (H, W, 3) with a frame round one of side x side patches."""
    sheet, (h, w) = Image.fromarray(picture), picture.shape[:2]
    box = [column * w // side, row * h // side, (column + 1) * w // side - 1, (row + 1) * h // side - 1]
    pen = ImageDraw.Draw(sheet)
    pen.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline=(255, 255, 255))
    pen.rectangle(box, outline=(20, 20, 20))
    return np.asarray(sheet)


def likeness(maps: Tensor, images: Tensor) -> np.ndarray:
    """Cosines (K, h, w) from -0.2 to 1 as viridis over their pictures (K, 3, H, W): uint8 (K, H, W, 3)."""
    from matplotlib import colormaps

    big = F.interpolate(maps[:, None].float(), size=images.shape[-2:], mode="nearest")[:, 0]
    shade = (((big + 0.2) / 1.2).clamp(0, 1) * 24).round().div(24)
    colours = np.asarray(colormaps["viridis"](shade.numpy()))[..., :3] * 255
    return (0.75 * colours + 0.25 * pixels(images)).round().astype(np.uint8)


class Patches:
    """Several pictures of one layout: choose a patch, see which patches of each picture have a key like its key."""

    def __init__(self, features: Callable[[Tensor], Features], images: Mapping[str, Tensor]) -> None:
        self.names, self.images = list(images), torch.stack(list(images.values()))
        with torch.no_grad():
            self.similarity = self_similarity(features(self.images).keys)
        self.side = round(self.similarity.shape[1] ** 0.5)

    def render(self, *, row: int, column: int) -> tuple[np.ndarray, str]:
        """The pictures with the patch framed; below them the cosine of every patch's key with the framed one's."""
        for name, value in (("row", row), ("column", column)):
            require(0 <= value < self.side, name, value, f"a whole number from 0 to {self.side - 1}")
        maps = self.similarity[:, row * self.side + column].reshape(-1, self.side, self.side)
        top = np.stack([framed_patch(x, row, column, self.side) for x in pixels(self.images)])
        sheet = lay_out([top, likeness(maps, self.images)], 2, column_labels=self.names, row_labels=["picture", "alike"])
        first = self.similarity[0, row * self.side + column]
        gaps = [float((other[row * self.side + column] - first).square().mean()) for other in self.similarity]
        return sheet, f"patch ({row}, {column}); mean squared difference from {self.names[0]}: " + ", ".join(
            f"{name} {gap:.3f}" for name, gap in zip(self.names[1:], gaps[1:], strict=True))


class StartPlane:
    """The same edits from several starts and with several pushes: flipped and IoU; a push of 0 is SDEdit itself."""

    def __init__(self, pipe: Any, features: Callable[[Tensor], Features], truth: EditTruth, targets: Sequence[str], noise: Tensor,
                 *, starts: Sequence[float] = (0.8, 1.0), pushes: Sequence[float] = (0.0, 0.1, 0.3), steps: int = 12,
                 guidance: float = 3.0, repeats: int = 3, known: Mapping[tuple[float, float], Tensor] | None = None) -> None:
        """known: (start, push) -> edits that were made elsewhere with the same settings, and are not made again."""
        self.starts, self.pushes, self.images, self.source = tuple(starts), tuple(pushes), dict(known or {}), truth.images
        common = {"image": truth.images, "latents": noise, "steps": steps, "guidance": guidance}
        for start in starts:
            for push in pushes:
                if (start, push) not in self.images:
                    made = sdedit(pipe, targets, strength=start, **common) if push == 0 else diffuseit(
                        pipe, "", targets, features=features, strength=start, relative=push, repeats=repeats, **common)
                    self.images[start, push] = made.edit
        self.scores = {key: edit_score(x, truth) for key, x in self.images.items()}
        self.gold = truth.gold

    def point(self, start: float, push: float) -> tuple[float, float]:
        """(flipped, IoU) at one setting."""
        mine = self.scores[start, push]
        return float(mine.of("target").mean()), float(mine.of("iou").mean())

    def render(self, *, start: float, push: float) -> tuple[np.ndarray, str]:
        """Rows: sources, the edits at this start and push, the right answers; below, flipped against IoU, a curve a push."""
        for name, value, known in (("start", start, self.starts), ("push", push, self.pushes)):
            require(value in known, name, value, f"one of {', '.join(map(str, known))}")
        rows = [pixels(x) for x in (self.source, self.images[start, push], self.gold)]
        top = lay_out(rows, 2, row_labels=["source", "edit", "right answer"])
        lines = {"SDEdit" if p == 0 else f"push {p:g}": tuple(zip(*(self.point(s, p) for s in self.starts), strict=True))
                 for p in self.pushes}
        here = self.point(start, push)
        starts = " to ".join(f"{s:g}" for s in (self.starts[0], self.starts[-1]))
        graph = curve(lines, x=f"flipped (share of edits); starts from {starts} along each curve", y="IoU",
                      level={"chosen": here[1]}, height=2.6, alt="flipped against IoU").array
        kept = float(self.scores[start, push].of("preserved").mean())
        return below(top, graph), f"flipped {here[0]:.2f}, kept {kept:.2f}, IoU {here[1]:.2f} ({len(self.source)} edits)"
