"""Lesson 03: what its panels draw over their whole range, and the helpers of its claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidiff.diffusion import Gaussian, Mixture, ddim, ddpm, dpm2m, heun, last, linear
from minidiff.errors import BadInput
from minidiff.lessons.l03_ddim import claims as board
from minidiff.lessons.l03_ddim.panels import SOLVERS, EtaPaths, Explorer, Trajectories, Walk
from minidiff.measure.pictures import psnr
from minidiff.rng import normal
from minidiff.show import choice, panel, pixels, play, slider, sweep
from minidiff.world import WorldData


def same(shown: np.ndarray, expected: np.ndarray) -> bool:
    """Equal up to the coarser levels in which a panel stores its pictures."""
    return shown.shape == expected.shape and int(np.abs(shown.astype(int) - expected).max()) <= 4


class Counted:
    """A cheap exact model that counts pictures times calls."""

    def __init__(self) -> None:
        self.model = Mixture(linear(1000), WorldData(16, "train", "simple").images(12), std=0.05)
        self.schedule, self.calls, self.cost = self.model.schedule, 0, 0

    def __call__(self, x, t, cond=None):
        self.calls, self.cost = self.calls + 1, self.cost + len(x)
        return self.model(x, t)


@pytest.fixture(scope="module")
def noise():
    return normal((8, 3, 16, 16), "test lesson 03", 0)


@pytest.fixture(scope="module")
def explorer(noise):
    return Explorer(Counted(), noise, reference=12)


def test_paths_on_a_line_for_every_eta():
    """Exact model of two narrow bells: at eta = 0 no path crosses the middle; at eta = 1 many do; the ends are spread alike."""
    world = Mixture(linear(1000), torch.tensor([[-1.0], [1.0]], dtype=torch.float64), std=0.15)
    paths = EtaPaths(world, normal((400, 1), "test eta", 0, dtype=torch.float64), steps=20)
    p = panel(paths.render, slider("eta", 0.0, 1.0, 0.25, 1.0), alt="paths")
    seen = {p.image.value for values in sweep(p, most=9) if paths.render(**values)[1] == p.text}
    assert len(seen) == 5
    assert paths.stayed(0.0) == 1 and 0.5 < paths.stayed(1.0) < 0.8
    for eta in (0.0, 1.0):
        moments, points = paths.path(eta)
        assert points.shape == (21, 400) and moments[-1] == -1
        assert float(points[-1].std()) == pytest.approx(1.0, abs=0.06) and float(points[0].std()) == pytest.approx(1, abs=0.1)
    with pytest.raises(BadInput, match="x"):
        EtaPaths(world, torch.zeros(3, 1))


def test_explorer_over_the_whole_range(explorer):
    """Every stop of every knob draws a sheet of one size and says what it shows."""
    p = panel(explorer.render, slider("calls", 2, 50, 1, 10, live=False), slider("eta", 0.0, 1.0, 0.1, 0.0, live=False),
              choice("solver", SOLVERS), alt="samples")
    shape, seen = explorer.render(calls=10, eta=0.0, solver="DDIM")[0].shape, set()
    for values in sweep(p, most=50):
        array, text = explorer.render(**values)
        assert array.shape == shape and array.dtype == np.uint8 and p.status.value == text
        seen.add(p.image.value)
    assert len(seen) >= 49 + 10 + 2 - 2, "some knob positions draw the same picture"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("calls", [2, 3, 10, 25, 26, 49, 50])
def test_one_move_of_the_explorer_costs_at_most_its_budget(noise, solver, calls):
    model = Counted()
    explorer = Explorer(model, noise, reference=2)
    model.calls = model.cost = 0
    array, text = explorer.render(calls=calls, eta=0.5, solver=solver)
    assert model.cost <= 200 and model.calls <= calls + (solver == "Heun" and calls % 2 == 0)
    assert f"{model.calls} network call{'s' * (model.calls != 1)}" in text
    before = model.calls
    again = explorer.render(calls=calls, eta=0.5, solver=solver)
    assert model.calls == before and np.array_equal(again[0], array), "moving back must be free"


def test_explorer_samples_are_those_of_the_solvers(explorer, noise):
    model = explorer.model
    want = {("DDIM", 0.0): last(ddim(model, noise, steps=6, spacing="linspace", clip="both")).x,
            ("2M", 0.0): last(dpm2m(model, noise, steps=6, clip="x0")).x, ("Heun", 0.3): last(heun(model, noise, steps=3)).x}
    for (solver, eta), x in want.items():
        calls = 5 if solver == "Heun" else 6
        assert torch.equal(explorer.samples(calls=calls, eta=eta, solver=solver), x)
    row = pixels(want["DDIM", 0.0])[0]
    array = explorer.render(calls=6, eta=0.0, solver="DDIM")[0]
    tall = array.shape[0]
    left = array.shape[1] - 8 * 16 * 4 - 7 * 8
    assert same(array[: 64 : 4, left : left + 64 : 4], row) and tall >= 2 * 64
    assert not torch.equal(explorer.samples(calls=6, eta=1.0, solver="DDIM"), want["DDIM", 0.0])
    assert explorer.distance(calls=12, eta=0.0, solver="2M") == 0, "twelve calls are the reference itself"
    assert explorer.distance(calls=3, eta=0.0, solver="2M") > 0.05


@pytest.mark.parametrize("wrong", [{"calls": 0}, {"solver": "ddim"}, {"calls": 2.5}])
def test_explorer_refuses(explorer, wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        explorer.render(**({"calls": 5, "eta": 0.0, "solver": "DDIM"} | wrong))


def test_trajectories_over_the_whole_range(noise):
    model = Counted()
    slow, fast = list(ddpm(model, noise[:2], steps=120, clip="x0")), list(ddim(model, noise[:2], steps=20, clip="both"))
    ways = Trajectories({"slow": slow, "fast": fast})
    p = panel(ways.render, play("part", 0, 100, 2, 60), alt="way")
    seen = set()
    for values in sweep(p, most=51):
        seen.add(p.image.value)
        assert f"{values['part']} %" in p.status.value
    assert len(seen) >= 45
    def holds(array: np.ndarray, picture: torch.Tensor) -> bool:
        tile = np.repeat(np.repeat(pixels(picture[None])[0], 6, 0), 6, 1)
        return any(same(array[y:y + 96, x:x + 96], tile)
                   for y in range(array.shape[0] - 95) for x in range(array.shape[1] - 96, -1, -104))

    start, end = ways.render(part=0)[0], ways.render(part=100)[0]
    for array, place in ((start, 0), (end, -1)):                         # x and the guess of both runs, for both noises
        for step in (slow[place], fast[place]):
            assert all(holds(array, picture) for picture in (*step.x, *step.x0))
    assert not holds(start, slow[-1].x[0])
    one = Trajectories({"slow": slow, "fast": fast}, count=1).render(part=100)[0]
    assert holds(one, slow[-1].x[0]) and not holds(one, slow[-1].x[1])
    with pytest.raises(BadInput, match="part"):
        ways.render(part=101)
    with pytest.raises(BadInput, match="runs"):
        Trajectories({"none": []})


def test_walk_over_the_whole_range():
    frames = WorldData(16, "test", "simple").images(7)
    ways = Walk({"one": frames, "two": frames.flip(0)}, [k / 6 for k in range(7)])
    p = panel(ways.render, slider("weight", 0, 6, 1, 3), alt="walk")
    assert len({p.image.value for _ in sweep(p)}) == 7
    array, text = ways.render(weight=2)
    assert text == "w = 0.33"
    left = array.shape[1] - 3 * 96 - 2 * 8
    top = array.shape[0] - 2 * 96 - 8
    middle = array[top:top + 96:6, left + 104:left + 200:6]
    assert same(middle, pixels(frames[2:3])[0])
    assert same(array[-96::6, left + 104:left + 200:6], pixels(frames[4:5])[0])
    with pytest.raises(BadInput, match="weight"):
        ways.render(weight=7)
    with pytest.raises(BadInput, match="frames"):
        Walk({"one": frames, "two": frames[:3]}, [0.0, 1.0])


def test_psnr_by_hand():
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[0] += 0.2                                                          # 2 / 0.2 = 10: 20 dB
    b[1] += 0.02
    assert psnr(a, b).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)


def test_orders_of_known_errors():
    assert board.orders({n: 3.0 / n for n in (8, 16, 32, 64)}) == pytest.approx((1.0, 1.0, 1.0))
    value, low, high = board.orders({8: 1.0, 16: 0.5, 32: 0.125})
    assert (low, high) == pytest.approx((1.0, 2.0)) and value == pytest.approx(1.5)


def test_even_lambda_is_even():
    schedule = board.even_lambda(40)
    assert schedule.T == 41 and torch.allclose(schedule.lam.diff(), torch.tensor(-0.2, dtype=torch.float64))


@pytest.mark.parametrize("id", ["03.order_ddim", "03.order_2m"])
def test_order_claims_hold(id):
    from minidiff.course import compute
    row = compute(id, 128)
    assert row.passed and row.low <= row.value <= row.high
    assert all(abs(v - row.value) > 0.5 for v in row.baseline.values()), "the bad baseline is not bad"


def test_rows_compare_pictures_from_the_same_noises_and_with_what_they_say(monkeypatch):
    """Readable pictures are those with a thing here; the difference, its baseline and its floor are counted by hand."""
    asked = []
    good = {"ddim": 60, "ddpm": 56, "dpm2m": 24, "real": 64}

    def pictures(n, loop, options=()):
        asked.append((loop, dict(options)))
        share = 16 if "name" in dict(options) else good[loop]
        return (torch.arange(n) < share * n // 64).double()

    monkeypatch.setattr(board, "_pictures", pictures)
    monkeypatch.setattr(board, "confident", lambda x: x)
    monkeypatch.setattr(board, "real", lambda n, start=0: torch.ones(n, dtype=torch.float64))
    found = board.ddim_ddpm(64)
    assert found.value == pytest.approx(4 / 64) and found.low <= found.value <= found.high
    assert found.floor == {"real pictures": pytest.approx(8 / 64)} and list(found.baseline.values()) == [pytest.approx(-40 / 64)]
    assert ("ddpm", {"steps": 20, "clip": "x0", "variance": "small"}) in asked
    assert ("ddim", {"steps": 20, "clip": "both"}) in asked
    assert board.dpm2m_10(64).value == pytest.approx(-36 / 64)
    assert board.dpm2m_10(64).settings["DDIM, 10 steps"] == 0
    few = board.dpm2m_10(4)
    assert not few.baseline and not few.settings


def test_what_tells_a_code_from_noise():
    white = board._unlike_noise(normal((8, 3, 32, 32), "white", 0))
    assert white["standard deviation"] == pytest.approx(1, abs=0.02) and abs(white["correlation of neighbours"]) < 0.02
    flat = board._unlike_noise(0.5 * normal((8, 3, 32, 1), "flat", 0).expand(8, 3, 32, 32))
    assert flat["standard deviation"] == pytest.approx(0.5, abs=0.05) and flat["correlation of neighbours"] == pytest.approx(1)


def test_the_code_of_a_sample_is_its_noise_where_the_network_is_exact(monkeypatch):
    """Gaussian data, exact network: the claim's own function finds a standard deviation of 1 and no correlation."""
    model = Gaussian(linear(1000), std=0.5)
    x = last(ddim(model, normal((4, 3, 16, 16), "exact code", 0), steps=100)).x
    monkeypatch.setattr(board, "load", lambda name: model)
    monkeypatch.setattr(board, "sampled", lambda n, loop, **options: x[:n])
    monkeypatch.setattr(board, "real", lambda n: x[:n])
    found = board.code_std(4)
    assert found.value == pytest.approx(1, abs=0.05)
    assert abs(found.settings["own samples: correlation of neighbours"]) < 0.06
