"""Recipes and shipped models: batches are pure functions, what is published is what is loaded, cards tell the truth."""

import json

import pytest
import torch

from minidiff import load
from minidiff.errors import BadInput
from minidiff.files import data_folder, sha256
from minidiff.recipes import PIXEL, READERS, RECIPES, STABLE, config, publish, recipe
from minidiff.train import fit
from minidiff.zoo import card, shipped

CPU = torch.device("cpu")


OURS = (*READERS, *PIXEL)


def parameters(model):
    parts = model.components.values() if hasattr(model, "components") else [model]
    return [p for part in parts if isinstance(part, torch.nn.Module) for p in part.parameters()]


def test_every_recipe_ships_its_model():
    assert set(shipped()) == set(RECIPES)
    total = sum(f.stat().st_size for f in data_folder().rglob("*") if f.is_file())
    assert total < 100e6


@pytest.mark.parametrize("name", RECIPES)
def test_a_card_tells_the_truth(name):
    facts = card(name)
    weights = parameters(load(name))
    assert facts["recipe"] == name and facts["seed"] == recipe(name).seed
    assert facts["parameters"] == sum(p.numel() for p in weights) <= (8_000_000 if name in STABLE else 2_500_000)
    folder = data_folder() / name
    assert facts["sha256"] == {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*.safetensors")} != {}
    assert facts["images"] > 0 and facts["minutes"] > 0 and facts["scores"]
    assert not any(p.requires_grad for p in weights)
    if name in OURS:
        assert json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(config(name)))


@pytest.mark.parametrize("name", ["readers/final", "pixel-small-learned", "vq-f4", "mini-clip", "mini-sd", "mini-layout"])
def test_batches_are_pure_functions_of_their_number(name):
    one, two = recipe(name), recipe(name)
    a, far, b = one.draw(9, 8, CPU), one.draw(3, 8, CPU), two.draw(9, 8, CPU)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    first = next(iter(a))
    assert a[first].shape[0] == 8 and not torch.equal(a[first], far[first])
    again = one.draw(9, 8, CPU)
    assert all(torch.equal(a[k], again[k]) for k in a), "a batch was changed by drawing another"


@pytest.mark.parametrize("name", ["readers/final", "pixel-small-v", "pixel-small-learned", "vae-f8", "mini-clip", "mini-sd"])
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
    assert one.loss(model, batch).mean() < 0.95 * loss.mean()


@pytest.mark.parametrize(("name", "channels"), [("mini-inpaint", 9), ("mini-upscale-x2", 16), ("mini-upscale-x4", 7),
                                                ("mini-layout", 16)])
def test_a_concat_task_begins_as_mini_sd(name, channels):
    one = recipe(name)
    model, batch = one.build(), one.draw(0, 4, CPU)
    assert model.unet.config.in_channels == channels == 4 + batch["hint"].shape[1]
    plain = recipe("mini-sd")
    base = load("mini-sd")
    trained = plain.build()
    trained.unet.load_state_dict(base.unet.state_dict())
    trained.text_encoder.load_state_dict(base.text_encoder.state_dict())
    hintless = {k: v for k, v in batch.items() if k != "hint"}
    assert torch.allclose(one.loss(model, batch), plain.loss(trained, hintless), atol=1e-5)


def test_a_pipeline_is_published_in_the_format_of_diffusers(tmp_path, monkeypatch):
    for state in fit(recipe("mini-sd"), images=64, out=tmp_path / "run", device="cpu", say=lambda _: None):
        unet = state.ema.unet
    data = tmp_path / "data"
    publish("mini-sd", tmp_path / "run", root=data)
    monkeypatch.setenv("MINIDIFF_DATA", str(data))
    from diffusers import StableDiffusionPipeline

    for pipe in (load("mini-sd"), StableDiffusionPipeline.from_pretrained(data / "mini-sd")):
        assert isinstance(pipe, StableDiffusionPipeline)
        assert all(torch.allclose(a, b, atol=2e-3) for a, b in zip(pipe.unet.parameters(), unet.parameters(), strict=True))
        assert pipe.vae.config.scaling_factor == load_real_scale(monkeypatch)
    assert card("mini-sd")["images"] == 64


def load_real_scale(monkeypatch):
    with monkeypatch.context() as real:
        real.delenv("MINIDIFF_DATA")
        return load("mini-vae").config.scaling_factor


def test_the_second_stage_begins_where_the_first_ended():
    first, second = load("pixel-eps"), recipe("pixel-ddpm").build()
    for (name, a), b in zip(first.net.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert PIXEL["pixel-ddpm"]["net"] == PIXEL["pixel-eps"]["net"]


def test_publish_and_load(tmp_path, monkeypatch):
    name = "pixel-small-eps"
    for state in fit(recipe(name), images=64, out=tmp_path / "run", device="cpu", say=lambda _: None):
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
