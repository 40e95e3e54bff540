"""Recipes and shipped models: batches are pure functions, what is published is what is loaded, cards tell the truth."""

import json

import pytest
import torch

from minidiff import load
from minidiff.errors import BadInput
from minidiff.files import data_folder, sha256
from minidiff.recipes import PIXEL, READERS, RECIPES, config, publish, recipe
from minidiff.train import fit
from minidiff.zoo import card, shipped

CPU = torch.device("cpu")


def test_every_recipe_ships_its_model():
    assert set(shipped()) == set(RECIPES)
    total = sum(f.stat().st_size for f in data_folder().rglob("*") if f.is_file())
    assert total < 100e6


@pytest.mark.parametrize("name", RECIPES)
def test_a_card_tells_the_truth(name):
    facts = card(name)
    model = load(name)
    assert facts["recipe"] == name and facts["seed"] == recipe(name).seed
    assert facts["parameters"] == sum(p.numel() for p in model.parameters()) <= 2_500_000
    assert facts["sha256"] == {"model.safetensors": sha256(data_folder() / name / "model.safetensors")}
    assert facts["images"] > 0 and facts["minutes"] > 0 and facts["scores"]
    assert json.loads((data_folder() / name / "config.json").read_text()) == json.loads(json.dumps(config(name)))
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


@pytest.mark.parametrize("name", ["readers/final", "pixel-small-learned"])
def test_batches_are_pure_functions_of_their_number(name):
    one, two = recipe(name), recipe(name)
    a, far, b = one.draw(9, 8, CPU), one.draw(3, 8, CPU), two.draw(9, 8, CPU)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    first = next(iter(a))
    assert a[first].shape[0] == 8 and not torch.equal(a[first], far[first])
    again = one.draw(9, 8, CPU)
    assert all(torch.equal(a[k], again[k]) for k in a), "a batch was changed by drawing another"


@pytest.mark.parametrize("name", ["readers/final", "pixel-small-v", "pixel-small-learned"])
def test_losses_are_one_a_row_and_fall(name):
    one = recipe(name)
    model = one.build()
    batch = one.draw(0, 16, CPU)
    loss = one.loss(model, batch)
    assert loss.shape == (16,) and loss.dtype == torch.float32
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(8):
        optimiser.zero_grad()
        one.loss(model, batch).mean().backward()
        optimiser.step()
    assert one.loss(model, batch).mean() < 0.9 * loss.mean()


def test_the_second_stage_begins_where_the_first_ended():
    first, second = load("pixel-eps"), recipe("pixel-ddpm").build()
    for (name, a), b in zip(first.net.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert PIXEL["pixel-ddpm"]["net"] == PIXEL["pixel-eps"]["net"]


def test_publish_and_load(tmp_path, monkeypatch):
    name = "pixel-small-eps"
    for state in fit(recipe(name), images=64, out=tmp_path / "run", say=lambda _: None):
        net = state.ema
    data = tmp_path / "data"
    publish(name, tmp_path / "run", root=data)
    monkeypatch.setenv("MINIDIFF_DATA", str(data))
    assert shipped() == [name] and card(name)["images"] == 64
    loaded = load(name)
    x, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900])
    net.eval()
    with torch.no_grad():
        assert torch.allclose(loaded.net(x, t), net(x, t), atol=2e-3), "fp16 costs more than rounding"
    publish(name, tmp_path / "run", root=data)
    assert [p.name for p in data.iterdir()] == [name], "replacing a model left something behind"


def test_readers_differ_in_seed_and_blemishes():
    assert len({(row["seed"], row["strength"]) for row in READERS.values()}) == 3
    with pytest.raises(BadInput, match="pixel-ddpm"):
        recipe("pixel-dpm")
