"""Drag: motion supervision and tracking in closed form on a blob, then DragDiffusion on pipelines, and the paste beside it."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from minidiff import BadInput, load
from minidiff.course.editions import first_edition
from minidiff.diffusion import last
from minidiff.editing import blob, cells, cut_and_paste, drag, dragging, features_at, motion_loss, paste_moved, swept, track
from minidiff.editing.drag import ShareKV
from minidiff.latent import encode_prompt, initial_noise
from minidiff.measure import read
from minidiff.personal import picture_lora
from minidiff.rng import normal
from minidiff.steer import Row, StepContext, attention
from minidiff.steer.attention import Site
from minidiff.world import Scene, Scenes, Thing, render
from tests.pipelines import CASES, make, shared

PROMPT = "a red cat on the grass"


# On a feature map --------------------------------------------------------------------------------------------------------------


def test_places_are_x_then_y_and_features_between_cells_are_in_proportion():
    features = normal((2, 3, 5, 8), "features", 0)
    assert torch.allclose(cells(torch.tensor([0.5 / 8, 4.5 / 5]), (5, 8)), torch.tensor([0.0, 4.0]), atol=1e-6)
    places = torch.tensor([[[6.0, 1.0], [0.0, 4.0]], [[2.0, 3.0], [7.0, 0.0]]])
    got = features_at(features, places)
    assert got.shape == (2, 2, 3)
    want = torch.stack([features[b, :, places[b, k, 1].long(), places[b, k, 0].long()] for b in (0, 1) for k in (0, 1)])
    assert torch.allclose(got.flatten(0, 1), want, atol=1e-5)
    between = features_at(features, torch.tensor([[[6.25, 1.0]]] * 2))[:, 0]
    assert torch.allclose(between, 0.75 * features[:, :, 1, 6] + 0.25 * features[:, :, 1, 7], atol=1e-5)
    assert torch.allclose(features_at(features, torch.tensor([[[-3.0, 9.0]]] * 2))[:, 0], features[:, :, 4, 0], atol=1e-5)


@pytest.mark.parametrize("goal", [(11.0, 4.0), (5.0, 1.0), (4.0, 4.0)])
def test_the_motion_loss_of_a_blob_and_its_gradient_in_closed_form(goal):
    """At its centre a blob is 1 and one cell away e = exp(-1/(2 s^2)): the loss is 1 - e, its gradient -e d / s^2."""
    c, s = torch.tensor([[5.0, 4.0]], dtype=torch.float64, requires_grad=True), 2.0
    place, goals = c.detach()[:, None], torch.tensor([[goal]], dtype=torch.float64)
    loss = motion_loss(blob(c, (9, 14), width=s), place, goals, radius=0)
    e, way = math.exp(-1 / (2 * s**2)), goals[0, 0] - place[0, 0]
    assert loss.shape == (1,) and abs(loss.item() - (1 - e)) < 1e-12
    gradient = torch.autograd.grad(loss.sum(), c)[0]
    assert torch.allclose(gradient[0], -e * way / way.norm() / s**2, atol=1e-12), "the blob is not pulled to its goal"


def test_the_loss_sums_squares_and_handles_and_ends_where_they_arrive():
    features = normal((1, 4, 12, 15), "features", 1).double()
    place = torch.tensor([[[5.0, 6.0], [9.0, 3.0]]], dtype=torch.float64)
    goals = place + torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    want = 0.0
    for (x, y), (dx, dy) in (((5, 6), (1, 0)), ((9, 3), (0, 0.5))):              # less than a cell left: what is left
        for j in (-1, 0, 1):
            for i in (-1, 0, 1):
                here = features[0, :, y + j, x + i]
                there = torch.lerp(here, features[0, :, y + j + 1, x + i], dy) if dy else features[0, :, y + j, x + i + dx]
                want += float((there - here).abs().mean())
    assert abs(float(motion_loss(features, place, goals, radius=1)) - want) < 1e-12
    one = motion_loss(features, place[:, :1], goals[:, :1], radius=1)
    assert torch.allclose(motion_loss(features, place, goals, radius=1, near=1.0), one), "a handle that is there still pulls"
    assert not motion_loss(features, place, place, radius=2).any()


@pytest.mark.parametrize("shift", [(3, -2), (-3, 3), (1, 0), (0, 0)])
def test_tracking_finds_a_blob_that_moved_and_stays_where_nothing_did(shift):
    centres, size = torch.tensor([[9.0, 8.0], [12.0, 7.0]]), (16, 22)
    before = torch.cat([blob(centres, size, width=2.0), blob(centres + 1, size, width=4.0)], 1)
    first, moved = features_at(before, centres[:, None]), centres + torch.tensor(shift)
    after = torch.cat([blob(moved, size, width=2.0), blob(moved + 1, size, width=4.0)], 1)
    assert torch.equal(track(after, first, centres[:, None], radius=3)[:, 0], moved)
    flat = torch.ones(2, 1, *size)
    assert torch.equal(track(flat, torch.ones(2, 1, 1), centres[:, None]), centres[:, None]), "of equals the nearest is taken"


def test_a_blob_is_dragged_to_its_goal():
    c = torch.tensor([[4.0, 5.0]], requires_grad=True)
    goals, place = torch.tensor([[[10.0, 8.0]]]), c.detach()[:, None].clone()
    first = features_at(blob(c.detach(), 16), place)
    for _ in range(200):
        loss = motion_loss(blob(c, 16), place, goals, near=0.5)
        c.data -= 1.0 * torch.autograd.grad(loss.sum(), c)[0]
        place = track(blob(c.detach(), 16), first, place)
    assert (c - goals[:, 0]).norm() < 1.0 and (place - goals).norm() < 1.0


def test_the_free_region_is_what_lies_near_the_way():
    free = swept(torch.tensor([[[0.25, 0.5]]]), torch.tensor([[[0.75, 0.5]]]), 0.125, (8, 16))
    x, y = (torch.arange(16) + 0.5) / 16, (torch.arange(8) + 0.5) / 8
    far = (x - x.clamp(0.25, 0.75))[None].square() + (y - 0.5)[:, None].square()
    assert free.shape == (1, 1, 8, 16) and torch.equal(free[0, 0], (far <= 0.125**2 + 1e-9).float())


# On pipelines ----------------------------------------------------------------------------------------------------------------


def images_for(pipe, n=2):
    f, side = pipe.vae_scale_factor, pipe.unet.config.sample_size
    return normal((n, 3, f * side, f * side), "pictures", 0).clamp(-1, 1)


@pytest.mark.parametrize("case", CASES)
def test_handles_on_their_targets_change_nothing(case):
    pipe = shared(case)
    points = [(0.4, 0.5), (0.6, 0.3)]
    made = drag(pipe, PROMPT, images_for(pipe), points, points, steps=5, share=True)
    film = made.details["film"]
    assert len(film) == 1 and not film[0].loss.any() and not film[0].going.any()
    assert torch.allclose(film[0].handles, torch.tensor(points), atol=1e-6)
    source, edit = (made.trajectory[b].latents for b in ("source", "edit"))
    assert torch.equal(source[0], edit[0]) and source.shape == edit.shape


@pytest.mark.parametrize("case", CASES)
def test_only_the_free_part_moves_and_a_picture_that_has_arrived_is_left_alone(case):
    pipe = shared(case)
    z = initial_noise(pipe, 2, seed=1)
    free = torch.zeros(1, 1, *(pipe.vae_scale_factor * side for side in z.shape[-2:]))
    free[..., free.shape[-1] // 2:] = 1
    handles = torch.tensor([[[0.3, 0.5]], [[0.7, 0.5]]])
    targets = torch.tensor([[[0.3, 0.5]], [[0.7, 0.9]]])
    t, context = 601, encode_prompt(pipe, [PROMPT] * 2)
    states = list(dragging(pipe, z, t, context, handles, targets, free=free, iterations=4, lr=0.05, search=0))
    half = z.shape[-1] // 2
    assert [s.iteration for s in states] == [0, 1, 2, 3, 4] and torch.equal(states[0].z, z)
    moved = states[-1].z - z
    assert not moved[0].any(), "a picture without a way to go was changed"
    assert not moved[1, :, :, :half].any() and bool((moved[1, :, :, half:] != 0).any())
    first = (states[1].z - z)[1, :, :, half:]
    assert torch.allclose(first.abs()[first != 0], torch.tensor(0.05), rtol=1e-2), "the first step of Adam is lr long"
    assert states[-1].z.requires_grad is False and not pipe.unet.up_blocks[0]._forward_hooks
    assert all(s.x0.shape == z.shape and s.handles.shape == handles.shape for s in states)


def test_a_picture_that_has_arrived_is_not_carried_on_and_tracking_compares_with_the_start(monkeypatch):
    """The first picture is told that it has arrived after two steps; Adam still has momentum then."""
    pipe, calls = shared(CASES[1]), []
    goals = cells(torch.tensor([[[0.8, 0.5]], [[0.8, 0.5]]]), tuple(pipe.vae_scale_factor * 4 for _ in "hw"))

    def arrives(features, first, places, *, radius):
        calls.append(first)
        return torch.cat([goals[:1] if len(calls) >= 2 else places[:1], places[1:]])

    monkeypatch.setattr(sys.modules["minidiff.editing.drag"], "track", arrives)
    states = list(dragging(pipe, initial_noise(pipe, 2, seed=1), 601, encode_prompt(pipe, [PROMPT] * 2), [(0.2, 0.5)],
                           [(0.8, 0.5)], iterations=5, lr=0.05))
    assert [s.going.tolist() for s in states] == [[True, True]] * 2 + [[False, True]] * 4
    assert not torch.equal(states[2].z[0], states[1].z[0]), "the step before it arrived is missing"
    assert torch.equal(states[5].z[0], states[2].z[0]), "momentum carried on a picture that had arrived"
    assert not torch.equal(states[5].z[1], states[2].z[1])
    assert len(calls) == 5 and all(torch.equal(first, calls[0]) for first in calls), "tracking compares with another step"


def test_the_latent_goes_down_the_motion_loss():
    """The loss of the loop, by hand from a plain hook; a short step of the loop makes it less."""
    pipe = make(CASES[1])
    pipe.unet.double()
    z, context = initial_noise(pipe, 1, seed=2).double(), encode_prompt(pipe, PROMPT).double()
    handles, targets = [(0.4, 0.6)], [(0.8, 0.6)]
    start, after = list(dragging(pipe, z, 601, context, handles, targets, iterations=1, lr=1e-4, search=0))
    assert float(after.loss) < float(start.loss)
    size = tuple(side * pipe.vae_scale_factor // 2 for side in z.shape[-2:])
    place, goal = (cells(torch.tensor([p]).double(), size) for p in (handles, targets))
    held = {}
    hook = pipe.unet.up_blocks[0].register_forward_hook(lambda m, a, out: held.update(out=out))

    def loss(x):
        pipe.unet(x, 601, encoder_hidden_states=context)
        big = torch.nn.functional.interpolate(held["out"], size=size, mode="bilinear")
        return float((features_at(big, place + torch.tensor([1.0, 0.0])) - now).abs().mean())

    pipe.unet(z, 601, encoder_hidden_states=context)
    now = features_at(torch.nn.functional.interpolate(held["out"], size=size, mode="bilinear"), place)
    one = list(dragging(pipe, z, 601, context, handles, targets, iterations=0, supervise=0))[0]
    assert abs(float(one.loss) - loss(z)) < 1e-9
    step = list(dragging(pipe, z, 601, context, handles, targets, iterations=1, lr=1e-6, supervise=0, search=0))[1].z - z
    assert loss(z + step) < loss(z)
    hook.remove()


def test_shared_keys_and_values_are_those_of_the_source():
    q, k, v = (normal((4, 2, 6, 3), name, 0) for name in "qkv")
    ctx = StepContext(1, 4, 500, 400, 0.5, 0.6, (2, 3), 2, (Row("source"), Row("edit")))
    site = Site("up", "self", "up", 0, 2)
    out = ShareKV().attend(site, q, k, v, ctx, lambda q, k, v: attention(q, k, v)[0])
    assert torch.allclose(out[:2], attention(q[:2], k[:2], v[:2])[0], atol=1e-6)
    assert torch.allclose(out[2:], attention(q[2:], k[:2], v[:2])[0], atol=1e-6)
    places = [("self", "up", 0), ("self", "up", 1), ("self", "up", 2), ("cross", "up", 0), ("self", "down", 0)]
    chosen = [ShareKV(levels=2).selects(Site("site", *place, 2)) for place in places]
    assert chosen == [True, True, False, False, False]
    assert not ShareKV(start=0.5).active(ctx) and ShareKV(start=0.25).active(ctx)


def test_an_adapter_of_a_picture_learns_it_and_leaves_no_trace():
    pipe = make(CASES[1])
    image, z, context = images_for(pipe, 1), initial_noise(pipe, 1), encode_prompt(pipe, PROMPT)
    before, weights = pipe.unet(z, 300, encoder_hidden_states=context).sample, {k: v.clone() for k, v in
                                                                                 pipe.unet.state_dict().items()}
    lora = picture_lora(pipe, image, PROMPT, rank=2, iterations=3, batch=2)
    assert torch.equal(pipe.unet(z, 300, encoder_hidden_states=context).sample, before), "the adapter is still attached"
    assert all(torch.equal(v, weights[k]) for k, v in pipe.unet.state_dict().items())
    with lora:
        assert not torch.allclose(pipe.unet(z, 300, encoder_hidden_states=context).sample, before, atol=1e-4)
    with pytest.raises(BadInput, match="image"):
        picture_lora(pipe, images_for(pipe), PROMPT)


def test_what_cannot_be_dragged_is_refused():
    pipe = shared(CASES[1])
    x = images_for(pipe)
    for handles, targets, name in (([(0.3, 0.5)], [(0.3, 0.5), (0.1, 0.1)], "targets"), ([(0.3, 1.5)], [(0.3, 0.5)], "handles"),
                                   ([0.3, 0.5], [(0.3, 0.5)], "handles"), ([(20.0, 30.0)], [(0.3, 0.5)], "handles")):
        with pytest.raises(BadInput, match=name):
            drag(pipe, PROMPT, x, handles, targets, steps=3)
    with pytest.raises(BadInput, match="level"):
        drag(pipe, PROMPT, x, [(0.3, 0.5)], [(0.5, 0.5)], level=1.0, steps=3)
    with pytest.raises(BadInput, match="prompt"):
        drag(pipe, [PROMPT] * 3, x, [(0.3, 0.5)], [(0.5, 0.5)], steps=3)


# The paste beside it ----------------------------------------------------------------------------------------------------------


def test_a_paste_by_whole_pixels_moves_pixels_and_leaves_the_rest():
    x = normal((1, 3, 20, 24), "picture", 0).clamp(-1, 1)
    mask = torch.zeros(1, 1, 20, 24)
    mask[..., 5:9, 4:10] = 1
    made = cut_and_paste(x, mask, torch.tensor([[10 / 24, 6 / 20]]), rim=1)
    assert torch.allclose(made[..., 11:15, 14:20], x[..., 5:9, 4:10], atol=1e-5)
    other = torch.ones(1, 3, 20, 24, dtype=torch.bool)
    other[..., 11:15, 14:20] = other[..., 4:10, 3:11] = False
    assert torch.allclose(made[other], x[other], atol=1e-5)
    hole = made[..., 5:9, 4:10]
    assert hole.amax() <= x.amax() and float(hole.std()) < 0.5 * float(x[..., 5:9, 4:10].std()), "the hole is not smooth"
    still = cut_and_paste(x, mask, torch.zeros(1, 2), rim=1)
    assert torch.allclose(still[..., 5:9, 4:10], x[..., 5:9, 4:10], atol=1e-5)
    for arguments, name in (((x, mask[:, 0], torch.zeros(1, 2)), "mask"), ((x, mask, torch.zeros(2)), "shift")):
        with pytest.raises(BadInput, match=name):
            cut_and_paste(*arguments)


# On mini-sd -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved():
    """A mushroom that is to go 13 pixels up and left."""
    scene = Scene((Thing("mushroom", "yellow", size=0.24, x=0.62, y=0.66),), backdrop="grass")
    goal = scene.replace_thing(0, x=0.48, y=0.5)
    return first_edition(Scenes.of([scene])), first_edition(Scenes.of([goal]))


def test_mini_sd_drags_a_thing_by_its_features(moved):
    source, goal = moved
    pipe, drawn = load("mini-sd"), render(source, 64)
    centre, end = (torch.stack([s.x[:, 0], s.y[:, 0]], -1)[:, None] for s in (source, goal))
    arms = 0.45 * source.size[:, :1, None] * torch.tensor([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1.0]])
    handles = centre + arms
    free = swept(centre, end, 1.35 * float(source.size[0, 0]), 64)
    made = drag(pipe, "a yellow mushroom on the grass", drawn.images, handles, handles + end - centre, free=free)
    away = 64 * (made.details["handles"] - handles - end + centre).norm(dim=-1)
    assert float(away.mean()) < 3.0
    for images in (made.edit, paste_moved(pipe, "a yellow mushroom on the grass", drawn.images, drawn.masks[:, :1],
                                          (end - centre)[:, 0]).edit):
        seen = read(images, load("readers/develop")).scenes
        apart = 64 * torch.tensor([float(seen.x[0, 0] - goal.x[0, 0]), float(seen.y[0, 0] - goal.y[0, 0])]).norm()
        assert float(apart) < 4.0 and int(seen.kind[0, 0]) == int(source.kind[0, 0])
    assert last(made.details["film"]).iteration > 10
