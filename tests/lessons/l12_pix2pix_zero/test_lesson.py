"""Lesson 12: its panels over their whole range, directions and banks, the rows on made-up answers, the published update."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minidiff import BadInput, load
from minidiff.course import claims
from minidiff.diffusion import ddim_step, visits
from minidiff.editing import NoiseRegularizer, edit_direction, pix2pix_zero, sdedit, word_direction
from minidiff.latent import (
    denoiser,
    encode_prompt,
    initial_noise,
    invert_image,
    make_tokenizer,
    schedule_from,
    scheduler_options,
    text_to_image,
    token_indices,
)
from minidiff.lessons.l11_inversion.data import as_in_training
from minidiff.lessons.l12_pix2pix_zero import claims as board
from minidiff.lessons.l12_pix2pix_zero import data, panels
from minidiff.lessons.l12_pix2pix_zero.claims import Edited, shifted
from minidiff.lessons.l12_pix2pix_zero.data import BANKS, bank_direction, neighbours, template_bank, token_norms, word_pair
from minidiff.lessons.l12_pix2pix_zero.exercises import one_latent
from minidiff.lessons.l12_pix2pix_zero.panels import Amounts, Banks, Regularised, spectrum
from minidiff.measure import edit_pairs, edit_score
from minidiff.rng import normal
from minidiff.show import choice, panel, sweep
from minidiff.steer import Hook, Row, Tap, Trajectory
from minidiff.world import KINDS, parse, render
from tests.pipelines import CASES, make, shared

PROMPT = "a red cat on the grass"


@pytest.fixture
def few(monkeypatch):
    """Banks of six sentences that fit a tokenizer of 20 tokens: enough for what is tested here."""
    monkeypatch.setattr(data, "SIZE", 6)
    data._bank.cache_clear()
    yield
    data._bank.cache_clear()


# Directions ----------------------------------------------------------------------------------------------------------------


def test_the_word_that_changes_and_where_it_acts():
    assert word_pair("a red cat at night", "a blue cat at night") == ("red", "blue", "cat")
    assert word_pair("a red cat at night", "a red dog at night") == ("cat", "dog", None)
    assert word_pair("a red cat at night", "an orange cat at night") == ("red", "orange", "cat")
    for edit in ("colour", "kind"):
        pairs = edit_pairs(edit, 12)
        for a, b in zip(pairs.prompts, pairs.targets, strict=True):
            word, other, noun = word_pair(a, b)
            assert word in a.split() and other in b.split() and (noun is not None) == (edit == "colour")


def test_the_template_has_one_form_and_the_grammar_has_many():
    source, target = template_bank("cat", "owl")
    tokenizer = make_tokenizer()
    assert len(set(source)) == 54 and len({t.split().index("owl") for t in target}) == 1
    assert "an orange cat on the grass" in source
    assert {tuple(token_indices(tokenizer, t, "cat")[0]) for t in source} == {(3,)}
    assert all(parse(t).things[0].kind == "cat" for t in source)


def test_the_three_banks_are_the_averages_that_they_are_called(few):
    pipe = shared(CASES[1])
    source, target = data._bank(pipe, "cat", "dog", None)
    want = {"grammar": edit_direction(pipe, source, target), "template": edit_direction(pipe, *template_bank("cat", "dog")),
            "aligned": word_direction(pipe, PROMPT, "cat", "dog", sentences=source)}
    for how in BANKS:
        assert torch.equal(bank_direction(pipe, how, PROMPT, "cat", "dog"), want[how])
    at = token_indices(pipe.tokenizer, PROMPT, "cat")[0]
    assert token_norms(want["aligned"])[0].nonzero().flatten().tolist() == at
    both = data.directions(pipe, [PROMPT, PROMPT], [PROMPT.replace("cat", "dog"), PROMPT.replace("red", "blue")])
    assert torch.equal(both[:1], want["aligned"]) and token_norms(both[1:])[0].nonzero().flatten().tolist() == at


def test_a_shifted_embedding_of_a_prompt_is_plain_sampling():
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 2, seed=1)
    want = text_to_image(pipe, [PROMPT] * 2, latents=z, steps=3, guidance=5.0)
    assert float((shifted(pipe, encode_prompt(pipe, [PROMPT] * 2), z, steps=3) - want).abs().max()) < 1e-4


def test_neighbours_of_made_codes():
    x = normal((2, 3, 40, 50), "code", 0)
    x[1] = 2 * (x[1] + x[1].roll(1, 2))
    std, near = neighbours(x).T
    assert std.tolist() == pytest.approx([1.0, 2 * 2**0.5], rel=0.05)
    assert near.tolist() == pytest.approx([0.0, 0.25], abs=0.04), "half of the pairs, down or to the right, correlate by a half"


def test_the_spectrum_of_white_noise_is_flat_and_that_of_a_constant_is_a_dot():
    assert float(spectrum(normal((400, 8, 8), "white", 0)).sub(1).abs().max()) < 0.3
    dot = spectrum(torch.ones(3, 8, 6))
    assert float(dot[4, 3]) == pytest.approx(48) and float(dot.sum()) == pytest.approx(48)


# Panels ----------------------------------------------------------------------------------------------------------------------


def test_the_banks_over_their_range(few):
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 1, seed=2)
    banked = Banks(pipe, PROMPT, "cat", "dog", z, steps=2)
    shown = panel(banked.render, choice("bank", list(banked.norms), "grammar"), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) == 4
    said = encode_prompt(pipe, PROMPT)
    want = shifted(pipe, said + bank_direction(pipe, "template", PROMPT, "cat", "dog"), z, steps=2)[0]
    assert float((banked.images["template"] - want).abs().max()) < 1e-4
    assert banked.tokens[:4] == ["begin", "a", "red", "cat"] and "noun's token 3" in shown.text
    with pytest.raises(BadInput, match="bank"):
        banked.render(bank="none")


def test_amounts_and_strengths_are_the_methods_settings(few, monkeypatch):
    pipe, pairs = shared(CASES[1]), edit_pairs("colour", 2)
    values = iter(range(99))

    class Made:
        def __init__(self, k):
            self.k = k

        def of(self, name):
            return torch.tensor([float(self.k)]) / 10

    monkeypatch.setattr(panels, "edit_score", lambda x, truth: Made(next(values)))
    monkeypatch.setattr(type(pairs), "truth", lambda self, reader, x: SimpleNamespace(valid=torch.ones(2, dtype=torch.bool)))
    z = initial_noise(pipe, 2, seed=2)
    walk = Amounts(pipe, None, pairs, z, amounts=(0.0, 0.1), strengths=(0.5, 1.0), steps=2)
    where = data.directions(pipe, pairs.prompts, pairs.targets)
    held = pix2pix_zero(pipe, pairs.prompts, where, latents=z, relative=0.1, steps=2)
    assert float((walk.images["amount", 0.1] - held.edit).abs().max()) < 1e-4
    alone = shifted(pipe, encode_prompt(pipe, pairs.prompts) + where, z, steps=2)
    assert torch.equal(walk.images["amount", 0.0], alone)
    by_noise = sdedit(pipe, pairs.targets, image=held.images["source"], strength=1.0, steps=2, guidance=5.0)
    assert float((walk.images["strength", 1.0] - by_noise.edit).abs().max()) < 1e-4
    monkeypatch.setattr(panels, "directions", lambda pipe, prompts, targets: torch.zeros_like(where))
    still = Amounts(pipe, None, pairs, z, amounts=(0.1,), strengths=(0.5,), steps=2)
    assert float((still.images["copied", 0.8] - still.source).abs().max()) < 1e-4, "the source's attention, the source's words"
    assert float((walk.images["copied", 0.8] - walk.source).abs().max()) > 1e-3
    shown = panel(walk.render, choice("amount", walk.amounts, 0.1), choice("strength", walk.strengths, 0.5), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) >= 3 and "success" in shown.text
    with pytest.raises(BadInput, match="amount"):
        walk.render(amount=0.2, strength=0.5)


def test_the_regulariser_over_its_range():
    pipe = shared(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    x = torch.nn.functional.interpolate(normal((2, 3, 4, 4), "smooth", 0), size=side).clamp(-1, 1)
    white = Regularised(pipe, x, [PROMPT] * 2, rounds=(0, 2), steps=3)
    shown = panel(white.render, choice("rounds", white.rounds, 0), choice("picture", [0, 1], 0), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) >= 3 and "deviation" in shown.text
    assert float((white.white[2][:, 0] - 1).abs().mean()) < float((white.white[0][:, 0] - 1).abs().mean()), "nearer to 1"
    array, _ = white.render(rounds=2, picture=1)
    assert array.dtype == np.uint8
    with pytest.raises(BadInput, match="picture"):
        white.render(rounds=0, picture=2)


# Rows ------------------------------------------------------------------------------------------------------------------------


def test_rows_are_paired_and_targets_are_the_bars(monkeypatch):
    pairs = edit_pairs("colour", 8, split="test")
    truth = pairs.truth(load("readers/develop"))
    old, right = truth.images, truth.gold
    made = {"pix2pix-zero": right, "sdedit": right.roll(6, 3), "swap": right.roll(12, 3), "no edit": old, "counterfactual": right}
    found = Edited({name: edit_score(x, truth) for name, x in made.items()}, made, truth, [], [])
    monkeypatch.setattr(board, "edited", lambda edit, n: found)
    known = {id: c for id, c in claims().items() if id.startswith("12.")}
    bars = {"12.colour_sdedit": ">= 0.15", "12.colour_swap": ">= 0.05", "12.aligned": ">= 0.85", "12.smeared": "<= 0.2",
            "12.noise_correlation": "<= 0.07", "12.noise_cost": "<= 1.5"}
    assert {id: known[id].target for id in bars} == bars and known["12.colour_sdedit"].n == known["12.colour_swap"].n == 64
    near, far = known["12.colour_sdedit"].run(8), known["12.colour_swap"].run(8)
    assert 0 < near.value < far.value and near.low <= near.value <= near.high
    assert near.value == pytest.approx(near.baseline["IoU, Pix2Pix-Zero"] - near.baseline["IoU, sdedit"], abs=1e-6)
    assert near.baseline["success, sdedit"] == near.baseline["success, Pix2Pix-Zero"] == 1.0


def test_the_bank_rows_count_and_the_noise_rows_subtract(monkeypatch):
    share = {"aligned": 7, "grammar": 1, "prompt": 0, "target": 8}
    monkeypatch.setattr(board, "bank_success", lambda how, n: torch.arange(n) < share[how])
    rows = claims()
    assert rows["12.aligned"].run(8).value == 7 / 8 and rows["12.smeared"].run(8).value == 1 / 8
    assert rows["12.aligned"].run(8).floor["the target prompt itself"] == 1.0
    step = 0.01 * torch.arange(4).double()
    made = {True: (torch.stack([0.9 + step, 0.05 + step], 1), 27 + step),
            False: (torch.stack([0.5 + step, 0.13 + step], 1), 28 + step)}
    monkeypatch.setattr(board, "whitened", lambda n, regular: made[regular])
    assert rows["12.noise_correlation"].run(4).value == pytest.approx(0.065)
    assert rows["12.noise_cost"].run(4).value == pytest.approx(1)


@pytest.fixture
def tiny(monkeypatch, few):
    """The rows' own functions on a small pipeline of random weights, in chunks of two and two steps."""
    pipe = shared(CASES[1])
    for name, value in (("_pipe", lambda: pipe), ("_reader", lambda name: name), ("CHUNK", 2), ("STEPS", 2), ("BANK_STEPS", 2)):
        monkeypatch.setattr(board, name, value)
    cached = (board.edited, board.bank_success, board.whitened, board.of_pictures)
    for function in cached:
        function.cache_clear()
    yield pipe
    for function in cached:
        function.cache_clear()


