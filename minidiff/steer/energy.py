"""Energies, and the three ways to follow one: moving the latent, the noise prediction, or the mean of the step.

An energy is a function (maps, state) -> (B,) of what the network shows and predicts; smaller is better. Its gradient is taken
with respect to the latent, through the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.errors import check_share, require
from minidiff.steer.attention import Site
from minidiff.steer.hooks import Hook, Latents, Predict, StepContext
from minidiff.steer.record import Maps, Select, choose

__all__ = ["Energy", "EnergyState", "EpsGuidance", "LatentGuidance", "MeanGuidance"]


@dataclass(frozen=True)
class EnergyState:
    """What an energy may look at beside the maps, all with gradients: the latent z and what is predicted of it, (B, C, h, w)."""

    z: Tensor
    x0: Tensor
    eps: Tensor
    ctx: StepContext


class Energy:
    """Wrap a function ``fn(maps, state) -> (B,)``, or write a subclass with ``__call__``. Energies add, and scale by numbers.

    sites: the attention sites whose probabilities it needs; modules: paths of outputs it needs. Both come in ``maps``, with
    gradients, as the rows of the guided branch and text.
    """

    def __init__(
        self, fn: Callable[[Maps, EnergyState], Tensor] | None = None, *, sites: Select = (), modules: Sequence[str] = ()
    ) -> None:
        self.fn, self.selects, self.modules = fn, choose(sites), tuple(modules)

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        if self.fn is None:
            raise NotImplementedError(f"{type(self).__name__}.__call__")
        return self.fn(maps, state)

    def __add__(self, other: Energy) -> Energy:
        require(isinstance(other, Energy), "other", type(other).__name__, "an Energy")
        return _Joined(lambda maps, state: self(maps, state) + other(maps, state), (self, other))

    def __mul__(self, weight: float) -> Energy:
        require(isinstance(weight, (int, float)), "weight", type(weight).__name__, "a number")
        return _Joined(lambda maps, state: weight * self(maps, state), (self,))

    __rmul__ = __mul__


class _Joined(Energy):
    def __init__(self, fn: Callable[[Maps, EnergyState], Tensor], parts: tuple[Energy, ...]) -> None:
        super().__init__(
            fn,
            sites=lambda site: any(part.selects(site) for part in parts),
            modules=dict.fromkeys(path for part in parts for path in part.modules),
        )


class _Guidance(Hook):
    """What the three share: when it acts, what it captures, and how long its push is.

    branch, text: whose rows the energy sees. scale: factor on the gradient; relative: in place of it, the length of the push as a
    share of a reference, row by row (so that one number carries from a small model to a large one; a gradient of exactly zero
    pushes nothing). until: the share of the steps during which it acts.
    """

    def __init__(
        self,
        energy: Energy,
        *,
        scale: float = 1.0,
        relative: float | None = None,
        branch: str = "source",
        text: str = "prompt",
        until: float = 1.0,
    ) -> None:
        require(isinstance(energy, Energy), "energy", type(energy).__name__, "an Energy", "Energy(lambda maps, state: ...)")
        check_share("until", until)
        for name, value in (("scale", scale), ("relative", relative)):
            require(
                value is None or (isinstance(value, (int, float)) and value == value and abs(value) != float("inf")),
                name,
                value,
                "a finite number",
            )
        self.energy, self.scale, self.relative = energy, scale, relative
        self.branch, self.text, self.until = branch, text, until
        self.modules = energy.modules
        self.values: dict[int, Tensor] = {}  # step -> (B,) energies, before the step's push
        self._maps: Maps | None = None

    def active(self, ctx: StepContext) -> bool:
        return ctx.progress < self.until

    def selects(self, site: Site) -> bool:
        return self.energy.selects(site)

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> None:
        if self._maps is not None and ctx.has(self.branch, self.text):
            self._maps.sites[site.name], self._maps.probs[site.name] = site, probs[ctx.of(self.branch, self.text)]

    def on_module(self, path: str, out: Any, ctx: StepContext, inputs: Mapping[str, Any]) -> None:
        if self._maps is not None and ctx.has(self.branch, self.text):
            require(isinstance(out, Tensor), "modules", f"{path!r}, which returns a {type(out).__name__}", "one tensor")
            self._maps.outputs[path] = out[ctx.of(self.branch, self.text)]

    def _energy(self, z: Tensor, p: Prediction, ctx: StepContext) -> Tensor:
        """(B,) with gradients; noted in ``values``."""
        maps, self._maps = self._maps, None
        value = self.energy(maps, EnergyState(z, p.x0, p.eps, ctx))
        require(
            isinstance(value, Tensor) and value.shape == z.shape[:1],
            "energy",
            getattr(value, "shape", type(value).__name__),
            f"one number a row, shape ({len(z)},)",
        )
        require(
            value.requires_grad,
            "energy",
            "a value without a gradient",
            "a function of state.x0, state.z, state.eps or maps that nothing cuts off from them",
            "no .detach(), .item(), argmax or numpy on the way",
        )
        if ctx.index == 0:
            self.values.clear()
        self.values[ctx.index] = value.detach().cpu()
        return value

    def _push(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """The gradient times ``scale``, or with the length ``relative`` times the reference's, row by row."""
        require(
            bool(torch.isfinite(gradient).all()),
            "energy",
            "a gradient that is not finite",
            "a smooth energy",
            "a small constant under every root and quotient",
        )
        if self.relative is None:
            return self.scale * gradient
        shape = (-1,) + (1,) * (gradient.ndim - 1)
        long, want = gradient.flatten(1).norm(dim=1), reference.flatten(1).norm(dim=1)
        share = torch.where(long > 0, self.relative * want / long.clamp(min=torch.finfo(long.dtype).tiny), 0.0)
        return share.view(shape) * gradient


