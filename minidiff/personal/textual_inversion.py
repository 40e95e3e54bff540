"""Textual Inversion (Gal et al. 2023): one new word, one free vector; every weight of every network stays as it is.

    v* = argmin_v  E || eps - eps_theta(z_t, t, c(prompt with v)) ||^2                                       (equation 2)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from minidiff.personal.fit import Progress, check_plan, examples, fit
from minidiff.personal.words import FreeRows, new_word

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["textual_inversion"]


def textual_inversion(pipe: StableDiffusionPipeline, images: Tensor, *, word: str, start: str | None = None, vectors: int = 1,
                      captions: Sequence[str] | None = None, iterations: int = 120, lr: float = 1e-2, batch: int = 4,
                      seed: int = 0) -> tuple[FreeRows, Iterator[Progress]]:
    """The free rows of ``word``, and the training loop that moves them: ``rows, loop = ...; for step in loop: ...``.

    images (N, 3, H, W) in [-1, 1]: three to five pictures. start: the word it begins as, usually its class ("bear").
    vectors: tokens that the word is made of. captions: one a picture, with {} where the word goes. When the loop ends (or is
    closed) the rows are written into the table of embeddings; ``rows.save(folder)`` is what
    ``pipe.load_textual_inversion`` reads.

    Nothing but the rows changes, so all other prompts give the same pictures, bit for bit.
    """
    check_plan(images, captions, iterations=iterations, batch=batch)
    rows = new_word(pipe, word, start=start, vectors=vectors)
    source = examples(pipe, images, word=word, captions=captions)
    return rows, fit(pipe, [source], [{"params": [rows.v], "lr": lr}], words=rows, iterations=iterations, batch=batch, seed=seed)
