"""What a loop leaves behind: attention maps and module outputs by step, and the trajectory of its latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minidiff.errors import BadInput, require
from minidiff.steer.attention import Site
from minidiff.steer.hooks import Hook, Latents, Predict, StepContext
from minidiff.steer.loop import State

__all__ = ["Maps", "Pin", "Recorder", "Trajectory"]

Select = Callable[[Site], bool] | str | Sequence[str]


class Named:
    """The sites of these names; a tap refuses names that its network has not got."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def __call__(self, site: Site) -> bool:
        return site.name in self.names


def choose(select: Select) -> Callable[[Site], bool]:
    """A test for sites: a function of Site as it is, a name or several names of sites."""
    return select if callable(select) else Named([select] if isinstance(select, str) else select)


@dataclass
class Maps:
    """What one call of the network showed of one block of rows.

    probs: site name -> (B, heads, N, L), rows sum to 1. outputs: module path -> its tensor. sites: by name. grid: of the latent.
    """

    grid: tuple[int, int]
    probs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)

    def names(self, site: Select) -> list[str]:
        """The recorded sites that ``site`` chooses."""
        found = [name for name, known in self.sites.items() if choose(site)(known)]
        require(len(found) > 0, "site", repr(site), f"recorded sites ({', '.join(self.sites) or 'none'})")
        return found

    def map(self, tokens: int | Sequence[int], site: Select = lambda site: True) -> Tensor:
        """Attention to ``tokens`` (their mean), heads and sites averaged: (B, h, w). The sites must be of one size."""
        tokens = [tokens] if isinstance(tokens, int) else list(tokens)
        picked = [self.probs[name] for name in self.names(site)]
        sizes = {p.shape[2] for p in picked}
        require(
            len(sizes) == 1,
            "site",
            f"sites with {sorted(sizes)} places",
            "sites of one size",
            "lambda s: s.kind == 'cross' and s.level == 1",
        )
        length = picked[0].shape[-1]
        require(
            all(0 <= k < length for k in tokens) and len(tokens) > 0,
            "tokens",
            tokens,
            f"positions from 0 to {length - 1}",
            "token_indices(pipe.tokenizer, prompt, word)[0]",
        )
        flat = torch.stack([p[..., tokens].mean((1, 3)) for p in picked]).mean(0)
        return flat.unflatten(1, shape_of(flat.shape[1], self.grid))


