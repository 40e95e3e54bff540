"""From the network's raw prediction to a scene: peaks of the centre map, the words found there, and masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import check_pictures
from minidiff.measure.reader import GRID, RawReading, Reader
from minidiff.world import ANIMALS, KINDS, MAX_THINGS, SIZE_RANGE, Scenes

__all__ = ["Reading", "decode", "read", "silhouette_iou"]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a reader predicts for B pictures. Things are listed from top to bottom, which is also the drawing order."""

    scenes: Scenes
    masks: Tensor            # (B, 3, S, S) in {0, 1}
    confidence: Tensor            # (B, 3) the network's confidence that an object is there, in [0, 1]
    probs: dict[str, Tensor]    # attribute -> (B, 3, values) probabilities; "backdrop" and "style" -> (B, values)

    def __getitem__(self, rows: slice | Tensor) -> Reading:
        """The readings of some of the pictures."""
        return Reading(self.scenes[rows], self.masks[rows], self.confidence[rows], {k: v[rows] for k, v in self.probs.items()})


@torch.no_grad()
def read(images: Tensor, reader: Reader, *, threshold: float = 0.35, chunk: int = 256) -> Reading:
    """Read pictures (B, 3, S, S) in [-1, 1]. ``threshold`` is the least confidence with which a thing counts."""
    check_pictures("images", images)
    parts = [decode(reader(part), size=images.shape[-1], threshold=threshold) for part in images.split(chunk)]
    return Reading(Scenes.cat([p.scenes for p in parts]), torch.cat([p.masks for p in parts]),
                   torch.cat([p.confidence for p in parts]),
                   {k: torch.cat([p.probs[k] for p in parts]) for k in parts[0].probs})


def silhouette_iou(images: Tensor, silhouettes: Tensor, reader: Reader) -> Tensor:
    """(B,) in [0, 1]: intersection over union of silhouettes (B, 1 or 3, S, S), white above 0.5, with all that is read."""
    found, wanted = (read(images, reader).masks > 0.5).any(1), silhouettes[:, 0] > 0.5
    return (found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2)).clamp(min=1)


def decode(raw: RawReading, *, size: int, threshold: float = 0.35) -> Reading:
    """Up to three peaks of the centre map, each with the words of its cell; words that cannot be are not considered."""
    batch = len(raw.centre)
    heat = raw.centre.sigmoid()
    peak = heat * (F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0] == heat)
    confidence, cell = peak.flatten(1).topk(MAX_THINGS, 1)
    present = confidence > threshold
    order = torch.where(present, cell // GRID, GRID + torch.arange(MAX_THINGS, device=cell.device)).argsort(dim=1)
    confidence, cell, present = (t.gather(1, order) for t in (confidence, cell, present))

    def pick(field: Tensor) -> Tensor:            # (B, C, 16, 16) -> (B, 3, C)
        return field.flatten(2).gather(2, cell[:, None].expand(-1, field.shape[1], -1)).transpose(1, 2)

    place = pick(raw.place)
    x, y = (cell % GRID + place[..., 0]) / GRID, (cell // GRID + place[..., 1]) / GRID
    thing_size = place[..., 2].clamp(*SIZE_RANGE)
    logits = {name: pick(field) for name, field in raw.words.items()}
    kind = logits["kind"].argmax(-1)
    animal = (kind < len(ANIMALS))[..., None]     # KINDS begins with the animals
    assert KINDS[:len(ANIMALS)] == ANIMALS
    never = torch.finfo(logits["mood"].dtype).min / 4
    faces = torch.arange(logits["mood"].shape[-1], device=kind.device) > 0
    logits["mood"] = torch.where(animal == faces, logits["mood"], never)
    only_animals = torch.arange(logits["wears"].shape[-1], device=kind.device) >= 2
    logits["wears"] = torch.where(only_animals & ~animal, never, logits["wears"])
    words = {name: value.argmax(-1) for name, value in logits.items()}
    scenes = Scenes(backdrop=raw.backdrop.argmax(-1), style=raw.style.argmax(-1), present=present, **words,
                    x=x, y=y, size=thing_size, vary=raw.vary.clamp(-1, 1))
    probs = {name: value.softmax(-1) for name, value in logits.items()}
    probs |= {"backdrop": raw.backdrop.softmax(-1), "style": raw.style.softmax(-1)}
    return Reading(scenes, _masks(raw.owner, x, y, present, size, batch), confidence, probs)


def _masks(owner: Tensor, x: Tensor, y: Tensor, present: Tensor, size: int, batch: int) -> Tensor:
    owner = F.interpolate(owner, size=(size, size), mode="bilinear", align_corners=False)
    line = (torch.arange(size, device=owner.device) + 0.5) / size
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"))
    points = grid + 0.5 * owner[:, 1:]                                            # the centre that each pixel predicts
    centre = torch.stack([x, y], -1)[..., None, None]                             # (B, 3, 2, 1, 1)
    far = ((points[:, None] - centre) ** 2).sum(2) + 9.0 * ~present[..., None, None]
    mine = F.one_hot(far.argmin(1), MAX_THINGS).movedim(-1, 1)
    return mine * (owner[:, :1] > 0) * present[..., None, None]
