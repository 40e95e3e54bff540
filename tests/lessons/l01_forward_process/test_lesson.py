"""Lesson 01: toys against independent oracles, pictures over the whole range of their knobs, claims at a small size."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from minidiff.course import CLAIMS, claims
from minidiff.diffusion import Mixture, Schedule, cosine, jsd, linear, q_sample, scaled_linear, sigmoid, sigmoid_beta
from minidiff.errors import BadInput
from minidiff.lessons.l01_forward_process import panels, toys
from minidiff.rng import generator, normal
from minidiff.world import WorldData

PAGE = Path(__file__).resolve().parents[3] / "notebooks" / "01_forward_process.ipynb"


def test_swiss_roll_is_centred_scaled_and_thin():
    roll = toys.swiss_roll(500)
    assert roll.shape == (500, 2) and torch.equal(roll, toys.swiss_roll(500))
    assert torch.allclose(roll.mean(0), torch.zeros(2), atol=1e-5)
    assert math.isclose(float(roll.square().mean()), 1, rel_tol=1e-5)
    gaps = torch.cdist(roll, roll).fill_diagonal_(9).min(1).values
    assert float(gaps.max()) < 0.1, "neighbours along the roll lie close"
    assert not torch.equal(roll, toys.swiss_roll(500, seed=1))


def test_grid_score_counts_by_hand():
    axis = torch.linspace(-4, 4, 5)
    centres = torch.cartesian_prod(axis, axis) / toys.GRID_SCALE
    good, modes = toys.grid_score(centres)
    assert bool(good.all()) and modes == 25
    good, modes = toys.grid_score(centres[3:4] + torch.tensor([[0.14, 0.0], [0.16, 0.0]]) / toys.GRID_SCALE)
    assert good.tolist() == [True, False] and modes == 1


def test_drawing_x0_has_the_moments_of_the_posterior():
    """Two points on a line, one step: the mean and variance of the draws by numerical integration of Bayes' rule."""
    schedule = Schedule(torch.tensor([0.6], dtype=torch.float64))
    model = Mixture(schedule, torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64), std=0.3)
    x = torch.tensor([[0.2, -0.4]], dtype=torch.float64)
    grid = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    prior = sum(torch.exp(-((grid - m) ** 2) / (2 * 0.3**2)) for m in (-1, 1))
    weight = prior * torch.exp(-((0.2 - 0.6**0.5 * grid) ** 2) / (2 * 0.4))
    weight = weight / weight.sum()
    mean = float((weight * grid).sum())
    var = float((weight * (grid - mean) ** 2).sum())
    n = 40_000
    for seed in (0, 1):
        draws = toys.draw_x0(model, x.expand(n, 2), 0, generator=generator("test draw", seed))[:, 0]
        assert abs(float(draws.mean()) - mean) < 5 * math.sqrt(var / n)
        assert abs(float(draws.var()) / var - 1) < 5 * math.sqrt(2 / n) + 0.01


@pytest.mark.parametrize("T", [1, 3])
def test_exact_reverse_keeps_every_marginal(T):
    """Started from the true x_T, the chain ends at the data with the right shares of two unequal clusters, for any T."""
    schedule, n = cosine(T), 20_000
    points = torch.tensor([[-1.0, 0.5]] * 3 + [[1.0, -0.5]], dtype=torch.float64)        # three quarters, one quarter
    data = points[torch.randint(4, (n,), generator=generator("test data"))]
    x = q_sample(data, T - 1, normal((n, 2), "test noise", dtype=torch.float64), schedule)
    steps = list(toys.exact_reverse(Mixture(schedule, points), x, generator=generator("test reverse")))
    assert [s.t for s in steps] == list(reversed(range(T))) and steps[-1].t_prev == -1
    left = steps[-1].x[:, 0] < 0
    assert torch.cdist(steps[-1].x, points).min(1).values.max() < 1e-6
    assert abs(float(left.double().mean()) - 0.75) < 5 * math.sqrt(0.75 * 0.25 / n)
    if T > 1:
        middle, abar = steps[0].x[:, 0], float(schedule.at(T - 2))
        assert abs(float(middle.mean()) + 0.5 * abar**0.5) < 5 * math.sqrt(2 / n)
        assert abs(float(middle.var()) / (0.75 * abar + 1 - abar) - 1) < 5 * math.sqrt(2 / n)


