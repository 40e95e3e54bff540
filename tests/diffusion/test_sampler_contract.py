"""One contract for all samplers: the same keywords, a batch equals a loop of singles at every eta, gradients on demand."""

from __future__ import annotations

import copy
import functools
import inspect
import math

import pytest
import torch
from torch import Tensor

from minidiff import load
from minidiff.diffusion import (
    Eps,
    LearnedRange,
    V,
    bits_per_dim,
    bound_steps,
    ddim,
    ddim_sigma,
    ddim_step,
    ddpm,
    dpm2m,
    euler,
    flow_euler,
    heun,
    interpolate,
    invert,
    last,
    linear,
    row_noise,
    step_pairs,
    visits,
)
from minidiff.diffusion.ddgan import ddgan, ddgan_schedule
from minidiff.errors import BadInput, checks_first

S = linear(1000)
SHAPES = {"points": (4, 2), "pixels": (4, 3, 6, 6), "latents, not square": (4, 4, 3, 5)}


def net(x: Tensor, t: Tensor, cond: Tensor | None = None, *, channels: int = 1) -> Tensor:
    """Bent, depends on x, t and the condition; no row sees another."""
    t = t.to(x).view(-1, *[1] * (x.ndim - 1)) / 1000
    out = 0.8 * torch.sin(x + 2 * t) + 0.3 * torch.cos(1.7 * x.roll(1, -1) - t)
    if cond is not None:
        out = out + 0.2 * cond.to(x).view(-1, *[1] * (x.ndim - 1)) * torch.cos(x)
    return out if channels == 1 else torch.cat((out, torch.sin(2 * x - t)), dim=1)


MODEL, RANGED = V(net, S), LearnedRange(V(functools.partial(net, channels=2), S))



def stirred(eta: float):
    return lambda x, cond, rows: ddim(MODEL, x, steps=7, eta=eta, cond=cond, rows=rows, seed=3)


def mixed(encode: str, noise: str):
    return lambda x, cond, rows: interpolate(MODEL, x, 0.5 * x.flip(-1), encode=encode, noise=noise, t=600, steps=7, eta=0.5,
                                             weights=(0.5,), cond=cond, cond_b=-cond, rows=rows, seed=3)


# name -> loop(x, cond, rows): every sampler in the settings where rows could meet
LOOPS = {
    **{f"ddim, eta {eta}": stirred(eta) for eta in (0.0, 0.5, 1.0)},
    "ddim, both clipped": lambda x, cond, rows: ddim(MODEL, x, steps=7, eta=1.0, clip="both", cond=cond, rows=rows, seed=3),
    "ddpm, small": lambda x, cond, rows: ddpm(MODEL, x, steps=7, clip="x0", cond=cond, rows=rows, seed=3),
    "ddpm, large": lambda x, cond, rows: ddpm(MODEL, x, steps=7, variance="large", cond=cond, rows=rows, seed=3),
    "ddpm, learned": lambda x, cond, rows: ddpm(RANGED, x, steps=7, variance="learned", cond=cond, rows=rows, seed=3),
    "dpm2m": lambda x, cond, rows: dpm2m(MODEL, x, steps=7, clip="x0", cond=cond),
    "euler": lambda x, cond, rows: euler(MODEL, x, steps=7, clip="both", cond=cond),
    "heun": lambda x, cond, rows: heun(MODEL, x, steps=4, clip="both", cond=cond),
    "flow_euler": lambda x, cond, rows: flow_euler(lambda x, t, c: net(x, 1000 * t, c), x, steps=7, clip="both", cond=cond),
    "invert": lambda x, cond, rows: invert(MODEL, x, steps=7, fixed_point=2, cond=cond),
    "bound": lambda x, cond, rows: bound_steps(V(net, linear(20)), x.clamp(-1, 1), clip="x0", cond=cond, rows=rows, seed=3),
    "ddgan": lambda x, cond, rows: ddgan(lambda x, t, z: net(x, 250 * t, z.mean(1)), x, ddgan_schedule(), z_dim=3, rows=rows,
                                         seed=3),
    **{f"interpolate, {encode}, {noise} noise": mixed(encode, noise)
       for encode, noise in (("invert", "shared"), ("q_sample", "shared"), ("q_sample", "own"))},
}


