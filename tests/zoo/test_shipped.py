"""Shipped models: each byte under its hash, parts that two have stored once, whole again on export."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from minidiff import load
from minidiff.cli import main
from minidiff.doctor import _models
from minidiff.errors import BadInput, CheckpointError
from minidiff.files import data_folder, sha256
from minidiff.latent.clip import retrieval
from minidiff.manifest import difference_of, faults, files_below, in_part, models_in, read_card, update_card, write_card
from minidiff.recipes import RECIPES
from minidiff.world import WorldData, captions
from minidiff.zoo import export, ship, shipped
from minidiff.zoo.parts import COARSEST, apply_difference, difference
from tests.pipelines import CASES, make

ROOT = Path(__file__).resolve().parents[2]
THIN = {"mini-control", "mini-inpaint", "mini-layout", "mini-parasol", "mini-upscale-x2",
        "mini-upscale-x4", "mini-vae"}
SOME = ("mini-sd", "mini-inpaint", "mini-vae", "pixel-small-eps", "readers/final", "mini-clip", "adapters/panda-lora-small",
        "mini-control", "mini-parasol", "parasol-tokens", "adapters/dog-direction")


# Small enough to travel -------------------------------------------------------------------------------------------------------


def test_each_file_is_stored_once_and_the_whole_is_small():
    root, by_hash = data_folder(), defaultdict(list)
    for name in shipped():
        for path in files_below(root / name):
            if path.suffix == ".safetensors":
                by_hash[sha256(path)].append(path)
    assert [paths for paths in by_hash.values() if len(paths) > 1] == []
    assert {name for name in shipped() if in_part(read_card(root / name))} == THIN
    later = {"mini-control", "mini-parasol", "parasol-tokens", *(n for n in shipped() if n.endswith("-direction"))}
    sizes = {name: sum(path.stat().st_size for path in (root / name).rglob("*") if path.is_file()) for name in later}
    whole = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert whole - sum(sizes.values()) < 60e6 and sum(sizes.values()) < 15e6, "what lessons 14 to 18 brought has 15 MB of its own"


def test_something_uses_every_model_that_ships():
    """A lesson, a notebook or a test names it; an adapter of the ladder is named by its subject, a direction by what it
    makes."""
    files = [*(ROOT / "minidiff" / "lessons").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb"),
             *(p for p in (ROOT / "tests").rglob("*.py") if p.name != "test_shipped.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    unused = [name for name in shipped() if name.rpartition("/")[2].removesuffix("-word").removesuffix("-direction") not in text]
    assert [name for name in unused if name not in ("mini-clip",)] == []


def test_mini_clip_in_half_precision_finds_captions():
    images, scenes = WorldData(64, "test", "full").batch(0, 256)
    clip = load("mini-clip")
    assert next(clip.parameters()).dtype == torch.float32
    hits = retrieval(clip, images, captions(scenes, seed=1), among=32)
    assert min(float(hit.double().mean()) for hit in hits) > 0.8


# Differences -------------------------------------------------------------------------------------------------------------------


def tuned(base: dict[str, torch.Tensor], much: float) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {k: v + much * v.std() * torch.randn(v.shape, generator=g) if v.ndim > 1 else v + 0.5 for k, v in base.items()}


def test_a_difference_is_nearer_than_bfloat16_and_leaves_the_rest_as_it_is():
    g = torch.Generator().manual_seed(0)
    base = {k: torch.randn(shape, generator=g) for k, shape in (("conv", (6, 3, 3, 3)), ("in", (4, 2)), ("bias", (6,)))}
    new = tuned(base, 0.12) | {"in": torch.randn(4, 5, generator=g)}                    # a layer that was made wider
    stored = difference(new, base)
    assert stored["conv"].dtype == torch.int8 and stored["conv"].shape == base["conv"].shape
    again = apply_difference(stored, base, torch.float32)
    assert again.keys() == new.keys() and torch.equal(again["in"], new["in"]) and torch.equal(again["bias"], new["bias"])
    rows = (new["conv"] - base["conv"]).flatten(1).abs().amax(1) / 127
    assert bool(((again["conv"] - new["conv"]).flatten(1).abs() <= 0.501 * rows[:, None]).all()), "rounded to the nearest step"
    off = float((again["conv"] - new["conv"]).norm() / new["conv"].norm())
    assert off < float((new["conv"].bfloat16().float() - new["conv"]).norm() / new["conv"].norm()) < COARSEST


def test_what_was_not_tuned_is_not_stored_again():
    base = {k: torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i, k in enumerate(("one", "two"))}
    new = base | {"two": base["two"] + 0.01, "more": torch.ones(2)}
    stored = difference(new, base)
    assert set(stored) == {"two", "two.step", "more"}
    again = apply_difference(stored, base, torch.float32, rest=True)
    assert again.keys() == new.keys() and torch.equal(again["one"], base["one"]) and torch.equal(again["more"], new["more"])
    less = {"one": base["one"]}
    assert set(difference(less, base)) == {"one", "one.step"}, "a network that lacks a part of base is stored whole"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """data/ with a pipeline "base" and a "near" one, tuned a little from it, stored as what differs; "far" is another."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("MINIDIFF_DATA", str(root))
    pipe = make(CASES[1])
    ship("base", pipe.save_pretrained, {"seed": 1})
    for name, much in (("near", 0.1), ("far", 3.0)):
        other = make(CASES[1])
        for part in (other.unet, other.text_encoder):
            part.load_state_dict(tuned(part.state_dict(), much))
        ship(name, other.save_pretrained, {"seed": 2, "scores": {"n": 1}}, base="base")
    return root


