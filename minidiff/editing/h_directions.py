"""Directions in h-space: means over pairs of pictures, the learnt f_t (Kwon et al. 2023), and how much of an edit passes there.

A direction is a function (h, the block's inputs, context) -> change of h, as :class:`minidiff.editing.ShiftH` takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from minidiff.diffusion.noise import row_noise
from minidiff.diffusion.predict import Denoiser, signal_noise
from minidiff.editing.h_space import MIDDLE, ShiftH, check_tensor
from minidiff.errors import require
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import check_prompts, denoiser, encode_prompt
from minidiff.rng import key, normal, uniform
from minidiff.steer import Hook, Row, StepContext, Tap
from minidiff.steer.engine import network_of

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["DeltaBlock", "FitStep", "MeanDirection", "Objective", "bottleneck", "causal_share", "fit_delta", "mean_direction"]


class MeanDirection:
    """One change of h for each noise level, (C, h, w); between the levels it was made at the nearest one counts."""

    def __init__(self, table: Mapping[int, Tensor]) -> None:
        require(len(table) > 0, "table", "no level", "t -> (C, h, w)")
        self.table = {int(t): d for t, d in table.items()}

    def at(self, t: float) -> Tensor:
        """The change at the known level next to t."""
        return self.table[min(self.table, key=lambda known: abs(known - t))]

    def __call__(self, h: Tensor, inputs: Mapping[str, Any], ctx: StepContext) -> Tensor:
        return self.at(ctx.t)


class DeltaBlock(nn.Module):
    """The paper's f_t: 1 x 1 convolution, the time embedding added, group norm, SiLU, 1 x 1 convolution; from h to its change.

    channels: of h; embedding: of the time embedding that the middle block gets, before its SiLU (as diffusers hands it over).
    The last layer starts at zero here, so a fresh block changes nothing (the published one starts at random).
    """

    def __init__(self, channels: int, embedding: int, *, groups: int = 8) -> None:
        super().__init__()
        self.into = nn.Conv2d(channels, channels, 1)
        self.time = nn.Linear(embedding, channels)
        self.norm = nn.GroupNorm(groups, channels)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline) -> DeltaBlock:
        """A fresh block for the middle of this pipeline's U-Net."""
        resnet = pipe.unet.mid_block.resnets[-1]
        return cls(resnet.out_channels, resnet.time_emb_proj.in_features, groups=min(8, resnet.norm1.num_groups)).to(
            pipe.device, pipe.unet.dtype)

    def forward(self, h: Tensor, inputs: Mapping[str, Any], ctx: StepContext | None = None) -> Tensor:
        """h: (B, C, h, w); inputs: those of the block, of which "temb" (B, E) is used."""
        temb = inputs.get("temb")
        require(isinstance(temb, Tensor), "inputs", f"{sorted(inputs)}", "those of a block that gets 'temb'",
                'path="mid_block" of a diffusers U-Net')
        e = self.time(nn.functional.silu(temb))[:, :, None, None]
        return self.out(nn.functional.silu(self.norm(self.into(h) + e)))


