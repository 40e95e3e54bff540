"""Banks of sentences for Pix2Pix-Zero, and the edit by two words that is built on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.editing.pix2pix_zero import NoiseRegularizer, edit_direction, pix2pix_zero
from minidiff.editing.result import EditResult
from minidiff.errors import BadInput, require
from minidiff.latent.pipeline import check_prompts
from minidiff.latent.sample import invert_image
from minidiff.latent.text import token_ids, word_tokens
from minidiff.steer import Trajectory
from minidiff.world import captions, parse, sample_scenes

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

__all__ = ["TEMPLATES", "edit_words", "put_word", "sentence_bank", "word_direction"]

BLOCK = 512          # scenes looked through at once
TEMPLATES = ("a photo of a {}", "a picture of the {}", "the {} in the garden", "one {} on a table", "a close view of a {}",
             "there is a {} in the room", "a {} on a sunny day", "a drawing of a {}")


def put_word(text: str, word: str, other: str) -> str:
    """The sentence with ``other`` in place of ``word``, and every "a" or "an" before a new vowel or consonant put right."""
    swapped = re.sub(rf"\b{re.escape(word)}\b", other, text)
    return re.sub(r"\ban?(?= ([a-z]))", lambda found: "an" if found.group(1) in "aeiou" else "a", swapped)


def _fits(tokenizer: CLIPTokenizer, text: str) -> bool:
    """Does the sentence make sense, and is it short enough for the tokenizer?"""
    try:
        parse(text)
        token_ids(tokenizer, [text])
    except BadInput:
        return False
    return True


def sentence_bank(tokenizer: CLIPTokenizer, word: str, other: str, n: int = 64, *, noun: str | None = None
                  ) -> tuple[list[str], list[str]]:
    """Two lists of n sentences that differ in one word: with ``word``, and with ``other`` in its place.

    For the toy world's own tokenizer: captions of its grammar as they come, from the training split, that name ``word`` once, and
    that make sense with the other and fit its tokens; noun: a thing that ``word`` stands right before (a colour's "red cat").
    Every other tokenizer: n of TEMPLATES (8), around ``word`` or around "word noun".
    """
    require(word != other, "other", repr(other), "another word than the first", "sentence_bank(tokenizer, 'cat', 'dog')")
    require(isinstance(n, int) and n >= 1, "n", repr(n), "a whole number, 1 or more")
    if not tokenizer.init_kwargs.get("toy_world"):
        require(n <= len(TEMPLATES), "n", n, f"at most {len(TEMPLATES)} of the templates", "sentences=[...]")
        said = [t.format(word if noun is None else f"{word} {noun}") for t in TEMPLATES[:n]]
        source = [put_word(s, word, word) for s in said]
        return source, [put_word(s, word, other) for s in source]
    source, phrase = [], word if noun is None else f"{word} {noun}"
    for start in range(0, 64 * BLOCK, BLOCK):
        numbers = range(start, start + BLOCK)
        for text in captions(sample_scenes(numbers, split="train", level="pairs"), numbers):
            text = _with_phrase(text, word, noun) if noun else text
            words = text.split()
            fresh = words.count(word) == 1 and other not in words and f" {phrase} " in f" {text} "
            if fresh and _fits(tokenizer, text) and _fits(tokenizer, put_word(text, word, other)):
                source.append(text)
            if len(source) == n:
                return source, [put_word(s, word, other) for s in source]
    raise BadInput("word", f"{word!r} and {other!r}, found in {len(source)} captions", f"words of {n} captions", "n=16")


def _with_phrase(text: str, word: str, noun: str) -> str:
    """The word in place of the one that stands before the noun; the text as it is where it does not name the noun once."""
    words = text.split()
    k = words.index(noun) if words.count(noun) == 1 else 0
    return put_word(" ".join([*words[:k - 1], word, *words[k:]]), word, word) if k and words[k - 1] not in ("a", "an") else text


def word_direction(pipe: StableDiffusionPipeline, prompt: str, word: str, other: str, *, noun: str | None = None,
                   n: int | None = None, sentences: Sequence[str] | None = None) -> Tensor:
    """The direction (1, L, D) that takes ``prompt`` from ``word`` to ``other``, at the tokens of ``noun`` (None: of the word).

    sentences: a bank of your own, each with ``word`` in it; else :func:`sentence_bank` makes one of ``n``.
    """
    tokenizer = pipe.tokenizer
    if sentences is None:
        size = n or (64 if tokenizer.init_kwargs.get("toy_world") else len(TEMPLATES))
        source, target = sentence_bank(tokenizer, word, other, size, noun=noun)
    else:
        source = check_prompts(sentences, argument="sentences")
        for text in source:
            there = [w for w, _ in word_tokens(tokenizer, text)]
            require(word in there, "sentences", repr(text), f"sentences with {word!r} in them")
        target = [put_word(text, word, other) for text in source]
    at = (word, other) if noun is None else (noun, noun)
    return edit_direction(pipe, source, target, words=at, prompt=prompt)


def edit_words(
    pipe: StableDiffusionPipeline,
    source: str | Sequence[str],
    *,
    words: Sequence[str] | str | None = None,
    noun: str | None = None,
    sentences: Sequence[str] | None = None,
    seed: int | None = None,
    image: Tensor | None = None,
    regularize: bool = True,
    steps: int = 25,
    guidance: float = 5.0,
    relative: float = 0.04,
    compat: str | None = None,
) -> EditResult:
    """Pix2Pix-Zero by two words, ``words=("cat", "dog")`` or "cat dog": a bank, its direction, the edit.

    source: a prompt (or B) with the first word in it. noun: where the direction is put, for words that act through another one
    (a colour through its noun). image (B, 3, H, W) in [-1, 1]: pictures, inverted with the noise regularised (``regularize``) and
    guided from their source prompt in place of the empty one. sentences: a bank of your own. relative, compat: as in
    :func:`~minidiff.editing.pix2pix_zero`.
    """
    pair = words.split() if isinstance(words, str) else list(words or ())
    require(len(pair) == 2, "words", repr(words), "two words, the one that is there and the one to come", 'words="cat dog"')
    prompts = check_prompts(source, argument="source")
    begin: dict[str, Any] = {"seed": seed}
    if image is not None:
        require(seed is None, "seed, image", "both", "one of them", "image=pictures")
        hooks = [NoiseRegularizer()] if regularize else []
        prompts = prompts * len(image) if len(prompts) == 1 else prompts
        way = Trajectory.of(invert_image(pipe, image, prompts, steps=steps, hooks=hooks))
        begin = {"trajectory": way, "negative": prompts}
    direction = torch.cat([word_direction(pipe, p, *pair, noun=noun, sentences=sentences) for p in prompts])
    made = pix2pix_zero(pipe, prompts, direction, steps=steps, guidance=guidance, relative=relative, compat=compat, **begin)
    if image is not None:
        made.images["source"] = image.detach().float().cpu()
    made.prompts["edit"] = [f"{p}: {pair[0]} to {pair[1]}" for p in prompts]
    return made
