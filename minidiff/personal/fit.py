"""One loop for all of personalisation: the diffusion loss on a few pictures; the methods differ in what is free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion import Eps, Schedule, V, simple_loss
from minidiff.errors import check_choice, check_pictures, checks_first, require
from minidiff.personal.words import FreeRows, encode_words
from minidiff.rng import generator, normal

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["TEMPLATES", "Examples", "Progress", "denoising_loss", "draw_t", "examples", "fit", "only_free", "pictures"]

# words around the new one, where no caption says what else is in the picture
TEMPLATES = ("a {}", "the {}", "a picture of a {}", "an image of a {}", "a drawing of a {}")


@dataclass(frozen=True)
class Examples:
    """Pictures as latents (N, C, h, w) with the prompts that each may be shown with; weight: of their loss."""

    latents: Tensor
    prompts: list[list[str]]
    weight: float = 1.0

    def batch(self, n: int, seed: int, i: int) -> tuple[Tensor, list[str]]:
        """Batch i: n pictures in turn, in an order and with prompts that are a pure function of (seed, i)."""
        where = generator("personal", seed, i)
        order = torch.randperm(len(self.latents), generator=where).repeat(-(-n // len(self.latents)))[:n].tolist()
        pick = torch.rand(n, generator=where).tolist()
        said = [self.prompts[j][int(p * len(self.prompts[j]))] for j, p in zip(order, pick, strict=True)]
        return self.latents[order], said


class Progress(NamedTuple):
    """After a step: its number from 1, how many there are, and the mean loss of the batch (B,) it was made from."""

    iteration: int
    iterations: int
    loss: float


@torch.no_grad()
def examples(pipe: StableDiffusionPipeline, images: Tensor, *, word: str, captions: Sequence[str] | None = None,
             weight: float = 1.0) -> Examples:
    """Pictures (N, 3, H, W) in [-1, 1] as :class:`Examples`. word: what stands in the templates, "<mine>" or "<mine> bear".

    captions: one for each picture, with "{}" where the word goes ("a {} on the grass"); the templates if left out.
    """
    check_plan(images, captions, iterations=1, batch=1)
    parts = [pipe.vae.encode(part.to(pipe.device, pipe.vae.dtype)).latent_dist.mode() for part in images.split(16)]
    texts = [[t.format(word) for t in TEMPLATES]] * len(images) if captions is None else [[t.format(word)] for t in captions]
    return Examples(torch.cat(parts) * pipe.vae.config.scaling_factor, texts, weight)


def check_plan(images: Tensor, captions: Sequence[str] | None, *, iterations: int, batch: int) -> None:
    """What a method checks before it changes anything, so that no new word is left by a call that is refused."""
    check_pictures("images", images)
    require(captions is None or len(captions) == len(images), "captions", len(captions or ()), f"{len(images)}, one a picture")
    for text in captions or ():
        require("{}" in text, "captions", repr(text), "a caption with {} where the new word goes", "'a {} on the grass'")
    _check_loop(iterations, batch)


def _check_loop(iterations: int, batch: int) -> None:
    for name, value in (("iterations", iterations), ("batch", batch)):
        require(value >= 1, name, value, "1 or more", f"{name}=4")


def _snr_weight(abar: Tensor, gamma: float = 5.0, most: float = 100.0) -> Tensor:
    """min(SNR + 1, gamma) / SNR of the squared eps error, at most ``most``: what mini-sd was trained with."""
    snr = abar / (1 - abar)
    return ((snr + 1).clamp(max=gamma) / snr).clamp(max=most)


def draw_t(n: int, T: int, where: torch.Generator) -> Tensor:
    """Half of the times evenly, half from the middle, where shapes are decided: sigmoid(N(0.4, 1))."""
    evenly, middle = torch.rand(n, generator=where), torch.sigmoid(0.4 + torch.randn(n, generator=where))
    return (torch.where(torch.rand(n, generator=where) < 0.5, evenly, middle) * T).long().clamp(max=T - 1)


def denoising_loss(pipe: StableDiffusionPipeline, z: Tensor, prompts: Sequence[str] | Tensor, t: Tensor, noise: Tensor, *,
                   weighted: bool = True) -> Tensor:
    """|| eps - eps_theta(z_t, t, c(prompt)) ||^2 (B,), the loss of every method here (Gal et al. 2023, eq. 2).

    prompts: B of them, or their embeddings (B, L, D). weighted: by min(SNR + 1, 5) / SNR, as mini-sd was trained; False is
    the plain mean.
    """
    kind = pipe.scheduler.config.prediction_type
    wraps = {"epsilon": Eps, "v_prediction": V}
    check_choice("prediction_type", kind, tuple(wraps))
    schedule = Schedule(pipe.scheduler.alphas_cumprod.double(), "pipeline")

    def net(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return pipe.unet(x, t, encoder_hidden_states=cond).sample

    cond = prompts if isinstance(prompts, Tensor) else encode_words(pipe, prompts)
    loss = simple_loss(wraps[kind](net, schedule), z, t, noise, cond=cond)
    if weighted and kind == "epsilon":
        loss = loss * _snr_weight(schedule.at(t)).to(loss)
    return loss


@contextmanager
def only_free(pipe: StableDiffusionPipeline, params: Iterable[Tensor]) -> Iterator[None]:
    """While it lasts, of the pipeline's own parameters only those among ``params`` want gradients; then all is as it was."""
    free = {id(p) for p in params}
    was = {p: p.requires_grad for m in (pipe.unet, pipe.text_encoder, pipe.vae) for p in m.parameters()}
    for p in was:
        p.requires_grad_(id(p) in free)
    try:
        yield
    finally:
        for p, needed in was.items():
            p.requires_grad_(needed)


