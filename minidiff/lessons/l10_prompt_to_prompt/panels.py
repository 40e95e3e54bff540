"""The panels of lesson 10: how long attention is kept, the fader of a noun, and which token carries a word.

Everything is drawn beforehand, all settings in one run: each is a branch of its own beside the same source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.diffusion import last
from minidiff.editing import Replace, Reweight, SelfCopy, coarse_level, replace_mapper, word_values
from minidiff.errors import check_choice, require
from minidiff.latent import decode, denoiser, encode_prompt, initial_noise, scheduler_options, token_indices
from minidiff.measure import EditPairs, edit_score
from minidiff.show.tiles import lay_out, pixels
from minidiff.steer import CFG, Hook, Recorder, run
from minidiff.world import COLOUR_NAMES, KINDS

__all__ = ["Fader", "Keeping", "TokenSwap", "keeping_hooks", "side_by_side", "swapped_tokens"]


@torch.no_grad()
def side_by_side(pipe: Any, z: Tensor, contexts: Mapping[str, Tensor], hooks: Sequence[Hook], *, steps: int, guidance: float = 4.0
             ) -> dict[str, Tensor]:
    """Pictures (n, 3, H, W) of several branches from one noise z (n, C, h, w): branch -> context (n or 1, L, D)."""
    empty = encode_prompt(pipe, "")
    texts = {branch: {"prompt": context, "empty": empty} for branch, context in contexts.items()}
    end = last(run(denoiser(pipe), dict.fromkeys(contexts, z), texts, steps=steps, guider=CFG(guidance), hooks=hooks,
                   **scheduler_options(pipe)))
    return {branch: decode(pipe.vae, value).clamp(-1, 1) for branch, value in end.z.items()}


def keeping_hooks(pipe: Any, pairs: Sequence[tuple[str, str]], branch: str, *, cross: float, self_attention: float) -> list[Hook]:
    """Prompt-to-Prompt on one branch of many: the word swaps of ``pairs``, and self-attention."""
    mapper = torch.stack([replace_mapper(pipe.tokenizer, *two) for two in pairs])
    return [Replace(mapper, until=float(cross), edit=branch),
            SelfCopy(until=float(self_attention), level=coarse_level(pipe), edit=branch)]


class Keeping:
    """The same word swaps with attention kept for 0 to all of the steps; each setting is scored on the same pairs.

    shares: what ``cross`` and ``self_attention`` may be. Pictures whose source does not show its prompt are drawn, not scored;
    the first four of the pairs are shown.
    """

    def __init__(self, pipe: Any, reader: Any, pairs: EditPairs, *, shares: Sequence[float] = (0.0, 0.4, 0.8), steps: int = 12,
                 seed: int = 0) -> None:
        self.shares, contexts, hooks = tuple(shares), {"source": encode_prompt(pipe, pairs.prompts)}, []
        both, target = list(zip(pairs.prompts, pairs.targets, strict=True)), encode_prompt(pipe, pairs.targets)
        for cross in shares:
            for own in shares:
                branch = f"{cross:g} {own:g}"
                contexts[branch] = target
                hooks += keeping_hooks(pipe, both, branch, cross=cross, self_attention=own)
        self.images = side_by_side(pipe, initial_noise(pipe, len(pairs), seed=seed), contexts, hooks, steps=steps)
        truth = pairs.truth(reader, self.images["source"])
        self.scores = {branch: edit_score(x, truth) for branch, x in self.images.items()}
        self.targets = pairs.targets

    def render(self, *, cross: float, self_attention: float) -> tuple[np.ndarray, str]:
        """Rows: the sources, the plain change, the edit at these settings."""
        for name, value in (("cross", cross), ("self_attention", self_attention)):
            require(value in self.shares, name, value, f"one of {', '.join(map(str, self.shares))}")
        branch, plain = f"{cross:g} {self_attention:g}", f"{self.shares[0]:g} {self.shares[0]:g}"
        rows = [pixels(self.images[b][:4]) for b in ("source", plain, branch)]
        mine = self.scores[branch]
        words = [f"{name} {float(mine.of(score).mean()):.2f}" for name, score in (("success", "target"), ("IoU", "iou"))
                 if len(mine.of(score))]
        return lay_out(rows, 2, row_labels=["source", "same seed, new prompt", "attention kept"]), \
            f"cross-attention {cross:.0%}, self-attention {self_attention:.0%} of the steps: {', '.join(words)}, " \
            f"{int(mine.valid.sum())} pairs"


class Fader:
    """One prompt, one noise, and a noun's attention multiplied by each of ``values``; with the map of the noun."""

    def __init__(self, pipe: Any, prompt: str, noun: str, *, values: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0),
                 steps: int = 20, seed: int = 0) -> None:
        self.values, self.noun, context = tuple(values), noun, encode_prompt(pipe, prompt)
        branches = {value: f"weight {value:g}" for value in values}
        faders = [Reweight(word_values(pipe.tokenizer, prompt, {noun: value}), edit=b) for value, b in branches.items()]
        level = coarse_level(pipe)
        seen = {value: Recorder(lambda s: s.kind == "cross" and s.place == "up" and s.level == level, branch=b)
                for value, b in branches.items()}
        drawn = side_by_side(pipe, initial_noise(pipe, 1, seed=seed), dict.fromkeys(branches.values(), context),
                         [*faders, *seen.values()], steps=steps)
        self.images = {value: drawn[b] for value, b in branches.items()}
        tokens = token_indices(pipe.tokenizer, prompt, noun)[0]
        self.maps = {value: seen[value].map(tokens, row=0) for value in values}

    def render(self, *, weight: float) -> tuple[np.ndarray, str]:
        """The picture without the fader, the picture with it, and the noun's attention; one scale for all weights."""
        require(weight in self.values, "weight", weight, f"one of {', '.join(map(str, self.values))}")
        top = max(float(m.max()) for m in self.maps.values())
        grey = torch.nn.functional.interpolate((self.maps[weight] / top * 2 - 1)[None, None], size=self.images[1.0].shape[-2:])
        row = torch.cat([self.images[1.0], self.images[weight], grey.expand(-1, 3, -1, -1)])
        labels = ["weight 1", f"weight {weight:g}", f"attention to {self.noun!r}"]
        return lay_out([pixels(row)], 3, labels=labels), f"attention to {self.noun!r} times {weight:g}: its mean is " \
            f"{float(self.maps[weight].mean()):.3f}, without the fader {float(self.maps[1.0].mean()):.3f}"


