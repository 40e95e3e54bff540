"""Attend-and-Excite (Chefer et al. 2023): the latent is moved while a picture is drawn, so that each thing of the prompt gets a
place: with the published loss, the form that works on a small model, and SynGen's; and a composed energy for given places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.editing.properties import Properties, decoder_cross
from minidiff.editing.result import EditResult, Source, decode_images, source_of
from minidiff.editing.word_losses import Excite, Placed, Presence, SynGen, Things, things_of
from minidiff.errors import check_choice, require
from minidiff.latent.sample import denoise
from minidiff.latent.text import token_indices
from minidiff.steer.attention import Site
from minidiff.steer.energy import Energy, EpsGuidance, LatentGuidance
from minidiff.steer.record import Pin, Select, Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["LOSSES", "attend_and_excite", "excite", "linear_decay", "middle_level", "place", "place_things", "positions_of",
           "published_decay"]

LOSSES: dict[str, type[Energy]] = {"presence": Presence, "published": Excite, "syngen": SynGen}


def middle_level(pipe: StableDiffusionPipeline) -> int:
    """The level whose maps are coarse and still show places: 16 x 16 of Stable Diffusion's 64 x 64, 8 x 8 of a 16 x 16 latent."""
    levels = len(pipe.unet.config.block_out_channels)
    return min(levels - 1, max(1, levels - 2))


def linear_decay(progress: float) -> float:
    """From 1 at the first step to half at the end of all steps, in a line (Chefer et al. 2023, section 4)."""
    return 1 - 0.5 * progress


def published_decay(progress: float) -> float:
    """What the published code does under the comment that says linear: the square root of the line."""
    return linear_decay(progress) ** 0.5


def excite(pipe: StableDiffusionPipeline, things: Things, *, loss: str = "presence", relative: float | None = 0.06,
           scale: float = 20.0, until: float = 0.5, decay: Callable[[float], float] = linear_decay,
           refine: Mapping[int, float] | None = None, sites: Select | None = None) -> LatentGuidance:
    """The hook of :func:`attend_and_excite`, for ``denoise`` and ``run``; the arguments are explained there."""
    check_choice("loss", loss, LOSSES)
    level = middle_level(pipe)

    def usual(site: Site) -> bool:
        return site.kind == "cross" and site.level == level and (site.place == "up" or loss == "published")

    energy = LOSSES[loss](things, sites=usual if sites is None else sites)
    return LatentGuidance(energy, relative=relative, scale=scale, until=until, decay=decay, refine=refine)


def _both(pipe: StableDiffusionPipeline, method: str, start: Source, things: Things, push: LatentGuidance | EpsGuidance,
          steps: int, guidance: float) -> EditResult:
    """The plain run and the pushed one, from one noise."""
    hold = [] if start.trajectory is None else [Pin(start.trajectory)]
    options: dict[str, Any] = {"latents": start.noise, "steps": steps, "guidance": guidance}
    records = {"source": Properties(), "edit": Properties()}
    source = list(denoise(pipe, start.prompts, hooks=[*hold, records["source"]], **options))
    edit = list(denoise(pipe, start.prompts, hooks=[push, records["edit"]], **options))
    values = [push.values[k] for k in sorted(push.values)]
    ways = {"source": Trajectory.of(source), "edit": Trajectory.of(edit)}
    images = {branch: decode_images(pipe, way.clean) for branch, way in ways.items()}
    if start.images is not None:
        images["source"] = start.images
    return EditResult(method, images, {branch: list(start.prompts) for branch in ways}, ways, records,
                      {"loss": torch.stack(values) if values else torch.zeros(0, len(start.prompts)), "things": things})