@checks_first
def fit(pipe: StableDiffusionPipeline, sources: Sequence[Examples], groups: Iterable[dict], *, words: FreeRows | None = None,
        iterations: int = 120, batch: int = 4, seed: int = 0, weighted: bool = True) -> Iterator[Progress]:
    """The loop of all methods: yields a :class:`Progress` after each step of AdamW (no weight decay).

    sources: what each step sees, ``batch`` pictures of each (subject, prior). groups: the free parameters, as
    ``[{"params": ..., "lr": 3e-4}]``; everything else is frozen while the loop runs. The rates stay for the first half and
    fall in a straight line to zero. Batch, time and noise of step i are pure functions of (seed, i).
    """
    _check_loop(iterations, batch)
    groups = [{**g, "params": list(g["params"])} for g in groups]
    free = [p for g in groups for p in g["params"]]
    require(bool(free), "groups", "no parameters", "at least one group of parameters",
            "[{'params': lora.parameters(), 'lr': 3e-3}]")
    yield                                                                           # the arguments are good
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    rates = [g["lr"] for g in optimiser.param_groups]
    T = pipe.scheduler.config.num_train_timesteps
    try:
        with only_free(pipe, free), torch.enable_grad(), words if words is not None else nullcontext():
            for i in range(iterations):
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * min(1.0, 2 * (1 - i / iterations))
                drawn = [s.batch(batch, seed, i) for s in sources]
                z = torch.cat([latents for latents, _ in drawn])
                weight = torch.cat([torch.full((len(d[0]),), s.weight) for s, d in zip(sources, drawn, strict=True)])
                t = draw_t(len(z), T, generator("personal t", seed, i)).to(z.device)
                noise = normal(tuple(z.shape), "personal noise", seed, i).to(z)
                loss = denoising_loss(pipe, z, [p for _, texts in drawn for p in texts], t, noise, weighted=weighted)
                mean = (loss * weight.to(loss)).sum() / batch
                optimiser.zero_grad()
                mean.backward()
                optimiser.step()
                yield Progress(i + 1, iterations, float(mean.detach()))
    finally:
        if words is not None:
            words.write()


@torch.no_grad()
def pictures(pipe: StableDiffusionPipeline, prompts: Sequence[str], *, seed: int = 0, steps: int = 20, guidance: float = 4.0,
             chunk: int = 16) -> Tensor:
    """Samples (B, 3, H, W) in [-1, 1] of prompts in which new words may stand; the noise of row i depends on (seed, i)."""
    for name, value in (("steps", steps), ("chunk", chunk)):
        require(value >= 1, name, value, "1 or more", f"{name}=16")
    f, side = pipe.vae_scale_factor, pipe.unet.config.sample_size
    shape = (pipe.unet.config.in_channels, side, side)
    out = []
    pipe.set_progress_bar_config(disable=True)
    for start in range(0, len(prompts), chunk):
        part = list(prompts[start : start + chunk])
        z = torch.cat([normal((1, *shape), "latent", seed, start + i) for i in range(len(part))])
        z = z.to(pipe.device, pipe.unet.dtype)
        empty = encode_words(pipe, [""] * len(part))
        made = pipe(prompt_embeds=encode_words(pipe, part), negative_prompt_embeds=empty, latents=z,
                    height=side * f, width=side * f, num_inference_steps=steps, guidance_scale=guidance, output_type="pt").images
        out.append(made.float() * 2 - 1)
    return torch.cat(out).clamp(-1, 1)
