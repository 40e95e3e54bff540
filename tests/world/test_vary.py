"""Backdrops that vary: the first edition's where nothing varies, slopes, and no backdrop taken for another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from minidiff.errors import BadInput
from minidiff.world import BACKDROPS, STYLES, Scene, Scenes, Subject, Thing, morph, render, sample_scenes
from minidiff.world.backdrops import _flat, _in_one_go, backdrop_depth, backdrop_table, paint_backdrops
from minidiff.world.vocab import VARY

HERE = Path(__file__).parent
VARIED = (0.5, -0.25, 1.0, -1.0, 0.1)


def drawn(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, VARY, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [32, 64])
def test_without_variation_the_backdrops_are_the_first_editions(size):
    """Against pictures that the first edition's painter made: 6 rows of backdrops, 5 columns of styles."""
    raw = bytearray(Image.open(HERE / f"first_edition_{size}.png").convert("RGB").tobytes())
    old = torch.frombuffer(raw, dtype=torch.uint8).reshape(6, size, 5, size, 3).permute(0, 2, 4, 1, 3) / 255
    off = (backdrop_table(size) - old).abs().amax(2) * 255
    pixel = STYLES.index("pixel")
    assert off[:, [i for i in range(5) if i != pixel]].max() < 0.6          # half a step of the stored picture, and no more
    assert (off[:, pixel] > 0.6).float().mean() < 0.001                     # a colour on the edge of a step may fall either way


def test_a_scene_without_variation_is_drawn_before_that_backdrop():
    for i, backdrop in enumerate(BACKDROPS):
        for j, style in enumerate(STYLES):
            out = render(Scene((Thing("star", "red", size=0.05, x=0.5, y=0.95),), backdrop, style), 32)
            assert (out.images[0, :, :24] / 2 + 0.5 - backdrop_table(32)[i, j, :, :24]).abs().max() < 1e-6


def test_a_row_does_not_depend_on_its_batch_and_styles_are_painted_alike_in_one_go():
    which, style, vary = torch.arange(90) % 6, torch.arange(90) // 6 % 5, drawn(90)
    whole = paint_backdrops(which, style, vary, 32)
    one = torch.cat([paint_backdrops(which[i:i + 1], style[i:i + 1], vary[i:i + 1], 32) for i in range(90)])
    assert (whole - one).abs().max() < 1e-5
    assert (whole - _in_one_go(which, style, vary, 32)).abs().max() < 1e-5


