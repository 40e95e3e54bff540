"""``run`` and ``invert`` with hooks, rows, guiders and energies, each against sums written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minidiff import BadInput
from minidiff.diffusion import Eps, ddim, last, linear
from minidiff.diffusion.noise import row_noise
from minidiff.diffusion.predict import Prediction
from minidiff.latent import denoise, denoiser, encode_prompt, initial_noise, invert_image, scheduler_options
from minidiff.rng import normal
from minidiff.steer import (
    CFG,
    Composable,
    Dual,
    Energy,
    EpsGuidance,
    Hook,
    InstructPix2Pix,
    LatentGuidance,
    MeanGuidance,
    Pin,
    Recorder,
    Row,
    Trajectory,
    invert,
    run,
)
from tests.pipelines import CASES, shared

PROMPTS = ["a red cat on the grass", "a blue mushroom left of a dog"]
S = linear(50)


class Toy(nn.Module):
    """A small network in float64 that depends on all it is given, non-linearly."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.middle = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.double()

    def forward(self, x, t, cond=None):
        h = torch.tanh(self.conv(x) + t.view(-1, 1, 1, 1) / 30)
        h = self.middle(h)
        return h if cond is None else h * torch.tanh(cond.view(len(x), -1, 1, 1)) + cond.view(len(x), -1, 1, 1) ** 2


def noise(n=2, seed=0):
    return normal((n, 2, 4, 6), "toy noise", seed, dtype=torch.float64)


def conds(*values):
    return {text: torch.full((1, 1), value, dtype=torch.float64) for text, value in values}


def end(loop):
    return last(loop).x


# The loop ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [None, "x0", "both"])
def test_without_hooks_it_is_ddim_and_a_batch_is_a_loop_of_singles(eta, clip):
    model, z = Eps(Toy(), S), noise(3)
    got = end(run(model, z, steps=7, eta=eta, seed=5, clip=clip))
    assert torch.equal(got, end(ddim(model, z, steps=7, eta=eta, seed=5, clip=clip)))
    for i in range(3):
        alone = end(run(model, z[i:i + 1], steps=7, eta=eta, seed=5, rows=[i], clip=clip))
        assert torch.allclose(alone, got[i:i + 1], atol=1e-12)


def test_eta_adds_the_noise_of_row_and_t_and_the_same_in_every_branch():
    model, z = Eps(Toy(), S), noise()
    states = list(run(model, {"source": z, "edit": z}, steps=3, eta=1.0, seed=9))
    assert torch.equal(states[-1].z["source"], states[-1].z["edit"])
    a, b = S.at(states[0].t), S.at(states[0].t_prev)
    sigma = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    p = model(z, torch.full((2,), states[0].t))
    want = b.sqrt() * p.x0 + (1 - b - sigma**2).sqrt() * p.eps + sigma * row_noise(z.shape, seed=9, t=states[0].t, dtype=z.dtype)
    assert torch.allclose(states[0].z["edit"], want, atol=1e-12)


class Notes(Hook):
    """Writes down the context in every place a hook is called from."""

    modules = ("middle",)

    def __init__(self):
        self.seen = []

    def before_step(self, z, ctx, predict):
        self.seen.append(("before", ctx))
        if ctx.index == 1:
            predict({"edit": z["edit"]}, "prompt")

    def on_module(self, path, out, ctx, inputs):
        self.seen.append(("module", ctx))
        assert len(out) == len(ctx.rows) * ctx.n

    def on_predict(self, pred, z, ctx):
        self.seen.append(("predict", ctx))

    def after_step(self, z, ctx):
        self.seen.append(("after", ctx))


