"""SDEdit: its ends, its steps against diffusers, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from minidiff import BadInput
from minidiff.editing import sdedit
from minidiff.editing.result import decode_images
from minidiff.latent import encode, encode_prompt, initial_noise
from minidiff.rng import normal
from tests.pipelines import CASES, make, shared

TEXTS = ["a red cat on the grass", "a blue dog at night"]


def pictures(pipe, n=2):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return torch.nn.functional.interpolate(normal((n, 3, 4, 4), "sdedit", 0), size=side).clamp(-1, 1)


def test_nothing_done_is_the_autoencoders_round_trip():
    pipe = shared(CASES[1])
    x = pictures(pipe)
    made = sdedit(pipe, TEXTS, image=x, strength=0.0, steps=4)
    with torch.no_grad():
        assert torch.equal(made.edit, decode_images(pipe, encode(pipe.vae, x))) and torch.equal(made.images["source"], x)
    assert made.details["steps"] == 0 and not made.trajectory


@pytest.mark.parametrize(("strength", "done"), [(0.5, 4), (0.3, 2), (1.0, 8), (0.12, 0)])
def test_the_steps_are_those_of_diffusers_image_to_image(strength, done):
    """add_noise at the first of the last int(strength * steps) timesteps, then DDIMScheduler.step with guidance, in float64."""
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    x, w, steps = pictures(pipe).double(), 3.0, 8
    noise = initial_noise(pipe, 2, seed=5)
    made = sdedit(pipe, TEXTS, image=x, strength=strength, latents=noise, steps=steps, guidance=w)
    assert made.details["steps"] == done
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    left = scheduler.timesteps[steps - done:]
    with torch.no_grad():
        z = encode(pipe.vae, x)
        if done:
            z = scheduler.add_noise(z, noise, left[:1])
        said, empty = encode_prompt(pipe, TEXTS), encode_prompt(pipe, ["", ""])
        for t in left:
            u, c = (pipe.unet(z, t, encoder_hidden_states=context).sample for context in (empty, said))
            z = scheduler.step(u + w * (c - u), t, z).prev_sample
    assert float((made.edit.double() - decode_images(pipe, z)).abs().max()) < 1e-4
    if done:
        assert float((made.trajectory["edit"].clean - z).abs().max()) < 1e-5 * float(z.abs().max())


def test_a_row_does_not_depend_on_its_neighbours():
    pipe = shared(CASES[1])
    x = pictures(pipe)
    both = sdedit(pipe, TEXTS, image=x, seed=3, steps=4)
    alone = sdedit(pipe, TEXTS[:1], image=x[:1], seed=3, steps=4)
    assert float((both.edit[:1] - alone.edit).abs().max()) < 1e-4


@pytest.mark.parametrize(("wrong", "said"), [({"strength": 1.5}, "strength"), ({"strength": "half"}, "strength"),
                                             ({"latents": torch.zeros(2, 4, 2, 2)}, "latents"),
                                             ({"image": torch.zeros(3)}, "image")])
def test_it_refuses_what_it_cannot_use(wrong, said):
    pipe = shared(CASES[1])
    with pytest.raises(BadInput, match=said):
        sdedit(pipe, TEXTS, **({"image": pictures(pipe)} | wrong))
    with pytest.raises(BadInput, match="target"):
        sdedit(pipe, ["a cat"] * 3, image=pictures(pipe))
