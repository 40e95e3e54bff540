"""Pix2Pix-Zero (Parmar et al. 2023): an edit without a target prompt.

A direction in text-embedding space, from two banks of sentences, is added to the source's embedding (section 3.2); while the
edited picture is drawn, the latent is moved so that its cross-attention maps stay those of the source (section 3.3). Inversion is
regularised so that the noise looks like noise (section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.editing.result import EditResult, decode_images, source_of
from minidiff.errors import check_choice, require
from minidiff.latent.pipeline import check_prompts, denoiser, encode_prompt, scheduler_options, whole
from minidiff.latent.text import token_indices
from minidiff.rng import generator
from minidiff.steer.attention import Site
from minidiff.steer.energy import Energy, EnergyState, LatentGuidance
from minidiff.steer.guiders import CFG
from minidiff.steer.hooks import Hook, Latents, Predict, StepContext
from minidiff.steer.loop import run
from minidiff.steer.record import Maps, Recorder, Select, Trajectory

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["MapDistance", "NoiseRegularizer", "auto_correlation", "edit_direction", "kl_to_normal", "pix2pix_zero"]

DUST = 1e-4  # map differences below this are rounding (1e-5 was met): a relative step would make as much of them as of a wish


# The direction -------------------------------------------------------------------------------------------------------------


def edit_direction(pipe: StableDiffusionPipeline, source: Sequence[str], target: Sequence[str], *,
                   words: tuple[str, str] | None = None, prompt: str | None = None) -> Tensor:
    """Mean embedding of the target sentences minus that of the source sentences: (1, L, D) (section 3.2).

    Without ``words`` the banks are averaged position by position, as published: right only where all sentences put the word at
    the same place, else it is smeared over positions. words: (the source's word, the target's); each is then averaged at its own
    tokens, and the difference stands where the source's word stands in ``prompt``, zero elsewhere.
    """
    banks = [encode_prompt(pipe, check_prompts(bank, argument=name)) for name, bank in (("source", source), ("target", target))]
    if words is None:
        require(prompt is None, "prompt", repr(prompt), "a prompt only beside words", 'words=("cat", "dog")')
        return banks[1].mean(0, keepdim=True) - banks[0].mean(0, keepdim=True)
    require(isinstance(prompt, str), "prompt", repr(prompt), "the prompt to be edited", 'prompt="a red cat on the grass"')
    means = []
    for bank, texts, word in zip(banks, (source, target), words, strict=True):
        rows = [row[token_indices(pipe.tokenizer, text, word)[0]].mean(0) for row, text in zip(bank, texts, strict=True)]
        means.append(torch.stack(rows).mean(0))
    out = torch.zeros_like(banks[0][:1])
    out[:, token_indices(pipe.tokenizer, prompt, words[0])[0]] = means[1] - means[0]
    return out


# Cross-attention guidance ----------------------------------------------------------------------------------------------------


class MapDistance(Energy):
    """Sum over sites, mean over heads, of |A - A_ref|^2 over places and tokens (eq. 4): (B,). like: the source run's record."""

    def __init__(self, like: Recorder, *, sites: Select = lambda site: site.kind == "cross") -> None:
        super().__init__(sites=sites)
        self.like = like

    def __call__(self, maps: Maps, state: EnergyState) -> Tensor:
        before = self.like.at(state.ctx.index)
        apart = {name: F.relu((a - before.probs[name].to(a)).abs() - DUST) for name, a in maps.probs.items()}
        parts = [d.square().sum((2, 3)).mean(1) for d in apart.values()]
        return torch.stack(parts).sum(0)


class _PublishedRows(Hook):
    """compat="official": both published codes move a copy of the latent for each row of the guided batch and go on from row 0.

    So the *empty* prompt's maps pull the latent that goes on, and the prompt's copy serves this step's prediction only. At the
    first step the empty row's maps are those of the reference, and the latent does not move at all.
    """

    def __init__(self, energies: dict[str, Energy], weight: float, *, branch: str = "source", **options: Any) -> None:
        self.rows = {text: LatentGuidance(e, text=text, branch=branch, **options) for text, e in energies.items()}
        self.weight, self.branch, self.values = weight, branch, self.rows["prompt"].values

    def selects(self, site: Site) -> bool:
        return any(row.selects(site) for row in self.rows.values())

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> None:
        for row in self.rows.values():
            row.on_probs(site, probs, ctx)

    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> Latents:
        at = {text: row.before_step(z, ctx, predict)[self.branch] for text, row in self.rows.items()}
        with torch.no_grad():
            eps = {text: predict({self.branch: x}, text)[self.branch].eps for text, x in at.items()}
        self.eps = eps["empty"] + self.weight * (eps["prompt"] - eps["empty"])
        return {self.branch: at["empty"]}

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> dict[str, Prediction]:
        x0 = (z[self.branch].detach() - (1 - ctx.abar) ** 0.5 * self.eps) / ctx.abar**0.5
        return {self.branch: Prediction(x0, self.eps)}


