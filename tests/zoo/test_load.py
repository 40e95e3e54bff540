"""load: which of three things a name is, the dtype and the layout of what comes, devices, and folders of the Hub's cache."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from minidiff import load, zoo
from minidiff.errors import BadInput, CheckpointError
from minidiff.files import data_folder
from minidiff.recipes import RECIPES
from minidiff.silence import silence_libraries
from minidiff.zoo import export
from minidiff.zoo.check import check_folder
from tests.pipelines import CASES, make


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pipeline in float32 and the same in half precision."""
    place = tmp_path_factory.mktemp("saved")
    with silence_libraries():
        pipe = make(CASES[1])
        pipe.save_pretrained(place / "single")
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.half()
        pipe.save_pretrained(place / "half")
    return place


@pytest.fixture
def no_hub(monkeypatch):
    """An id of the Hub is an error of its own, which no other error is."""
    def asked(name):
        raise LookupError(name)

    monkeypatch.setattr(zoo, "_from_hub", asked)


def refused(name, *words):
    with pytest.raises(CheckpointError) as error:
        load(name)
    assert all(word in str(error.value) for word in words), str(error.value)


# Names -----------------------------------------------------------------------------------------------------------------------


def test_paths_are_paths_and_never_a_shipped_name(saved, tmp_path, monkeypatch, no_hub):
    monkeypatch.chdir(tmp_path)
    for name in ("./mini-sd", "mini-sd/", Path("mini-sd"), "./readers/final", Path("readers/final"), "~/mini-sd", "../mini-sd",
                 str(tmp_path / "mini-sd")):
        refused(name, "no such folder")
    refused("./mini-sd", "load('mini-sd') for the shipped model")
    shutil.copytree(saved / "single", tmp_path / "mini-sd")
    for name in ("./mini-sd", "mini-sd/", Path("mini-sd"), tmp_path / "mini-sd"):
        assert load(name).unet.config.cross_attention_dim == 32, f"{name} is the folder here"
    assert load("mini-sd").unet.config.cross_attention_dim == 96, "and without a mark the shipped one"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/mini-sd").unet.config.cross_attention_dim == 32
    (tmp_path / "file").write_text("")
    refused("./file", "a file, not a folder")
    alone = tmp_path / "alone" / "mini-inpaint"                   # it holds what differs from a mini-sd that is not beside it
    shutil.copytree(data_folder() / "mini-inpaint", alone)
    refused(alone, "mini-sd", "minidiff export NAME DIR")


def test_no_name_of_ours_and_no_path_is_asked_of_the_hub(tmp_path, monkeypatch, no_hub):
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in (*RECIPES, "adapters/cat-word"):
        refused(name, "not in", "MINIDIFF_DATA")
    for name in ("readers/finl", "adapters/x", "runs/mine", "./a/b", "a/b/", Path("a/b"), "a/b/c", "a b/c", "-x/y", "a/..",
                 "a\\b"):
        refused(name)
    refused("runs/mine", "no such folder")
    for name in ("owner/name", "stable-diffusion-v1-5/stable-diffusion-v1-5"):
        with pytest.raises(LookupError):
            load(name)


@pytest.mark.parametrize(("name", "near"), [
    ("mini-ds", "mini-sd"), ("reader/final", "readers/final"), ("pixel_ddpm", "pixel-ddpm"), ("readers/Final", "readers/final"),
    ("Mini-SD ", "mini-sd"), ("mini-upscale", "mini-upscale-x2")])
def test_near_names_are_offered(name, near, monkeypatch):
    if name == "reader/final":                     # could be somebody on the Hub, who is not asked here
        monkeypatch.setattr(zoo, "_HUB_ID", zoo.re.compile("never"))
    refused(name, f"load({near!r})")


def test_what_is_exported_is_loaded_from_its_folder(tmp_path):
    for name in ("pixel-small-learned", "readers/final", "ddgan", "vae-32", "noisy-classifier", "mini-clip", "vq-f4"):
        folder = export(name, tmp_path / name.replace("/", "-"))
        ours, theirs = load(name), load(folder)
        assert type(ours) is type(theirs)
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


# What comes ------------------------------------------------------------------------------------------------------------------


def parts(model):
    found = model.components.values() if hasattr(model, "components") else [model]
    return [part for part in found if isinstance(part, torch.nn.Module)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["single", "half"])
