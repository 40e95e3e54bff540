"""Self-Guidance: properties of maps against closed forms, gradients against finite differences, the published normalisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from minidiff import BadInput
from minidiff.diffusion import last
from minidiff.editing import appearance_of, properties, self_guidance
from minidiff.editing.properties import (
    Appearance,
    Centroid,
    Properties,
    Shape,
    Size,
    appearance,
    centroid,
    size,
    threshold,
    transform,
    word_map,
)
from minidiff.latent import denoise, initial_noise, token_indices
from minidiff.rng import normal
from minidiff.steer import EpsGuidance, Maps, Site
from tests.pipelines import CASES, make, shared

PROMPT = "a red cat left of a blue dog"


def bump(h, w, x, y, width=1.1):
    """A round bump in cells."""
    i, j = torch.meshgrid(torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64), indexing="ij")
    return torch.exp(-((j - x) ** 2 + (i - y) ** 2) / (2 * width**2))


# What a map says -----------------------------------------------------------------------------------------------------------


def test_a_single_cell_has_its_middle_as_centroid():
    a = torch.zeros(6, 10, dtype=torch.float64)
    a[4, 7] = 0.3
    assert torch.allclose(centroid(a), torch.tensor([7.5 / 10, 4.5 / 6], dtype=torch.float64), atol=1e-7)


def test_maps_of_two_sizes_agree_on_the_place():
    a = normal((3, 8, 6), "centroid", 0, dtype=torch.float64).exp()
    assert torch.allclose(centroid(a.repeat_interleave(2, 1).repeat_interleave(2, 2)), centroid(a), atol=1e-8)


def test_the_shape_of_a_mask_is_the_mask_and_its_size_the_area():
    mask = torch.zeros(2, 8, 10, dtype=torch.float64)
    mask[0, 2:5, 3:9] = 0.07
    mask[1, :1, :1] = 0.4
    assert torch.allclose(threshold(mask), (mask > 0).double(), atol=1e-5)
    assert torch.allclose(size(mask), torch.tensor([18 / 80, 1 / 80], dtype=torch.float64), atol=1e-5)
    flat = torch.full((1, 4, 4), 0.1, requires_grad=True)
    threshold(flat).sum().backward()
    assert not threshold(flat).any() and bool(torch.isfinite(flat.grad).all())


def colab_threshold(maps, sharpness=10.0):
    """As published with the paper's SDXL notebook: maps (n, h, w, k), minimum and maximum over dimensions 2 and 3."""
    def stretch(x):
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return (x - low) / (high - low)
    return stretch(torch.sigmoid(sharpness * (stretch(maps) - 0.5)))


def test_the_published_normalisation_mixes_words_and_treats_every_line_by_itself():
    mask = torch.zeros(8, 8, dtype=torch.float64)
    mask[2:4, 2:5] = 1
    faint = 0.02 * bump(8, 8, 3, 6) + 0.2 * mask                    # a thing, and a hundredth part of smear below it
    weak, strong = faint, faint.max() * 3 + bump(8, 8, 6, 6)        # beside a word that is seen everywhere
    true = float(threshold(faint[None])[0].mean())
    assert true == pytest.approx(6 / 64, abs=0.01)
    alone = colab_threshold(torch.stack([weak], -1)[None])[0, ..., 0]
    assert float(alone[6].max()) == pytest.approx(1.0) and float(alone.mean()) > 3 * true, "every line is stretched to 1"
    beside = colab_threshold(torch.stack([weak, strong], -1)[None])[0, ..., 0]
    assert float(beside.max()) < 0.5 and float(threshold(faint[None]).max()) > 0.99, "another word sets the scale"


def test_appearance_is_the_mean_under_the_shape():
    features = torch.full((1, 3, 8, 8), 2.0)
    shape = torch.zeros(1, 4, 4)
    shape[0, 1, 2] = 1.0
    assert torch.allclose(appearance(shape, features), torch.full((1, 3), 2.0))
    features = normal((2, 3, 4, 4), "features", 0)
    assert torch.allclose(appearance(shape.expand(2, 4, 4), features), features[:, :, 1, 2], atol=1e-6)


