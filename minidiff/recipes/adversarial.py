"""Recipes of lesson 06: a denoising diffusion GAN, the same network as a one-shot GAN (T = 1), and a VAE of the same pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from minidiff.diffusion.ddgan import d_loss, ddgan_schedule, g_loss, pair, posterior_sample, r1
from minidiff.nets.adversarial import LatentUNet, PairDiscriminator, SmallVAE
from minidiff.recipes.blocks import Blocks, Draw, noise, sample_t
from minidiff.recipes.few import FewData
from minidiff.rng import generator
from minidiff.train import Budget, Recipe
from minidiff.zoo import write_net

__all__ = ["DDGANS", "GENERATOR_NET", "VAES", "Adversarial", "ddgan_recipe", "small_vae_recipe"]

GENERATOR_NET = {"z_dim": 64, "channels": 3, "dim": 48, "mults": (1, 2), "blocks": 1, "patch": 4, "attention": None}


class Adversarial(nn.Module):
    """Generator and discriminator as one network with one loss: both are updated at once, each by its own part.

    The published code alternates. Here the generator's part sees the discriminator's weights as constants and the
    discriminator's part sees a detached picture, so the gradients are those of two losses; Adam divides out their sizes.
    """

    def __init__(self, T: int, *, gamma: float = 0.05) -> None:  # noqa: N803
        super().__init__()
        self.schedule, self.gamma = ddgan_schedule(T), gamma
        self.generator, self.discriminator = LatentUNet(**GENERATOR_NET), PairDiscriminator()

    def forward(self, x0: Tensor, t: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """x0: (B, 3, H, W); t: (B,); z: (B, z_dim); noise: (3, B, 3, H, W). Returns (B,) losses. Always in float32: the penalty
        is a gradient's gradient.
        """
        with torch.autocast("cuda" if x0.is_cuda else "cpu", enabled=False):
            return self._losses(x0, t, z, noise)

    def _losses(self, x0: Tensor, t: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        before, after = pair(x0, t, self.schedule, noise[0], noise[1])
        fake = posterior_sample(self.generator(after, t, z), after, t, self.schedule, noise[2])
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        cheat = g_loss(functional_call(self.discriminator, frozen, (fake, t, after)))
        tell = d_loss(self.discriminator(before, t, after), self.discriminator(fake.detach(), t, after))
        some = len(x0) // 4 if len(x0) % 16 == 0 else len(x0)          # the penalty on a quarter of the rows, four times as heavy
        penalty = r1(lambda x: self.discriminator(x, t[:some], after[:some]), before[:some])
        heavy = torch.cat([penalty * (len(x0) / some), penalty.new_zeros(len(x0) - some)])
        return cheat + tell + self.gamma / 2 * heavy


def _blocks(seed: int) -> Blocks:
    return Blocks(lambda index, number: {"x0": FewData(32, seed=seed).batch(number, len(index), index.device)[0]})


def ddgan_recipe(name: str, *, T: int, seed: int, images: tuple[int, int], minutes: tuple[float, float],  # noqa: N803
                 expect: str = "") -> Recipe:
    """A denoising diffusion GAN of T steps on the small world; T = 1 is a GAN. images, minutes: (laptop, gpu)."""

    blocks = _blocks(seed)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        x0 = blocks.rows(i, n, device)["x0"]
        rng = generator(seed, "draw", i, device=device)
        t, z = sample_t(n, T, rng), noise((n, GENERATOR_NET["z_dim"]), rng)
        return {"x0": x0, "t": t, "z": z, "noise": noise((n, 3, *x0.shape[1:]), rng)}

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        return model(batch["x0"], batch["t"], batch["z"], batch["noise"].transpose(0, 1))

    def export(net: Adversarial, folder: Path) -> dict[str, Any]:
        return write_net(net.generator, {"kind": "ddgan", "T": T, "net": net.generator.config, "size": 32}, folder)

    return Recipe(name=name, seed=seed, build=lambda: Adversarial(T), draw=draw, loss=loss, batch=32, lr=3e-4, warmup=1_600,
                  ema=0.998, betas=(0.5, 0.9), clip=10.0, expect=expect, export=export,
                  identity={"T": T, "objective": "ddgan", "gamma": 0.05, "data": FewData(32, seed=seed).identity},
                  budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=128)})


def small_vae_recipe(name: str, *, seed: int, images: tuple[int, int], minutes: tuple[float, float], beta: float = 1.0,
                     sigma: float = 0.3, expect: str = "") -> Recipe:
    """A VAE on the small world: -log N(x; decode(z), sigma^2) + beta KL, summed over a picture, divided by its 3,072 values."""

    blocks = _blocks(seed)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        return blocks.rows(i, n, device) | {"noise": noise((n, 32), generator(seed, "draw", i, device=device))}

    def loss(model: SmallVAE, batch: Draw) -> Tensor:
        x = batch["x0"]
        mean, logvar = model.encode(x)
        y = model.decode(mean + (0.5 * logvar).exp() * batch["noise"])
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)
        return ((x - y).square().flatten(1).sum(1) / (2 * sigma**2) + beta * kl) / x[0].numel()

    def export(net: SmallVAE, folder: Path) -> dict[str, Any]:
        return write_net(net, {"kind": "small-vae", "net": net.config, "size": 32}, folder)

    return Recipe(name=name, seed=seed, build=lambda: SmallVAE(z_dim=32), draw=draw, loss=loss, batch=32, lr=1e-3, warmup=1_600,
                  ema=0.998, expect=expect, export=export,
                  identity={"objective": "vae", "beta": beta, "sigma": sigma, "data": FewData(32, seed=seed).identity},
                  budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=256)})


# name -> what ddgan_recipe is called with
DDGANS: dict[str, dict] = {
    "ddgan": {"T": 4, "seed": 61, "images": (64_000, 4_000_000), "minutes": (20, 6),
              "expect": "pictures of the small world in four steps; all cells of kind, colour and backdrop"},
    "gan-32": {"T": 1, "seed": 62, "images": (32_000, 4_000_000), "minutes": (10, 5), "expect": "the same network in one step"}}
VAES: dict[str, dict] = {"vae-32": {"seed": 63, "images": (24_000, 1_000_000), "minutes": (3, 1),
                                    "expect": "all cells, blurred; one pass a picture"}}

