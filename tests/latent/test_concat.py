"""Concat tasks: the hints say what they should, a widened U-Net says what it said, known pixels stay bit for bit."""

import pytest
import torch
from torch.nn import functional as F

from minidiff.errors import BadInput
from minidiff.latent.autoencoder import encode, make_autoencoder
from minidiff.latent.concat import (
    HINTS,
    add_input_channels,
    back_project,
    decoder_blend,
    inpaint_hint,
    layout_hint,
    lowres_hint,
    paste,
    poisson_blend,
    random_masks,
    sample_concat,
)
from minidiff.latent.sample import initial_noise, text_to_image
from minidiff.latent.stable import assemble, make_unet
from minidiff.latent.text import make_text_encoder, make_tokenizer
from minidiff.world import KINDS, WorldData, render


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    made = assemble(make_autoencoder(4, widths=(8, 8, 16)), make_text_encoder(tokenizer, width=32, layers=1),
                    make_unet(widths=(32, 32), context=32, heads=2), tokenizer)
    for p in made.unet.parameters():
        p.data += 0.05 * torch.randn_like(p)  # a new net returns zeros for some layers: make every weight count
    made.vae.register_to_config(scaling_factor=0.7)
    return made


def test_a_widened_net_says_what_it_said_and_then_learns_from_the_hint(pipe):
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    context, hint = torch.randn(2, 34, 32), torch.randn(2, 5, 16, 16)
    wide = add_input_channels(pipe.unet, 5)
    before = pipe.unet(x, t, encoder_hidden_states=context).sample
    assert torch.equal(wide(torch.cat((x, hint), 1), t, encoder_hidden_states=context).sample, before)
    assert pipe.unet.config.in_channels == 4 and wide.config.in_channels == 9
    wide(torch.cat((x, hint), 1), t, encoder_hidden_states=context).sample.square().mean().backward()
    assert wide.conv_in.weight.grad[:, 4:].abs().max() > 0
    with pytest.raises(BadInput, match="extra"):
        add_input_channels(pipe.unet, 0)


def test_masks_are_pure_functions_of_their_number_and_of_sensible_size():
    many = random_masks(torch.arange(500), 64)
    assert torch.equal(random_masks(torch.tensor([7, 3]), 64), many[[7, 3]])
    assert not torch.equal(random_masks(torch.tensor([7]), 64, seed=1), many[[7]])
    area = many.flatten(1).mean(1)
    assert set(many.unique().tolist()) == {0.0, 1.0} and area.min() > 0.03 and area.max() <= 0.51
    halves = (many.flatten(2)[:, 0].sum(1) == 2048) & (many[:, 0, 0, :].sum(1) % 32 == 0)
    assert 0.05 < halves.float().mean() < 0.16, "about a tenth are halves of the picture"


def test_the_inpainting_hint_hides_what_is_masked_and_keeps_diffusers_order(pipe):
    images, mask = WorldData(64).images(3), random_masks(torch.arange(3), 64)
    hint = inpaint_hint(pipe.vae, images, mask)
    other = torch.where(mask > 0.5, torch.rand_like(images) * 2 - 1, images)
    assert hint.shape == (3, HINTS["inpaint"], 16, 16)
    assert torch.equal(inpaint_hint(pipe.vae, other, mask), hint), "what is under the mask was seen"
    assert torch.equal(hint[:, :1], F.interpolate(mask, size=(16, 16)))
    assert torch.allclose(hint[:, 1:], encode(pipe.vae, torch.where(mask > 0.5, 0.0, images)))
    with pytest.raises(BadInput, match="mask"):
        inpaint_hint(pipe.vae, images, mask * 0.5)
    with pytest.raises(BadInput, match="mask"):
        inpaint_hint(pipe.vae, images, mask[:2])


def test_paste_keeps_known_pixels_bit_for_bit():
    known, made = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    out = paste(known, made, mask)
    hole = mask.expand_as(out) > 0.5
    assert torch.equal(out[~hole], known[~hole]) and torch.equal(out[hole], made[hole])


def test_the_smooth_paste_is_the_solution_of_laplace_equation():
    where = torch.Generator().manual_seed(1)
    known, made = (0.3 * torch.randn(1, 3, 12, 12, generator=where).double().clamp(-1, 1) for _ in range(2))
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., 3:12, 2:7] = 1                                  # a hole that reaches the lower edge of the picture
    out = poisson_blend(known, made, mask, sweeps=4000)
    inside = mask[0, 0].bool()
    assert torch.equal(out[..., ~inside], known[..., ~inside])
    places = {tuple(p): i for i, p in enumerate(inside.nonzero().tolist())}
    a, b = torch.zeros(len(places), len(places), dtype=torch.float64), torch.zeros(len(places), 3, dtype=torch.float64)
    for (y, x), i in places.items():                          # sum over neighbours of (u_i - u_j) = 0, u given outside
        for j in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if max(j) < 12:
                a[i, i] += 1
                if j in places:
                    a[i, places[j]] -= 1
                else:
                    b[i] += (known - made)[0, :, j[0], j[1]]
    exact = made[0, :, inside] + torch.linalg.solve(a, b).T
    assert torch.allclose(out[0, :, inside], exact.clamp(-1, 1), atol=1e-9)
    shade = poisson_blend(known, known + 0.2, mask, sweeps=4000)
    assert torch.allclose(shade, known, atol=1e-6), "a constant error of shade must vanish"
    with pytest.raises(BadInput, match="sweeps"):
        poisson_blend(known, made, mask, sweeps=-1)