def test_the_edits_of_a_row_begin_with_one_noise_and_have_their_own_prompts(tiny, monkeypatch):
    pairs, z, calls = edit_pairs("colour", 3, split="test"), initial_noise(tiny, 3, seed=12), {"zero": [], "sdedit": []}
    pictures = normal((3, 3, 8, 8), "row pictures", 0)
    drawn = iter(pictures.split(2))

    def zero(pipe, prompts, where, *, latents, **settings):
        calls["zero"].append((prompts, where, latents, settings))
        source = next(drawn)
        return SimpleNamespace(images={"source": source}, edit=source + 1)

    def by_noise(pipe, prompts, *, image, latents, **settings):
        calls["sdedit"].append((prompts, image, latents, settings))
        return SimpleNamespace(edit=image + 2)

    def ends(pipe, truth, targets, *, latents, **settings):
        assert targets == pairs.targets and torch.equal(latents, z) and settings == {"steps": 2, "guidance": board.GUIDANCE}
        return {"plain": pictures + 3, "counterfactual": pictures + 4}

    def truth_of(self, reader, images):
        assert reader == "final" and torch.equal(images, pictures)
        return "truth"

    for name, fake in (("pix2pix_zero", zero), ("sdedit", by_noise), ("anchors", ends),
                       ("edit_score", lambda x, truth: float((x - pictures).mean()))):
        monkeypatch.setattr(board, name, fake)
    monkeypatch.setattr(type(pairs), "truth", truth_of)
    found = board.edited("colour", 3)
    assert found.scores == pytest.approx({"no edit": 0, "pix2pix-zero": 1, "sdedit": 2, "swap": 3, "counterfactual": 4}, abs=1e-5)
    where = data.directions(tiny, pairs.prompts, pairs.targets)
    assert [c[0] for c in calls["zero"]] == [pairs.prompts[:2], pairs.prompts[2:]]
    assert [c[0] for c in calls["sdedit"]] == [pairs.targets[:2], pairs.targets[2:]]
    assert torch.equal(torch.cat([c[1] for c in calls["zero"]]), where)
    assert torch.equal(torch.cat([c[2] for c in calls["zero"]]), z), "the source's own noise"
    assert torch.equal(torch.cat([c[1] for c in calls["sdedit"]]), pictures), "SDEdit begins with the same sources"
    assert not torch.equal(torch.cat([c[2] for c in calls["sdedit"]]), z), "and with noise of its own"
    assert all(c[3] == {"steps": 2, "guidance": 5.0, "relative": 0.04} for c in calls["zero"])
    assert all(c[3] == {"strength": 0.5, "steps": 2, "guidance": 5.0} for c in calls["sdedit"])