def attend_and_excite(pipe: StableDiffusionPipeline, prompt: str | Sequence[str], *,
                      things: Sequence[str] | Sequence[Sequence[str]] | None = None, loss: str = "presence",
                      seed: int | None = None, image: Tensor | None = None, trajectory: Trajectory | None = None,
                      latents: Tensor | None = None, steps: int = 20, guidance: float = 4.0, relative: float | None = 0.06,
                      scale: float = 20.0, until: float = 0.5, decay: Callable[[float], float] = linear_decay,
                      refine: Mapping[int, float] | None = None, sites: Select | None = None) -> EditResult:
    """Draw a prompt and see to it that its things appear (Chefer et al. 2023, algorithm 1).

    Before each of the first steps the latent moves down a loss on the cross-attention of the prompt's row. things: words of the
    prompt, for all prompts or a tuple for each, see :func:`~minidiff.editing.word_losses.things_of`. loss: "published" (the worst
    noun token), "presence" (the mean over phrases: the form that works where a noun and its adjective share a map), "syngen".

    relative: the length of a move as a share of |z|; None: the raw gradient times ``scale``, as published (20, in units of one
    model). until: the share of the steps that move; decay: factor on the move by progress. refine: step -> loss; there the
    move is repeated until the loss is below it, 20 times at most. sites: cross-attention sites; None: the decoder's at
    :func:`middle_level`, and for "published" the encoder's and the middle's too.

    The source is the plain run from the same noise: a seed (the default, 0), ``latents``, or a picture or trajectory of
    ``invert_image``. ``details``: "loss" (steps moved, B), before each move; "things". Two and a half times plain sampling.
    """
    start = source_of(pipe, prompt, prompt, seed=seed, image=image, trajectory=trajectory, latents=latents, steps=steps)
    found = things_of(pipe.tokenizer, start.prompts, things)
    push = excite(pipe, found, loss=loss, relative=relative, scale=scale, until=until, decay=decay, refine=refine, sites=sites)
    return _both(pipe, "Attend-and-Excite", start, found, push, steps, guidance)


# A place for each thing ------------------------------------------------------------------------------------------------------


def positions_of(tokenizer: Any, prompts: Sequence[str], things: Things, positions: Mapping[Any, Any]) -> Tensor:
    """(B, K, 2): the place of each thing that a word of ``positions`` speaks of, NaN for the others.

    positions: word, or a tuple of one for each prompt, -> (x, y) in shares of the side, for all rows or (B, 2).
    """
    require(len(positions) > 0, "positions", "none", "a place for at least one word", 'positions={"cat": (0.25, 0.5)}')
    out = torch.full((len(prompts), max(map(len, things.phrases)), 2), float("nan"))
    for words, place in positions.items():
        rows = (words,) * len(prompts) if isinstance(words, str) else tuple(words)
        require(len(rows) == len(prompts), "positions", f"{len(rows)} words", f"a word, or a tuple of {len(prompts)}")
        where = torch.as_tensor(place, dtype=torch.float32)
        require(where.shape in ((2,), (len(prompts), 2)), "positions", f"shape {tuple(where.shape)}", "(x, y), or a row each")
        for i, (prompt, word) in enumerate(zip(prompts, rows, strict=True)):
            last = token_indices(tokenizer, prompt, word)[0][-1]
            known = [k for k, phrase in enumerate(things.phrases[i]) if last in phrase]
            require(len(known) > 0, "positions", repr(word), f"one of the things of {prompt!r}")
            out[i, known[0]] = where.expand(len(prompts), 2)[i]
    return out


def place(pipe: StableDiffusionPipeline, things: Things, positions: Tensor, *, weight: float = 1.0, radius: float = 0.17,
        relative: float = 0.4, until: float = 1.0) -> EpsGuidance:
    """The hook of :func:`place_things`, for ``denoise`` and ``run``. positions: (B, K, 2) of :func:`positions_of`."""
    level = middle_level(pipe)
    there = Presence(things, sites=lambda site: decoder_cross(site) and site.level == level)
    energy = there + weight * Placed(things, sites=decoder_cross, positions=positions, radius=radius)
    return EpsGuidance(energy, relative=relative, until=until)


def place_things(pipe: StableDiffusionPipeline, prompt: str | Sequence[str], positions: Mapping[Any, Any], *,
               things: Sequence[str] | Sequence[Sequence[str]] | None = None, seed: int | None = None,
               image: Tensor | None = None, trajectory: Trajectory | None = None, latents: Tensor | None = None,
               steps: int = 20, guidance: float = 4.0, weight: float = 1.0, radius: float = 0.17, relative: float = 0.4,
               until: float = 1.0) -> EditResult:
    """Draw a prompt with its things at given places, by a composed energy: each is there, and is there where it should be.

    positions: word, or a tuple of one for each prompt, -> (x, y) in shares of the side; things that none of them names may be
    anywhere. The energy is the loss of phrases of :func:`attend_and_excite` plus ``weight`` times how much of a phrase's
    attention lies further than ``radius`` from its place, at all decoder sites; it is followed as in Self-Guidance, by a push of
    ``relative`` |eps| on the predicted noise for the share ``until`` of the steps. Arguments else and result as there.
    """
    start = source_of(pipe, prompt, prompt, seed=seed, image=image, trajectory=trajectory, latents=latents, steps=steps)
    found = things_of(pipe.tokenizer, start.prompts, things)
    push = place(pipe, found, positions_of(pipe.tokenizer, start.prompts, found, positions), weight=weight, radius=radius,
               relative=relative, until=until)
    return _both(pipe, "Things at places", start, found, push, steps, guidance)
