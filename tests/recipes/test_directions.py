"""Shipped directions of h-space: their pairs, their cards, their recipe, and edits by name."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff.cli import main
from minidiff.editing import DeltaBlock, h_space
from minidiff.errors import BadInput, CheckpointError
from minidiff.files import data_folder, sha256
from minidiff.latent import text_to_image
from minidiff.measure.prompts import prompt_of
from minidiff.recipes import directions
from minidiff.recipes.directions import DIRECTIONS, EDITS, direction_pairs, edit_towards, load_direction, make_direction
from minidiff.show import pixels
from minidiff.world import held_out, render
from minidiff.zoo import card, load, shipped
from tests.pipelines import CASES, make


@pytest.fixture(scope="module")
def pipe():
    return load("mini-sd")


def test_every_recipe_ships_its_direction():
    assert {name for name in shipped() if name.endswith("-direction")} == {f"adapters/{name}-direction" for name in DIRECTIONS}
    assert set(DIRECTIONS) <= set(EDITS)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_card_tells_the_truth(name, pipe):
    facts, block = card(f"adapters/{name}-direction"), load_direction(pipe, name)
    assert facts["recipe"] == f"python -m minidiff.recipes.directions {name}" and facts["iterations"] == DIRECTIONS[name]
    assert facts["parameters"] == sum(p.numel() for p in block.parameters()) < 45_000
    folder = data_folder() / "adapters" / f"{name}-direction"
    assert facts["sha256"] == {p.name: sha256(p) for p in folder.iterdir() if p.name != "card.json"}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 100_000
    assert facts["error_with"] < 0.9 * facts["error_without"], "it learnt something"
    assert not any(p.requires_grad for p in block.parameters()) and not block.training


@pytest.mark.parametrize("name", EDITS)
def test_pairs_differ_in_one_respect_and_are_of_the_first_edition(name):
    pairs = direction_pairs(name, 24, split="valid")
    attribute = {"dog": "kind", "blue": "colour", "hat": "wears", "night": "backdrop"}[name]
    for a, b, said in zip(pairs.source, pairs.target, pairs.prompts, strict=True):
        mine, other = (a, b) if name == "night" else (a.things[0], b.things[0])
        assert getattr(mine, attribute) != getattr(other, attribute) == name
        names = ("kind", "colour", "pattern", "mood", "wears", "x", "y", "size")
        same = {n: getattr(a.things[0], n) for n in names if n != attribute}
        assert {n: getattr(b.things[0], n) for n in same} == same and (a.backdrop == b.backdrop) == (name != "night")
        assert not any(a.vary) and 0.2 <= a.things[0].size <= 0.3 and a.style == "flat"
        assert not any(held_out(s.things[0].kind, s.things[0].colour) for s in (a, b))
        assert said == ("" if name != "night" else prompt_of(a, backdrop=False)) and name not in said
    assert direction_pairs(name, 5, split="valid").source[4] == pairs.source[4], "the first five of 24 are the five"
    other = direction_pairs(name, 5, split="test").source
    assert any(a != b for a, b in zip(other, pairs.source[:5], strict=True))


def test_a_recipe_trains_ships_and_is_loaded_again(tmp_path, monkeypatch, pipe):
    monkeypatch.setattr(directions, "load", lambda name: pipe)
    monkeypatch.setattr(directions, "_PICTURES", 12)
    monkeypatch.setitem(directions.DIRECTIONS, "blue", 2)
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path))
    before = torch.random.get_rng_state()
    path = make_direction("blue")
    assert torch.equal(torch.random.get_rng_state(), before), "the learner's own random numbers go on"
    assert path == tmp_path / "adapters" / "blue-direction" and card("adapters/blue-direction")["iterations"] == 2
    block = load_direction(pipe, "blue")
    again = make_direction("blue")
    assert all(torch.equal(a, b) for a, b in zip(block.parameters(), load_direction(pipe, "blue").parameters(), strict=True))
    (again / "delta.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="delta"):
        load_direction(pipe, "blue")
    shutil.rmtree(again)
    with pytest.raises(BadInput, match="which is not in"):
        load_direction(pipe, "blue")


def test_a_bottleneck_of_another_width_is_refused(pipe):
    from tests.pipelines import CASES, shared

    with pytest.raises(BadInput, match="channels"):
        load_direction(shared(CASES[1]), "dog")
    with pytest.raises(BadInput, match="name"):
        load_direction(pipe, "cat")


def test_the_edit_by_name_is_the_method_on_an_inverted_picture(pipe, monkeypatch):
    blocks = {name: DeltaBlock.of(pipe) for name in DIRECTIONS}
    for k, block in enumerate(blocks.values()):
        torch.nn.init.constant_(block.out.bias, 0.3 + k)
    monkeypatch.setattr(directions, "load_direction", lambda pipe, name: blocks[name])
    x = render(direction_pairs("dog", 1).source).images
    one = edit_towards(pipe, "a red cat on the grass", direction="dog blue", strength=0.4, image=x, steps=3)
    want = h_space(pipe, "", [blocks["dog"], blocks["blue"]], strength=0.4, image=x, steps=3)
    assert torch.equal(one.edit, want.edit) and torch.equal(one.images["source"], x)
    two = edit_towards(pipe, "a red cat on the grass", direction="night", image=x, steps=3)
    want = h_space(pipe, "a red cat", blocks["night"], strength=0.2, image=x, steps=3)
    assert torch.equal(two.edit, want.edit)
    drawn = edit_towards(pipe, "a red cat", seed=3, steps=2, guidance=2.0)
    assert torch.equal(drawn.images["source"], text_to_image(pipe, "a red cat", seed=3, steps=2, guidance=2.0))
    with pytest.raises(BadInput, match="direction"):
        edit_towards(pipe, "a red cat", direction="")


def test_the_command_takes_directions_by_name(tmp_path, monkeypatch, capsys):
    asked, folder = [], tmp_path / "pipe"
    make(CASES[1]).save_pretrained(folder)

    def block(pipe, name):
        asked.append(name)
        found = DeltaBlock.of(pipe)
        torch.nn.init.constant_(found.out.bias, 1.0)
        return found

    monkeypatch.setattr(directions, "load_direction", block)
    call = ["edit", "h-space", "a red cat", "--model", str(folder), "--steps", "2", "--seeds", "1", "--out", str(tmp_path / "x")]
    assert main([*call, "--set", "direction=dog blue", "--set", "strength=0.5"]) == 0 and asked == ["dog", "blue"]
    made = directions.edit_towards(load(str(folder)), "a red cat", direction="dog blue", strength=0.5, seed=0, steps=2)
    with Image.open(tmp_path / "x" / "000_edit.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - pixels(made.edit)[0]).max() <= 1
    assert main([*call[:3], "a blue cat", *call[3:]]) == 2 and "has no target prompt" in capsys.readouterr().err
    assert main([*call, "--set", "direction="]) == 2 and "direction" in capsys.readouterr().err