def test_recipes_of_pictures_are_what_they_are_called(tiny, monkeypatch):
    """Each recipe's edit is that of its own call: this code or that one, this text or that one in the empty prompt's place."""
    pairs = board.as_in_training(edit_pairs("colour", 2, split="test"))
    side = tiny.unet.config.sample_size * tiny.vae_scale_factor
    pictures = torch.nn.functional.interpolate(normal((2, 3, 4, 4), "recipes", 0), size=side).clamp(-1, 1)
    monkeypatch.setattr(board, "edit_score", lambda x, truth: x)
    monkeypatch.setattr(type(pairs), "truth", lambda self, reader: SimpleNamespace(images=pictures))
    found, where = board.of_pictures(2, steps=2).images, data.directions(tiny, pairs.prompts, pairs.targets)
    for name, (white, caption) in board.RECIPES.items():
        hooks = [NoiseRegularizer()] if white else []
        way = Trajectory.of(invert_image(tiny, pictures, pairs.prompts, steps=2, hooks=hooks))
        want = pix2pix_zero(tiny, pairs.prompts, where, trajectory=way, negative=pairs.prompts if caption else "", steps=2,
                            guidance=5.0, relative=0.04)
        assert float((found[name] - want.edit).abs().max()) < 1e-4, name
    assert len({round(float(x.mean()), 6) for x in found.values()}) == 5