def test_the_context_is_complete_before_the_network_runs():
    model, z, notes = Eps(Toy(), S), noise(), Notes()
    texts = {branch: conds(("empty", 0.1), ("prompt", 0.9)) for branch in ("source", "edit")}
    list(run(model, {"source": z, "edit": z}, texts, steps=2, guider=CFG(3.0), hooks=[notes]))
    rows = (Row("source", "empty"), Row("edit", "empty"), Row("source", "prompt"), Row("edit", "prompt"))
    want = [(place, i) for i in range(2) for place in ("before", *(["module"] if i else []), "module", "predict", "after")]
    assert [(place, ctx.index) for place, ctx in notes.seen] == want
    for _, ctx in notes.seen:
        assert (ctx.t, ctx.t_prev) == ((25, 0), (0, -1))[ctx.index] and ctx.grid == (4, 6) and (ctx.n, ctx.steps) == (2, 2)
        assert ctx.abar == float(S.at(ctx.t)) and ctx.abar_prev == float(S.at(ctx.t_prev))
    module = [ctx.rows for place, ctx in notes.seen if place == "module"]
    assert module == [rows, (Row("edit", "prompt"),), rows]
    ctx = next(ctx for place, ctx in notes.seen if place == "module")
    assert [ctx.of(*row) for row in rows] == [slice(2 * i, 2 * i + 2) for i in range(4)]
    with pytest.raises(BadInput, match="source"):
        ctx.of("target")


def test_each_row_gets_its_own_text_and_the_guider_the_right_halves():
    """Two branches, two texts that differ by row: every slice of the batch against a call of its own."""
    model, z = Eps(Toy(), S), {"source": noise(), "edit": noise(seed=1)}
    draw = {b: {t: normal((2, 1), b, t, 0, dtype=torch.float64) for t in ("empty", "prompt")} for b in z}
    state = next(iter(run(model, z, draw, steps=[20], guider=CFG(2.5))))
    for b in z:
        u, c = (model(z[b], torch.tensor([20, 20]), draw[b][t]) for t in ("empty", "prompt"))
        assert torch.allclose(state.predictions[b].eps, u.eps + 2.5 * (c.eps - u.eps), atol=1e-12)
        assert torch.allclose(state.predictions[b].x0, u.x0 + 2.5 * (c.x0 - u.x0), atol=1e-10)
    assert not torch.allclose(state.predictions["source"].eps, state.predictions["edit"].eps)


def test_a_text_may_be_a_function_of_the_step_and_the_models_two():
    one, two, z = Eps(Toy(), S), Eps(Toy(1), S), noise()
    c = torch.full((1, 1), 0.7, dtype=torch.float64)
    texts = {"prompt": c, "empty": lambda ctx: c * ctx.index}
    got = list(run({"prompt": one, "empty": two}, z, texts, steps=[30, 10], guider=CFG(4.0)))
    for index, state in enumerate(got):
        t = torch.full((2,), state.t)
        want_u, want_c = two(state.before["source"], t, (c * index).expand(2, 1)), one(state.before["source"], t, c.expand(2, 1))
        assert torch.allclose(state.eps, want_u.eps + 4 * (want_c.eps - want_u.eps), atol=1e-12)
    with pytest.raises(BadInput, match="schedule"):
        run({"prompt": one, "empty": Eps(Toy(), linear(40))}, z, texts, guider=CFG(2.0))


class Replaces(Hook):
    """Changes what it is told to."""

    def __init__(self, **methods):
        for name, fn in methods.items():
            setattr(self, name, fn)


def test_hooks_change_latents_and_the_two_predictions_apart():
    model, z = Eps(Toy(), S), noise()
    plain = next(iter(run(model, z, steps=[20])))
    more = Replaces(before_step=lambda z, ctx, predict: {"source": z["source"] + 1})
    shift = next(iter(run(model, z, steps=[20], hooks=[more])))
    assert torch.equal(shift.x, end(run(model, z + 1, steps=[20]))) and torch.equal(shift.before["source"], z + 1)
    apart = Replaces(on_predict=lambda pred, z, ctx: {"source": Prediction(0 * pred["source"].x0, pred["source"].eps)})
    mixed = next(iter(run(model, z, steps=[20, 10], hooks=[apart])))
    assert torch.allclose(mixed.x, (1 - S.at(10)).sqrt() * plain.eps, atol=1e-12)
    after = Replaces(after_step=lambda z, ctx: {"source": 2 * z["source"]})
    assert torch.equal(end(run(model, z, steps=[20], hooks=[after])), 2 * plain.x)
    asleep = Replaces(active=lambda ctx: ctx.index > 0, after_step=lambda z, ctx: {"source": 0 * z["source"]})
    first, second = run(model, z, steps=[20, 10], hooks=[asleep])
    assert float(first.x.abs().max()) > 0 and float(second.x.abs().max()) == 0
    with pytest.raises(BadInput, match="after_step"):
        list(run(model, z, steps=[20], hooks=[Replaces(after_step=lambda z, ctx: {"edit": z["source"]})]))


