"""The small world of lessons 04 to 06."""

from __future__ import annotations

import torch

from minidiff.recipes.few import FewData, condition, drop, labels


def test_scenes_are_pure_functions_and_no_star_is_red() -> None:
    data = FewData(32)
    scenes = data.scenes(range(2000))
    kind, colour, backdrop = labels(scenes)
    assert kind.min() >= 0 and colour.min() >= 0 and backdrop.min() >= 0
    assert not bool(((kind == 0) & (colour == 0)).any())
    cells = torch.bincount(kind * 4 + colour, minlength=16)
    assert int((cells > 0).sum()) == 15 and int(cells[1:].min()) > 80
    part = data.scenes(torch.arange(700, 710))
    assert torch.equal(part.x, scenes.x[700:710]) and torch.equal(part.backdrop, scenes.backdrop[700:710])
    assert bool((scenes.present.sum(1) == 1).all()) and bool((scenes.mood[:, 0] == 0).all())
    reach = 1.14 * scenes.size[:, 0]
    assert bool((scenes.x[:, 0] >= reach - 1e-6).all()) and bool((scenes.x[:, 0] <= 1 - reach + 1e-6).all())
    red = labels(FewData(32, "held_out").scenes(range(50)))
    assert bool((red[0] == 0).all()) and bool((red[1] == 0).all())
    assert not torch.equal(FewData(32, "test").scenes(range(9)).x, scenes.x[:9])


def test_conditions_and_their_dropout() -> None:
    assert condition("heart", "blue", n=2).tolist() == [[0, 1, 0, 0, 0, 0, 1, 0]] * 2
    assert condition(None, "red", n=1).tolist() == [[0, 0, 0, 0, 1, 0, 0, 0]]
    numbers = condition(torch.tensor([-1, 3]), torch.tensor([0, -1]))
    assert numbers.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]
    full, u = condition("fish", "white", n=4), torch.tensor([0.05, 0.15, 0.3, 0.6])
    kept = drop(full, u)
    assert kept.sum(1).tolist() == [1, 1, 0, 2]
    assert float(kept[0, :4].sum()) == 0 and float(kept[1, 4:].sum()) == 0