class LatentGuidance(_Guidance):
    """Moves the latent down the energy before the step: z <- z - push (Attend-and-Excite, Pix2Pix-Zero).

    relative: share of |z|. decay: factor on the push, a function of progress in [0, 1). refine: step -> energy; there the push is
    repeated, at most ``most`` times, until every row's energy is below it (Attend-and-Excite's refinement).
    """

    def __init__(
        self,
        energy: Energy,
        *,
        decay: Callable[[float], float] = lambda progress: 1.0,
        refine: Mapping[int, float] | None = None,
        most: int = 20,
        **options: Any,
    ) -> None:
        super().__init__(energy, **options)
        require(most >= 1, "most", most, "1 or more moves at a step of refine", "most=20")
        self.decay, self.refine, self.most = decay, dict(refine or {}), most

    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> Latents:
        x, first = z[self.branch], None
        for _ in range(self.most if ctx.index in self.refine else 1):
            leaf = x.detach().requires_grad_()
            self._maps = Maps(ctx.grid)
            value = self._energy(leaf, predict({self.branch: leaf}, self.text)[self.branch], ctx)
            first = value.detach().cpu() if first is None else first
            below = value <= self.refine[ctx.index] if ctx.index in self.refine else torch.zeros_like(value, dtype=torch.bool)
            if bool(below.all()):
                break
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            push = self.decay(ctx.progress) * self._push(gradient, leaf.detach())
            x = torch.where(below.view((-1,) + (1,) * (x.ndim - 1)), x, x - push)
        self.values[ctx.index] = first
        return {self.branch: x.detach()}


class EpsGuidance(_Guidance):
    """Adds the push to the noise prediction: eps <- eps + push, and x0 follows (Self-Guidance, Epstein et al. 2023, eq. 3).

    relative: share of |eps|. One forward and one backward pass a step: the energy reads the maps of the very call that predicts.
    """

    gradients = True

    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> None:
        self._maps = Maps(ctx.grid)

    def _gradient(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> Tensor:
        value = self._energy(z[self.branch], pred[self.branch], ctx)
        (gradient,) = torch.autograd.grad(value.sum(), z[self.branch], retain_graph=True)
        return gradient

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> dict[str, Prediction]:
        p = pred[self.branch]
        push = self._push(self._gradient(pred, z, ctx), p.eps.detach())
        return {self.branch: Prediction(p.x0 - ((1 - ctx.abar) / ctx.abar) ** 0.5 * push, p.eps + push)}  # no push: bit for bit


class MeanGuidance(EpsGuidance):
    """Moves the result of the step: z_prev <- z_prev - push (classifier guidance of the mean; DiffuseIT, Kwon and Ye 2023).

    relative: share of |z|. The gradient is taken at z_t, in the call that predicts.
    """

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> None:
        self._pending = self._push(self._gradient(pred, z, ctx), z[self.branch].detach())

    def after_step(self, z: Latents, ctx: StepContext) -> Latents:
        return {self.branch: z[self.branch] - self._pending}
