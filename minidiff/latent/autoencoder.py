"""Autoencoders: pictures to a smaller latent and back. Built on diffusers' networks, trained by a loss of our own."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from minidiff.errors import check_images, check_pictures, require
from minidiff.latent.bottleneck import Codebook, kl_standard_normal, reparametrise
from minidiff.latent.discriminator import PatchDiscriminator, adaptive_weight, frozen, hinge_d_loss, hinge_g_loss
from minidiff.measure import Reader, mini_lpips

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, VQModel

__all__ = ["AutoencoderLoss", "as_vq_model", "decode", "edges", "encode", "latent_scale", "make_autoencoder"]

_WIDTHS = {2: (32, 64), 4: (16, 32, 64), 8: (16, 32, 64, 64)}


def make_autoencoder(f: int = 4, *, channels: int = 4, widths: tuple[int, ...] | None = None, size: int = 64) -> AutoencoderKL:
    """A new ``diffusers.AutoencoderKL``: (B, 3, size, size) -> (B, channels, size / f, size / f), f = 2, 4 or 8.

    One residual block a level, attention only in the middle, as in the configurations of latent diffusion.
    """
    from diffusers import AutoencoderKL

    if widths is None:
        require(f in _WIDTHS, "f", repr(f), "2, 4 or 8", "make_autoencoder(4)")
        widths = _WIDTHS[f]
    require(channels >= 1, "channels", channels, "channels of the latent, at least 1", "channels=4")
    require(size >= f and size % f == 0, "size", size, f"a multiple of f={f}", "size=64")
    require(2 ** (len(widths) - 1) == f, "widths", widths, f"one width a level: log2(f) + 1 of them for f={f}")
    require(all(w % 8 == 0 for w in widths), "widths", widths, "multiples of 8, the number of groups in the norms")
    n = len(widths)
    return AutoencoderKL(
        block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
        layers_per_block=1, latent_channels=channels, norm_num_groups=8, sample_size=size)


def edges(x: Tensor) -> Tensor:
    """Differences between neighbouring pixels, across and down: (B, C, H, W) -> (B, 2C, H - 1, W - 1)."""
    return torch.cat((x[..., 1:, 1:] - x[..., 1:, :-1], x[..., 1:, 1:] - x[..., :-1, 1:]), dim=1)


class AutoencoderLoss(nn.Module):
    """An autoencoder with what its training needs: ``model(x, seen) -> losses (B,)``.

    The loss of one picture, with sums and means as they stand here:
    mean |x - y| + edge * mean |edges(x) - edges(y)| + perceptual * MiniLPIPS(x, y) + bottleneck
    + adversarial * adaptive weight * generator's hinge loss (from ``start`` pictures on) + the discriminator's own loss.
    Bottleneck: kl / (pixels x 3) times the KL **summed** over the latent, so that ``kl`` compares with the 1e-6 of latent
    diffusion, whose reconstruction is a sum as well; or the codebook's loss when ``codebook_size`` > 0 (the moments' means
    are then the vectors that are looked up).
    """

    def __init__(self, vae: nn.Module, reader: Reader, *, kl: float = 1e-3, edge: float = 1.0, perceptual: float = 0.2,
                 adversarial: float = 0.1, start: int = 0, codebook_size: int = 0) -> None:
        super().__init__()
        self.vae, self.discriminator = vae, PatchDiscriminator()
        self.codebook = Codebook(codebook_size, vae.config.latent_channels) if codebook_size else None
        self.kl, self.edge, self.perceptual, self.adversarial, self.start = kl, edge, perceptual, adversarial, start
        self._eyes = functools.lru_cache(maxsize=2)(lambda device: reader.to(device).eval().requires_grad_(False))

    def bottleneck(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The latent that is decoded, and the bottleneck's loss (B,)."""
        moments = self.vae.quant_conv(self.vae.encoder(x))
        if self.codebook is not None:
            q = self.codebook(moments.chunk(2, dim=1)[0])
            return q.z, q.loss
        z, mu, logvar = reparametrise(moments, torch.randn_like(moments.chunk(2, dim=1)[0]))
        return z, self.kl / x[0].numel() * kl_standard_normal(mu, logvar)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x: (B, 3, H, W) in [-1, 1]; seen: (B,) pictures seen before this batch, which starts the discriminator."""
        z, loss = self.bottleneck(x)
        y = self.vae.decoder(self.vae.post_quant_conv(z))
        rec = (x - y).abs().mean((1, 2, 3)) + self.edge * (edges(x) - edges(y)).abs().mean((1, 2, 3))
        if self.perceptual:
            rec = rec + self.perceptual * mini_lpips(x, y, self._eyes(x.device))
        loss = loss + rec
        if self.adversarial:
            on = (seen >= self.start).to(rec)
            adv = hinge_g_loss(frozen(self.discriminator, y))
            weight = adaptive_weight(rec, adv, self.vae.decoder.conv_out.weight)
            own = hinge_d_loss(self.discriminator(x), self.discriminator(y.detach()))
            loss = loss + on * (self.adversarial * weight * adv + own)
        return loss


def as_vq_model(net: AutoencoderLoss) -> VQModel:
    """The trained codebook autoencoder as ``diffusers.VQModel``, with the same weights (its moments' second half dropped)."""
    from diffusers import VQModel

    require(net.codebook is not None, "net", "an autoencoder without a codebook", "AutoencoderLoss(..., codebook_size=256)")
    c, z = net.vae.config, net.vae.config.latent_channels
    made = VQModel(block_out_channels=c.block_out_channels, down_block_types=c.down_block_types, up_block_types=c.up_block_types,
                   layers_per_block=c.layers_per_block, latent_channels=z, norm_num_groups=c.norm_num_groups,
                   sample_size=c.sample_size, num_vq_embeddings=net.codebook.embedding.num_embeddings, scaling_factor=1.0)
    state = {k: v for k, v in net.vae.state_dict().items() if not k.startswith(("quant_conv", "encoder.conv_out"))}
    last, mix = net.vae.encoder.conv_out, net.vae.quant_conv
    # the means are the first z channels of quant_conv(conv_out(h)); VQModel's encoder ends in z channels, so both are joined
    weight = torch.einsum("ij,jkhw->ikhw", mix.weight[:z, :, 0, 0], last.weight)
    bias = mix.weight[:z, :, 0, 0] @ last.bias + mix.bias[:z]
    state |= {"encoder.conv_out.weight": weight, "encoder.conv_out.bias": bias}
    state |= {"quant_conv.weight": torch.eye(z)[:, :, None, None], "quant_conv.bias": torch.zeros(z)}
    state["quantize.embedding.weight"] = net.codebook.embedding.weight
    made.load_state_dict(state)
    return made


@torch.no_grad()
def encode(vae: nn.Module, images: Tensor, *, generator: torch.Generator | None = None, chunk: int = 64) -> Tensor:
    """Scaled latents of pictures (B, 3, H, W) in [-1, 1]: the posterior's mean, or a sample of it with a generator.

    Scaled by the autoencoder's own ``scaling_factor`` (and shifted, where its config has a shift), so they have about
    unit variance. For a VQModel: the vectors before the codebook, which is what latent diffusion diffuses.
    """
    check_pictures("images", images)
    parts = []
    for x in images.split(chunk):
        out = vae.encode(x)
        if hasattr(out, "latents"):
            z = out.latents
        elif generator is None:
            z = out.latent_dist.mode()
        else:
            z = out.latent_dist.mean + out.latent_dist.std * torch.randn(out.latent_dist.mean.shape, generator=generator).to(x)
        parts.append((z - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor)
    return torch.cat(parts)


def decode(vae: nn.Module, latents: Tensor, *, chunk: int = 64) -> Tensor:
    """Pictures of scaled latents, not clipped: the inverse of :func:`encode`, with gradients."""
    check_images("latents", latents, channels=vae.config.latent_channels)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return torch.cat([vae.decode(z / vae.config.scaling_factor + shift).sample for z in latents.split(chunk)])


@torch.no_grad()
def latent_scale(vae: nn.Module, images: Tensor, *, chunk: int = 64) -> float:
    """1 / std of the unscaled latents of ``images`` (the posterior's samples), over all channels and places together.

    Latent diffusion takes it from its first batch; here at least 2,000 pictures are asked for, so that it does not depend
    on the draw.
    """
    require(len(images) >= 2000, "images", len(images), "at least 2,000 pictures", "WorldData(64, level='full').images(2000)")
    check_pictures("images", images)
    require(hasattr(vae, "encode") and not hasattr(vae, "quantize"), "vae", type(vae).__name__,
            "an autoencoder with a Gaussian posterior, such as AutoencoderKL")
    generator = torch.Generator().manual_seed(0)
    squares = total = count = 0.0
    for x in images.split(chunk):
        d = vae.encode(x).latent_dist
        z = (d.mean + d.std * torch.randn(d.mean.shape, generator=generator).to(x)).double()
        total, squares, count = total + z.sum().item(), squares + (z**2).sum().item(), count + z.numel()
    return (squares / count - (total / count) ** 2) ** -0.5
