"""The two bottlenecks of latent diffusion's autoencoders: a Gaussian with a KL term, and a codebook (VQ)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidiff.errors import require

__all__ = ["Codebook", "Quantised", "kl_standard_normal", "reparametrise"]


def reparametrise(moments: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(z, mu, logvar) from an encoder's moments (B, 2C, h, w): z = mu + sigma * noise (Kingma and Welling 2014).

    The log variance is clamped to [-30, 20], as in latent diffusion. noise: (B, C, h, w).
    """
    mu, logvar = moments.chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    return mu + (0.5 * logvar).exp() * noise, mu, logvar


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) of each picture in nats, **summed** over channels and places: (B, ...) -> (B,)."""
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).flatten(1).sum(1)


class Quantised(NamedTuple):
    """z: (B, C, h, w), the nearest codes, with the gradient of the input; index: (B, h, w); loss: (B,)."""

    z: Tensor
    index: Tensor
    loss: Tensor


class Codebook(nn.Module):
    """``codebook_size`` vectors of ``dim`` numbers; each place of the latent takes the nearest one (van den Oord et al. 2017).

    A code that no place takes learns nothing, and most codes end so. In training, one that gets less than a thirtieth of its fair
    share is put where a latent is (the random restarts of Jukebox, Dhariwal et al. 2020).
    """

    def __init__(self, codebook_size: int = 256, dim: int = 4, *, beta: float = 0.25) -> None:
        super().__init__()
        require(codebook_size > 1, "codebook_size", codebook_size, "at least two codes", "codebook_size=256")
        self.beta = beta
        self.embedding = nn.Embedding(codebook_size, dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)
        self.register_buffer("share", torch.ones(codebook_size), persistent=False)     # of places, 1 = fair; a moving average

    def forward(self, h: Tensor) -> Quantised:
        """h: (B, dim, height, width). loss = ||sg(h) - e||^2 + beta ||h - sg(e)||^2, averaged over what a picture has.

        Straight-through: the value is e, the gradient passes to h unchanged.
        """
        require(h.ndim == 4 and h.shape[1] == self.embedding.embedding_dim, "h", f"shape {tuple(h.shape)}",
                f"shape (B, {self.embedding.embedding_dim}, height, width)")
        flat = h.permute(0, 2, 3, 1)
        index = self._nearest(flat.detach().flatten(0, 2)).view(flat.shape[:3])
        e = F.embedding(index, self.embedding.weight).permute(0, 3, 1, 2)
        loss = ((h.detach() - e) ** 2 + self.beta * (h - e.detach()) ** 2).mean((1, 2, 3))
        return Quantised(h + (e - h).detach(), index, loss)

    @torch.no_grad()
    def _nearest(self, places: Tensor) -> Tensor:
        """The number of the nearest code of each place; in training codes that starve are put on random places first."""
        places = places.to(self.embedding.weight.dtype)
        if self.training:
            starved = self.share < 1 / 30
            chosen = places[torch.randint(len(places), (len(self.share),), device=places.device)]
            self.embedding.weight.copy_(torch.where(starved[:, None], chosen, self.embedding.weight))
            self.share.masked_fill_(starved, 1.0)
        index = torch.cdist(places, self.embedding.weight).argmin(1)
        if self.training:
            taken = torch.zeros_like(self.share).index_add_(0, index, self.share.new_ones(len(index)))
            self.share.lerp_(taken * (len(self.share) / len(index)), 0.01)
        return index
