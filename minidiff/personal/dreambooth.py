"""DreamBooth (Ruiz et al. 2023): the network itself learns a new word, and the prior loss keeps it from forgetting the class.

    L = E || eps - eps_theta(z_t, t, c("a <mine> bear")) ||^2
        + lambda E || eps' - eps_theta(z'_t', t', c("a bear")) ||^2,   z' drawn by the network as it was        (equation 2)

With a :class:`~minidiff.personal.lora.LoRA` in place of all the weights it is DreamBooth-LoRA; with the keys and values of
cross-attention alone it is Custom Diffusion (Kumari et al. 2023). The loss is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from minidiff.errors import check_choice, require
from minidiff.personal.fit import Examples, Progress, check_plan, examples, fit, pictures
from minidiff.personal.lora import CROSS_KV, LoRA
from minidiff.personal.words import FreeRows, new_word

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["FREE", "dreambooth", "prior_examples", "unet_parameters"]

FREE = ("unet", "cross_kv")


def unet_parameters(pipe: StableDiffusionPipeline, free: str = "unet") -> list[nn.Parameter]:
    """What DreamBooth trains: "unet" all of the U-Net, "cross_kv" the keys and values of cross-attention alone."""
    check_choice("free", free, FREE)
    named = pipe.unet.named_parameters()
    return [p for name, p in named if free == "unet" or any(f".{t}." in name for t in CROSS_KV)]


def prior_examples(pipe: StableDiffusionPipeline, class_word: str, *, n: int = 32, guidance: float = 3.0, steps: int = 20,
                   seed: int = 1, weight: float = 1.0) -> Examples:
    """n pictures of "a CLASS", drawn by the network before it is trained: what it must not forget. weight: lambda."""
    require(n >= 1, "n", n, "1 or more", "n=32")
    prompt = f"{_article(class_word)} {class_word}"
    images = pictures(pipe, [prompt] * n, seed=seed, guidance=guidance, steps=steps)
    return examples(pipe, images, word=class_word, captions=[f"{_article(class_word)} {{}}"] * n, weight=weight)


def dreambooth(pipe: StableDiffusionPipeline, images: Tensor, *, word: str, class_word: str, prior: Examples | None = None,
               lora: LoRA | None = None, free: str = "unet", train_word: bool = True, captions: Sequence[str] | None = None,
               iterations: int = 120, lr: float | None = None, word_rate: float = 30.0, batch: int = 4,
               seed: int = 0) -> tuple[FreeRows, Iterator[Progress]]:
    """The rows of the new word, and the training loop: ``rows, loop = dreambooth(...); for step in loop: ...``.

    images (N, 3, H, W) in [-1, 1], shown as "a WORD CLASS". prior: :func:`prior_examples`, or None to see what is lost without.
    lora: train this adapter instead of the weights (``free`` then does not count). lr: 3e-4, or 3e-3 for an adapter.
    train_word: move the word's vector too, at ``word_rate`` times the rate of the weights, capped at 1e-2. The new vector is
    drawn at random; left as it is, the network often learns to draw the subject for the class and ignores the word.
    """
    check_plan(images, captions, iterations=iterations, batch=batch)
    check_choice("free", free, FREE)
    rows = new_word(pipe, word)
    source = examples(pipe, images, word=f"{word} {class_word}", captions=captions)
    rate = lr if lr is not None else 3e-4 if lora is None else 3e-3
    groups: list[dict] = [{"params": unet_parameters(pipe, free) if lora is None else lora.parameters(), "lr": rate}]
    if train_word:
        groups.append({"params": [rows.v], "lr": min(word_rate * rate, 1e-2)})
    sources = [source] if prior is None else [source, prior]
    return rows, fit(pipe, sources, groups, words=rows, iterations=iterations, batch=batch, seed=seed)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
