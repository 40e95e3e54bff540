"""How the words of a prompt share the picture: their maps in competition, and losses on them (Attend-and-Excite, Chefer et al.
2023; SynGen, Rassin et al. 2023; a place for each thing, after Chen et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import require
from minidiff.latent.grounding import phrases
from minidiff.latent.text import token_indices, word_tokens
from minidiff.steer.energy import Energy, EnergyState
from minidiff.steer.record import Maps, Select, shape_of

__all__ = ["PUBLISHED_WIDTH", "Excite", "Placed", "Presence", "SynGen", "Things", "compete", "excite_loss", "place_loss",
           "presence_loss", "smooth", "syngen_loss", "things_of"]

PUBLISHED_WIDTH = 0.5**0.5  # of the smoothing: asked for is 0.5, but the code's exp(-(d / (2 * 0.5))^2) is a Gaussian of 0.707


# Which words are things ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Things:
    """Which tokens speak of which thing. phrases, nouns: for each row, for each thing, token positions (the begin token is 0).

    words: (B, L) bool, the tokens of the prompt itself, without begin, end and padding.
    """

    phrases: list[list[list[int]]]
    nouns: list[list[list[int]]]
    words: Tensor

    def weights(self, parts: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
        """(B, K, L) float, 1 where token l belongs to part k, and (B, K) bool: which parts are there (rows may have fewer)."""
        most = max(len(row) for row in parts)
        out = torch.zeros(len(parts), most, self.words.shape[1])
        for i, row in enumerate(parts):
            for k, tokens in enumerate(row):
                out[i, k, list(tokens)] = 1.0
        return out, out.any(-1)


def things_of(tokenizer: Any, prompts: Sequence[str], things: Sequence[str] | Sequence[Sequence[str]] | None = None) -> Things:
    """The things of each prompt: words of it such as "red cat", for all prompts or a tuple for each; the last word is the noun.

    None: what the toy world's grammar finds, each noun with the adjectives right before it. Raises BadInput where a word is not
    in its prompt, or where no thing is known.
    """
    rows = [things] * len(prompts) if things is not None and all(isinstance(t, str) for t in things) else things
    require(rows is None or len(rows) == len(prompts), "things", f"{len(rows or ())} rows", f"words, or {len(prompts)} tuples")
    spoken, nouns = [], []
    length = tokenizer.model_max_length
    words = torch.zeros(len(prompts), length, dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        at = word_tokens(tokenizer, prompt)
        words[i, sorted({k for _, tokens in at for k in tokens})] = True
        if rows is None:
            require(bool(tokenizer.init_kwargs.get("toy_world")), "things", "none", "words of the prompt: only the toy world's "
                    "grammar is known", 'things=["red cat", "dog"]')
            found = [found for _, found in sorted(phrases(prompt).items(), key=lambda kv: kv[1])]
        else:
            found = [token_indices(tokenizer, prompt, said)[0] for said in rows[i]]
        require(len(found) > 0, "things", f"none in {prompt!r}", "at least one thing", 'things=["red cat", "dog"]')
        spoken.append(found)
        nouns.append([next(tokens for _, tokens in at if phrase[-1] in tokens) for phrase in found])
    return Things(spoken, nouns, words)


# The losses, on one map (B, N, L): heads and sites averaged -------------------------------------------------------------------


def compete(a: Tensor, words: Tensor, *, sharpness: float = 100.0) -> Tensor:
    """Softmax of sharpness * a over the tokens that ``words`` (B, L) allows, the others 0: a (B, N, L) -> (B, N, L).

    Attention after the begin token is left out (Chefer et al. 2023, section 3.1): it takes most of the mass.
    """
    return (sharpness * a).masked_fill(~words.to(a.device)[:, None], float("-inf")).softmax(-1)


def smooth(a: Tensor, *, width: float = 0.5) -> Tensor:
    """Maps (..., h, w) through a 3 x 3 Gaussian whose standard deviation is ``width`` cells; edges are mirrored.

    Along a side of one cell there is nothing to smooth.
    """
    k = torch.exp(-0.5 * (torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) / width) ** 2).to(a)
    k = k / k.sum()
    flat = a.reshape(-1, 1, *a.shape[-2:])
    if a.shape[-1] > 1:
        flat = F.conv2d(F.pad(flat, (1, 1, 0, 0), mode="reflect"), k[None, None, None])
    if a.shape[-2] > 1:
        flat = F.conv2d(F.pad(flat, (0, 0, 1, 1), mode="reflect"), k[None, None, :, None])
    return flat.reshape(a.shape)


def _peaks(p: Tensor, weights: Tensor, shape: tuple[int, int], width: float) -> Tensor:
    """(B, K): the largest smoothed value of each part's summed map."""
    maps = torch.einsum("bnl,bkl->bkn", p, weights.to(p)).unflatten(-1, shape)
    return smooth(maps, width=width).flatten(2).amax(-1)


