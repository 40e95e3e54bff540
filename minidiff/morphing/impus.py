"""IMPUS (Yang et al. 2024): both pictures in one fine-tuned model, and frames at equal perceptual steps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.diffusion import last, slerp
from minidiff.diffusion.predict import Prediction
from minidiff.errors import require
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.pipeline import denoiser, encode_prompt, scheduler_options
from minidiff.measure.path import Distance, equal_spacing, hops, rms
from minidiff.morphing.adapt import fit_pictures, invert_with, picture_loras
from minidiff.morphing.ends import MorphResult, Side, check_weights, picture_pair
from minidiff.morphing.uniform import lora_rank, relative_diversity, uniform_paths
from minidiff.personal.lora import LoRA
from minidiff.steer import run
from minidiff.steer.guiders import Guider

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["Impus", "RowCFG", "fit_embeddings", "fit_impus", "impus", "impus_guidance", "twin"]


def twin(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """The same pipeline with a U-Net of its own that shares every weight: an adapter on it is not on the other."""
    unet = pipe.unet
    other = copy.copy(pipe)
    other.unet = copy.deepcopy(unet, {id(p): p for p in (*unet.parameters(), *unet.buffers())})
    return other


def impus_guidance(w: Tensor, ends: float = 1.5, middle: float = 3.0) -> Tensor:
    """The weight of guidance along the way: ``ends`` at 0 and 1, ``middle`` at one half, straight between (IMPUS)."""
    return middle - (middle - ends) * 2 * (w - 0.5).abs()


class RowCFG(Guider):
    """Classifier-free guidance with a weight for each row: u + s_i (c - u), s (n,)."""

    texts = ("empty", "prompt")

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.view(-1, 1, 1, 1)

    def __call__(self, predictions: Any, ctx: Any = None) -> Prediction:
        u, c, s = predictions["empty"], predictions["prompt"], self.weight.to(predictions["prompt"].eps)
        return Prediction(u.x0 + s * (c.x0 - u.x0), u.eps + s * (c.eps - u.eps))


def fit_embeddings(pipe: StableDiffusionPipeline, z: Tensor, text: Tensor, *, iterations: int = 40, lr: float = 5e-3,
                   copies: int = 1, seed: int = 0) -> Tensor:
    """The whole output of the text encoder (n, L, D), fitted to each of n pictures from ``text`` on (IMPUS, section 3.1)."""
    e = text.clone().requires_grad_()
    for _ in fit_pictures(pipe, z, e, [e], iterations=iterations, lr=lr, copies=copies, seed=seed):
        pass
    return e.detach()


@dataclass(frozen=True, eq=False)
class Impus:
    """What was fitted to B pairs. noise, text: of the first and of the other pictures, (B, C, h, w) and (B, L, D) each; prompt,
    empty: pipelines with U-Nets of their own, for the two texts of guidance; loras: of each pair, detached, for either of them,
    or none."""

    noise: tuple[Tensor, Tensor]
    text: tuple[Tensor, Tensor]
    prompt: StableDiffusionPipeline
    empty: StableDiffusionPipeline
    loras: tuple[Sequence[LoRA], Sequence[LoRA]] = ((), ())

    @torch.no_grad()
    def latents(self, pairs: Sequence[int], weights: Sequence[float], *, guidance: tuple[float, float] = (1.5, 3.0),
                steps: int = 12) -> Tensor:
        """Clean latents (m, C, h, w), row j at ``weights[j]`` between the ends of pair ``pairs[j]``: slerp of the noise, lerp
        of the embeddings, and guidance between two networks, each with its own adapter. guidance: at the ends, in the middle."""
        rows, w = list(pairs), torch.tensor(list(weights), dtype=torch.float64)
        require(len(rows) == len(w) > 0, "weights", len(w), f"{len(rows)}: one for each of the pairs")
        a, b = (x[rows] for x in self.noise)
        z = slerp(a, b, w.to(a))
        z = torch.where((w == 0).view(-1, 1, 1, 1), a, torch.where((w == 1).view(-1, 1, 1, 1), b, z))
        s, t = w.to(a).view(-1, 1, 1), tuple(x[rows] for x in self.text)
        text = (1 - s) * t[0] + s * t[1]
        models = {"prompt": denoiser(self.prompt), "empty": denoiser(self.empty)}
        texts = {"prompt": text, "empty": encode_prompt(self.empty, "")}
        used = [lora for some in self.loras for lora in some]
        try:
            for some in self.loras:
                for k, lora in enumerate(some):
                    if k in rows:
                        lora.rows = [j for j, r in enumerate(rows) if r == k]
                        lora.attach()
            guider = RowCFG(impus_guidance(w, *guidance))
            return last(run(models, z, texts, steps=steps, guider=guider, **scheduler_options(self.prompt))).x
        finally:
            for lora in used:
                lora.detach()

    def frames(self, pairs: Sequence[int], weights: Sequence[float], *, chunk: int = 8, **options: Any) -> Tensor:
        """:meth:`latents` as pictures (m, 3, H, W) in [-1, 1], float32 on the CPU."""
        parts = [slice(i, i + chunk) for i in range(0, len(pairs), chunk)]
        made = [decode(self.prompt.vae, self.latents(pairs[p], weights[p], **options)) for p in parts]
        return torch.cat(made).clamp(-1, 1).float().cpu()


def fit_impus(pipe: StableDiffusionPipeline, first: Tensor, other: Tensor, prompts: tuple[Any, Any] | None = None, *,
              embeddings: int = 40, rank: int | None = 8, iterations: int = 40, unconditional: int = 15, lr: float = 2e-3,
              distance: Distance = rms, rank_rule: tuple[float, float] = (18.0, 6.0), steps: int = 12, seed: int = 0,
              fixed_point: int = 1) -> Impus:
    """Fit IMPUS to B pairs of pictures (Yang et al. 2024), in the order of the released code.

    embeddings, iterations, unconditional: steps of the three fits; 0 leaves one out. (1) The embedding of each picture, from its
    prompt on. (2, 3) rank None: the pictures are inverted, a path of ten hops is drawn, and :func:`lora_rank` of its
    :func:`relative_diversity` by ``distance`` is the rank; ``rank_rule``: its slope and start. (4) An adapter of attention
    for both pictures of a pair, embeddings fixed. (5) An adapter of rank 2 for the empty prompt on a second U-Net, so that
    guidance subtracts a model that knows the pictures too. (6) Inversion at w = 1 with the first adapter.
    """
    images, said = picture_pair(first, other, prompts)
    conditional, empty = twin(pipe), twin(pipe)
    with torch.no_grad():
        za, zb = (encode(pipe.vae, x.to(pipe.device, pipe.vae.dtype)) for x in images)
    z = torch.stack([za, zb], 1).flatten(0, 1)                                     # the two pictures of a pair side by side
    text = torch.stack([encode_prompt(pipe, p) for p in said], 1).flatten(0, 1)
    if embeddings:
        text = fit_embeddings(conditional, z, text, iterations=embeddings, seed=seed)
    texts = (text[::2], text[1::2])

    def noise(loras: Sequence[LoRA] = ()) -> tuple[Tensor, Tensor]:
        x = invert_with(conditional, z, text, loras, steps=steps, fixed_point=fixed_point)
        return x[::2], x[1::2]

    ranks: int | list[int] = 1 if rank is None else rank
    if rank is None and iterations:
        plain, ranks = Impus(noise(), texts, conditional, empty), []
        for k in range(len(za)):
            path = plain.frames([k] * 11, [j / 10 for j in range(11)], steps=steps)
            ranks.append(lora_rank(relative_diversity(path, distance), slope=rank_rule[0], start=rank_rule[1]))
    options = {"lr": lr, "seed": seed, "share": 2}
    both, free = (), ()
    if iterations:
        both = picture_loras(conditional, z, text, rank=ranks, iterations=iterations, **options)
    if unconditional:
        nothing = encode_prompt(pipe, "").expand(len(z), -1, -1)
        free = picture_loras(empty, z, nothing, rank=2, iterations=unconditional, **options)
    return Impus(noise(both), texts, conditional, empty, (both, free))


def impus(pipe: StableDiffusionPipeline, first: Side, other: Side, prompts: tuple[Any, Any] | None = None, *,
          weights: int | Sequence[float] = 9, spacing: bool = True, tol: float = 0.05, distance: Distance = rms,
          guidance: float | tuple[float, float] | None = None, steps: int = 12, embeddings: int = 40, rank: int | None = 8,
          iterations: int = 40, unconditional: int = 15, lr: float = 2e-3, seed: int = 0,
          fit: Impus | None = None) -> MorphResult:
    """A morph by IMPUS (Yang et al. 2024) between pictures (B, 3, H, W) or (3, H, W) in [-1, 1].

    prompts: what both show; one common prompt in the paper. embeddings to seed: of :func:`fit_impus`; fit: what it gave before.
    guidance: at the ends and in the middle, (1.5, 3.0) if None; one number for both. spacing: the frames at ``weights`` are only
    the first look; their path's length by ``distance``, shared out over as many hops, is the delta of :func:`uniform_paths`, and
    of all that it drew as many frames at equal hops are taken. The paper's paths have as many frames as delta makes; they are in
    ``result.details["paths"]``, weight -> frame for each pair.
    """
    weights = check_weights(weights)
    require(isinstance(first, Tensor) and isinstance(other, Tensor), "first, other", type(first).__name__,
            "two pictures: it fits the model to them", "text_to_image(pipe, prompts) draws them")
    both_ends = len(weights) >= 3 and weights[0] == 0 and weights[-1] == 1
    require(both_ends or not spacing, "weights", weights, "both ends and a frame between", "weights=9, or spacing=False")
    require(0 < tol < 1, "tol", tol, "a share of a hop, above 0 and below 1", "tol=0.05")
    _, said = picture_pair(first, other, prompts)
    at = guidance if isinstance(guidance, tuple) else (1.5, 3.0) if guidance is None else (guidance, guidance)
    fit = fit or fit_impus(pipe, first, other, prompts, embeddings=embeddings, rank=rank, iterations=iterations,
                           unconditional=unconditional, lr=lr, distance=distance, steps=steps, seed=seed)
    n, m = len(said[0]), len(weights)

    def draw(rows: Sequence[int], where: Sequence[float]) -> Tensor:
        return fit.frames(rows, where, guidance=at, steps=steps)

    frames = draw([k for k in range(n) for _ in weights], list(weights) * n).unflatten(0, (n, m))
    where, paths = [weights] * n, []
    if spacing:
        known = [dict(zip(weights, x, strict=True)) for x in frames]
        lengths = hops(frames, distance).sum(1)
        found = uniform_paths(draw, known, distance, [float(x) / (m - 1) for x in lengths], tol=tol)
        paths = [{w: k[w] for w in path} for k, path in zip(known, found, strict=True)]
        order = [sorted(k) for k in known]
        steps_ = [hops(torch.stack([k[w] for w in o]), distance) for k, o in zip(known, order, strict=True)]
        where = [tuple(map(float, equal_spacing(o, s, m)[0])) for o, s in zip(order, steps_, strict=True)]
        frames = draw([k for k in range(n) for _ in weights], [w for row in where for w in row]).unflatten(0, (n, m))
    return MorphResult("IMPUS", frames, weights, said, {"weights": where, "paths": paths, "fit": fit})