def start(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=g, dtype=dtype), torch.randn(shape[0], generator=g, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_a_batch_is_a_loop_of_singles(loop, shape) -> None:
    """At every step, all that is yielded; and so for chunks of two, and for the rows in another order."""
    x, cond = start(shape)
    rows = [5, 0, 2**40, 3]
    whole = list(loop(x, cond, rows))

    def same(part: slice | list[int]) -> None:
        for one, step in zip(loop(x[part], cond[part], torch.tensor(rows)[part].tolist()), whole, strict=True):
            for a, b in zip(one, step, strict=True):
                if isinstance(a, Tensor):
                    assert torch.allclose(a, b[part], rtol=0, atol=1e-12)
                else:
                    assert a == b

    for part in (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4), slice(0, 2), slice(2, 4), [2, 0, 3, 1]):
        same(part)
    again = list(loop(x, cond, rows))
    assert all(torch.equal(a.x0, b.x0) for a, b in zip(whole, again, strict=True))


def shipped(name: str, dtype: torch.dtype) -> tuple[object, Tensor, Tensor | None, dict]:
    """(model, start, condition, scheduler options) of a shipped model, three rows."""
    if name == "pixel-ddpm":
        return copy.deepcopy(load(name)).to(dtype), start((3, 3, 32, 32), dtype)[0], None, {}
    from minidiff.latent import denoiser, encode_prompt, scheduler_options

    pipe = load(name)
    words = encode_prompt(pipe, ["a red cat", "a blue dog on the grass", "a green house"]).to(dtype)
    return denoiser(pipe, copy.deepcopy(pipe.unet).to(dtype)), start((3, 4, 16, 16), dtype)[0], words, scheduler_options(pipe)


@pytest.mark.parametrize("loop", ["ddim, eta 0", "ddim, eta 0.5", "ddim, eta 1", "ddpm"])
@pytest.mark.parametrize("name", ["pixel-ddpm", "mini-sd"])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_a_batch_is_a_loop_of_singles_of_a_shipped_network(name: str, loop: str, dtype: torch.dtype, bar: float) -> None:
    """Pixels and latents, six steps. float64: as it is. float32: a share of the largest value, since convolutions of one row and
    of three round differently (latents reach 5). pixel-ddpm predicts x0, and the noise worked out from it at the last steps is a
    rounding error divided by a small sigma: there, what float32 itself is off from float64, three times over, is allowed."""
    def run(made: tuple, part: slice, rows: list[int] | None) -> Tensor:
        model, x, cond, way = made
        options = {"steps": 6, "cond": None if cond is None else cond[part], "seed": 1, "rows": rows, **way}
        end = ddpm(model, x[part], **options) if loop == "ddpm" else ddim(model, x[part], eta=float(loop.split()[-1]), **options)
        return last(end).x

    made = shipped(name, dtype)
    whole = run(made, slice(None), None)
    allowed = bar
    if dtype == torch.float32:
        allowed = bar * max(1.0, float(whole.abs().max()))
    if dtype == torch.float32 and name == "pixel-ddpm":
        model, _, cond, way = shipped(name, torch.float64)
        exact = run((model, made[1].double(), cond, way), slice(None), None)
        rounding = float((whole - exact).abs().max())
        assert rounding <= 1e-3, "float32 and float64 are two different loops"
        allowed = max(allowed, 3 * rounding)
    for b in range(3):
        assert float((run(made, slice(b, b + 1), [b]) - whole[b : b + 1]).abs().max()) <= allowed


def test_rows_default_to_their_places() -> None:
    x, _ = start((4, 2))
    a, b, c = (last(ddim(MODEL, x, steps=5, eta=1.0, rows=rows)).x for rows in (None, range(4), torch.arange(1, 5)))
    assert torch.equal(a, b) and not torch.allclose(a, c, atol=1e-2)


