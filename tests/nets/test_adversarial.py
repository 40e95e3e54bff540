"""Networks of lesson 06: the latent reaches every picture, the discriminator sees pairs and time, the VAE's shapes."""

from __future__ import annotations

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.nets.adversarial import LatentUNet, PairDiscriminator, SmallVAE
from minidiff.rng import normal


def awake(net: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for p in net.parameters():
        if float(p.abs().sum()) == 0:
            torch.nn.init.normal_(p, std=0.1)
    return net.eval()


def test_the_generator_listens_to_z_but_not_to_its_length() -> None:
    net = awake(LatentUNet(z_dim=8, channels=3, dim=16, mults=(1, 2), patch=4, size=32, attention=None))
    x, t, z = normal((3, 3, 32, 32), "x"), torch.tensor([0, 3, 1]), normal((3, 8), "z")
    out = net(x, t, z)
    assert out.shape == x.shape and float(out.abs().max()) < 1
    torch.testing.assert_close(net(x, t, 5 * z), out, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(x, t, -z), out, atol=1e-4)
    with pytest.raises(BadInput, match="z"):
        net(x, t, z[:, :4])
    again = LatentUNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in net.config.items()})
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(x, t, z), out)


def test_the_discriminator_sees_both_pictures_and_the_time() -> None:
    net = awake(PairDiscriminator(dim=16, mults=(1, 2), patch=4))
    a, b, t = normal((8, 3, 32, 32), "a"), normal((8, 3, 32, 32), "b"), torch.arange(8) % 4
    out = net(a, t, b)
    assert out.shape == (8,)
    for other in (net(b, t, a), net(a, t, a), net(a, t.flip(0), b)):
        assert not torch.allclose(other, out, atol=1e-5)
    same = net(a[:1].expand(8, -1, -1, -1), t[:1].expand(8), b[:1].expand(8, -1, -1, -1))
    assert not torch.allclose(same[0], out[0], atol=1e-6), "a batch without spread must show"
    with pytest.raises(BadInput, match="before"):
        net(a[:4], t[:4], b)


def test_vae_shapes_and_range() -> None:
    net = SmallVAE(z_dim=6, dim=8)
    mean, logvar = net.encode(normal((4, 3, 32, 32), "x"))
    assert mean.shape == logvar.shape == (4, 6)
    out = net.decode(mean)
    assert out.shape == (4, 3, 32, 32) and float(out.abs().max()) <= 1