def test_ideal_reading_is_bayes_rule_done_slowly():
    gallery, scenes = WorldData(32).batch(0, 40)
    labels = {"kind": scenes.kind[:, 0], "backdrop": scenes.backdrop}
    noise, abar = normal((12, 3, 32, 32), "test reading"), torch.tensor([0.5, 0.05, 0.01], dtype=torch.float64)
    found = toys.ideal_reading(gallery, labels, abar, noise)
    for level, a in enumerate(abar.tolist()):
        x = (a**0.5 * gallery[:12] + (1 - a) ** 0.5 * noise).double()
        for i in range(12):
            log = torch.tensor([-float(((x[i] - a**0.5 * m.double()) ** 2).sum()) / (2 * (1 - a)) for m in gallery])
            p = (log - log.max()).exp()
            for name, label in labels.items():
                best = max(range(12), key=lambda v: float(p[label == v].sum()))
                assert bool(found[name][level, i]) == (best == int(label[i])), (name, a, i)
    assert bool(found["kind"][0].all()), "hardly any noise: everything is read"


def test_ideal_reading_refuses_what_it_cannot_use():
    gallery, scenes = WorldData(32).batch(0, 8)
    label = {"kind": scenes.kind[:, 0]}
    for shape, abar in (((9, 3, 32, 32), 0.5), ((2, 3, 16, 16), 0.5), ((2, 3, 32, 32), 1.0)):
        with pytest.raises(BadInput):
            toys.ideal_reading(gallery, label, torch.tensor([abar]), normal(shape, "test"))


def test_crossing():
    where, share = torch.tensor([0.0, 1, 2, 3]), torch.tensor([1.0, 0.8, 0.4, 0.6])
    assert math.isclose(toys.crossing(where, share, 0.6), 1.5, rel_tol=1e-6)
    assert toys.crossing(where, share, 2.0) == 0 and math.isnan(toys.crossing(where, share, 0.1))


def good(out):
    array, text = out
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.std() > 1 and text
    return array


def test_forward_view_over_its_whole_range():
    shapes, seen = set(), []
    for schedule in panels.SCHEDULES:
        for t in (0, 1, 250, 998, 999):
            array = good(panels.forward_view(t, schedule))
            shapes.add(array.shape)
            seen.append(array.tobytes())
    for scene in panels.SCENES:
        good(panels.forward_view(scene=scene))
    assert len(shapes) == 1 and len(set(seen)) == len(seen)
    clean = good(panels.forward_view(0, "linear"))[:480, :480].astype(int)
    noisy = good(panels.forward_view(999, "linear"))[:480, :480].astype(int)
    truth = panels.pixels(panels._scene_image("cat on the beach"))[0].repeat(10, 0).repeat(10, 1).astype(int)
    assert abs(clean - truth).mean() < 5 < 40 < abs(noisy - truth).mean()
    for bad in ({"schedule": "lineal"}, {"scene": "cat"}, {"t": 1000}):
        with pytest.raises(BadInput):
            panels.forward_view(**bad)


def test_the_marker_sits_on_the_curve():
    chart = panels._abar_chart()
    (x0, y0), (x1, y1) = chart.at(0, 0), chart.at(1000, 1)
    assert 0 < x0 < x1 < chart.base.shape[1] and 0 < y1 < y0 < chart.base.shape[0]
    frame = panels.forward_view(300, "jsd")[0][:, 496:]
    mx, my = chart.at(300, math.sqrt(1 - 301 / 1000))
    assert frame[round(my) - 7, round(mx)].tolist() == list(panels.rgb(panels._COLOURS[-1]))


def test_step_back_view_over_its_whole_range():
    seen = [good(panels.step_back_view(k / 100)).tobytes() for k in range(1, 49)]
    assert len(set(seen)) == len(seen)
    share = [int(panels.step_back_view(beta)[1].split()[-4].rstrip("%")) for beta in (0.01, 0.1, 0.25, 0.35, 0.48)]
    assert share == sorted(share) and share[0] == 0 and share[-1] > 40
    for beta in (0, 0.5, 0.7):
        with pytest.raises(BadInput, match="beta"):
            panels.step_back_view(beta)


