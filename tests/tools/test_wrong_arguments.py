"""Every sub-command with wrong arguments: exit status 2, one sentence, no traceback; pipes and full disks end quietly."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minidiff.cli import main, parser

ROOT = Path(__file__).resolve().parents[2]
# What each command needs beside the argument that is wrong. OUT is a folder of the test.
NEEDS = {
    "start": ["OUT/mine"],
    "grade": ["OUT"],
    "assignment": ["02", "OUT/task"],
    "site": [],
    "export": ["mini-sd", "OUT/whole"],
    "morph": ["a red cat", "a blue dog", "-o", "OUT/m.gif"],
    "draw": ["a red cat", "-o", "OUT/a.png"],
    "edit": ["prompt-to-prompt", "a red cat", "a blue cat", "--out", "OUT/e"],
    "train": ["pixel-small-eps", "--out", "OUT/t"],
    "sample": ["pixel-small-eps", "-o", "OUT/s.png"],
    "remake": [],
    "score": [],
    "unpack": ["OUT"],
    "personalise": ["OUT", "--class", "bear"],
    "notebooks": ["check"],
    "doctor": [],
}
BAD = {int: ("-1", "1.5", "many", "nan", ""), float: ("nan", "inf", "-1e9", "much", "")}


def commands() -> dict[str, argparse.ArgumentParser]:
    actions = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(actions[0].choices)


def kind_of(action: argparse.Action) -> type | None:
    """What an option takes, as its own reader says by what it does with "1" and "0.5"."""
    if action.type in (int, float):
        return action.type
    if action.type is None or not action.option_strings:
        return None
    values = []
    for text in ("1", "0.5", "32"):
        try:
            values.append(action.type(text))
        except (argparse.ArgumentTypeError, ValueError):
            pass
    kinds = {type(v) for v in values}
    return float if float in kinds else int if int in kinds else None


CASES = [
    (name, action.option_strings[-1], text)
    for name, one in commands().items()
    for action in one._actions
    if kind_of(action)
    for text in BAD[kind_of(action)]
]


def code(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


def test_every_command_is_swept() -> None:
    assert set(commands()) == {*NEEDS, "bench"}
    assert len(CASES) >= 90


@pytest.mark.parametrize(("name", "option", "text"), CASES)
def test_numbers_that_cannot_be_meant(
    name: str, option: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [w.replace("OUT", str(tmp_path)) for w in NEEDS[name]]
    status, said = code([name, *words, f"{option}={text}"], capsys)
    assert status == 2 and "Traceback" not in said and option in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["train", "pixel-ddpm", "--device", "meta"],
        ["train", "pixel-ddpm", "--device", "cuda:99"],
        ["train", "pixel-ddpm", "--device", ""],
        ["train", "mini-sd", "--data", "OUT"],
        ["train", "readers/final", "--data", "OUT"],
        ["train", "pixel-ddpm", "--data", "OUT/none"],
        ["train", "pixel-ddpm", "--vae", "mini-vae"],
        ["train", "pixel-ddpm", "--caption-column", "text"],
        ["train", "pixel-ddpm", "--out", ""],
        ["train", "pixel-ddpm", "--out", "OUT/notes.txt"],
        ["train", "nothing"],
        ["train", "pixel-ddpm", "--budget", "huge"],
        ["sample", "nothing", "-o", "OUT/a.png"],
        ["sample", "OUT", "-o", "OUT/a.png"],
        ["sample", "pixel-small-eps", "-o", "OUT/a.gif"],
        ["sample", "pixel-small-eps", "-o", "OUT/no/a.png"],
        ["sample", "readers/final", "-o", "OUT/a.png"],
        ["sample", "pixel-guided", "-o", "OUT/a.png"],
        ["sample", "pixel-small-eps", "-o", "OUT/a.png", "--prompt", "a cat"],
        ["sample", "mini-vae", "-o", "OUT/a.png"],
        ["sample", "mini-vae", "-o", "OUT/a.png", "--data", "OUT/none"],
        ["sample", "noisy-classifier", "-o", "OUT/a.png"],
        ["sample", "pixel-small-eps", "-o", "OUT/a.png", "--device", "meta"],
        ["draw", "a red cat", "-o", "OUT/a.png", "--model", "readers/final"],
        ["draw", "a red cat", "-o", "OUT/a.png", "--model", "pixel-ddpm"],
        ["draw", "a red cat", "-o", "OUT/a.png", "--model", "nothing"],
        ["draw", "", "-o", "OUT/a.png"],
        ["draw", "a red cat", "-o", ""],
        ["edit", "nothing", "a red cat", "a blue cat", "--out", "OUT/e"],
        ["edit", "prompt-to-prompt", "a red cat", "--out", "OUT/e"],
        ["edit", "prompt-to-prompt", "", "a blue cat", "--out", "OUT/e"],
        ["edit", "prompt-to-prompt", "a red cat", "a blue cat", "--out", "OUT/e", "--model", "readers/final"],
        ["edit", "prompt-to-prompt", "a red cat", "a blue cat", "--out", "OUT/e", "--set", "cross"],
        ["edit", "prompt-to-prompt", "a red cat", "a blue cat", "--out", "OUT/e", "--set", "crss=1"],
        ["personalise", "OUT/none", "--class", "bear"],
        ["personalise", "OUT", "--class", "bear", "--model", "pixel-ddpm"],
        ["personalise", "OUT", "--class", "bear", "--method", "magic"],
        ["personalise", "", "--class", "bear"],
        ["morph", "a red cat", "a blue dog", "-o", "OUT/m.gif", "--method", "magic"],
        ["morph", "a red cat", "a blue dog", "-o", "OUT/m.txt"],
        ["morph", "a red cat", "a blue dog", "-o", "OUT/no/m.gif"],
        ["morph", "a red cat", "a blue dog", "-o", "OUT/m.gif", "--model", "pixel-ddpm"],
        ["morph", "a red cat", "a blue dog", "-o", "OUT/m.gif", "--text", "a", "b"],
        ["morph", "a red cat", "OUT/none.png", "-o", "OUT/m.gif"],
        ["morph", "OUT/notes.txt", "OUT/notes.txt", "-o", "OUT/m.gif"],
        ["edit", "h-space", "a red cat", "--out", "OUT/e", "--set", "direction=nothing"],
        ["edit", "self-guidance", "a red cat", "--out", "OUT/e", "--seeds", "one"],
        ["assignment", "99", "--out", "OUT/task"],
        ["assignment", "02", "--out", "OUT/notes.txt"],
        ["assignment", "02", "--out", ""],
        ["site", "--out", "OUT/notes.txt"],
        ["start", "OUT/notes.txt"],
        ["start", ""],
        ["grade", "OUT/none"],
        ["export", "nothing", "OUT/whole"],
        ["export", "mini-sd", "OUT"],
        ["export", "mini-sd", ""],
        ["score", "99.nothing"],
        ["score", "01.closed_form", "-n", "0"],
        ["remake", "pixel-eps", "--out", "OUT/notes.txt"],
        ["remake", "pixel-eps", "--pack", "OUT/notes.txt", "--out", "OUT/r"],
        ["unpack", ""],
        ["unpack", "OUT", "nothing"],
        ["remake", "nothing"],
        ["remake", "--device", "meta"],
        ["unpack", "OUT/none"],
        ["unpack", "OUT"],
        ["unpack", "OUT", "--force"],
        ["bench", "--device", "meta"],
        ["bench", "--threads", "-1"],
        ["bench", "--threads", "0"],
        ["bench", "--quick"],
        ["notebooks", "check", "OUT/none.ipynb"],
        ["notebooks", "check", "OUT/list.ipynb"],
        ["notebooks", "check", "OUT/cell.ipynb"],
        ["notebooks", "normalise", "OUT/output.ipynb"],
        ["notebooks", "check", "OUT/notes.txt"],
        ["notebooks", "run", "OUT/binary.ipynb"],
        ["notebooks", "exercises", "OUT/metadata.ipynb"],
        ["dance"],
        ["doctor", "--fast"],
        ["--version", "now"],
    ],
    ids=" ".join,
)
def test_words_that_cannot_be_meant(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "list.ipynb": "[]",
        "notes.txt": "mine",
        "binary.ipynb": "\x00\x01",
        "cell.ipynb": json.dumps({"nbformat": 4, "cells": [3]}),
        "output.ipynb": json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": "1", "outputs": [{"text": 1}]}]}),
        "metadata.ipynb": json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": "1", "metadata": 5}]}),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    status, said = code([w.replace("OUT", str(tmp_path)) for w in words], capsys)
    assert status == 2 and "Traceback" not in said and said.strip()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == files, "nothing is written"


def method_options() -> list[tuple[str, str, str]]:
    """(command, method, an option that is none or a number that is a word) for every method of ``edit`` and ``morph``."""
    import importlib
    import inspect

    from minidiff import edit_command, morph_command
    cases = []
    for command, table, fixed in (("edit", edit_command.METHODS, edit_command.COMMON),
                                  ("morph", morph_command.METHODS, morph_command.FIXED)):
        for method, where in table.items():
            module, name = where.split(":")
            known = inspect.signature(getattr(importlib.import_module(module), name)).parameters
            number = next((n for n, p in known.items() if isinstance(p.default, float | int) and n not in fixed), None)
            cases += [(command, method, text) for text in ("nosuch=1", f"{number}=much" if number else "")]
    return [case for case in cases if case[2]]


@pytest.mark.parametrize(("command", "method", "option"), method_options())
def test_options_of_every_method(
    command: str, method: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import inspect

    from minidiff.edit_command import _method
    texts = ["a red cat", "a blue cat"]
    if command == "edit":
        texts = texts if "target" in inspect.signature(_method(method)).parameters else texts[:1]
        words = ["edit", method, *texts, "--out", str(tmp_path / "e"), "--steps", "2", "--seeds", "1"]
    else:
        words = ["morph", *texts, "--method", method, "-o", str(tmp_path / "m.gif"), "--steps", "2"]
    status, said = code([*words, "--set", option], capsys)
    assert status == 2 and "Traceback" not in said and option.partition("=")[0] in said
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = line.replace("minidiff", f"{sys.executable} -m minidiff")
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="2026-11: needs /dev/full and bash")
def test_a_closed_pipe_and_a_full_disk_end_quietly(tmp_path: Path) -> None:
    done = shell("minidiff train | head -1; echo ${PIPESTATUS[0]}", tmp_path)
    assert done.stdout.splitlines()[-1] in ("0", "141") and done.stderr == ""
    full = shell("minidiff --version > /dev/full", tmp_path)
    assert full.returncode == 2 and full.stderr.count("\n") == 1 and "No space left on device" in full.stderr


def test_the_output_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real/a.png")
    (tmp_path / "new.png").symlink_to("real/b.png")
    for name in ("link.png", "new.png"):
        assert main(["draw", "a red cat", "--size", "32", "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real" / "a.png").read_bytes()[:4] == (tmp_path / "real" / "b.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="2026-11: no pipes with names on this system")
def test_a_pipe_in_place_of_the_output_is_refused_when_nobody_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert main(["draw", "a red cat", "--size", "32", "-o", str(tmp_path / "a.png")]) == 2
    assert "a.png" in capsys.readouterr().err and (tmp_path / "a.png").is_fifo()


@pytest.mark.parametrize(("line", "want"), [
    ("notebooks run --timeout 900 a.ipynb", {"action": "run", "timeout": 900.0, "files": ["a.ipynb"]}),
    ("notebooks --timeout 900 run a.ipynb", {"action": "run", "timeout": 900.0, "files": ["a.ipynb"]}),
    ("edit sdedit red --seeds 2 blue --out x", {"source": "red", "target": "blue", "seeds": 2, "out": "x"}),
    ("edit sdedit --out x red", {"source": "red", "target": None, "out": "x"}),
    ("grade a --csv b", {"files": ["a", "b"], "csv": True}),
    ("start", {"folder": "my-course"}),
])
def test_options_may_stand_anywhere(line: str, want: dict[str, object]) -> None:
    given = vars(parser().parse_args(line.split()))
    assert {name: given[name] for name in want} == want
