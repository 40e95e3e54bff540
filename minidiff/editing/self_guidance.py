"""Diffusion Self-Guidance (Epstein et al. 2023): things are moved, resized and restyled by energies on what the network shows.

Where a noun is, how large it is and what it looks like is read from its cross-attention map and from features of the decoder
(``properties``). An energy is how far these are from wanted ones; its gradient is added to the predicted noise (eq. 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from minidiff.editing.properties import Appearance, Centroid, Properties, Shape, Tokens, decoder_cross
from minidiff.editing.result import EditResult, decode_images, source_of
from minidiff.errors import require
from minidiff.latent.pipeline import check_prompts
from minidiff.latent.sample import denoise
from minidiff.latent.text import token_indices
from minidiff.steer.energy import Energy, EpsGuidance
from minidiff.steer.record import Pin, Select, Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["AppearanceRecord", "appearance_of", "self_guidance"]


class AppearanceRecord(NamedTuple):
    """What a word looks like in another picture: the record of the run that made it, and the word's tokens in its prompt."""

    record: Properties
    tokens: Tokens
    images: Tensor


Words = str | tuple[str, ...]


def _tokens(pipe: StableDiffusionPipeline, prompts: Sequence[str], words: Words) -> list[list[int]]:
    """Where the word (or each row's own) stands in each prompt, the first time."""
    rows = (words,) * len(prompts) if isinstance(words, str) else tuple(words)
    require(len(rows) == len(prompts), "words", f"{len(rows)} words", f"one, or a tuple of {len(prompts)}: one for each prompt")
    return [token_indices(pipe.tokenizer, prompt, word)[0] for prompt, word in zip(prompts, rows, strict=True)]


def _features(pipe: StableDiffusionPipeline, path: str | None) -> str:
    """The path itself, or the last decoder block but one: coarse enough to be about things, fine enough to hold their colour."""
    blocks = len(pipe.unet.config.block_out_channels)
    return path or f"up_blocks.{max(blocks - 2, 0)}"


def appearance_of(pipe: StableDiffusionPipeline, prompt: str | Sequence[str], word: Words, *, seed: int = 0, steps: int = 20,
         guidance: float = 4.0, latents: Tensor | None = None, sites: Select = decoder_cross,
         features: str | None = None) -> AppearanceRecord:
    """Draw ``prompt`` and keep what ``word`` looks like at every step, for ``restyle`` of :func:`self_guidance`."""
    prompts = check_prompts(prompt)
    record = Properties(sites, modules=[_features(pipe, features)])
    states = list(denoise(pipe, prompts, seed=seed, latents=latents, steps=steps, guidance=guidance, hooks=[record]))
    return AppearanceRecord(record, _tokens(pipe, prompts, word), decode_images(pipe, states[-1].x))


def self_guidance(
    pipe: StableDiffusionPipeline,
    prompt: str | Sequence[str],
    *,
    move: Mapping[Words, Any] | None = None,
    resize: Mapping[Words, Any] | None = None,
    restyle: Mapping[Words, AppearanceRecord] | None = None,
    keep: Sequence[Words] = (),
    seed: int | None = None,
    image: Tensor | None = None,
    trajectory: Trajectory | None = None,
    latents: Tensor | None = None,
    steps: int = 20,
    guidance: float = 4.0,
    relative: float = 0.4,
    until: float = 1.0,
    sites: Select = decoder_cross,
    features: str | None = None,
) -> EditResult:
    """Move, resize or restyle the things that words of the prompt name, several at once (Epstein et al. 2023, eqs. 3 and 9).

    move: word -> (dx, dy), shares of the picture's side, positive to the right and down; resize: word -> factor on its height;
    restyle: word -> :func:`appearance_of`; keep: words whose shapes stay. A word is a string, or a tuple of one for each prompt;
    shifts and factors are for all rows or one for each. A word may be both moved and resized.

    The source is the plain run of the same prompt from the same noise (``seed``, or ``latents``), or a picture or trajectory of
    ``invert_image``, on which the reference is then held. relative: length of the push as a share of |eps| (one number for all
    model sizes; the paper's scale is in units of one model); until: the share of steps that are guided. Three times the cost of
    plain sampling. ``maps``: both runs' records; ``details["energy"]``: (steps guided, B).
    """
    asked = {"move": dict(move or {}), "resize": dict(resize or {}), "restyle": dict(restyle or {})}
    start = source_of(pipe, prompt, prompt, seed=seed, image=image, trajectory=trajectory, steps=steps)
    noise = start.noise if latents is None else latents
    prompts = start.prompts
    path = _features(pipe, features)
    record = Properties(sites, modules=[path] if asked["restyle"] else [])
    hold = [] if start.trajectory is None else [Pin(start.trajectory)]
    options = {"latents": noise, "steps": steps, "guidance": guidance}
    source = list(denoise(pipe, prompts, hooks=[*hold, record], **options))

    parts: list[Energy] = []
    for words in dict.fromkeys((*asked["move"], *asked["resize"])):
        where, common = _tokens(pipe, prompts, words), {"like": record, "sites": sites}
        shift, times = asked["move"].get(words, (0.0, 0.0)), asked["resize"].get(words, 1.0)
        parts += [Shape(where, shift=shift, times=times, **common), 0.5 * Centroid(where, shift=shift, **common)]
    for words in keep:
        parts.append(Shape(_tokens(pipe, prompts, words), like=record, sites=sites) * (1 / len(keep)))
    for words, other in asked["restyle"].items():
        where = _tokens(pipe, prompts, words)
        parts.append(Appearance(where, like=other.record, of=other.tokens, features=path, sites=sites))
        if words not in asked["move"] and words not in asked["resize"] and words not in keep:
            parts.append(Shape(where, like=record, sites=sites))
    require(bool(parts), "move, resize, restyle", "nothing", "something to do", 'move={"cat": (0.2, 0)}')
    energy = sum(parts[1:], parts[0])
    push, after = EpsGuidance(energy, relative=relative, until=until), Properties(sites)
    edit = list(denoise(pipe, prompts, hooks=[push, after], **options))
    values = torch.stack([push.values[k] for k in sorted(push.values)]) if push.values else torch.zeros(0, len(prompts))
    ways = {"source": Trajectory.of(source), "edit": Trajectory.of(edit)}
    images = {branch: decode_images(pipe, way.clean) for branch, way in ways.items()}
    if start.images is not None:
        images["source"] = start.images
    return EditResult("Self-Guidance", images, {"source": list(prompts), "edit": list(prompts)}, ways,
                      {"source": record, "edit": after}, {"energy": values})