def pix2pix_zero(
    pipe: StableDiffusionPipeline,
    source: str | Sequence[str],
    direction: Tensor,
    *,
    seed: int | None = None,
    image: Tensor | None = None,
    trajectory: Trajectory | None = None,
    latents: Tensor | None = None,
    negative: str | Sequence[str] = "",
    steps: int = 25,
    guidance: float = 5.0,
    relative: float = 0.04,
    scale: float | None = None,
    sites: Select = lambda site: site.kind == "cross",
    compat: str | None = None,
) -> EditResult:
    """Edit by adding ``direction`` (B or 1, L, D), of :func:`edit_direction`, to the embedding of ``source``.

    The source is the plain run of its prompt from ``seed`` (or ``latents``), or from the noise of a picture or of a trajectory of
    ``invert_image(..., hooks=[NoiseRegularizer()])``; for real pictures ``negative`` is usually the source prompt. relative: how
    far a step moves the latent, as a share of its length; scale: the published step size in place of it, in units of one
    architecture (their loss is a sum over places and sites). compat="official": the two-row update of the published code.
    About three times the cost of plain sampling. ``details["energy"]``: (steps, B).
    """
    if compat is not None:
        check_choice("compat", compat, ("official",))
    start = source_of(pipe, source, source, seed=seed, image=image, trajectory=trajectory, steps=steps)
    noise, prompts = start.noise if latents is None else latents, start.prompts
    said, empty = encode_prompt(pipe, prompts), encode_prompt(pipe, negative)
    good = isinstance(direction, Tensor) and direction.ndim == 3 and direction.shape[1:] == said.shape[1:]
    require(good and len(direction) in (1, len(prompts)), "direction", getattr(direction, "shape", type(direction).__name__),
            f"shape (1 or {len(prompts)}, {said.shape[1]}, {said.shape[2]})", "edit_direction(pipe, cats, dogs)")
    records = {"prompt": Recorder(sites)} | ({"empty": Recorder(sites, text="empty")} if compat else {})
    options = {"steps": steps, "guider": CFG(guidance), **scheduler_options(pipe)}
    first = list(run(denoiser(pipe), noise, {"prompt": said, "empty": empty}, hooks=list(records.values()), **options))
    energies, how = {text: MapDistance(record, sites=sites) for text, record in records.items()}, (
        {"relative": relative} if scale is None else {"scale": scale})
    push = LatentGuidance(energies["prompt"], **how) if compat is None else _PublishedRows(energies, guidance, **how)
    after = Recorder(sites)
    texts = {"prompt": said + direction.to(said), "empty": empty}
    second = list(run(denoiser(pipe), noise, texts, hooks=[push, after], **options))
    ways = {"source": Trajectory.of(first), "edit": Trajectory.of(second)}
    images = {branch: decode_images(pipe, way.clean) for branch, way in ways.items()}
    if start.images is not None:
        images["source"] = start.images
    return EditResult("Pix2Pix-Zero", images, {"source": list(prompts), "edit": [f"{p} + direction" for p in prompts]}, ways,
                      {"source": records["prompt"], "edit": after},
                      {"energy": torch.stack([push.values[k] for k in sorted(push.values)])})


# The noise of an inversion -----------------------------------------------------------------------------------------------------


def auto_correlation(noise: Tensor, shifts: Sequence[tuple[int, int]]) -> Tensor:
    """How much a noise (B, C, h, w) resembles itself shifted: (B,) (eq. 2). shifts: (down, right) for each level of a pyramid.

    Per level and channel the squared mean products with the noise rolled down and rolled to the right; then averaged 2 x 2.
    """
    total = noise.new_zeros(len(noise))
    for down, right in shifts:
        for d, axis in ((down, 2), (right, 3)):
            total = total + (noise * noise.roll(d, axis)).mean((2, 3)).square().sum(1)
        noise = F.avg_pool2d(noise, 2)
    return total


def kl_to_normal(noise: Tensor) -> Tensor:
    """var + mean^2 - 1 - log var of each row (B,): twice the divergence from N(0, 1), 0 where mean is 0 and variance 1."""
    mean, var = noise.flatten(1).mean(1), noise.flatten(1).var(1, unbiased=False)
    return var + mean.square() - 1 - torch.log(var + 1e-7)


class NoiseRegularizer(Hook):
    """For ``invert_image``: each step's predicted noise is made more like white noise (section 3.1).

    rounds x { ``correlations`` small steps down the auto-correlation, one down the divergence from N(0, 1) }, weights 20 and 20
    as published. Shifts are drawn anew for each, from 1 to half the side; compat="diffusers" draws from 0 on as diffusers does:
    a shift of 0 gives the variance itself, which is then pushed towards 0.
    """

    def __init__(self, *, weight: float = 20.0, kl: float = 20.0, rounds: int = 5, correlations: int = 5, branch: str = "source",
                 seed: int = 0, compat: str | None = None) -> None:
        if compat is not None:
            check_choice("compat", compat, ("diffusers",))
        self.weight, self.kl = weight, kl
        self.rounds, self.correlations = whole("rounds", rounds, 0), whole("correlations", correlations, 0)
        self.branch, self.seed, self.least = branch, seed, 1 if compat is None else 0

    def shifts(self, side: tuple[int, int], *key: int) -> list[tuple[int, int]]:
        """A (down, right) for each level: the side halves until it is 8 or less."""
        rng, out, (h, w) = generator("noise regularizer", self.seed, *key), [], side
        while True:
            out.append(tuple(int(torch.randint(self.least, max(n // 2, 2), (1,), generator=rng)) for n in (h, w)))
            if min(h, w) <= 8:
                return out
            h, w = h // 2, w // 2

    @torch.enable_grad()
    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> dict[str, Prediction]:
        p = pred[self.branch]
        eps = p.eps.detach()
        for k in range(self.rounds):
            for j in range(self.correlations):
                leaf = eps.requires_grad_()
                loss = auto_correlation(leaf, self.shifts(tuple(leaf.shape[-2:]), ctx.index, k, j)).sum()
                eps = (leaf - self.weight / self.correlations * torch.autograd.grad(loss, leaf)[0]).detach()
            leaf = eps.requires_grad_()
            eps = (leaf - self.kl * torch.autograd.grad(kl_to_normal(leaf).sum(), leaf)[0]).detach()
        return {self.branch: Prediction(p.x0, eps)}  # an inversion works x0 out again from eps
