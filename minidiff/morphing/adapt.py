"""What DiffMorpher and IMPUS teach the network about the two pictures: a loop for many small fits, and adapters between two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.latent.sample import invert_latents
from minidiff.personal.fit import Progress, denoising_loss, draw_t, only_free
from minidiff.personal.lora import LoRA
from minidiff.rng import generator, normal
from minidiff.steer import Hook, StepContext, Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["LerpLoRA", "fit_pictures", "invert_with", "picture_loras"]


def fit_pictures(pipe: StableDiffusionPipeline, z: Tensor, text: Tensor, params: Iterable[Tensor], *, iterations: int,
                 lr: float, copies: int = 1, seed: int = 0) -> Iterator[Progress]:
    """AdamW (no weight decay) on the denoising loss of n pictures at once, each with its own embedding; a step at a time.

    z (n, C, h, w): clean latents; text (n, L, D): what each is denoised with, and what is free if it is one of ``params``.
    copies: noisy versions of each picture a step: row j of picture i is row i * copies + j of the batch. Times and noises
    are a function of (seed, step, j) and the same for all pictures, so a picture's fit does not depend on what else is fitted.
    The rate stays for the first half and falls in a straight line to zero.
    """
    free = list(params)
    require(bool(free), "params", "no parameters", "at least one", "lora.parameters()")
    require(iterations >= 1 and copies >= 1, "iterations, copies", (iterations, copies), "1 or more of each")
    require(len(z) == len(text), "text", f"{len(text)} rows", f"{len(z)}: one for each picture")
    optimiser = torch.optim.AdamW(free, lr=lr, weight_decay=0.0)
    T, n = pipe.scheduler.config.num_train_timesteps, len(z)
    with only_free(pipe, free), torch.enable_grad():
        for i in range(iterations):
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, 2 * (1 - i / iterations))
            t = draw_t(copies, T, generator("morph t", seed, i)).to(z.device).repeat(n)
            noise = normal((copies, *z.shape[1:]), "morph noise", seed, i).to(z).repeat(n, 1, 1, 1)
            rows = [x.repeat_interleave(copies, 0) for x in (z, text)]
            loss = denoising_loss(pipe, *rows, t, noise).sum() / copies
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield Progress(i + 1, iterations, float(loss.detach()) / n)


def picture_loras(pipe: StableDiffusionPipeline, z: Tensor, text: Tensor, *, rank: int | Sequence[int] = 8, iterations: int = 40,
                  lr: float = 2e-3, copies: int = 1, seed: int = 0, share: int = 1) -> list[LoRA]:
    """One LoRA of attention for every ``share`` pictures in turn, all fitted in one batch; detached when they come.

    z (n, C, h, w), text (n, L, D). rank: of all, or of each adapter. All begin with the same A and see the same noises, as
    DiffMorpher's do.
    """
    require(len(z) % share == 0, "share", share, f"a divisor of {len(z)} pictures")
    count, step = len(z) // share, share * copies
    ranks = [rank] * count if isinstance(rank, int) else list(rank)
    require(len(ranks) == count, "rank", rank, f"one rank, or {count}")
    loras = [LoRA(pipe.unet, rank=r, seed=seed, rows=slice(k * step, (k + 1) * step)) for k, r in enumerate(ranks)]
    try:
        for _ in fit_pictures(pipe, z, text, [p for lora in loras for p in lora.parameters()], iterations=iterations, lr=lr,
                              copies=copies, seed=seed):
            pass
    finally:
        for lora in loras:
            lora.detach().requires_grad_(False)
    return loras


def invert_with(pipe: StableDiffusionPipeline, z: Tensor, text: Tensor, loras: Sequence[LoRA], *, steps: int = 12,
                fixed_point: int = 1) -> Tensor:
    """The noise (n, C, h, w) of each picture, found at w = 1 with its own adapter; adapter k has the k-th share of the rows."""
    share = len(z) // max(len(loras), 1)
    try:
        for k, lora in enumerate(loras):
            lora.rows = slice(k * share, (k + 1) * share)
            lora.attach()
        return Trajectory.of(invert_latents(pipe, z, text, steps=steps, fixed_point=fixed_point)).noise
    finally:
        for lora in loras:
            lora.detach()


class LerpLoRA(Hook):
    """Delta W of each frame on the line between those of two adapters: (1 - w) B A + w B' A' (DiffMorpher, eq. 4).

    first, other: detached adapters of the same layers; weights: branch -> w. Both low-rank paths are run and their outputs are
    mixed, which is what lerp of Delta W is; lerp of the factors A and B would be another map.
    """

    def __init__(self, first: LoRA, other: LoRA, weights: Mapping[str, float]) -> None:
        good = isinstance(weights, Mapping) and len(weights) > 0 and all(0 <= w <= 1 for w in weights.values())
        require(good, "weights", repr(weights), "a weight in [0, 1] for each branch", 'weights={"first": 0.0, "frame 1": 0.5}')
        require(first.paths == other.paths, "other", "an adapter of other layers", "adapters of the same layers")
        for name, lora in (("first", first), ("other", other)):
            require(not lora.attached, name, "an attached adapter", "one that is not: the hook runs it", f"{name}.detach()")
        self.first, self.other, self.weights, self.modules = first, other, dict(weights), tuple(first.paths)

    def on_module(self, path: str, out: Tensor, ctx: StepContext, inputs: Mapping[str, Any]) -> Tensor:
        x = next(iter(inputs.values()))
        w = torch.zeros(len(out), *[1] * (out.ndim - 1), dtype=out.dtype, device=out.device)
        on = torch.zeros_like(w)
        for branch, text in ctx.rows:
            if branch in self.weights:
                rows = ctx.of(branch, text)
                w[rows], on[rows] = self.weights[branch], 1.0
        return out + on * ((1 - w) * self.first.low(path, x) + w * self.other.low(path, x))
