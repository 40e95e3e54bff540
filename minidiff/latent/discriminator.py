"""The patch discriminator: it says of every patch whether it looks real; and its place in the autoencoder's loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from minidiff.errors import require

__all__ = ["PatchDiscriminator", "adaptive_weight", "frozen", "hinge_d_loss", "hinge_g_loss"]


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017): pictures (B, channels, H, W) -> one logit for each overlapping patch, (B, 1, h, w).

    Each of ``layers`` convolutions halves the side; with three of them a logit's window is 38 pixels wide. GroupNorm stands
    where the original has BatchNorm, so that a picture's score does not depend on its neighbours in the batch.
    """

    def __init__(self, channels: int = 3, dim: int = 24, layers: int = 3) -> None:
        super().__init__()
        require(layers > 0, "layers", layers, "at least one layer", "layers=3")
        parts: list[nn.Module] = [nn.Conv2d(channels, dim, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers):
            a, b = dim * min(2 ** (i - 1), 4), dim * min(2**i, 4)
            parts += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.GroupNorm(8, b), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*parts, nn.Conv2d(dim * min(2 ** (layers - 1), 4), 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def frozen(discriminator: nn.Module, x: Tensor) -> Tensor:
    """The discriminator's verdict on x with a gradient to x and none to the discriminator's own weights."""
    return functional_call(discriminator, {name: p.detach() for name, p in discriminator.named_parameters()}, (x,))


def hinge_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss, (B,): half of relu(1 - real) + relu(1 + fake), averaged over patches (Lim and Ye 2017)."""
    return 0.5 * (F.relu(1 - real) + F.relu(1 + fake)).mean((1, 2, 3))


def hinge_g_loss(fake: Tensor) -> Tensor:
    """The generator's loss, (B,): minus the discriminator's logits, averaged over patches."""
    return -fake.mean((1, 2, 3))


def adaptive_weight(rec: Tensor, adv: Tensor, last: Tensor, *, most: float = 1e4) -> Tensor:
    """The weight that makes both losses pull equally hard on the last layer (Esser et al. 2021, eq. 7): a detached number.

    rec, adv: losses with a graph, summed over all that they have; last: the weight of the decoder's last layer.
    ||d rec / d last|| / (||d adv / d last|| + 1e-4), clamped to [0, most].
    """
    a = torch.autograd.grad(rec.sum(), last, retain_graph=True)[0]
    b = torch.autograd.grad(adv.sum(), last, retain_graph=True)[0]
    return (a.norm() / (b.norm() + 1e-4)).clamp(0, most).detach()
