"""The networks of a denoising diffusion GAN, and a small VAE of the same pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import require
from minidiff.nets.blocks import space_to_depth
from minidiff.nets.embed import TimeEmbedding
from minidiff.nets.unet import UNet

__all__ = ["LatentUNet", "PairDiscriminator", "SmallVAE"]


class LatentUNet(nn.Module):
    """``net(x_t, t, z)`` -> x0 in (-1, 1): a U-Net whose norms are scaled and shifted by time *and* by a latent z.

    z (B, z_dim) is brought to length sqrt(z_dim) (PixelNorm), goes through ``layers`` linear layers with SiLU, and is added to
    the time embedding, from which every block takes the scale and shift of its AdaGN (Xiao et al. 2022, section 5).
    """

    def __init__(self, *, z_dim: int = 64, layers: int = 3, **unet: object) -> None:
        super().__init__()
        self.config = {"z_dim": z_dim, "layers": layers, **{k: list(v) if isinstance(v, tuple) else v for k, v in unet.items()}}
        self.z_dim = z_dim
        self.mapping = nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(z_dim, z_dim), nn.SiLU())))
        self.unet = UNet(cond_dim=z_dim, **unet)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        require(z.shape == (len(x), self.z_dim), "z", f"shape {tuple(z.shape)}", f"shape ({len(x)}, {self.z_dim})",
                f"torch.randn(len(x), {self.z_dim})")
        z = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        return torch.tanh(self.unet(x, t, self.mapping(z)))


class _Down(nn.Module):
    """Half the side: two convolutions told the time, beside an averaged shortcut, scaled by 1 / sqrt(2)."""

    def __init__(self, cin: int, cout: int, emb: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(cin, cout, 3, padding=1), nn.Conv2d(cout, cout, 3, padding=1)
        self.emb, self.skip = nn.Linear(emb, cout), nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, 0.2)) + self.emb(e)[:, :, None, None]
        h = F.avg_pool2d(self.conv2(F.leaky_relu(h, 0.2)), 2)
        return (h + self.skip(F.avg_pool2d(x, 2))) * 0.5**0.5


class PairDiscriminator(nn.Module):
    """``net(x_{t-1}, t, x_t)`` -> (B,) logits: is x_{t-1} a real predecessor of x_t? (Xiao et al. 2022, section 4).

    Both pictures go in as channels, so it judges the step, not the picture alone. No norm layers. The standard deviation over
    groups of ``group`` rows is one more channel near the end (Karras et al. 2018): a generator that always draws the same shows.
    """

    def __init__(self, channels: int = 3, *, dim: int = 64, mults: tuple[int, ...] = (2, 2), patch: int = 4,
                 group: int = 4) -> None:
        super().__init__()
        self.patch, self.group = patch, group
        self.time = TimeEmbedding("sinusoidal", dim, 2 * dim)
        self.stem = nn.Conv2d(2 * channels * patch**2, dim, 3, padding=1)
        widths = [dim, *(dim * m for m in mults)]
        self.downs = nn.ModuleList(_Down(a, b, 2 * dim) for a, b in zip(widths, widths[1:]))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, before: Tensor, t: Tensor, after: Tensor) -> Tensor:
        require(before.shape == after.shape, "before", f"shape {tuple(before.shape)}", f"{tuple(after.shape)}, as x_t")
        e = F.leaky_relu(self.time(t), 0.2)
        h = self.stem(space_to_depth(torch.cat((before, after), 1), self.patch))
        for down in self.downs:
            h = down(h, e)
        groups = self.group if len(h) % self.group == 0 else len(h)
        spread = (h.view(groups, -1, *h.shape[1:]).var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        spread = spread.repeat(groups).view(-1, 1, 1, 1).expand(-1, 1, *h.shape[2:])
        h = F.leaky_relu(self.last(torch.cat((h, spread), 1)), 0.2)
        return self.out(h.sum((2, 3)))[:, 0]


class SmallVAE(nn.Module):
    """A convolutional VAE of 32 x 32 pictures with one latent vector (Kingma and Welling 2014).

    ``encode(x)`` -> (mean, log variance), each (B, z_dim); ``decode(z)`` -> pictures in (-1, 1).
    """

    def __init__(self, *, z_dim: int = 64, dim: int = 32, size: int = 32) -> None:
        super().__init__()
        self.config = {"z_dim": z_dim, "dim": dim, "size": size}
        self.z_dim, self.side, self.wide = z_dim, size // 8, 4 * dim

        def down(a: int, b: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(8, b), nn.SiLU()]

        def up(a: int, b: int) -> list[nn.Module]:
            return [nn.Upsample(scale_factor=2.0), nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU()]

        flat = 4 * dim * self.side**2
        self.encoder = nn.Sequential(*down(3, dim), *down(dim, 2 * dim), *down(2 * dim, 4 * dim), nn.Flatten(),
                                     nn.Linear(flat, 2 * z_dim))
        self.start = nn.Linear(z_dim, flat)
        self.decoder = nn.Sequential(nn.SiLU(), *up(4 * dim, 2 * dim), *up(2 * dim, dim), *up(dim, dim),
                                     nn.Conv2d(dim, 3, 3, padding=1), nn.Tanh())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.encoder(x).chunk(2, 1)
        return mean, logvar.clamp(-20, 10)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.start(z).view(-1, self.wide, self.side, self.side))
