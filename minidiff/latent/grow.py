"""Making an autoencoder wider without forgetting what it can do, so that it goes on learning from where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.latent.autoencoder import make_autoencoder
from minidiff.rng import generator

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["net2wider"]


def net2wider(vae: AutoencoderKL, widths: tuple[int, ...], *, seed: int = 0) -> AutoencoderKL:
    """A new autoencoder of these widths with the weights of ``vae`` (Net2WiderNet, Chen et al. 2016).

    Each channel is repeated next to itself, and whoever reads it divides its weight among the copies in shares drawn at
    random, so that the copies can part in training. Groups of the norms hold the same values as before, only each several
    times. So the function is the same, unless two neighbouring widths that differed become equal: there diffusers leaves
    out the convolution of a shortcut, which training then has to make up for.
    Raises BadInput unless every width is a whole multiple of the old one and neighbours that were equal stay so.
    """
    old = tuple(vae.config.block_out_channels)
    require(len(widths) == len(old) and all(w >= o and w % o == 0 for w, o in zip(widths, old, strict=True)), "widths",
            widths, f"a whole multiple of each of {old}", f"net2wider(vae, {tuple(2 * o for o in old)})")
    shortcuts = [(a, b) for a, b, c, d in zip(widths, widths[1:], old, old[1:], strict=False) if a != b and c == d]
    require(not shortcuts, "widths", widths, f"equal neighbours where {old} has them: there is no shortcut to take over",
            f"net2wider(vae, {tuple(2 * o for o in old)})")
    require(vae.config.layers_per_block == 1 and vae.config.norm_num_groups == 8, "vae", "an autoencoder of another make",
            "one that make_autoencoder built")
    new = make_autoencoder(2 ** (len(old) - 1), channels=vae.config.latent_channels, widths=tuple(widths),
                           size=vae.config.sample_size)
    new.register_to_config(scaling_factor=vae.config.scaling_factor)
    rng, small = generator(seed, "widened"), vae.state_dict()
    new.load_state_dict({name: _repeated(small[name], big.shape, rng) for name, big in new.state_dict().items()})
    return new.to(next(vae.parameters()).device)


def _repeated(weight: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A tensor of ``shape`` that does the work of ``weight``: rows repeated, columns divided among the copies."""
    weight = weight.repeat_interleave(shape[0] // weight.shape[0], dim=0)
    if weight.ndim == 1 or weight.shape[1] == shape[1]:
        return weight
    times = shape[1] // weight.shape[1]
    share = 0.5 + torch.rand((*shape[:1], weight.shape[1], times, *shape[2:]), generator=generator).to(weight)
    share = share / share.sum(2, keepdim=True)
    return (weight[:, :, None] * share).reshape(shape)
