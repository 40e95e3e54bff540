"""The edits of lesson 12: which word becomes which, the bank for it, and directions of three kinds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minidiff.editing import edit_direction, put_word, sentence_bank, word_direction
from minidiff.errors import check_choice
from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.measure import EditPairs, EditTruth, edit_pairs, read
from minidiff.measure.reader import Reader
from minidiff.world import BACKDROPS, COLOUR_NAMES, KINDS
from minidiff.world.grammar import BACKDROP_WORDS

__all__ = ["BANKS", "bank_direction", "directions", "neighbours", "rendered", "seen", "template_bank", "token_norms", "word_pair"]

BANKS = ("grammar", "template", "aligned")
SIZE = 54              # sentences of a bank: the template has 9 colours x 6 backdrops


def word_pair(prompt: str, target: str) -> tuple[str, str, str | None]:
    """The word that changes and what it becomes; and, where it is a colour, the noun behind it, whose token carries it here."""
    words = prompt.split()
    k, other = next((k, b) for k, (a, b) in enumerate(zip(words, target.split(), strict=True)) if a != b and a not in ("a", "an"))
    return words[k], other, next(w for w in words[k:] if w in KINDS) if words[k] in COLOUR_NAMES else None


def template_bank(word: str, other: str) -> tuple[list[str], list[str]]:
    """"a red cat on the grass" in all colours and before all backdrops, and the same of the other kind."""
    said = [f"a {colour} {word} {BACKDROP_WORDS[place][0]}" for place in BACKDROPS for colour in COLOUR_NAMES]
    source = [put_word(text, word, word) for text in said]
    return source, [put_word(text, word, other) for text in source]


@functools.lru_cache(maxsize=256)
def _bank(pipe: Any, word: str, other: str, noun: str | None) -> tuple[list[str], list[str]]:
    return sentence_bank(pipe.tokenizer, word, other, SIZE, noun=noun)


def bank_direction(pipe: Any, how: str, prompt: str, word: str, other: str) -> Tensor:
    """(1, L, D): the direction from one kind to another. how: one of BANKS.

    "grammar": captions as the world's grammar makes them, averaged position by position; "template": sentences of one form, the
    same average; "aligned": the grammar's captions, averaged at the noun's own tokens and put at those of the prompt.
    """
    check_choice("how", how, BANKS)
    if how == "template":
        return edit_direction(pipe, *template_bank(word, other))
    bank = _bank(pipe, word, other, None)
    return edit_direction(pipe, *bank, words=(word, other), prompt=prompt) if how == "aligned" else edit_direction(pipe, *bank)


def directions(pipe: Any, prompts: Sequence[str], targets: Sequence[str]) -> Tensor:
    """(n, L, D): for each pair of prompts that differ in a kind or a colour the aligned direction of its two words."""
    found = []
    for prompt, target in zip(prompts, targets, strict=True):
        word, other, noun = word_pair(prompt, target)
        found.append(word_direction(pipe, prompt, word, other, noun=noun, sentences=_bank(pipe, word, other, noun)[0]))
    return torch.cat(found)


def rendered(n: int, reader: Reader, *, split: str = "valid") -> tuple[EditPairs, EditTruth]:
    """n colour edits of rendered pictures, from the world that the model was trained in, and the truth about them."""
    pairs = as_in_training(edit_pairs("colour", n, split=split))
    return pairs, pairs.truth(reader)


def seen(images: Tensor, reader: Reader) -> list[str]:
    """Colour and kind of the first thing that the reader finds in each picture (n, 3, S, S): "red cat", or "nothing"."""
    scenes = read(images, reader).scenes
    return [f"{COLOUR_NAMES[int(c)]} {KINDS[int(k)]}" if there else "nothing"
            for c, k, there in zip(scenes.colour[:, 0], scenes.kind[:, 0], scenes.present[:, 0], strict=True)]


def token_norms(direction: Tensor) -> Tensor:
    """(B, L): how long a direction (B, L, D) is at each token."""
    return direction.norm(dim=-1)


def neighbours(code: Tensor) -> Tensor:
    """(B, 2): the standard deviation of each code (B, C, h, w), and the mean of the correlations of its neighbours to the right
    and below."""
    out = []
    for x in code.double():
        pairs = ((x[..., :-1], x[..., 1:]), (x[:, :-1], x[:, 1:]))
        r = [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in pairs]
        out.append(torch.stack([x.std(), torch.stack(r).mean()]))
    return torch.stack(out)