def weights(pipe):
    return {f"{part}.{k}": v for part in ("unet", "vae", "text_encoder") for k, v in getattr(pipe, part).state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_what_two_pipelines_have_is_stored_once(house):
    size = {name: sum(p.stat().st_size for p in files_below(house / name)) for name in models_in(house)}
    assert size["near"] < 0.5 * size["base"]
    card = read_card(house / "near")
    assert set(card["differs"]) == {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}
    assert "vae/diffusion_pytorch_model.safetensors" in card["shared"] and "model_index.json" in card["shared"]
    assert set(card["sha256"]) == {difference_of(name) for name in card["differs"]}, "nothing else is in the folder"
    far = read_card(house / "far")
    assert far["differs"] == {} and "vae/diffusion_pytorch_model.safetensors" in far["shared"], "8 bits would cost something"
    other = make(CASES[1])
    for part in (other.unet, other.text_encoder):
        part.load_state_dict(tuned(part.state_dict(), 0.1))
    near, exact = weights(load("near")), weights(other)
    for k, x in exact.items():
        assert float((near[k] - x).norm()) <= 2e-3 * float(x.norm()) + 1e-6, k
    assert same({k: v for k, v in near.items() if k.startswith("vae")}, {k: v for k, v in exact.items() if k.startswith("vae")})


def test_export_writes_a_folder_that_diffusers_reads(house, tmp_path, capsys):
    assert main(["export", "near", str(tmp_path / "mine")]) == 0
    assert "near" in capsys.readouterr().out
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "mine")
    assert same(weights(theirs), weights(load("near"))) and same(weights(load(tmp_path / "mine")), weights(load("near")))
    export("near", tmp_path / "again")
    assert {p.name: p.read_bytes() for p in (tmp_path / "mine" / "unet").iterdir()} == \
           {p.name: p.read_bytes() for p in (tmp_path / "again" / "unet").iterdir()}
    assert faults(tmp_path / "mine", tmp_path) == [] and not in_part(read_card(tmp_path / "mine"))
    for there in ("mine", "nowhere/deep"):
        with pytest.raises(BadInput, match="DIR"):
            export("near", tmp_path / there)
    with pytest.raises(CheckpointError, match="base"):
        export("bas", tmp_path / "x")
    (house / "base" / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="base/vae/config.json, that it shares, is missing"):
        export("near", tmp_path / "x")
    assert not [p for p in tmp_path.iterdir() if p.name not in ("data", "mine", "again")]


def test_the_shipped_concat_pipelines_are_whole_on_export(tmp_path):
    pipe = load("mini-layout")
    theirs = StableDiffusionPipeline.from_pretrained(export("mini-layout", tmp_path / "layout"))
    assert same(weights(theirs), weights(pipe)) and theirs.unet.config.in_channels == 16
    assert same(load("mini-vae").state_dict(), load("mini-sd").vae.state_dict())


