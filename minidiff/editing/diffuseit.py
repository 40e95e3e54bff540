"""DiffuseIT (Kwon and Ye 2023): another look in the same layout, by losses on the predicted clean picture.

The source is noised, and drawn again with guidance: keys of a vision transformer hold where things are (``key_losses``), while a
prompt, a caption or a second picture says what they should be. In latents, P_t is decoded before it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.diffusion.sample import ddim_sigma, visits
from minidiff.editing.key_losses import (
    Contrast,
    Direction,
    Divergence,
    Features,
    PictureView,
    Range,
    Structure,
    Style,
    direction_target,
    range_loss,
)
from minidiff.editing.result import EditResult, decode_images
from minidiff.editing.sdedit import noised
from minidiff.errors import check_choice, check_pictures, require
from minidiff.latent.autoencoder import decode
from minidiff.latent.clip import embed_images, embed_texts
from minidiff.latent.pipeline import check_prompts, schedule_from, scheduler_options
from minidiff.latent.sample import denoise, text_to_image
from minidiff.rng import normal
from minidiff.steer import Energy, EpsGuidance, MeanGuidance, State, StepContext, Trajectory
from minidiff.steer.hooks import Latents

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["LOSSES", "PosteriorMean", "diffuseit", "diffuseit_energy", "renoise", "text_target"]

LOSSES = ("structure", "contrast", "style", "text", "divergence", "range")
SAMPLERS = ("ddim", "ddpm")


@torch.no_grad()
def text_target(clip: Any, source: str | Sequence[str], target: str | Sequence[str], images: Tensor, *,
                tokenizer: Any = None) -> Tensor:
    """(B, E): where two captions of each picture say that its pooled vector should go (:func:`direction_target`).

    clip: a ``transformers.CLIPModel``, the one that the features come from; source, target: one caption, or one a picture.
    """
    said = [check_prompts(text, argument=name) for name, text in (("source", source), ("target", target))]
    n = len(images)
    for name, texts in zip(("source", "target"), said, strict=True):
        require(len(texts) in (1, n), name, f"{len(texts)} captions", f"1 or {n}: one for each picture")
    e_source, e_target = (embed_texts(clip, texts * (n if len(texts) == 1 else 1), tokenizer) for texts in said)
    return direction_target(e_target, e_source, embed_images(clip, images))


def diffuseit_energy(view: PictureView, source: Features, losses: Mapping[str, float], *, like: Tensor | None = None,
                     toward: Tensor | None = None) -> Energy:
    """The weighted sum of the losses (eqs. 6 and 12). losses: name -> weight, names from LOSSES; source: features of the source.

    like: pooled vector (B, E) of the picture to look like, for "style"; toward: that of :func:`text_target`, for "text".
    """
    for name in losses:
        check_choice("losses", name, LOSSES)
    for name, value, call in (("style", like, "like=picture"), ("text", toward, "toward=text_target(clip, ...)")):
        require(name not in losses or value is not None, "losses", f"{name!r} without its target", f"{call} beside it", call)
    make: dict[str, Callable[[], Energy]] = {
        "structure": lambda: Structure(view, source.keys), "contrast": lambda: Contrast(view, source.keys),
        "style": lambda: Style(view, like), "text": lambda: Direction(view, toward),
        "divergence": lambda: Divergence(view, source.pooled), "range": lambda: Range(view)}
    parts = [make[name]() * weight for name, weight in losses.items()]
    require(bool(parts), "losses", "none", f"one of {', '.join(LOSSES)}", 'losses={"structure": 1.0}')
    return sum(parts[1:], parts[0])


class PosteriorMean(MeanGuidance):
    """The published form of the push: the mean of a DDPM step moves by -sigma^2 times the gradient (classifier guidance).

    With ``relative`` the gradient is first scaled as :class:`~minidiff.steer.EpsGuidance` scales it: sqrt(1 - abar) times it is a
    share of |eps|. For runs with eta = 1; nothing moves where sigma is 0, at the last step.
    """

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> None:
        push = self._push(self._gradient(pred, z, ctx), pred[self.branch].eps.detach())
        sigma = ddim_sigma(ctx.abar, ctx.abar_prev, 1.0)
        self._pending = sigma**2 / (1 - ctx.abar) ** 0.5 * push


def renoise(z: Tensor, noise: Tensor, *, abar: float, abar_prev: float) -> Tensor:
    """One forward step: latents at the level of abar_prev, noised to that of abar (smaller)."""
    left = abar / abar_prev
    return left**0.5 * z + (1 - left) ** 0.5 * noise


def diffuseit(
    pipe: StableDiffusionPipeline,
    source: str | Sequence[str],
    target: str | Sequence[str],
    *,
    features: Callable[[Tensor], Features],
    seed: int = 0,
    image: Tensor | None = None,
    latents: Tensor | None = None,
    like: Tensor | None = None,
    toward: Tensor | None = None,
    losses: Mapping[str, float] | None = None,
    strength: float = 1.0,
    steps: int = 20,
    guidance: float = 3.0,
    relative: float = 0.3,
    until: float = 0.5,
    sampler: str = "ddim",
    repeats: int = 8,
    restarts: int = 0,
    limit: float = 0.01,
    through_network: bool = True,
) -> EditResult:
    """Draw ``target`` in the layout of pictures, from noise at ``strength`` (1: nearly nothing of the picture is left in it).

    The source is ``image`` (B, 3, H, W) in [-1, 1], or what ``source`` draws from ``seed``. features: of ``clip_features``, or
    any function pictures -> :class:`Features`. losses: name -> weight (LOSSES; {"structure": 1.0} if None); "style" needs
    ``like``, pictures (B or 1, 3, H, W); "text" needs ``toward``. latents: the noise (B, C, h, w) in place of the seed's.

    relative: length of the push as a share of |eps|; until: the share of the steps that are pushed (a layout is decided early,
    and late pushes cost the edit its look). repeats: how often the first step, where the layout is decided, is undone by one
    forward step and done again. sampler: "ddim", the push goes into eps; "ddpm", eta = 1 and the mean moves, as published.
    target "" and guidance=1.0: the published form, without a prompt. restarts: how often at most a row is drawn again from new
    noise because its picture leaves [-1, 1] by more than ``limit`` (:func:`range_loss`); the published loop has no cap.
    through_network: see :class:`PictureView`. ``details``: "energy" (steps pushed, B), "tries" (B,), "range" (B,).
    """
    check_choice("sampler", sampler, SAMPLERS)
    for name, value in (("repeats", repeats), ("restarts", restarts)):
        require(isinstance(value, int) and value >= 0, name, value, "a whole number, 0 or more", f"{name}=0")
    prompts = check_prompts(source, argument="source")
    image = text_to_image(pipe, prompts, seed=seed, steps=steps, guidance=guidance) if image is None else image
    check_pictures("image", image)
    goals, n = check_prompts(target, argument="target"), len(image)
    for name, texts in (("source", prompts), ("target", goals)):
        require(len(texts) in (1, n), name, f"{len(texts)} prompts", f"1 or {n}: one for each picture")
    prompts, goals = (texts * n if len(texts) == 1 else texts for texts in (prompts, goals))
    with torch.no_grad():
        seen = features(image.to(pipe.device))
        look = None if like is None else features(like.to(pipe.device)).pooled.expand_as(seen.pooled)

    weights, many = {"structure": 1.0} if losses is None else losses, list(range(n))
    toward = None if toward is None else toward.expand_as(seen.pooled)

    def draw(rows: list[int], number: int) -> tuple[Trajectory, Tensor]:
        """The rows once: their ways and the energies of the steps. number: 0 for the first time, 1 and more for restarts."""
        some = image[rows]
        view = PictureView(features, lambda x: decode(pipe.vae, x), through_network=through_network)
        energy = diffuseit_energy(view, Features(seen.keys[rows], seen.pooled[rows]), weights,
                                  like=None if look is None else look[rows], toward=None if toward is None else toward[rows])
        push = (EpsGuidance if sampler == "ddim" else PosteriorMean)(energy, relative=relative, until=until)
        z, times = noised(pipe, some, strength=strength, steps=steps, noise=latents[rows] if number == 0 and latents is not None
                          else _noise(pipe, some, rows, seed, number, 0))
        require(bool(times), "strength", strength, f"enough for one of {steps} steps", "strength=1.0")

        def loop(z: Tensor) -> Iterator[State]:
            return denoise(pipe, [goals[i] for i in rows], latents=z, steps=times, guidance=guidance, hooks=[push], rows=rows,
                           eta=float(sampler == "ddpm"), seed=seed + number)

        first = visits(schedule_from(pipe.scheduler), times, final_alpha=scheduler_options(pipe)["final_alpha"])[0]
        for k in range(repeats):
            noise = _noise(pipe, some, rows, seed, number, 1 + k)
            z = renoise(next(loop(z)).x, noise, abar=first.abar, abar_prev=first.abar_prev)
        way = Trajectory.of(loop(z))
        return way, torch.stack([push.values[k] for k in sorted(push.values)])

    way, energy = draw(many, 0)
    tries, out = torch.ones(n, dtype=torch.long), _out_of_range(pipe, way)
    for number in range(1, restarts + 1):
        bad = [i for i in many if float(out[i]) > limit]
        if not bad:
            break
        again, values = draw(bad, number)
        tries[bad], far = number + 1, _out_of_range(pipe, again)
        better = [(k, i) for k, i in enumerate(bad) if float(far[k]) < float(out[i])]
        for k, i in better:
            way.latents[:, i], way.eps[:, i], energy[:, i], out[i] = again.latents[:, k], again.eps[:, k], values[:, k], far[k]
    return EditResult("DiffuseIT", {"source": image.detach().float().cpu(), "edit": decode_images(pipe, way.clean)},
                      {"source": prompts, "edit": goals}, {"edit": way}, details={"energy": energy, "tries": tries, "range": out})


def _noise(pipe: Any, images: Tensor, rows: list[int], *key: int) -> Tensor:
    """Noise like the latents of pictures; that of a row depends on its number and on the key only."""
    f = pipe.vae_scale_factor
    shape = (1, pipe.vae.config.latent_channels, images.shape[-2] // f, images.shape[-1] // f)
    return torch.cat([normal(shape, "diffuseit", *key, row) for row in rows]).to(pipe.device, pipe.unet.dtype)


@torch.no_grad()
def _out_of_range(pipe: Any, way: Trajectory) -> Tensor:
    """(B,): how far the finished pictures leave [-1, 1], on the CPU."""
    return range_loss(decode(pipe.vae, way.clean)).float().cpu()
