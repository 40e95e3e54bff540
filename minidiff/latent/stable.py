"""mini-sd: a Stable Diffusion small enough for a laptop, made of the same diffusers and transformers classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minidiff.diffusion import Eps, make_schedule, simple_loss
from minidiff.errors import require
from minidiff.latent.autoencoder import make_autoencoder
from minidiff.latent.grounding import grounding_loss, place_loss
from minidiff.latent.text import make_text_encoder, make_tokenizer
from minidiff.silence import silence_libraries
from minidiff.steer.attention import Site, sites
from minidiff.steer.hooks import Hook, Row, StepContext
from minidiff.steer.tap import Tap

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

__all__ = ["LatentDiffusion", "assemble", "make_scheduler", "make_unet", "random_pipeline", "snr_weight"]


def make_unet(*, size: int = 16, channels: int = 4, inputs: int | None = None, widths: tuple[int, ...] = (64, 96),
              context: int = 96, heads: int = 4) -> UNet2DConditionModel:
    """A new ``UNet2DConditionModel`` with self- and cross-attention on every level; inputs: channels of its input.

    heads: attention heads a layer. (diffusers calls that argument ``attention_head_dim``, an old mistake kept for the sake
    of old checkpoints.)
    """
    from diffusers import UNet2DConditionModel

    n = len(widths)
    for name, value in (("size", size), ("channels", channels), ("context", context), ("heads", heads)):
        require(value >= 1, name, value, "at least 1")
    return UNet2DConditionModel(
        sample_size=size, in_channels=inputs or channels, out_channels=channels, block_out_channels=widths, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * n, up_block_types=("CrossAttnUpBlock2D",) * n,
        cross_attention_dim=context, attention_head_dim=heads, norm_num_groups=16)


def make_scheduler() -> DDIMScheduler:
    """The scheduler of Stable Diffusion: scaled-linear betas, 1,000 steps, steps_offset 1, samples not clipped."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon")


def snr_weight(snr: Tensor, *, gamma: float = 5.0, most: float = 100.0) -> Tensor:
    """Weight of the squared eps error: min(SNR + 1, gamma) / SNR, at most ``most``. Any shape, finite also where SNR is 0.

    In errors of x0 this is min(SNR + 1, gamma): the loss of v-prediction (Salimans and Ho 2022, section 4) where noise
    rules, min-SNR (Hang et al. 2023) where it does not. A plain eps loss gives an error of x0 the weight SNR, a tenth at
    t = 700 of Stable Diffusion's schedule; but it is there that a network draws the outlines of things.
    """
    return ((snr + 1).clamp(max=gamma) / snr).clamp(max=most)


class _Probs(Hook):
    """Keeps the probabilities of the named sites, with gradients, until the loss is taken."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.probs = set(names), {}

    def selects(self, site: Site) -> bool:
        return site.name in self.names

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> None:
        self.probs[site.name] = probs


class LatentDiffusion(nn.Module):
    """The U-Net and the text encoder in training: ``model(z, t, noise, ids, words, masks, alone) -> losses (B,)``.

    Noise prediction with :func:`snr_weight`, plus ``ground`` times the grounding loss of the decoder's cross-attention,
    plus ``place`` times :func:`place_loss` of what a linear layer reads from the text encoder's output. That layer is thrown
    away after training: it makes the text encoder understand "left of" and "at the top", which almost pure noise, the only
    place where such words tell the U-Net anything, teaches very slowly.
    """

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, *, ground: float = 0.05, place: float = 3.0) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.ground, self.place = unet, text_encoder, ground, place
        self.positions = nn.Linear(text_encoder.config.hidden_size, 2)
        for weight in self.positions.parameters():
            nn.init.zeros_(weight)                      # at first every thing is guessed in the middle
        self.schedule = make_schedule("scaled_linear", 1000)
        self._taught = [s.name for s in sites(unet).values() if s.kind == "cross" and s.place == "up"]

    def forward(self, z: Tensor, t: Tensor, noise: Tensor, ids: Tensor, words: Tensor | None = None,
                masks: Tensor | None = None, alone: Tensor | None = None, hint: Tensor | None = None) -> Tensor:
        """z, noise (B, C, h, w) scaled latents; t (B,); ids (B, L) tokens; words (B, K, L), masks (B, K, H, W), which only
        ``ground`` and ``place`` need.

        alone (B,) bool: rows in which a word sees only itself; None: no row. Elsewhere it sees those before it, so that a
        noun's vector says the colour too, and a U-Net that always found it there would not learn to look at the adjective.
        hint (B, c, h, w): what the U-Net of a concat task sees beside the noisy latent.
        """
        alone = torch.zeros(len(ids), dtype=torch.bool, device=ids.device) if alone is None else alone
        sees = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        sees = torch.where(alone[:, None, None], sees & sees.T, sees)[:, None]
        context = self.text_encoder(input_ids=ids, attention_mask=sees).last_hidden_state

        def net(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            seen = x if hint is None else torch.cat((x, hint), dim=1)
            return self.unet(seen, t, encoder_hidden_states=cond).sample

        watch = _Probs(self._taught if self.ground else ())
        nan, row = float("nan"), Row("source")          # every row has a level of its own, and asking for it would stop a GPU
        here = StepContext(0, 1, nan, nan, nan, nan, tuple(z.shape[-2:]), len(z), (row,))
        with Tap(self.unet, watch, rows=[row]).within(here):
            loss = simple_loss(Eps(net, self.schedule), z, t, noise, cond=context)
        abar = self.schedule.at(t)
        loss = loss * snr_weight(abar / (1 - abar)).to(loss)
        if self.ground:
            each = [grounding_loss(probs, words, masks) for probs in watch.probs.values()]
            loss = loss + self.ground * torch.stack(each).mean(0)
        if self.place:
            loss = loss + self.place * place_loss(self.positions(context), words, masks) * ~alone
        return loss


def assemble(vae: nn.Module, text_encoder: nn.Module, unet: nn.Module, tokenizer: Any = None,
             scheduler: Any = None) -> StableDiffusionPipeline:
    """A ``StableDiffusionPipeline`` of these parts, without a safety checker, its progress bar off."""
    with silence_libraries():
        from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer or make_tokenizer(), unet=unet,
                                   scheduler=scheduler or make_scheduler(), safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_pipeline(*, size: int = 16, seed: int = 0) -> StableDiffusionPipeline:
    """A pipeline of Stable Diffusion's shape and of random weights: to see that code runs there. It draws nothing.

    Four levels with attention on three, two blocks a level, 77 tokens, an autoencoder of factor 8 and scale 0.18215; the widths
    are tiny. size: side of the latent (a multiple of 8). torch's own generator is left as it was.
    """
    from diffusers import UNet2DConditionModel

    require(isinstance(size, int) and size >= 8 and size % 8 == 0, "size", size, "a multiple of 8: three levels halve it")
    tokenizer = make_tokenizer(length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=size, block_out_channels=(16, 16, 32, 32), layers_per_block=2, cross_attention_dim=48,
            attention_head_dim=2, norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
        vae = make_autoencoder(8, widths=(8, 8, 16, 16))
        text = make_text_encoder(tokenizer, width=48, layers=2, heads=4)
    vae.register_to_config(scaling_factor=0.18215)
    for part in (unet, vae, text):
        part.eval().requires_grad_(False)
    return assemble(vae, text, unet, tokenizer)
