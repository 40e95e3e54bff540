"""Lesson 10: its panels over their whole range, what its rows count, and the claims on made-up pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidiff import BadInput, load
from minidiff.course import claims
from minidiff.editing import prompt_to_prompt
from minidiff.latent import encode_prompt, initial_noise, text_to_image
from minidiff.lessons.l10_prompt_to_prompt import claims as board
from minidiff.lessons.l10_prompt_to_prompt.panels import SWAPS, Fader, Keeping, TokenSwap, side_by_side, swapped_tokens
from minidiff.measure import edit_pairs, edit_score
from minidiff.show import choice, panel, sweep
from minidiff.world import render
from tests.pipelines import CASES, shared

SHARES = (0.0, 0.5)


@pytest.fixture(scope="module")
def pipe():
    return shared(CASES[1])


@pytest.fixture(scope="module")
def reader():
    return load("readers/develop")


def apart(x, y):
    return float((x - y).abs().max())


# Panels ----------------------------------------------------------------------------------------------------------------------


def test_branches_in_one_run_are_runs_of_their_own(pipe):
    z, a = initial_noise(pipe, 2, seed=3), ["a red cat", "a blue dog on the grass"]
    both = side_by_side(pipe, z, {"one": encode_prompt(pipe, a), "two": encode_prompt(pipe, a[::-1])}, [], steps=3)
    assert apart(both["one"], text_to_image(pipe, a, latents=z, steps=3)) < 1e-4
    assert apart(both["two"], text_to_image(pipe, a[::-1], latents=z, steps=3)) < 1e-4


def test_keeping_over_the_whole_range(pipe, reader):
    pairs = edit_pairs("colour", 2)
    keeping = Keeping(pipe, reader, pairs, shares=SHARES, steps=4, seed=1)
    one = prompt_to_prompt(pipe, pairs.prompts, pairs.targets, seed=1, steps=4, cross=0.5, self_attention=0.5, maps=False)
    assert apart(keeping.images["0.5 0.5"], one.edit) < 1e-4 and apart(keeping.images["source"], one.images["source"]) < 1e-4
    shown = panel(keeping.render, choice("cross", SHARES), choice("self_attention", SHARES), alt="x")
    seen = {shown.image.value for _ in sweep(shown)}
    assert len(seen) >= 3
    array, text = keeping.render(cross=0.5, self_attention=0.0)
    assert array.dtype == np.uint8 and "cross-attention 50%, self-attention 0%" in text and "pairs" in text
    with pytest.raises(BadInput, match="cross"):
        keeping.render(cross=0.3, self_attention=0.0)


def test_fader_over_the_whole_range(pipe):
    fader = Fader(pipe, "a red cat and a blue mushroom", "mushroom", values=(0.0, 1.0, 3.0), steps=3)
    shown = panel(fader.render, choice("weight", fader.values, 3.0), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) == 3
    assert float(fader.maps[0.0].abs().max()) == 0 and apart(fader.images[0.0], fader.images[3.0]) > 1e-4
    plain = text_to_image(pipe, "a red cat and a blue mushroom", steps=3)
    assert apart(fader.images[1.0], plain) < 1e-4
    with pytest.raises(BadInput, match="weight"):
        fader.render(weight=2.5)


def test_swapped_tokens_take_what_they_are_called(pipe):
    source, target = "a red mushroom on the grass", "an orange mushroom on the grass"
    a, b = encode_prompt(pipe, source), encode_prompt(pipe, target)
    taken = {what: ((swapped_tokens(pipe, source, target, what) != a).any(-1))[0].nonzero().flatten().tolist() for what in SWAPS}
    assert taken["nothing"] == [] and taken["the colour's own token"] == [2] and taken["the noun's token"] == [4]
    assert taken["colour and noun"] == [2, 4] and taken["colour and all words after it"] == list(range(2, 8))
    assert taken["end and padding"] == list(range(8, 20))
    assert torch.equal(swapped_tokens(pipe, source, target, "everything"), b)
    swap = TokenSwap(pipe, [(source, target)], steps=2)
    shown = panel(swap.render, choice("taken", list(SWAPS)), alt="x")
    assert len({shown.image.value for _ in sweep(shown)}) == len(SWAPS)
    assert apart(swap.images["everything"], text_to_image(pipe, target, steps=2)) < 1e-4


# What the rows count -----------------------------------------------------------------------------------------------------------


def test_rank_correlation_by_hand():
    x = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0])
    y = torch.tensor([[1.0, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1, 1, 1, 1, 1], [0, 3, 1, 8, 9], [0, 0, 2, 3, 3]])
    got = board.rank_correlation(x, y).tolist()
    assert got[:3] == pytest.approx([1, -1, 0])
    assert got[3] == pytest.approx(1 - 6 * 2 / (5 * 24))                        # no ties: 1 - 6 sum d^2 / (n (n^2 - 1))
    ranks, mine = np.array([0, 1, 2, 3, 4.0]), np.array([0.5, 0.5, 2, 3.5, 3.5])
    assert got[4] == pytest.approx(np.corrcoef(ranks, mine)[0, 1])


def test_area_is_that_of_the_named_thing(reader):
    pairs = edit_pairs("two_kind", 8, split="test")
    painted = render(pairs.source)
    first, second = ([scene.things[k].kind for scene in pairs.source] for k in (0, 1))
    for k, kinds in enumerate((first, second)):
        areas, want = board.area_of(painted.images, kinds, reader), (painted.masks[:, k] > 0.5).float().mean((1, 2))
        assert float((areas - want).abs().median()) < 0.01
    others = [next(kind for kind in ("cat", "dog", "bear") if kind not in two) for two in zip(first, second, strict=True)]
    assert float((board.area_of(painted.images, others, reader) > 0).float().mean()) < 0.2


def test_the_nouns_that_an_edit_is_about():
    assert board._nouns("a red cat and a blue dog on the grass", "a red fish and a blue dog on the grass") == "cat fish"
    assert board._nouns("a red cat and a blue dog", "a red cat and an orange dog") == "dog"


def test_rows_are_paired_and_made_of_the_same_edits(monkeypatch, reader):
    truth = edit_pairs("colour", 12, split="test").truth(reader)
    fake = {"prompt to prompt": truth.gold, "plain": truth.gold.roll(8, 3), "counterfactual": truth.gold, "no edit": truth.images}
    made = board.Edited({name: edit_score(x, truth) for name, x in fake.items()}, fake, truth, [], [])
    monkeypatch.setattr(board, "edited", lambda edit, n: made)
    known = {id: c for id, c in claims().items() if id.startswith("10.")}
    assert len(known) == 8 and all(c.n >= (64 if id.startswith("10.colour") else 48) for id, c in known.items())
    iou, gold, success = (known[f"10.colour_{name}"].run(12) for name in ("iou", "gold", "success"))
    assert iou.low > 0.2 and gold.low > 3 and iou.low <= iou.value <= iou.high
    assert iou.value == pytest.approx(iou.baseline["Prompt-to-Prompt"] - iou.baseline["plain change"], abs=1e-6)
    assert success.value >= -0.05 and iou.floor["counterfactual through the autoencoder"] > 0.8


def test_fader_rows_on_made_up_pictures(monkeypatch):
    pairs = edit_pairs("two_kind", 6, split="test")
    nouns = [scene.things[0].kind for scene in pairs.source]

    def faded(n, how, values=board.FADERS, split="test"):
        rows = []
        for value in values:
            scenes = [s.replace(things=s.things[1:]) if value == 0 else s.replace_thing(0, size=0.08 + 0.05 * value ** 0.5)
                      for s in pairs.source]
            rows.append(render(scenes).images)
        return torch.stack(rows), nouns, pairs.prompts

    monkeypatch.setattr(board, "faded", faded)
    area, value, key = (claims()[f"10.{name}"].run(6) for name in ("noun_area", "value_emphasis", "key_ignored"))
    assert area.value > 0.8 and area.settings["there at 0"] <= 0.2 and area.settings["there at 2"] == 1
    assert value.value > 1.2 and key.value >= 0.8 and key.baseline["prompt untouched"] <= 0.2
