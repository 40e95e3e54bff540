"""The panels of lesson 09: a prompt box, a scrubber through a recorded run, a scrubber from picture to noise and back.

Each class computes beforehand what it can; its ``render`` is a pure function of the knobs and gives pixels and a line of text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.diffusion import Step
from minidiff.errors import require
from minidiff.latent import decode, encode, encode_prompt, text_to_image
from minidiff.show.sheet import plural
from minidiff.show.tiles import lay_out, pixels

__all__ = ["Colours", "PromptBox", "Return", "Scrubber"]


class Colours:
    """Latents shown as colours: the linear map of a latent's channels that comes nearest to the picture below it.

    Fitted by least squares on ``images`` (N, 3, H, W) in [-1, 1], each averaged to the latent's size. It shows what lies where,
    not what the decoder makes of it. ridge: keeps the map gentle, so that pure noise does not turn into black and white.
    """

    def __init__(self, vae: Any, images: Tensor, *, ridge: float = 0.1) -> None:
        z = encode(vae, images)
        self.factor = images.shape[-1] // z.shape[-1]
        small = torch.nn.functional.adaptive_avg_pool2d(images, z.shape[-2:])
        rows = torch.nn.functional.pad(z.movedim(1, -1).flatten(0, 2), (0, 1), value=1.0)
        gram = rows.T @ rows + ridge * len(rows) * torch.diag(torch.tensor([1.0] * z.shape[1] + [0.0]))
        self.weights = torch.linalg.solve(gram, rows.T @ small.movedim(1, -1).flatten(0, 2))        # (C + 1, 3)

    def __call__(self, z: Tensor) -> Tensor:
        """(B, C, h, w) scaled latents -> (B, 3, H, W), as large as the pictures they stand for, in [-1, 1]."""
        rgb = torch.einsum("bchw,cd->bdhw", z, self.weights[:-1]) + self.weights[-1].view(1, 3, 1, 1)
        return rgb.clamp(-1, 1).repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)


class PromptBox:
    """What a pipeline draws for a prompt from the same few noises, for a number of steps and a guidance weight.

    noise: (B, C, h, w), one picture a row. negative: stands in place of the empty prompt. Pictures are kept, so moving back
    is free.
    """

    def __init__(self, pipe: Any, noise: Tensor, *, negative: str = "", scale: int = 3) -> None:
        self.pipe, self.noise, self.negative, self.scale = pipe, noise, negative, scale
        self._kept: dict[tuple[str, int, float], Tensor] = {}

    def images(self, *, prompt: str, steps: int, guidance: float) -> Tensor:
        """(B, 3, H, W) in [-1, 1]. Raises BadInput for a prompt with unknown words or too many of them."""
        cache_key = (prompt.strip(), steps, float(guidance))
        if cache_key not in self._kept:
            self._kept[cache_key] = text_to_image(self.pipe, [cache_key[0]] * len(self.noise), steps=steps, guidance=guidance,
                                             latents=self.noise, negative=self.negative).cpu()
        return self._kept[cache_key]

    def check(self, *, prompt: str, steps: int, guidance: float) -> str:
        """The prompt in quotes; raises BadInput for one with unknown words or too many of them."""
        encode_prompt(self.pipe, prompt.strip())
        return repr(prompt.strip())

    def render(self, *, prompt: str, steps: int, guidance: float) -> tuple[np.ndarray, str]:
        """One row of pixels and one line of text."""
        images = self.images(prompt=prompt, steps=steps, guidance=guidance)
        rows = len(self.noise) * steps * (2 if guidance != 1 else 1)
        seen = f"the U-Net saw {plural(rows, 'row')}"
        return (lay_out([pixels(images)], self.scale),
                f"{plural(len(images), 'picture')}, {plural(steps, 'step')}, weight {guidance:g}: {seen}")


class Scrubber:
    """A recorded run of a latent sampler, step by step: the latent, the guess of the clean latent, and that guess decoded.

    steps: the list of Steps of :func:`minidiff.latent.denoise`. row: which picture of the batch.
    """

    def __init__(self, pipe: Any, steps: Sequence[Step], colours: Colours, *, row: int = 0, scale: int = 3) -> None:
        require(len(steps) > 0, "steps", "no steps", "the list of a sampler's Steps", "list(denoise(pipe, prompt))")
        self.count, self.scale = len(steps), scale
        self._levels = [(s.t, s.t_prev) for s in steps]
        z, guess = (torch.stack([getattr(s, name)[row] for s in steps]) for name in ("x", "x0"))
        with torch.no_grad():
            seen = decode(pipe.vae, guess)
        self._rows = [pixels(torch.stack(three)) for three in zip(colours(z), colours(guess), seen)]

    def render(self, *, step: int) -> tuple[np.ndarray, str]:
        """step: 1 to the number of steps; the state after it."""
        require(1 <= step <= self.count, "step", step, f"a whole number from 1 to {self.count}")
        t, t_prev = self._levels[step - 1]
        heads = ["latent", "guess of the clean latent", "that guess, decoded"]
        array = lay_out([self._rows[step - 1]], self.scale, column_labels=heads)
        where = f"t = {t_prev}" if t_prev >= 0 else "the end"
        return array, f"after step {step} of {self.count}, from t = {t} to {where}"


class Return:
    """From a picture to noise and back, side by side: the latent and the guess of the picture at equal noise.

    there: the Steps of :func:`minidiff.latent.invert_image`; back: name -> Steps of a way back from its end, as many.
    Place 0 is the picture (or what came back of it), the last place the noise.
    """

    def __init__(self, pipe: Any, image: Tensor, there: Sequence[Step], back: Mapping[str, Sequence[Step]],
                 colours: Callable[[Tensor], Tensor], *, row: int = 0, scale: int = 2) -> None:
        self.count, self.scale = len(there), scale
        for name, steps in back.items():
            require(len(steps) == self.count, "back", f"{len(steps)} steps ({name})", f"{self.count}, as many as there")
        start = encode(pipe.vae, image)
        ways = {"there": [(start[0], start[0]), *((s.x[row], s.x0[row]) for s in there)]}
        for name, steps in back.items():
            ends = [(there[-1].x[row], there[-1].x0[row]), *((s.x[row], s.x0[row]) for s in steps[:-1])]
            ways[name] = [(steps[-1].x[row], steps[-1].x[row]), *reversed(ends)]
        self._t = [-1, *(s.t for s in there)]
        self._pixels = {}
        for name, states in ways.items():
            z, guess = (torch.stack(part) for part in zip(*states))
            with torch.no_grad():
                seen = decode(pipe.vae, guess)
            self._pixels[name] = [pixels(torch.stack(two)) for two in zip(colours(z), seen)]

    def render(self, *, place: int) -> tuple[np.ndarray, str]:
        """place: 0 (picture) to the number of steps (noise). One row a way: the latent, and the guess decoded."""
        require(0 <= place <= self.count, "place", place, f"a whole number from 0 to {self.count}")
        array = lay_out([states[place] for states in self._pixels.values()], self.scale, row_labels=list(self._pixels),
                        column_labels=["latent", "guess, decoded"])
        level = f"t = {self._t[place]}" if place else "the picture's end"
        return array, f"{place} of {plural(self.count, 'step')} away from the picture ({level})"
