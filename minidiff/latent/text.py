"""Words to tokens to vectors: a CLIP tokenizer and text encoder over the toy world's hundred words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.world import VOCABULARY

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = ["LENGTH", "PIECES", "make_text_encoder", "make_tokenizer", "token_indices", "text_config", "token_ids"]

LENGTH = 34  # 30 words, a begin, an end, and the second halves of the two words that have one
PIECES = {"mushroom": ("mush", "room"), "watercolour": ("water", "colour")}  # words of two tokens, as in every real tokenizer
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(words: Sequence[str] = VOCABULARY, *, length: int = LENGTH) -> CLIPTokenizer:
    """A ``transformers.CLIPTokenizer`` that knows ``words``: one token a word, except those in PIECES, which take two.

    A word that it does not know falls into letters and other scraps, as in any BPE tokenizer;
    :func:`minidiff.world.parse` refuses such a caption with a better message.
    """
    from transformers import CLIPTokenizer

    merges = _merges(words)
    letters = sorted({c for w in words for c in w})
    tokens = [*letters, *(c + "</w>" for c in letters), *dict.fromkeys(a + b for a, b in merges), BEGIN, END]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token=END, bos_token=BEGIN,
                         eos_token=END, pad_token=END, model_max_length=length, toy_world=True)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding learnt from the words themselves until nothing is left to merge (Sennrich et al. 2016).

    A word of two tokens is two lists of symbols, so nothing joins them. What merging in this order makes of a word
    later is what it made of it here: the whole word, or its two pieces.
    """
    parts = [[*part[:-1], part[-1] + ("</w>" if last else "")] for word in words
             for pieces in [PIECES.get(word, (word,))] for part, last in zip(pieces, [False] * (len(pieces) - 1) + [True])]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for symbols in parts for pair in zip(symbols, symbols[1:], strict=False)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        parts = [_join(symbols, best) for symbols in parts]
    return merges


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(B, length) int64, begun, ended and padded to the tokenizer's own length; too long a text is an error, not cut."""
    rows = tokenizer(list(texts), padding="max_length", max_length=tokenizer.model_max_length, truncation=False).input_ids
    for text, row in zip(texts, rows, strict=True):
        require(len(row) == tokenizer.model_max_length, "prompt", f"{len(row)} tokens: {text!r}",
                f"at most {tokenizer.model_max_length} tokens with begin and end", "a shorter caption")
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), tokenizer.model_max_length)


def token_indices(tokenizer: CLIPTokenizer, text: str, word: str) -> list[list[int]]:
    """Token positions of every place where ``word`` (or words) stands in ``text``: one list of positions a place.

    Read from the tokenizer's character offsets, so it holds for any fast tokenizer and for words of several tokens.
    Raises BadInput when the word is not in the text.
    """
    low, want = text.lower(), word.lower()
    places, start = [], 0
    while want and (start := low.find(want, start)) >= 0:
        stop = start + len(want)
        whole = not (low[start - 1 : start].isalnum() or low[stop : stop + 1].isalnum())
        if whole:
            places.append((start, stop))
        start = stop
    require(bool(places), "word", repr(word), f"a word of the prompt {text!r}", repr(text.split()[-1]) if text.split() else "")
    out = tokenizer(text, return_offsets_mapping=True)
    return [[i for i, (a, b) in enumerate(out.offset_mapping) if a < stop and b > start and b > a] for start, stop in places]


def text_config(tokenizer: CLIPTokenizer, *, width: int = 96, layers: int = 2, heads: int = 4) -> dict:
    """The keywords of ``transformers.CLIPTextConfig`` for this tokenizer: sizes and token numbers."""
    return {"vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "max_position_embeddings": tokenizer.model_max_length, "projection_dim": width,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}


def make_text_encoder(tokenizer: CLIPTokenizer, *, width: int = 96, layers: int = 2, heads: int = 4) -> CLIPTextModel:
    """A new ``transformers.CLIPTextModel``: ids (B, length) -> last_hidden_state (B, length, width)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**text_config(tokenizer, width=width, layers=layers, heads=heads)))
