"""Lesson 18: panels over their whole range, what is counted on made-up readings, the rows on made-up marks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minidiff import BadInput
from minidiff.course import claims
from minidiff.editing.style_tokens import StyleTokens
from minidiff.editing.triplets import Triplets
from minidiff.latent import initial_noise
from minidiff.lessons.l18_style_control import claims as board
from minidiff.lessons.l18_style_control import data, panels
from minidiff.lessons.l18_style_control.data import Codes, Marks, Models, codes_of, draw, joint, marks, shown, triplets
from minidiff.lessons.l18_style_control.panels import Blends, Kept, StyleByContent, Weights, gallery_codes
from minidiff.measure.reader import Reader
from minidiff.rng import normal
from minidiff.show import choice, panel, sweep
from minidiff.steer import Dual
from minidiff.world import STYLES, render
from tests.pipelines import CASES, shared


@pytest.fixture(scope="module")
def known():
    """The method's parts with random weights, on a small pipeline."""
    torch.manual_seed(0)
    pipe = shared(CASES[1])
    tokens = StyleTokens(width=pipe.unet.config.cross_attention_dim, length=pipe.tokenizer.model_max_length, positions=14)
    return Models(pipe, tokens.eval().requires_grad_(False), Reader().eval().requires_grad_(False))


@pytest.fixture(scope="module")
def pictures():
    return render(triplets(6).y, 64).images


def a_few(known, n=3):
    found = triplets(n)
    return found, codes_of(known, found.y, found.s)


def test_codes_belong_to_their_own_picture(known):
    found, codes = a_few(known)
    swapped = codes_of(known, found.s, found.y)
    assert torch.allclose(codes.own, swapped.style) and torch.allclose(codes.style, swapped.own)
    assert codes.style.shape == (3, 64) and codes.content.shape == (3, 160)


def test_draw_goes_in_chunks_from_the_noise_of_its_rows(known, monkeypatch):
    _, codes = a_few(known)
    whole = draw(known, codes, Dual(2.0, 2.0), steps=2)
    monkeypatch.setattr(data, "CHUNK", 2)
    assert float((draw(known, codes, Dual(2.0, 2.0), steps=2) - whole).abs().max()) < 1e-4
    z = initial_noise(known.pipe, 3, seed=18)
    assert float((draw(known, codes, Dual(2.0, 2.0), steps=2, latents=z) - whole).abs().max()) < 1e-4


def test_the_joint_form_needs_the_joint_text():
    guider = joint(3.0, 2.0)
    assert set(guider.texts) == {"empty", "image", "prompt"} and (guider.image, guider.text) == (2.0, 3.0)


def test_marks_of_the_right_answer_of_s_and_of_y(monkeypatch):
    found = triplets(60)

    def seen(scenes):
        confidence = scenes.present.double()
        monkeypatch.setattr(data, "read", lambda images, reader: SimpleNamespace(scenes=scenes, confidence=confidence))
        return marks(torch.zeros(60, 3, 8, 8), found, None)

    right, y, s = seen(found.x), seen(found.y), seen(found.s)
    assert bool(right.style.all()) and float(right.each.mean()) == 1.0 and right.leak == 0.0
    assert not bool(y.style.any()) and float(y.each.mean()) == 1.0 and y.leak == 0.0
    assert bool(s.style.all()) and s.leak == 1.0 and float(s.each.mean()) < 0.4
    assert torch.equal(right.open, shown(found.y) != shown(found.s))
    gone = seen(found.x.replace(present=torch.zeros_like(found.x.present)))
    assert not bool(gone.content[:, :2].any()) and gone.leak == 0.0, "nothing found is nothing right, and nothing leaked"


def test_the_surest_thing_is_the_one_that_counts():
    found = triplets(4).x
    moved = found.replace(kind=found.kind.roll(1, 1), colour=found.colour.roll(1, 1), present=found.present.roll(1, 1))
    assert torch.equal(shown(moved, moved.present.double()), shown(found))


# Panels ----------------------------------------------------------------------------------------------------------------------


