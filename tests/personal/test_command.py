import json
import shutil

import pytest
import torch

from minidiff.cli import main
from minidiff.errors import BadInput
from minidiff.files import data_folder
from minidiff.personal.command import guess_class, personalise
from minidiff.show import save_grid
from minidiff.world import Scene, Thing, render
from minidiff.zoo import load


@pytest.fixture
def folder(tmp_path):
    """Pictures that nobody here drew: the emoji of data/subjects, laid on white."""
    here = tmp_path / "mine"
    here.mkdir()
    for name in ("panda", "owl"):
        shutil.copy(data_folder() / "subjects" / f"{name}.png", here)
    return here


@pytest.mark.parametrize("method, files", [("ti", set()), ("lora", {"pytorch_lora_weights.safetensors"}),
                                           ("custom", {"pipeline"})])
def test_a_folder_of_pictures_becomes_a_word(pipe, folder, tmp_path, method, files):
    steps = list(personalise(pipe, folder, word="<mine>", class_word="cat", out=tmp_path / "out", method=method, iterations=3,
                             every=2, steps=2))
    assert [s.iteration for s in steps] == [1, 2, 3]
    made = {p.name for p in (tmp_path / "out").iterdir()}
    assert made == {"learned_embeds.safetensors", "samples-00002.png", "samples-00003.png"} | files


def test_captions_of_the_folder_are_used(pipe, folder, tmp_path):
    lines = [{"file_name": f"{n}.png", "text": f"a <mine> {w}"} for n, w in (("panda", "on the grass"), ("owl", "at night"))]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert len(list(personalise(pipe, folder, word="<mine>", class_word="cat", out=tmp_path / "o", iterations=1, steps=2))) == 1
    lines[0]["text"] = "a cat on the grass"
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(BadInput, match="captions"):
        list(personalise(pipe, folder, word="<other>", class_word="cat", out=tmp_path / "o", iterations=1, steps=2))


def test_the_command_says_what_it_wrote(pipe, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("minidiff.zoo.load", lambda name: pipe)
    out = tmp_path / "out"
    assert main(["personalise", str(folder), "--class", "cat", "--iterations", "2", "--every", "9", "--out", str(out)]) == 0
    assert "learned_embeds.safetensors" in capsys.readouterr().out
    assert main(["personalise", str(tmp_path / "none"), "--class", "cat"]) == 2
    assert "none" in capsys.readouterr().err


@pytest.fixture
def bears(tmp_path):
    """Three bears and a house, drawn by the world."""
    here = tmp_path / "bears"
    here.mkdir()
    for i, kind in enumerate(("bear", "house", "bear", "bear")):
        save_grid(here / f"{i}.png", render([Scene((Thing(kind, "red"),), ("grass", "night", "room", "snow")[i])]).images)
    return here


def test_the_class_is_what_most_of_the_pictures_show(bears):
    assert guess_class(bears, load("readers/final")) == ("bear", 3, 4)


def test_without_class_the_command_takes_what_the_reader_sees_and_says_so(pipe, bears, tmp_path, monkeypatch, capsys):
    reader, taken = load("readers/final"), []
    monkeypatch.setattr("minidiff.zoo.load", lambda name: reader if name == "readers/final" else pipe)
    monkeypatch.setattr("minidiff.personal.command.personalise", lambda *_, class_word, **__: taken.append(class_word) or [])
    words = ["personalise", str(bears), "--method", "lora", "--word", "<mine>", "--out", str(tmp_path)]
    for more, word in (([], "bear"), (["--class", "house"], "house")):
        assert main([*words, *more]) == 0 and taken.pop() == word
        said = capsys.readouterr().out
        assert ("'bear' is taken, which the reader sees in 3 of 4 pictures" in said) == (not more)


def test_a_class_without_letters_is_refused_before_work_starts(pipe, bears, tmp_path):
    with pytest.raises(BadInput, match="class_word"):
        next(personalise(pipe, bears, word="<mine>", class_word=" ", out=tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_too_many_pictures_are_no_subject(pipe, tmp_path):
    here = tmp_path / "many"
    here.mkdir()
    for i in range(101):
        save_grid(here / f"{i}.png", torch.zeros(1, 3, 4, 4))
    with pytest.raises(BadInput, match="three to five"):
        next(personalise(pipe, here, word="<mine>", class_word="cat", out=tmp_path / "o"))