def test_two_runs_of_one_network_may_be_interleaved():
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 1, seed=2)
    want = [list(denoise(pipe, p, latents=z, steps=3)) for p in PROMPTS]
    loops = [denoise(pipe, p, latents=z, steps=3, hooks=[Recorder()]) for p in PROMPTS]
    for a, b, wa, wb in zip(*loops, *want, strict=True):
        assert torch.allclose(a.x, wa.x, atol=1e-5) and torch.allclose(b.x, wb.x, atol=1e-5)


class Named(Hook):
    """A hook that names its branches and does nothing."""

    def __init__(self, **names):
        self.__dict__.update(names)


BAD = [
    ({"hooks": [Recorder]}, "instances of Hook"), ({"hooks": 3}, "hooks"), ({"guider": CFG}, "guider"), ({"eta": 2}, "eta"),
    ({"eta": float("nan")}, "eta"), ({"clip": True}, "clip"), ({"steps": 0}, "steps"), ({"final_alpha": "two"}, "final_alpha"),
    ({"seed": 1.5}, "seed"), ({"rows": [0]}, "rows"), ({"texts": {"prompt": torch.zeros(5, 1)}}, "texts"),
    ({"texts": {"source": {}}}, "prompt"), ({"z": {}}, "z"), ({"z": noise() * float("nan")}, "z"), ({"z": noise()[0]}, "z"),
    ({"models": Toy()}, "model"), ({"hooks": [Recorder((), modules=["nowhere"])]}, "nowhere"),
    ({"hooks": [Named(source="source", edit="edit")]}, "Named for branch 'edit'; expected branches of this run: 'source'"),
    ({"hooks": [Recorder(()), Named(branch="edit")]}, "Named for branch 'edit'"),
    ({"hooks": [Named(weights={"source": 0.0, "frame 1": 0.5})]}, "Named for branch 'frame 1'"),
    ({"hooks": [Recorder((), text="empty")]}, "Recorder for text 'empty'; expected texts of this run: 'prompt'"),
    ({"z": {"a": noise(), "b": noise(3)}}, "shapes"), ({"guider": CFG(2.0), "texts": conds(("prompt", 1.0))}, "empty"),
]


@pytest.mark.parametrize(("bad", "match"), BAD, ids=[f"{i} {match}" for i, (_, match) in enumerate(BAD)])
def test_bad_arguments_are_refused_before_the_first_step(bad, match):
    given = {"models": Eps(Toy(), S), "z": noise(), "texts": None} | bad
    with pytest.raises(BadInput, match=match):
        run(given.pop("models"), given.pop("z"), given.pop("texts"), **given)


# Guiders -----------------------------------------------------------------------------------------------------------------


def predictions(*texts):
    return {t: Prediction(normal((2, 3), "x0", i, dtype=torch.float64), normal((2, 3), "eps", i, dtype=torch.float64))
            for i, t in enumerate(texts)}


def same(p, q):
    return torch.allclose(p.x0, q.x0, atol=1e-12) and torch.allclose(p.eps, q.eps, atol=1e-12)


def test_identities_of_the_guiders():
    p = predictions("empty", "prompt", "image", "style", "content")
    u, c, s, y = p["empty"], p["prompt"], p["style"], p["content"]
    assert same(CFG(0.0)(p), u) and CFG(1.0)(p) is c and CFG(1.0).texts == ("prompt",) and CFG(4.0).texts == ("empty", "prompt")
    assert same(InstructPix2Pix(1, 1)(p), c) and same(InstructPix2Pix(0, 0)(p), u) and same(InstructPix2Pix(1, 0)(p), p["image"])
    assert same(Dual(1, 1)(p), Prediction(s.x0 + y.x0 - u.x0, s.eps + y.eps - u.eps)) and same(Dual(0, 1)(p), y)
    half = Composable({"prompt": 1.5, "image": 1.5})({**p, "image": c})
    assert same(half, CFG(3.0)(p)), "two equal halves are one whole"
    assert same(Composable({"prompt": 2.0})(p), CFG(2.0)(p))
    for bad in (lambda: CFG(float("nan")), lambda: CFG("4"), lambda: Composable({}), lambda: Composable({"empty": 1.0})):
        with pytest.raises(BadInput):
            bad()


