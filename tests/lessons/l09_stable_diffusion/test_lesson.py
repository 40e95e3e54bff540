"""Lesson 09: what its panels draw over their whole range, the text knob, and the helpers of its claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidiff.errors import BadInput
from minidiff.latent import (
    assemble,
    decode,
    denoise,
    encode,
    initial_noise,
    invert_image,
    make_autoencoder,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    text_to_image,
)
from minidiff.lessons.l09_stable_diffusion import claims as board
from minidiff.lessons.l09_stable_diffusion.panels import Colours, PromptBox, Return, Scrubber
from minidiff.measure.pictures import psnr
from minidiff.rng import normal
from minidiff.show import panel, pixels, play, slider, sweep, text
from minidiff.steer import sites
from minidiff.world import WorldData


def same(shown: np.ndarray, expected: np.ndarray) -> bool:
    """Equal up to the coarser levels in which a panel stores its pictures."""
    return shown.shape == expected.shape and int(np.abs(shown.astype(int) - expected).max()) <= 5


def holds(array: np.ndarray, picture: torch.Tensor, scale: int) -> bool:
    """Is the picture (3, S, S), at so many display pixels a pixel, somewhere in the array?"""
    tile, step = pixels(picture[None])[0], 2 * scale
    tall, wide = tile.shape[0] * step, tile.shape[1] * step
    corner = np.abs(array[:array.shape[0] - tall + 1, :array.shape[1] - wide + 1].astype(int) - tile[0, 0]).max(-1) <= 5
    return any(same(array[y:y + tall:step, x:x + wide:step], tile) for y, x in zip(*np.nonzero(corner)))


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(4)
    tokenizer = make_tokenizer(length=20)
    parts = (make_autoencoder(2, widths=(8, 16), size=16), make_text_encoder(tokenizer, width=32, layers=1, heads=2),
             make_unet(size=8, widths=(32, 32), context=32, heads=2))
    for part in parts:
        part.eval().requires_grad_(False)
    return assemble(*parts, tokenizer)


@pytest.fixture(scope="module")
def colours(pipe):
    return Colours(pipe.vae, WorldData(16, "test", "simple").images(8))


# The text knob ----------------------------------------------------------------------------------------------------------


def test_a_text_knob_types_draws_and_is_visited():
    seen = []

    def render(prompt, t):
        seen.append((prompt, t))
        return np.full((20, 300, 3), (10 * len(prompt) + t) % 256, np.uint8), prompt

    p = panel(render, text("prompt", "a cat", examples=("", "a very long prompt " * 20)), slider("t", 0, 3, 1), alt="box")
    assert p.status.value == "a cat" and p.knobs["prompt"].description == "prompt" and not p.knobs["prompt"].continuous_update
    p.set(prompt="a dog", t=2)
    assert seen[-1] == ("a dog", 2) and p.status.value == "a dog"
    p.knobs["prompt"].value = "typed"
    assert seen[-1] == ("typed", 2)
    with pytest.raises(BadInput, match="prompt"):
        p.set(prompt=3)
    assert {v["prompt"] for v in sweep(p)} >= {"a cat", "", "a very long prompt " * 20}
    other = panel(render, text("prompt", "a dog"), slider("t", 0, 3, 1), alt="box")
    assert p.still.png != other.still.png, "the still shows what is in the box"
    with pytest.raises(BadInput, match="value"):
        text("prompt", 3)


# Panels -----------------------------------------------------------------------------------------------------------------


def test_colours_are_the_best_linear_guess():
    """An autoencoder whose latent holds the colours: the map must find them again, whatever mixes them."""
    mix = torch.tensor([[0.5, -1.0, 0.3], [0.2, 0.4, 0.9], [1.0, 0.1, -0.6], [0.3, 0.3, 0.3]])

    class Mixed(torch.nn.Module):
        config = type("C", (), {"scaling_factor": 2.0, "latent_channels": 4})

        def encode(self, x):
            z = torch.einsum("bchw,dc->bdhw", torch.nn.functional.avg_pool2d(x, 4), mix) + 0.7
            return type("E", (), {"latent_dist": type("D", (), {"mode": lambda self: z})()})()

    images = WorldData(32, "test", "simple").images(6)
    made, z = Colours(Mixed(), images, ridge=0.0), encode(Mixed(), images[:2])
    small = torch.nn.functional.avg_pool2d(images[:2], 4)
    assert made.factor == 4 and torch.allclose(made(z)[..., ::4, ::4], small, atol=1e-3)
    assert torch.equal(made(z)[..., 1::4, 2::4], made(z)[..., ::4, ::4]) and made(1e3 * z).abs().max() <= 1
    gentle = Colours(Mixed(), images)
    assert float(gentle.weights[:-1].norm()) < float(made.weights[:-1].norm())


def test_prompt_box_over_the_whole_range(pipe):
    box = PromptBox(pipe, initial_noise(pipe, 2, seed=1))
    p = panel(box.render, text("prompt", "a red cat", examples=("a dog at night", "")), slider("steps", 2, 6, 1, 3, live=False),
              slider("guidance", 1.0, 3.0, 0.5, 2.0, live=False), check=box.check, alt="box")
    shape, seen = box.render(prompt="a red cat", steps=3, guidance=2.0)[0].shape, set()
    for values in sweep(p):
        array, said = box.render(**values)
        assert array.shape == shape and array.dtype == np.uint8 and p.status.value == said
        seen.add(p.image.value)
    assert len(seen) == 3 + 5 + 5 - 2, "each stop draws its own picture; the first one comes three times"


def test_prompt_box_draws_what_the_sampler_draws_and_refuses_in_words(pipe, monkeypatch):
    z = initial_noise(pipe, 2, seed=1)
    box = PromptBox(pipe, z, negative="a tree")
    want = text_to_image(pipe, ["a dog"] * 2, steps=3, guidance=2.0, latents=z, negative="a tree")
    array, said = box.render(prompt=" a dog ", steps=3, guidance=2.0)
    assert all(holds(array, picture, 3) for picture in want) and "saw 12 rows" in said
    assert "saw 6 rows" in box.render(prompt="a dog", steps=3, guidance=1.0)[1]
    for bad, word in (("a red zebra", "zebra"), ("cat " * 40, "at most")):
        with pytest.raises(BadInput, match=word):
            box.check(prompt=bad, steps=3, guidance=2.0)
    assert box.check(prompt=" a dog ", steps=3, guidance=2.0) == "'a dog'"
    monkeypatch.setattr("minidiff.lessons.l09_stable_diffusion.panels.text_to_image",
                        lambda *a, **k: pytest.fail("moving back must be free"))
    assert np.array_equal(box.render(prompt="a dog", steps=3, guidance=2.0)[0], array)


def test_scrubber_over_the_whole_range(pipe, colours):
    run = list(denoise(pipe, ["a red cat", "a dog"], steps=6))
    scrubber = Scrubber(pipe, run, colours, row=1)
    p = panel(scrubber.render, play("step", 1, 6, 1, 2), alt="scrubber")
    assert len({p.image.value for _ in sweep(p)}) >= 5
    for k in (1, 4, 6):
        array, said = scrubber.render(step=k)
        s = run[k - 1]
        for picture in (colours(s.x)[1], colours(s.x0)[1], decode(pipe.vae, s.x0)[1].clamp(-1, 1)):
            assert holds(array, picture, 3)
        assert f"from t = {s.t} to" in said
    assert "the end" in said and not holds(array, decode(pipe.vae, run[0].x0)[1].clamp(-1, 1), 3)
    for bad in (0, 7):
        with pytest.raises(BadInput, match="step"):
            scrubber.render(step=bad)
    with pytest.raises(BadInput, match="steps"):
        Scrubber(pipe, [], colours)


def test_return_stands_at_equal_noise(pipe, colours):
    x = normal((1, 3, 16, 16), "test return", 0).clamp(-1, 1)
    there = list(invert_image(pipe, x, "a dog", steps=5))
    back = {w: list(denoise(pipe, "a dog", steps=5, guidance=w, latents=there[-1].x)) for w in (1.0, 6.0)}
    rounds = Return(pipe, x, there, {"w = 1": back[1.0], "w = 6": back[6.0]}, colours)
    p = panel(rounds.render, play("place", 0, 5, 1, 2), alt="return")
    assert len({p.image.value for _ in sweep(p)}) == 6
    for place in range(6):
        array, said = rounds.render(place=place)
        t = there[place - 1].t if place else -1
        states = [there[place - 1].x if place else encode(pipe.vae, x)]
        for steps in back.values():
            at = [there[-1].x] if place == 5 else [s.x for s in steps if s.t_prev == t]
            assert len(at) == 1, "one state of each way at this level"
            states += at
        assert all(holds(array, colours(z)[0], 2) for z in states)
        assert (f"t = {t}" if place else "picture") in said
    with pytest.raises(BadInput, match="place"):
        rounds.render(place=6)
    with pytest.raises(BadInput, match="back"):
        Return(pipe, x, there, {"short": back[1.0][:-1]}, colours)


# Claims -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(pipe, monkeypatch):
    monkeypatch.setattr(board, "load", lambda name: pipe if name == "mini-sd" else pytest.fail(name))
    board._costs.cache_clear()
    yield pipe
    board._costs.cache_clear()


def test_same_pixels_measures_a_difference(shipped, monkeypatch):
    row = board.same_pixels(3)
    assert row.value <= 1e-5 and row.low <= row.value == row.high and row.baseline["one step more"] > 10 * row.value
    right = board.text_to_image
    monkeypatch.setattr(board, "text_to_image", lambda pipe, prompts, **k: right(pipe, prompts, **k | {"guidance": 4.1}))
    assert board.same_pixels(3).value > 10 * row.value and not board.same_pixels(3).value <= 1e-5


def test_there_and_back_brings_each_picture_back_by_its_own_prompt(shipped, monkeypatch):
    x = normal((3, 3, 16, 16), "test back", 0).clamp(-1, 1)
    prompts = ["a dog", "a red cat", "a tree"]
    found = board.there_and_back(shipped, x, prompts, steps=4, weights=(1.0, 5.0), few=2)
    assert found[1.0].shape == (3, 3, 16, 16) and found[5.0].shape == (2, 3, 16, 16)
    swapped = board.there_and_back(shipped, x.flip(0), prompts[::-1], steps=4)[1.0]
    assert torch.allclose(swapped.flip(0), found[1.0], atol=1e-2), "each picture with its own prompt"
    trip = decode(shipped.vae, encode(shipped.vae, x)).clamp(-1, 1)
    right = shipped.unet.conv_out.forward
    monkeypatch.setattr(shipped.unet.conv_out, "forward", lambda h: torch.zeros_like(right(h)))
    assert torch.allclose(board.there_and_back(shipped, x, prompts, steps=4)[1.0], trip, atol=1e-3), "no noise anywhere"
    a = torch.zeros(1, 3, 2, 2)
    assert psnr(a, a + 0.02).item() == pytest.approx(40, abs=1e-3)


def test_inversion_is_held_against_the_round_trip(monkeypatch, pipe):
    """What comes back is the round trip plus an offset of known size: the row is the difference of two PSNRs."""
    monkeypatch.setattr(board, "load", lambda name: pipe)
    noise = {1.0: 0.02, 7.0: 0.2}

    def back(pipe, images, prompts, *, steps=50, weights=(1.0,), few=None):
        trip = decode(pipe.vae, encode(pipe.vae, images)).clamp(-1, 1)
        return {w: (trip if w == 1.0 else trip[:few]) + noise[w] * (2 if steps == 10 else 1) for w in weights}

    monkeypatch.setattr(board, "there_and_back", back)
    row = board.inversion(8)
    assert row.settings["back at w = 7"] == pytest.approx(row.value - 20, abs=0.01)
    assert row.settings["10 steps each way"] == pytest.approx(row.value - 20 * np.log10(2), abs=0.01)
    assert row.low <= row.value <= row.high and row.settings["against the picture itself"] < 1


def test_cost_counts_rows_and_one_decode(monkeypatch):
    monkeypatch.setattr(board, "_costs", lambda: {"pixels": 100, "narrow": 50, "moved": 1000, "latent": 20, "decode": 40})
    found = board.cost(10)
    assert found.low == found.value == found.high == pytest.approx(2000 / 440)
    others = {"half as wide above": 1000 / 440, "the same U-Net on pixels": 20000 / 440}
    assert found.settings == pytest.approx(others)
    assert found.floor == {"the U-Net's calls alone": 5.0}


def test_costs_by_hand():
    """One more word costs, at each cross-attention, its key and value, and one more column of scores and weights."""
    unet = make_unet(size=8, widths=(32, 64), context=16, heads=2)
    tall = board.pixel_unet(unet, 32)
    assert tall.config.block_out_channels == (32, 32, 32, 64) and tall.config.sample_size == 32 and tall.config.in_channels == 3
    assert [type(b).__name__ for b in tall.down_blocks] == ["DownBlock2D"] * 2 + ["CrossAttnDownBlock2D"] * 2
    crossed = [(64 // 4**s.level, (32, 64)[s.level]) for s in sites(unet).values() if s.kind == "cross"]
    one, two = (board.unet_cost(make_unet(size=8, widths=(32, 64), context=16, heads=2), 8, tokens) for tokens in (5, 6))
    assert two - one == sum(2 * 16 * wide + 2 * cells * wide for cells, wide in crossed)
    assert 3.0 < board.unet_cost(make_unet(size=16, widths=(32, 64), context=16, heads=2), 16, 5) / one < 6.0
