"""Teaching words where to look: a loss that asks each noun's attention to lie on its thing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff.latent.text import PIECES
from minidiff.steer.attention import pool_masks
from minidiff.world import COLOUR_NAMES, KINDS, PATTERNS
from minidiff.world.grammar import MOOD_WORDS, SIZE_WORDS

__all__ = ["grounding_loss", "phrases", "phrase_masks", "place_loss"]

_ADJECTIVES = {*COLOUR_NAMES, *PATTERNS, *(w for table in (MOOD_WORDS, SIZE_WORDS) for row in table.values() for w in row)}


def phrases(text: str) -> dict[str, list[int]]:
    """kind -> token positions of the noun and of the adjectives right before it, in a caption of the toy world.

    Positions count the begin token as 0, and words of two tokens as two.
    """
    words = text.split()
    starts = [1]
    for word in words:
        starts.append(starts[-1] + len(PIECES.get(word, (word,))))
    out: dict[str, list[int]] = {}
    for i, word in enumerate(words):
        if word in KINDS:
            first = i
            while first > 0 and words[first - 1] in _ADJECTIVES:
                first -= 1
            out[word] = list(range(starts[first], starts[i + 1]))
    return out


def phrase_masks(texts: Sequence[str], kinds: Tensor, length: int) -> Tensor:
    """(B, 3, length) float: 1 where a token speaks of thing j. kinds (B, 3): positions in KINDS, each kind once a scene."""
    out = torch.zeros(len(texts), kinds.shape[1], length)
    for row, (text, slots) in enumerate(zip(texts, kinds.tolist(), strict=True)):
        for kind, where in phrases(text).items():
            number = KINDS.index(kind)
            if number in slots:
                out[row, slots.index(number), where] = 1.0
    return out


def grounding_loss(probs: Tensor, words: Tensor, masks: Tensor) -> Tensor:
    """How badly the words' attention covers their things: (B,), 0 where no word speaks of a visible thing.

    probs: cross-attention (B, heads, N, L); words (B, K, L) from :func:`phrase_masks`; masks (B, K, H, W) in [0, 1].
    For each word: (1 - share of its attention that lies on the thing)^2, as in TokenCompose (Wang et al. 2024, eq. 3), plus
    one minus the Dice overlap of its map, scaled to a maximum of 1, with the mask. Heads are averaged first, so that
    they may still divide the work.
    """
    a = (probs if probs.dtype == torch.float64 else probs.float()).mean(1)  # (B, N, L)
    m = pool_masks(masks, a.shape[1], masks.shape[-2] / masks.shape[-1]).to(a)  # (B, K, N)
    area = m.sum(2)[:, :, None]
    inside = m @ a                                                          # (B, K, L)
    share = inside / (a.sum(1)[:, None] + 1e-8)
    top = a.amax(1).detach()[:, None] + 1e-8
    dice = 2 * (inside / top) / (a.sum(1)[:, None] / top + area + 1e-8)
    weight = words.to(a) * (area > 0.5)
    return (weight * ((1 - share) ** 2 + (1 - dice))).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


def place_loss(guesses: Tensor, words: Tensor, masks: Tensor) -> Tensor:
    """Mean squared distance between where each token says its thing is and where it is: (B,), 0 where no word speaks of one.

    guesses (B, L, 2): x and y, from -1 (left, top) to 1; words (B, K, L), masks (B, K, H, W) as in :func:`grounding_loss`.
    """
    x, y = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n, device=masks.device) for n in (masks.shape[-1], masks.shape[-2]))
    area = masks.sum((2, 3))
    centre = torch.stack(((masks * x).sum((2, 3)), (masks * y[:, None]).sum((2, 3))), -1) / area.clamp(min=1e-8)[..., None]
    weight = words * (area > 0.5)[..., None]
    far = (guesses[:, None].float() - centre[:, :, None]).square().sum(-1)           # (B, K, L)
    return (weight * far).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