def shape_of(cells: int, grid: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a site with ``cells`` places on a latent of ``grid``."""
    high, wide = grid
    h = round((cells * high / wide) ** 0.5) if wide else round(cells**0.5)
    require(h > 0 and cells % h == 0, "grid", grid, f"the shape of a latent whose maps have {cells} places")
    return h, cells // h


class Recorder(Hook):
    """Keeps what it sees of one block of rows, by step: copies on the CPU, without gradients.

    sites: which attention sites (a function of Site, a name, or names; default: every cross-attention; () for none). modules:
    paths whose outputs are kept. branch, text: whose rows. The latest run counts: step 0 begins a new record.
    """

    def __init__(
        self,
        sites: Select = lambda site: site.kind == "cross",
        *,
        modules: Sequence[str] = (),
        branch: str = "source",
        text: str = "prompt",
    ) -> None:
        self.choose, self.modules, self.branch, self.text = choose(sites), tuple(modules), branch, text
        self.steps: dict[int, Maps] = {}

    def selects(self, site: Site) -> bool:
        return self.choose(site)

    def _maps(self, ctx: StepContext) -> Maps:
        if ctx.index == 0 and any(step > 0 for step in self.steps):
            self.steps.clear()
        return self.steps.setdefault(ctx.index, Maps(ctx.grid))

    def _elsewhere(self, ctx: StepContext) -> bool:
        """True in a call that runs the branch with other texts only, as a method's ``predict(z, "empty")`` does."""
        return not ctx.has(self.branch, self.text) and any(row.branch == self.branch for row in ctx.rows)

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> None:
        if self._elsewhere(ctx):
            return
        rows = ctx.of(self.branch, self.text)
        maps = self._maps(ctx)
        maps.sites[site.name], maps.probs[site.name] = site, probs[rows].detach().cpu()

    def on_module(self, path: str, out: Any, ctx: StepContext, inputs: Mapping[str, Any]) -> None:
        require(
            isinstance(out, Tensor),
            "modules",
            f"{path!r}, which returns a {type(out).__name__}",
            "a module that returns one tensor",
            f"a part of it, such as '{path}.resnets.0'",
        )
        if self._elsewhere(ctx):
            return
        self._maps(ctx).outputs[path] = out[ctx.of(self.branch, self.text)].detach().cpu()

    def at(self, step: int) -> Maps:
        """What was recorded at one step."""
        require(
            step in self.steps,
            "step",
            step,
            f"a recorded step, {min(self.steps, default='none')} to {max(self.steps, default='none')}",
        )
        return self.steps[step]

    def map(
        self,
        tokens: int | Sequence[int],
        *,
        step: int | Iterable[int] | None = None,
        site: Select = lambda site: True,
        row: int | None = None,
    ) -> Tensor:
        """Attention to ``tokens`` (their mean), averaged over heads, sites of one size, and steps (None: all): (B, h, w), or
        (h, w) of one ``row``."""
        steps = sorted(self.steps) if step is None else [step] if isinstance(step, int) else list(step)
        require(len(steps) > 0, "step", "no step", "at least one recorded step", "run the loop first")
        maps = torch.stack([self.at(s).map(tokens, site) for s in steps]).mean(0)
        if row is None:
            return maps
        require(-len(maps) <= row < len(maps), "row", row, f"one of the {len(maps)} rows of the block")
        return maps[row]


@dataclass(frozen=True)
class Trajectory:
    """The latents of one branch from noise to picture.

    latents: (S + 1, B, C, h, w), latents[i] at timesteps[i], the last clean; timesteps: S falling numbers; eps (S, B, C, h, w):
    the prediction each step was made of; noises: what was added at each step, or None where nothing was.
    """

    latents: Tensor
    timesteps: tuple[int, ...]
    eps: Tensor
    noises: Tensor | None = None

    @classmethod
    def of(cls, states: Iterable[State], branch: str = "source") -> Trajectory:
        """Run a loop (``run`` or ``invert``) to its end and keep its way; an inversion is turned round."""
        states = list(states)
        require(len(states) > 0, "states", "an empty loop", "the states of run(...) or invert(...)")
        require(branch in states[0].z, "branch", repr(branch), f"one of {', '.join(map(repr, states[0].z))}")
        latents = torch.stack([states[0].before[branch], *(s.z[branch] for s in states)])
        eps = torch.stack([s.predictions[branch].eps for s in states])
        if states[0].inverted:
            latents, eps, states = latents.flip(0), eps.flip(0), states[::-1]
        return cls(latents, tuple(s.t for s in states), eps)

    def at(self, t: int) -> Tensor:
        """The latents at level t: (B, C, h, w)."""
        if t not in self.timesteps:
            raise BadInput(
                "t",
                t,
                f"a level of this trajectory ({self.timesteps[0]}, {self.timesteps[1:2]} ... {self.timesteps[-1]})",
                "the same number of steps in run as in invert",
            )
        return self.latents[self.timesteps.index(t)]

    @property
    def noise(self) -> Tensor:
        """Where it begins: (B, C, h, w)."""
        return self.latents[0]

    @property
    def clean(self) -> Tensor:
        """Where it ends: (B, C, h, w)."""
        return self.latents[-1]


class Pin(Hook):
    """Holds a branch on a trajectory: its latents are replaced before every step and at the end (direct inversion, PnP)."""

    def __init__(self, trajectory: Trajectory, branch: str = "source") -> None:
        self.trajectory, self.branch = trajectory, branch

    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> Latents:
        return {self.branch: self.trajectory.at(ctx.t).to(z[self.branch])}

    def after_step(self, z: Latents, ctx: StepContext) -> Latents:
        there = self.trajectory.clean if ctx.t_prev < 0 else self.trajectory.at(ctx.t_prev)
        return {self.branch: there.to(z[self.branch])}
