"""The identity of a run: everything that a recipe is called with but its length changes what a checkpoint must agree with."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from minidiff import recipes
from minidiff.errors import BadInput, CheckpointError
from minidiff.files import data_folder
from minidiff.recipes import RECIPES, recipe
from minidiff.recipes.blocks import fingerprint
from minidiff.train import fit
from minidiff.world import ImageFolder, WorldData

LENGTH = {"name", "images", "minutes", "expect"}  # what may differ: how long, and what is said
OTHER: dict[str, Any] = {
    "seed": 999,
    "net": {"channels": 3, "dim": 16, "mults": (1,), "blocks": 1, "patch": 4, "attention": None},
    "predicts": "v",
    "learns": ("conv_in",),
    "schedule": "cosine",
    "learned": True,
    "gamma": 3.25,
    "t_sampling": "mixture",
    "batch": 7,
    "lr": 7e-4,
    "lr_shape": "linear",
    "warmup": 11,
    "ema": 0.5,
    "data": WorldData(32, seed=5),
    "f": 2,
    "codebook_size": 8,
    "adversarial": 0.5,
    "widths": (16, 32, 32),
    "ground": 0.5,
    "drop": 0.5,
    "alone": 0.5,
    "vae": "vae-f4",
    "start": "mini-sd",
    "task": "layout",
    "T": 2,
    "beta": 2.0,
    "sigma": 0.5,
    "strength": 0.9,
}
BY_SHAPES = {"net", "widths"}  # the network itself is compared, by its shapes


def settings(one: Any) -> dict[str, Any]:
    return one.plan("laptop", 1000).settings()


@pytest.mark.parametrize("name", sorted({next(iter(table)) for table, _ in recipes._TABLES}))
def test_every_argument_of_a_recipe_is_part_of_its_identity(name: str, tmp_path: Path) -> None:
    table, make = next((t, m) for t, m in recipes._TABLES if name in t)
    given = table[name]
    before = settings(make(name, **given))
    assert json.loads(json.dumps(before)) == before and before["data"], "data is named, in JSON"
    for argument in set(inspect.signature(make).parameters) - LENGTH:
        own = data_folder() / "parasol-tokens"
        value = str(shutil.copytree(own, tmp_path / "own")) if argument == "tokens" else OTHER[argument]
        if argument == "lr_shape" and before["lr_shape"] == value:
            value = "cosine"
        elif argument == "data" and name != "pixel-ddpm":
            Image.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / "a.png")
            (tmp_path / "a.txt").write_text("a red square")
            value = ImageFolder(tmp_path, size=64)
        elif argument in given and given[argument] == value:
            value = {"t_sampling": "uniform", "predicts": "eps", "start": "mini-inpaint"}[argument]
        one = make(name, **(given | {argument: value}))
        if argument in BY_SHAPES:
            shapes = [{k: v.shape for k, v in r.build().state_dict().items()} for r in (make(name, **given), one)]
            assert shapes[0] != shapes[1], argument
        else:
            assert settings(one) != before, argument


def test_every_recipe_names_its_data() -> None:
    for name in RECIPES:
        one = recipe(name)
        assert one.identity.get("data"), name


def test_weights_that_a_recipe_learns_from_are_part_of_it() -> None:
    net = torch.nn.Linear(2, 2)
    before = fingerprint(net)
    with torch.no_grad():
        net.weight[0, 0] += 1e-3
    assert fingerprint(net) != before and len(before) == 16


def pictures(folder: Path, colour: tuple[int, int, int]) -> Path:
    folder.mkdir(parents=True)
    for k in range(4):
        Image.new("RGB", (40, 40), tuple(c + k for c in colour)).save(folder / f"{k}.png")
    return folder


def test_a_run_is_not_gone_on_from_with_other_data_or_another_objective(tmp_path: Path) -> None:
    """Folders of one name and one size, v for eps, another schedule: refused by name, with both values."""
    first, second = (pictures(tmp_path / name / "mine", colour) for name, colour in (("a", (9, 9, 9)), ("b", (99, 9, 9))))
    out = tmp_path / "run"

    def go(**changes: Any) -> None:
        given = recipes.PIXEL["pixel-small-eps"] | {"net": OTHER["net"], "batch": 2, "data": ImageFolder(first)} | changes
        list(fit(recipes.pixel_recipe("mine", **given), images=4, out=out, device="cpu", log=lambda _: None))

    go()
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for change, word in (
        ({"data": ImageFolder(second)}, "data is {'pictures': 4"),
        ({"predicts": "v"}, "predicts is 'eps' there and 'v' here"),
        ({"schedule": "cosine"}, "schedule is 'linear' there and 'cosine' here"),
        ({"gamma": 5.0}, "gamma is None there"),
        ({"data": WorldData(32)}, "data is {'pictures': 4"),
        ({"t_sampling": "mixture"}, "t_sampling is"),
    ):
        with pytest.raises(CheckpointError) as caught:
            go(**change)
        assert word in str(caught.value)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    go()


def test_a_setting_that_only_one_of_the_two_names_is_a_difference(tmp_path: Path) -> None:
    from train_child import recipe as tiny

    list(fit(tiny(), images=8, out=tmp_path, device="cpu", log=lambda _: None))
    with pytest.raises(CheckpointError, match="weighting is 'not said' there and 'snr' here"):
        list(fit(tiny(identity={"predicts": "eps", "weighting": "snr"}), images=8, out=tmp_path, device="cpu"))
    said: list[str] = []
    list(fit(tiny(identity={}), images=8, out=tmp_path / "other", device="cpu", log=said.append))
    assert "names no identity=" in said[0]


def test_only_what_can_take_pictures_takes_them(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "mine", (1, 2, 3))
    assert recipe("pixel-ddpm", data=folder).identity["data"]["pictures"] == 4
    for name, word in (
        ("readers/final", "must know the truth"),
        ("mini-layout", "must know the truth"),
        ("mini-sd", "with captions"),
    ):
        with pytest.raises(BadInput, match=word):
            recipe(name, data=folder)
