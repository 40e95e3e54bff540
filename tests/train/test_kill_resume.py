"""kill -9 at any moment, run the same command again, get the same bits."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import train_child
from train_child import SIZE, Nursery, Ticks, differing, final

STEPS = 12
Bits = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def straight(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Bits:
    """What a run without kills ends with."""
    out = tmp_path_factory.mktemp("straight")
    assert nursery.do(out=str(out)) == 0
    result = final(out)
    assert len(result["losses"]) == STEPS and int(result["step first.weight"]) == STEPS
    return result


@pytest.fixture(scope="module")
def events(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Ticks:
    """The events of a whole run."""
    folder = tmp_path_factory.mktemp("events")
    (folder / "ticks").write_bytes(bytes(SIZE))
    assert nursery.do(out=str(folder / "out"), ticks=str(folder / "ticks")) == 0
    return Ticks(str(folder / "ticks"))


def assert_tidy(out: Path) -> None:
    assert sorted(p.name for p in out.iterdir()) == [".lock", "losses.f32", "step-00000008", "step-00000012"]


def test_the_oracle_can_fail(straight: Bits, nursery: Nursery, tmp_path: Path) -> None:
    assert nursery.do(out=str(tmp_path), lr=3.01e-3) == 0
    wrong = set(differing(straight, final(tmp_path)))
    assert {"model first.weight", "ema first.weight", "exp_avg first.weight", "losses"} <= wrong


def test_five_steps_then_a_new_process(straight: Bits, nursery: Nursery, tmp_path: Path) -> None:
    assert nursery.do(out=str(tmp_path), stop=5) == 0
    assert (tmp_path / "step-00000005").is_dir() and not (tmp_path / "step-00000006").exists()
    job = json.dumps({"out": str(tmp_path), "report": str(tmp_path / "said")})
    subprocess.run([sys.executable, train_child.__file__, "once", job], check=True, timeout=120)
    assert (tmp_path / "said").read_text() == "Going on from step 5, 20 of 48 images."
    assert differing(straight, final(tmp_path)) == []


def test_twenty_kills_at_random_moments(straight: Bits, nursery: Nursery, events: Ticks, tmp_path: Path) -> None:
    """20 of 20 bit-equal. Every other run is killed a second time, while it goes on from the first kill."""
    dice = random.Random(1)
    same = while_saving = tries = 0
    for number in range(20):
        out, landed = tmp_path / f"run{number}", 0
        while landed <= number % 2:
            tries += 1
            assert tries < 100
            at, delay = dice.randrange(1, events.count), dice.random() * 0.002
            code, saving = nursery.do_and_kill(at, delay, tmp_path / "ticks", out=str(out))
            assert code in (0, -9)
            if code == 0:  # faster than the kill: nothing is left to kill, so take a fresh folder
                out, landed = tmp_path / f"run{number}-{tries}", 0
            else:
                landed, while_saving = landed + 1, while_saving + saving
        assert nursery.do(out=str(out)) == 0
        same += differing(straight, final(out)) == []
        assert_tidy(out)
    assert same == 20
    assert 1 <= while_saving <= 29, f"{while_saving} of 30 kills came while saving: they must reach steps and saves"


def test_a_kill_at_every_event_of_one_save(straight: Bits, nursery: Nursery, events: Ticks, tmp_path: Path) -> None:
    """The third and last save, which also removes the first checkpoint: before each call that touches the disk."""
    first, last = events.save_began(2), events.count
    assert last - first > 12
    for at in range(first, last + 1):
        out, ticks = tmp_path / f"at{at}", tmp_path / "ticks"
        ticks.write_bytes(bytes(SIZE))
        assert nursery.do(out=str(out), ticks=str(ticks), kill_at=at) == -9
        assert len(list(out.glob("step-????????/meta.json"))) >= 2
        assert nursery.do(out=str(out)) == 0
        assert differing(straight, final(out)) == []
        assert_tidy(out)


def test_a_kill_at_every_file_operation_of_a_preview_and_its_save(straight: Bits, nursery: Nursery, tmp_path: Path) -> None:
    """The last preview and the begin of the save that vouches for it: the same weights after all, and the same pictures."""
    def shown(out: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted((out / "previews").iterdir())}

    whole, ticks = tmp_path / "whole", tmp_path / "ticks"
    ticks.write_bytes(bytes(SIZE))
    assert nursery.do(out=str(whole), ticks=str(ticks), preview=True) == 0
    first, save, last = Ticks(str(ticks)).save_began(4), Ticks(str(ticks)).save_began(5), Ticks(str(ticks)).count
    assert len(shown(whole)) == 3 and save - first >= 5 and last - save > 12, "previews touch the disk, and so do saves"
    for at in range(first, save + 3):
        out = tmp_path / f"at{at}"
        ticks.write_bytes(bytes(SIZE))
        assert nursery.do(out=str(out), ticks=str(ticks), kill_at=at, preview=True) == -9
        assert nursery.do(out=str(out), preview=True) == 0
        assert differing(straight, final(out)) == [] and shown(out) == shown(whole), at
