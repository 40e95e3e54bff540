"""The edit score against loops that count by hand, on rendered scenes, where every answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from minidiff import BadInput, load
from minidiff.measure import EDITS, EditScores, edit_pairs, edit_score, masked_psnr, read, score_table
from minidiff.world import ATTRIBUTES, Scenes, agrees, held_out, parse, render


@pytest.fixture(scope="module")
def reader():
    return load("readers/develop")


@pytest.mark.parametrize("edit", EDITS)
def test_pairs_differ_in_what_is_edited_alone_and_prompts_are_true(edit):
    pairs, more = edit_pairs(edit, 24, split="test"), edit_pairs(edit, 40, split="test")
    assert pairs.targets == more.targets[:24] and pairs.prompts != edit_pairs(edit, 24, split="valid").prompts
    for i, (a, b) in enumerate(zip(pairs.source, pairs.target, strict=True)):
        assert agrees(parse(pairs.prompts[i]), a) and agrees(parse(pairs.targets[i]), b)
        differs = {(j, n) for j, (x, y) in enumerate(zip(a.things, b.things, strict=True))
                   for n in (*ATTRIBUTES, "x", "y", "size") if getattr(x, n) != getattr(y, n)}
        differs |= {("whole", n) for n in ("backdrop", "style", "vary") if getattr(a, n) != getattr(b, n)}
        names, where = {n for _, n in differs}, {j for j, _ in differs}
        core = {"colour": {"colour"}, "add_colour": {"colour"}, "kind": {"kind"}, "backdrop": {"backdrop"},
                "two_colour": {"colour"}, "two_kind": {"kind"}, "move": {"x", "y"}, "resize": {"size"}}[edit]
        assert names and names <= core | ({"mood"} if "kind" in edit else set()) and len(where) == 1
        assert not any(held_out(t.kind, t.colour) for t in b.things)
        assert (pairs.prompts[i] == pairs.targets[i]) == (edit in ("move", "resize"))


def brute_iou(a, b):
    both = sum(bool(x) and bool(y) for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    either = sum(bool(x) or bool(y) for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    return both / max(either, 1)


def test_scores_equal_loops_over_rows_things_and_pixels(reader):
    pairs = edit_pairs("two_colour", 6, split="test")
    truth = pairs.truth(reader)
    torch.manual_seed(1)
    images = truth.gold.clone()
    images[0] = truth.images[0]                                     # nothing edited
    images[1] = render(edit_pairs("colour", 6).source).images[1]    # another picture
    images += 0.05 * torch.randn_like(images)
    got, mine = read(images.clamp(-1, 1), reader), edit_score(images, truth)
    images = images.clamp(-1, 1)
    for i in range(6):
        want, seen = pairs.target[i], list(got.scenes[i].things)
        slots = [k for k in range(3) if got.scenes.present[i, k]]
        success, right, asked = True, 0, 0
        for j, thing in enumerate(want.things):
            same = [s for s in seen if s.kind == thing.kind]
            partner = (same or sorted(seen, key=lambda s: math.hypot(s.x - thing.x, s.y - thing.y)))[0]
            for n in ATTRIBUTES:
                good = getattr(partner, n) == getattr(thing, n)
                if getattr(pairs.source[i].things[j], n) != getattr(thing, n):
                    success = success and good
                else:
                    right, asked = right + good, asked + 1
        for good in (len(seen) == len(want.things), got.scenes[i].backdrop == want.backdrop, got.scenes[i].style == want.style):
            right, asked = right + good, asked + 1
        assert mine.target[i] == float(success)
        assert float(mine.preserved[i]) == pytest.approx(right / asked)
        assert mine.joint[i] == float(success and right == asked)
        edited = [j for j, (a, b) in enumerate(zip(pairs.source[i].things, want.things, strict=True)) if a != b]
        gold = render(want).masks[0] > 0.5
        best = [max(brute_iou(got.masks[i, k] > 0.5, gold[j]) for k in slots) for j in range(len(want.things))]
        assert float(mine.iou[i]) == pytest.approx(best[edited[0]], abs=1e-6)
        assert float(mine.others[i]) == pytest.approx(best[1 - edited[0]], abs=1e-6)
        union = (got.masks[i] > 0.5).any(0) | gold.any(0) | (render(pairs.source[i]).masks[0] > 0.5).any(0)
        outside, inside = [], []
        for y in range(64):
            for x in range(64):
                near = bool(union[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2].any())
                error = float((images[i, :, y, x] - truth.images[i, :, y, x]).double().square().mean())
                (inside if near else outside).append(error)
        for value, errors in ((mine.outside[i], outside), (mine.inside[i], inside)):
            assert float(value) == pytest.approx(10 * math.log10(4 / (sum(errors) / len(errors))), abs=1e-4)
        error = float((images[i] - truth.gold[i]).double().square().mean())
        assert float(mine.gold[i]) == pytest.approx(10 * math.log10(4 / error), abs=1e-4)


@pytest.mark.parametrize("edit", EDITS)
def test_the_counterfactual_wins_and_no_edit_fails_by_name(edit, reader):
    truth = edit_pairs(edit, 48, split="test").truth(reader)
    gold, none = edit_score(truth.gold, truth), edit_score(truth.images, truth)
    assert float(gold.target.mean()) >= 0.85 and float(none.target.mean()) <= 0.1
    assert float(gold.preserved.mean()) >= 0.95 and float(none.preserved.mean()) >= 0.95
    assert float(gold.iou.mean()) >= 0.85 and float(none.outside.min()) >= 100
    assert gold.minus(none, "gold").low > 5 and none.minus(none, "iou").value == 0
    assert "counterfactual" in score_table({"no edit": none, "counterfactual": gold})


def test_the_truth_about_pictures_that_were_not_rendered_from_these_scenes(reader):
    pairs = edit_pairs("colour", 12, split="test")
    moved = pairs.source.replace(x=1 - pairs.source.x)              # the same words elsewhere, as a sampler would draw them
    images = render(moved).images
    images[3] = render(edit_pairs("kind", 1, split="test").target).images[0]     # a picture of something else
    truth = pairs.truth(reader, images)
    assert not truth.valid[3] and int(truth.valid.sum()) >= 10
    want = render(Scenes.of([b.replace_thing(0, x=a.things[0].x) for a, b in zip(moved, pairs.target, strict=True)])).images
    close = edit_score(want, truth)
    assert float(close.of("iou").min()) > 0.8 and float(close.of("gold").mean()) > 24 and float(close.of("target").min()) == 1
    assert len(close.of("gold")) == int(truth.valid.sum()) == close.mean("gold").n


def test_masked_psnr_and_bad_input(reader):
    x, y, where = torch.zeros(2, 3, 4, 6), torch.zeros(2, 3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.bool)
    x[0, :, 1, 2], where[0, 1, 2], where[0, 3, 5] = 0.2, True, True
    assert float(masked_psnr(x, y, where)[0]) == pytest.approx(10 * math.log10(4 / 0.02)) and masked_psnr(x, y, where)[1].isnan()
    pairs = edit_pairs("colour", 3)
    with pytest.raises(BadInput, match="edit"):
        edit_pairs("color", 3)
    with pytest.raises(BadInput, match="one for each prompt"):
        pairs.truth(reader, torch.zeros(2, 3, 64, 64))
    truth = pairs.truth(reader)
    with pytest.raises(BadInput, match="images"):
        edit_score(torch.zeros(3, 3, 32, 32), truth)
    blank = edit_score(torch.full((3, 3, 64, 64), -0.2), truth)      # nothing is found
    assert float(blank.target.max()) == 0 and float(blank.iou.max()) == 0 and float(blank.preserved.max()) <= 0.4
    assert isinstance(blank[:2], EditScores) and len(blank[:2].valid) == 2
