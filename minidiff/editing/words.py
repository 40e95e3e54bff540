"""Which token of one prompt stands for which token of another: alignment by words, mappers, and numbers for words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.latent.text import normalise, token_indices, word_tokens

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

__all__ = ["align_words", "refine_mapper", "replace_mapper", "word_values"]


def align_words(source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (i, j) of words kept, in order: Needleman-Wunsch (1970) with match 1, mismatch -1, gap 0.

    A mismatch is never worth it, so what is found is a longest common subsequence; every other word is lost or new.
    """
    n, m = len(source), len(target)
    score = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            both = score[i - 1][j - 1] + (1 if source[i - 1] == target[j - 1] else -1)
            score[i][j] = max(both, score[i - 1][j], score[i][j - 1])
    pairs, i, j = [], n, m
    while i and j:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _ends(tokenizer: CLIPTokenizer, source: str, target: str) -> Tensor:
    """(L, L) with begin on begin, end on end, padding on padding; what is left over at the end shares the last position."""
    length = tokenizer.model_max_length
    a, b = (len(tokenizer(normalise(tokenizer, text)).input_ids) - 1 for text in (source, target))   # positions of the end token
    require(max(a, b) < length, "prompt", f"{max(a, b) + 1} tokens", f"at most {length} tokens with begin and end")
    mapper = torch.zeros(length, length)
    mapper[0, 0] = 1
    for k in range(length - min(a, b)):
        mapper[min(a + k, length - 1), min(b + k, length - 1)] = 1
    last = mapper[length - 1]
    mapper[length - 1] = last / last.sum()                    # more padding in the target: the last row is shared out
    return mapper


def _put(mapper: Tensor, source: Sequence[int], target: Sequence[int]) -> None:
    """Token by token where the words have as many, else every source token is shared out over all target tokens."""
    if len(source) == len(target):
        mapper[list(source), list(target)] = 1
    else:
        mapper[torch.tensor(source)[:, None], torch.tensor(target)] = 1 / len(target)


def replace_mapper(tokenizer: CLIPTokenizer, source: str, target: str) -> Tensor:
    """M (L, L) for word swaps: A_source @ M is attention over the target's tokens (Hertz et al. 2022, section 3, word swap).

    Word i of the source is word i of the target, however many tokens each has. Every row sums to 1, so attention that sums to 1
    over the source's tokens sums to 1 over the target's. Raises BadInput when the numbers of words differ.
    """
    a, b = word_tokens(tokenizer, source), word_tokens(tokenizer, target)
    require(len(a) == len(b), "target", f"{len(b)} words: {target!r}", f"{len(a)} words, as in {source!r}",
            'edit="refine", which takes prompts of any length')
    mapper = _ends(tokenizer, source, target)
    for (_, i), (_, j) in zip(a, b, strict=True):
        _put(mapper, i, j)
    return mapper


def refine_mapper(tokenizer: CLIPTokenizer, source: str, target: str) -> tuple[Tensor, Tensor]:
    """M (L, L) and ``new`` (L,) for added or changed words: A_source @ M + A_target * new (Hertz et al. 2022, refinement).

    Words that both prompts share keep the source's attention; tokens of all other target words (new = 1) their own.
    """
    a, b = word_tokens(tokenizer, source), word_tokens(tokenizer, target)
    mapper, kept = _ends(tokenizer, source, target), align_words([w for w, _ in a], [w for w, _ in b])
    for i, j in kept:
        _put(mapper, a[i][1], b[j][1])
    new = torch.zeros(mapper.shape[1])
    for j, (_, tokens) in enumerate(b):
        if j not in {k for _, k in kept}:
            new[tokens] = 1
    return mapper, new


def word_values(tokenizer: CLIPTokenizer, prompt: str, values: Mapping[str, float], default: float = 1.0) -> Tensor:
    """(L,): ``values[word]`` at every token of every place of the word in the prompt, ``default`` elsewhere.

    Raises BadInput for a word that the prompt does not have.
    """
    require(isinstance(values, Mapping), "values", type(values).__name__, "a table of words", '{"cat": 2.0}')
    out = torch.full((tokenizer.model_max_length,), float(default))
    for word, value in values.items():
        require(isinstance(value, (int, float)) and value == value, "values", f"{word!r}: {value!r}", "a number for each word")
        for tokens in token_indices(tokenizer, prompt, word):
            out[tokens] = float(value)
    return out
