"""Lesson 06: its toys and figures against closed forms and brute force, its pictures over the range of their knobs."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch

from minidiff.course import claims, find
from minidiff.diffusion import Mixture
from minidiff.diffusion.ddgan import ddgan_schedule, grid_score
from minidiff.errors import BadInput
from minidiff.lessons.l06_trilemma import data, panels, toys
from minidiff.measure.interval import Estimate
from minidiff.rng import normal


def test_true_variance_is_that_of_the_step_itself() -> None:
    """By quadrature over x_{t-1}: q(x_{t-1} | x_t) is proportional to q(x_t | x_{t-1}) q(x_{t-1})."""
    m, abar, prev = 0.8, 0.3, 0.7
    y = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    before = sum(torch.exp(-((y - s * prev**0.5 * m) ** 2) / (2 * (1 - prev))) for s in (-1, 1))
    for x in (-1.3, 0.0, 0.4):
        weight = before * torch.exp(-((x - (abar / prev) ** 0.5 * y) ** 2) / (2 * (1 - abar / prev)))
        weight = weight / weight.sum()
        want = float((weight * y.square()).sum() - (weight * y).sum() ** 2)
        got = find("06.true_variance").answer(torch.tensor([x], dtype=torch.float64), abar, prev, m)
        assert abs(float(got) - want) < 1e-9


def test_cells_among_is_the_mean_over_all_choices() -> None:
    cells = [0, 0, 0, 2, 2, 5, -1, -1]
    for m in (1, 3, 6):
        want = statistics.mean(len({c for c in chosen if c >= 0}) for chosen in itertools.combinations(cells, m))
        for counts in ([3, 0, 2, 0, 0, 1], [1, 2, 3]):
            assert abs(data.cells_among(torch.tensor(counts), len(cells), m) - want) < 1e-12
            assert abs(float(find("06.cells").answer(torch.tensor(counts).double(), len(cells), m)) - want) < 1e-12


def test_coverage_of_the_world_is_the_worlds_and_its_interval_is_honest() -> None:
    inside = 0
    for seed in range(40):
        drawn = torch.randint(45, (200,), generator=torch.Generator().manual_seed(seed))
        found = data.coverage(drawn, 24)
        assert found.low < found.value < found.high
        inside += found.low <= data.fair_cells(24) <= found.high
    assert 34 <= inside <= 40                                       # 95 % of 40 is 38
    half = torch.cat([torch.randint(45, (100,), generator=torch.Generator().manual_seed(1)), torch.full((100,), -1)])
    assert data.coverage(half, 24).value < 0.75 * data.fair_cells(24)       # pictures that show nothing use up draws
    assert data.fair_cells(1) == pytest.approx(1) and data.fair_cells(10**6) == pytest.approx(data.CELLS)


def test_training_is_repeatable_and_works_at_every_number_of_steps() -> None:
    for steps, spare, faint in ((1, 0, False), (4, 0, True), (2, 5, False)):
        runs = [list(toys.train(steps, iterations=3, spare=spare, faint=faint)) for _ in range(2)]
        assert [s.iteration for s in runs[0]] == [1, 2, 3] and abs(runs[0][0].loss - 2 * math.log(2)) < 0.3
        for a, b in zip(runs[0][-1].generator.parameters(), runs[1][-1].generator.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert toys.walk(runs[0][-1].generator, steps, 9).shape == (9, 2)


def test_a_faint_z_is_faint_and_learns() -> None:
    x, t, z = torch.zeros(400, 2), torch.zeros(400, dtype=torch.long), normal((400, 2), "06 faint")
    loud, faint = (toys.PointGenerator(4, spread=1.0, faint=faint)(x, t, z).std(0).mean() for faint in (False, True))
    assert 0 < float(faint) < 0.1 * float(loud)
    net = toys.PointGenerator(4, faint=True)
    net(x, t, z).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in net.mapping.parameters())


def test_training_learns() -> None:
    """150 iterations: more in the rings than at the start, and the discriminator knows something."""
    start = grid_score(toys.walk(toys.trained(4, iterations=1), 4, 2000))[0].double().mean()
    end = grid_score(toys.walk(toys.trained(4, iterations=150), 4, 2000))[0].double().mean()
    assert end > 1.4 * start


def test_steps_points_and_shares() -> None:
    t = toys.draw_t(4000, 4, torch.Generator().manual_seed(0))
    share = torch.bincount(t, minlength=4) / 4000
    assert abs(float(share[0]) - 0.7) < 0.03 and bool((share[1:] > 0.07).all()) and len(share) == 4
    assert bool((toys.draw_t(50, 1, torch.Generator().manual_seed(0)) == 0).all())
    x = toys.points(3000, 1, spare=2)
    assert bool((x[:, 2:] == 0).all()) and float(grid_score(x[:, :2])[0].double().mean()) > 0.975
    assert toys.imbalance(toys.CENTRES.repeat(40, 1)) == pytest.approx(0)
    assert toys.imbalance(toys.CENTRES[:1].repeat(40, 1)) == pytest.approx(math.log(25))


def test_what_z_decides() -> None:
    x, z = normal((30, 3), "06 x"), normal((7, 30, 2), "06 z")
    assert toys.z_share(lambda x, t, z: x.sin(), x, 1, z)[0] == pytest.approx(0, abs=1e-6)
    assert toys.z_share(lambda x, t, z: z, x, 1, z)[0] == pytest.approx(1, abs=0.03)
    exercise = find("06.z_share").answer
    mixed = lambda x, t, z: x + 0.5 * z[:, :1] + t[:, None]  # noqa: E731
    assert float(exercise(mixed, x, torch.full((30,), 2), z)) == pytest.approx(toys.z_share(mixed, x, 2, z)[0], rel=1e-5)


def test_without_training_the_draw_is_exact_and_the_mean_is_not() -> None:
    known = claims()
    assert known["06.exact"].run(2000).value > 0.975 and known["06.mean"].run(2000).value < 0.03
    found = known["06.mean_modes"].run(3)
    assert 7 <= found.value <= 11 and found.settings["T = 1"] == 1 and found.floor["exact draw"] == 25
    with pytest.raises(BadInput):
        toys.draw_points("median", 4, 10)


def test_the_mean_is_the_oracles() -> None:
    """``draw_points("mean", 1, ...)`` is E[x0 | x_1] of the mixture: near the middle for every start."""
    model = Mixture(ddgan_schedule(1), toys.CENTRES, std=toys.STD)
    x = toys.starts(20)
    torch.testing.assert_close(toys.draw_points("mean", 1, 20), model(x, torch.zeros(20, dtype=torch.long)).x0)


@pytest.mark.parametrize("way", ["VAE", "GAN", "DDGAN-4"])
def test_a_picture_does_not_depend_on_how_many_are_drawn(way: str) -> None:
    few, many = data.pictures(way, 3), data.pictures(way, 5)
    torch.testing.assert_close(few, many[:3], rtol=0, atol=2e-4)
    assert few.shape == (3, 3, 32, 32) and float(few.abs().max()) <= 1 and not torch.equal(few, data.pictures(way, 3, seed=1))


def test_seconds_are_measured_for_every_way() -> None:
    spent = {way: float(data.cpu_seconds(way, 1, repeats=1)) for way in data.WAYS}
    assert min(spent.values()) > 0 and spent["DDPM-1000"] > 10 * spent["DDIM-20"] > 0
    with pytest.raises(BadInput):
        data.cpu_seconds("flow", 1)


def test_views_over_their_range() -> None:
    for steps, generator in ((1, "mean"), (4, "exact draw"), (4, "mean")):
        array, text = panels.steps_view(steps, generator)
        assert array.dtype == np.uint8 and f"T = {steps}" in text and "of 25 modes" in text
    with pytest.raises(BadInput):
        panels.steps_view(3, "mean")
    for steps in panels.STEPS:                             # every place of the knobs draws; T = 100 once did not
        for generator in panels.GENERATORS:
            assert panels.steps_view(steps, generator)[0].dtype == np.uint8
    first = panels.walk_view(0, 0, 0)
    assert first[0].shape[2] == 3 and "0.000" in first[1]
    assert not np.array_equal(first[0], panels.walk_view(3, 0, 0)[0])
    assert not np.array_equal(panels.walk_view(3, 0, 0)[0], panels.walk_view(3, 0, 1)[0])


def test_a_gaussian_of_the_true_width_has_the_covariance_of_the_true_step() -> None:
    """One step from pure noise: the law of x0 given x_1 is nearly that of the data, variance 1 an axis, and a Gaussian of it."""
    x, exact = (toys.draw_points(how, 1, 20_000) for how in ("gaussian", "exact"))
    peaked, flat = (float((v**4).mean() / (v**2).mean() ** 2) for v in (x, exact))
    assert torch.allclose(x.var(0), torch.ones(2), atol=0.04) and peaked == pytest.approx(3, abs=0.1)
    assert flat < 2, "the data themselves are flatter than a Gaussian"


def test_the_last_step_is_two_spikes_and_the_first_a_hill() -> None:
    said = {t: panels.step_view(t, 0.0)[1] for t in range(4)}
    assert "25.02 times" in said[0] and "misplaces 89%" in said[0] and "misplaces 0%" in said[3]
    with pytest.raises(BadInput):
        panels.step_view(4, 0.0)


def test_the_smallest_gan_circles_without_its_penalty() -> None:
    far = [float(panels.dirac_view(gamma)[1].split()[-4]) for gamma in (0.0, 0.5, 1.0)]
    assert far[0] > 0.3 and max(far[1:]) < 0.01


def test_spoilt_pictures_are_three_ways_to_lose_the_thing() -> None:
    kinds = data.spoilt(4)
    real, empty = kinds["held-out pictures"], kinds["backdrops alone"]
    assert all(x.shape == real.shape for x in kinds.values()) and float((real - empty).abs().amax((1, 2, 3)).min()) > 0.3
    assert float(((real - empty).abs().amax(1) > 0.1).double().mean()) < 0.5, "only the thing is gone"


def test_trilemma_shows_each_point_and_its_pictures() -> None:
    one = Estimate(0.5, 0.4, 0.6)
    rows = {way: {"quality": one, "coverage": one, "seconds": Estimate(10.0**-k, 10.0**-k, 10.0**-k)}
            for k, way in enumerate(data.WAYS)}
    images = {way: torch.full((3, 3, 8, 8), -1 + 0.4 * k) for k, way in enumerate(data.WAYS)}
    corner = panels.Trilemma(images, rows)
    seen = {way: corner.render(way=way) for way in data.WAYS}
    assert len({a.tobytes() for a, _ in seen.values()}) == 5 and all(text.startswith(way) for way, (_, text) in seen.items())
    line = panels.Trilemma(images, rows, {8: 0.1, 20: 0.4}).render(way="GAN")
    assert line[1] == seen["GAN"][1] and not np.array_equal(line[0], seen["GAN"][0])
    with pytest.raises(BadInput):
        corner.render(way="flow")
    with pytest.raises(BadInput):
        panels.Trilemma({"VAE": images["VAE"]}, rows)
