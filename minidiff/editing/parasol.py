"""PARASOL (Tarres et al. 2023): one picture's content in another's style, by two kinds of tokens and guidance with two weights.

No code was published. Where the paper leaves it open: the inversion is DDIM's with y's own tokens at weight 1, so that the same
steps lead back; the first ``keep`` steps of the way to the new picture are those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.editing.result import EditResult
from minidiff.editing.style_tokens import StyleTokens, content_code, style_statistics
from minidiff.errors import check_images, require
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import denoiser, scheduler_options
from minidiff.latent.sample import prepare_latents
from minidiff.measure.reader import Reader
from minidiff.steer import Dual, Guider, State, StepContext, Trajectory, invert, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["Alone", "Switch", "blend_styles", "colour_statistics", "invert_content", "match_colours", "parasol", "styled",
           "token_texts"]


class Alone(Guider):
    """One text's prediction as it is."""

    def __init__(self, text: str) -> None:
        self.texts = (text,)

    def __call__(self, predictions: Mapping[str, Prediction], ctx: StepContext | None = None) -> Prediction:
        return predictions[self.texts[0]]


class Switch(Guider):
    """``first`` for the first ``at`` steps, then ``then``: PARASOL's lambda. Only the texts in use are run."""

    def __init__(self, first: Guider, then: Guider, *, at: int) -> None:
        require(isinstance(at, int) and at >= 0, "at", at, "a whole number of steps, 0 or more", "at=20")
        self.first, self.then, self.at = first, then, at
        self.texts = tuple(dict.fromkeys((*first.texts, *then.texts)))

    def _now(self, ctx: StepContext) -> Guider:
        return self.first if ctx.index < self.at else self.then

    def needs(self, ctx: StepContext) -> tuple[str, ...]:
        return self._now(ctx).needs(ctx)

    def __call__(self, predictions: Mapping[str, Prediction], ctx: StepContext | None = None) -> Prediction:
        return self._now(ctx)(predictions, ctx)


def token_texts(tokens: StyleTokens, style: Tensor, content: Tensor) -> dict[str, Tensor]:
    """The contexts (B, L, D) that guidance combines: "empty", "style" alone, "content" alone, and "prompt", both together.

    style: codes (B, code); content: codes (B, D); one row serves for all. "image" is the content once more, under the name that
    :class:`~minidiff.steer.InstructPix2Pix` has for it.
    """
    n = max(len(style), len(content))
    style, content = (x.expand(n, -1) for x in (style, content))
    alone = tokens.context(content=content)
    return {"empty": tokens.context(n=1), "style": tokens.context(style), "content": alone, "image": alone,
            "prompt": tokens.context(style, content)}


def blend_styles(a: Tensor, b: Tensor, w: float) -> Tensor:
    """The style code between two, w from 0 (a) to 1 (b): a straight line brought back to unit length. (B, code)."""
    return torch.nn.functional.normalize((1 - w) * a + w * b, dim=-1)


