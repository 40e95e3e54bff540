"""PARASOL: colours exactly, tokens where they belong, guidance by its identities, the switch, triplets, what ships."""

from __future__ import annotations

import pytest
import torch

from minidiff import BadInput, load
from minidiff.diffusion import Eps, ddim, last, make_schedule
from minidiff.diffusion.predict import Prediction
from minidiff.editing.parasol import (
    Alone,
    Switch,
    blend_styles,
    colour_statistics,
    invert_content,
    match_colours,
    parasol,
    styled,
    token_texts,
)
from minidiff.editing.style_tokens import StyleTokens, content_code, info_nce, style_statistics
from minidiff.editing.triplets import rendered_triplets, retrieved_triplets
from minidiff.latent import decode, denoiser, encode, initial_noise, scheduler_options
from minidiff.measure import read
from minidiff.measure.pictures import psnr
from minidiff.measure.reader import Reader
from minidiff.recipes.parasol import BOTH_DROP, CONTENT_DROP, STYLE_DROP, dropped
from minidiff.rng import normal
from minidiff.steer import Dual, InstructPix2Pix, run
from minidiff.world import render
from tests.pipelines import CASES, shared

POSITIONS = 14


def pictures(n, side, name="pictures", seed=0):
    coarse = normal((n, 3, side // 4, side // 4), name, seed)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").clamp(-1, 1)


def random_tokens(width=96, length=34):
    torch.manual_seed(0)
    net = StyleTokens(width=width, length=length, positions=POSITIONS)
    net.empty.copy_(normal((length, width), "empty", 0))
    torch.nn.init.normal_(net.offsets, std=0.1)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(1)
    return Reader().eval().requires_grad_(False)


# Colours ---------------------------------------------------------------------------------------------------------------------


def test_the_colour_step_gives_mean_and_covariance_of_the_style():
    x, s = normal((3, 3, 7, 5), "x", 0, dtype=torch.float64), normal((3, 3, 4, 9), "s", 0, dtype=torch.float64)
    mix = normal((3, 3), "mix", 0, dtype=torch.float64)
    s = torch.einsum("ij,bjhw->bihw", mix, s) + 0.3
    got, want = colour_statistics(match_colours(x, s)), colour_statistics(s)
    assert all(float((a - b).abs().max()) < 1e-12 for a, b in zip(got, want, strict=True))
    assert float((match_colours(x, x) - x).abs().max()) < 1e-12
    one = match_colours(x, s[:1])
    assert float((colour_statistics(one)[1] - want[1][:1]).abs().max()) < 1e-12, "one style serves for all"
    assert match_colours(x.float(), s.float()).dtype == torch.float32


def test_statistics_against_the_library_and_a_grey_picture_stays_finite():
    x = normal((2, 3, 6, 5), "x", 1, dtype=torch.float64)
    mean, covariance = colour_statistics(x)
    for k in range(2):
        assert torch.allclose(covariance[k], torch.cov(x[k].flatten(1), correction=0), atol=1e-14)
        assert torch.allclose(mean[k], x[k].flatten(1).mean(1))
    flat = match_colours(torch.full((1, 3, 4, 4), 0.2), x[:1].float())
    assert bool(torch.isfinite(flat).all())


# Codes and tokens -------------------------------------------------------------------------------------------------------------


def test_style_statistics_do_not_know_where_things_are(reader):
    x = pictures(2, 64)
    levels = reader(x).layers[:2]
    want = torch.cat([f(level.flatten(2)) for level in levels for f in (lambda v: v.mean(2), lambda v: v.std(2))], 1)
    got = style_statistics(reader, x)
    assert torch.allclose(got, want) and got.shape == (2, 144)


def test_the_content_code_is_read_under_the_surest_centre(reader):
    x = pictures(3, 64)
    kept = []
    handle = reader.cells.register_forward_hook(lambda m, i, out: kept.append(out))
    raw = reader(x)
    handle.remove()
    code = content_code(reader, x)
    for k in range(3):
        row, column = divmod(int(raw.centre[k].argmax()), raw.centre.shape[-1])
        assert torch.equal(code[k], torch.cat([kept[0][k, :, row, column], raw.features[k]]))
    assert not reader.cells._forward_hooks, "the hook is taken away"


def test_info_nce_against_its_sum():
    codes, labels = (
        torch.nn.functional.normalize(normal((6, 4), "codes", 0, dtype=torch.float64), dim=1),
        torch.tensor([0, 1, 0, 2, 1, 0]),
    )
    got = info_nce(codes, labels, temperature=0.2)
    for k in range(6):
        others = [j for j in range(6) if j != k]
        close = {j: float(torch.exp(codes[k] @ codes[j] / 0.2)) for j in others}
        same = [j for j in others if labels[j] == labels[k]]
        want = -sum(torch.log(torch.tensor(close[j] / sum(close.values()))) for j in same) / max(len(same), 1)
        assert float(got[k]) == pytest.approx(float(want), abs=1e-6)
    with pytest.raises(BadInput, match="labels"):
        info_nce(codes, labels[:5])


def test_each_code_reaches_its_own_positions_only():
    net = random_tokens()
    style, other = (torch.nn.functional.normalize(normal((2, 64), "s", k), dim=1) for k in range(2))
    content = normal((2, 160), "c", 0)
    both = net.context(style, content)
    assert torch.equal(both[:, POSITIONS:], net.context(style)[:, POSITIONS:])
    assert torch.equal(net.context(style)[:, :POSITIONS], net.empty[:POSITIONS].expand(2, -1, -1))
    assert torch.equal(net.context(other, content)[:, :POSITIONS], both[:, :POSITIONS])
    assert not torch.equal(net.context(other, content)[:, POSITIONS:], both[:, POSITIONS:])
    assert torch.equal(net.context(n=3), net.empty.expand(3, -1, -1))
    with pytest.raises(BadInput, match="n"):
        net.context()


def test_gradient_reaches_the_style_projector_through_its_tokens_alone():
    net = random_tokens().requires_grad_(True)
    context = net.context(torch.ones(1, 64), normal((1, 160), "c", 0))
    context[:, :POSITIONS].sum().backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in net.style.parameters())
    net.context(torch.ones(1, 64))[:, POSITIONS:].sum().backward()
    assert all(bool(p.grad.any()) for p in list(net.style.parameters())[-2:])


def test_what_is_left_out_is_left_out_that_often():
    net, n = random_tokens(), 4000
    style, content = torch.ones(n, 64), torch.ones(n, 160)
    out = dropped(net, style, content, (torch.arange(n) + 0.5) / n)
    bare = net.context(n=1)
    no_content = (out[:, :POSITIONS] == bare[:, :POSITIONS]).all(2).all(1)
    no_style = (out[:, POSITIONS:] == bare[:, POSITIONS:]).all(2).all(1)
    assert float((no_style & ~no_content).float().mean()) == pytest.approx(STYLE_DROP, abs=1e-3)
    assert float((no_content & ~no_style).float().mean()) == pytest.approx(CONTENT_DROP, abs=1e-3)
    assert float((no_style & no_content).float().mean()) == pytest.approx(BOTH_DROP, abs=1e-3)


def test_a_blend_of_styles_keeps_its_length():
    a, b = (torch.nn.functional.normalize(normal((3, 8), "s", k), dim=1) for k in range(2))
    assert torch.allclose(blend_styles(a, b, 0.0), a) and torch.allclose(blend_styles(a, b, 1.0), b)
    half = blend_styles(a, b, 0.5)
    assert torch.allclose(half.norm(dim=1), torch.ones(3)) and torch.allclose((half * a).sum(1), (half * b).sum(1), atol=1e-6)


# Guidance ---------------------------------------------------------------------------------------------------------------------


def test_dual_guidance_by_its_identities():
    p = {name: Prediction(*normal((2, 2, 4, 3, 3), name, 0)) for name in ("empty", "style", "content", "prompt")}
    u, s, y = p["empty"], p["style"], p["content"]
    assert torch.allclose(Dual(1.0, 1.0)(p).eps, s.eps + y.eps - u.eps, atol=1e-6)
    assert torch.allclose(Dual(5.0, 3.0)(p).eps, u.eps + 5 * (s.eps - u.eps) + 3 * (y.eps - u.eps), atol=1e-5)
    joint = InstructPix2Pix(image=1.0, text=1.0)({**p, "image": p["content"]})
    assert torch.allclose(joint.eps, p["prompt"].eps, atol=1e-6), "the joint form ends at the joint prediction"
    gone = Dual(0.0, 3.0)(p)
    assert torch.equal(gone.eps, Dual(0.0, 3.0)(p | {"style": p["prompt"]}).eps), "g_s = 0: s is not there, bit for bit"


def test_at_no_weight_the_style_is_not_there():
    pipe, net = shared(CASES[1]), None
    width = pipe.unet.config.cross_attention_dim
    net = random_tokens(width=width, length=pipe.tokenizer.model_max_length)
    z, content = initial_noise(pipe, 2, seed=1), normal((2, 160), "c", 0)
    runs = [
        last(
            styled(
                pipe,
                net,
                torch.nn.functional.normalize(normal((2, 64), "s", k), dim=1),
                content,
                latents=z,
                steps=3,
                guider=Dual(g, 3.0),
            )
        ).x
        for g in (0.0, 2.0)
        for k in (0, 1)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[2], runs[3])


def two_gaussians(interaction):
    """eps of x ~ N(m, 1) with m = a [style] + b [content] + c [both]: exact at every t, so sums can be held against the truth."""
    schedule = make_schedule("linear", 100)
    mean = {"empty": 0.0, "style": 1.0, "content": 2.0, "prompt": 3.0 + interaction}

    def model(x, t, cond):
        abar = schedule.at(t)[:, None, None, None]
        return (1 - abar) ** 0.5 * (x - abar**0.5 * cond[:, :, None, None])

    return Eps(model, schedule), {k: torch.full((1, 1), v, dtype=torch.float64) for k, v in mean.items()}


@pytest.mark.parametrize("interaction", [0.0, 0.7, -1.5])
def test_the_sum_misses_the_joint_form_by_the_interaction(interaction):
    model, texts = two_gaussians(interaction)
    x = normal((400, 1, 1, 1), "x", 0, dtype=torch.float64)

    def end(guider, texts):
        return float(last(run(model, x, texts, steps=100, guider=guider)).x.mean())

    both = float(last(ddim(model, x, steps=100, cond=texts["prompt"].expand(400, -1))).x.mean())
    assert both == pytest.approx(3.0 + interaction, abs=0.12)
    assert end(Dual(1.0, 1.0), texts) == pytest.approx(both - interaction * (both / (3.0 + interaction)), abs=0.1)
    joint = end(InstructPix2Pix(1.0, 1.0), texts | {"image": texts["content"]})
    assert joint == pytest.approx(both, abs=1e-9)


def test_the_switch_runs_only_what_is_in_use(monkeypatch):
    pipe = shared(CASES[1])
    net = random_tokens(width=pipe.unet.config.cross_attention_dim, length=pipe.tokenizer.model_max_length)
    style = torch.nn.functional.normalize(normal((2, 64), "s", 0), dim=1)
    texts = token_texts(net, style, normal((2, 160), "c", 0))
    texts["own"] = normal(tuple(texts["prompt"].shape), "own", 0)
    z = initial_noise(pipe, 2, seed=1)
    rows = []
    before = pipe.unet.forward

    def counted(x, *args, **kwargs):
        rows.append(len(x))
        return before(x, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", counted)
    ways = {}
    for k, change in (("a", texts), ("b", texts | {"style": texts["prompt"]})):
        ways[k] = list(
            run(denoiser(pipe), z, change, steps=4, guider=Switch(Alone("own"), Dual(2.0, 2.0), at=2), **scheduler_options(pipe))
        )
    assert rows == [2, 2, 6, 6] * 2
    assert torch.equal(ways["a"][1].x, ways["b"][1].x) and not torch.equal(ways["a"][2].x, ways["b"][2].x)
    with pytest.raises(BadInput, match="at"):
        Switch(Alone("own"), Dual(), at=-1)


# The method -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES[:2])
def test_kept_steps_are_those_of_the_picture(case, reader):
    pipe = shared(case)
    net = random_tokens(width=pipe.unet.config.cross_attention_dim, length=pipe.tokenizer.model_max_length)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    x, s = pictures(2, side), pictures(2, side, seed=5)
    made = parasol(pipe, net, reader, s, x, keep=4, steps=4)
    assert list(made.images) == ["content", "style", "edit"]
    swapped = parasol(pipe, net, reader, s.flip(0), x, keep=4, steps=4)
    assert torch.equal(made.edit, swapped.edit), "kept to the end, the style is never asked"
    free = parasol(pipe, net, reader, s, x, keep=1, steps=4)
    assert not torch.allclose(made.edit, free.edit)
    z = invert_content(pipe, net, reader, x, steps=4).noise
    assert torch.equal(parasol(pipe, net, reader, s, x, keep=1, steps=4, latents=z).edit, free.edit)
    coloured = parasol(pipe, net, reader, s, x, keep=2, steps=4, colours=True)
    assert torch.equal(coloured.edit, match_colours(parasol(pipe, net, reader, s, x, keep=2, steps=4).edit, s).clamp(-1, 1))
    one = parasol(pipe, net, reader, s[:1], x, steps=2, seed=3)
    two = parasol(pipe, net, reader, s[:1].expand(2, -1, -1, -1), x, steps=2, seed=3)
    assert torch.equal(one.edit, two.edit)


def test_errors_name_the_argument(reader):
    pipe, net = shared(CASES[1]), random_tokens()
    x = pictures(2, 64)
    with pytest.raises(BadInput, match="keep"):
        parasol(pipe, net, reader, x, x, keep=9, steps=4)
    with pytest.raises(BadInput, match="style"):
        parasol(pipe, net, reader, pictures(3, 64), x)
    with pytest.raises(BadInput, match="latents"):
        parasol(pipe, net, reader, x, x, keep=1, steps=4, latents=initial_noise(pipe, 3))


# Triplets ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edition", [1, 2])
def test_rendered_triplets_are_exact(edition):
    x, y, s = rendered_triplets(range(64), seed=3, split="test", edition=edition)
    assert torch.equal(x.style, s.style) and bool((y.style != x.style).all())
    assert all(
        torch.equal(getattr(x, name), getattr(y, name)) for name in ("kind", "colour", "backdrop", "x", "y", "size", "vary")
    )
    assert bool((s.kind[:, 0] != x.kind[:, 0]).any()) and set(x.style.tolist()) == set(range(5))
    assert bool(x.vary.any()) == (edition == 2) and float(x.size.max()) <= (0.30 if edition == 1 else 0.36) + 1e-6
    again = rendered_triplets(torch.tensor([5, 9]), seed=3, split="test", edition=edition)
    assert torch.equal(again.x.kind, x.kind[[5, 9]]) and torch.equal(again.s.colour, s.colour[[5, 9]])
    render(x, 32)


def test_retrieval_takes_the_nearest_that_is_not_refused():
    style = torch.tensor([[1.0, 0], [0.99, 0.1], [0.9, 0.3], [0, 1.0]])
    content = torch.tensor([[1.0, 0], [0.99, 0.1], [0, 1.0], [0.7, 0.7]])
    found = retrieved_triplets(style, content, reject=1 / 3)
    assert found.s[0] == 2, "1 is nearest by style, and too near by content"
    assert found.y[0] == 3, "1 is nearest by content, and too near by style"
    free = retrieved_triplets(style, content, reject=0.0)
    assert free.s[0] == 1 and free.y[0] == 1 and bool((free.s != torch.arange(4)).all())
    with pytest.raises(BadInput, match="reject"):
        retrieved_triplets(style, content, reject=1.0)


# What ships -------------------------------------------------------------------------------------------------------------------


def test_the_shipped_tokens_say_style_and_content():
    net, guide = load("parasol-tokens"), load("readers/guide")
    x, y, s = rendered_triplets(range(120), seed=9, split="test", edition=1)
    codes = net.style_code(style_statistics(guide, render(s, 64).images))
    near = (codes @ codes.T).fill_diagonal_(-1).argmax(1)
    assert float((s.style[near] == s.style).float().mean()) >= 0.95


def test_the_shipped_model_draws_the_content_in_the_style():
    pipe, net, guide = load("mini-parasol"), load("parasol-tokens"), load("readers/guide")
    x, y, s = rendered_triplets(range(8), seed=9, split="test", edition=1)
    content = render(y, 64).images
    made = parasol(pipe, net, guide, render(s, 64).images, content, steps=12)
    seen = read(made.edit, load("readers/develop")).scenes
    assert float((seen.style == s.style).float().mean()) >= 0.6
    assert float(((seen.kind == x.kind[:, :1]) & seen.present).any(1).float().mean()) >= 0.6
    back = parasol(pipe, net, guide, render(s, 64).images, content, steps=12, keep=12).edit
    with torch.no_grad():
        bound = decode(pipe.vae, encode(pipe.vae, content)).clamp(-1, 1)
    assert float((psnr(bound, content) - psnr(back, content)).mean()) <= 1.0, "all steps kept: y, as well as the autoencoder can"
