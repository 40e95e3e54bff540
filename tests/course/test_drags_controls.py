"""What scores drags and ControlNets: right on answers that are known, before it is asked about pictures that are not."""

from __future__ import annotations

import pytest
import torch

from minidiff import BadInput
from minidiff.course.controls import control_scenes, control_score, controlled
from minidiff.course.drags import asked_handles, drag_pairs, drag_score, dragged, free_region
from minidiff.course.samples import shipped
from minidiff.world import render


@pytest.fixture(scope="module")
def pairs():
    return drag_pairs(12, split="valid")


def test_handles_lie_in_the_thing_and_go_where_it_goes(pairs):
    handles, targets = asked_handles(pairs)
    assert handles.shape == targets.shape == (12, 5, 2)
    shift = torch.stack([getattr(pairs.target, n)[:, 0] - getattr(pairs.source, n)[:, 0] for n in ("x", "y")], -1)
    assert torch.allclose(targets - handles, shift[:, None].expand(-1, 5, -1), atol=1e-6) and float(shift.norm(dim=1).min()) > 0.1
    free, ends = free_region(pairs), [render(scenes, 64).masks[:, :1] > 0.5 for scenes in (pairs.source, pairs.target)]
    for masks, points in zip(ends, (handles, targets), strict=True):
        rows, cells = torch.arange(12)[:, None], (64 * points).long()
        assert bool(masks[rows, 0, cells[..., 1], cells[..., 0]].float().mean() > 0.9), "handles beside the thing"
        assert float((free * masks).sum() / masks.sum()) > 0.98, "the free region cuts the thing"
    assert float(free.mean()) < 0.75


def test_the_counterfactual_scores_full_marks_and_the_source_none(pairs):
    reader, targets = shipped("readers/develop"), asked_handles(pairs)[1]
    right = drag_score(pairs, render(pairs.target, 64).images, reader, targets)
    assert float(right.thing.median()) < 1.0 and float(right.kept.float().mean()) > 0.9 and float(right.iou.mean()) > 0.85
    assert not right.handles.any() and float(right.gold.max()) < 1e-9
    left = dragged(12, "nothing", split="valid", reader="readers/develop")
    asked = 64 * (targets - asked_handles(pairs)[0]).norm(dim=-1)[:, 0]
    assert bool(left.handles.isnan().all()) and float((left.thing - asked).abs().median()) < 1.0
    assert float(left.kept.float().mean()) > 0.9 and float(left.iou.mean()) < 0.5
    off = drag_score(pairs, render(pairs.target, 64).images, reader, targets + torch.tensor([3 / 64, 4 / 64])).handles
    assert torch.allclose(off, torch.full((12,), 5.0), atol=1e-3), "the distance of handles is in pixels"
    blank = drag_score(pairs, torch.zeros(12, 3, 64, 64), reader)
    assert bool(blank.thing.isinf().any()) and float(blank.iou.mean()) < 0.3
    assert not bool((blank.kept & blank.thing.isinf()).any())


def test_the_paste_is_a_whole_picture_away_from_no_edit():
    made = dragged(12, "paste alone", split="valid", reader="readers/develop")
    assert float((made.thing <= 2).float().mean()) > 0.85 and float(made.kept.float().mean()) > 0.9
    with pytest.raises(BadInput, match="how"):
        dragged(2, "drugs")


def test_a_silhouette_meets_its_own_picture_and_not_the_next_one_s():
    scenes, prompts, hint = control_scenes(12, split="valid")
    assert len(prompts) == 12 and hint.shape == (12, 3, 64, 64)
    best = controlled(12, "the world's own", split="valid", reader="readers/develop")
    assert float(best.iou.mean()) > 0.9 and float(best.right.float().mean()) > 0.9
    other = control_score(scenes, hint.roll(-1, 0), best.images, shipped("readers/develop"))
    assert float(other.iou.mean()) < 0.6 and float(other.right.float().mean()) > 0.9
    with pytest.raises(BadInput, match="how"):
        controlled(2, "no hints")
