"""``minidiff morph``: pictures and prompts, both methods, what is written, and what it refuses before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidiff.cli import main
from minidiff.morph_command import METHODS
from minidiff.morphing import aid, diffmorpher, impus, slerp_morph
from minidiff.show import pixels
from minidiff.world import render, sample_scenes
from minidiff.world.folder import read_image
from minidiff.zoo import load
from tests.pipelines import CASES, make

FITS = {"diffmorpher": ("iterations",), "impus": ("embeddings", "iterations", "unconditional")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline as diffusers saves it, and two pictures beside it."""
    path = tmp_path_factory.mktemp("pipeline")
    make(CASES[1]).save_pretrained(path / "pipe")
    for k, image in enumerate(pixels(render(sample_scenes(range(2)), 64).images)):
        Image.fromarray(image).save(path / f"{k}.png")
    return path


def call(folder: Path, *more: str) -> list[str]:
    return ["morph", str(folder / "0.png"), str(folder / "1.png"), "--model", str(folder / "pipe"), "--steps", "2", *more]


def read(path: Path, pipe: object) -> object:
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return read_image(path, size=side)[None].float() / 127.5 - 1


@pytest.mark.parametrize("method", METHODS)
def test_a_film_of_two_pictures(method: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.png"
    few = {name: 2 for name in FITS.get(method, ())}
    more = ["--text", "a red cat", "a blue tree", *(part for name in few for part in ("--set", f"{name}=2"))]
    assert main(call(folder, "-o", str(out), "--method", method, "--frames", "4", *more)) == 0
    pipe = load(str(folder / "pipe"))
    ends = [read(folder / f"{k}.png", pipe) for k in range(2)]
    function = {"slerp": slerp_morph, "aid": aid, "diffmorpher": diffmorpher, "impus": impus}[method]
    made = function(pipe, *ends, ("a red cat", "a blue tree"), weights=4, steps=2, **few)
    with Image.open(out) as sheet:
        got = np.asarray(sheet)
    side, scale = made.images.shape[-1], max(1, 256 // made.images.shape[-1])
    for k in range(4):
        left = k * (side * scale + 2)
        part = got[: side * scale: scale, left: left + side * scale: scale]
        assert np.abs(part.astype(int) - pixels(made.images[0])[k]).max() <= 1
    assert f"4 frames by {method}" in capsys.readouterr().out


def test_a_film_of_two_prompts_as_gif_with_options(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gif"
    assert main(["morph", "a red cat", "a blue dog", "-o", str(out), "--model", str(folder / "pipe"), "--steps", "1",
                 "--frames", "3", "--method", "aid", "--set", "attend=outer", "--set", "seed=4",
                 "--set", "guide=a green dog"]) == 0
    with Image.open(out) as film:
        assert film.n_frames == 4


@pytest.mark.parametrize(("more", "words"), [
    (("-o", "x.jpg"), "--out"), (("-o", "nowhere/x.gif"), "--out"), (("--method", "teleport"), "--method"),
    (("--frames", "2"), "--frames"),
    (("--steps", "0"), "--steps"), (("--milliseconds", "5"), "--milliseconds"), (("--set", "nothing=1"), "--set"),
    (("--set", "weights=3"), "--set"), (("--text", "a red cat", "a zebra"), "zebra")])
def test_what_cannot_be_used_is_one_sentence(more: tuple[str, ...], words: str, folder: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*call(folder, "-o", "x.gif"), *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("minidiff: ") and said.count("\n") == 1 and words in said and not list(tmp_path.iterdir())


def test_pictures_and_prompts_do_not_mix(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["-o", str(tmp_path / "x.gif"), "--model", str(folder / "pipe")]
    assert main(["morph", str(folder / "0.png"), "a red cat", *rest]) == 2
    assert main(["morph", str(folder / "0.png"), str(folder / "2.png"), *rest]) == 2
    assert main(["morph", "a red cat", "a blue dog", "--text", "a", "b", *rest]) == 2
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert main(["morph", str(folder / "0.png"), str(broken), *rest]) == 2
    assert capsys.readouterr().err.count("minidiff: ") == 4 and not (tmp_path / "x.gif").exists()


def test_every_method_of_the_command_is_there() -> None:
    import importlib
    import inspect

    for place in METHODS.values():
        module, name = place.split(":")
        takes = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        assert {"first", "other", "prompts", "weights", "steps", "guidance"} <= set(takes)