def test_a_bank_succeeds_where_the_other_kind_is_read(tiny, monkeypatch):
    pairs, z = edit_pairs("kind", 3, split="test"), initial_noise(tiny, 3, seed=12)
    other = torch.tensor([KINDS.index(word_pair(a, b)[1]) for a, b in zip(pairs.prompts, pairs.targets, strict=True)])
    kind = torch.stack([other, other, (other + 1) % len(KINDS)])[:, :2].clone()
    kind[0], kind[1] = torch.tensor([int(other[0]), 0]), torch.tensor([0, int(other[1])])
    present = torch.tensor([[True, False], [True, False], [True, True]])        # the second one's is in a slot that is empty
    given = []
    monkeypatch.setattr(board, "shifted", lambda pipe, said, noise, steps: given.append((said, noise, steps)))
    monkeypatch.setattr(board, "read", lambda images, reader: SimpleNamespace(scenes=SimpleNamespace(kind=kind, present=present)))
    assert board.bank_success("aligned", 3).tolist() == [True, False, False]
    said, want = encode_prompt(tiny, pairs.prompts), data.directions(tiny, pairs.prompts, pairs.targets)
    assert torch.allclose(given[0][0], said + want, atol=1e-6) and torch.equal(given[0][1], z) and given[0][2] == 2
    board.bank_success("prompt", 3), board.bank_success("target", 3)
    assert torch.equal(given[1][0], said) and torch.equal(given[2][0], encode_prompt(tiny, pairs.targets))


