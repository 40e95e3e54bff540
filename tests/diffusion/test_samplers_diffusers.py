"""Samplers against diffusers' schedulers, step by step in float64, with a network that depends on x and on t.

Two passes over the same matrix:
- "as shipped": diffusers makes its tables in float32, and DPM-Solver, Euler, Heun and flow matching also cast the picture to
  float32: 1e-4 of the size of the largest picture in the run.
- "in float64": the same code with float32 replaced by float64 in its module: 1e-6 of that size (what is seen is about 1e-12).
"""

from __future__ import annotations

import importlib
import itertools
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from minidiff.diffusion import (
    X0,
    Eps,
    Gaussian,
    LearnedRange,
    V,
    cosine,
    ddim,
    ddpm,
    dpm2m,
    euler,
    flow_euler,
    flow_scale,
    flow_time,
    flow_times,
    heun,
    last,
    linear,
    q_sample,
    row_noise,
    scaled_linear,
    sigmoid_beta,
    timesteps,
    velocity_of,
    zero_terminal,
)
from minidiff.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy 2, inside diffusers

WRAPS = {"epsilon": Eps, "sample": X0, "v_prediction": V}
SCHEDULES = {
    "linear": (linear(), {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    "scaled_linear": (scaled_linear(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    "cosine": (cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    "zero": (zero_terminal(scaled_linear()), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                                              "rescale_betas_zero_snr": True}),
}


class _Double(types.ModuleType):
    """torch or numpy, with float64 under the name float32."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__)
        self.__dict__["module"] = module

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["module"], "float64" if name == "float32" else name)


@pytest.fixture(params=["as shipped", "in float64"])
def shipped(request, monkeypatch) -> bool:
    """Runs a test twice; True in the first pass."""
    if request.param == "in float64":
        for name in ("ddim", "ddpm", "dpmsolver_multistep", "euler_discrete", "heun_discrete", "flow_match_euler_discrete"):
            module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
            monkeypatch.setattr(module, "torch", _Double(torch))
            monkeypatch.setattr(module, "np", _Double(np))
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        request.addfinalizer(lambda: torch.set_default_dtype(before))
    return request.param == "as shipped"


def net(x: Tensor, t: Tensor, channels: int = 1) -> Tensor:
    """Smooth, bounded, mixes neighbours, depends on x and on t; nothing cancels in it."""
    t = t.to(x).view(-1, 1, 1, 1) / 1000
    out = 0.8 * torch.sin(x + 2 * t) + 0.3 * torch.cos(1.7 * x.roll(1, -1) - t) + 0.1 * t
    return out if channels == 1 else torch.cat([out, torch.sin(2 * x - t)], 1)


def noise(*, seed: int = 0) -> Tensor:
    return torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest error of any picture in the run, as a share of the largest value in it (at least 1)."""
    assert len(ours) == len(theirs)
    size = max(1.0, max(float(b.abs().max()) for b in theirs))
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True)) / size


def bar(shipped: bool) -> float:
    return 1e-4 if shipped else 1e-6


def without_meaning(schedule: str, kind: str, spacing: str, clip: bool, shipped: bool) -> bool:
    """eps at abar = 0 divides by zero; at 2e-9 (cosine) float32 tables hold a few digits of abar: left to the float64 pass."""
    at_zero = schedule == "zero" and not spacing.startswith("leading")
    return kind == "epsilon" and (at_zero or (schedule == "cosine" and shipped and not clip))


def theirs_ddim(config: dict, S: int, eta: float, clip: str | None) -> tuple[list[Tensor], list[int]]:
    """With our noise of seed 5."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=clip is not None, **config)
    scheduler.set_timesteps(S)
    x, out = noise(), []
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t.repeat(2)), t, x, eta=eta, use_clipped_model_output=clip == "both",
                           variance_noise=row_noise(x.shape, seed=5, t=int(t), dtype=x.dtype)).prev_sample
        out.append(x)
    return out, scheduler.timesteps.tolist()


@pytest.mark.parametrize(("schedule", "S"), [*((name, 4) for name in SCHEDULES), ("linear", 6)])
def test_ddim_whole_matrix(shipped: bool, schedule: str, S: int) -> None:
    """spacing x offset x final x clip x eta x prediction type, for each schedule; S = 6 does not divide T.

    eta = 1 from abar = 0, or from a float32 1 - abar = 1, is done as eta = 0.5: 1 - abar_prev - sigma^2 is 0 there, diffusers
    takes the root of its rounding error, and gets NaN where that is negative.
    """
    table, names = SCHEDULES[schedule]
    most = 0.5 if schedule == "zero" or (schedule == "cosine" and shipped) else 1.0
    for (spacing, offset), final, clip, eta, kind in itertools.product(
            (("leading", 0), ("leading", 1), ("linspace", 0), ("trailing", 0)),  # diffusers ignores other offsets, we refuse them
            ("one", "first"), (None, "x0", "both"), (0.0, most), WRAPS):
        if without_meaning(schedule, kind, spacing, clip is not None, shipped):
            continue
        config = {**names, "prediction_type": kind, "timestep_spacing": spacing, "steps_offset": offset,
                  "set_alpha_to_one": final == "one"}
        want, ts = theirs_ddim(config, S, eta, clip)
        # Where t - T // S is the step visited next, compat changes nothing, and is left off.
        compat = None if spacing == "leading" or (spacing == "trailing" and S == 4) else "diffusers"
        steps = list(ddim(WRAPS[kind](net, table), noise(), steps=S, eta=eta, spacing=spacing, offset=offset,
                          final_alpha=final, clip=clip, seed=5, compat=compat))
        assert [s.t for s in steps] == ts and [s.index for s in steps] == list(range(S)) and {s.steps for s in steps} == {S}
        error = gap([s.x for s in steps], want)
        assert error <= bar(shipped), (spacing, offset, final, clip, eta, kind, error)


def test_ddim_linspace_without_compat_reads_each_picture_at_its_own_level() -> None:
    """diffusers takes t_prev = t - T // S: with linspace it is not the step visited next. Ours is, unless compat is set."""
    model = Eps(net, linear())
    plain = [(s.t, s.t_prev) for s in ddim(model, noise(), steps=10, spacing="linspace")]
    theirs = [(s.t, s.t_prev) for s in ddim(model, noise(), steps=10, spacing="linspace", compat="diffusers")]
    assert plain == [(999 - 111 * i, 888 - 111 * i if i < 9 else -1) for i in range(10)]
    assert theirs == [(999 - 111 * i, max(899 - 111 * i, -1)) for i in range(10)]


def theirs_ddpm(monkeypatch, scheduler: object, predict: Callable) -> list[Tensor]:
    """diffusers' DDPM from ``noise()``, with our noise of seed 5 in the place of its own."""
    now: list[int] = []
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor",
                        lambda shape, **options: row_noise(shape, seed=5, t=now[-1], dtype=options["dtype"]))
    x, out = noise(), []
    for t in scheduler.timesteps:
        now.append(int(t))
        x = scheduler.step(predict(x, t.repeat(2)), t, x).prev_sample
        out.append(x)
    return out


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"])
@pytest.mark.parametrize("schedule", [*SCHEDULES, "sigmoid"])
def test_ddpm_whole_matrix(shipped: bool, monkeypatch, variance: str, schedule: str) -> None:
    """variance type x clip x prediction type x (spacing, offset, steps), for each schedule; the whole chain is the next test.

    Not fixed_large_log: its step takes the root of a logarithm, which is NaN. Not learned: raw variances, which we do not offer.
    """
    from diffusers import DDPMScheduler

    table, names = {**SCHEDULES, "sigmoid": (sigmoid_beta(), {"beta_schedule": "sigmoid"})}[schedule]
    doubled = variance == "learned_range"
    routes = [("leading", 0, 4), ("leading", 1, 3), ("linspace", 0, 4), ("trailing", 0, 3)]
    for (spacing, offset, S), clip, kind in itertools.product(routes, ("x0", None), WRAPS):
        if without_meaning(schedule, kind, spacing, clip is not None, shipped):
            continue
        scheduler = DDPMScheduler(**names, variance_type=variance, clip_sample=clip is not None, prediction_type=kind,
                                  timestep_spacing=spacing, steps_offset=offset)
        scheduler.set_timesteps(S)
        def predict(x: Tensor, t: Tensor) -> Tensor:
            return net(x, t, 2 if doubled else 1)

        want, base = theirs_ddpm(monkeypatch, scheduler, predict), WRAPS[kind](predict, table)
        got = ddpm(LearnedRange(base) if doubled else base, noise(), clip=clip, steps=S, spacing=spacing, offset=offset,
                   variance={"fixed_large": "large", "learned_range": "learned"}.get(variance, "small"),
                   seed=5, compat="diffusers")
        error = gap([s.x for s in got], want)
        assert error <= bar(shipped), (spacing, offset, S, clip, kind, error)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_whole_chain(shipped: bool, monkeypatch, variance: str) -> None:
    from diffusers import DDPMScheduler

    betas = np.linspace(0.001, 0.2, 100)
    scheduler = DDPMScheduler(100, trained_betas=betas, variance_type=variance)
    ours = list(ddpm(Eps(net, linear(100)), noise(), variance=variance[6:], clip="x0", seed=5))
    assert len(ours) == 100 and gap([ours[-1].x], theirs_ddpm(monkeypatch, scheduler, net)[-1:]) <= bar(shipped)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpm2m_whole_matrix(shipped: bool, schedule: str) -> None:
    """spacing x offset x final x lower_order_final x steps x prediction type, for each schedule (15 steps change the rule)."""
    from diffusers import DPMSolverMultistepScheduler

    table, names = SCHEDULES[schedule]
    spacings = {"linspace": "linspace_open", "leading": "leading_open", "trailing": "trailing"}
    for (spacing, offset), final, (S, lower), kind in itertools.product(
            (("linspace", 0), ("leading", 0), ("leading", 1), ("trailing", 0)), ("one", "first"),
            ((2, True), (4, True), (4, False), (15, True)), WRAPS):
        if schedule == "zero" and spacing != "leading":
            continue  # diffusers moves abar = 0 to 2^-24 for this scheduler: see the next test
        if without_meaning(schedule, kind, spacing, False, shipped):
            continue
        scheduler = DPMSolverMultistepScheduler(
            **names, prediction_type=kind, timestep_spacing=spacing, steps_offset=offset, lower_order_final=lower,
            final_sigmas_type="zero" if final == "one" else "sigma_min")
        scheduler.set_timesteps(S)
        x, want = noise(), []
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.repeat(2)), t, x).prev_sample
            want.append(x)
        got = list(dpm2m(WRAPS[kind](net, table), noise(), steps=S, spacing=spacings[spacing], offset=offset,
                         final_alpha=final, lower_order_final=lower))
        assert [s.t for s in got] == scheduler.timesteps.tolist()
        error = gap([s.x for s in got], want)
        assert error <= bar(shipped), (spacing, offset, final, lower, S, kind, error)


