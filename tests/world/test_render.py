"""The renderer: against itself at other sizes, batches and places, and its gradient against finite differences."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from minidiff.errors import BadInput
from minidiff.world import (
    ANIMALS,
    BACKDROPS,
    COLOURS,
    KINDS,
    PATTERNS,
    STYLES,
    WEARS,
    Scene,
    Scenes,
    Thing,
    render,
    sample_scenes,
)
from minidiff.world.sprites import parts

FULL = sample_scenes(torch.arange(48), level="full")


def test_values_and_shapes():
    out = render(FULL, 64)
    assert out.images.shape == (48, 3, 64, 64) and out.masks.shape == (48, 3, 64, 64) and out.depth.shape == (48, 64, 64)
    assert out.images.min() >= -1 and out.images.max() <= 1
    assert out.masks.min() >= 0 and out.masks.sum(1).max() <= 1 + 1e-5
    assert out.depth.min() >= 0 and out.depth.max() <= 1
    assert torch.equal(out.masks.sum((2, 3)) > 0, FULL.present)


def test_a_scene_does_not_depend_on_its_batch():
    together = render(FULL, 64)
    alone = render(FULL[torch.tensor([17])], 64)
    assert torch.allclose(together.images[17:18], alone.images, atol=2e-5)
    assert torch.allclose(together.masks[17:18], alone.masks, atol=2e-5)


def test_small_is_the_average_of_large():
    """An anti-aliased picture is close to the box average of one four times as large (flat style: no texture)."""
    scenes = sample_scenes(torch.arange(64), level="simple")
    small, large = render(scenes, 32), render(scenes, 128)
    # the stroke keeps about a pixel at every size, so colours near the edge differ; masks do not
    assert (small.masks - F.avg_pool2d(large.masks, 4)).abs().mean() < 0.002
    assert (small.masks - F.avg_pool2d(large.masks, 4)).abs().amax() < 0.45
    assert (small.images - F.avg_pool2d(large.images, 4)).abs().mean() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_moving_by_whole_pixels_moves_the_mask(kind):
    thing = Thing(kind, "red", size=0.2, x=0.40625, y=0.5)
    a = render(Scene((thing,)), 64).masks[0, 0]
    b = render(Scene((thing.replace(x=thing.x + 10 / 64, y=thing.y - 6 / 64),)), 64).masks[0, 0]
    assert torch.allclose(torch.roll(a, (-6, 10), (0, 1)), b, atol=1e-4)
    assert a.sum() > 100


@pytest.mark.parametrize("kind", KINDS)
def test_mask_area_by_brute_force(kind):
    """The mask's area against counting points inside the union of the parts on a fine grid."""
    line = torch.linspace(-1.3, 1.3, 521, dtype=torch.float64)
    v, u = torch.meshgrid(line, line, indexing="ij")
    mood = torch.full((1, 1, 1), 1 if kind in ANIMALS else 0)
    inside = torch.stack([d for d, _ in parts(kind, u[None], v[None], mood)]).amin(0) < 0
    area = float(inside.double().mean()) * 2.6**2 * (0.25 * 64) ** 2
    got = float(render(Scene((Thing(kind, "blue", size=0.25),)), 64).masks.sum())
    assert got == pytest.approx(area, rel=0.03)


@pytest.mark.parametrize("field", ["x", "y", "size"])
def test_gradient_against_finite_differences(field):
    scenes = sample_scenes(torch.arange(6), level="simple")
    weight = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    weight = F.avg_pool2d(weight, 9, 1, 4)  # smooth, so that a finite step sees the same slope

    def value(shift: float) -> torch.Tensor:
        moved = dataclasses.replace(scenes, **{field: getattr(scenes, field) + shift})
        return (render(moved, 64).images.double() * weight).sum((1, 2, 3))

    leaf = getattr(scenes, field).clone().requires_grad_(True)
    (render(dataclasses.replace(scenes, **{field: leaf}), 64).images * weight).sum().backward()
    h = 2e-4  # anti-aliasing bends the function at every pixel's edge: the step must stay far below a pixel (1/64)
    slope = (value(h) - value(-h)) / (2 * h)
    assert slope.abs().max() > 100
    assert torch.allclose(leaf.grad.sum(1).double(), slope, atol=0.05 * float(slope.abs().max()), rtol=0.05)


def test_a_counterfactual_changes_nothing_else():
    scene = Scene((Thing("cat", "red", x=0.3), Thing("house", "blue", x=0.75, y=0.55)), backdrop="room")
    before, after = render(scene, 64), render(scene.replace_thing(0, colour="green"), 64)
    changed = (before.images - after.images).abs().amax(1)[0] > 1e-6
    assert changed.any()
    assert (before.masks[0, 0][changed] > 0).all()
    assert torch.equal(before.masks, after.masks) and torch.equal(before.depth, after.depth)


def test_the_last_thing_is_in_front():
    under, over = Thing("house", "blue", size=0.3), Thing("star", "yellow", size=0.15)
    out = render(Scene((under, over)), 64)
    assert out.masks[0, 1].max() > 0.99 and (out.masks[0, 0] * (out.masks[0, 1] > 0.999)).max() < 1e-3
    near, far = out.depth[0][out.masks[0, 1] > 0.99], out.depth[0][out.masks[0, 0] > 0.99]
    assert near.max() < far.min() < 0.55
    alone = render(Scene((over,)), 64)
    assert torch.allclose(alone.masks[0, 0], out.masks[0, 1], atol=1e-5)


@pytest.mark.parametrize("name,values", [("backdrop", BACKDROPS), ("style", STYLES)])
def test_every_word_of_a_scene_can_be_seen(name, values):
    pictures = [render(Scene((Thing("cat", "red"),), **{name: value}), 64).images for value in values]
    for i, a in enumerate(pictures):
        for b in pictures[i + 1 :]:
            assert (a - b).abs().mean() > 0.02


@pytest.mark.parametrize(
    "name,values",
    [
        ("kind", KINDS),
        ("colour", tuple(COLOURS)),
        ("pattern", PATTERNS),
        ("wears", WEARS),
        ("mood", ("happy", "sad", "surprised")),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_every_word_of_a_thing_can_be_seen(name, values, style):
    base = Thing("dog", "orange", size=0.28)
    pictures = [render(Scene((base.replace(**{name: value}),), style=style), 64).images for value in values]
    for i, a in enumerate(pictures):
        for b in pictures[i + 1 :]:
            assert (a - b).abs().amax(1).flatten().topk(8).values.mean() > 0.08, (name, style)


@pytest.mark.parametrize("size", [0, 15, 33, 64.0, "64", -2])
def test_sizes_that_cannot_be_drawn(size):
    with pytest.raises(BadInput, match="size"):
        render(FULL, size)


def test_things_at_the_border_stay_in_their_own_picture():
    scene = Scene((Thing("bear", "red", x=0.0, y=1.0, size=0.3),))
    pair = Scenes.of([scene, Scene((Thing("star", "blue"),))])
    out = render(pair, 64)
    assert torch.allclose(out.images[1:], render(pair[1], 64).images, atol=2e-5)
    assert out.masks[0, 0, :16].max() == 0 and out.masks[0, 0, -4:, :4].min() > 0.9