def test_guidance_where_it_acts_only():
    """A weight that is 1 outside an interval: there the empty prompt is not run at all."""
    model, z, notes = Eps(Toy(), S), noise(), Notes()
    texts = conds(("empty", 0.1), ("prompt", 0.9))
    guider = CFG(lambda ctx: 3.0 if ctx.index == 1 else 1.0)
    states = list(run(model, z, texts, steps=3, guider=guider, hooks=[Replaces(modules=("middle",), on_module=notes.on_module)]))
    assert [len(ctx.rows) for _, ctx in notes.seen] == [1, 2, 1]
    c = model(states[0].before["source"], torch.full((2,), states[0].t), texts["prompt"].expand(2, 1))
    assert torch.allclose(states[0].eps, c.eps)


# Energies ----------------------------------------------------------------------------------------------------------------


def energy(maps, state):
    return (state.x0**2).flatten(1).sum(1) + maps.outputs["middle"].sin().flatten(1).sum(1) + (state.z**3).flatten(1).mean(1)


def by_hand(model, z, t):
    h = {}
    hook = model.net.middle.register_forward_hook(lambda m, a, out: h.update(out=out))
    x0 = model(z, torch.full((len(z),), t)).x0
    hook.remove()
    return (x0**2).flatten(1).sum(1) + h["out"].sin().flatten(1).sum(1) + (z**3).flatten(1).mean(1)


def slope(model, z, t, direction, h=1e-5):
    return (by_hand(model, z + h * direction, t) - by_hand(model, z - h * direction, t)) / (2 * h)


GUIDANCES = [LatentGuidance, EpsGuidance, MeanGuidance]


@pytest.mark.parametrize("kind", GUIDANCES)
def test_a_guidance_follows_the_gradient(kind):
    """What each changes, against finite differences of the energy in float64."""
    model, z, t = Eps(Toy(), S), noise(), 20
    hook = kind(Energy(energy, modules=["middle"]), scale=0.01)
    state = next(iter(run(model, z, steps=[t, 10], hooks=[hook])))
    plain = next(iter(run(model, z, steps=[t, 10])))
    assert torch.allclose(hook.values[0], by_hand(model, z, t).detach(), rtol=1e-10)
    moved = {LatentGuidance: z - state.before["source"], EpsGuidance: state.eps - plain.eps,
             MeanGuidance: plain.x - state.x}[kind]
    for seed in range(3):
        d = noise(seed=20 + seed)
        for row in range(2):
            one = torch.zeros_like(d)
            one[row] = d[row]
            want = 0.01 * float(slope(model, z, t, one)[row].detach())
            assert float((moved * one).sum()) == pytest.approx(want, rel=1e-5)
    if kind is EpsGuidance:
        abar = S.at(t)
        assert torch.allclose(state.x0, (z - (1 - abar).sqrt() * state.eps) / abar.sqrt(), atol=1e-10), "x0 follows eps"


@pytest.mark.parametrize("kind", GUIDANCES)
def test_relative_pushes_have_the_length_that_is_asked_for(kind):
    model, z = Eps(Toy(), S), noise()
    plain = next(iter(run(model, z, steps=[20, 10])))
    state = next(iter(run(model, z, steps=[20, 10], hooks=[kind(Energy(energy, modules=["middle"]), relative=0.3)])))
    moved, of = {LatentGuidance: (z - state.before["source"], z), EpsGuidance: (state.eps - plain.eps, plain.eps),
                 MeanGuidance: (plain.x - state.x, z)}[kind]
    assert torch.allclose(moved.flatten(1).norm(dim=1), 0.3 * of.flatten(1).norm(dim=1), rtol=1e-8)
    flat = next(iter(run(model, z, steps=[20, 10], hooks=[kind(Energy(lambda m, s: 0 * s.z.flatten(1).sum(1)), relative=0.3)])))
    assert torch.equal(flat.x, plain.x), "a gradient of zero pushes nothing"


