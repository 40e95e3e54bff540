"""The panels of lesson 11: the way back at every guidance, the map of a code, and how much noise an edit leaves out.

Everything is drawn beforehand; the knobs choose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.diffusion import last
from minidiff.editing import AddNoise, Inversion, edit_friendly_inversion
from minidiff.errors import require
from minidiff.latent import decode, denoiser, encode, encode_prompt, invert_image, scheduler_options
from minidiff.measure import EditTruth, edit_score
from minidiff.measure.pictures import psnr
from minidiff.rng import normal
from minidiff.show.tiles import lay_out, pixels
from minidiff.steer import CFG, Trajectory, run

__all__ = ["CodeMap", "Skipping", "WayBack", "from_noise", "local_std"]


@torch.no_grad()
def from_noise(pipe: Any, by: Inversion, prompts: Sequence[str], guidance: float) -> Tensor:
    """Pictures (n, 3, H, W) that a run of ``prompts`` draws after an inversion, in its steps, with all that it needs."""
    texts = {"prompt": encode_prompt(pipe, list(prompts)), "empty": encode_prompt(pipe, "") if by.empty is None else by.text}
    end = last(run(denoiser(pipe), by.trajectory.noise, texts, steps=by.trajectory.timesteps, guider=CFG(guidance),
                   hooks=by.hooks, **scheduler_options(pipe)))
    return decode(pipe.vae, end.x).clamp(-1, 1)


class WayBack:
    """Pictures (n, 3, H, W), what came back from their noise at each guidance, and its PSNR.

    back: guidance -> latents (n, C, h, w) at the end of the way back.
    """

    def __init__(self, pipe: Any, pictures: Tensor, back: Mapping[float, Tensor]) -> None:
        self.weights, self.pictures = tuple(back), pictures
        with torch.no_grad():
            self.images = {w: decode(pipe.vae, z).clamp(-1, 1) for w, z in back.items()}
            bound = decode(pipe.vae, encode(pipe.vae, pictures)).clamp(-1, 1)
        self.bound = float(psnr(bound, pictures).mean())
        self.psnr = {w: float(psnr(x, pictures).mean()) for w, x in self.images.items()}

    def render(self, *, guidance: float) -> tuple[np.ndarray, str]:
        """Rows: the pictures; what comes back at w."""
        require(guidance in self.weights, "guidance", guidance, f"one of {', '.join(map(str, self.weights))}")
        rows = [pixels(x) for x in (self.pictures, self.images[guidance])]
        return lay_out(rows, 2, row_labels=["picture", f"back, w = {guidance:g}"]), \
            f"w = {guidance:g}: {self.psnr[guidance]:.1f} dB; through the autoencoder alone {self.bound:.1f} dB"


def local_std(code: Tensor) -> Tensor:
    """(B, h, w): standard deviation of a code (B, C, h, w) over the channels and the 3 x 3 places around each place."""
    mean, square = (F.avg_pool2d(x.mean(1, keepdim=True), 3, 1, 1, count_include_pad=False) for x in (code, code.square()))
    return (square - mean.square()).clamp(min=0).sqrt()[:, 0]


class CodeMap:
    """Pictures with a little white noise added to their pixels before they are inverted; where are their codes like noise?

    pictures: name -> (3, H, W), of one prompt; inside (H, W) bool: the thing. amounts: standard deviations of the added noise, in
    units of [-1, 1].
    """

    def __init__(self, pipe: Any, pictures: Mapping[str, Tensor], prompt: str, inside: Tensor, *,
                 amounts: Sequence[float] = (0.0, 0.02, 0.05, 0.1), steps: int = 25) -> None:
        self.amounts, self.pictures = tuple(amounts), tuple(pictures)
        keys = [(name, a) for name in pictures for a in amounts]
        grain = normal(tuple(next(iter(pictures.values())).shape), "lesson 11 grain", 0)
        noisy = torch.stack([(pictures[name] + a * grain).clamp(-1, 1) for name, a in keys])
        codes = Trajectory.of(invert_image(pipe, noisy, prompt, steps=steps)).noise
        self.codes, self.noisy = dict(zip(keys, codes, strict=True)), dict(zip(keys, noisy, strict=True))
        self.inside = F.adaptive_avg_pool2d(inside[None, None].float(), codes.shape[-2:])[0, 0]

    def spread(self, picture: str, noise: float) -> tuple[float, float]:
        """Standard deviation of the code inside the thing and outside of it, in cells that belong to one of them."""
        code = self.codes[picture, noise]
        return tuple(float(code[:, cells].std()) for cells in (self.inside > 0.9, self.inside < 0.1))

    def render(self, *, picture: str, noise: float) -> tuple[np.ndarray, str]:
        """The picture; its code's first three channels; the code's local standard deviation, 0 black to 2 white."""
        require((picture, noise) in self.codes, "picture, noise", (picture, noise), f"one of {', '.join(map(str, self.codes))}")
        code, size = self.codes[picture, noise], self.noisy[picture, noise].shape[-2:]
        std = local_std(code[None])[:, None] - 1
        cells = [F.interpolate(x, size=size) for x in (code[None, :3] / 3, std.expand(-1, 3, -1, -1))]
        row = torch.cat([self.noisy[picture, noise][None], *cells])
        inside, outside = self.spread(picture, noise)
        return lay_out([pixels(row)], 3, labels=["picture", "code", "its local deviation"]), \
            f"{picture}, noise {noise:g}: the code's standard deviation is {inside:.2f} inside the thing, {outside:.2f} outside"


class Skipping:
    """Edit-friendly inversion: the target prompt with the source's noises, the noisiest steps left out; scored.

    skips: shares of the steps. The noises are found once, for all steps.
    """

    def __init__(self, pipe: Any, truth: EditTruth, prompts: Sequence[str], targets: Sequence[str], *,
                 skips: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8), steps: int = 25, guidance: float = 7.5) -> None:
        self.skips, self.sources = tuple(skips), truth.images
        full = edit_friendly_inversion(pipe, truth.images, list(prompts), steps=steps, skip=0.0).trajectory
        self.images = {}
        for skip in skips:
            k = round(skip * steps)
            part = dataclasses.replace(full, latents=full.latents[k:], timesteps=full.timesteps[k:], eps=full.eps[k:],
                                       noises=full.noises[k:])
            self.images[skip] = from_noise(pipe, Inversion("edit-friendly", part, (AddNoise(part),)), targets, guidance)
        self.scores = {skip: edit_score(x, truth) for skip, x in self.images.items()}

    def render(self, *, skip: float) -> tuple[np.ndarray, str]:
        """Rows: the pictures, the edits."""
        require(skip in self.skips, "skip", skip, f"one of {', '.join(map(str, self.skips))}")
        rows, mine = [pixels(x) for x in (self.sources, self.images[skip])], self.scores[skip]
        words = ", ".join(f"{name} {float(mine.of(score).mean()):.2f}" for name, score in (("success", "target"), ("IoU", "iou")))
        return lay_out(rows, 2, row_labels=["picture", "target prompt"]), \
            f"{skip:.0%} of the steps left out: {words}"
