"""The panels of lesson 21: three ways in one row with their hops, the length of the noise, the noise level of a midpoint.

Each ``render`` is a pure function of its knobs and gives pixels and a line of text; everything is computed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.latent.sample import text_to_image
from minidiff.measure import read
from minidiff.measure.path import ghost, hops, perceptual
from minidiff.measure.prompts import prompt_accuracy
from minidiff.measure.reader import Reader
from minidiff.morphing import frames_of, lerp, midpoints, noise_levels
from minidiff.show.tiles import below, lay_out, pixels

__all__ = ["Levels", "Norms", "Ways"]


class Ways:
    """One pair of pictures by several methods: the frame of each at a weight, and the size of its hops along the way."""

    def __init__(self, paths: Mapping[str, Tensor], reader: Reader) -> None:
        from minidiff.show import curve

        sizes = {x.shape for x in paths.values()}
        require(len(sizes) == 1, "paths", sizes, "paths of as many frames, (n, 3, H, W) each")
        self.paths = dict(paths)
        self.count = len(next(iter(paths.values())))
        self.hops = {name: hops(x, perceptual(reader))[0] for name, x in paths.items()}
        middle = [(k + 0.5) / (self.count - 1) for k in range(self.count - 1)]
        self.graphs = []
        for k in range(self.count):
            drawn = curve({name: (middle, values) for name, values in self.hops.items()}, y="size of the hop", height=2.2,
                          x=f"weight; here {k / (self.count - 1):.2f}", alt="hops along the way")
            self.graphs.append(drawn.array)

    def render(self, *, frame: int) -> tuple[np.ndarray, str]:
        """The same frame of every method, and the graph of all hops."""
        require(0 <= frame < self.count, "frame", frame, f"a whole number from 0 to {self.count - 1}")
        tiles = np.concatenate([pixels(x[frame:frame + 1]) for x in self.paths.values()])
        top = lay_out([tiles], 2, labels=list(self.paths))
        near = max(frame - 1, 0)
        said = ", ".join(f"{name} {float(h[near]):.2f}" for name, h in self.hops.items())
        return below(top, self.graphs[frame]), f"weight {frame / (self.count - 1):.2f}; the last hop: {said}"


class Norms:
    """The same prompts from noise of other lengths: what it draws, and how often it is right."""

    def __init__(self, pipe: Any, prompts: Sequence[str], latents: Tensor, reader: Reader, *,
                 lengths: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4), steps: int = 12, shown: int = 4) -> None:
        self.images, self.right, self.spread, self.shown = {}, {}, {}, shown
        for length in lengths:
            x = text_to_image(pipe, list(prompts), latents=length * latents, steps=steps, chunk=16)
            scenes = read(x, reader).scenes
            self.images[length] = x[:shown]
            self.right[length] = float(prompt_accuracy(prompts, scenes)["all"].double().mean())
            there = scenes.present[:, 0]
            self.spread[length] = float(torch.stack([scenes.x[there, 0], scenes.y[there, 0]]).std(1).mean())

    def render(self, *, length: float) -> tuple[np.ndarray, str]:
        """The first pictures, and two numbers about all of them."""
        require(length in self.images, "length", length, f"one of {', '.join(map(str, self.images))}")
        return lay_out([pixels(self.images[length])], 2), (
            f"noise {length:g} times as long: {self.right[length]:.0%} show their prompt; places spread by "
            f"{self.spread[length]:.3f} of the side")


class Levels:
    """One midpoint of two pictures at each level of shared noise."""

    def __init__(self, pipe: Any, a: Tensor, b: Tensor, text: tuple[Tensor, Tensor], *,
                 shares: Sequence[float] = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0), steps: int = 20, seeds: int = 3) -> None:
        from minidiff.latent import encode

        require(seeds >= 2, "seeds", seeds, "2 or more noises")
        with torch.no_grad():
            za, zb = (encode(pipe.vae, x) for x in (a, b))
        self.ends = frames_of(pipe, [za, zb])[0]
        self.images = {}
        for share, route in zip(shares, noise_levels(pipe, steps, shares), strict=True):
            n = [za.expand(seeds, -1, -1, -1), zb.expand(seeds, -1, -1, -1), lerp(*text, 0.5).expand(seeds, -1, -1)]
            self.images[share] = frames_of(pipe, [midpoints(pipe, *n, route)])[:, 0]
        self.ghosts = {share: float(ghost(x, *self.ends).mean()) for share, x in self.images.items()}

    def render(self, *, noise: float) -> tuple[np.ndarray, str]:
        """The first end, midpoints from several noises, the other end."""
        require(noise in self.images, "noise", noise, f"one of {', '.join(map(str, self.images))}")
        made = self.images[noise]
        tiles = np.concatenate([pixels(self.ends[:1]), pixels(made), pixels(self.ends[1:])])
        labels = ["first", *(f"midpoint, noise {k + 1}" for k in range(len(made))), "other"]
        said = f"noised to {noise:.0%} of the way: a blend of the ends explains {self.ghosts[noise]:.0%} of a midpoint"
        return lay_out([tiles], 2, labels=labels), said