def test_all_of_a_model_is_in_the_dtype_asked_for(saved, kind, dtype):
    pipe = load(saved / kind, dtype=dtype)
    assert {p.dtype for part in parts(pipe) for p in part.parameters()} == {dtype}
    assert {p.dtype for p in load("pixel-small-eps", dtype=dtype).parameters()} == {dtype}


def test_a_folder_saved_in_half_precision_is_whole_and_draws(saved):
    from minidiff import text_to_image
    pipe, single = load(saved / "half"), load(saved / "single")
    assert {p.dtype for part in parts(pipe) for p in part.parameters()} == {torch.float32}
    for a, b in zip(parts(pipe), parts(single), strict=True):
        assert all(torch.equal(x, y.half().float()) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.isfinite(text_to_image(pipe, "a red cat", steps=2, size=32)).all()


def test_convolutions_are_channels_last_in_every_part(saved):
    for model in (load(saved / "single"), load("mini-sd"), load("mini-vae"), load("pixel-small-eps")):
        weights = [p for part in parts(model) for p in part.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
        assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
        assert not any(p.requires_grad for part in parts(model) for p in part.parameters())
        assert not any(part.training for part in parts(model))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:x", "", None, 3.5, "tpu", -1])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(BadInput, match="device: got .* expected .*cpu|device: got .*holds numbers"):
        load("readers/final", device=device)


@pytest.mark.parametrize("dtype", ["float32", torch.int64, None, torch.float8_e4m3fn, float, torch.complex64])
def test_a_dtype_that_is_none_is_named(dtype):
    with pytest.raises(BadInput, match="dtype"):
        load("readers/final", dtype=dtype)


def test_weights_that_are_not_finite_are_refused_also_in_our_own_format(tmp_path):
    folder = export("pixel-small-eps", tmp_path / "mine")
    (folder / "card.json").unlink()                               # a folder like any other, which no sha256 vouches for
    state = load_file(folder / "model.safetensors")
    state["out.bias"][0] = float("inf")
    save_file(state, folder / "model.safetensors")
    refused(folder, "out.bias", "NaN or infinite")


def test_a_config_of_ours_of_absurd_size_is_refused_before_memory_is_taken(tmp_path):
    folder = export("pixel-small-eps", tmp_path / "mine")
    (folder / "card.json").unlink()
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"dim": ', '"dim": 1024'))
    refused(folder, "describes no network of ours", "are in the file")


def test_a_model_with_nan_is_not_shipped(tmp_path):
    vae = copy.deepcopy(make(CASES[1]).vae)
    vae.encoder.conv_in.weight.data[0] = float("nan")
    with pytest.raises(CheckpointError, match="encoder.conv_in.weight"):
        zoo.ship("bad", vae.save_pretrained, {}, root=tmp_path)
    assert not (tmp_path / "bad").exists()


# The Hub's cache ---------------------------------------------------------------------------------------------------------------


def test_a_pipeline_in_the_cache_of_the_hub_is_checked_like_any_folder(saved, tmp_path, monkeypatch):
    """Laid out as huggingface_hub does: blobs, and a snapshot of links to them. Offline it answers from there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo, commit = tmp_path / "models--owner--name", "a" * 40
    for file in sorted(p for p in (saved / "single").rglob("*") if p.is_file()):
        name = file.relative_to(saved / "single")
        blob, link = repo / "blobs" / name.as_posix().replace("/", "-"), repo / "snapshots" / commit / name
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blob)
        link.symlink_to(blob)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.chdir(tmp_path)
    pipe = load("owner/name")
    assert isinstance(pipe, StableDiffusionPipeline) and pipe.unet.config.cross_attention_dim == 32
    (repo / "snapshots" / commit / "unet" / "mine.py").write_text("raise SystemExit")
    refused("owner/name", "code in unet/mine.py")
    refused("owner/other", "owner/other", "cannot be opened", "Hub")


def test_stable_diffusions_own_index_passes(saved, tmp_path):
    """Its safety checker is said to be of "stable_diffusion", which is a module of diffusers."""
    import json
    folder = shutil.copytree(saved / "single", tmp_path / "sd")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="lacks its part safety_checker"):
        check_folder(folder, "sd")
    index["safety_checker"] = ["stable_diffusion", "Other"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="parts of diffusers and transformers only"):
        check_folder(folder, "sd")