def test_energies_add_and_scale_and_guidances_end_and_refine():
    model, z = Eps(Toy(), S), noise()
    e = Energy(energy, modules=["middle"])
    near = Energy(lambda maps, state: state.z.flatten(1).square().sum(1))
    both = e + 2 * near * 0.5
    assert both.modules == ("middle",)
    hook = LatentGuidance(both, scale=0.0, until=0.5)
    list(run(model, z, steps=4, hooks=[hook]))
    assert set(hook.values) == {0, 1}
    first = next(iter(run(model, z, steps=4)))
    assert torch.allclose(hook.values[0], by_hand(model, z, first.t).detach() + z.flatten(1).square().sum(1), rtol=1e-10)
    goal = float(z.flatten(1).square().sum(1).max()) / 4
    refined = next(iter(run(model, z, steps=4, hooks=[LatentGuidance(near, scale=0.1, refine={0: goal}, most=50)])))
    end_energy = refined.before["source"].flatten(1).square().sum(1)
    want = z.clone()
    for _ in range(50):
        above = (want.flatten(1).square().sum(1) > goal).view(-1, 1, 1, 1)
        want = torch.where(above, want - 0.2 * want, want)
    assert bool((end_energy <= goal).all()) and torch.allclose(refined.before["source"], want, atol=1e-12)
    with pytest.raises(BadInput, match="one number a row"):
        list(run(model, z, steps=1, hooks=[LatentGuidance(Energy(lambda m, s: s.z.sum()))]))
    for kind in GUIDANCES:
        with pytest.raises(BadInput, match="a value without a gradient"):
            list(run(model, z, steps=1, hooks=[kind(Energy(lambda m, s: s.x0.detach().flatten(1).sum(1)))]))


def test_a_guidance_reads_the_maps_of_its_own_branch_and_text():
    pipe = shared(CASES[1])
    z = {"source": initial_noise(pipe, 1, seed=1), "edit": initial_noise(pipe, 1, seed=2)}
    texts = {b: {"prompt": encode_prompt(pipe, p), "empty": encode_prompt(pipe, "")} for b, p in zip(z, PROMPTS, strict=True)}
    sites = lambda s: s.kind == "cross" and s.place == "mid"  # noqa: E731
    for kind in GUIDANCES:
        found = {}
        for branch in z:
            hook = kind(Energy(lambda maps, state: maps.map(3).flatten(1).sum(1), sites=sites), scale=0.0, branch=branch)
            recorder = Recorder(sites, branch=branch)
            list(run(denoiser(pipe), z, texts, steps=2, guider=CFG(3.0), hooks=[hook, recorder], **scheduler_options(pipe)))
            found[branch] = hook.values[0]
            assert torch.allclose(hook.values[0], recorder.map(3, step=0).flatten(1).sum(1), rtol=1e-4)
        assert not torch.allclose(found["source"], found["edit"], rtol=1e-3)


# Trajectories ------------------------------------------------------------------------------------------------------------


def test_a_trajectory_is_the_same_from_both_ends_and_pins():
    model, z = Eps(Toy(), S), noise()
    way = Trajectory.of(run(model, z, steps=4))
    assert way.timesteps == (36, 24, 12, 0) and torch.equal(way.noise, z) and way.latents.shape == (5, 2, 2, 4, 6)
    back = Trajectory.of(invert(model, way.clean, steps=4, fixed_point=60))
    assert back.timesteps == way.timesteps and torch.allclose(back.latents, way.latents, atol=1e-6)
    assert torch.allclose(back.eps, way.eps, atol=1e-5) and torch.equal(way.at(24), way.latents[1])
    other = list(run(model, noise(seed=7), steps=4, hooks=[Pin(way)]))
    assert [torch.equal(s.x, w) for s, w in zip(other, way.latents[1:], strict=True)] == [True] * 4
    assert torch.equal(other[0].before["source"], z)
    with pytest.raises(BadInput, match="level of this trajectory"):
        list(run(model, z, steps=3, hooks=[Pin(way)]))
    one = Trajectory.of(invert(model, way.clean, steps=[10]))
    assert torch.equal(one.clean, way.clean)


def test_an_inverted_picture_comes_with_its_trajectory():
    pipe = shared(CASES[1])
    x = normal((1, 3, 32, 32), "picture", 0).clamp(-1, 1)
    way = Trajectory.of(invert_image(pipe, x, PROMPTS[0], steps=3))
    assert len(way.timesteps) == 3 and way.timesteps[0] > way.timesteps[-1] and way.latents.shape[0] == 4
