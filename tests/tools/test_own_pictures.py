"""Your own pictures all the way: train on a folder, stop, resume, sample, load; as README says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import minidiff
from minidiff.cli import main
from minidiff.errors import BadInput, CheckpointError
from minidiff.latent.text import check_prompt
from minidiff.recipes import vae as vae_recipes

WORDS = ("Crème brûlée, one", "a t-shirt", "10 o'clock", "blue disc", "green disc", "grey disc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six discs with captions that the toy world does not know."""
    made = tmp_path / "pictures"
    made.mkdir()
    rows = []
    for k, text in enumerate(WORDS):
        picture = Image.new("RGBA", (80, 72), (0, 0, 0, 0))
        ImageDraw.Draw(picture).ellipse((10, 6, 60 + k, 60), fill=(40 * k, 250 - 40 * k, 90, 255))
        picture.save(made / f"{k}.png")
        rows.append(json.dumps({"file_name": f"{k}.png", "text": text}))
    (made / "metadata.jsonl").write_text("\n".join(rows))
    return made


def test_pixels(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, grid = tmp_path / "mine", tmp_path / "grid.png"
    words = ["train", "pixel-small-eps", "--data", str(folder), "--out", str(out), "--images", "96", "--device", "cpu"]
    assert main([*words, "--minutes", "0.0001"]) == 0
    stopped = capsys.readouterr().out.splitlines()
    assert "To go on, run the same command again." in "\n".join(stopped) and f"minidiff sample {out} -n 16" in stopped[-1]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Going on from step 1" in said and f"minidiff.load({str(out)!r})" in said.splitlines()[-1]
    model = minidiff.load(str(out))
    given = torch.ones(1, 3, 32, 32), torch.tensor([500])
    assert model.schedule.T == 1000 and not any(p.requires_grad for p in model.parameters())
    assert main(["sample", str(out), "-n", "4", "-o", str(grid), "--steps", "2"]) == 0
    with Image.open(grid) as picture:
        assert min(picture.size) > 64
    for damage in ("changed", "deleted", "added"):
        file = out / "model" / ("model.safetensors" if damage != "added" else "extra.safetensors")
        file.unlink() if damage == "deleted" else file.write_bytes(b"damaged")
        with pytest.raises(CheckpointError, match=rf"{file.name} .*the training command of this run again") as error:
            minidiff.load(out)
        assert str(out) in str(error.value) and "git" not in str(error.value), "the advice is for a run, not for data/"
        assert main(words) == 0
        assert torch.equal(minidiff.load(out)(*given).x0, model(*given).x0), "and it works"
    with pytest.raises(CheckpointError, match="data is {'pictures': 6"):
        (folder / "5.png").unlink()
        (folder / "metadata.jsonl").unlink()
        list(minidiff.fit(minidiff.recipes.recipe("pixel-small-eps", data=folder), images=96, out=out, device="cpu"))


def test_autoencoder_and_text_to_image(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae_recipes, "latent_scale", lambda vae, images: 1.25 if len(images) >= 2000 else None)  # half a minute
    vae, out, grid = tmp_path / "vae", tmp_path / "sd", tmp_path / "grid.png"
    short = ["--data", str(folder), "--device", "cpu", "--images", "16"]
    assert main(["train", "mini-vae", "--out", str(vae), *short]) == 0
    assert f"Writing the averaged weights to {vae / 'model'}, after its latents' scale is measured" in capsys.readouterr().out
    assert minidiff.load(str(vae)).config.scaling_factor == 1.25
    assert main(["sample", str(vae), "-n", "2", "--data", str(folder), "-o", str(grid)]) == 0
    assert main(["train", "mini-sd", "--vae", str(vae), "--out", str(out), *short]) == 0
    assert "Writing model" not in capsys.readouterr().err, "no bars of the libraries"
    assert main(["sample", str(out), "-n", "3", "-o", str(grid), "--steps", "2"]) == 0
    said = capsys.readouterr().out
    assert all(f"{k + 1:3} {WORDS[k]}" in said for k in range(3)) and grid.is_file()
    pipe = minidiff.load(str(out))
    for text in WORDS:
        check_prompt(pipe.tokenizer, text)
    with pytest.raises(BadInput, match="'dics'.*'disc'"):
        check_prompt(pipe.tokenizer, "blue dics")
    assert main(["sample", str(out), "-o", str(grid), "--prompt", "a red cat", "--steps", "2"]) == 2
    assert torch.isfinite(minidiff.text_to_image(pipe, "blue disc", steps=2)).all()


def test_a_run_without_a_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "step-00000004").mkdir()
    (tmp_path / "step-00000004" / "meta.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has written no model yet"):
        minidiff.load(str(tmp_path))
