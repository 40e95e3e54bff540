"""Words to tokens to vectors: a CLIP tokenizer and text encoder over the toy world's hundred words."""

from __future__ import annotations

import difflib
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.errors import BadInput, require
from minidiff.world import VOCABULARY, parse

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = ["LENGTH", "PIECES", "caption_tokenizer", "check_prompt", "ignore_marks", "make_text_encoder", "make_tokenizer",
           "normalise", "text_config", "token_ids", "token_indices", "word_tokens"]

LENGTH = 34  # 30 words, a begin, an end, and the second halves of the two words that have one
PIECES = {"mushroom": ("mush", "room"), "watercolour": ("water", "colour")}  # words of two tokens, as in every real tokenizer
MARKS = ",.;:!?"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(words: Sequence[str] = VOCABULARY, *, length: int = LENGTH) -> CLIPTokenizer:
    """A ``transformers.CLIPTokenizer`` that knows ``words``: one token a word, except those in PIECES, which take two.

    A word that it does not know falls into letters and other scraps, as in any BPE tokenizer; :func:`check_prompt` refuses such
    a text by name.
    """
    require(length >= 3, "length", length, "a begin, an end and at least one word", f"length={LENGTH}")
    kept = {"toy_world": True} if tuple(words) == tuple(VOCABULARY) else {"closed_vocabulary": list(words)}
    return _made(words, length=length, **kept)


def _made(words: Sequence[str], *, length: int, whole: bool = False, **kept: object) -> CLIPTokenizer:
    """whole: also words of PIECES take one token."""
    from transformers import CLIPTokenizer

    merges = _merges(words, {} if whole else PIECES)
    letters = sorted({c for w in words for c in w})
    tokens = [*letters, *(c + "</w>" for c in letters), *dict.fromkeys(a + b for a, b in merges), BEGIN, END]
    return ignore_marks(CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token=END,
                                      bos_token=BEGIN, eos_token=END, pad_token=END, model_max_length=length, **kept))


def caption_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """A tokenizer made from the words of your own captions: one token a word, as :func:`make_tokenizer` does for the world's.

    Its length is that of the longest caption, with begin and end; more than 77 tokens, the length of CLIP, is a BadInput.
    Words are split as CLIP splits them: letters in lower case, each digit and each mark by itself.
    """
    from transformers import CLIPTokenizer

    require(len(captions) > 0 and all(isinstance(c, str) for c in captions), "captions", repr(captions)[:60], "a list of texts")
    splits = CLIPTokenizer(vocab={BEGIN: 0, END: 1}, merges=[]).backend_tokenizer
    rows = [[piece for piece, _ in splits.pre_tokenizer.pre_tokenize_str(splits.normalizer.normalize_str(c))] for c in captions]
    longest = max(range(len(rows)), key=lambda k: len(rows[k]))
    require(len(rows[longest]) <= 75, "captions", f"a caption of {len(rows[longest])} words: {captions[longest][:60]!r}...",
            "at most 75 words and marks a caption", "shorter captions")
    pieces = sorted({piece for row in rows for piece in row})
    require(len(pieces) > 0, "captions", "no word in any of them", "captions with words")
    tokenizer = _made(pieces, length=len(rows[longest]) + 2, whole=True)
    known = {word for caption in captions for word, _ in word_tokens(tokenizer, caption)}
    return _made(pieces, length=len(rows[longest]) + 2, whole=True, closed_vocabulary=sorted(known))


def _merges(words: Sequence[str], pieces_of: Mapping[str, tuple[str, ...]] = PIECES) -> list[tuple[str, str]]:
    """Byte-pair encoding learnt from the words themselves until nothing is left to merge (Sennrich et al. 2016).

    A word of two tokens is two lists of symbols, so nothing joins them. What merging in this order makes of a word
    later is what it made of it here: the whole word, or its two pieces.
    """
    parts = [[*part[:-1], part[-1] + ("</w>" if last else "")] for word in words
             for pieces in [pieces_of.get(word, (word,))] for part, last in zip(pieces, [False] * (len(pieces) - 1) + [True])]
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


def normalise(tokenizer: CLIPTokenizer, text: str) -> str:
    """The text as this tokenizer can read it: marks that its vocabulary lacks become blanks, one for one, so positions stay."""
    if not any(mark in text for mark in MARKS):
        return text
    known = tokenizer.get_vocab()
    return "".join(" " if c in MARKS and c not in known and f"{c}</w>" not in known else c for c in text)