def test_dpm2m_from_abar_0() -> None:
    """lam = -inf there: the first step is of first order, and so is the second (r = inf); both are DDIM's. The third is not."""
    model = V(net, zero_terminal(scaled_linear()))
    fast, plain = (list(run(model, noise(), steps=8, spacing="trailing")) for run in (dpm2m, ddim))
    assert fast[0].t == 999 and all(bool(torch.isfinite(s.x).all()) for s in fast)
    assert gap([s.x for s in fast[:2]], [s.x for s in plain[:2]]) < 1e-12
    assert gap([fast[2].x], [plain[2].x]) > 1e-4


@pytest.mark.parametrize(("solver", "their"), [(euler, "EulerDiscreteScheduler"), (heun, "HeunDiscreteScheduler")])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_euler_and_heun_whole_matrix(shipped: bool, solver, their: str, schedule: str) -> None:
    """spacing x offset x final x prediction type. S = 10: there linspace falls on whole steps (diffusers does not round it)."""
    import diffusers

    table, names = SCHEDULES[schedule]
    S = 10
    for (spacing, offset), final, kind in itertools.product(
            (("linspace", 0), ("leading", 0), ("leading", 1), ("trailing", 0)), ("one", "first"), WRAPS):
        if solver is heun and (final == "first" or kind == "sample"):
            continue  # their Heun has neither
        if schedule == "cosine" and shipped:
            continue  # sigma = 2e4 from float32 tables: in the float64 pass only
        extra = {"final_sigmas_type": "zero" if final == "one" else "sigma_min"} if solver is euler else {}
        scheduler = getattr(diffusers, their)(**names, prediction_type=kind, timestep_spacing=spacing, steps_offset=offset,
                                              **extra)
        scheduler.set_timesteps(S)
        sigmas = scheduler.sigmas.double()
        x, want = noise() * (1 + sigmas[0] ** 2).sqrt(), []
        for i, t in enumerate(scheduler.timesteps):
            inside = scheduler.scale_model_input(x, t)
            x = scheduler.step(net(inside, t.repeat(2)), t, x).prev_sample
            if solver is euler or i % 2 == 1 or i == 2 * S - 2:  # Heun: two calls a step, one in the last
                want.append(x / (1 + sigmas[i + 1] ** 2).sqrt())
        got = list(solver(WRAPS[kind](net, table), noise(), steps=S, spacing=spacing, offset=offset, final_alpha=final))
        error = gap([s.x for s in got], want)
        assert error <= bar(shipped), (spacing, offset, final, kind, error)


