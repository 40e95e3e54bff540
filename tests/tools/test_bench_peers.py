"""``minidiff bench peers``: processes asked in turn, peers that cannot take part named, environments with this torch alone.

The peers here are made up and nothing is fetched. Nothing is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from minidiff import bench
from minidiff.bench_peers import CONTESTS, PEERS, Contest, Side, compare, python_of, setup
from minidiff.bench_serve import WORKS
from minidiff.bench_settings import Row
from minidiff.cli import main

posix = pytest.mark.skipif(os.name == "nt", reason="an interpreter that is made up is a script with #! (2026-11-27)")

FAKE = """#!{python}
import json, sys
print(json.dumps({first}), flush=True)
for i, line in enumerate(sys.stdin):
    with open({log!r}, "a") as log:
        log.write({name!r} + " " + line)
    if line != "go\\n":
        import torch
        torch.save(torch.full((2, 3, 4, 4), {shade}), line.strip())
        print("{{}}", flush=True)
    elif i == {breaks}:
        print(json.dumps({{"error": "Broken: it fell over"}}), flush=True)
    else:
        print(json.dumps({{"wall": {times}[i], "processor": 100 * {times}[i], "memory": 12.0}}), flush=True)
"""


def fake(place: Path, name: str, times: list[float], *, torch_version: str = torch.__version__, breaks: int = -1,
         shade: float = 0.0, first: dict | None = None) -> Side:
    """A peer whose runs take what ``times`` says."""
    python = python_of(name, place)
    python.parent.mkdir(parents=True)
    said = {"torch": torch_version} if first is None else first
    python.write_text(FAKE.format(python=sys.executable, first=said, log=str(place / "log"), name=name, times=times,
                                  breaks=breaks, shade=shade))
    python.chmod(0o755)
    return Side(name, "any", name)


@posix
def test_sides_run_in_turn_and_the_middle_run_counts(tmp_path: Path) -> None:
    ours = fake(tmp_path, "ours", [50.0, 4.0, 1.0, 2.0])
    theirs = fake(tmp_path, "theirs", [9.0, 3.0, 30.0, 6.0], shade=0.5)
    judge = lambda pictures, n: {side: f"{n} of {float(x.mean())}" for side, x in pictures.items()}  # noqa: E731
    rows = list(compare(Contest("it", (ours, theirs), 2, judge), tmp_path, 0.0, "wall"))
    assert [row.value for row in rows] == [2.0, 6.0]
    assert "1.00x" in rows[0].note and "50.0 s at first" in rows[0].note and rows[0].note.endswith("2 of 0.0")
    assert "3.00x" in rows[1].note and "12 MiB" in rows[1].note and rows[1].note.endswith("2 of 0.5")
    asked = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert asked[:8] == [["ours", "go"], ["theirs", "go"]] * 4 and [name for name, _ in asked[8:]] == ["ours", "theirs"]
    again = fake(tmp_path, "again", [1.0, 1.0, 1.0, 1.0])
    assert next(compare(Contest("it", (again,), 2), tmp_path, 0.0, "processor")).value == 100.0


@posix
def test_who_cannot_take_part_is_named_with_the_reason_and_the_others_go_on(tmp_path: Path) -> None:
    sides = (fake(tmp_path, "ours", [1.0] * 4), fake(tmp_path, "breaks", [1.0] * 4, breaks=2),
             fake(tmp_path, "other torch", [1.0] * 4, torch_version="1.0"), Side("not there", "any", "not there"),
             Side("kept out", missing="no package holds it"), fake(tmp_path, "no import", [], first={"error": "No module"}))
    rows = {row.what.removeprefix("it: "): row for row in compare(Contest("it", sides, 2), tmp_path, 0.0, "wall")}
    assert rows.pop("ours").value == 1.0 and {row.value for row in rows.values()} == {0.0}
    for name, reason in {"breaks": "fell over", "other torch": "1.0", "not there": "--setup", "kept out": "no package",
                         "no import": "No module"}.items():
        assert reason in rows[name].note


def wheel(folder: Path) -> Path:
    """A package with nothing but a number, which claims to need another torch."""
    path = folder / "tinypeer-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tinypeer.py", "NUMBER = 7\n")
        file.writestr("tinypeer-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinypeer\nVersion: 1.0\n"
                                                         "Requires-Dist: torch==1.0\n")
        file.writestr("tinypeer-1.0.dist-info/WHEEL",
                      "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tinypeer-1.0.dist-info/RECORD", "")
    return path


def test_an_environment_has_the_peer_and_the_torch_of_the_course(tmp_path: Path) -> None:
    lost = tmp_path / "lost-1.0-py3-none-any.whl"
    made = dict(setup(tmp_path / "peers", {"tiny": [str(wheel(tmp_path))], "lost": [str(lost)]}))
    assert made["tiny"] == "" and "lost-1.0" in made["lost"]
    ask = "import importlib.util as u, json, tinypeer; print(json.dumps([tinypeer.NUMBER, u.find_spec('torch').origin]))"
    found = subprocess.run([str(python_of("tiny", tmp_path / "peers")), "-c", ask], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [7, torch.__file__]


def test_a_work_draws_what_diffusers_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real processes, on one picture: the protocol, and that both do the same."""
    monkeypatch.setattr("minidiff.bench_peers.ROUNDS", 1)
    ours, theirs = compare(CONTESTS["sample"]._replace(sides=CONTESTS["sample"].sides[:2], n=1), tmp_path, 0.0, "wall")
    assert ours.value > 0 and theirs.value > 0 and ours.note.endswith("apart by 0")
    assert float(theirs.note.split()[-1]) <= 1e-4


def test_every_side_has_a_work_and_every_peer_is_asked_for() -> None:
    sides = [side for contest in CONTESTS.values() for side in contest.sides]
    assert {side.work for side in sides if not side.missing} == set(WORKS)
    assert {side.peer for side in sides if side.peer} == set(PEERS)
    assert all(contest.sides[0].name == "minidiff" for contest in CONTESTS.values() if len(contest.sides) > 1)
    assert not [need for needs in PEERS.values() for need in needs if need.startswith("torch")]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_compiled_side_waits_to_be_asked_for(compiled: bool, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    monkeypatch.setattr("minidiff.bench_peers.compare", lambda contest, *_: seen.append(contest) or iter([Row("it", 1.0, "s")]))
    monkeypatch.setattr(bench, "_memory_rows", lambda device: iter(()))
    assert main(["bench", "peers", "sample", *["--compile"] * compiled]) == 0
    assert any("compiled" in side.work for side in seen[0].sides) == compiled and "it" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["peers", "nobody"], ["networks", "--setup"], ["world", "sample"]])
def test_what_cannot_be_meant_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2 and "expected" in capsys.readouterr().err