def excite_loss(a: Tensor, things: Things, shape: tuple[int, int], *, sharpness: float = 100.0,
                width: float = PUBLISHED_WIDTH) -> Tensor:
    """As published (Chefer et al. 2023, eq. 1 and algorithm 1): the worst noun token's 1 - max of its smoothed map, (B,).

    a: (B, N, L) attention, heads and sites averaged; shape: (h, w) with N = h w.
    """
    tokens = [[[token] for noun in row for token in noun] for row in things.nouns]
    weights, there = things.weights(tokens)
    peaks = _peaks(compete(a, things.words, sharpness=sharpness), weights, shape, width)
    return (1 - peaks).clamp(min=0).masked_fill(~there.to(a.device), 0.0).amax(-1)


def presence_loss(a: Tensor, things: Things, shape: tuple[int, int], *, sharpness: float = 20.0, width: float = 0.5) -> Tensor:
    """The form that works where a noun and its adjectives share one map: the mean over things of 1 - max, (B,).

    A thing's map is the sum over its phrase, so that its words do not compete with each other; the mean moves all things at once.
    """
    weights, there = things.weights(things.phrases)
    peaks = _peaks(compete(a, things.words, sharpness=sharpness), weights, shape, width)
    there = there.to(peaks)
    return ((1 - peaks).clamp(min=0) * there).sum(-1) / there.sum(-1)


def place_loss(a: Tensor, things: Things, shape: tuple[int, int], *, positions: Tensor, radius: float = 0.17) -> Tensor:
    """Mean of (1 - share of the phrase's attention that lies within ``radius`` of its place)^2 over the things, (B,).

    positions: (B, K, 2), (x, y) in shares of the side, NaN: anywhere. A disc in place of the box of Chen et al. (2024), eq. 1; a
    centroid is the weaker wish, for the attention that a word has everywhere pulls it to the middle.
    """
    weights, _ = things.weights(things.phrases)
    maps = torch.einsum("bnl,bkl->bkn", a, weights.to(a)).unflatten(-1, shape)
    (h, w), asked = shape, ~positions.isnan().any(-1).to(a.device)
    at = positions.nan_to_num().to(a)[..., None, None]
    x, y = torch.arange(0.5, w).to(a) / w, torch.arange(0.5, h).to(a)[:, None] / h
    inside = ((x - at[:, :, 0]) ** 2 + (y - at[:, :, 1]) ** 2 <= radius**2).to(a)
    share = (maps * inside).sum((-2, -1)) / (maps.sum((-2, -1)) + 1e-8)
    return ((1 - share) ** 2 * asked).sum(-1) / asked.sum(-1).clamp(min=1)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """(KL(p|q) + KL(q|p)) / 2 of maps (..., N) that are taken as distributions over places."""
    p, q = (x / x.sum(-1, keepdim=True) + 1e-8 for x in (p, q))
    return 0.5 * ((p - q) * (p.log() - q.log())).sum(-1)


def syngen_loss(a: Tensor, things: Things, shape: tuple[int, int]) -> Tensor:
    """SynGen (Rassin et al. 2023, eqs. 2 to 4): adjectives near their nouns, both far from all other words, (B,).

    Distance is the symmetric Kullback-Leibler divergence of two tokens' maps over places. For each pair of an adjective and its
    noun: the largest distance of their tokens, minus the mean distance of the two from the words outside the phrase.
    """
    out = []
    for i in range(len(a)):
        maps, total = a[i].transpose(0, 1), a.new_zeros(())
        for phrase, noun in zip(things.phrases[i], things.nouns[i], strict=True):
            outside = [k for k in things.words[i].nonzero().flatten().tolist() if k not in phrase]
            for adjective in [k for k in phrase if k not in noun]:
                total = total + _divergence(maps[adjective], maps[noun]).max()
                if outside:
                    total = total - _divergence(maps[[adjective, noun[-1]]][:, None], maps[outside]).mean()
        out.append(total)
    return torch.stack(out)


# Energies ----------------------------------------------------------------------------------------------------------------


class _OnMaps(Energy):
    """A loss on the chosen cross-attention sites: on the mean of those of one size, and the mean over the sizes."""

    loss: Callable[..., Tensor]

    def __init__(self, things: Things, *, sites: Select, **options: Any) -> None:
        super().__init__(sites=sites)
        self.things, self.options = things, options

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        found: dict[int, list[Tensor]] = {}
        for name, site in maps.sites.items():
            if self.selects(site):
                probs = maps.probs[name].mean(1)
                found.setdefault(probs.shape[1], []).append(probs)
        require(len(found) > 0, "sites", "none", "at least one cross-attention site")
        losses = [type(self).loss(torch.stack(same).mean(0), self.things, shape_of(cells, maps.grid), **self.options)
                  for cells, same in found.items()]
        return torch.stack(losses).mean(0)


class Excite(_OnMaps):
    """:func:`excite_loss` as an energy."""

    loss = staticmethod(excite_loss)


class Presence(_OnMaps):
    """:func:`presence_loss` as an energy."""

    loss = staticmethod(presence_loss)


class Placed(_OnMaps):
    """:func:`place_loss` as an energy."""

    loss = staticmethod(place_loss)


class SynGen(_OnMaps):
    """:func:`syngen_loss` as an energy; it may be negative."""

    loss = staticmethod(syngen_loss)
