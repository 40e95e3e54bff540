"""The tap: one context manager that lets controllers read and change a U-Net's attention and module outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from minidiff.diffusion.sample import Step
from minidiff.errors import require
from minidiff.steer.attention import ExplicitAttnProcessor, Site, sites

__all__ = ["Hook", "Row", "StepContext", "Tap", "rows_of"]


class Row(NamedTuple):
    """What one row of the U-Net's batch is. branch: "source", "edit", ...; cond: False for the empty prompt's row."""

    branch: str
    cond: bool


@dataclass(frozen=True)
class StepContext:
    """Where the sampler is: ``index`` of ``steps``, and a name for every row of the batch. -1 when no loop says so.

    grid: (height, width) of the latent, from which maps take their shape.
    """

    index: int = -1
    steps: int = 0
    rows: tuple[Row, ...] = ()
    grid: tuple[int, int] = (0, 0)


def rows_of(n: int, *, guided: bool = True, branch: str = "source") -> tuple[Row, ...]:
    """The rows of ``n`` prompts in the order of :class:`minidiff.latent.sample.Guided`: all empty ones first, if guided."""
    return tuple(Row(branch, cond) for cond in ((False, True) if guided else (True,)) for _ in range(n))


class Hook:
    """What may be read or changed; each method is optional. The defaults ask for nothing."""

    def selects(self, site: Site) -> bool:
        """True for the attention sites whose probabilities this controller needs."""
        return False

    def modules(self) -> tuple[str, ...]:
        """Paths of modules whose outputs this controller needs, such as "mid_block"."""
        return ()

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> Tensor | None:
        """probs: (B, heads, N, L), rows sum to 1. Return a tensor of the same shape to put in its place, or None."""
        return None

    def on_module(self, path: str, out: Tensor, ctx: StepContext) -> Tensor | None:
        """out: what the module returned. Return a tensor of the same shape to put in its place, or None."""
        return None

    def after_step(self, step: Step, ctx: StepContext) -> None:
        """Called by :meth:`Tap.follow` after each step of the sampler."""


class Tap:
    """``with Tap(unet, recorder) as tap: for step in tap.follow(steps, rows): ...``

    Sites that some controller wants get an explicit attention (equal to SDPA to float error), the others keep their own.
    On the way in the number of hooks is checked, on the way out that every one of them ran as often as the others; the
    U-Net's processors and hooks are put back whatever happens. Taps may be nested if they want different sites.
    """

    def __init__(self, unet: nn.Module, *controllers: Hook) -> None:
        require(hasattr(unet, "attn_processors"), "unet", type(unet).__name__, "a diffusers U-Net", "pipe.unet")
        self.unet, self.controllers = unet, controllers
        self.sites: dict[str, Site] = sites(unet)
        self.wanted = [s for s in self.sites.values() if any(c.selects(s) for c in controllers)]
        self.paths = sorted({path for c in controllers for path in c.modules()})
        known = {name for name, _ in unet.named_modules()}
        for path in self.paths:
            require(path in known, "modules", repr(path), "the path of a module of this U-Net", "'mid_block'")
        self.calls: Counter[str] = Counter()
        self.context = StepContext()
        self._hooks: list[Any] = []

    def __enter__(self) -> Tap:
        self._before = self.unet.attn_processors
        changed = dict(self._before)
        for site in self.wanted:
            changed[f"{site.name}.processor"] = ExplicitAttnProcessor(lambda probs, site=site: self._probs(site, probs))
        self.unet.set_attn_processor(changed)
        self._hooks = [self.unet.get_submodule(path).register_forward_hook(lambda _m, _a, out, path=path: self._module(path, out))
                       for path in self.paths]
        placed = sum(isinstance(p, ExplicitAttnProcessor) for p in self.unet.attn_processors.values())
        if placed < len(self.wanted) or len(self._hooks) != len(self.paths):
            self._restore()
            raise RuntimeError(f"Tap placed {placed} of {len(self.wanted)} attention hooks")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._restore()
        most = max(self.calls.values(), default=0)
        missed = [name for name in (*(s.name for s in self.wanted), *self.paths) if self.calls[name] != most]
        if kind is None and missed:
            raise RuntimeError(f"Tap: {', '.join(missed[:3])} ran less often than the other hooks; their records are not whole")

    def _restore(self) -> None:
        self.unet.set_attn_processor(dict(self._before))
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def follow(self, steps: Iterable[Step], rows: Iterable[Row] = (), grid: tuple[int, int] | None = None) -> Iterator[Step]:
        """Passes a sampler's steps on, and tells the controllers which one is under way. rows: see :func:`rows_of`."""
        rows, iterator, index = tuple(rows), iter(steps), 0
        while True:
            self.context = StepContext(index, self.context.steps, rows, grid or self.context.grid)
            step = next(iterator, None)
            if step is None:
                return
            self.context = StepContext(index, step.steps, rows, tuple(step.x.shape[-2:]))
            for c in self.controllers:
                c.after_step(step, self.context)
            yield step
            index += 1

    def _probs(self, site: Site, probs: Tensor) -> Tensor:
        self.calls[site.name] += 1
        for c in self.controllers:
            if c.selects(site):
                changed = c.on_probs(site, probs, self.context)
                probs = probs if changed is None else changed
        return probs

    def _module(self, path: str, out: Any) -> Any:
        self.calls[path] += 1
        for c in self.controllers:
            if path in c.modules():
                changed = c.on_module(path, out, self.context)
                out = out if changed is None else changed
        return out