def ignore_marks(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """Teach the tokenizer itself what :func:`normalise` does, so that ``pipe(prompt)`` reads marks as minidiff does.

    transformers builds a CLIP tokenizer's normaliser anew at each load, so :func:`minidiff.load` calls this after every load.
    """
    from tokenizers import normalizers

    known = tokenizer.get_vocab()
    for mark in MARKS:
        if mark not in known and f"{mark}</w>" not in known:
            backend = tokenizer.backend_tokenizer
            backend.normalizer = normalizers.Sequence([normalizers.Replace(mark, " "), backend.normalizer])
    return tokenizer


def check_prompt(tokenizer: CLIPTokenizer, text: str) -> None:
    """Refuse words that a tokenizer with a closed vocabulary does not know; open vocabularies (every real one) refuse nothing.

    With the toy world's own words the whole caption must make sense (:func:`minidiff.world.parse`), unless it holds tokens that
    were added to the tokenizer, as textual inversion does.
    """
    words = tokenizer.init_kwargs.get("closed_vocabulary")
    toy = bool(tokenizer.init_kwargs.get("toy_world"))
    if not toy and not words:
        return
    added = [word for word in tokenizer.get_added_vocab() if word not in tokenizer.all_special_tokens]
    rest = normalise(tokenizer, text)
    for word in added:
        rest = rest.replace(word, " ")
    if toy and rest == normalise(tokenizer, text):
        parse(rest)
        return
    known = set(VOCABULARY if toy else words)
    for word, _ in word_tokens(tokenizer, rest):
        if word not in known:
            near = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
            raise BadInput("prompt", f"the unknown word {word!r}", f"words of this model ({len(known)} in all)",
                           " or ".join(map(repr, near)))


_PLAIN = re.compile("[a-z ]*")


@functools.lru_cache(maxsize=10_000)
def _tokens(tokenizer: CLIPTokenizer, size: int, word: str) -> tuple[int, ...]:
    """Tokens of one word; size: of the vocabulary, which grows when words are added."""
    return tuple(tokenizer(word, add_special_tokens=False).input_ids)


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(B, length) int64, begun, ended and padded to the tokenizer's own length; too long a text is an error, not cut."""
    texts = [normalise(tokenizer, text) for text in texts]
    if all(_PLAIN.fullmatch(text) for text in texts):  # a token never crosses a blank: words are looked up
        size, longest = len(tokenizer), tokenizer.model_max_length
        rows = [[token for word in text.split(" ") for token in _tokens(tokenizer, size, word)] for text in texts]
        rows = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in rows]
        rows = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
    else:
        rows = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=False).input_ids
    for text, row in zip(texts, rows, strict=True):
        require(len(row) == tokenizer.model_max_length, "prompt", f"{len(row)} tokens: {text!r}",
                f"at most {tokenizer.model_max_length} tokens with begin and end", "a shorter caption")
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), tokenizer.model_max_length)


def word_tokens(tokenizer: CLIPTokenizer, text: str) -> list[tuple[str, list[int]]]:
    """The words of a text in order, each with the positions of its tokens (begin is 0); marks that are tokens count as words.

    Read from the tokenizer's character offsets, so it holds for every fast tokenizer and for words of several tokens.
    """
    clean = normalise(tokenizer, text)
    offsets = tokenizer(clean, return_offsets_mapping=True).offset_mapping
    out = []
    for found in re.finditer(r"<[^<>\s]+>|\w+(?:['’-]\w+)*|[^\w\s]", clean):
        tokens = [i for i, (a, b) in enumerate(offsets) if a < found.end() and b > found.start() and b > a]
        if tokens:
            out.append((clean[found.start():found.end()].lower(), tokens))
    return out


def token_indices(tokenizer: CLIPTokenizer, text: str, word: str) -> list[list[int]]:
    """Token positions of every place where ``word`` (or words) stands in ``text``: one list of positions a place.

    Raises BadInput when the word is not in the text.
    """
    require(isinstance(text, str) and isinstance(word, str), "word", f"{type(text).__name__}, {type(word).__name__}",
            "two strings", "token_indices(pipe.tokenizer, 'a red cat', 'cat')")
    words, want = word_tokens(tokenizer, text), [w for w, _ in word_tokens(tokenizer, word)]
    starts = [i for i in range(len(words)) if want and [w for w, _ in words[i:i + len(want)]] == want]
    require(bool(starts), "word", repr(word), f"a word of the prompt {text!r}", repr(words[-1][0]) if words else "")
    return [[token for _, tokens in words[i:i + len(want)] for token in tokens] for i in starts]


def text_config(tokenizer: CLIPTokenizer, *, width: int = 96, layers: int = 2, heads: int = 4) -> dict:
    """The keywords of ``transformers.CLIPTextConfig`` for this tokenizer: sizes and token numbers."""
    return {"vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "max_position_embeddings": tokenizer.model_max_length, "projection_dim": width,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}


def make_text_encoder(tokenizer: CLIPTokenizer, *, width: int = 96, layers: int = 2, heads: int = 4) -> CLIPTextModel:
    """A new ``transformers.CLIPTextModel``: ids (B, length) -> last_hidden_state (B, length, width)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    for name, value in (("width", width), ("layers", layers), ("heads", heads)):
        require(value >= 1, name, value, "at least 1")
    require(width % heads == 0, "width", width, f"a multiple of the {heads} heads", f"width={heads * 24}")
    return CLIPTextModel(CLIPTextConfig(**text_config(tokenizer, width=width, layers=layers, heads=heads)))