def test_harmonised_pictures_are_redrawn_at_the_border_only(pipe, monkeypatch):
    known, made = WorldData(64).images(2), WorldData(64).images(2, 40)
    mask = torch.zeros(2, 1, 64, 64)
    mask[..., 12:52, 0:40] = 1                                # touches the left edge of the picture
    hole = mask.expand_as(known) > 0.5
    out = decoder_blend(pipe.vae, known, made, mask)
    assert torch.equal(out[~hole], known[~hole])
    monkeypatch.setattr("minidiff.latent.concat.decode", lambda vae, z: known)  # a decoder that draws the border perfectly
    out = decoder_blend(pipe.vae, known, made, mask)
    fade = torch.arange(1, 9)[:, None] / 9                    # the share of what was made grows over two reaches, row by row
    assert torch.allclose(out[..., 12:20, 0:32], made[..., 12:20, 0:32] * fade
                          + known[..., 12:20, 0:32] * (1 - fade), atol=1e-5)
    assert torch.allclose(out[..., 20:44, 0:32], made[..., 20:44, 0:32], atol=1e-5), "deep inside, what was made"
    with pytest.raises(BadInput, match="reach"):
        decoder_blend(pipe.vae, known, made, mask, reach=-1)


def test_what_is_true_to_a_small_picture_shrinks_to_it():
    images = WorldData(64).images(4)
    small = F.avg_pool2d(images, 4)
    wrong = (0.8 * images + 0.1).clamp(-1, 1)                 # paler, and a shade too light
    near = [float((F.avg_pool2d(back_project(small, wrong, rounds=n), 4) - small).abs().max()) for n in (0, 1, 3, 8)]
    assert near == sorted(near, reverse=True) and near[-1] < 0.02 < 0.2 < near[0]
    assert (back_project(small, wrong) - images).square().mean() < 0.1 * (wrong - images).square().mean()
    assert torch.allclose(back_project(small, images), images, atol=1e-6), "a picture that is true already stays"
    with pytest.raises(BadInput, match="made"):
        back_project(small, wrong[..., :-1])
    with pytest.raises(BadInput, match="made"):
        back_project(small, wrong[0])


def test_small_and_layout_hints():
    small = torch.rand(2, 3, 32, 32)
    blocks = lowres_hint(small, (16, 16))
    assert blocks.shape == (2, HINTS["upscale-x2"], 16, 16)
    assert torch.equal(blocks[0, :4, 5, 6], small[0, 0, 10:12, 12:14].flatten())
    assert lowres_hint(small[..., ::2, ::2], (16, 16)).shape[1] == HINTS["upscale-x4"]
    with pytest.raises(BadInput, match="small"):
        lowres_hint(small, (12, 12))
    scenes = WorldData(64, level="full").scenes(0, 8)
    masks = render(scenes).masks
    hint = layout_hint(scenes.kind, masks, (16, 16))
    assert hint.shape == (8, len(KINDS), 16, 16)
    for row in range(8):
        want = torch.zeros(len(KINDS))
        for j in range(3):
            want[scenes.kind[row, j]] += masks[row, j].mean()
        assert torch.allclose(hint[row].mean((1, 2)), want, atol=1e-6)


def test_sampling_with_an_unheard_hint_is_plain_sampling(pipe):
    z, prompts = initial_noise(pipe, 2), ["a red cat", "a blue dog on the grass"]
    plain = text_to_image(pipe, prompts, steps=3, latents=z)
    narrow, pipe.unet = pipe.unet, add_input_channels(pipe.unet, 3)
    try:
        hint = torch.rand(2, 3, 16, 16)
        assert torch.allclose(sample_concat(pipe, hint, prompts, steps=3, latents=z), plain, atol=1e-5)
        pipe.unet.conv_in.weight.data[:, 4:] = 0.3
        changed = sample_concat(pipe, hint, prompts, steps=3, latents=z)
        alone = sample_concat(pipe, hint[:1], prompts[:1], steps=3, latents=z[:1])
        assert not torch.allclose(changed, plain, atol=1e-3)
        assert torch.allclose(alone, changed[:1], atol=1e-5), "a row saw another row's hint"
        with pytest.raises(BadInput, match="hint"):
            sample_concat(pipe, hint[:, :2], prompts)
        with pytest.raises(BadInput, match="prompts"):
            sample_concat(pipe, hint, prompts[:1])
    finally:
        pipe.unet = narrow
