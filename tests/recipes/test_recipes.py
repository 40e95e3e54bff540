"""Recipes and shipped models: batches are pure functions, what is published is what is loaded, cards tell the truth."""

import errno
import json
import math
import os
from dataclasses import replace

import pytest
import torch

from minidiff import load
from minidiff.diffusion import Eps, simple_loss
from minidiff.errors import BadInput
from minidiff.files import data_folder, sha256
from minidiff.latent.pipeline import schedule_from
from minidiff.latent.stable import snr_weight
from minidiff.recipes import CONTROLS, PIXEL, READERS, RECIPES, SMALL_NET, STABLE, pixel_recipe, publish, recipe
from minidiff.recipes.adapters import ADAPTERS
from minidiff.recipes.blocks import sample_t
from minidiff.recipes.directions import DIRECTIONS
from minidiff.recipes.parasol import STYLED
from minidiff.rng import generator
from minidiff.train import Budget, fit
from minidiff.world import WorldData
from minidiff.zoo import card, export, shipped

CPU = torch.device("cpu")


OURS = (*READERS, *PIXEL)


def parameters(model):
    parts = model.components.values() if hasattr(model, "components") else [model]
    return [p for part in parts if isinstance(part, torch.nn.Module) for p in part.parameters()]


def test_every_recipe_ships_its_model():
    assert {name for name in shipped() if not name.startswith("adapters/")} == set(RECIPES)
    small = {*ADAPTERS, *(f"{name}-direction" for name in DIRECTIONS)}
    assert {name for name in shipped() if name.startswith("adapters/")} == {f"adapters/{name}" for name in small}


@pytest.mark.parametrize("name", RECIPES)
def test_a_card_tells_the_truth(name):
    facts = card(name)
    weights = parameters(load(name))
    assert facts["recipe"] == name and facts["seed"] == recipe(name).seed
    most = 8_000_000 if name in (*STABLE, *CONTROLS, *STYLED) else 2_500_000
    assert facts["parameters"] == sum(p.numel() for p in weights) <= most
    folder = data_folder() / name
    assert facts["sha256"] == {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*")
                               if p.is_file() and p.name != "card.json"}
    assert facts["images"] > 0 and facts["minutes"] > 0 and facts["scores"]
    assert not any(p.requires_grad for p in weights)
    made_on = facts["hardware"].keys() - {"channels_last"}       # written down since 2026-11-27
    assert made_on == {"device", "bf16", "threads", "processes"} and facts["batch"] > 0 and facts["lr"] > 0


@pytest.mark.parametrize("name", OURS)
def test_a_recipe_exports_the_config_that_ships(name, tmp_path):
    one = recipe(name)
    assert one.export(one.build(), tmp_path) == {"parameters": card(name)["parameters"]}
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((data_folder() / name / "config.json").read_text())


@pytest.mark.parametrize("name", ["readers/final", "pixel-small-learned", "vq-f4", "mini-clip", "mini-sd", "mini-layout",
                                  "mini-control"])
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


def test_a_control_begins_as_mini_sd_and_ships_as_a_pipeline_of_diffusers(tmp_path):
    """What is stored is the difference to the U-Net of mini-sd; what is loaded is whole, and so is what diffusers reads."""
    from diffusers import StableDiffusionControlNetPipeline

    one = recipe("mini-control")
    model, batch = one.build(), one.draw(0, 4, CPU)
    base = load("mini-sd")
    assert batch["hint"].dtype == torch.bool and batch["hint"].shape == (4, 1, 64, 64) and batch["hint"].any()
    schedule = schedule_from(base.scheduler)
    eps = Eps(lambda x, t, cond=None: base.unet(x, t, encoder_hidden_states=cond).sample, schedule)
    plain = simple_loss(eps, batch["z"], batch["t"], batch["noise"], cond=batch["context"])
    snr = schedule.at(batch["t"]) / (1 - schedule.at(batch["t"]))
    assert torch.allclose(one.loss(model, batch), plain * snr_weight(snr).to(plain), atol=1e-5)
    pipe = load("mini-control")
    theirs = StableDiffusionControlNetPipeline.from_pretrained(export("mini-control", tmp_path / "whole"))
    assert isinstance(pipe, StableDiffusionControlNetPipeline)
    for part in ("unet", "controlnet"):
        ours, there = (getattr(p, part).state_dict() for p in (pipe, theirs))
        assert ours.keys() == there.keys() and all(torch.equal(ours[k], there[k]) for k in ours)
    frozen = pipe.unet.state_dict()
    assert all(torch.equal(v, frozen[k]) for k, v in base.unet.state_dict().items()), "the U-Net was to stay as it was"
    assert pipe.controlnet.state_dict().keys() == model.state_dict().keys()
    assert sum(p.stat().st_size for p in (data_folder() / "mini-control").rglob("*") if p.is_file()) < 1.5e6


def test_a_pipeline_is_published_in_the_format_of_diffusers(tmp_path, monkeypatch):
    for state in fit(recipe("mini-sd"), images=64, out=tmp_path / "run", device="cpu", log=lambda _: None):
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