def test_styles_by_contents_over_their_range(known):
    side = known.pipe.unet.config.sample_size * known.pipe.vae_scale_factor
    scenes = triplets(5).x
    table = StyleByContent(known, scenes[:2], scenes[2:5], known.reader, steps=2)
    shows = panel(table.render, choice("style", table.style_names, table.style_names[0]),
                  choice("content", table.content_names, table.content_names[0]), alt="x")
    assert len({shows.image.value for _ in sweep(shows)}) >= 4
    pictures = render(scenes, side).images
    assert torch.equal(table.styles, pictures[:2]) and torch.equal(table.contents, pictures[2:5])
    with torch.no_grad():
        z = initial_noise(known.pipe, 3, seed=18)
        code, content = gallery_codes(known, pictures)
    one = draw(known, Codes(code[1:2], content[4:5], code[1:2]), Dual(5.0, 4.0), latents=z[2:], steps=2)
    assert float((one[0] - table.images[1, 2]).abs().max()) < 1e-4, "row 1 has style 1, column 2 content 2 and its own noise"
    with pytest.raises(BadInput, match="style"):
        table.render(style="oil", content=table.content_names[0])


def test_the_verdict_of_a_cell_is_that_of_its_style_and_its_content(known, monkeypatch):
    scenes = triplets(5).x
    asked = []
    monkeypatch.setattr(panels, "marks", lambda made, found, reader: asked.append(found) or Marks(
        torch.arange(6) == 5, torch.tensor([[True, False, True]] * 6), *[None] * 3))
    table = StyleByContent(known, scenes[:2], scenes[2:5], known.reader, steps=2)
    assert asked[0].s.style.tolist() == scenes.style[[0, 0, 0, 1, 1, 1]].tolist()
    assert asked[0].y.kind[:, 0].tolist() == scenes.kind[[2, 3, 4, 2, 3, 4], 0].tolist()
    assert table.verdict(1, 2) == "right: style, kind, backdrop" and table.verdict(1, 1) == "right: kind, backdrop"


def test_the_plane_over_its_range(known):
    found, codes = a_few(known)
    plane = Weights(known, codes, found, known.reader, styles=(0.0, 4.0), contents=(1.0, 2.0), steps=2, shown=2)
    shows = panel(plane.render, choice("g_style", plane.g_style, 0.0), choice("g_content", plane.g_content, 1.0), alt="x")
    assert len({shows.image.value for _ in sweep(shows)}) >= 3 and "content" in shows.text
    assert float((plane.images[4.0, 2.0] - draw(known, codes, Dual(4.0, 2.0), steps=2)[:2]).abs().max()) < 1e-4
    plane.marks[4.0, 2.0] = Marks(torch.tensor([True, False]), torch.tensor([[True, True, False]] * 2), *[None] * 3)
    assert plane.accuracy(4.0, 2.0) == (0.5, pytest.approx(2 / 3))
    with pytest.raises(BadInput, match="g_style"):
        plane.render(g_style=3.0, g_content=1.0)


def test_kept_steps_and_blends_over_their_range(known, pictures):
    side = known.pipe.unet.config.sample_size * known.pipe.vae_scale_factor
    small = torch.nn.functional.interpolate(pictures, size=side)
    held = Kept(known, small[:2], small[2:4], keeps=(0, 1, 2), steps=2)
    shows = panel(held.render, choice("keep", held.keeps, 0), alt="x")
    assert len({shows.image.value for _ in sweep(shows)}) >= 2 and "of 2 steps" in shows.text
    _, codes = a_few(known)
    ends = codes.style[:1], codes.style[1:2]
    blend = Blends(known, *ends, codes.content[:1], known.reader, (0, 4), weights=(0.0, 0.5, 1.0), steps=2)
    shows = panel(blend.render, choice("frame", [0, 1, 2], 0), alt="x")
    assert len({shows.image.value for _ in sweep(shows)}) == 3 and STYLES[4] in shows.text
    end = draw(known, Codes(codes.style[1:2], codes.content[:1], None), Dual(5.0, 4.0), steps=2,
               latents=initial_noise(known.pipe, 3, seed=0)[2:])
    assert blend.images.shape[0] == 3 and end.shape == blend.images[:1].shape
    array, _ = blend.render(frame=1)
    assert array.dtype == np.uint8
    with pytest.raises(BadInput, match="frame"):
        blend.render(frame=3)
    assert panels.__doc__


