"""Prompt-to-Prompt (Hertz et al. 2022): an edit of the prompt keeps the picture by keeping its attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.editing.inversion import Inversion
from minidiff.editing.result import EditResult, run_edit, source_of
from minidiff.editing.words import refine_mapper, replace_mapper, word_values
from minidiff.errors import check_choice, check_share, require
from minidiff.latent.pipeline import whole
from minidiff.latent.text import word_tokens
from minidiff.steer import Hook, Recorder, Site, StepContext, Trajectory
from minidiff.steer.hooks import Latents
from minidiff.steer.record import shape_of

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["LocalBlend", "Refine", "Replace", "Reweight", "SelfCopy", "coarse_level", "prompt_to_prompt"]


class Replace(Hook):
    """Word swap: in cross-attention, A_edit <- A_source @ M, during the first ``until`` of the steps.

    mapper: M (L, L) or one a row (n, L, L), of :func:`~minidiff.editing.replace_mapper`; until: a share of the steps, or one a
    token of the edited prompt, (L,) or (n, L). The source's rows, the empty prompt and all other sites are left alone.
    """

    def __init__(self, mapper: Tensor, *, until: float | Tensor = 0.8, source: str = "source", edit: str = "edit") -> None:
        require(isinstance(mapper, Tensor) and mapper.ndim in (2, 3), "mapper", getattr(mapper, "shape", type(mapper).__name__),
                "a tensor (L, L) or (n, L, L)", "replace_mapper(pipe.tokenizer, source, target)")
        self.mapper, self.source, self.edit = mapper.reshape(-1, 1, *mapper.shape[-2:]), source, edit
        self.until = torch.as_tensor(until, dtype=torch.float64).reshape(-1, 1, 1, 1 if isinstance(until, (int, float)) else
                                                                         until.shape[-1])
        require(bool(((self.until >= 0) & (self.until <= 1)).all()), "until", until, "shares of the steps in [0, 1]")

    def active(self, ctx: StepContext) -> bool:
        return ctx.progress < float(self.until.max())

    def selects(self, site: Site) -> bool:
        return site.kind == "cross"

    def edited(self, source: Tensor, edit: Tensor) -> Tensor:
        """The new attention (n, heads, N, L) from that of both branches."""
        return source @ self.mapper.to(source)

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> Tensor | None:
        if not (ctx.has(self.source) and ctx.has(self.edit)):
            return None
        mine = ctx.of(self.edit)
        new = self.edited(probs[ctx.of(self.source)], probs[mine])
        return _with(probs, mine, torch.where(ctx.progress < self.until.to(probs.device), new, probs[mine]))


class Refine(Replace):
    """Words added or changed: A_edit <- A_source @ M + A_edit * new; both of :func:`~minidiff.editing.refine_mapper`.

    Rows need not sum to 1 (lost words take their share away, new words add theirs), as in the paper.
    """

    def __init__(self, mapper: Tensor, new: Tensor, **options: object) -> None:
        super().__init__(mapper, **options)
        self.new = new.reshape(-1, 1, 1, new.shape[-1])

    def edited(self, source: Tensor, edit: Tensor) -> Tensor:
        return source @ self.mapper.to(source) + edit * self.new.to(edit)


class Reweight(Hook):
    """A_edit <- A_edit * c in cross-attention: a word's fader. Rows are not renormalised; c may be negative.

    weights: c (L,) or (n, L), of :func:`~minidiff.editing.word_values`. After a Replace in the list of hooks it scales the
    source's attention; alone, with edit="source", it works in any run.
    """

    def __init__(self, weights: Tensor, *, until: float = 1.0, edit: str = "edit") -> None:
        require(isinstance(weights, Tensor) and weights.ndim in (1, 2), "weights",
                getattr(weights, "shape", type(weights).__name__), "a tensor (L,) or (n, L)",
                'word_values(pipe.tokenizer, prompt, {"cat": 2.0})')
        check_share("until", until)
        self.weights, self.until, self.edit = weights.reshape(-1, 1, 1, weights.shape[-1]), until, edit

    def active(self, ctx: StepContext) -> bool:
        return ctx.progress < self.until

    def selects(self, site: Site) -> bool:
        return site.kind == "cross"

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> Tensor | None:
        if not ctx.has(self.edit):
            return None
        mine = ctx.of(self.edit)
        return _with(probs, mine, probs[mine] * self.weights.to(probs))


class SelfCopy(Hook):
    """The source's self-attention for the edit during the first ``until`` of the steps, at sites of ``level`` and coarser.

    Level 0 is the finest; see :func:`coarse_level` for what the paper's "at most 16 x 16" means in a network of another size.
    The probabilities softmax(q k^T / sqrt(d)) are functions of queries and keys alone: with the source's, they are the source's,
    and the attention stays fused.
    """

    def __init__(self, *, until: float = 0.4, level: int = 0, source: str = "source", edit: str = "edit") -> None:
        check_share("until", until)
        self.until, self.level, self.source, self.edit = until, whole("level", level, 0), source, edit

    def active(self, ctx: StepContext) -> bool:
        return ctx.progress < self.until

    def selects(self, site: Site) -> bool:
        return site.kind == "self" and site.level >= self.level

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext,
               attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor | None:
        if not (ctx.has(self.source) and ctx.has(self.edit)):
            return None
        mine, theirs = ctx.of(self.edit), ctx.of(self.source)
        return attention(_with(q, mine, q[theirs]), _with(k, mine, k[theirs]), v)


class LocalBlend(Hook):
    """After each step the edit is kept only where some word is looked at: z_edit <- z_source + m (z_edit - z_source).

    tokens: branch -> weights of the tokens, (L,) or (n, L), whose maps are added up. m: the maps of the decoder's cross-
    attention at ``level``, summed over all steps so far, 3 x 3 max-pooled, divided by their maximum, >= threshold; the union
    of both branches. start: the share of the steps that only gather. Put it after the hooks that change attention. ``mask`` is
    the last m.
    """

    def __init__(self, tokens: Mapping[str, Tensor], *, threshold: float = 0.3, start: float = 0.2, level: int = 0,
                 source: str = "source", edit: str = "edit") -> None:
        require(set(tokens) == {source, edit}, "tokens", ", ".join(tokens), f"weights for {source!r} and {edit!r}")
        check_share("start", start)
        self.tokens = {branch: w.reshape(-1, 1, w.shape[-1], 1) for branch, w in tokens.items()}
        self.threshold, self.start, self.level = threshold, start, whole("level", level, 0)
        self.source, self.edit = source, edit
        self.total: dict[str, Tensor] = {}
        self.mask: Tensor | None = None

    def selects(self, site: Site) -> bool:
        return site.kind == "cross" and site.place == "up" and site.level == self.level

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> None:
        for branch, weights in self.tokens.items():
            if ctx.has(branch):
                seen = (probs[ctx.of(branch)] @ weights.to(probs)).mean(1)[..., 0]
                self.total[branch] = self.total.get(branch, 0) + seen

    def before_step(self, z: Latents, ctx: StepContext, predict: object) -> None:
        if ctx.index == 0:
            self.total.clear()

    def after_step(self, z: Latents, ctx: StepContext) -> Latents | None:
        if ctx.progress < self.start:
            return None
        masks = [self._region(total.detach(), ctx) for total in self.total.values()]
        self.mask = torch.stack(masks).any(0)
        return {self.edit: torch.where(self.mask, z[self.edit], z[self.source])}

    def _region(self, total: Tensor, ctx: StepContext) -> Tensor:
        """(n, 1, h, w) bool on the latent's grid."""
        maps = total.unflatten(1, shape_of(total.shape[1], ctx.grid))[:, None]
        maps = F.interpolate(F.max_pool2d(maps, 3, 1, 1), size=ctx.grid, mode="nearest")
        return maps >= self.threshold * maps.amax((2, 3), keepdim=True)