@pytest.mark.parametrize("beta", [0.02, 0.2, 0.45])
def test_the_two_bells_of_a_step_back_are_bayes_rule_on_a_grid(beta):
    """Prior at t - 1 times how well each place explains x_t, on a fine grid: the same spread as the text tells."""
    x, before = torch.linspace(-3, 3, 60_001, dtype=torch.float64), 0.5 / (1 - beta)
    prior = sum(torch.exp(-(x - m * before**0.5) ** 2 / (2 * (1 - before))) for m in (-1, 1))
    truth = prior * torch.exp(-(0.1 - (1 - beta) ** 0.5 * x) ** 2 / (2 * beta))
    truth = truth / truth.sum()
    mean = float((x * truth).sum())
    one = torch.exp(-((x - mean) ** 2) / (2 * float(((x - mean) ** 2 * truth).sum())))
    off = float((one / one.sum() - truth).clamp(min=0).sum())
    assert abs(int(panels.step_back_view(beta)[1].split()[-4].rstrip("%")) / 100 - off) < 0.0051


def test_posterior_view_over_its_whole_range():
    for t in range(panels.TEN):
        for x0, xt in ((-1.0, -2.0), (0.0, 0.0), (0.8, -0.3), (1.0, 2.0)):
            good(panels.posterior_view(x0, xt, t))
    text = panels.posterior_view(0.8, -0.3, 0)[1]
    assert text.endswith("both 0.80 ± 0.00")


def test_roll_view_over_its_whole_range():
    rolls = {"40": panels.roll_back(linear(40), n=50), "100": panels.roll_back(linear(100), n=50)}
    assert rolls["40"].x.shape == (41, 50, 2) and rolls["100"].x0.shape == (100, 50, 2)
    frames = [good(panels.roll_view(rolls, steps, m)) for steps in rolls for m in range(41)]
    assert len({f.shape for f in frames}) == 1 and len({f.tobytes() for f in frames}) == len(frames)
    for roll in rolls.values():
        assert torch.cdist(roll.x[-1], roll.data).min(1).values.median() < 0.05
    for bad in ({"steps": "41"}, {"steps": "40", "moment": 41}):
        with pytest.raises(BadInput):
            panels.roll_view(rolls, **bad)


def test_the_claims_hold_at_a_small_size():
    claims()
    found = {id: c.run(c.small) for id, c in CLAIMS.items() if id.startswith("01.")}
    assert len(found) == 5
    for id, out in found.items():
        assert out.low <= out.value <= out.high, id
    assert found["01.closed_form"].value < 1e-12 < 1e-3 < found["01.closed_form"].baseline["one index late"]
    assert found["01.cosine_keeps_signal"].value > found["01.cosine_keeps_signal"].baseline["linear"] + 0.15
    assert 4 < found["01.resolution_shift"].value < 64
    terminal = found["01.zero_terminal"]
    assert terminal.low < 0.5 < terminal.high and terminal.baseline["scaled_linear as shipped with SD"] > 0.95
    reverse = found["01.ideal_reverse"]
    assert reverse.value > 0.97 and next(v for k, v in reverse.baseline.items() if "T = 4 " in k) < 0.2


def test_the_answers_on_the_page_name_the_right_steps():
    page = "\n".join("".join(c["source"]) for c in json.loads(PAGE.read_text())["cells"] if c["cell_type"] == "markdown")
    assert f"already at t = {int((linear().snr - cosine().snr[500]).abs().argmin())}:" in page
    plans = (linear(), cosine(), sigmoid(), jsd(), scaled_linear(), sigmoid_beta())
    first = {s.name: int((s.snr < 1).nonzero()[0]) for s in plans}
    assert first["jsd"] == first["sigmoid"] == 500 and first["cosine"] == 496 and "`cosine` four steps before" in page
    assert first["linear"] == min(first.values()) and sorted(first.values())[1] == first["scaled_linear"]
    at_400 = {s.name: float(s.snr[400]) for s in plans if s.name != "scaled_linear"}
    assert at_400.pop("linear") < 0.3 and min(at_400.values()) > 1
