"""New words: a token that the tokenizer did not have, and a free vector that stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minidiff.errors import require

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["FreeRows", "encode_words", "load_word", "nearest_words", "new_word"]


class FreeRows(nn.Module):
    """k rows of the table of token embeddings that may be trained, while the table itself stays frozen: ``v`` (k, D).

    A hook on the embedding puts ``v`` where the new tokens stand. No other row can move: no gradient reaches them, and no
    weight decay. (With ``requires_grad`` on the whole table AdamW's decay shrinks every row; diffusers' script restores the
    others after each step for that reason.) :meth:`write` stores v in the table; ``word`` then works in any prompt.
    """

    def __init__(self, pipe: StableDiffusionPipeline, word: str, ids: Sequence[int]) -> None:
        super().__init__()
        self.pipe_words, self.word, self.ids = pipe.text_encoder.get_input_embeddings(), word, list(ids)
        self.v = nn.Parameter(self.pipe_words.weight.detach()[self.ids].clone())
        self._handle = None

    def __enter__(self) -> FreeRows:
        def put(_: nn.Module, given: tuple[Tensor], out: Tensor) -> Tensor:
            for row, number in enumerate(self.ids):
                out = torch.where((given[0] == number)[..., None], self.v[row].to(out), out)
            return out

        self._handle = self.pipe_words.register_forward_hook(put)
        return self

    def __exit__(self, *args: object) -> None:
        self._handle.remove()
        self._handle = None

    @torch.no_grad()
    def write(self) -> None:
        """Store v in the table of embeddings."""
        self.pipe_words.weight[self.ids] = self.v.to(self.pipe_words.weight)

    def save(self, folder: str | Path) -> Path:
        """Write ``folder/learned_embeds.safetensors``, {word: (k, D)}: what ``pipe.load_textual_inversion(folder)`` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        v = self.v.detach().float().cpu().contiguous()
        save_file({self.word: v[0] if len(v) == 1 else v}, folder / "learned_embeds.safetensors")
        return folder / "learned_embeds.safetensors"


def new_word(pipe: StableDiffusionPipeline, word: str, *, start: str | None = None, vectors: int = 1,
             norm: float | None = None) -> FreeRows:
    """Add ``word`` to the tokenizer and the text encoder's table of embeddings, as ``vectors`` tokens.

    start: a word of one token whose vector the new ones copy; None draws them at random, with length ``norm`` (the mean
    length of the others if left out). Raises BadInput when the word exists already or ``start`` is several tokens.

    ``resize_token_embeddings`` would fill new rows from the mean of all others; here they are always set.
    """
    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
    one = isinstance(word, str) and word.strip() == word != "" and " " not in word
    require(one, "word", repr(word), "one word", "'<mine>'")
    require(word == word.lower(), "word", repr(word), "lower case, as CLIP's tokenizers make every prompt", repr(word.lower()))
    require(isinstance(vectors, int) and 1 <= vectors <= 16, "vectors", repr(vectors), "1 to 16", "vectors=1")
    require(word not in tokenizer.get_vocab(), "word", repr(word), "a word that the tokenizer does not have",
            f"'<{word.strip('<>')}2>'")
    table = encoder.get_input_embeddings().weight.detach()
    if start is not None:
        ids = tokenizer(start, add_special_tokens=False).input_ids
        require(len(ids) == 1, "start", f"{start!r}, which is {len(ids)} tokens",
                "a word of one token: which vector is to be copied?", "start='cat'")
        rows = table[ids].repeat(vectors, 1)
    else:
        draw = torch.randn(vectors, table.shape[1], generator=torch.Generator().manual_seed(0)).to(table)
        rows = draw / draw.norm(dim=1, keepdim=True) * (float(table.norm(dim=1).mean()) if norm is None else norm)
    names = [word, *(f"{word}_{i}" for i in range(1, vectors))]       # the names that diffusers gives several vectors
    tokenizer.add_tokens(names)
    ids = tokenizer.convert_tokens_to_ids(names)
    if len(tokenizer) > len(table):
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoder.requires_grad_(False)
    with torch.no_grad():
        encoder.get_input_embeddings().weight[ids] = rows
    return FreeRows(pipe, word, ids)


def load_word(pipe: StableDiffusionPipeline, path: str | Path) -> FreeRows:
    """Read what :meth:`FreeRows.save` or diffusers' scripts wrote; the same as ``pipe.load_textual_inversion`` of that file."""
    path = Path(path)
    path = path / "learned_embeds.safetensors" if path.is_dir() else path
    require(path.is_file(), "path", str(path), "a file learned_embeds.safetensors")
    (word, v), *rest = load_file(path).items()
    require(not rest, "path", f"{1 + len(rest)} words in {path}", "one")
    v = v[None] if v.ndim == 1 else v
    words = new_word(pipe, word, vectors=len(v))
    require(words.v.shape == v.shape, "path", f"vectors of {v.shape[1]} numbers",
            f"{words.v.shape[1]}, the width of this text encoder")
    with torch.no_grad():
        words.v.copy_(v)
    words.write()
    return words


def encode_words(pipe: StableDiffusionPipeline, prompts: Sequence[str]) -> Tensor:
    """Context (B, L, D) of prompts in which new words may stand, with gradients. A word of several vectors is spelled out."""
    texts = [pipe.maybe_convert_prompt(p, pipe.tokenizer) for p in prompts]
    ids = pipe.tokenizer(texts, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=False).input_ids
    for text, row in zip(prompts, ids, strict=True):
        require(len(row) == pipe.tokenizer.model_max_length, "prompts", f"{len(row)} tokens: {text!r}",
                f"at most {pipe.tokenizer.model_max_length} tokens with begin and end", "a shorter prompt")
    return pipe.text_encoder(input_ids=torch.tensor(ids, device=pipe.text_encoder.device))[0]


def nearest_words(pipe: StableDiffusionPipeline, v: Tensor, k: int = 5) -> list[tuple[str, float]]:
    """The k tokens whose embeddings have the largest cosine with ``v`` (D,); letters and scraps of words are left out."""
    require(k >= 1, "k", k, "1 or more", "k=5")
    table = pipe.text_encoder.get_input_embeddings().weight.detach()
    near = torch.nn.functional.cosine_similarity(table, v.detach().to(table)[None])
    names = pipe.tokenizer.convert_ids_to_tokens(list(range(len(table))))
    order = [i for i in near.argsort(descending=True).tolist() if names[i] and names[i].endswith("</w>") and len(names[i]) > 5]
    return [(names[i].removesuffix("</w>"), float(near[i])) for i in order[:k]]