@pytest.mark.parametrize(("solver", "their"), [(euler, "EulerDiscreteScheduler"), (heun, "HeunDiscreteScheduler")])
def test_karras_grid(shipped: bool, solver, their: str) -> None:
    """Noise levels between the model's steps; the network is asked at a float t. diffusers finds t to float32 as shipped."""
    import diffusers

    table, names = SCHEDULES["scaled_linear"]
    scheduler = getattr(diffusers, their)(**names, use_karras_sigmas=True, timestep_spacing="linspace")
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    x = noise() * (1 + sigmas[0] ** 2).sqrt()
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), t.repeat(2)), t, x).prev_sample
    got = list(solver(Eps(net, table), noise(), steps=12, spacing="karras"))
    wanted = list(dict.fromkeys(scheduler.timesteps.tolist()))
    assert [s.t for s in got] == pytest.approx(wanted, abs=1e-2 if shipped else 1e-9)
    assert gap([got[-1].x], [x]) <= bar(shipped)


def test_euler_is_ddim() -> None:
    """The ODE view (generative.md 1.8), for every grid of whole steps."""
    for kind, (spacing, offset) in itertools.product(WRAPS, (("leading", 1), ("linspace", 0), ("trailing", 0), ("quad", 0),
                                                             ("openai", 0))):
        model = WRAPS[kind](net, linear())
        a = [s.x for s in euler(model, noise(), steps=9, spacing=spacing, offset=offset)]
        b = [s.x for s in ddim(model, noise(), steps=9, spacing=spacing, offset=offset)]
        assert gap(a, b) < 1e-11


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(shipped: bool, shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(8)
    x, want = noise(), []
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t.repeat(2)), t, x).prev_sample
        want.append(x)
    least = shift * 0.001 / (1 + (shift - 1) * 0.001)  # their smallest time is shifted twice
    times = flow_times(8, shift=shift, T=1 / least)
    got = flow_euler(lambda x, t: net(x, t * 1000), noise(), steps=times)
    assert gap([s.x for s in got], want) <= bar(shipped)