class Waits(TorchDispatchMode):
    """Refuses what would make the host wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"), func
        return func(*args, **(kwargs or {}))


def test_painting_on_a_device_never_waits_for_it():
    which, style, vary = torch.arange(12) % 6, torch.arange(12) % 5, drawn(12)
    _in_one_go(which, style, vary, 32)                                     # the tables are made
    with Waits():
        _in_one_go(which, style, vary, 32)
        backdrop_depth(vary, 32)
    with pytest.raises(AssertionError), Waits():
        paint_backdrops(which, style, vary, 32)


@pytest.mark.parametrize("style", [s for s in STYLES if s != "pixel"])
def test_gradient_against_finite_differences(style):
    which, vary = torch.arange(6), drawn(6, 3) * 0.9
    rate = torch.tensor([0.05, 0.08, 0.06]) * 64                            # pixels a unit; layers are sampled linearly between
    vary[:, :3] = ((vary[:, :3] * rate).trunc() + 0.3 * vary[:, :3].sign()) / rate             # pixels: stay off the bends
    styles = torch.full((6,), STYLES.index(style))
    weight = torch.linspace(-1, 1, 64)[:, None] * torch.linspace(0.3, 1.7, 64) + torch.tensor([1.0, 0.6, -0.9])[:, None, None]

    def value(v: torch.Tensor) -> torch.Tensor:
        return (paint_backdrops(which, styles, v, 64).double() * weight).sum((1, 2, 3))

    leaf = vary.clone().requires_grad_(True)
    value(leaf).sum().backward()
    for i in range(VARY):
        step = torch.zeros(VARY)
        step[i] = 1e-3                                                     # less than a hundredth of a pixel
        slope = (value(vary + step) - value(vary - step)) / (2 * 1e-3)
        scale = float(slope.abs().max())
        assert scale > 0.3
        assert (leaf.grad[:, i] - slope).abs().max() < 0.06 * scale, (i, leaf.grad[:, i], slope)


def test_gradient_in_pixel_style_is_that_before_rounding():
    which, vary = torch.arange(6), drawn(6, 4)
    grads = []
    style = torch.full((6,), STYLES.index("pixel"))
    for paint in (lambda v: paint_backdrops(which, style, v, 32), lambda v: _flat(which, v, 32)):
        leaf = vary.clone().requires_grad_(True)
        (paint(leaf) * torch.linspace(0, 1, 16).repeat_interleave(2)).sum().backward()
        grads.append(leaf.grad)
    assert torch.allclose(*grads, rtol=1e-3, atol=1e-3) and grads[0].abs().min() > 0


def test_each_number_does_what_it_says():
    base = torch.zeros(1, VARY)
    def with_(i, v):
        return base + torch.eye(VARY)[i] * v
    def paint(name, v):
        return paint_backdrops(torch.tensor([BACKDROPS.index(name)]), torch.zeros(1, dtype=torch.int64), v, 64)[0]

    def ground(v):                                                          # rows of night that are ground
        return float((backdrop_depth(v, 64)[0, :, 0] < 1).sum())
    def moon(v):
        light = paint("night", v)[0, :, 40:]
        y, x = torch.nonzero(light > 0.7, as_tuple=True)
        return float(x.float().mean()), float(y.float().mean())
    assert ground(with_(0, -1)) - ground(with_(0, 1)) == pytest.approx(0.1 * 64, abs=1.01)
    edge = [int((paint("room", with_(0, v))[2, :, 2].diff().abs()[35:46]).argmax()) for v in (-1, 1)]
    assert edge[1] - edge[0] == pytest.approx(0.1 * 64, abs=1.01)
    assert moon(with_(1, 0.5))[0] - moon(with_(1, -0.5))[0] == pytest.approx(0.08 * 64, abs=1.0)
    assert moon(with_(2, 1))[1] - moon(with_(2, -0.25))[1] == pytest.approx(1.25 * 0.06 * 64, abs=1.0)
    assert (paint("night", with_(3, 1)) / paint("night", base)).median() == pytest.approx(1.06, abs=1e-4)
    warm = (paint("night", with_(4, 1)) / paint("night", base)).flatten(1).median(1).values
    assert torch.allclose(warm, torch.tensor([1.04, 1.0, 0.96]), atol=1e-4)


@pytest.mark.parametrize("style", STYLES)
def test_no_backdrop_is_taken_for_another(style):
    j, n = STYLES.index(style), 600
    which = torch.arange(n) % 6
    vary = drawn(n, 7)
    vary[: n // 2] = vary[: n // 2].sign()                                  # half of them in the corners
    known, name = backdrop_table(32)[:, j], torch.arange(6)
    if style == "neon":                                                     # thin lines: one pixel aside is as far as gone, so
        name = torch.arange(1800) % 6                                       # the nearest of many that vary, other ones
        known = paint_backdrops(name, torch.full((1800,), j), drawn(1800, 8), 32)
    made = paint_backdrops(which, torch.full((n,), j), vary, 32)
    distance = torch.cdist(made.flatten(1), known.flatten(1))
    assert bool((name[distance.argmin(1)] == which).all())
    assert distance.min() > 0.1


def test_words_and_tensors_keep_vary():
    scene = Scene((Thing("cat", "red"), Thing("dog", "blue", x=0.2)), "night", vary=VARIED)
    again = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
    assert again == scene and again.vary == VARIED and scene != scene.replace(vary=(0.0,) * 5)
    assert "vary" not in scene.replace(vary=(0,) * 5).to_dict() and "vary" not in repr(scene.replace(vary=(0,) * 5))
    assert eval(repr(scene)) == scene
    batch = Scenes.of([scene, scene.replace(vary=(0,) * 5)])
    assert torch.allclose(batch.vary, torch.tensor([VARIED, (0.0,) * 5]))
    assert list(batch) == [scene, scene.replace(vary=(0,) * 5)] and batch[0] == scene
    assert list(Scenes.cat([batch[1:], batch[:1]]))[1] == scene
    assert batch.replace(vary=batch.vary.flip(0))[1] == scene
    assert scene.replace_thing(0, colour="green").vary == scene.replace(backdrop="snow").vary == VARIED
    bare = {n: v for n, v in batch.tensors().items() if n != "vary"}
    assert Scenes(**bare).vary.abs().max() == 0 and "vary" in batch.tensors()
    sampled = sample_scenes(range(64), level="full")
    assert torch.equal(Scenes.of(list(sampled)).vary, sampled.vary)


def test_between_two_scenes_vary_goes_in_a_straight_line():
    a, b = Scene((Thing("cat", "red"),), "night", vary=VARIED), Scene((Thing("cat", "red"),), "snow", vary=(-1.0, 0, 0, 0, 0))
    assert a.interpolate(b, 0.25).vary == pytest.approx(tuple(0.75 * p + 0.25 * q for p, q in zip(a.vary, b.vary, strict=True)))
    assert a.interpolate(b, 0) == a and a.interpolate(b, 1) == b
    frames = morph(a, b, [0.0, 0.25, 1.0])
    assert torch.allclose(frames.vary[1], 0.75 * frames.vary[0] + 0.25 * frames.vary[2], atol=1e-6)
    assert (render(frames[:1]).images - render(a).images).abs().max() < 1e-5
    assert (render(frames[2:]).images - render(b).images).abs().max() < 1e-5


def test_depth_follows_the_horizon():
    low, high = (render(Scene((Thing("cat", "red", size=0.05),), vary=(v, 0, 0, 0, 0))).depth[0, :, 0] for v in (1, -1))
    assert int((low < 1).sum()) < int((high < 1).sum()) and low[-1] == pytest.approx(0.6, abs=0.02)


def test_sampled_scenes_draw_vary_evenly_and_shots_vary():
    scenes = sample_scenes(range(10_000), level="full")
    vary = scenes.vary
    assert vary.dtype == torch.float32 and vary.abs().max() <= 1
    assert (vary.mean(0).abs() < 5 / 3**0.5 / 100).all() and (vary.std(0) - 3**-0.5).abs().max() < 0.02
    others = [scenes.x[:, 0], scenes.present.sum(1), scenes.backdrop, scenes.style, scenes.kind[:, 0], scenes.size[:, 0]]
    mixed = torch.corrcoef(torch.cat((vary, torch.stack(others, 1).float()), 1).T)[:5]
    assert (mixed - torch.eye(5, 11)).abs().max() < 0.06
    shots = Subject.of(Thing("cat", "blue")).shots(12, backdrops=("snow",))
    assert (shots.images[:6] - shots.images[6:])[:, :, :6, 30:34].abs().amax((1, 2, 3)).min() > 0.002


def test_shots_without_vary_stand_before_the_plain_backdrop():
    cat = Subject.of(Thing("cat", "blue"))
    varied, half, plain = (cat.shots(6, seed=2, vary=v) for v in (1, 0.5, 0))
    assert torch.equal(plain.place, varied.place) and torch.equal(plain.masks, varied.masks)
    behind = torch.stack([render(Scene((Thing("cat", "red", size=0.05, x=0.1, y=0.9),), b)).images[0] for b in plain.backdrops])
    far = [((s.images - behind).abs().amax(1) * (s.masks == 0))[:, :40].amax((1, 2)) for s in (varied, half, plain)]
    assert far[2].max() < 1e-6 and (far[1] > 1e-3).all() and far[0].mean() > far[1].mean()
    with pytest.raises(BadInput, match="vary"):
        cat.shots(2, vary=2)


@pytest.mark.parametrize("vary", [(0,) * 4, (0, 0, 0, 0, 1.5), None, (0, 0, 0, 0, "warm")])
def test_what_is_refused(vary):
    with pytest.raises(BadInput, match="vary"):
        Scene((Thing("cat", "red"),), vary=vary)
    with pytest.raises(BadInput, match="vary"):
        Scenes.of([Scene((Thing("cat", "red"),))]).replace(vary=torch.zeros(1, 4))