# The noise ----------------------------------------------------------------------------------------------------------------


def test_row_noise_is_a_function_of_seed_row_and_t() -> None:
    z = row_noise((6, 3, 5, 7), seed=1, t=40, dtype=torch.float64)
    assert torch.equal(z[[4, 1]], row_noise((2, 3, 5, 7), seed=1, t=40, rows=[4, 1], dtype=torch.float64))
    assert torch.equal(z.float(), row_noise((6, 3, 5, 7), seed=1, t=40))
    others = [row_noise((6, 3, 5, 7), seed=2, t=40), row_noise((6, 3, 5, 7), seed=1, t=41), row_noise((6, 3, 5, 7), seed=40, t=1),
              row_noise((6, 3, 5, 7), seed=1, t=40, rows=range(6, 12)), row_noise((6, 3, 5, 7), seed=1, t=40, stream="start")]
    for one in others:  # 630 numbers: a correlation of independent ones is below 0.2 by five standard deviations
        assert abs(float((one.double() * z).mean())) < 0.2


def test_row_noise_is_standard_normal() -> None:
    """200,000 numbers: moments, the largest gap of the cumulative distribution, no correlation of any neighbours."""
    z = row_noise((400, 5, 10, 10), seed=0, t=7, dtype=torch.float64)
    n = z.numel()
    assert abs(float(z.mean())) < 5 / n**0.5 and abs(float(z.var()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float((z**3).mean())) < 5 * (15 / n) ** 0.5 and abs(float((z**4).mean()) - 3) < 5 * (96 / n) ** 0.5
    ranked = z.flatten().sort().values
    gap = (torch.special.ndtr(ranked) - torch.arange(1, n + 1, dtype=torch.float64) / n).abs().max()
    assert float(gap) < 2 / n**0.5                                                      # Kolmogorov: 1.63 has 1 %
    nearby = [row_noise(z.shape, seed=0, t=8, dtype=torch.float64), row_noise(z.shape, seed=1, t=7, dtype=torch.float64),
              z.roll(1, 0), z.roll(1, 1), z.roll(1, 2), z.roll(1, 3), z.flatten(1).roll(250, 1).view_as(z)]
    assert all(abs(float((z * other).mean())) < 5 / n**0.5 for other in nearby)


def test_row_noise_stays_what_it_is() -> None:
    """Pictures in committed notebooks rest on these numbers."""
    z = row_noise((2, 3), seed=5, t=100, dtype=torch.float64)
    assert z.flatten().tolist() == pytest.approx(GOLDEN, abs=1e-12)


GOLDEN = [-0.5230002032731444, -0.5335363649549354, 0.31666442027501507, -1.3239520103290912, -0.5106341483881283,
          0.21110590704494564]


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_step_adds_sigma_times_the_noise_of_its_t(eta: float) -> None:
    x, _ = start((3, 2))
    steps = list(ddim(MODEL, x, steps=[700, 400, 100], eta=eta, seed=9, final_alpha="first"))
    for step, way in zip(steps, visits(S, [700, 400, 100], final_alpha="first"), strict=True):
        assert (step.t, step.t_prev, step.index, step.steps) == (way.t, way.t_prev, way.index, way.steps)
        sigma = ddim_sigma(way.abar, way.abar_prev, eta)
        added = step.x - math.sqrt(way.abar_prev) * step.x0 - math.sqrt(1 - way.abar_prev - sigma**2) * step.eps
        assert torch.allclose(added, sigma * row_noise((3, 2), seed=9, t=step.t, dtype=torch.float64), atol=1e-12)
    assert way.abar_prev == float(S.abar[0]) and sigma > 0


# The keywords -------------------------------------------------------------------------------------------------------------

SAMPLERS = [ddpm, ddim, dpm2m, euler, heun, interpolate, invert]


def test_all_samplers_take_the_same_keywords() -> None:
    said = {loop.__name__: inspect.signature(loop).parameters for loop in SAMPLERS}
    for name, parameters in said.items():
        assert {"steps", "spacing", "offset", "final_alpha", "cond"} <= set(parameters), name
        assert [parameters[key].default for key in ("offset", "final_alpha", "cond")] == [0, "one", None]
        assert ("clip" in parameters) == (name != "invert") and ("clip" not in parameters or parameters["clip"].default is None)
        noisy = name in ("ddpm", "ddim", "interpolate")
        assert ({"seed", "rows"} <= set(parameters)) == noisy and ("eta" in parameters) == (noisy and name != "ddpm")
        assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[3 if name == "interpolate" else 2:])
        assert "generator" not in parameters
    flow = inspect.signature(flow_euler).parameters
    assert {"steps", "clip", "cond"} <= set(flow) and flow["clip"].default is None