def test_transform_is_grid_sample_and_nothing_asked_is_nothing_done():
    a = normal((5, 7, 9), "transform", 0, dtype=torch.float64)
    shift, times = 0.3 * normal((5, 2), "shift", 0, dtype=torch.float64), torch.tensor([1.0, 0.6, 1.7, 1.2, 1.0]).double()
    about = torch.tensor([[0.4, 0.5], [0.2, 0.9], [0.5, 0.5], [0.7, 0.1], [0.3, 0.3]]).double()
    theta = torch.zeros(5, 2, 3, dtype=torch.float64)               # output place -> input place, in [-1, 1]
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / times
    middle = 2 * about - 1
    theta[:, :, 2] = middle - (middle + 2 * shift) / times[:, None]
    want = F.grid_sample(a[:, None], F.affine_grid(theta, (5, 1, 7, 9), align_corners=False), align_corners=False)[:, 0]
    assert torch.allclose(transform(a, shift, times, about), want, atol=1e-12)
    single = a.float()
    assert torch.equal(transform(single, torch.zeros(5, 2), torch.ones(5), about.float()), single)
    grid = F.affine_grid(torch.eye(2, 3).expand(5, 2, 3), (5, 1, 7, 9), align_corners=False)
    dust = F.grid_sample(single[:, None], grid, align_corners=False)[:, 0]
    assert not torch.equal(dust, single), "grid_sample leaves dust where nothing is asked for: why transform is our own"


def test_a_shift_by_whole_cells_moves_the_centroid_by_as_much():
    a = bump(8, 8, 3, 4, 0.7)[None]
    for dx, dy in ((2, 0), (-1, 1)):
        moved = transform(a, torch.tensor([[dx / 8, dy / 8]]).double(), torch.ones(1).double(), centroid(a))
        assert torch.allclose(moved, a.roll((dy, dx), (1, 2)), atol=1e-3)
        assert torch.allclose(centroid(moved) - centroid(a), torch.tensor([[dx / 8, dy / 8]]).double(), atol=1e-3)


def test_word_map_takes_a_list_for_all_rows_or_one_for_each():
    probs = normal((2, 3, 8, 6), "probs", 0).softmax(-1)
    maps = Maps((4, 8), {"s": probs}, {}, {})
    assert torch.allclose(word_map(maps, "s", [2, 3]), probs[..., 2:4].mean((1, 3)).view(2, 2, 4))
    rows = word_map(maps, "s", [[1], [4, 5]])
    assert torch.allclose(rows[0], probs[0, ..., 1].mean(0).view(2, 4)) and torch.allclose(
        rows[1], probs[1, ..., 4:6].mean((0, 2)).view(2, 4))
    with pytest.raises(BadInput, match="tokens"):
        word_map(maps, "s", [[1]])


# Gradients -----------------------------------------------------------------------------------------------------------------


def energies(like, prompt):
    from minidiff.latent import make_tokenizer

    del prompt
    cat, dog = (token_indices(make_tokenizer(), PROMPT, w)[0] for w in ("cat", "dog"))
    return {"centroid to": Centroid(cat, to=(0.9, 0.2)), "centroid by": Centroid(cat, like=like, shift=(0.21, -0.13)),
            "size to": Size(cat, to=0.31), "size by": Size(dog, like=like, times=1.4),
            "shape": Shape(cat, like=like, shift=(0.13, 0.07), times=1.3),
            "appearance": Appearance(cat, like=like, of=dog, features="up_blocks.0"),
            "several": 0.5 * Centroid(cat, like=like, shift=(0.2, 0.1)) + Shape(dog, like=like, times=0.7)}


@pytest.fixture(scope="module")
def double():
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    z = initial_noise(pipe, 1, seed=2).double()
    record = Properties(modules=["up_blocks.0"])
    last(denoise(pipe, [PROMPT], latents=normal(tuple(z.shape), "other", 0, dtype=torch.float64), steps=1, guidance=1.0,
                 hooks=[record]))
    return pipe, z, record