def test_flow_is_ddim_after_rescaling() -> None:
    table = linear()
    for kind in WRAPS:
        model = WRAPS[kind](net, table)
        ts = timesteps(1000, 9)
        times = [*flow_time(table, torch.tensor(ts)).tolist(), 0.0]
        straight = list(flow_euler(velocity_of(model), noise() / flow_scale(table, ts[0]), steps=times))
        for a, b in zip(straight, ddim(model, noise(), steps=ts), strict=True):
            assert torch.allclose(a.x * flow_scale(table, b.t_prev), b.x, atol=1e-7)
            assert torch.allclose(a.x0, b.x0, atol=1e-7) and torch.allclose(a.eps, b.eps, atol=1e-7)


@pytest.mark.parametrize("T", [1000, 77])
def test_timesteps_of_diffusers_for_every_count(T: int) -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    for name in ("leading", "trailing", "linspace"):
        first, second = DDIMScheduler(T, timestep_spacing=name), DPMSolverMultistepScheduler(T, timestep_spacing=name)
        for S in [*range(1, 60), T // 2, T - 1, T]:
            first.set_timesteps(S)
            assert timesteps(T, S, spacing=name) == first.timesteps.tolist()[:S]  # T = 77, S = 21 trailing: theirs ends in -1
            if name != "trailing" and S < T // 2:
                second.set_timesteps(S)
                assert timesteps(T, S, spacing=name + "_open") == second.timesteps.tolist()


def test_other_spacings_by_hand() -> None:
    assert timesteps(1000, 10, spacing="quad") == [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]
    assert timesteps(1000, 50, spacing="quad")[-6:] == [11, 8, 5, 2, 1, 0]  # 0 comes twice in the published list
    assert timesteps(1000, 10, spacing="openai") == [999 - 111 * i for i in range(10)]
    assert timesteps(10, 4, spacing="openai") == [9, 6, 3, 0] and timesteps(10, 3, spacing="openai") == [9, 4, 0]  # 4.5 to even
    assert timesteps(1000, 30, spacing="uniform") == list(range(0, 1000, 33))[::-1]
    assert timesteps(1000, 250, spacing="leading", offset=1)[:2] == [997, 993]
    assert timesteps(1000, [7, 3, 0]) == [7, 3, 0]


def test_steps_come_after_the_step() -> None:
    """Step.x is the new picture, at level t_prev; the next network call sees exactly it."""
    seen: list[Tensor] = []

    def spy(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.clone())
        return net(x, t)

    for run in (lambda m: ddim(m, noise(), steps=5), lambda m: dpm2m(m, noise(), steps=5), lambda m: euler(m, noise(), steps=5),
                lambda m: ddpm(m, noise(), steps=5, clip="x0", seed=1),
                lambda m: heun(m, noise(), steps=5, spacing="linspace")):
        seen.clear()
        steps = list(run(Eps(spy, linear())))
        calls = seen[::2] if len(seen) == 9 else seen  # Heun calls twice a step
        assert len(steps) == len(calls) == 5 and torch.allclose(calls[0], noise())
        for before, step in zip(calls[1:], steps, strict=False):
            assert torch.allclose(before, step.x, atol=1e-12)
        assert all(a.t_prev == b.t for a, b in zip(steps, steps[1:], strict=False)) and steps[-1].t_prev == -1
        assert last(iter(steps)) is steps[-1]
        for before, step in zip(calls, steps, strict=True):  # x0 and eps are those of the picture before the step
            if len(seen) == 5 and not bool((step.x0.abs() == 1).any()):  # not Heun's mean slope, not DDPM's clip
                assert torch.allclose(q_sample(step.x0, step.t, step.eps, linear()), before, atol=1e-9)


def test_the_seed_decides_the_noise() -> None:
    model = Eps(net, linear())
    a, b, c, d = (last(ddim(model, noise(seed=s), steps=9, eta=1.0, seed=seed)).x for s, seed in ((0, 0), (0, 0), (0, 1), (1, 0)))
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, d)
    true = Gaussian(linear(), std=0.5)  # forgets x_T along the way: what differs in the end is the noise of the steps
    one, two, three = (last(ddpm(true, noise() + shift, steps=50, seed=seed)).x for shift, seed in ((0, 0), (1e-3, 0), (0, 1)))
    assert float((one - two).abs().mean()) < 0.01 and float((one - three).abs().mean()) > 0.1