@pytest.mark.parametrize("way", [{}, {"offset": 1}, {"offset": 1, "final_alpha": "first"}, {"spacing": "trailing"}], ids=str)
@pytest.mark.parametrize("clip", [None, "x0", "both"])
def test_the_samplers_agree_on_clip_and_final_alpha(clip: str | None, way: dict) -> None:
    """ddpm with the small variance is ddim at eta 1 (whose eps fits its x0: "both"); euler is ddim at eta 0 under every rule;
    the first order of dpm2m is ddim with "both". x is pushed out, so that the clip has something to do."""
    x = 2 * start((3, 2))[0]
    options = {"steps": 9, "spacing": "leading", **way}

    def pictures(loop) -> list[Tensor]:
        return [s.x for s in loop]

    def close(a, b) -> bool:
        return all(torch.allclose(i, j, atol=1e-10) for i, j in zip(a, b, strict=True))

    rule = "both" if clip else None
    ancestral = pictures(ddpm(MODEL, x, clip=clip, seed=1, **options))
    assert close(ancestral, pictures(ddim(MODEL, x, eta=1.0, clip=rule, seed=1, **options)))
    assert close(pictures(euler(MODEL, x, clip=clip, **options)), pictures(ddim(MODEL, x, clip=clip, **options)))
    for steps in ([888, 600], [150, 20]):  # near the picture x0 lies far outside
        fast, plain = (next(iter(loop(MODEL, x, steps=steps, clip=c))) for loop, c in ((dpm2m, clip), (ddim, rule)))
        assert torch.allclose(fast.x, plain.x, atol=1e-10) and torch.equal(fast.x0, plain.x0)
    assert clip is None or float(fast.x0.abs().max()) == 1.0
    free = pictures(ddim(MODEL, x, **options))
    assert clip is None or not close(pictures(ddim(MODEL, x, clip=clip, **options)), free)


@pytest.mark.parametrize("clip", ["x0", "both"])
def test_heun_and_flow_clip_by_the_same_rule(clip: str) -> None:
    """In one step both are Euler's: x0 is the result, whatever eps is. In two, by hand."""
    x = 2 * start((3, 2))[0]
    one = last(heun(MODEL, x, steps=1, spacing="trailing", clip=clip))
    assert torch.equal(one.x0, MODEL(x, 999).x0.clamp(-1, 1)) and torch.allclose(one.x, one.x0)
    steps = list(flow_euler(lambda x, t: net(x, 1000 * t), x, steps=[0.9, 0.4, 0.0], clip=clip))
    x0 = (x - 0.9 * net(x, torch.full((3,), 900.0))).clamp(-1, 1)
    eps = (x - 0.1 * x0) / 0.9 if clip == "both" else x + 0.1 * net(x, torch.full((3,), 900.0))
    assert torch.allclose(steps[0].x, 0.6 * x0 + 0.4 * eps) and torch.allclose(steps[1].x, steps[1].x0)
    assert float(steps[1].x0.abs().max()) <= 1


