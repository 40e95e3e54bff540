"""The panels of lesson 02: an ancestral chain step by step, samples on demand, and the weights of the bound."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minidiff.diffusion import ddpm, last, linear, min_snr_weight
from minidiff.errors import check_choice, require
from minidiff.measure import Reader, read
from minidiff.rng import normal
from minidiff.show import curve, tile
from minidiff.show.sheet import Picture, plural
from minidiff.world import KINDS

__all__ = ["Chain", "Sampler", "weights"]


class Chain:
    """One ancestral run, kept: ``render(step=...)`` shows x_t and the guess of x_0, and what the reader makes of the guess."""

    def __init__(self, model, reader: Reader, *, count: int = 4, steps: int = 60, seed: int = 0) -> None:
        x = normal((count, 3, 32, 32), "chain", seed)
        run = list(ddpm(model, x, steps=steps, clip="x0", seed=seed))
        self.ts = [run[0].t, *(s.t_prev for s in run)]
        self.x: list[Tensor] = [x, *(s.x for s in run)]
        self.guess: list[Tensor] = [run[0].x0, *(s.x0 for s in run)]
        everything = read(torch.cat(self.guess), reader)
        self.kind = everything.scenes.kind[:, 0].view(len(self.x), count)
        self.confidence = (everything.probs["kind"][:, 0].amax(-1) * everything.confidence[:, 0]).view(len(self.x), count)
        self.backdrop = everything.scenes.backdrop.view(len(self.x), count)

    def settled(self, values: Tensor) -> list[float]:
        """Share of the pictures whose reading is the final one at this step and at all later ones, for every step."""
        stays = (values == values[-1:]).flip(0).cummin(0).values.flip(0)
        return stays.double().mean(1).tolist()

    def render(self, *, step: int) -> tuple[np.ndarray, str]:
        """Upper row: x_t. Lower row: the network's guess of x_0."""
        array = tile([self.x[step].clamp(-1, 1), self.guess[step].clamp(-1, 1)], scale=8, gap=6)
        kinds = zip(self.kind[step], self.confidence[step], strict=True)
        read_as = ", ".join(f"{KINDS[int(k)]} ({float(p):.0%})" for k, p in kinds)
        return array, f"after {plural(step, 'step')}, t = {max(self.ts[step], 0)}; the guesses read as {read_as}"


class Sampler:
    """Samples on demand, and kept: six pictures by DDPM with a choice of steps and variance."""

    def __init__(self, model, *, count: int = 6, budget: int = 180) -> None:
        self.model, self.count, self.budget = model, count, budget
        self._kept: dict[tuple, Tensor] = {}

    def images(self, *, seed: int, steps: int, variance: str) -> Tensor:
        """(count, 3, 32, 32) in [-1, 1]."""
        check_choice("variance", variance, ("small", "large"))
        most = self.budget // self.count
        require(steps <= most, "steps", steps, f"at most {most} for {self.count} pictures")
        cache_key = (seed, steps, variance)
        if cache_key not in self._kept:
            x = normal((self.count, 3, 32, 32), "sampler", seed)
            run = ddpm(self.model, x, steps=steps, variance=variance, clip="x0", seed=seed)
            self._kept[cache_key] = last(run).x.clamp(-1, 1)
        return self._kept[cache_key]

    def render(self, *, seed: int, steps: int, variance: str) -> tuple[np.ndarray, str]:
        """One row of pictures and one line of text."""
        array = tile(self.images(seed=seed, steps=steps, variance=variance), columns=self.count, scale=6, gap=6)
        return array, f"seed {seed}, {plural(steps, 'step')}, {variance} variance: {steps * self.count} network calls"


def weights(*, gamma: int) -> tuple[Picture, str]:
    """The weight on the squared eps error over t: the bound, L_simple, and min-SNR."""
    table = linear(1000)
    t = torch.arange(1, 1000)
    abar, beta = table.abar[1:], table.beta[1:]
    bound = beta**2 / (2 * table.variance("small", t) * (1 - beta) * (1 - abar))
    capped = min_snr_weight(table, t, "eps", gamma=float(gamma))
    lines = {"the bound, small variance": (t, bound), "L_simple": (t, torch.ones(999)), f"min-SNR, gamma = {gamma}": (t, capped)}
    shown = curve(
        lines,
        x="noising step t",
        y="weight on the eps error (log scale)",
        log_x=True,
        log_y=True,
        markers=False,
        alt="Three weights over t: the bound falls by two orders of magnitude and turns up at the end, L_simple is flat, "
            "min-SNR rises and is then flat",
    )
    edge = int(t[table.snr[1:] > gamma].max()) if bool((table.snr[1:] > gamma).any()) else 0
    return shown, f"gamma = {gamma}: steps up to t = {edge} have SNR above gamma and are weighted down"