def bottleneck(model: Denoiser, x: Tensor, t: Tensor, cond: Any, path: str, put: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(h, predicted x0) of one pass of the network of ``model``; put: what then stands in place of h, for all that follows."""
    seen: list[Tensor] = []

    class _Read(Hook):
        modules = (path,)

        def on_module(self, name: str, out: Any, ctx: StepContext, inputs: Mapping[str, Any]) -> Tensor | None:
            check_tensor(name, out)
            seen.append(out)
            return put

    with Tap(network_of(model), _Read()):
        x0 = model(x, t, cond).x0
    return seen[0], x0


@torch.no_grad()
def causal_share(model: Denoiser, before: Tensor, after: Tensor, cond: Any, t: int, *, path: str = MIDDLE,
                 seed: int = 0) -> Tensor:
    """How much of an edit passes through the bottleneck at noise level t, (B,): 1 all of it, 0 nothing.

    before, after (B, C, h, w): clean latents (or pictures) of a source and of its right answer; both get the same noise. Into the
    pass of the source the other pass's h is put, skips untouched: the share is how far the predicted picture then moves towards
    that of the other pass, <P_put - P_before, P_after - P_before> / |P_after - P_before|^2. cond: of both, or None.
    """
    require(before.shape == after.shape, "after", tuple(after.shape), f"the shape of before, {tuple(before.shape)}")
    noise = row_noise(before.shape, seed=seed, t=t, rows=range(len(before)), dtype=before.dtype, device=before.device)
    level = torch.full((len(before),), t, device=before.device)
    a, s = signal_noise(model.schedule, level, before)
    _, here = bottleneck(model, a * before + s * noise, level, cond, path)
    h, there = bottleneck(model, a * after + s * noise, level, cond, path)
    _, put = bottleneck(model, a * before + s * noise, level, cond, path, h)
    way = (there - here).flatten(1)
    return ((put - here).flatten(1) * way).sum(1) / way.square().sum(1).clamp(min=1e-12)


@torch.no_grad()
def mean_direction(model: Denoiser, before: Tensor, after: Tensor, cond: Any, timesteps: Sequence[int], *, path: str = MIDDLE,
                   seed: int = 0, chunk: int = 32) -> MeanDirection:
    """The mean of h(after, noised) - h(before, noised) over pairs (N, C, h, w), at each of these levels; nothing is trained."""
    require(before.shape == after.shape, "after", tuple(after.shape), f"the shape of before, {tuple(before.shape)}")
    require(chunk >= 1, "chunk", chunk, "1 or more pairs at a time", "chunk=32")
    table = {}
    for t in timesteps:
        total: Tensor | float = 0.0
        for i in range(0, len(before), chunk):
            part, rows = slice(i, i + chunk), range(i, min(i + chunk, len(before)))
            noise = row_noise(before[part].shape, seed=seed, t=t, rows=rows, dtype=before.dtype, device=before.device)
            level = torch.full((len(rows),), t, device=before.device)
            some = cond[part] if isinstance(cond, Tensor) and len(cond) == len(before) else cond
            some = some.expand(len(rows), *some.shape[1:]) if isinstance(some, Tensor) and len(some) == 1 else some
            a, s = signal_noise(model.schedule, level, before[part])
            h = [bottleneck(model, a * x[part] + s * noise, level, some, path)[0] for x in (before, after)]
            total = total + (h[1] - h[0]).sum(0)
        table[int(t)] = total / len(before)
    return MeanDirection(table)


class FitStep(NamedTuple):
    """After step ``index``: the error of P_t, mean square or the objective's, and what it would be without the block (NaN where
    nobody watched)."""

    index: int
    loss: float
    plain: float


Objective = Callable[[Tensor, Tensor, Tensor], Tensor]          # (P_t shifted, P_t plain, clean latents) -> a number


def fit_delta(pipe: StableDiffusionPipeline, block: DeltaBlock, before: Tensor, after: Tensor | Objective,
              prompts: str | Sequence[str] = "", *, steps: int = 200, batch: int = 12, lr: float = 3e-3, t_edit: int = 0,
              watch: int = 1, seed: int = 0) -> Iterator[FitStep]:
    """Train f_t so that P_t of the noised source becomes the right answer: the paper's scheme with a truth in place of CLIP.

    before, after (N, 3, H, W): pictures of sources and of their counterfactuals; or as ``after`` an objective of P_t shifted,
    P_t plain and the clean latents where no answer is known, such as :class:`~minidiff.editing.h_clip.DirectionalLoss`. Levels
    are drawn evenly from t_edit to T - 1; nothing but ``block`` is trained, and its scale is 1. prompts: one for all, or N; they
    belong to the sources. watch: every so many steps a third pass measures the error without the block; an objective needs it
    at every step.
    """
    known = isinstance(after, Tensor)
    require(known or callable(after), "after", type(after).__name__, "pictures of right answers, or an objective")
    if known:
        require(before.shape == after.shape, "after", tuple(after.shape), f"the shape of before, {tuple(before.shape)}")
    for name, value in (("steps", steps), ("batch", batch)):
        require(value >= 1, name, value, "1 or more", f"{name}=12")
    prompts, n = check_prompts(prompts), len(before)
    require(len(prompts) in (1, n), "prompts", f"{len(prompts)} prompts", f"1 or {n}: one for each picture")
    model = denoiser(pipe)
    require(0 <= t_edit < model.schedule.T, "t_edit", t_edit, f"a level from 0 to {model.schedule.T - 1}", "t_edit=200")
    with torch.no_grad():
        z = encode(pipe.vae, before.to(pipe.device, pipe.vae.dtype))
        gold = encode(pipe.vae, after.to(pipe.device, pipe.vae.dtype)) if known else z
    context = encode_prompt(pipe, prompts)
    optimiser = torch.optim.Adam(block.parameters(), lr=lr)
    shift = ShiftH(block)
    for index in range(steps):
        u = uniform(key("h-space fit", seed), torch.tensor([index]), 2 * batch).reshape(2, batch)
        rows, t = (u[0] * n).long().clamp(max=n - 1), (t_edit + u[1] * (model.schedule.T - t_edit)).long()
        noise = normal(z[rows].shape, "h-space noise", seed, index).to(z)
        t = t.clamp(max=model.schedule.T - 1).to(z.device)
        a, s = signal_noise(model.schedule, t, z[rows])
        cond = context[rows] if len(context) == n else context.expand(batch, *context.shape[1:])
        x, plain, without = a * z[rows] + s * noise, z[rows], float("nan")

        def cost(p: Tensor, plain: Tensor, rows: Tensor = rows) -> Tensor:
            return (p - gold[rows]).square().mean() if known else after(p, plain, z[rows])

        if index % watch == 0 or not known:
            with torch.no_grad():
                plain = model(x, t, cond).x0
                without = float(cost(plain, plain))
        with Tap(pipe.unet, shift, rows=[Row("source")]):
            loss = cost(model(x, t, cond).x0, plain)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - (index + 1) / steps)
        yield FitStep(index, float(loss.detach()), without)
