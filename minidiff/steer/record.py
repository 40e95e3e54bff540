"""The recorder: keeps attention maps and module outputs of each step, and gives back the map of a token at a site and step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.steer.attention import Site
from minidiff.steer.tap import Hook, StepContext

__all__ = ["Recorder"]


class Recorder(Hook):
    """Keeps what it sees of the rows with a prompt: by step, then by site or module path.

    want: which attention sites, a function of :class:`Site` (default: every cross-attention). paths: modules whose outputs
    are kept. graph: keep gradients and the device (for energies); otherwise copies on the CPU.
    """

    def __init__(self, want: Callable[[Site], bool] | None = None, *, paths: Sequence[str] = (), graph: bool = False) -> None:
        self.want = want or (lambda site: site.kind == "cross")
        self.paths, self.graph = tuple(paths), graph
        self.probs: dict[int, dict[str, Tensor]] = {}      # step -> site name -> (B, heads, N, L)
        self.outputs: dict[int, dict[str, Tensor]] = {}    # step -> path -> output
        self.seen: dict[str, Site] = {}
        self.grid = (0, 0)

    def selects(self, site: Site) -> bool:
        return self.want(site)

    def modules(self) -> tuple[str, ...]:
        return self.paths

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> None:
        self.seen[site.name] = site
        self.probs.setdefault(ctx.index, {})[site.name] = self._kept(probs, ctx)

    def on_module(self, path: str, out: Tensor, ctx: StepContext) -> None:
        if isinstance(out, Tensor):
            self.outputs.setdefault(ctx.index, {})[path] = self._kept(out, ctx)

    def after_step(self, step: object, ctx: StepContext) -> None:
        self.grid = ctx.grid

    def _kept(self, x: Tensor, ctx: StepContext) -> Tensor:
        if ctx.rows:
            require(len(ctx.rows) == len(x), "rows", f"{len(ctx.rows)} names", f"one for each of the {len(x)} rows of the batch",
                    "rows_of(len(prompts), guided=guidance != 1)")
            x = x[[i for i, row in enumerate(ctx.rows) if row.cond]]
        return x if self.graph else x.detach().cpu()

    def map(self, tokens: int | Sequence[int], *, step: int | Sequence[int], site: str | Callable[[Site], bool],
            row: int | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Attention to ``tokens`` (their mean), heads averaged: (B, h, w), or (h, w) for one ``row``.

        step: one step or several; site: a name, or a function of Site that chooses sites **of one size**; both are averaged.
        grid: (height, width) of the latent, if no loop was followed.
        """
        steps = [step] if isinstance(step, int) else list(step)
        tokens = [tokens] if isinstance(tokens, int) else list(tokens)
        for s in steps:
            require(s in self.probs, "step", s, f"a recorded step, {min(self.probs, default='none')} to "
                    f"{max(self.probs, default='none')}")
        names = [n for n, known in self.seen.items() if (n == site if isinstance(site, str) else site(known))]
        require(len(names) > 0, "site", repr(site), f"recorded sites ({', '.join(self.seen) or 'none'})")
        picked = [self.probs[s][n] for s in steps for n in names]
        sizes = {p.shape[2] for p in picked}
        require(len(sizes) == 1, "site", f"sites with {sorted(sizes)} places", "sites of one size",
                "lambda s: s.kind == 'cross' and s.level == 1")
        length = picked[0].shape[-1]
        require(all(0 <= k < length for k in tokens) and len(tokens) > 0, "tokens", tokens, f"positions from 0 to {length - 1}",
                "spans(pipe.tokenizer, prompt, word)[0]")
        maps = torch.stack([p[..., tokens].mean((1, 3)) for p in picked]).mean(0)
        high, wide = grid or self.grid
        cells = maps.shape[1]
        h = round((cells * high / wide) ** 0.5) if wide else round(cells**0.5)
        require(h > 0 and cells % h == 0, "grid", (high, wide), f"the shape of a latent whose maps have {cells} places")
        maps = maps.reshape(len(maps), h, cells // h)
        return maps if row is None else maps[row]