def _with(values: Tensor, where: slice, new: Tensor) -> Tensor:
    out = values.clone()
    out[where] = new
    return out


def coarse_level(pipe: StableDiffusionPipeline) -> int:
    """The finest level of the two coarsest: 16 x 16 and 8 x 8 in Stable Diffusion at 512 pixels, and in mini-sd.

    The published rule, at most 16 x 16 places, is a quarter of Stable Diffusion's latent; a quarter of a 16 x 16 latent is no
    site at all.
    """
    return max(0, len(pipe.unet.config.block_out_channels) - 2)


def prompt_to_prompt(pipe: StableDiffusionPipeline, source: str | Sequence[str], target: str | Sequence[str], *,
                     seed: int | None = None, image: Tensor | None = None, trajectory: Trajectory | None = None,
                     latents: Tensor | None = None, steps: int = 25, guidance: float = 4.0, edit: str = "auto",
                     cross: float | Mapping[str, float] = 0.8, self_attention: float = 0.4,
                     weights: Mapping[str, float] | None = None, blend: str | Sequence[str] | None = None,
                     threshold: float = 0.3, maps: bool = True, size: int | tuple[int, int] | None = None,
                     inversion: str | Inversion | None = None) -> EditResult:
    """Edit by changing the prompt: ``prompt_to_prompt(pipe, "a red cat", "a blue cat", seed=0)``.

    The source: a seed, noise, pictures (B, 3, H, W), or a trajectory of ``invert_image``; the latter two are held on their way,
    so that the source comes back whatever the guidance (direct inversion), unless ``inversion`` names another of INVERSIONS
    for the pictures, or is an Inversion that is there already. edit: "replace" (as many words in both prompts),
    "refine", or "auto": replace where the numbers of words agree. cross: share of the steps in which cross-attention is the
    source's, or {"default": .8, "lion": .4} by words of the target; self_attention: the same for self-attention at the coarse
    sites. weights: word of the target -> factor on its attention, in all steps. blend: words ("cat", "cat dog"), or one such
    string a picture; only where they are looked at, in either prompt, may the picture change (``threshold`` of the maximum).
    maps: keep the cross-attention of both branches.
    """
    check_choice("edit", edit, ("auto", "replace", "refine"))
    begin = source_of(pipe, source, target, seed=seed, image=image, trajectory=trajectory, latents=latents, steps=steps,
                      size=size, inversion=inversion, guidance=guidance)
    pairs, tokenizer = list(zip(begin.prompts, begin.targets, strict=True)), pipe.tokenizer
    same = all(len(word_tokens(tokenizer, a)) == len(word_tokens(tokenizer, b)) for a, b in pairs)
    if isinstance(cross, Mapping):
        table, default = {w: v for w, v in cross.items() if w != "default"}, cross.get("default", 0.8)
        until: float | Tensor = torch.stack([word_values(tokenizer, b, table, default) for _, b in pairs])
    else:
        until = float(cross)
    if edit == "replace" or (edit == "auto" and same):
        hooks: list[Hook] = [Replace(torch.stack([replace_mapper(tokenizer, a, b) for a, b in pairs]), until=until)]
    else:
        mappers, new = zip(*(refine_mapper(tokenizer, a, b) for a, b in pairs), strict=True)
        hooks = [Refine(torch.stack(mappers), torch.stack(new), until=until)]
    if weights:
        hooks.append(Reweight(torch.stack([word_values(tokenizer, b, weights) for _, b in pairs])))
    hooks.append(SelfCopy(until=self_attention, level=coarse_level(pipe)))
    if blend is not None:
        hooks.append(LocalBlend(_looked_at(pipe, pairs, blend), threshold=threshold, level=coarse_level(pipe)))
    recorders = {b: Recorder(branch=b) for b in ("source", "edit")} if maps else {}
    states = list(run_edit(pipe, begin, hooks=[*hooks, *recorders.values()], steps=steps, guidance=guidance))
    return EditResult.of(pipe, "Prompt-to-Prompt", states, {"source": begin.prompts, "edit": begin.targets}, maps=recorders,
                         images=begin.images, details={"mask": hooks[-1].mask} if blend is not None else {})


def _looked_at(pipe: StableDiffusionPipeline, pairs: list[tuple[str, str]], blend: str | Sequence[str]) -> dict[str, Tensor]:
    """1 at the tokens of the words, in each prompt those that it has; a row in which a prompt has none is refused."""
    out: dict[str, list[Tensor]] = {"source": [], "edit": []}
    rows = [blend] * len(pairs) if isinstance(blend, str) else list(blend)
    require(len(rows) == len(pairs), "blend", f"{len(rows)} strings", f"one, or {len(pairs)}: one for each picture",
            'blend="cat"')
    for pair, words in zip(pairs, rows, strict=True):
        for branch, prompt in zip(out, pair, strict=True):
            here = {word for word, _ in word_tokens(pipe.tokenizer, prompt)} & set(words.split())
            require(bool(here), "blend", repr(words), f"a word of {prompt!r}")
            out[branch].append(word_values(pipe.tokenizer, prompt, dict.fromkeys(here, 1.0), 0.0))
    return {branch: torch.stack(rows) for branch, rows in out.items()}