def test_interpolate_takes_a_pair_of_conditions_and_every_convention() -> None:
    """The ends are the round trips, each under its own condition; between them the condition is the mean, through tuples too."""
    x, cond = start((4, 2))
    a, b = 0.5 * x[:2], 0.5 * x[2:]
    way = {"steps": 12, "spacing": "leading", "offset": 1, "final_alpha": "first"}
    steps = list(interpolate(MODEL, a, b, weights=(0, 0.25, 1), fixed_point=60, cond=cond[:2], cond_b=cond[2:], **way))
    assert torch.allclose(steps[-1].x[:2], a, atol=1e-8) and torch.allclose(steps[-1].x[4:], b, atol=1e-8)
    assert [(s.t, s.t_prev) for s in steps] == step_pairs(1000, 12, offset=1)
    got = []

    class Spy:
        schedule = S

        def __call__(self, x: Tensor, t: Tensor, cond: tuple) -> object:
            got.append(cond)
            return MODEL(x, t, cond[0])

    empty = torch.zeros(2)
    list(interpolate(Spy(), a, b, weights=(0, 0.25), steps=1, cond=(cond[:2], empty, "name"), cond_b=(cond[2:], empty, "name")))
    assert [torch.equal(c[0], cond[i : i + 2]) for c, i in zip(got, (0, 2), strict=False)] == [True, True]
    assert torch.allclose(got[2][0], torch.cat((cond[:2], 0.75 * cond[:2] + 0.25 * cond[2:])))
    assert torch.equal(got[2][1], torch.zeros(4)) and got[2][2] == "name"
    labels = {"cond": torch.tensor([1, 2]), "cond_b": torch.tensor([3, 4])}
    for pair in (labels, {"cond_b": cond[:2]}, {"cond": cond[:2], "cond_b": cond[:1]}):
        with pytest.raises(BadInput, match="cond_b"):
            interpolate(MODEL, a, b, **pair)
    for wrong in ({"eta": 2.0}, {"spacing": "leeding"}, {"final_alpha": "last"}, {"clip": True}, {"rows": [1]}, {"seed": None}):
        with pytest.raises(BadInput):
            interpolate(MODEL, a, b, **wrong)


def test_each_weight_of_an_interpolation_is_its_own_run() -> None:
    x, _ = start((4, 2))
    options = {"encode": "q_sample", "t": 500, "steps": 6, "eta": 1.0, "seed": 2}
    both = last(interpolate(MODEL, x[:2], x[2:], weights=(0.3, 0.6), **options)).x
    alone = [last(interpolate(MODEL, x[:2], x[2:], weights=(w,), **options)).x for w in (0.3, 0.6)]
    assert torch.allclose(both, torch.cat(alone), atol=1e-12)


def test_the_bound_does_not_depend_on_chunks() -> None:
    x, _ = start((4, 3, 2, 2))
    model = V(net, linear(20))
    whole = bits_per_dim(model, x, seed=4)
    parts = [bits_per_dim(model, x[i : i + 2], seed=4, rows=range(i, i + 2)) for i in (0, 2)]
    assert torch.allclose(whole.terms, torch.cat([p.terms for p in parts]), atol=1e-12)
    assert not torch.allclose(whole.terms, bits_per_dim(model, x, seed=5).terms, atol=1e-4)
    free, kept = (torch.stack([s.x0 for s in bound_steps(model, x, clip=clip, seed=4)]) for clip in (None, "x0"))
    assert float(free.abs().max()) > 1.1 and torch.equal(free.clamp(-1, 1), kept)


def test_checks_first() -> None:
    began = []

    @checks_first
    def good(n: int, *, extra: int = 0):
        """Counts."""
        if n < 0:
            raise ValueError(n)
        yield
        began.append(n)
        yield from range(n)

    with pytest.raises(ValueError):
        good(-1)
    loop = good(3)
    assert began == [] and list(loop) == [0, 1, 2] and began == [3] and list(good(0)) == []
    assert good.__doc__ == "Counts." and list(inspect.signature(good).parameters) == ["n", "extra"]
    bad = checks_first(lambda: (i for i in range(3)))
    never = checks_first(lambda: iter(()))
    for loop in (bad, never):
        with pytest.raises(RuntimeError, match="bare"):
            loop()


# Gradients ----------------------------------------------------------------------------------------------------------------