def test_a_new_base_leaves_the_others_as_they_were(house):
    """ship() and unpack replace a model that others share files with."""
    before = {name: weights(load(name)) for name in ("near", "far")}
    base = make(CASES[1])
    base.vae.load_state_dict(tuned(base.vae.state_dict(), 0.1))
    ship("base", base.save_pretrained, {"seed": 3})
    assert not in_part(read_card(house / "near")) and read_card(house / "near")["scores"] == {"n": 1}
    assert all(same(weights(load(name)), before[name]) for name in before)
    assert not [p for p in house.iterdir() if p.name not in ("base", "near", "far")]


def test_unpack_takes_a_pipeline_whose_base_it_does_not_take(house, tmp_path, monkeypatch):
    from minidiff.course.unpack import unpack
    from minidiff.recipes.pack import Pack
    (tmp_path / "out").mkdir()
    shutil.copytree(house, tmp_path / "out" / "data")
    list(Pack(tmp_path / "pack").write(tmp_path / "out", ["base", "near"]))
    near = weights(load("near"))
    base = make(CASES[1])
    base.unet.load_state_dict(tuned(base.unet.state_dict(), 0.3))
    for name in ("near", "far"):
        shutil.rmtree(house / name)
    ship("base", base.save_pretrained, {"seed": 3})
    unpack(tmp_path / "pack", ["near"], everything=True, log=lambda _: None)
    assert same(weights(load("near")), near) and not in_part(read_card(house / "near"))
    unpack(tmp_path / "pack", everything=True, log=lambda _: None)
    assert in_part(read_card(house / "near")) and same(weights(load("near")), near)
    list(Pack(tmp_path / "alone").write(tmp_path / "out", ["near"]))
    ship("base", base.save_pretrained, {"seed": 3})
    with pytest.raises(CheckpointError, match="near lacks what it differs from"):
        unpack(tmp_path / "alone", everything=True, log=lambda _: None)
    assert same(weights(load("near")), near) and not [p for p in house.iterdir() if p.name.startswith(".")]


def test_a_remake_gets_its_needs_whole(house, tmp_path):
    from minidiff.recipes.jobs import Row
    from minidiff.recipes.remake import _copy_needs
    _copy_needs({"x": Row("x", ("near",), 1.0)}, house, tmp_path / "out")
    assert faults(tmp_path / "out" / "data" / "near", tmp_path / "nowhere") == []
    assert not in_part(read_card(tmp_path / "out" / "data" / "near"))


