"""The one loop: ``run`` from noise to picture, ``invert`` the other way, both over named rows and with hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion.call import check_clip, clipped
from minidiff.diffusion.noise import check_rows, row_noise
from minidiff.diffusion.predict import Prediction
from minidiff.diffusion.sample import ddim_sigma, ddim_step, visits
from minidiff.errors import BadInput, checks_first, require
from minidiff.steer.engine import Engine
from minidiff.steer.guiders import CFG, Guider
from minidiff.steer.hooks import Hook, StepContext

__all__ = ["State", "invert", "run"]



class State(NamedTuple):
    """The loop after a step. z: branch -> latents at level t_prev (``run``) or t (``invert``); before: what they were before the
    step; predictions: branch -> Prediction(x0, eps) that the step was made of; inverted: True for a step towards the noise."""

    index: int
    steps: int
    t: int
    t_prev: int
    z: dict[str, Tensor]
    before: dict[str, Tensor]
    predictions: dict[str, Prediction]
    inverted: bool = False

    def _only(self, table: Mapping[str, Any]) -> Any:
        require(
            len(table) == 1,
            "branch",
            f"branches {', '.join(map(repr, table))}",
            "a run of one branch",
            f"state.z[{next(iter(table))!r}]",
        )
        return next(iter(table.values()))

    @property
    def x(self) -> Tensor:
        """z of a run with one branch."""
        return self._only(self.z)

    @property
    def x0(self) -> Tensor:
        """The predicted clean latents of a run with one branch."""
        return self._only(self.predictions).x0

    @property
    def eps(self) -> Tensor:
        """The predicted noise of a run with one branch."""
        return self._only(self.predictions).eps


@checks_first
def run(
    models: Any,
    z: Any,
    texts: Any = None,
    *,
    steps: int | Sequence[int] = 50,
    hooks: Sequence[Hook] = (),
    guider: Guider | None = None,
    eta: float = 0.0,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    spacing: str = "leading",
    offset: int = 0,
    final_alpha: str = "one",
    clip: str | None = None,
) -> Iterator[State]:
    """DDIM over named rows, with hooks: every method from lesson 08 on. Yields a :class:`State` after each step.

    models: a denoiser, or text -> denoiser (of one schedule). z: (n, C, h, w) noise, or branch -> noise; a plain tensor is the
    branch "source". texts: text -> condition of ``model(x, t, condition)``, or branch -> text -> condition; a condition is a
    tensor of n (or 1) rows, a tuple of such tensors, or a function of the step's context that gives one; None: unconditional.
    guider: what combines the texts, None: the prompt alone. Order of the batch: texts as the guider names them ("empty" first, as
    in diffusers), in each the branches as z names them.

    eta: 0 (deterministic) to 1. The noise of a row is a function of (seed, its number, t), the same in every branch; rows: the
    numbers, 0 to n - 1 if None. steps, spacing, offset, final_alpha, clip: as in :func:`minidiff.diffusion.ddim`.
    Everything is checked here, before the first step. The network runs without gradients, except where a hook asks for them.
    """
    loop = Engine(models, z, texts, guider or CFG(1.0), hooks)
    require(isinstance(eta, (int, float)) and 0 <= eta <= 1, "eta", eta, "a number from 0 (no noise) to 1 (DDPM)", "eta=0.0")
    check_clip(clip)
    seed, numbers = check_rows(seed, rows, loop.n)
    way = visits(loop.schedule, steps, spacing=spacing, offset=offset, final_alpha=final_alpha)
    yield  # arguments are good; the rest runs as the caller asks for steps
    z = {branch: value.detach() for branch, value in loop.z.items()}
    some = next(iter(z.values()))
    for visit in way:
        ctx = StepContext(*visit, tuple(some.shape[-2:]), loop.n)
        with torch.no_grad():
            before, pred = loop.step(z, ctx)
            pred = {b: clipped(p, before[b], ctx.abar, clip) for b, p in pred.items()}
            sigma = ddim_sigma(ctx.abar, ctx.abar_prev, eta)
            noise = (
                row_noise(some.shape, seed=seed, t=ctx.t, rows=numbers, dtype=some.dtype, device=some.device)
                if sigma > 0
                else None
            )
            z = {b: ddim_step(p.x0, p.eps, ctx.abar_prev, sigma=sigma, noise=noise) for b, p in pred.items()}
            z = loop.change(z, "after_step", ctx)
        yield State(*visit[:4], z, before, pred)


@checks_first
def invert(
    models: Any,
    z: Any,
    texts: Any = None,
    *,
    steps: int | Sequence[int] = 50,
    hooks: Sequence[Hook] = (),
    guider: Guider | None = None,
    fixed_point: int = 0,
    spacing: str = "leading",
    offset: int = 0,
    final_alpha: str = "one",
) -> Iterator[State]:
    """DDIM inversion (Song et al. 2021, section 4.3) over named rows: from clean latents to the noise they come from.

    Arguments as in :func:`run`; fixed_point: further network calls a step at the latent just found, so that the way back nearly
    closes (3 or more). ``before_step`` gets the latents at t_prev, ``after_step`` those at t.
    """
    loop = Engine(models, z, texts, guider or CFG(1.0), hooks)
    require(isinstance(fixed_point, int) and fixed_point >= 0, "fixed_point", fixed_point, "a whole number of repeats, 0 or more")
    way = visits(loop.schedule, steps, spacing=spacing, offset=offset, final_alpha=final_alpha)[::-1]
    if way[-1].abar == 0:
        raise BadInput(
            "steps", f"a way to t = {way[-1].t}, where abar = 0", "steps that stop before it: pure noise holds no picture"
        )
    yield  # arguments are good; the rest runs as the caller asks for steps
    z = {branch: value.detach() for branch, value in loop.z.items()}
    for index, visit in enumerate(way):
        ctx = StepContext(index, *visit[1:], tuple(next(iter(z.values())).shape[-2:]), loop.n)
        with torch.no_grad():
            guess = start = z
            for _ in range(1 + fixed_point):
                _, pred = loop.step(guess, ctx)
                pred = {
                    b: Prediction((start[b] - (1 - ctx.abar_prev) ** 0.5 * p.eps) / ctx.abar_prev**0.5, p.eps)
                    for b, p in pred.items()
                }
                guess = {b: ddim_step(p.x0, p.eps, ctx.abar) for b, p in pred.items()}
            z = loop.change(guess, "after_step", ctx)
        yield State(index, *visit[1:4], z, start, pred, inverted=True)