# Which token carries a word: what of the target's text is taken, by the places of its tokens
SWAPS: dict[str, Callable[[int, int, int], list[int]]] = {       # (colour, noun, end) -> tokens
    "nothing": lambda colour, noun, end: [],
    "the colour's own token": lambda colour, noun, end: [colour],
    "the noun's token": lambda colour, noun, end: [noun],
    "colour and noun": lambda colour, noun, end: [colour, noun],
    "colour and all words after it": lambda colour, noun, end: list(range(colour, end)),
    "end and padding": lambda colour, noun, end: [-1],
    "everything": lambda colour, noun, end: [0],
}


def swapped_tokens(pipe: Any, source: str, target: str, what: str) -> Tensor:
    """The source's context (1, L, D) with some tokens of the target's; prompts that differ in one colour before a noun.

    what: one of SWAPS.
    """
    check_choice("what", what, SWAPS)
    words = source.split()
    k = next(k for k, (a, b) in enumerate(zip(words, target.split(), strict=True)) if a != b and a in COLOUR_NAMES)
    noun = next(w for w in words[k:] if w in KINDS)
    (colour,) = token_indices(pipe.tokenizer, source, words[k])[0]
    last_of_noun = token_indices(pipe.tokenizer, source, noun)[0][-1]
    end = len(pipe.tokenizer(source).input_ids) - 1
    a, b = encode_prompt(pipe, source), encode_prompt(pipe, target)
    taken = SWAPS[what](colour, last_of_noun, end)
    rows = range(a.shape[1]) if taken == [0] else range(end, a.shape[1]) if taken == [-1] else taken
    out = a.clone()
    out[:, list(rows)] = b[:, list(rows)]
    return out


class TokenSwap:
    """Two prompts that differ in a colour; the vectors of some tokens are taken from the second, the rest from the first."""

    def __init__(self, pipe: Any, pairs: Sequence[tuple[str, str]], *, steps: int = 15, seed: int = 0) -> None:
        self.pairs = list(pairs)
        contexts = {what: torch.cat([swapped_tokens(pipe, a, b, what) for a, b in pairs]) for what in SWAPS}
        self.images = side_by_side(pipe, initial_noise(pipe, len(self.pairs), seed=seed), contexts, [], steps=steps)

    def render(self, *, taken: str) -> tuple[np.ndarray, str]:
        """Rows: the first prompt, the mixture, the second prompt."""
        check_choice("taken", taken, SWAPS)
        rows = [pixels(self.images[what]) for what in ("nothing", taken, "everything")]
        return lay_out(rows, 2, row_labels=["first prompt", f"with: {taken}", "second prompt"]), \
            f"taken from the second prompt: {taken}"
