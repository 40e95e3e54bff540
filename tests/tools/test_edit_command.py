"""``minidiff edit``: prompts with seeds, folders of pictures, options of a method, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidiff.cli import main
from minidiff.edit_command import METHODS, options_of
from minidiff.editing import clip_features, diffuseit, edit_words, plug_and_play, prompt_to_prompt, self_guidance
from minidiff.errors import BadInput
from minidiff.show import pixels
from minidiff.world import render, sample_scenes
from minidiff.zoo import load
from tests.pipelines import CASES, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline as diffusers saves it."""
    path = tmp_path_factory.mktemp("pipeline")
    make(CASES[1]).save_pretrained(path)
    return path


def test_prompts_with_seeds(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "edits"
    assert main(["edit", "prompt-to-prompt", "a red cat", "a blue cat", "--model", str(folder), "--steps", "2", "--seeds", "2",
                 "--seed", "5", "--set", "cross=0.5", "--set", "blend=cat", "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"000_source.png", "000_edit.png", "001_source.png", "001_edit.png", "sheet.png"}
    made = prompt_to_prompt(load(str(folder)), "a red cat", "a blue cat", seed=6, steps=2, guidance=4.0, cross=0.5, blend="cat")
    with Image.open(out / "001_edit.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - pixels(made.edit)[0]).max() <= 1
    assert "2 edits by prompt-to-prompt" in capsys.readouterr().out


def test_a_folder_of_pictures_with_captions(folder: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k, image in enumerate(pixels(render(sample_scenes(range(2)), 64).images)):
        Image.fromarray(image).save(pictures / f"{k}.png")
    lines = [{"file_name": f"{k}.png", "text": text} for k, text in enumerate(("a red cat", "a blue tree"))]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    out = tmp_path / "edits"
    call = ["edit", "prompt-to-prompt", "--model", str(folder), "--steps", "2", "--images", str(pictures), "--out", str(out)]
    assert main([*call[:2], "-", "a green dog", *call[2:]]) == 0
    assert len(list(out.glob("*_edit.png"))) == 2 and (out / "sheet.png").is_file()
    (pictures / "metadata.jsonl").unlink()
    assert main([*call[:2], "-", "a green dog", *call[2:]]) == 2
    assert main([*call[:2], "a red cat", "a green dog", *call[2:]]) == 0
    with Image.open(out / "001_edit.png") as held:
        direct = np.asarray(held).astype(int)
    assert main([*call[:2], "a red cat", "a green dog", *call[2:], "--set", "inversion=edict"]) == 0
    with Image.open(out / "001_edit.png") as other:
        assert np.abs(np.asarray(other).astype(int) - direct).max() > 1, "the pictures are inverted as it was asked"
    assert main([*call[:2], "a red cat", "a green dog", *call[2:], "--set", "inversion=edct"]) == 2


def test_attend_and_excite_takes_its_things_as_words(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["edit", "attend-and-excite", "a red cat", "--model", str(folder), "--steps", "2", "--seeds", "1",
            "--out", str(tmp_path / "x")]
    assert main([*call, "--set", "things=['red cat']", "--set", "loss=published"]) == 0
    assert "1 edit by attend-and-excite" in capsys.readouterr().out
    assert main([*call, "--set", "things=['fox']"]) == 2 and "fox" in capsys.readouterr().err


def test_a_method_without_a_target(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["edit", "self-guidance", "a red cat", "--model", str(folder), "--steps", "2", "--seeds", "1",
            "--out", str(tmp_path / "x")]
    assert main([*call, "--set", "move={'cat': (0.2, 0)}"]) == 0
    made = self_guidance(load(str(folder)), "a red cat", seed=0, steps=2, guidance=4.0, move={"cat": (0.2, 0)})
    with Image.open(tmp_path / "x" / "000_edit.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - pixels(made.edit)[0]).max() <= 1
    assert "1 edit by self-guidance" in capsys.readouterr().out
    assert main(call) == 2 and "something to do" in capsys.readouterr().err
    assert main([*call[:3], "a blue cat", *call[3:], "--set", "move={'cat': (0.2, 0)}"]) == 2
    assert "has no target prompt" in capsys.readouterr().err


def test_plug_and_play_with_its_shares(folder: Path, tmp_path: Path) -> None:
    assert main(["edit", "plug-and-play", "a red cat", "a blue cat", "--model", str(folder), "--steps", "2", "--seeds", "1",
                 "--set", "attention_share=0.5", "--out", str(tmp_path / "x")]) == 0
    made = plug_and_play(load(str(folder)), "a red cat", "a blue cat", seed=0, steps=2, guidance=4.0, attention_share=0.5)
    with Image.open(tmp_path / "x" / "000_edit.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - pixels(made.edit)[0]).max() <= 1


def test_pix2pix_zero_by_two_words(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["edit", "pix2pix-zero", "a red cat", "--model", str(folder), "--steps", "2", "--seeds", "1",
            "--out", str(tmp_path / "x")]
    assert main([*call, "--set", "words=cat dog", "--set", "relative=0.1"]) == 0
    made = edit_words(load(str(folder)), "a red cat", words=("cat", "dog"), seed=0, steps=2, guidance=4.0, relative=0.1)
    with Image.open(tmp_path / "x" / "000_edit.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - pixels(made.edit)[0]).max() <= 1
    assert "1 edit by pix2pix-zero" in capsys.readouterr().out
    assert main(call) == 2 and "two words" in capsys.readouterr().err


def test_options_are_those_of_the_method() -> None:
    got = options_of(prompt_to_prompt, ["cross=0.6", "edit=refine", "weights={'cat': 2}"])
    assert got == {"cross": 0.6, "edit": "refine", "weights": {"cat": 2}}
    for wrong in (["croos=0.6"], ["cross"], ["seed=1"]):
        with pytest.raises(BadInput, match="--set"):
            options_of(prompt_to_prompt, wrong)


@pytest.mark.parametrize("arguments", [["edit", "teleport", "a cat", "a dog"], ["edit", "prompt-to-prompt", "a cat"],
                                       ["edit", "prompt-to-prompt", "a cat", "a dog", "--steps", "0"],
                                       ["edit", "prompt-to-prompt", "a cat", "a dog", "--set", "nothing=1"]])
def test_what_cannot_be_used_is_one_sentence(arguments: list[str], folder: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--model", str(folder), "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("minidiff: ") and said.count("\n") == 1


def test_every_method_of_the_command_is_there() -> None:
    import importlib

    for place in METHODS.values():
        module, name = place.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_a_method_that_looks_at_pictures_gets_the_network_that_ships(folder: Path, tmp_path: Path) -> None:
    call = ["edit", "diffuseit", "a red cat", "a blue dog", "--model", str(folder), "--steps", "2", "--seeds", "1",
            "--out", str(tmp_path / "x")]
    assert main([*call, "--set", "relative=0.3", "--set", "losses={'structure': 1, 'range': 2}"]) == 0
    look = clip_features(load("mini-clip"))
    made = diffuseit(load(str(folder)), "a red cat", "a blue dog", features=look, seed=0, steps=2, guidance=4.0, relative=0.3,
                     losses={"structure": 1, "range": 2})
    with Image.open(tmp_path / "x" / "000_edit.png") as picture:
        assert np.abs(np.asarray(picture).astype(int) - pixels(made.edit)[0]).max() <= 1
    assert main([*call, "--set", "features=1"]) == 2