def test_float32_gives_the_same_picture() -> None:
    model = Eps(net, linear())
    for run in (lambda x: ddim(model, x, steps=20), lambda x: dpm2m(model, x, steps=20), lambda x: heun(model, x, steps=9)):
        a, b = last(run(noise())).x, last(run(noise().float())).x
        assert b.dtype == torch.float32 and float((a - b).abs().max()) < 1e-3


@pytest.mark.parametrize(("call", "words"), [
    (lambda m, x: ddim(m, x, steps=1001), "1 to 1000 steps"),
    (lambda m, x: ddim(m, x, steps=0), "1 to 1000"),
    (lambda m, x: ddim(m, x, spacing="trailling"), "spacing='trailing'"),
    (lambda m, x: ddim(m, x, spacing="trailing", offset=1), "only the leading"),
    (lambda m, x: ddim(m, x, steps=1000, offset=1), "fewer steps"),
    (lambda m, x: ddim(m, x, steps=[5, 5, 0]), "falling"),
    (lambda m, x: ddim(m, x, steps=[1000, 5]), "falling"),
    (lambda m, x: ddim(m, x, steps=[]), "falling"),
    (lambda m, x: ddim(m, x, eta=1.5), "eta"),
    (lambda m, x: ddim(m, x, final_alpha="zero"), "'first'"),
    (lambda m, x: ddim(m, x, clip=True), "clip='x0'"),
    (lambda m, x: ddpm(m, x, clip=True), "clip='x0'"),
    (lambda m, x: heun(m, x, clip="x"), "clip='x0'"),
    (lambda m, x: ddpm(m, x, final_alpha="last"), "'first'"),
    (lambda m, x: ddim(m, x, rows=[0]), "rows=range.2."),
    (lambda m, x: ddpm(m, x, rows=[0.0, 1.0]), "whole numbers"),
    (lambda m, x: ddim(m, x, seed=1.5), "seed=0"),
    (lambda m, x: ddim(m, x, compat="difusers"), "diffusers"),
    (lambda m, x: ddim(m, x[0]), "one picture"),
    (lambda m, x: ddim(m, x * float("nan")), "finite"),
    (lambda m, x: ddim(m, (x * 9).int()), "127.5"),
    (lambda m, x: ddim(m, x[:0]), "at least one picture"),
    (lambda m, x: ddim(net, x), "states what it predicts"),
    (lambda m, x: ddpm(net, x), "states what it predicts"),
    (lambda m, x: ddpm(m, x, variance="fixed_small"), "'small'"),
    (lambda m, x: ddpm(m, x, variance="learned"), "LearnedRange"),
    (lambda m, x: ddpm(m, x, compat="lucid"), "diffusers"),
    (lambda m, x: dpm2m(m, x, steps=1000), "1 to 999"),
    (lambda m, x: euler(m, x, spacing="kerras"), "spacing"),
    (lambda m, x: euler(V(net, zero_terminal(linear())), x), "infinite"),
    (lambda m, x: heun(V(net, zero_terminal(linear())), x), "infinite"),
    (lambda m, x: flow_euler(net, x, steps=[0.0, 1.0]), "falling"),
    (lambda m, x: flow_times(3, shift=0.0), "positive"),
    (lambda m, x: list(ddim(Eps(net, zero_terminal(linear())), x, spacing="trailing")), "does not determine the picture"),
    (lambda m, x: last([]), "at least one step"),
])
def test_bad_input_is_refused_before_work_starts(call, words: str) -> None:
    """On the call itself, not on the first step."""
    with pytest.raises(BadInput, match=words):
        call(Eps(net, linear()), noise())
