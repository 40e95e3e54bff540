"""Lesson 17: its edits, the toy, panels over their whole range, and the rows on made-up answers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minidiff import BadInput, load
from minidiff.course import claims
from minidiff.editing import sdedit
from minidiff.editing.diffuseit import diffuseit
from minidiff.editing.key_losses import Features, key_contrast, self_similarity, structure_loss
from minidiff.latent import initial_noise
from minidiff.lessons.l17_diffuseit import claims as board
from minidiff.lessons.l17_diffuseit import data, panels
from minidiff.lessons.l17_diffuseit.claims import Edited
from minidiff.lessons.l17_diffuseit.data import displaced, layout_edits, patches, preferred, reader_features
from minidiff.lessons.l17_diffuseit.panels import Patches, StartPlane, framed_patch
from minidiff.lessons.l17_diffuseit.toys import angles, descend, key_grid, turned
from minidiff.measure import edit_pairs, edit_score
from minidiff.rng import normal
from minidiff.show import choice, panel, slider, sweep
from minidiff.world import held_out, parse
from tests.pipelines import CASES, shared


def pictures(pipe, n=2):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return F.interpolate(normal((n, 3, 4, 4), "lesson 17 pictures", 0), size=side).clamp(-1, 1)


# The edits -----------------------------------------------------------------------------------------------------------------


def test_everything_but_the_layout_changes():
    pairs = layout_edits(24)
    assert len(pairs) == 24 and pairs.edit == "layout"
    for i in range(24):
        a, b = pairs.source[i].things[0], pairs.target[i].things[0]
        assert a.kind != b.kind and a.colour != b.colour and pairs.source[i].backdrop != pairs.target[i].backdrop
        assert (a.x, a.y, a.size) == (b.x, b.y, b.size) and not held_out(b.kind, b.colour)
        said = parse(pairs.targets[i])
        assert said.things[0].kind == b.kind and said.things[0].colour == b.colour
        assert parse(pairs.prompts[i]).things[0].kind == a.kind
    assert layout_edits(5).targets == pairs.targets[:5], "a row does not depend on how many there are"
    assert layout_edits(5, split="test").targets != pairs.targets[:5]


def test_a_thing_is_put_elsewhere_and_stays_in_the_picture():
    scenes = layout_edits(24).target
    moved = displaced(scenes)
    gap = ((moved.x - scenes.x) ** 2 + (moved.y - scenes.y) ** 2)[:, 0] ** 0.5
    assert float(gap.min()) >= data.FAR - 1e-6 and float(gap.median()) < 0.4
    size = scenes.size[:, 0]
    assert bool((moved.x[:, 0] >= 1.09 * size).all()) and bool((moved.y[:, 0] <= 1 - 1.09 * size).all())
    for name in ("kind", "colour", "size", "backdrop"):
        assert torch.equal(getattr(moved, name), getattr(scenes, name))


def test_what_is_preferred_is_a_pair_of_losses():
    seen = []

    def look(x):
        seen.append(x)
        return patches(x)

    got = preferred(look, 4)
    source, right, wrong = seen
    want = torch.stack([structure_loss(patches(right).keys, patches(source).keys),
                        structure_loss(patches(wrong).keys, patches(source).keys)], 1)
    assert torch.allclose(got, want.double()) and got.shape == (4, 2)
    assert float((right - wrong).abs().amax((1, 2, 3)).min()) > 0.1
    other = preferred(look, 4, loss=lambda a, b: key_contrast(a, b))
    assert not torch.allclose(other, got)


def test_features_of_patches_and_of_a_reader():
    x = normal((2, 3, 64, 64), "picture", 0).clamp(-1, 1)
    keys = patches(x).keys
    assert keys.shape == (2, 64, 192) and torch.equal(keys[1, 9].reshape(3, 8, 8), x[1, :, 8:16, 8:16])
    reader = load("readers/guide")
    leaf = x.requires_grad_()
    seen = reader_features(reader)(leaf)
    last = reader(x).layers[-1]
    assert seen.keys.shape == (2, last.shape[2] * last.shape[3], last.shape[1])
    assert torch.allclose(seen.keys[0, 10], last[0, :, 10 // last.shape[3], 10 % last.shape[3]])
    assert torch.allclose(seen.pooled, last.mean((2, 3)))
    assert bool(torch.autograd.grad(seen.keys.square().sum(), leaf)[0].abs().sum() > 0)


# The toy -------------------------------------------------------------------------------------------------------------------


def test_the_toys_keys_are_a_thing_before_a_backdrop():
    keys = key_grid(5, 6)
    assert torch.allclose(keys.norm(dim=-1), torch.ones(1, 30, dtype=torch.float64))
    turn = angles(keys)[0]
    assert turn.shape == (5, 6) and float(turn[2, 2] - turn[0, 2]) == pytest.approx(1.6)
    assert float(turn[0, 3] - turn[0, 2]) == pytest.approx(0.05)
    assert 0 <= float(angles(normal((3, 30, 2), "turn", 0)).min()) and float(angles(-keys).max()) < 2 * math.pi


def test_structure_finds_the_pattern_and_contrast_the_keys():
    own = key_grid()
    found = descend(structure_loss, own, seed=1)
    assert float(structure_loss(found, own)) < 1e-4 and float((found - own).norm(dim=-1).mean()) > 0.3
    assert torch.equal(descend(structure_loss, own, seed=1), found), "a start is a function of its seed"
    around = turned(own, 1.0)
    assert torch.allclose((around * own).sum(-1), torch.full((1, 30), math.cos(1.0), dtype=torch.float64))
    assert float(angles(around)[0, 0, 0] - angles(own)[0, 0, 0]) == pytest.approx(1.0)
    off = {loss: float((descend(loss, own, start=around) * own).sum(-1).clamp(-1, 1).arccos().mean())
           for loss in (structure_loss, key_contrast)}
    assert off[structure_loss] == pytest.approx(1.0, abs=0.05) and off[key_contrast] < 0.8
    none = descend(structure_loss, own, steps=0, seed=1)
    assert torch.allclose(none.norm(dim=-1), torch.ones(1, 30, dtype=torch.float64)) and not torch.allclose(none, found)


# Panels --------------------------------------------------------------------------------------------------------------------


def small(x):
    """4 x 4 places of 8 numbers each."""
    keys = F.adaptive_avg_pool2d(torch.cat([x, x.square(), x[:, :2].abs()], 1), 4)
    return Features(keys.flatten(2).mT, keys.mean((2, 3)))


def test_patches_over_their_range():
    x = normal((2, 3, 32, 32), "patches", 0).clamp(-1, 1)
    looked = Patches(small, {"source": x[0], "other": x[1]})
    shown = panel(looked.render, slider("row", 0, 3, 1, 0), slider("column", 0, 3, 1, 0), alt="x")
    assert len({bytes(shown.image.value) for _ in sweep(shown, most=16)}) == 7, "each knob over its range, one at a time"
    assert len({looked.render(row=k // 4, column=k % 4)[0].tobytes() for k in range(16)}) == 16
    want = self_similarity(small(x).keys)
    assert torch.allclose(looked.similarity, want) and looked.side == 4
    gap = float((want[1, 6] - want[0, 6]).square().mean())
    assert f"other {gap:.3f}" in looked.render(row=1, column=2)[1]
    with pytest.raises(BadInput, match="column"):
        looked.render(row=0, column=4)
    framed = framed_patch(np.zeros((32, 32, 3), np.uint8), 1, 2, 4)
    assert framed[8, 16].tolist() == [20, 20, 20] and framed[7, 15].tolist() == [255] * 3 and framed[12, 20].tolist() == [0] * 3


def test_the_plane_is_the_methods_at_their_settings(monkeypatch):
    pipe = shared(CASES[1])
    x, z, count = pictures(pipe), initial_noise(pipe, 2, seed=2), iter(range(99))

    class Made:
        def __init__(self, k):
            self.k = k

        def of(self, name):
            return torch.tensor([float(self.k) + (name == "iou")]) / 20

    monkeypatch.setattr(panels, "edit_score", lambda x, truth: Made(next(count)))
    truth = SimpleNamespace(images=x, gold=x.flip(3))
    plane = StartPlane(pipe, small, truth, ["a cat", "a dog"], z, starts=(0.5, 1.0), pushes=(0.0, 0.2), steps=2)
    common = {"image": x, "latents": z, "steps": 2, "guidance": 3.0}
    assert torch.equal(plane.images[0.5, 0.0], sdedit(pipe, ["a cat", "a dog"], strength=0.5, **common).edit)
    held = diffuseit(pipe, "", ["a cat", "a dog"], features=small, strength=1.0, relative=0.2, repeats=3, **common)
    assert torch.equal(plane.images[1.0, 0.2], held.edit) and plane.point(1.0, 0.2) == pytest.approx((3 / 20, 4 / 20))
    shown = panel(plane.render, choice("start", plane.starts, 1.0), choice("push", plane.pushes, 0.2), alt="x")
    assert len({bytes(shown.image.value) for _ in sweep(shown)}) == 3 and "flipped 0.15" in plane.render(start=1.0, push=0.2)[1]
    with pytest.raises(BadInput, match="start"):
        plane.render(start=0.7, push=0.0)
    again = StartPlane(pipe, None, truth, ["a cat", "a dog"], z, starts=(1.0,), pushes=(0.2,), known={(1.0, 0.2): held.edit})
    assert torch.equal(again.images[1.0, 0.2], held.edit), "what is known is not made again: there are no features"


# Rows ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    """Right answers as the keys' edits, shifted ones as SDEdit's."""
    pairs = edit_pairs("kind", 6, split="test")
    truth = pairs.truth(load("readers/develop"))
    by_noise = {f"SDEdit {s}": truth.gold.roll(shift, 3) for s, shift in ((1.0, 10), (0.9, 5), (0.8, 6), (0.7, 3))}
    names = {"no edit": truth.images, "keys": truth.gold} | by_noise
    return Edited({name: edit_score(x, truth) for name, x in names.items()}, names, truth)


def test_targets_are_the_bars():
    known = {id: c for id, c in claims().items() if id.startswith("17.")}
    assert {id: c.target for id, c in known.items()} == {
        "17.full_noise": ">= 0.2", "17.best_sdedit": ">= 0", "17.everything": ">= 0.1", "17.reader_keys": ">= 0.05",
        "17.full_reader": ">= 0.2", "17.published": ">= 0.8", "17.prefers": ">= 0.9", "17.where": "<= 0.8",
        "17.repeats": ">= 0.1", "17.pixels": ">= 0.05", "17.contrast": ">= 0"}
    assert {c.reader for id, c in known.items() if id not in ("17.prefers", "17.where")} == {"final"}
    assert all(board.BEST[edit] in board.STRENGTHS[edit] and 1.0 in board.STRENGTHS[edit] for edit in ("kind", "layout"))


def test_rows_are_paired_differences_against_the_strength_they_name(made, monkeypatch):
    monkeypatch.setattr(board, "edited", lambda edit, n: made)
    rows, iou = claims(), {name: float(s.of("iou").mean()) for name, s in made.scores.items()}
    for id, other in (("17.full_noise", "SDEdit 1.0"), ("17.best_sdedit", "SDEdit 0.7"), ("17.everything", "SDEdit 0.8")):
        row = rows[id].run(6)
        assert row.value == pytest.approx(iou["keys"] - iou[other], abs=1e-6) and row.low <= row.value <= row.high
        assert row.baseline[f"IoU, {other}"] == pytest.approx(iou[other])
        assert {f"flipped, {other}", f"kept, {other}"} <= row.baseline.keys() and f"IoU, {other}" not in row.settings
        assert row.settings["IoU, keys"] == pytest.approx(iou["keys"])
    asked = []

    def keys(edit, n, split, look="mini-clip", **options):
        asked.append((look, options))
        return made.images["SDEdit 0.7"]

    monkeypatch.setattr(board, "_keys", keys)
    over = iou["SDEdit 0.7"] - iou["keys"]
    for id, sign in (("17.reader_keys", 1), ("17.contrast", 1), ("17.repeats", -1), ("17.pixels", -1)):
        row = rows[id].run(6)
        assert row.value == pytest.approx(sign * over, abs=1e-6) and row.baseline == {"no gain": 0.0}
        assert row.settings["IoU, mini-clip's keys"] == pytest.approx(iou["keys"])
    assert asked == [("reader", {}), ("mini-clip", {"losses": "contrast"}), ("mini-clip", {"repeats": 0}),
                     ("mini-clip", {"through_network": False}), ("mini-clip", {"relative": 0.0}), ("patches", {})]


def test_the_readers_row_and_the_published_form(made, monkeypatch):
    rows, asked = claims(), []

    def by_keys(some, n, options, each):
        asked.append((options, each))
        return made.images["keys"]

    pairs = edit_pairs("kind", 6, split="test")
    drawn = SimpleNamespace(pairs=pairs, images=made.truth.images, noise=None)
    monkeypatch.setattr(type(pairs), "truth", lambda self, reader, images: made.truth)
    for name, value in {"_drawn": lambda *a: drawn, "_by_keys": by_keys, "_keys": lambda *a: made.images["SDEdit 0.7"],
                        "_by_noise": lambda some, strength: made.images[f"SDEdit {strength}"]}.items():
        monkeypatch.setattr(board, name, value)
    row = rows["17.full_reader"].run(6)
    near, far = (float(made.scores[name].of("iou").mean()) for name in ("SDEdit 0.7", "SDEdit 1.0"))
    both = (made.scores["SDEdit 0.7"].target * made.scores["SDEdit 1.0"].target).bool()
    gap = (made.scores["SDEdit 0.7"].iou - made.scores["SDEdit 1.0"].iou)[both]
    assert row.value == pytest.approx(float(gap.mean()), abs=1e-6) and row.settings["made by both"] == int(both.sum())
    assert row.settings["gained over all"] == pytest.approx(near - far, abs=1e-6)
    assert row.baseline["IoU, SDEdit 1.0"] == pytest.approx(far)
    row = rows["17.published"].run(6)
    (options, each), (said, with_prompt) = asked
    assert options["sampler"] == "ddpm" and options["guidance"] == 1.0 and each["target"] == [""] * 6 and len(each["toward"]) == 6
    assert said == {k: v for k, v in options.items() if k != "guidance"} and "target" not in with_prompt
    assert row.value == float(made.scores["keys"].of("target").mean()) == row.settings["flipped, with the prompt"]


def test_rows_of_a_larger_set_are_not_drawn_again(monkeypatch):
    monkeypatch.setattr(board, "_ROWS", {})
    drawn, cut = [], (lambda x: x[:2])
    assert board._first(4, "a", lambda: drawn.append(1) or torch.arange(4), cut).tolist() == [0, 1, 2, 3]
    assert board._first(2, "a", lambda: drawn.append(1), cut).tolist() == [0, 1] and drawn == [1]
    assert board._first(6, "a", lambda: drawn.append(1) or torch.arange(6), cut).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(drawn) == 2
    board._first(4, "b", lambda: drawn.append(1), cut)
    assert len(drawn) == 3, "another key is another set"


def test_preference_rows(monkeypatch):
    both = torch.tensor([[0.1, 0.2], [0.2, 0.4], [0.3, 0.2], [0.1, 0.4]], dtype=torch.float64)
    monkeypatch.setattr(board, "preferred", lambda features, n, split: both)
    rows = claims()
    assert rows["17.prefers"].run(4).value == 0.75 and rows["17.prefers"].run(4).baseline["chance"] == 0.5
    assert rows["17.prefers"].run(4).settings["more than patches"] == 0.0
    assert rows["17.where"].run(4).value == pytest.approx((0.5 + 0.5 + 1.5 + 0.25) / 4)


def test_a_loss_by_name_is_that_loss_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(board, "diffuseit", lambda pipe, source, target, **options: asked.append(options) or SimpleNamespace(
        edit=torch.zeros(2, 3, 8, 8)))
    monkeypatch.setattr(board, "_pipe", lambda: None)
    monkeypatch.setattr(board, "_look", lambda name: name)
    some = board._Drawn(SimpleNamespace(prompts=["a", "b"], targets=["c", "d"]), torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 2, 2))
    board._by_keys(some, 2, {"losses": "contrast", "features": "f"}, {})
    board._by_keys(some, 2, {"relative": 0.0}, {})
    assert asked[0]["losses"] == {"contrast": 1.0} and asked[0]["features"] == "f" and "losses" not in asked[1]
    assert asked[1]["relative"] == 0.0 and asked[1]["repeats"] == board.REPEATS