@pytest.mark.parametrize("name", ["centroid to", "centroid by", "size to", "size by", "shape", "appearance", "several"])
def test_the_gradient_of_every_energy_by_finite_differences(double, name, monkeypatch):
    """Through the whole network: what eps changes by is the gradient that central differences give, to 1e-5."""
    pipe, z, record = double
    if name == "appearance":                                        # its shape is held: no gradient goes through it
        monkeypatch.setattr(properties, "threshold", lambda a: 0.1 + normal(tuple(a.shape), "held", 0, dtype=a.dtype).abs())
    energy = energies(record, PROMPT)[name]

    def value(at, scale=0.0):
        push = EpsGuidance(energy, scale=scale)
        state = last(denoise(pipe, [PROMPT], latents=at, steps=1, guidance=1.0, hooks=[push]))
        return float(push.values[0]), state.eps

    (start, plain), (_, guided) = value(z), value(z, 1.0)
    gradient = guided - plain
    assert start > 0 and float(gradient.norm()) > 0
    for k in range(3):
        d = normal(tuple(z.shape), "direction", k, dtype=torch.float64) if k else gradient / gradient.norm()
        h = 1e-5
        slope = (value(z + h * d)[0] - value(z - h * d)[0]) / (2 * h)
        exact = float((gradient * d).sum())
        assert abs(slope - exact) <= 1e-5 * max(abs(exact), 0.1 * float(gradient.norm())), (k, slope, exact)


# The method ----------------------------------------------------------------------------------------------------------------


def test_zero_shift_is_the_source_and_a_shift_lowers_the_energy():
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 2, seed=4)
    plain = last(denoise(pipe, [PROMPT] * 2, latents=z, steps=4)).x
    still = self_guidance(pipe, [PROMPT] * 2, move={"cat": (0.0, 0.0)}, resize={"cat": 1.0}, keep=["dog"], latents=z, steps=4)
    for branch in ("source", "edit"):
        assert float((still.trajectory[branch].clean - plain).abs().max()) <= 1e-5 * float(plain.abs().max())
    assert not still.details["energy"].any()
    moved = self_guidance(pipe, [PROMPT] * 2, move={"cat": (0.3, 0.0)}, keep=["dog"], latents=z, steps=4)
    assert torch.equal(moved.images["source"], still.images["source"])
    assert not torch.equal(moved.images["edit"], moved.images["source"])
    assert moved.details["energy"].shape == (4, 2) and bool((moved.details["energy"] > 0).all())


def test_rows_may_have_their_own_words_shifts_and_looks():
    pipe = shared(CASES[0])
    prompts, words = [PROMPT, "a mushroom on the grass"], ("cat", "mushroom")
    other = appearance_of(pipe, ["a blue dog", "a red cat"], ("dog", "cat"), seed=3, steps=2)
    both = self_guidance(pipe, prompts, move={words: [[0.2, 0.0], [0.0, -0.1]]}, restyle={words: other}, seed=1, steps=2)
    z = initial_noise(pipe, 2, seed=1)
    for row, shift in enumerate(([0.2, 0.0], [0.0, -0.1])):
        one = appearance_of(pipe, [["a blue dog"], ["a red cat"]][row], ("dog", "cat")[row], steps=2,
                   latents=initial_noise(pipe, 2, seed=3)[row:row + 1])
        alone = self_guidance(pipe, prompts[row], move={words[row]: shift}, restyle={words[row]: one}, latents=z[row:row + 1],
                              steps=2)
        assert float((alone.images["edit"] - both.images["edit"][row:row + 1]).abs().max()) < 2e-4


def test_a_picture_as_the_source_is_held_on_its_trajectory():
    pipe = shared(CASES[1])
    size_ = pipe.unet.config.sample_size * pipe.vae_scale_factor
    image = normal((1, 3, size_, size_), "picture", 0).clamp(-1, 1)
    out = self_guidance(pipe, PROMPT, image=image, move={"cat": (0.2, 0.0)}, steps=3)
    assert torch.equal(out.images["source"], image) and out.images["edit"].shape == image.shape


def test_it_refuses_what_it_cannot_do():
    pipe = shared(CASES[1])
    with pytest.raises(BadInput, match="something to do"):
        self_guidance(pipe, PROMPT)
    with pytest.raises(BadInput, match="'fox'"):
        self_guidance(pipe, PROMPT, move={"fox": (0.1, 0)})
    with pytest.raises(BadInput, match="shape"):
        self_guidance(pipe, PROMPT, move={"cat": (0.1, 0.2, 0.3)}, steps=2)
    with pytest.raises(BadInput, match="place"):
        Centroid([2])
    with pytest.raises(BadInput, match="size"):
        Size([2], to=0.1, like=Properties())


def test_the_default_sites_are_the_decoders_cross_attention():
    record = Properties()
    assert record.selects(Site("a", "cross", "up", 0, 2)) and not record.selects(Site("b", "cross", "mid", 2, 2))
    assert not record.selects(Site("c", "self", "up", 0, 2)) and not record.selects(Site("d", "cross", "down", 0, 2))