def colour_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, 3) and covariance (B, 3, 3) of the colours of all pixels of pictures (B, 3, H, W)."""
    flat = image.flatten(2)
    mean = flat.mean(2)
    centred = flat - mean[..., None]
    return mean, centred @ centred.transpose(1, 2) / flat.shape[2]


def _root(covariance: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag_embed(values.clamp(min=1e-12) ** power) @ vectors.transpose(1, 2)


def match_colours(image: Tensor, style: Tensor) -> Tensor:
    """Give pictures the colour statistics of others: S_s^(1/2) S_x^(-1/2) (x - m_x) + m_s (PARASOL, after Zhang et al. 2022).

    image, style (B, 3, H, W), sizes may differ; style may have one row. Computed in float64, returned as image's type.

    Before any clamp mean and covariance are those of ``style``; the picture itself where they are so already. A picture of one
    colour has no spread to stretch.
    """
    check_images("image", image, channels=3)
    check_images("style", style, channels=3)
    (mx, sx), (ms, ss) = colour_statistics(image.double()), colour_statistics(style.double())
    out = _root(ss, 0.5) @ _root(sx, -0.5) @ (image.double().flatten(2) - mx[..., None]) + ms[..., None]
    return out.unflatten(2, image.shape[-2:]).to(image.dtype)


def styled(
    pipe: StableDiffusionPipeline,
    tokens: StyleTokens,
    style: Tensor,
    content: Tensor,
    *,
    guider: Guider | None = None,
    seed: int = 0,
    latents: Tensor | None = None,
    steps: int = 20,
) -> Iterator[State]:
    """The loop from noise for style codes (B, code) and content codes (B, D): :func:`parasol` with no layout to keep.

    guider: Dual(5, 4) if None. Yields states of one branch.
    """
    texts = token_texts(tokens, style, content)
    z = prepare_latents(pipe, latents, len(texts["prompt"]), seed, None)
    return run(denoiser(pipe), z, texts, guider=guider or Dual(5.0, 4.0), steps=steps, **scheduler_options(pipe))


@torch.no_grad()
def invert_content(pipe: StableDiffusionPipeline, tokens: StyleTokens, reader: Reader, content: Tensor, *, steps: int = 20
                   ) -> Trajectory:
    """Pictures (B, 3, S, S) inverted by their own content and style at weight 1: the way that ``parasol(keep=)`` goes back.

    Its ``noise``, given as ``latents``, saves the inversion where several ``keep`` are wanted.
    """
    check_images("content", content, channels=3)
    own = tokens.context(tokens.style_code(style_statistics(reader, content)), content_code(reader, content))
    options = {name: value for name, value in scheduler_options(pipe).items() if name != "clip"}
    clean = encode(pipe.vae, content.to(pipe.device, pipe.vae.dtype))
    return Trajectory.of(invert(denoiser(pipe), clean, {"own": own}, steps=steps, guider=Alone("own"), fixed_point=3, **options))


@torch.no_grad()
def parasol(
    pipe: StableDiffusionPipeline,
    tokens: StyleTokens,
    reader: Reader,
    style: Tensor,
    content: Tensor,
    *,
    g_style: float = 5.0,
    g_content: float = 4.0,
    keep: int | None = None,
    seed: int = 0,
    latents: Tensor | None = None,
    steps: int = 20,
    colours: bool = False,
) -> EditResult:
    """The content of pictures ``content`` in the style of ``style``, both (B, 3, S, S) in [-1, 1]; one row serves for all.

    pipe: ``load("mini-parasol")``; tokens: ``load("parasol-tokens")``; reader: the one that they were trained with,
    ``load("readers/guide")``. g_style, g_content: the weights of :class:`~minidiff.steer.Dual`. keep: None begins with noise
    (seed, or ``latents``); a number inverts ``content`` (or takes ``latents``, its noise of :func:`invert_content` in as many
    steps) and keeps the layout of its first ``keep`` steps (the paper's lambda; all steps: the picture itself, up to the
    autoencoder). colours: give the result the colour statistics of ``style`` at the end.
    """
    for name, x in (("style", style), ("content", content)):
        check_images(name, x, channels=3)
    n = max(len(style), len(content))
    require({len(style), len(content)} <= {1, n}, "style", f"{len(style)} pictures beside {len(content)}", "as many, or one")
    require(
        keep is None or (isinstance(keep, int) and 0 <= keep <= steps), "keep", keep, f"None, or 0 to {steps} steps", "keep=10"
    )
    style, content = (x.expand(n, -1, -1, -1) for x in (style, content))
    codes = tokens.style_code(style_statistics(reader, style))
    meant = content_code(reader, content)
    texts, guider = token_texts(tokens, codes, meant), Dual(g_style, g_content)
    options = scheduler_options(pipe)
    if keep is not None:
        texts["own"] = tokens.context(tokens.style_code(style_statistics(reader, content)), meant)
        guider = Switch(Alone("own"), guider, at=keep)
        latents = invert_content(pipe, tokens, reader, content, steps=steps).noise if latents is None else latents
    z = prepare_latents(pipe, latents, n, seed, None)
    states = run(denoiser(pipe), {"edit": z}, {"edit": texts}, guider=guider, steps=steps, **options)
    made = EditResult.of(pipe, "PARASOL", states, {})
    edit = match_colours(made.edit, style).clamp(-1, 1) if colours else made.edit
    return dataclasses.replace(made, images={"content": content, "style": style, "edit": edit}, details={"codes": (codes, meant)})