# Rows ------------------------------------------------------------------------------------------------------------------------


def test_targets_are_the_bars():
    known = {id: c for id, c in claims().items() if id.startswith("18.")}
    bars = {"18.style": ">= 0.85", "18.content": ">= 0.85", "18.style_gain": ">= 0.5", "18.joint": ">= 0.1",
            "18.leak": "<= 0.1", "18.guidance": ">= 0.9", "18.keep": "<= -0.9", "18.reconstructs": "<= 1",
            "18.blend": ">= 0.9", "18.retrieval": ">= 0.9"}
    assert {id: c.target for id, c in known.items()} == bars
    assert all(known[id].n == 96 for id in ("18.style", "18.content", "18.joint", "18.leak"))


def test_rows_count_and_subtract_what_they_say(monkeypatch):
    n = 12
    found = triplets(n)
    truth = shown(found.y)
    free = truth != shown(found.s)

    def made(styles, wrong, leaked=0):
        content = torch.ones(n, 3, dtype=torch.bool)
        content[:wrong, 1] = False
        taken = free & (torch.arange(n) < leaked)[:, None]
        return Marks(torch.arange(n) < styles, content, taken, free, truth)

    monkeypatch.setattr(board, "SUM", (5.0, 3.0))
    monkeypatch.setattr(board, "JOINT", (3.0, 3.0))
    table = {(5.0, 3.0, "sum"): made(9, 6, 3), (0.0, 3.0, "sum"): made(3, 0), (5.0, 0.0, "sum"): made(12, 12),
             (*board.JOINT, "joint"): made(9, 0)}
    for k, g in enumerate(board.STYLES_AT):
        table.setdefault((g, board.SUM[1], "sum"), made(3 + k, 0))
    monkeypatch.setattr(board, "scored", lambda n, gs, gy, form="sum", name="mini-parasol": table[gs, gy, form])
    monkeypatch.setattr(board, "worded", lambda n: made(12, 0))
    monkeypatch.setattr(board, "_coded", lambda n, split: (found, Codes(normal((n, 64), "s", 0), None, None)))
    rows = claims()
    assert rows["18.style"].run(n).value == 0.75 and rows["18.style"].run(n).floor == {"said in words": 1.0}
    assert rows["18.content"].run(n).value == pytest.approx(1 - 6 / 36)
    assert rows["18.style_gain"].run(n).value == pytest.approx(0.5)
    assert rows["18.joint"].run(n).value == pytest.approx(6 / 36)
    assert rows["18.leak"].run(n).value == pytest.approx(float(free[:3].sum() / free.sum()))
    assert rows["18.guidance"].run(n).value == pytest.approx(1.0)
    monkeypatch.setattr(board, "kept", lambda n, k: (made(n - k % n if k < n else 0, 0), torch.full((n,), 20.0 + k)))
    assert rows["18.keep"].run(n).value < -0.9
    monkeypatch.setattr(board, "blended", lambda n: torch.tensor([[0.0, 0.2, 0.5, 0.7, 1.0]] * n))
    blend = rows["18.blend"].run(n)
    assert blend.value == 1.0 and blend.settings["frames undecided (.1 to .9)"] == 1.0
    assert blend.baseline["the same frames in any order"] < 0.2
    back = torch.tensor([[0.0, 0.2, 0.1, 0.7, 1.0]] * (n // 2) + [[0.0, 0.2, 0.16, 0.7, 1.0]] * (n - n // 2))
    monkeypatch.setattr(board, "blended", lambda n: back)
    assert rows["18.blend"].run(n).value == pytest.approx((n - n // 2) / n)


def test_the_retrieval_row_asks_the_truth(monkeypatch):
    found = triplets(8)
    same = torch.arange(8)
    monkeypatch.setattr(board, "retrieved_triplets", lambda style, content: Triplets(same, same.roll(1), same))
    row = claims()["18.retrieval"].run(8)
    assert row.value == 1.0
    assert row.settings["y: kind"] == pytest.approx(float((found.x.kind[:, 0].roll(1) == found.x.kind[:, 0]).double().mean()))
