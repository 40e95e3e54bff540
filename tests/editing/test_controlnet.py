"""ControlNet: a fresh one changes nothing, ours is diffusers' own pipeline to rounding, and its loss reaches only the copy."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline

from minidiff import BadInput
from minidiff.diffusion import last
from minidiff.editing import add_control, control, control_images, new_controlnet, silhouettes
from minidiff.editing.controlnet import WIDTHS, control_loss
from minidiff.latent import denoise, encode_prompt, initial_noise
from minidiff.latent.pipeline import schedule_from
from minidiff.rng import normal
from minidiff.steer import Recorder
from minidiff.world import render, sample_scenes
from tests.pipelines import CASES, make, shared

PROMPTS = ["a red cat on the grass", "a blue mushroom in the snow"]
STEPS = 4


def stirred(pipe, seed=0):
    """A ControlNet of this pipeline whose zeros are no longer zero."""
    net = new_controlnet(pipe.unet, shrink=pipe.vae_scale_factor)
    with torch.no_grad():
        for k, (_, p) in enumerate(sorted(net.named_parameters())):
            if not p.any():
                p += 0.3 * normal(tuple(p.shape), "stir", seed, k)
    return net


def hint_for(pipe, n=2):
    side = pipe.vae_scale_factor * pipe.unet.config.sample_size
    return silhouettes(render(sample_scenes(range(n), split="valid", seed=0, level="simple"), side).masks)


def plain(pipe, z, **options):
    return last(denoise(pipe, PROMPTS, latents=z, steps=STEPS, guidance=3.0, **options)).x


def controlled(pipe, net, z, hint, **options):
    return last(control(pipe, PROMPTS, hint, controlnet=net, latents=z, **({"steps": STEPS, "guidance": 3.0} | options))).x


def test_silhouettes_are_white_where_any_thing_is():
    masks = torch.zeros(2, 3, 4, 5)
    masks[0, 0, 1, 2], masks[0, 2, 3, 4], masks[1, 1, 0, 0] = 0.9, 0.6, 0.4
    hint = silhouettes(masks)
    assert hint.shape == (2, 3, 4, 5) and hint.sum() == 6 and hint[0, :, 1, 2].all() and hint[0, :, 3, 4].all()
    with pytest.raises(BadInput, match="masks"):
        silhouettes(masks[0])


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_one_is_a_copy_that_changes_nothing_bit_for_bit(case):
    pipe = shared(case)
    net, z = new_controlnet(pipe.unet, shrink=pipe.vae_scale_factor), initial_noise(pipe, 2, seed=1)
    assert torch.equal(controlled(pipe, net, z, hint_for(pipe)), plain(pipe, z))
    own, theirs = net.state_dict(), pipe.unet.state_dict()
    copied = [name for name in own if name in theirs]
    assert copied and all(torch.equal(own[name], theirs[name]) for name in copied)
    assert tuple(net.config.conditioning_embedding_out_channels) == WIDTHS[pipe.vae_scale_factor]
    assert not net.training and own["conv_in.weight"].data_ptr() != theirs["conv_in.weight"].data_ptr()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("scale", "until"), [(1.0, 1.0), (0.6, 1.0), (1.4, 0.5), (1.0, 0.7)])
def test_ours_is_the_pipeline_of_diffusers(case, scale, until):
    pipe = make(case)
    net, z, hint = stirred(pipe), initial_noise(pipe, 2, seed=1), hint_for(pipe)
    ours = controlled(pipe, net, z, hint, scale=scale, until=until)
    both = add_control(pipe, net)
    assert isinstance(both, StableDiffusionControlNetPipeline) and both.unet is pipe.unet
    theirs = both(PROMPTS, image=hint, latents=z, num_inference_steps=STEPS, guidance_scale=3.0, output_type="latent",
                  controlnet_conditioning_scale=scale, control_guidance_end=until).images
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))
    assert float((ours - plain(pipe, z)).abs().max()) > 1e-2, "the ControlNet does nothing"
    assert torch.equal(ours, last(control(both, PROMPTS, hint, latents=z, steps=STEPS, guidance=3.0, scale=scale,
                                          until=until)).x), "the pipeline's own ControlNet is not the one that runs"


def test_scale_zero_is_plain_and_a_hint_counts_for_its_own_row():
    pipe = shared(CASES[1])
    net, z, hint = stirred(pipe), initial_noise(pipe, 2, seed=1), hint_for(pipe)
    assert torch.equal(controlled(pipe, net, z, hint, scale=0.0), plain(pipe, z))
    assert torch.equal(controlled(pipe, net, z, hint, until=0.0), plain(pipe, z))
    both, other = controlled(pipe, net, z, hint), hint.clone()
    other[1] = 1 - other[1]
    changed = controlled(pipe, net, z, other)
    assert torch.allclose(changed[0], both[0], atol=1e-5) and float((changed[1] - both[1]).abs().max()) > 1e-3
    one = controlled(pipe, net, z, hint[:1])
    assert torch.allclose(one[0], both[0], atol=1e-5), "one hint does not serve all prompts"
    images = control_images(pipe, PROMPTS, hint, controlnet=net, latents=z, steps=STEPS, guidance=3.0, chunk=1)
    assert images.shape == hint.shape and images.min() >= -1 and images.max() <= 1


def test_hooks_see_the_network_as_ever():
    pipe = shared(CASES[1])
    record = Recorder(modules=["mid_block"])
    z = initial_noise(pipe, 2, seed=1)
    made = controlled(pipe, stirred(pipe), z, hint_for(pipe), hooks=[record])
    assert len(record.steps) == STEPS and record.at(0).probs and torch.isfinite(made).all()


def test_the_loss_is_the_unet_s_own_at_first_and_reaches_only_the_copy():
    pipe = make(CASES[1])
    net = new_controlnet(pipe.unet).requires_grad_(True)
    z, noise, t = initial_noise(pipe, 2, seed=1), normal((2, *initial_noise(pipe, 1).shape[1:]), "n", 0), torch.tensor([100, 700])
    context, schedule = encode_prompt(pipe, PROMPTS), schedule_from(pipe.scheduler)
    loss = control_loss(net, pipe.unet, schedule, z, t, noise, context, hint_for(pipe))
    abar = schedule.at(t).float()[:, None, None, None]
    noisy = abar.sqrt() * z + (1 - abar).sqrt() * noise
    with torch.no_grad():
        off = (pipe.unet(noisy, t, encoder_hidden_states=context).sample - noise).square().mean((1, 2, 3))
    snr = (abar / (1 - abar)).flatten()
    assert torch.allclose(loss, off * ((snr + 1).clamp(max=5) / snr).clamp(max=100), rtol=1e-4)
    loss.mean().backward()
    with_gradient = {n for n, p in net.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert with_gradient and all(n.startswith(("controlnet_down_blocks", "controlnet_mid_block")) for n in with_gradient), \
        "behind a convolution of zeros nothing has a gradient yet"
    assert all(p.grad is None for p in pipe.unet.parameters())
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(12):
        adam.zero_grad()
        again = control_loss(net, pipe.unet, schedule, z, t, noise, context, hint_for(pipe))
        again.mean().backward()
        adam.step()
    assert again.mean().item() < 0.98 * loss.mean().item()
    assert bool(net.controlnet_cond_embedding.conv_in.weight.grad.any()), "the hint is still not read"


def test_what_it_cannot_use_is_refused():
    pipe = shared(CASES[1])
    net, hint = new_controlnet(pipe.unet), hint_for(pipe)
    for arguments, options, name in (
            ((PROMPTS, hint[..., :-4]), {"controlnet": net}, "hint"), ((PROMPTS, hint[:, :1]), {"controlnet": net}, "hint"),
            ((PROMPTS, 2 * hint - 1), {"controlnet": net}, "hint"), ((PROMPTS * 2, hint), {"controlnet": net}, "hint"),
            ((PROMPTS, hint), {}, "controlnet"), ((PROMPTS, hint), {"controlnet": pipe.unet}, "controlnet"),
            ((PROMPTS, hint), {"controlnet": net, "scale": -1.0}, "scale"),
            ((PROMPTS, hint), {"controlnet": net, "until": 1.5}, "until")):
        with pytest.raises(BadInput, match=name):
            control(pipe, *arguments, **options)
    with pytest.raises(BadInput, match="shrink"):
        new_controlnet(pipe.unet, shrink=5)
    with pytest.raises(BadInput, match="widths"):
        new_controlnet(pipe.unet, shrink=4, widths=(16, 32))
