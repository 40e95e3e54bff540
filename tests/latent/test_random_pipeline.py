"""A pipeline of Stable Diffusion's shape and of random weights."""

from __future__ import annotations

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.latent import random_pipeline, text_to_image
from minidiff.steer import sites


def test_it_has_the_shape_of_stable_diffusion_and_runs():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pipe, same, other = random_pipeline(seed=1), random_pipeline(seed=1), random_pipeline(seed=2)
    assert torch.equal(before, torch.get_rng_state()), "torch's own generator was used"
    weight = "down_blocks.0.resnets.0.conv1.weight"
    one, two, three = (p.unet.state_dict()[weight] for p in (pipe, same, other))
    assert torch.equal(one, two) and not torch.equal(one, three)
    assert pipe.tokenizer.model_max_length == 77 and pipe.vae.config.scaling_factor == 0.18215
    assert len(sites(pipe.unet)) == 32, "as in Stable Diffusion 1.5"
    assert text_to_image(pipe, "a red cat", steps=2, seed=0).shape == (1, 3, 128, 128)
    assert text_to_image(random_pipeline(size=8), "a red cat", steps=2, seed=0).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("size", [4, 12, 16.0, 0])
def test_sizes_that_cannot_be_halved_are_refused(size):
    with pytest.raises(BadInput, match="multiple of 8"):
        random_pipeline(size=size)