def test_the_codes_of_the_noise_rows_are_regularised_inversions_and_come_back_at_one(tiny):
    pairs = as_in_training(edit_pairs("colour", 3, split="test"))
    images = render(pairs.source).images
    for regular, hooks in ((False, []), (True, [NoiseRegularizer()])):
        code = Trajectory.of(invert_image(tiny, images, pairs.prompts, steps=2, hooks=hooks)).noise
        back = text_to_image(tiny, pairs.prompts, latents=code, steps=2, guidance=1.0)
        near, decibel = board.whitened(3, regular)
        assert torch.allclose(near, neighbours(code), atol=1e-4)
        error = ((back - images) / 2).square().mean((1, 2, 3))
        assert decibel.tolist() == pytest.approx((-10 * error.log10()).tolist(), abs=1e-2)


# The published update, from its specification -----------------------------------------------------------------------------------


class Both(Hook):
    """Cross-attention of both rows of the guided batch, as the published codes keep it."""

    def selects(self, site):
        return site.kind == "cross"

    def on_probs(self, site, probs, ctx):
        self.probs[site.name] = probs


def published(pipe, prompt, direction, z, *, steps, amount, w):
    """Two rows, one parameter: sum over sites of the mean over (rows x heads) of the sum over (places, tokens) of the squared
    difference; one step of SGD with ``amount``; the network again; guidance; and on from row 0. One picture. Returns latents
    after every step, and the gradients of the first."""
    model, keep, said = denoiser(pipe), Both(), encode_prompt(pipe, prompt)
    contexts = [torch.cat([encode_prompt(pipe, ""), c]) for c in (said, said + direction)]
    options = {k: v for k, v in scheduler_options(pipe).items() if k != "clip"}
    route, reference, first = visits(schedule_from(pipe.scheduler), steps, **options), [], None

    def call(pair, t, context):
        keep.probs = {}
        with Tap(pipe.unet, keep, rows=[Row("source", "empty"), Row("source", "prompt")]):
            return model(pair, torch.full((2,), t), context).eps

    x = z
    for v in route:
        with torch.no_grad():
            eps = call(torch.cat([x, x]), v.t, contexts[0])
        reference.append(keep.probs)
        eps = eps[:1] + w * (eps[1:] - eps[:1])
        x = ddim_step((x - (1 - v.abar) ** 0.5 * eps) / v.abar**0.5, eps, v.abar_prev)
    x, way = z, []
    for k, v in enumerate(route):
        pair = torch.cat([x, x]).requires_grad_()
        with torch.enable_grad():
            call(pair, v.t, contexts[1])
            loss = sum((a - reference[k][name]).square().sum((2, 3)).mean() for name, a in keep.probs.items())
            (gradient,) = torch.autograd.grad(loss, pair)
        first = gradient if first is None else first
        pair = (pair - amount * gradient).detach()
        with torch.no_grad():
            eps = call(pair, v.t, contexts[1])
        eps, x = eps[:1] + w * (eps[1:] - eps[:1]), pair[:1]
        x = ddim_step((x - (1 - v.abar) ** 0.5 * eps) / v.abar**0.5, eps, v.abar_prev)
        way.append(x)
    return torch.stack(way), first


def test_the_compatible_update_is_the_published_one_and_its_row_is_the_wrong_one():
    """Their mean runs over both rows, so an amount of theirs is half a scale of ours."""
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    z, w = initial_noise(pipe, 1, seed=3).double(), 5.0
    direction = word_direction(pipe, PROMPT, "cat", "dog", sentences=["a cat"])
    theirs, gradient = published(pipe, PROMPT, direction, z, steps=3, amount=40.0, w=w)
    ours = pix2pix_zero(pipe, PROMPT, direction, latents=z, steps=3, guidance=w, scale=20.0, compat="official")
    size = float(theirs[-1].abs().max())
    assert float((ours.trajectory["edit"].latents[1:] - theirs).abs().max()) < 1e-3 * size
    assert float(gradient[0].abs().max()) == 0.0 < float(gradient[1].abs().max()), "row 0 has nothing to follow at the first step"
    mended = pix2pix_zero(pipe, PROMPT, direction, latents=z, steps=3, guidance=w, scale=20.0)
    moved = one_latent(z[0], lambda pair: 2 * gradient, 20.0)
    free = pix2pix_zero(pipe, PROMPT, direction, latents=z, steps=3, guidance=w, scale=0.0)
    assert float((mended.trajectory["edit"].latents[1] - free.trajectory["edit"].latents[1]).abs().max()) > 0
    assert float((moved - z[0]).abs().max()) > 0
    assert float(mended.details["energy"][-1]) < float(ours.details["energy"][-1]), "the mended update lowers the loss further"
