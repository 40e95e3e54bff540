"""A network of one's own: any callable, a diffusers model as it is, and what is said where the two do not fit together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from minidiff import Eps, V, ddim, invert, last, linear, simple_loss
from minidiff.diffusion import LearnedRange, ddpm
from minidiff.errors import BadInput

S = linear(1000)


def unet(channels: int = 3) -> UNet2DModel:
    torch.manual_seed(0)
    net = UNet2DModel(sample_size=(8, 12), in_channels=3, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
                      norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                      up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4)
    return net.double().eval()


def noise(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_diffusers_model_as_it_is_samples_as_diffusers_own_loop_does() -> None:
    net = unet()
    scheduler = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, set_alpha_to_one=True)
    scheduler.alphas_cumprod = S.abar.double()
    scheduler.set_timesteps(7)
    x = noise()
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t).sample, t, x).prev_sample
    got = last(ddim(Eps(net, S), noise(), steps=7)).x
    assert (got - x).abs().max() < 1e-10 * x.abs().max()


def test_it_trains_inverts_and_is_differentiated_through() -> None:
    net = unet()
    model, x = Eps(net, S), noise()
    simple_loss(model, x, torch.tensor([3, 700]), noise(2)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert last(invert(model, x, steps=3)).x.shape == x.shape
    net.zero_grad()
    last(ddim(model, x.clone().requires_grad_(), steps=2)).x.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert not last(ddim(model, x, steps=2)).x.requires_grad


@torch.no_grad()
def test_a_diffusers_model_with_twice_the_channels_learns_the_variance() -> None:
    with pytest.raises(BadInput, match=r"LearnedRange\(Eps\(net, schedule\)\)"):
        last(ddim(Eps(unet(6), S), noise(), steps=2))
    assert last(ddpm(LearnedRange(Eps(unet(6), S)), noise(), steps=3, variance="learned")).x.shape == (2, 3, 8, 12)


@torch.no_grad()
def test_any_callable_will_do() -> None:
    def half(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x / 2

    class Object:
        def __call__(self, x: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=x / 2)

    runs = [last(ddim(Eps(net, S), noise(), steps=5)).x for net in (half, Object(), lambda x, t: 0.5 * x)]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(("net", "said"), [
    (lambda x, t: (x, None), "an output of type tuple"), (lambda x, t: None, "an output of type NoneType"),
    (lambda x, t: {"sample": x}, "an output of type dict"),
    (lambda x, t: SimpleNamespace(sample=(x,)), "an output of type tuple"),
])
def test_what_is_no_tensor_is_refused_with_the_way_to_wrap_it(net: object, said: str) -> None:
    way = r"V\(lambda x, t: net\(x, t\)\[0\], schedule\)"
    with pytest.raises(BadInput, match=rf"net: got {said}; expected .*Write instead: {way}"):
        last(ddim(V(net, S), noise(), steps=2))
