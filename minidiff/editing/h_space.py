"""Asyrp (Kwon et al. 2023, "Diffusion Models Already Have a Semantic Latent Space"): edits by a shift of the bottleneck.

The output h of the U-Net's middle block is shifted, and only the predicted picture P_t is taken from the shifted pass; the
direction that points to x_t is that of the untouched pass. Directions: ``h_directions``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.diffusion import Schedule, step_pairs
from minidiff.diffusion.noise import row_noise
from minidiff.diffusion.predict import Prediction
from minidiff.diffusion.sample import ddim_sigma
from minidiff.editing.result import EditResult, run_edit, source_of
from minidiff.errors import BadInput, require
from minidiff.steer import Hook, StepContext, Trajectory
from minidiff.steer.hooks import Latents, Predict

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["MIDDLE", "Asymmetric", "Boost", "Delta", "ShiftH", "h_space", "shift_strength"]

MIDDLE = "mid_block"
Delta = Callable[[Tensor, Mapping[str, Any], StepContext], Tensor]      # (h, the block's inputs by name, ctx) -> change of h


def check_tensor(path: str, out: Any) -> None:
    """Refuses a block whose output is not a tensor: its h is not one thing."""
    require(isinstance(out, Tensor), "path", f"{path!r}, which returns a {type(out).__name__}", "a block that returns a tensor",
            f"path={MIDDLE!r}")


class ShiftH(Hook):
    """h + scale * delta in all rows of one branch, as long as t >= t_edit: the symmetric edit, in both terms of the step.

    delta: (C, h, w) or (C, 1, 1) or (B, C, h, w), or a function (h, inputs, ctx) -> change of h, such as a
    :class:`DeltaBlock` or a :class:`MeanDirection`. scale: a number, or one for each row of the branch. path: the bottleneck.
    """

    def __init__(self, delta: Tensor | Delta, scale: float | Tensor = 1.0, *, t_edit: float = 0, branch: str = "source",
                 path: str = MIDDLE) -> None:
        require(isinstance(delta, Tensor) or callable(delta), "delta", type(delta).__name__, "a tensor or a function of h",
                "DeltaBlock(128, 256)")
        self.scale = torch.as_tensor(scale, dtype=torch.float32).reshape(-1, 1, 1, 1)
        require(bool(self.scale.isfinite().all()), "scale", scale, "finite numbers", "scale=1.0")
        self.delta, self.t_edit, self.branch, self.modules = delta, t_edit, branch, (path,)

    def active(self, ctx: StepContext) -> bool:
        return not ctx.t < self.t_edit          # in a tap around another loop t is known, t_edit holds there too

    def on_module(self, path: str, out: Any, ctx: StepContext, inputs: Mapping[str, Any]) -> Tensor | None:
        check_tensor(path, out)
        rows = [row for row in ctx.rows if row.branch == self.branch]
        if not rows or not self.active(ctx):
            return None
        changes = torch.zeros_like(out)
        for row in rows:
            part = ctx.of(*row)
            mine = {k: v[part] if isinstance(v, Tensor) and len(v) == len(out) else v for k, v in inputs.items()}
            change = self.delta if isinstance(self.delta, Tensor) else self.delta(out[part], mine, ctx)
            changes[part] = self.scale.to(out) * change.to(out)
        return out + changes


class Asymmetric(Hook):
    """Asyrp's step (Kwon et al. 2023, eq. 5): P_t from the pass with these shifts, the noise eps_t from the pass without.

    Two passes of the network in steps in which a shift acts. The shifts must be of one branch. They meet the latents as the step
    began: a hook that changes latents in ``before_step`` comes earlier in the list. A clip of "both" would undo the asymmetry
    (it makes eps from x0 again); use None or "x0".
    """

    def __init__(self, *shifts: ShiftH) -> None:
        require(len(shifts) > 0 and all(isinstance(s, ShiftH) for s in shifts), "shifts", shifts, "one or more ShiftH",
                "Asymmetric(ShiftH(delta))")
        branches = {s.branch for s in shifts}
        require(len(branches) == 1, "shifts", f"branches {sorted(branches)}", "shifts of one branch")
        self.shifts, self.branch = shifts, shifts[0].branch
        self.modules = tuple(dict.fromkeys(path for s in shifts for path in s.modules))
        self._on, self._shifted = False, None

    def active(self, ctx: StepContext) -> bool:
        return any(s.active(ctx) for s in self.shifts)

    def on_module(self, path: str, out: Any, ctx: StepContext, inputs: Mapping[str, Any]) -> Tensor | None:
        if not self._on:
            return None
        for shift in self.shifts:
            if path in shift.modules:
                changed = shift.on_module(path, out, ctx, inputs)
                out = out if changed is None else changed
        return out

    @torch.no_grad()
    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> None:
        self._on = True
        try:
            self._shifted = predict({self.branch: z[self.branch]})[self.branch]
        finally:
            self._on = False

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> dict[str, Prediction]:
        return {self.branch: Prediction(self._shifted.x0, pred[self.branch].eps)}


class Boost(Hook):
    """Quality boosting: the steps below t_boost are stochastic (eta = 1), those above deterministic; for runs with eta = 0.

    Kwon et al. 2023, section 3.4. seed, rows: of the noise, a function of (seed, row, t), the same in every branch.
    """

    def __init__(self, t_boost: float, *, seed: int = 0, rows: Sequence[int] | None = None) -> None:
        self.t_boost, self.seed, self.rows = t_boost, seed, rows

    def active(self, ctx: StepContext) -> bool:
        return ctx.t < self.t_boost

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> None:
        self._eps = {branch: p.eps for branch, p in pred.items()}

    def after_step(self, z: Latents, ctx: StepContext) -> dict[str, Tensor] | None:
        sigma = ddim_sigma(ctx.abar, ctx.abar_prev, 1.0)
        if sigma == 0:
            return None
        some = next(iter(z.values()))
        rows = range(len(some)) if self.rows is None else self.rows
        noise = row_noise(some.shape, seed=self.seed, t=ctx.t, rows=rows, dtype=some.dtype, device=some.device)
        less = math.sqrt(1 - ctx.abar_prev - sigma**2) - math.sqrt(1 - ctx.abar_prev)
        return {branch: x + less * self._eps[branch] + sigma * noise for branch, x in z.items()}


def shift_strength(schedule: Schedule, steps: int, **spacing: Any) -> tuple[Tensor, Tensor, Tensor]:
    """By how much a step moves x for a change d of eps: (t, asymmetric, symmetric), each (steps,), float64.

    Asymmetric: sqrt(abar' (1 - abar) / abar), through P_t alone. Symmetric: the same less sqrt(1 - abar'), as the direction to
    x_t moves the other way (Kwon et al. 2023, theorem 1). spacing: as in ``timesteps``.
    """
    pairs = list(step_pairs(schedule.T, steps, **spacing))
    abar = torch.tensor([float(schedule.at(t)) for t, _ in pairs], dtype=torch.float64)
    prev = torch.tensor([float(schedule.at(t)) for _, t in pairs], dtype=torch.float64)
    through = (prev * (1 - abar) / abar).sqrt()
    return torch.tensor([t for t, _ in pairs]), through, through - (1 - prev).sqrt()


def h_space(pipe: StableDiffusionPipeline, prompt: str | Sequence[str], direction: Tensor | Delta | Sequence[Tensor | Delta], *,
            strength: float | Tensor = 0.2, t_edit: float = 0, t_boost: float = 0, symmetric: bool = False,
            seed: int | None = None, image: Tensor | None = None, trajectory: Trajectory | None = None,
            latents: Tensor | None = None, steps: int = 25, guidance: float = 1.0) -> EditResult:
    """Edit by a direction in h-space: the same prompt, the same noise, the bottleneck shifted (Kwon et al. 2023).

    direction: as ``delta`` of :class:`ShiftH`, or several, which are composed with 1 / sqrt(k) each; strength: c, one for all
    or one a picture. The shift acts while t >= t_edit; below t_boost the steps are stochastic. symmetric=True shifts both terms
    of the step, for comparison. The source: a prompt with a ``seed`` (or ``latents``), an ``image`` or a ``trajectory``.
    """
    parts = list(direction) if isinstance(direction, (list, tuple)) else [direction]
    require(len(parts) > 0, "direction", "none", "a direction", "h_space(pipe, 'a cat', DeltaBlock.of(pipe))")
    begin = source_of(pipe, prompt, prompt, seed=seed, image=image, trajectory=trajectory, latents=latents, steps=steps)
    scale = torch.as_tensor(strength, dtype=torch.float32) / math.sqrt(len(parts))
    require(scale.ndim == 0 or scale.shape == (len(begin.prompts),), "strength", f"shape {tuple(scale.shape)}",
            f"one number, or {len(begin.prompts)}: one for each picture")
    shifts = [ShiftH(part, scale, t_edit=t_edit, branch="edit") for part in parts]
    hooks: list[Hook] = list(shifts) if symmetric else [Asymmetric(*shifts)]
    if t_boost > 0:
        if begin.trajectory is not None:
            raise BadInput("t_boost", t_boost, "0 where the source is a picture: noise would move the source too")
        hooks.append(Boost(t_boost, seed=0 if seed is None else seed))
    states = run_edit(pipe, begin, hooks=hooks, steps=steps, guidance=guidance)
    return EditResult.of(pipe, "h-space", states, {"source": begin.prompts, "edit": begin.prompts}, images=begin.images)