def test_publish_and_load(tmp_path, monkeypatch):
    name = "pixel-small-eps"
    for state in fit(recipe(name), images=64, out=tmp_path / "run", device="cpu", log=lambda _: None):
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


def test_a_card_states_what_the_run_was_made_with(tmp_path):
    """A budget may replace the recipe's batch and rate, and a run may be extended: the card says what was used."""
    budgets = {"gpu": Budget(64, 1, batch=16, lr=1e-4)}
    one = replace(recipe("pixel-small-x0"), budgets=budgets)
    run, settings = tmp_path / "run", {"budget": "gpu", "device": "cpu", "precision": "float32", "log": lambda _: None}
    list(fit(one, out=run, **settings))
    list(fit(one, out=run, images=96, extend=True, **settings))
    facts = json.loads((publish(one, run, root=tmp_path / "data") / "card.json").read_text())
    assert (facts["batch"], facts["lr"], facts["images"]) == (16, 1e-4, 96) and facts["schedule_history"] == [[0, 64], [64, 96]]
    assert facts["predicts"] == "x0" and facts["t_sampling"] == "uniform" and facts["hardware"]["bf16"] is False
    assert facts["batch"] != one.batch and facts["lr"] != one.lr


def test_publishing_on_a_full_disk_leaves_the_model_that_was_there(tmp_path, monkeypatch):
    one = recipe("pixel-small-eps")
    list(fit(one, images=32, out=tmp_path / "run", device="cpu", log=lambda _: None))
    folder = publish(one, tmp_path / "run", root=tmp_path / "data")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(one, tmp_path / "run", root=tmp_path / "data")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_recipe_without_an_export_is_not_published(tmp_path):
    one = replace(recipe("pixel-small-eps"), export=None)
    with pytest.raises(BadInput, match="export="):
        publish(one, tmp_path, root=tmp_path)


@pytest.mark.parametrize("how", ["uniform", "mixture"])
def test_steps_are_drawn_by_their_density(how):
    n, T = 200_000, 1000
    t = sample_t(n, T, torch.Generator().manual_seed(0), how)
    assert t.dtype == torch.long and t.shape == (n,) and 0 <= int(t.min()) and int(t.max()) <= T - 1
    at = torch.arange(1, T, dtype=torch.float64) / T                                    # t < k exactly when the draw is < k / T
    normal = 0.5 * (1 + torch.erf(torch.logit(at) / math.sqrt(2)))
    cdf = {"uniform": at, "mixture": 0.5 * at + 0.5 * normal}
    gap = {name: float((torch.bincount(t, minlength=T).cumsum(0)[:-1] / n - want).abs().max()) for name, want in cdf.items()}
    assert gap.pop(how) < 1.63 / math.sqrt(n), "Kolmogorov's bound at 1 %"
    assert min(gap.values()) > 0.02, "and the bound tells the two apart"


def test_a_pixel_recipe_can_be_x0_with_min_snr_small_batches_a_linear_rate_and_a_mixture_of_steps():
    """The loss of a batch by hand, from the same scenes, steps and noise."""
    one = pixel_recipe("mine", seed=22, net=SMALL_NET, predicts="x0", gamma=5.0, t_sampling="mixture", batch=16, lr=5e-4,
                       lr_shape="linear", warmup=1_600, ema=0.9995, images=(32_000, 1))
    batch = one.draw(9, 16, CPU)
    rng = generator(22, "t", 9)
    t = sample_t(16, 1000, rng, "mixture")
    noise = torch.randn(16, 3, 32, 32, generator=rng)
    x0 = batch["x0"]
    assert torch.equal(batch["t"], t) and torch.equal(batch["noise"], noise)
    assert torch.allclose(x0, WorldData(32).batch(9, 16)[0], atol=0.01), "scenes 144 to 159, painted among others"
    net = one.build()
    torch.nn.init.normal_(net.out.weight, std=0.05)
    abar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[t][:, None, None, None]
    x = (abar.sqrt() * x0 + (1 - abar).sqrt() * noise).float()
    weight = (abar / (1 - abar)).clamp(max=5).flatten()
    want = weight * ((net(x, t) - x0) ** 2).mean((1, 2, 3))
    assert torch.allclose(one.loss(net, batch).double(), want, rtol=1e-4, atol=1e-6)
    plan = one.plan()
    assert (plan.batch, plan.lr_at(800), plan.lr_at(16_800), plan.lr_at(32_000)) == pytest.approx((16, 2.5e-4, 2.5e-4, 0))
    with pytest.raises(BadInput, match="'mixture'"):
        pixel_recipe("mine", seed=1, net=SMALL_NET, t_sampling="mix")


def test_readers_differ_in_seed_and_blemishes():
    assert len({(row["seed"], row["strength"]) for row in READERS.values()}) == 3
    with pytest.raises(BadInput, match="pixel-ddpm"):
        recipe("pixel-dpm")