class Trained(torch.nn.Module):
    """A network with a trainable parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.recorded: list[bool] = []

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        out = self.scale * net(x, t, cond)
        self.recorded.append(out.requires_grad)
        return out


def objective(x: Tensor, cond: Tensor, model: V, loop: str) -> Tensor:
    run = {"ddim": lambda: ddim(model, x, steps=4, cond=cond),
           "ddim eta": lambda: ddim(model, x, steps=4, eta=0.7, cond=cond, seed=1),
           "ddpm": lambda: ddpm(model, x, steps=4, cond=cond, seed=1), "dpm2m": lambda: dpm2m(model, x, steps=4, cond=cond),
           "euler": lambda: euler(model, x, steps=4, cond=cond), "heun": lambda: heun(model, x, steps=3, cond=cond),
           "invert": lambda: invert(model, x, steps=4, cond=cond),
           "flow": lambda: flow_euler(lambda x, t, c: net(x, 1000 * t, c), x, steps=4, cond=cond)}[loop]
    return torch.sin(last(run()).x).sum()


@pytest.mark.parametrize("loop", ["ddim", "ddim eta", "ddpm", "dpm2m", "euler", "heun", "invert", "flow"])
def test_gradients_flow_through_a_sampler(loop: str) -> None:
    """Against central differences, in x, in the condition, and in a parameter of the network."""
    trained = Trained()
    model, (x, cond) = V(trained, S), start((2, 2))
    x.requires_grad_(), cond.requires_grad_()
    leaves = [x, cond] + [trained.scale] * (loop != "flow")
    got = torch.autograd.grad(objective(x, cond, model, loop), leaves)
    for leaf, gradient in zip(leaves, got, strict=True):
        for place in range(leaf.numel()):
            values = []
            for shift in (1e-6, -1e-6):
                with torch.no_grad():
                    leaf.view(-1)[place] += shift
                    values.append(float(objective(x, cond, model, loop)))
                    leaf.view(-1)[place] -= shift
            assert float(gradient.reshape(-1)[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_nothing_is_recorded_unless_an_input_asks_for_it() -> None:
    trained = Trained()
    model, (x, cond) = V(trained, S), start((2, 2))
    for step in ddim(model, x, steps=3, cond=cond):
        assert torch.is_grad_enabled() and not step.x.requires_grad                      # the caller's own mode is left alone
    assert trained.recorded == [False] * 3
    with torch.no_grad():
        trained.recorded.clear()
        assert not last(ddim(model, x.clone().requires_grad_(), steps=3, cond=cond.clone().requires_grad_())).x.requires_grad
        assert trained.recorded == [False] * 3
    assert last(ddim(model, x, steps=3, cond=cond.clone().requires_grad_())).x.requires_grad
    nested = ({"text": [cond.clone().requires_grad_()]}, "name")
    assert last(ddim(Eps(lambda x, t, c: net(x, t, c[0]["text"][0]), S), x, steps=3, cond=nested)).x.requires_grad


def test_a_model_may_take_gradients_inside_its_call() -> None:
    """Guidance by an energy that lives in the model: the samplers neither forbid nor record it."""
    target = torch.tensor([0.3, -0.4], dtype=torch.float64)

    class Guided:
        schedule = S

        def __init__(self, scale: float) -> None:
            self.scale = scale

        def __call__(self, x: Tensor, t: Tensor) -> object:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                x0, eps = MODEL(x, t)
                (push,) = torch.autograd.grad((x0 - target).square().sum(), x)
            return type(MODEL(x, t))((x0 - self.scale * push).detach(), eps.detach())

    x, _ = start((4, 2))
    far = [float((last(ddim(Guided(scale), x, steps=20)).x - target).square().mean()) for scale in (0.0, 0.4)]
    assert far[1] < 0.5 * far[0]


def test_ddim_step_takes_two_predictions_that_differ() -> None:
    x0, eps = start((3, 2))[0], torch.ones(3, 2, dtype=torch.float64)
    assert torch.allclose(ddim_step(x0, eps, 0.25, sigma=0.3, noise=2 * eps), 0.5 * x0 + math.sqrt(0.75 - 0.09) + 0.6)
