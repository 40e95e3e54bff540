"""The edit score: was the edit made, was everything else kept, and how far is the picture from the right answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import check_choice, check_pictures, require
from minidiff.measure.edit_pairs import EditTruth
from minidiff.measure.interval import Estimate, bootstrap
from minidiff.measure.reading import Reading, read
from minidiff.world import ATTRIBUTES

__all__ = ["EditScores", "edit_score", "masked_psnr", "score_table"]


@dataclass(frozen=True, eq=False)
class EditScores:
    """Scores of n edits, each (n,) float64; NaN where a score has no meaning (the other thing of a scene of one thing).

    target: 1 where the edited attributes read as asked (a place or size: more than half of the way is done).
    preserved: share of the other attributes (kind, colour, pattern, mood,
    worn, of every thing; count, backdrop, style) that are as they should be; joint: 1 where both are perfect. iou, others:
    intersection over union of the edited things, and of the other things, with their places in the counterfactual. outside,
    inside: PSNR in dB to the source picture outside and inside the union of all things' masks (source, counterfactual, edit).
    gold: PSNR in dB to the counterfactual. valid (n,) bool: the rows that count.
    """

    target: Tensor
    preserved: Tensor
    joint: Tensor
    iou: Tensor
    others: Tensor
    outside: Tensor
    inside: Tensor
    gold: Tensor
    valid: Tensor

    def of(self, name: str) -> Tensor:
        """The values of one score in the rows that count."""
        check_choice("name", name, NAMES)
        values = getattr(self, name)
        return values[self.valid & ~values.isnan()]

    def mean(self, name: str, *, seed: int = 0) -> Estimate:
        """Mean of one score with its 95 % bootstrap interval."""
        return bootstrap(torch.mean, _enough(self.of(name)), seed=seed)

    def minus(self, other: EditScores, name: str, *, seed: int = 0) -> Estimate:
        """Mean of (self - other), pair by pair: both must score the same edits in the same order."""
        check_choice("name", name, NAMES)
        require(len(other.valid) == len(self.valid), "other", f"{len(other.valid)} edits", f"{len(self.valid)}: the same edits")
        gap = getattr(self, name) - getattr(other, name)
        return bootstrap(torch.mean, _enough(gap[self.valid & other.valid & ~gap.isnan()]), seed=seed)

    def __getitem__(self, rows: slice | Tensor | list[int]) -> EditScores:
        """The scores of some rows."""
        return EditScores(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def __repr__(self) -> str:
        return score_table({"": self})


NAMES = tuple(f.name for f in dataclasses.fields(EditScores) if f.name != "valid")


def _enough(values: Tensor) -> Tensor:
    require(len(values) >= 2, "scores", f"{len(values)} rows that count", "at least two",
            "more pairs, or source pictures that show their prompts")
    return values


def masked_psnr(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    """PSNR in dB over the pixels of ``where`` (n, H, W) bool of pictures (n, C, H, W) in [-1, 1]; NaN where it is empty."""
    square = (x - y).double().square().mean(1)
    mean = (square * where).sum((1, 2)) / where.sum((1, 2))
    return 10 * torch.log10(4 / mean.clamp(min=1e-12))


@torch.no_grad()
def edit_score(images: Tensor, truth: EditTruth) -> EditScores:
    """Score edited pictures (n, 3, S, S) in [-1, 1] against ``truth`` (``edit_pairs(...).truth(reader, source_pictures)``)."""
    check_pictures("images", images)
    require(images.shape == truth.images.shape, "images", f"shape {tuple(images.shape)}", f"{tuple(truth.images.shape)}")
    images = images.detach().float().cpu().clamp(-1, 1)
    got = read(images, truth.reader)
    partner = _partners(got, truth)
    there = got.scenes.present.any(1)
    ok = {n: getattr(got.scenes, n).gather(1, partner) == getattr(truth.target, n) for n in ATTRIBUTES}
    ok = {n: value & there[:, None] for n, value in ok.items()}
    present, changed = truth.target.present, truth.changed
    whole = {n: getattr(got.scenes, n) == getattr(truth.target, n) for n in ("backdrop", "style")}

    target = torch.ones(len(images), dtype=torch.bool)
    kept, asked = torch.zeros(len(images)), torch.zeros(len(images))
    for n in ATTRIBUTES:
        mine = changed[n] & present
        target &= (ok[n] | ~mine).all(1)
        kept, asked = kept + (ok[n] & present & ~mine).sum(1), asked + (present & ~mine).sum(1)
    for n, right in whole.items():
        target &= right | ~changed[n]
        kept, asked = kept + (right & ~changed[n]), asked + ~changed[n]
    count = got.scenes.present.sum(1) == present.sum(1)
    kept, asked = kept + count, asked + 1
    for names in (("x", "y"), ("size",)):        # a place or size is reached where more than half of the way is done
        want, seen, old = (torch.stack([getattr(part, n) if part is not got.scenes else getattr(part, n).gather(1, partner)
                                        for n in names]) for part in (truth.target, got.scenes, truth.source))
        reached = (seen - want).norm(dim=0) < 0.5 * (want - old).norm(dim=0)
        mine = torch.stack([changed[n] for n in names]).any(0) & present
        target &= ((reached & there[:, None]) | ~mine).all(1)
    preserved = (kept / asked).double()

    overlap = _best_iou(got.masks > 0.5, truth.gold_masks)
    edited = truth.edited & present
    union = torch.cat([got.masks > 0.5, truth.source_masks, truth.gold_masks], 1).any(1)
    union = F.max_pool2d(union[:, None].float(), 3, 1, 1)[:, 0] > 0.5
    everywhere = torch.ones_like(union)
    return EditScores(
        target.double(), preserved, (target & (preserved == 1)).double(), _mean_over(overlap, edited),
        _mean_over(overlap, present & ~edited), masked_psnr(images, truth.images, ~union),
        masked_psnr(images, truth.images, union), masked_psnr(images, truth.gold, everywhere), truth.valid)


def _partners(got: Reading, truth: EditTruth) -> Tensor:
    """(n, 3): for each thing of the counterfactual the read thing of its kind, else the nearest one."""
    want, seen = truth.target, got.scenes
    far = (want.x[:, :, None] - seen.x[:, None]) ** 2 + (want.y[:, :, None] - seen.y[:, None]) ** 2
    other = (want.kind[:, :, None] != seen.kind[:, None]).float()
    return (far + 4.0 * other + 99.0 * ~seen.present[:, None]).argmin(2)


def _best_iou(seen: Tensor, gold: Tensor) -> Tensor:
    """(n, 3): for each gold mask the largest intersection over union with any mask that was read."""
    a, b = gold.flatten(2).float(), seen.flatten(2).float()
    both = a @ b.mT
    either = a.sum(2)[:, :, None] + b.sum(2)[:, None] - both
    return (both / either.clamp(min=1)).amax(2).double()


def _mean_over(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the chosen things of each row, NaN where there are none."""
    return (values * where).sum(1) / where.sum(1)


def score_table(scores: Mapping[str, EditScores]) -> str:
    """One line a method: means and 95 % intervals of all scores."""
    lines = [f"{'':<26}" + "".join(f"{name:>20}" for name in NAMES) + f"{'N':>6}"]
    for method, mine in scores.items():
        cells = []
        for name in NAMES:
            values = mine.of(name)
            if len(values) < 2:
                cells.append("-" if not len(values) else f"{float(values[0]):.2f}")
                continue
            found, places = mine.mean(name), 1 if name in ("outside", "inside", "gold") else 2
            cells.append(f"{found.value:.{places}f} [{found.low:.{places}f}, {found.high:.{places}f}]")
        lines.append(f"{method[:26]:<26}" + "".join(f"{cell:>20}" for cell in cells) + f"{int(mine.valid.sum()):>6}")
    return "\n".join(lines)
