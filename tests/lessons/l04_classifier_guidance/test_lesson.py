"""Lesson 04: pictures over the range of their knobs, claims that need no trained network at a small size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidiff.course import claims
from minidiff.diffusion import Prediction
from minidiff.errors import BadInput
from minidiff.lessons.l04_classifier_guidance import panels, pictures, toys


@pytest.mark.parametrize("scale", [0.0, 4.0, 8.0])
def test_modes_view(scale: float) -> None:
    array, text = panels.modes_view(scale)
    assert array.dtype == np.uint8 and f"scale {scale:g}" in text


@pytest.mark.parametrize("kind", ["star", "mushroom"])
def test_classifier_view(kind: str) -> None:
    array, text = panels.classifier_view(4.0, kind)
    assert array.shape[2] == 3 and kind in text


def test_claims_at_a_small_size() -> None:
    known = claims()
    assert abs(known["04.recovers"].run(400).value - 1) < 0.1
    for scale, mean in ((2, 1.19), (4, 1.40), (8, 1.66)):
        assert abs(known[f"04.overshoot_{scale}"].run(300).value - mean) < 0.08
    assert known["04.noisy_classifier"].run(64).value > 0.35


def test_the_mean_shift_draws_the_right_mode_and_mu_asks_at_its_own_time() -> None:
    """At s = 1 the right mode has mean 1 and width 0.3; with few steps the place that belongs to the derivation is nearer."""
    code, paper = (toys.guided_ddpm(1.0, 3000, steps=25, gradient_at=place) for place in ("x", "mu"))
    assert abs(float(paper.mean()) - 1) < 0.06 < 0.09 < abs(float(code.mean()) - 1)
    assert abs(float(paper.std()) - 0.3) < 0.05 < 0.09 < abs(float(code.std()) - 0.3)


class Level(torch.nn.Module):
    """A model that predicts x0 = 0, and a classifier of two "colours" whose gradient is known: the log odds are k(t) x.sum()."""

    schedule = toys.TABLE

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> object:
        return Prediction(torch.zeros_like(x), x)

    def read(self, x: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
        self.told.append(int(t[0]))
        value = (1 + t.to(x)) * 1e-4 * x.flatten(1).sum(1)
        return {"colour": torch.stack([value, torch.zeros_like(value)], 1)}


def test_ddpm_by_classifier_is_the_formula_step_by_step() -> None:
    world, colour = Level(), torch.zeros(3, dtype=torch.long)
    plain = list(pictures.ddpm_by_classifier(world, world.read, 0.0, 3, steps=4, colour=colour))
    moved = list(pictures.ddpm_by_classifier(world, world.read, 2.0, 3, steps=4, gradient_at="mu", colour=colour))
    assert [s.t for s in plain] == [999, 749, 499, 249] and world.told[:4] == [999, 749, 749, 499]
    variance = float(toys.TABLE.posterior(999, 749)[2])
    torch.testing.assert_close(moved[0].x - plain[0].x, 2 * variance * moved[0].at_mu, rtol=1e-4, atol=1e-6)
    c2 = float(toys.TABLE.posterior(999, 749)[1])
    mean = c2 * pictures.start(3)
    k = 750 * 1e-4
    by_hand = k * torch.sigmoid(-k * mean.flatten(1).sum(1))
    torch.testing.assert_close(moved[0].at_mu, by_hand[:, None, None, None].expand(3, 3, 32, 32), rtol=1e-4, atol=1e-6)
    with pytest.raises(BadInput, match="gradient_at"):
        next(pictures.ddpm_by_classifier(world, world.read, 1.0, 3, gradient_at="x_t", colour=colour))


def test_entropy_of_a_free_colour_is_that_within_each_kind() -> None:
    even = torch.tensor([(kind, colour) for kind in range(4) for colour in range(4)])
    assert abs(pictures.free_colour(even) - 2) < 1e-9
    tied = torch.tensor([(kind, kind) for kind in range(4)] * 3)            # all colours occur, one a kind
    assert abs(pictures.free_colour(tied)) < 1e-9
    one_kind = torch.tensor([(0, c) for c in (0, 1)] + [(k, 2) for k in (1, 2, 3)])
    assert abs(pictures.free_colour(one_kind) - 0.25) < 1e-9


def test_ranks_of_a_curve_that_rises_and_of_one_that_falls() -> None:
    curve = {s: (torch.arange(60) % 10 < 2 * k).long()[:, None] for k, s in enumerate((0.0, 1.0, 3.0, 5.0))}
    up = pictures.ranks_of(curve, lambda v: float(v.double().mean()), why="never")
    down = pictures.ranks_of(curve, lambda v: -float(v.double().mean()), why="never")
    assert up.value > 0.999 and up.low > 0.9 and down.value < -0.999
    assert up.settings["at s = 3"] == pytest.approx(0.4) and up.baseline == {"a scale without effect": 0.0}
