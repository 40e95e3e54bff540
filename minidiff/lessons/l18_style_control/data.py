"""What lesson 18 draws and how it is marked: fresh triplets, pictures at any pair of weights, style, content and leakage."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion import last
from minidiff.editing.parasol import styled
from minidiff.editing.result import decode_images
from minidiff.editing.style_tokens import StyleTokens, content_code, style_statistics
from minidiff.editing.triplets import Triplets, rendered_triplets
from minidiff.latent import encode_prompt, initial_noise, text_to_image
from minidiff.measure import read
from minidiff.measure.prompts import prompt_of
from minidiff.measure.reader import Reader
from minidiff.steer import Dual, Guider, InstructPix2Pix
from minidiff.world import STYLES, Scenes, render
from minidiff.zoo import card, load

__all__ = ["Codes", "Marks", "codes_of", "draw", "in_words", "joint", "marks", "models", "shown", "triplets"]

STEPS, CHUNK = 12, 16
PARTS = ("kind", "colour", "backdrop")


class Models(NamedTuple):
    """What the method needs: the tuned pipeline, the tokens, the reader that they look through."""

    pipe: Any
    tokens: StyleTokens
    reader: Reader


@functools.lru_cache(maxsize=2)
def models(name: str = "mini-parasol") -> Models:
    """name: the pipeline; "mini-sd" is the same before it was tuned to the tokens."""
    return Models(load(name), load("parasol-tokens"), load("readers/guide"))


def triplets(n: int, *, split: str = "test", seed: int = 18) -> Triplets:
    """n triplets from a split that no model was trained on, of the world that mini-sd has seen."""
    return rendered_triplets(range(n), seed=seed, split=split, edition=card("mini-parasol")["world_edition"])


class Codes(NamedTuple):
    """style (n, 64) of s, content (n, 160) of y, and own (n, 64), the style of y."""

    style: Tensor
    content: Tensor
    own: Tensor


@torch.no_grad()
def codes_of(known: Models, y: Scenes, s: Scenes) -> Codes:
    """The codes of rendered pictures of y and s."""
    pictures, other = render(y, 64).images, render(s, 64).images
    style, own = (known.tokens.style_code(style_statistics(known.reader, x)) for x in (other, pictures))
    return Codes(style, content_code(known.reader, pictures), own)


def joint(g_style: float, g_content: float) -> Guider:
    """u + g_y (y - u) + g_s (sy - y): InstructPix2Pix's two weights with the content in the picture's place."""
    return InstructPix2Pix(image=g_content, text=g_style)


def draw(
    known: Models,
    codes: Codes,
    guider: Guider | None = None,
    *,
    seed: int = 18,
    steps: int = STEPS,
    latents: Tensor | None = None,
) -> Tensor:
    """Pictures (n, 3, 64, 64) from noise; guider: Dual(5, 4) if None. Row i starts from noise (seed, i)."""
    z = initial_noise(known.pipe, len(codes.content), seed=seed) if latents is None else latents
    out = []
    for i in range(0, len(z), CHUNK):
        part = slice(i, i + CHUNK)
        made = styled(
            known.pipe,
            known.tokens,
            codes.style[part],
            codes.content[part],
            guider=guider or Dual(5.0, 4.0),
            latents=z[part],
            steps=steps,
        )
        out.append(decode_images(known.pipe, last(made).x))
    return torch.cat(out)


def in_words(x: Scenes, *, seed: int = 18, steps: int = STEPS, guidance: float = 4.0) -> Tensor:
    """The same pictures by mini-sd from words, "a red cat on the grass in neon style": the ceiling for tokens."""
    prompts = [f"{prompt_of(one)} in {one.style} style" for one in x]
    return text_to_image(models("mini-sd").pipe, prompts, seed=seed, steps=steps, guidance=guidance)


class Marks(NamedTuple):
    """What a reader finds: style (n,) bool; content (n, 3) bool, the right kind, colour and backdrop; leaked (n, 3) bool, those
    of s where s and y differ; open (n, 3) bool, where they do; seen (n, 3), what the reader found, as :func:`shown` has it."""

    style: Tensor
    content: Tensor
    leaked: Tensor
    open: Tensor
    seen: Tensor

    @property
    def leak(self) -> float:
        """Share of the attributes in which s and y differ that came from s."""
        return float(self.leaked.sum() / self.open.sum().clamp(min=1))

    @property
    def each(self) -> Tensor:
        """Content accuracy of each picture: the share of its three attributes that are right, (n,) float64."""
        return self.content.double().mean(1)


def shown(scenes: Scenes, confidence: Tensor | None = None) -> Tensor:
    """(n, 3): kind and colour of the surest thing (the first, of true scenes) and the backdrop; -1 where nothing was found."""
    first = torch.zeros(len(scenes), 1, dtype=torch.long) if confidence is None else confidence.argmax(1, keepdim=True)
    there = scenes.present.gather(1, first)
    words = [torch.where(there, getattr(scenes, name).gather(1, first), -1) for name in PARTS[:2]]
    return torch.cat([*words, scenes.backdrop[:, None]], 1)


def marks(images: Tensor, found: Triplets, reader: Reader) -> Marks:
    """Read pictures that were drawn for triplets."""
    reading = read(images, reader)
    seen, want, other = shown(reading.scenes, reading.confidence), shown(found.y), shown(found.s)
    free = want != other
    return Marks(reading.scenes.style == found.s.style, seen == want, (seen == other) & free, free, seen)


def wanted(found: Triplets) -> list[str]:
    """ "red cat, grass, neon" for each triplet."""
    return [
        f"{one.things[0].colour} {one.things[0].kind}, {one.backdrop}, {STYLES[k]}"
        for one, k in zip(found.x, found.s.style.tolist(), strict=True)
    ]


def encoded(known: Models, prompts: list[str]) -> Tensor:
    """The text encoder's own context, beside which the tokens are held."""
    return encode_prompt(known.pipe, prompts)