# Every byte ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    root = tmp_path_factory.mktemp("copied") / "data"
    for name in SOME:
        shutil.copytree(data_folder() / name, root / name)
    return root


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE = {"first byte": lambda p: flipped(p, 0), "middle byte": lambda p: flipped(p, p.stat().st_size // 2),
          "last byte": lambda p: flipped(p, -1), "cut short": lambda p: p.write_bytes(p.read_bytes()[:-1]),
          "emptied": lambda p: p.write_bytes(b""), "deleted": lambda p: p.unlink()}


@pytest.mark.parametrize("name", SOME)
def test_one_byte_changed_or_one_file_gone_is_named(copied, name, monkeypatch):
    monkeypatch.setenv("MINIDIFF_DATA", str(copied))
    named, cases = [], 0
    for path in list(files_below(copied / name)):
        whole, file = path.read_bytes(), path.relative_to(copied / name).as_posix()
        for damage in DAMAGE.values():
            damage(path)
            try:
                said = "; ".join(faults(copied / name, copied))
                with pytest.raises(CheckpointError) as error:
                    loaded(name)
                named.append(file in said and (file in str(error.value) or file == "card.json" and name in str(error.value)))
                cases += 1
            finally:
                path.write_bytes(whole)
    assert cases == 6 * len(list(files_below(copied / name))) and all(named)
    assert faults(copied / name, copied) == []


def loaded(name: str):
    if name.endswith("-direction"):
        from minidiff.recipes.directions import load_direction
        return load_direction(None, name.removeprefix("adapters/").removesuffix("-direction"))
    if name.startswith("adapters/"):
        from minidiff.recipes.adapters import load_adapter
        return load_adapter(None, name.removeprefix("adapters/"))
    return load(name)


@pytest.mark.parametrize("name", SOME)
def test_a_file_added_anywhere_is_named(copied, name, monkeypatch):
    monkeypatch.setenv("MINIDIFF_DATA", str(copied))
    folders = {copied / name, *(path.parent for path in files_below(copied / name)), copied / name / "new"}
    for folder in folders:
        for file in ("x.safetensors", "x.py", ".hidden", "model.safetensors.index.json"):
            was = folder.is_dir()
            folder.mkdir(exist_ok=True)
            (folder / file).write_bytes(b"")
            with pytest.raises(CheckpointError, match="is not on the card"):
                loaded(name)
            (folder / file).unlink()
            if not was:
                folder.rmdir()
    (copied / name / "link").symlink_to(copied / name / "card.json")
    with pytest.raises(CheckpointError, match="link is no plain file"):
        loaded(name)
    (copied / name / "link").unlink()
    assert faults(copied / name, copied) == []


def test_a_folder_by_its_path_is_held_to_its_card(copied, tmp_path):
    """An export, whole; a shipped folder that holds only what differs; and without a card a folder is one like any other."""
    mine = export("mini-inpaint", tmp_path / "mine")
    for folder in (mine, copied / "mini-inpaint", copied / "readers" / "final"):
        assert load(folder) is not None
        for path in list(files_below(folder)):
            file, whole = path.relative_to(folder).as_posix(), path.read_bytes()
            flipped(path, len(whole) // 2)
            with pytest.raises(CheckpointError, match=re.escape(file) if file != "card.json" else "card.json") as error:
                load(folder)
            assert str(folder) in str(error.value)
            path.write_bytes(whole)
        (folder / "more.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match="more.safetensors is not on the card"):
            load(folder)
        (folder / "more.safetensors").unlink()
    assert same(weights(load(copied / "mini-inpaint")), weights(load("mini-inpaint")))
    (mine / "card.json").unlink()
    (mine / "notes.txt").write_text("mine")
    assert same(weights(load(mine)), weights(load("mini-inpaint")))


def test_a_damaged_base_is_named_by_all_that_share_it_and_by_the_doctor(copied, monkeypatch):
    monkeypatch.setenv("MINIDIFF_DATA", str(copied))
    path = copied / "mini-sd/vae/config.json"
    whole = path.read_text()
    path.write_text(whole.replace("0.3", "0.4", 1))
    try:
        names = ["mini-control", "mini-inpaint", "mini-parasol", "mini-sd", "mini-vae"]
        for name in names:
            with pytest.raises(CheckpointError, match="vae/config.json.* has changed"):
                load(name)
        wrong = [finding for finding in _models() if finding.state == "broken"]
        assert sorted(f.text.split(":")[0] for f in wrong) == names
        assert all("git checkout" in finding.mend for finding in wrong)
    finally:
        path.write_text(whole)


def test_a_card_that_is_measured_again_still_vouches_for_the_same_files(copied):
    folder = copied / "pixel-small-eps"
    update_card(folder, scores={"n": 3})
    assert faults(folder, copied) == [] and json.loads((folder / "card.json").read_text())["scores"] == {"n": 3}
    flipped(folder / "config.json", 3)
    update_card(folder, scores={"n": 4})
    assert [said.split()[0] for said in faults(folder, copied)] == ["config.json"]
    flipped(folder / "config.json", 3)


def test_a_card_cannot_name_files_outside(tmp_path):
    (tmp_path / "m").mkdir()
    for bad in ("../x", "/x", "a/../../x", "a\\b", ""):
        write_card(tmp_path / "m", {"shared": {"config.json": {"from": bad, "sha256": "0" * 64}}})
        assert "names the file" in faults(tmp_path / "m", tmp_path)[0], bad


def test_all_cards_are_as_written():
    assert set(RECIPES) <= set(shipped())
    assert {name: wrong for name in shipped() if (wrong := faults(data_folder() / name, data_folder()))} == {}
    done = subprocess.run(["git", "check-attr", "eol", "--", "data/mini-sd/card.json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode or "eol: lf" in done.stdout, "line feeds are part of the hash, on Windows too"


def test_stored_differences_hold_no_more_than_they_must():
    for name in sorted(THIN):
        for file in read_card(data_folder() / name).get("differs", {}):
            stored = load_file(data_folder() / name / difference_of(file))
            new = ("controlnet_", ".step")                # layers that the base has not got: there is nothing to differ from
            whole = sum(x.numel() for k, x in stored.items() if x.dtype != torch.int8 and not k.startswith(new[0])
                        and not k.endswith(new[1]))
            assert whole < 0.02 * sum(x.numel() for x in stored.values()), (name, file)
