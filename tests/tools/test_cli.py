"""The command line: what each subcommand hands to its module, and that wrong use is one clean sentence, never a traceback."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff.cli import main
from minidiff.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = types.ModuleType(f"minidiff.{name}")
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, f"minidiff.{name}", module)
    monkeypatch.setattr(f"minidiff.{name}", module, raising=False)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refusal prints."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("minidiff: ") and said.err.count("\n") == 1 and "Traceback" not in said.err and said.out == ""
    return said.err


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "minidiff", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "minidiff 0.1.0\n", "")


def test_no_command_prints_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().out
    assert all(word in said for word in ("doctor", "draw", "train", "score", "bench", "notebooks"))


@pytest.mark.parametrize("arguments", [["dance"], ["draw", "a cat"], ["train", "x", "--budget", "huge"], ["doctor", "--fast"],
                                       ["draw", "a cat", "-o", "x.png", "--size", "big"], ["notebooks", "eat"]])
def test_what_argparse_refuses_ends_in_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("name", "form"), [("cat.png", "PNG"), ("cat.JPG", "JPEG"), ("cat.webp", "WEBP")])
def test_draw_writes_the_picture_that_the_caption_says(tmp_path: Path, name: str, form: str) -> None:
    from minidiff.world import Scenes, render
    from minidiff.world.caption import parse
    out = tmp_path / name
    assert main(["draw", "a red cat on the grass", "-o", str(out), "--size", "48", "--seed", "3"]) == 0
    with Image.open(out) as image:
        assert image.format == form and image.size == (48, 48)
        found = torch.from_numpy(np.array(image.convert("RGB"))).float()
    scene = parse("a red cat on the grass").scene(3)
    assert scene.things[0].kind == "cat" and scene.things[0].colour == "red" and scene.backdrop == "grass"
    truth = (render(Scenes.of([scene]), 48).images[0].permute(1, 2, 0) + 1) * 127.5
    assert (found - truth).abs().mean() < (0.6 if form == "PNG" else 12)


def test_the_seed_chooses_and_the_same_seed_repeats(tmp_path: Path) -> None:
    pictures = []
    for seed in ("1", "1", "2"):
        main(["draw", "a dog", "-o", str(tmp_path / "a.png"), "--size", "32", "--seed", seed])
        pictures.append((tmp_path / "a.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_draw_with_a_model(tmp_path: Path) -> None:
    from minidiff import load, text_to_image

    out = tmp_path / "a.png"
    assert main(["draw", "a red cat", "-o", str(out), "--size", "64", "--seed", "2", "--model", "mini-sd"]) == 0
    want = (text_to_image(load("mini-sd"), "a red cat", seed=2)[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(np.asarray(Image.open(out)).astype(float) - want.numpy()).max() <= 1


@pytest.mark.parametrize(("arguments", "said"), [
    (["a red ct"], "unknown word 'ct'"),
    (["a cat", "--size", "8"], "--size: got 8; expected 16 to 2048"),
    (["a cat", "--size", "9999"], "--size: got 9999"),
    (["a cat", "--seed", "-1"], "--seed: got -1"),
    (["a cat", "-o", "cat.gif"], "--out: got 'cat.gif'; expected a file that ends in .png"),
    (["a cat", "-o", "missing/cat.png"], "missing/cat.png: No such file or directory"),
    (["a cat", "-o", "folder.png"], "folder.png: Is a directory"),
])
def test_draw_refuses_and_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                          arguments: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.png").write_bytes(b"mine")
    (tmp_path / "folder.png").mkdir()
    assert said in refused(["draw", "-o", "kept.png", *arguments], capsys)
    assert sorted(os.listdir(tmp_path)) == ["folder.png", "kept.png"] and (tmp_path / "kept.png").read_bytes() == b"mine"


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused(["draw", "a cat", "-o", str(tmp_path / "a.png")], capsys)
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == b"mine"


def tiny_recipe() -> Any:
    from minidiff.train import Budget, Recipe

    def draw(i: int, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        return {"x": torch.randn(n, 2, generator=torch.Generator().manual_seed(i)).to(device)}

    return Recipe(name="tiny", seed=1, build=lambda: torch.nn.Linear(2, 1), draw=draw, batch=8, warmup=0, expect="A line.",
                  loss=lambda net, batch: (net(batch["x"])[:, 0] - batch["x"].sum(1)) ** 2,
                  budgets={"laptop": Budget(64, 0.1), "gpu": Budget(128, 0.1)})


def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    from minidiff.errors import check_choice

    def recipe(name: str) -> Any:
        check_choice("recipe", name, ["tiny"])
        return tiny_recipe()

    stand_in(monkeypatch, "recipes", RECIPES={"tiny": tiny_recipe}, recipe=recipe)


def test_train_trains_says_where_it_is_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    recipes(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "tiny", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "64 of 64 images" in said.err and "tiny is trained: " in said.out and "A line." in said.out
    assert any((tmp_path / "runs/tiny").iterdir())
    assert main(["train", "tiny", "--device", "cpu"]) == 0
    assert "complete" in capsys.readouterr().out


def test_a_gpus_budget_on_a_cpu_says_how_long_and_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from minidiff.train import Budget
    large = replace(tiny_recipe(), budgets={"laptop": Budget(64, 30), "gpu": Budget(64 * 1184, 9)})
    stand_in(monkeypatch, "recipes", RECIPES={"tiny": tiny_recipe}, recipe=lambda name, **_: large)
    ran = []
    monkeypatch.setattr("minidiff.train.fit", lambda recipe, **_: ran.append(recipe.name) or (_ for _ in ()))
    command = ["train", "tiny", "--budget", "gpu", "--device", "cpu", "--out", str(tmp_path / "o")]
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: False))
    told = refused(command, capsys)
    assert "about 592 hours" in told and "--budget laptop, which takes 30 minutes" in told and ran == []
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    for answer, count in (("", 0), ("n", 0), ("y", 1), ("YES", 2)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer if "592 hours" in question else "?")
        assert main(command) == (0 if count else 2) and len(ran) == count
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    for more in (["--yes"], ["--minutes", "1"], ["--images", "64"], ["--budget", "laptop"]):
        assert main([*command, *more]) == 0
    assert len(ran) == 6


def test_train_hands_on_every_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes(monkeypatch)
    seen = {}

    def fit(recipe: Any, **given: Any) -> Any:
        seen.update(given, name=recipe.name)
        yield from ()

    monkeypatch.setattr("minidiff.train.fit", fit)
    assert main(["train", "tiny", "--budget", "gpu", "--minutes", "1.5", "--images", "16", "--device", "cpu", "--out", "o",
                 "--extend"]) == 0
    assert seen == {"name": "tiny", "budget": "gpu", "minutes": 1.5, "images": 16, "device": "cpu", "out": "o",
                    "extend": True}
    assert main(["train", "tiny"]) == 0
    assert not seen["extend"]
    assert seen["out"] == os.path.join("runs", "tiny") and seen["device"] is None and seen["images"] is None


def test_train_without_a_recipe_lists_them_and_a_wrong_one_is_refused(monkeypatch: pytest.MonkeyPatch,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    recipes(monkeypatch)
    assert main(["train"]) == 0
    assert "laptop 64 images, 0.1 min; gpu 128 images" in capsys.readouterr().out
    assert "recipe: got 'tinny'; expected one of 'tiny'" in refused(["train", "tinny"], capsys)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "tiny", "--minutes", "-1"])
    assert "argument --minutes: got '-1'; expected a number, more than 0" in capsys.readouterr().err


def test_the_real_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 0
    assert "pixel-ddpm" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["inside a step", "between two steps"])
def test_interrupting_saves_first_and_ends_in_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                                  where: str) -> None:
    recipes(monkeypatch)

    def fit(recipe: Any, **_: Any) -> Any:
        try:
            if where == "inside a step":
                raise KeyboardInterrupt
            yield 1
        finally:
            print("saved", file=sys.stderr)

    def progress(states: Any) -> Any:
        for state in states:
            yield state
            raise KeyboardInterrupt

    monkeypatch.setattr("minidiff.train.fit", fit)
    monkeypatch.setattr("minidiff.train.Progress", progress)
    assert main(["train", "tiny"]) == 130
    assert capsys.readouterr().err == "saved\n\nstopped\n"


def test_score_says_which_rows_failed_and_which_are_undecided(monkeypatch: pytest.MonkeyPatch,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def score(claims: list[str], *, n: int | None = None, write: bool = False) -> Any:
        seen.append((claims, n, write))
        return [types.SimpleNamespace(id=f"03.{word}", verdict=word) for word in ("passed", "failed", "undecided")]

    stand_in(monkeypatch, "course", score=score)
    assert main(["score", "03.x", "03.y", "--n", "50"]) == 0
    assert seen == [(["03.x", "03.y"], 50, False)]
    first, last = capsys.readouterr().out.splitlines()
    assert first == "3 rows: 1 passed; 1 failed (03.failed); 1 undecided (03.undecided)"
    assert last == "Nothing was stored: a sample of another size never is."
    assert main(["score"]) == 0 and seen[-1] == ([], None, False)
    assert capsys.readouterr().out.endswith("\nNothing was stored; --write stores these rows.\n")
    assert main(["score", "--write"]) == 0 and seen[-1] == ([], None, True)
    assert capsys.readouterr().out.endswith("\nStored in data/scoreboard.json; its pages are redrawn.\n")
    assert "--pages: got other arguments beside it" in refused(["score", "--pages", "--write"], capsys)
    assert "--n: got 1" in refused(["score", "--n", "1"], capsys)
    assert "--stored: got other options beside it" in refused(["score", "06", "--stored", "--write"], capsys)


def test_score_prints_the_stored_rows_of_a_lesson_and_measures_nothing(capsys: pytest.CaptureFixture[str],
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("minidiff.course.claims"), "compute", lambda *_: pytest.fail("measured"))
    assert main(["score", "06", "--stored"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"06.{what}_{way} ") for line in lines)
               for what in ("quality", "coverage", "seconds") for way in ("vae", "gan", "ddpm", "ddim", "ddgan"))


def test_score_refuses_an_unknown_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert "claim: got '03.nothing'; expected one of" in refused(["score", "03.nothing"], capsys)


def test_bench_gets_its_own_arguments_and_gives_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "bench", main=lambda rest: 7 if rest == ["--quick", "render"] else 0)
    assert main(["bench", "--quick", "render"]) == 7


def test_bad_input_anywhere_is_one_sentence_and_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    def bad(_: Any) -> int:
        raise BadInput("steps", 0, "1 or more", "steps=20")

    def bug(_: Any) -> int:
        raise ValueError("a bug")

    stand_in(monkeypatch, "bench", main=bad)
    assert "steps: got 0; expected 1 or more. Write instead: steps=20" in refused(["bench"], capsys)
    stand_in(monkeypatch, "bench", main=bug)
    with pytest.raises(ValueError, match="a bug"):
        main(["bench"])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "minidiff.bench", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["draw", "a cat", "-o", "x.png"]) == 2
    assert "PIL is not installed. `minidiff doctor`" in capsys.readouterr().err
