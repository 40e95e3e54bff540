"""What the rows on inpainting, super-resolution and layout count, against brute force and made-up pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minidiff.lessons.l08_latent_diffusion.claims import hole_over, layout_overlap, seam, wanted_scenes
from minidiff.measure.prompts import make_scenes, prompt_of
from minidiff.world import Scenes, held_out, render


def brute_force(image: Tensor, mask: Tensor, reach: int = 3) -> float:
    """The ratio by loops over pixels; mask (H, W)."""
    high, wide = mask.shape

    def near(i: int, j: int) -> bool:
        around = mask[max(0, i - reach):i + reach + 1, max(0, j - reach):j + reach + 1]
        return bool(around.min() != around.max())

    steps: dict[bool, list[float]] = {True: [], False: []}
    for i in range(high):
        for j in range(wide):
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < high and m < wide:
                    crosses = bool(mask[i, j] != mask[k, m])
                    if crosses or near(i, j) and near(k, m):
                        steps[crosses].append(float((image[:, i, j] - image[:, k, m]).abs().mean()))
    return sum(steps[True]) / len(steps[True]) / (sum(steps[False]) / len(steps[False]))


def test_the_seam_is_counted_as_loops_count_it() -> None:
    images = torch.rand(2, 3, 18, 22, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 18, 22)
    mask[0, :, 5:12, 6:15] = 1
    mask[1, :, :9] = 1
    got = seam(images, mask)
    for row in range(2):
        assert float(got[row]) == pytest.approx(brute_force(images[row], mask[row, 0]), rel=1e-5)


def test_a_jump_at_the_border_shows() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32) + torch.linspace(-1, 1, 32)[:, None]
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    assert float(seam(ramp, mask)) == pytest.approx(1.0, abs=1e-4)
    assert float(seam(ramp + 0.5 * mask, mask)) > 3


def test_what_is_asked_for_is_another_thing_in_a_pair_that_training_saw() -> None:
    scenes = make_scenes(64, "two")
    wanted = wanted_scenes(scenes)
    for before, after in zip(scenes, wanted, strict=True):
        (kept, old), (same, new) = before.things, after.things
        assert same == kept and before.backdrop == after.backdrop
        assert new.kind not in (old.kind, kept.kind) and new.colour != old.colour and (new.x, new.y) == (old.x, old.y)
        assert not held_out(new.kind, new.colour)
        assert f"{new.colour} {new.kind}" in prompt_of(after)


def test_the_hole_holds_the_thing_and_a_little_more() -> None:
    masks = render(make_scenes(8, "two")).masks[:, 1:2]
    hole = hole_over(masks)
    assert set(hole.unique().tolist()) == {0.0, 1.0} and bool((hole[masks > 0.1] == 1).all())
    assert 1.2 < float(hole.sum() / (masks > 0.1).sum()) < 4


def test_the_overlap_of_the_worlds_own_pictures_is_high_and_of_others_low() -> None:
    scenes = make_scenes(12, "two")
    drawn = render(scenes)
    own = layout_overlap(drawn.images, scenes, drawn.masks)
    assert float(own.mean()) > 0.8
    assert float(layout_overlap(drawn.images.roll(1, 0), scenes, drawn.masks).mean()) < 0.3
    one_gone = layout_overlap(render(Scenes.of([s.replace(things=s.things[:1]) for s in scenes])).images, scenes,
                              drawn.masks)
    assert float((one_gone - own / 2).abs().mean()) < 0.1, "a missing thing counts as nothing"
