"""Where the nouns of a prompt look: attention maps against the true masks of their things, site by site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.diffusion import q_sample
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import encode_prompt, schedule_from
from minidiff.latent.text import token_indices
from minidiff.measure.prompts import prompt_of
from minidiff.rng import normal
from minidiff.steer import Recorder, Row, Tap
from minidiff.world import KINDS, Scenes, render

__all__ = ["OVERLAP", "PEAKS_INSIDE", "Nouns", "best_site", "noun_maps", "overlap", "peak_inside"]

PEAKS_INSIDE, OVERLAP = 0.95, 0.55      # what lesson 08 asks of one site: share of peaks inside, mean IoU


class Nouns(NamedTuple):
    """Attention maps of K nouns, enlarged to the picture and scaled to a maximum of 1, with the true masks of their things."""

    maps: dict[str, Tensor]     # site -> (K, S, S)
    masks: Tensor               # (K, S, S) bool
    grids: dict[str, int]       # site -> cells along the height


@torch.no_grad()
def noun_maps(pipe: object, scenes: Scenes, *, times: Sequence[int] = (100, 150, 200), chunk: int = 16) -> Nouns:
    """What each noun of the scenes' prompts attends to when the U-Net is shown the scenes themselves, noised to ``times``.

    Rendered, encoded, noised, one call a time with the prompt and without guidance; heads, tokens and times averaged. Things of
    which little is visible are left out.
    """
    schedule, pieces, masks, cells = schedule_from(pipe.scheduler), {}, [], {}
    for start in range(0, len(scenes), chunk):
        part = scenes[start:start + chunk]
        painted = render(part)
        prompts = [prompt_of(scene) for scene in part]
        z, context = encode(pipe.vae, painted.images), encode_prompt(pipe, prompts)
        visible = part.present & (painted.masks.sum((2, 3)) > 0.4 * (part.size * painted.masks.shape[-1]) ** 2)
        masks += [painted.masks[i, j] > 0.5 for i, j in visible.nonzero().tolist()]
        for t in times:
            z_t = q_sample(z, t, normal(tuple(z.shape), "noun maps", start, t), schedule)
            with Tap(pipe.unet, seen := Recorder(), rows=[Row("source")]):
                pipe.unet(z_t, t, encoder_hidden_states=context)
            for name in seen.at(0).sites:
                rows = []
                for i, j in visible.nonzero().tolist():
                    tokens = token_indices(pipe.tokenizer, prompts[i], KINDS[int(part.kind[i, j])])[0]
                    rows.append(seen.map(tokens, site=name, row=i))
                pieces.setdefault((name, t), []).append(torch.stack(rows))
                cells[name] = rows[0].shape[0]
    side = masks[0].shape[-1]

    def whole(name: str) -> Tensor:
        small = torch.stack([torch.cat(pieces[name, t]) for t in times]).mean(0)
        large = F.interpolate(small[:, None], size=(side, side), mode="bilinear")[:, 0]
        return large / large.amax((1, 2), keepdim=True).clamp(min=1e-12)

    return Nouns({name: whole(name) for name in cells}, torch.stack(masks), cells)


def peak_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """(K,) bool: the largest value of each map (K, S, S) lies in its mask."""
    return masks.flatten(1).gather(1, maps.flatten(1).argmax(1, keepdim=True))[:, 0]


def overlap(maps: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """(K,) intersection over union of {map >= threshold} and the mask; maps scaled to a maximum of 1."""
    on = maps >= threshold
    return (on & masks).sum((1, 2)) / (on | masks).sum((1, 2)).clamp(min=1)


def best_site(nouns: Nouns, *, place: str = "up", cells: int | None = None) -> tuple[str, float]:
    """(site, threshold) of ``place`` (and of ``cells`` along the height) with the widest margin above both targets.

    The targets are PEAKS_INSIDE and OVERLAP; the lesser of the two margins counts, and where it is equal the overlap.
    """
    names = [n for n in nouns.maps if n.startswith(place) and cells in (None, nouns.grids[n])]
    levels = [k / 20 for k in range(2, 19)]
    peaks = {n: float(peak_inside(nouns.maps[n], nouns.masks).double().mean()) for n in names}

    def margin(choice: tuple[str, float]) -> tuple[float, float]:
        covered = float(overlap(nouns.maps[choice[0]], nouns.masks, choice[1]).mean())
        return min(peaks[choice[0]] - PEAKS_INSIDE, covered - OVERLAP), covered

    return max(((n, v) for n in names for v in levels), key=margin)
