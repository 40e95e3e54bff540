"""Plug-and-Play (Tumanyan et al. 2023): the layout of a picture lies in the decoder's features and self-attention; copy them.

While the edited picture is drawn, one layer's features and the queries and keys of the decoder's self-attention are those of the
source, which runs in the same batch. Values, cross-attention and the prompt are the edit's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from minidiff.editing.inversion import Inversion
from minidiff.editing.result import EditResult, run_edit, source_of
from minidiff.errors import BadInput, check_choice, check_share, require
from minidiff.steer import Hook, Recorder, Site, StepContext, Trajectory
from minidiff.steer.attention import sites as attention_sites
from minidiff.steer.record import Select, choose

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["CopyModule", "CopyQK", "feature_layer", "later_sites", "plug_and_play"]

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def feature_layer(unet: nn.Module) -> str:
    """The path of the layer whose output is "the features f4" (section 4.1): in Stable Diffusion up_blocks.1.resnets.1.conv2.

    Found by place, not by number: the second residual block of stage (stages / 2) of the decoder, counted from 1 at the coarsest;
    its last convolution, before the block's own input is added.
    """
    require(hasattr(unet, "up_blocks"), "unet", type(unet).__name__, "a U-Net with up_blocks", "pipe.unet")
    block = max(len(unet.up_blocks) // 2 - 1, 0)
    return f"up_blocks.{block}.resnets.{min(1, len(unet.up_blocks[block].resnets) - 1)}.conv2"


def later_sites(unet: nn.Module, layer: str) -> tuple[str, ...]:
    """Names of the decoder's self-attention from ``layer`` (such as :func:`feature_layer`) to the end: layers 4 to 11 of the
    paper. Raises BadInput where the decoder has none."""
    parts = layer.split(".")
    good = len(parts) >= 4 and parts[0] == "up_blocks" and parts[1].isdigit() and parts[3].isdigit()
    require(good, "layer", repr(layer), "a path in the decoder", repr("up_blocks.1.resnets.1.conv2"))
    first = (int(parts[1]), int(parts[3]))

    def place(name: str) -> tuple[int, int]:
        path = name.split(".")
        return int(path[1]), int(path[3])

    decoder = [s.name for s in attention_sites(unet).values() if s.kind == "self" and s.place == "up"]
    found = tuple(name for name in decoder if place(name) >= first)
    if not found:
        raise BadInput("layer", repr(layer), "a layer with self-attention at or after it in the decoder")
    return found


class _FromSource(Hook):
    """Rows of the edit, of every text, taken from the source's row of ``text``, during the first ``until`` of the steps.

    compat="official": the authors' first code tests ``i <= threshold``, so one step more is held: 41 of 50 for 0.8.
    """

    def __init__(self, *, until: float, text: str = "prompt", source: str = "source", edit: str = "edit",
                 compat: str | None = None) -> None:
        check_share("until", until)
        check_choice("text", text, ("prompt", "empty"))
        if compat is not None:
            check_choice("compat", compat, ("official",))
        self.until, self.text, self.source, self.edit, self.compat = until, text, source, edit, compat

    def active(self, ctx: StepContext) -> bool:
        if self.compat:
            return ctx.index <= int(self.until * ctx.steps + 1e-9)
        return ctx.index < self.until * ctx.steps - 1e-9

    def _copied(self, ctx: StepContext, *tensors: Tensor) -> list[Tensor] | None:
        """The tensors with the edit's rows replaced; None in a call without the source's row, as of one branch or text alone."""
        rows = [ctx.of(*row) for row in ctx.rows if row.branch == self.edit]
        if not rows or not any(row.branch == self.source for row in ctx.rows):
            return None
        out = [x.clone() for x in tensors]
        theirs = ctx.of(self.source, self.text)
        for new, old in zip(out, tensors, strict=True):
            for mine in rows:
                new[mine] = old[theirs]
        return out


class CopyModule(_FromSource):
    """Feature injection (equation 5): the output of each of ``modules`` is, in the edit's rows, that of the source.

    A module must return one tensor; what a U-Net's block adds to it afterwards, its own input, remains the edit's. Raises
    BadInput where the module returns a tuple, as whole down blocks and transformer blocks do.
    """

    def __init__(self, modules: str | Sequence[str], *, until: float = 0.8, **options: Any) -> None:
        super().__init__(until=until, **options)
        self.modules = (modules,) if isinstance(modules, str) else tuple(modules)

    def on_module(self, path: str, out: Any, ctx: StepContext, inputs: Mapping[str, Any]) -> Tensor | None:
        require(isinstance(out, Tensor), "modules", f"{path!r}, which returns a {type(out).__name__}",
                "a module that returns one tensor", f"a part of it, such as '{path}.resnets.0.conv2'")
        new = self._copied(ctx, out)
        return None if new is None else new[0]


class CopyQK(_FromSource):
    """Self-attention injection (equation 6): queries and keys of the edit's rows are the source's, the values its own.

    The probabilities softmax(q k^T / sqrt(d)) are then the source's; copying q and k keeps the attention fused. sites: a function
    of Site, a name or names (``later_sites``); default: all self-attention of the decoder.
    """

    def __init__(self, sites: Select = lambda s: s.kind == "self" and s.place == "up", *, until: float = 1.0, **options: Any
                 ) -> None:
        super().__init__(until=until, **options)
        self.choose = choose(sites)

    def selects(self, site: Site) -> bool:
        chosen = self.choose(site)
        require(not chosen or site.kind == "self", "sites", f"the cross-attention {site.name}",
                "self-attention, whose keys are places; in cross-attention they are the words of the edit",
                'lambda s: s.kind == "self" and s.place == "up"')
        return chosen

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext, attention: Attention) -> Tensor | None:
        new = self._copied(ctx, q, k)
        return None if new is None else attention(*new, v)


def plug_and_play(pipe: StableDiffusionPipeline, source: str | Sequence[str], target: str | Sequence[str], *,
                  seed: int | None = None, image: Tensor | None = None, trajectory: Trajectory | None = None,
                  latents: Tensor | None = None, inversion: str | Inversion | None = None, feature_share: float = 0.8,
                  attention_share: float = 1.0, layer: str | None = None, sites: Select | None = None, text: str = "prompt",
                  negative: str = "", steps: int = 50, guidance: float = 4.0, maps: bool = False, compat: str | None = None
                  ) -> EditResult:
    """Draw ``target`` with the layout of the source (Tumanyan et al. 2023, algorithm 1).

    seed, image, trajectory, latents, inversion: where the source comes from, as in ``source_of``; the source row of a picture is
    held on its inversion. feature_share, attention_share: the shares of the steps, from the first on, in which the features and
    q, k are the source's (published: 0.8 and 0.5; with guidance 7.5 to 10). layer: whose features, :func:`feature_layer` if None;
    sites: which self-attention, :func:`later_sites` of that layer if None. text: "prompt" or "empty", the text of the source's
    row that is copied ("empty" in the published code; it needs a guidance that is not 1). compat="official": a share counts one
    step more.
    Both shares 0: plain sampling of the target from the source's noise.
    """
    begin = source_of(pipe, source, target, seed=seed, image=image, trajectory=trajectory, latents=latents, steps=steps,
                      inversion=inversion, guidance=guidance)
    check_choice("text", text, ("prompt", "empty"))
    require(text != "empty" or guidance != 1.0, "text", repr(text), "'prompt' at guidance 1, where no empty prompt runs")
    layer = feature_layer(pipe.unet) if layer is None else layer
    chosen = later_sites(pipe.unet, layer) if sites is None else sites
    common = {"text": text, "compat": compat}
    hooks: list[Hook] = [CopyModule(layer, until=feature_share, **common), CopyQK(chosen, until=attention_share, **common)]
    records = {branch: Recorder(branch=branch) for branch in ("source", "edit")} if maps else {}
    states = run_edit(pipe, begin, hooks=[*hooks, *records.values()], steps=steps, guidance=guidance, negative=negative)
    return EditResult.of(pipe, "Plug-and-Play", states, {"source": begin.prompts, "edit": begin.targets}, maps=records,
                         images=begin.images)
