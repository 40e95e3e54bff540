"""Checkpoints: whole or absent, checked before use, and nothing lost when a disk, a file or a person fails."""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import train_child
from filelock import FileLock
from safetensors.torch import load_file
from torch import nn
from train_child import Nursery, TinyNet, differing, final, recipe

from minidiff import cli, train_command
from minidiff.errors import BadInput, CheckpointError
from minidiff.files import remove_folder, sha256
from minidiff.train import TrainState, checkpoint, describe, fit, load_ema, newest, newest_meta, read_losses, stored
from minidiff.train.loop import Terminated, ends_on_sigterm
from minidiff.train.run import Run

Bits = dict[str, torch.Tensor]
PARTS = ("model.safetensors", "ema.safetensors", "optimiser.pt", "losses.f32", "meta.json", "SHA256SUMS")


class CaptionFacts(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Bits:
    out = tmp_path_factory.mktemp("straight")
    go(out)
    return final(out)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run of 12 steps that was left after 5: checkpoints at steps 4 and 5."""
    go(tmp_path / "run", stop=5)
    return tmp_path / "run"


def go(out: Path, *, stop: int | None = None, log: Callable[[str], None] = lambda _: None, save_every: int = 16, images: int = 48,
       extend: bool = False, **changes: Any) -> None:
    for state in fit(recipe(**changes), images=images, out=out, device="cpu", save_every=save_every, log=log, extend=extend):
        if state.step == stop:
            break


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def steps(out: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in out.glob("step-????????"))


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and make the checkpoint's own hash agree, as an attacker would."""
    (folder / name).write_bytes(data)
    seal(folder)


def seal(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(folder / part)}  {part}\n" for part in PARTS[:-1]))


# ---- what is in one -------------------------------------------------------------------------------------------------


def test_a_checkpoint_names_its_run(stopped: Path) -> None:
    folder = stopped / "step-00000005"
    assert sorted(p.name for p in folder.iterdir()) == sorted(PARTS)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["step"] == 5 and meta["images"] == 20 and meta["seconds"] >= 0
    assert meta["settings"]["recipe"] == "tiny" and meta["settings"]["seed"] == 20 and meta["settings"]["images"] == 48
    assert meta["versions"]["torch"] == torch.__version__ and meta["hardware"]["threads"] == 1
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    assert (folder / "SHA256SUMS").read_text().count("\n") == 5


def test_two_are_kept_and_the_log_has_a_number_a_step(tmp_path: Path) -> None:
    go(tmp_path, save_every=8)
    assert steps(tmp_path) == [10, 12]
    assert (tmp_path / "losses.f32").stat().st_size == 48 and len(read_losses(tmp_path)) == 12


def test_tied_weights_are_stored_under_both_names(stopped: Path) -> None:
    saved = load_file(stopped / "step-00000005" / "model.safetensors")
    assert torch.equal(saved["tied"], saved["last.bias"]) and saved.keys() == TinyNet().state_dict().keys()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="2026-11: needs /proc to see which file is synced")
def test_all_is_on_the_disk_before_the_name_appears(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut needs and a kill does not show: losses, four files and their folder are synced, then renamed."""
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noting_fsync(handle: int) -> None:
        events.append(f"sync {os.path.relpath(os.readlink(f'/proc/self/fd/{handle}'), stopped)}")
        fsync(handle)

    def noting_rename(old: Path, new: Path) -> None:
        events.append(f"rename {old.name} {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "rename", noting_rename)
    go(stopped, save_every=1000)
    part = "step-00000012.tmp"
    assert events == ["sync losses.f32", *(f"sync {part}/{name}" for name in PARTS), f"sync {part}",
                      f"rename {part} step-00000012", "sync .", "rename step-00000004 step-00000004.old.tmp"]


def test_a_kill_during_removal_leaves_only_what_is_called_tmp(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.rmtree", lambda folder, **_: None)
    remove_folder(stopped / "step-00000004")
    assert steps(stopped) == [5] and (stopped / "step-00000004.old.tmp").is_dir()
    monkeypatch.undo()
    go(stopped)
    assert not list(stopped.glob("*.tmp"))


# ---- damage ---------------------------------------------------------------------------------------------------------


def truncate(folder: Path, name: str) -> None:
    with open(folder / name, "r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)


def flip(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-20] ^= 1
    (folder / name).write_bytes(data)


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def garble(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x00\xffnot ours at all")


@pytest.mark.parametrize("damage", [truncate, flip, remove, garble])
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(stopped: Path, straight: Bits, name: str,
                                                                  damage: Callable[[Path, str], None]) -> None:
    damage(stopped / "step-00000005", name)
    said = CaptionFacts()
    go(stopped, log=said)
    assert said[0].startswith("step-00000005 cannot be used: ") and name in said[0] and "the one of step 4 is used" in said[0]
    assert said[1] == "Going on from step 4, 16 of 48 images."
    assert (stopped / "step-00000005.unusable").is_dir() and steps(stopped) == [8, 12]
    assert differing(straight, final(stopped)) == []


def test_a_pickle_in_disguise_is_not_run(stopped: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "attacked",))

    forge(stopped / "step-00000005", "optimiser.pt", pickle.dumps(Attack()))
    pickle.loads(pickle.dumps(Attack()))
    assert (tmp_path / "attacked").exists()  # the attack is real
    (tmp_path / "attacked").unlink()
    said = CaptionFacts()
    go(stopped, log=said)
    assert not (tmp_path / "attacked").exists() and said[0].startswith("step-00000005 cannot be used")


def test_if_none_can_be_used_the_error_says_what_to_do_and_nothing_changes(stopped: Path) -> None:
    truncate(stopped / "step-00000005", "ema.safetensors")
    remove(stopped / "step-00000004", "meta.json")
    before = contents(stopped)
    with pytest.raises(CheckpointError) as caught:
        go(stopped)
    text = str(caught.value)
    assert "step-00000005: ema.safetensors is truncated" in text and "step-00000004: meta.json is missing" in text
    assert "out='another/folder'" in text and contents(stopped) == before
    with pytest.raises(CheckpointError, match="cannot be used|can be used"):
        newest(stopped)
    FileLock(stopped / ".lock", blocking=False).acquire()  # and the folder is free again


def test_what_a_kill_left_is_removed_and_other_peoples_files_are_not(stopped: Path, straight: Bits) -> None:
    for name in ("step-00000006.tmp", "step-00000002.old.tmp"):
        (stopped / name).mkdir()
        (stopped / name / "model.safetensors").write_bytes(b"half")
    (stopped / "thesis.tmp").write_text("mine")
    (stopped / "step-by-step").mkdir()
    (stopped / "step-notes.tmp").mkdir()
    go(stopped)
    assert sorted(p.name for p in stopped.iterdir()) == [".lock", "losses.f32", "step-00000008", "step-00000012", "step-by-step",
                                                         "step-notes.tmp", "thesis.tmp"]
    assert differing(straight, final(stopped)) == []


def test_the_log_is_cut_back_to_the_checkpoint(stopped: Path, straight: Bits) -> None:
    with open(stopped / "losses.f32", "ab") as file:
        file.write(b"\x01\x02\x03\x04\x05\x06")
    go(stopped)
    assert differing(straight, final(stopped)) == []


@pytest.mark.parametrize("damage", [truncate, remove, garble, flip], ids=lambda d: d.__name__)
def test_a_damaged_log_is_noticed_and_mended_from_the_checkpoint(stopped: Path, straight: Bits,
                                                                 damage: Callable[[Path, str], None]) -> None:
    damage(stopped, "losses.f32")
    with pytest.raises(CheckpointError, match="damaged"):
        read_losses(stopped)
    said = CaptionFacts()
    go(stopped, log=said)
    assert said[0] == (f"losses.f32 was {'gone' if damage is remove else 'damaged'}; its 5 losses are those of the checkpoint "
                       "again.")
    assert differing(straight, final(stopped)) == []


def test_every_byte_of_a_checkpoint_counts(stopped: Path) -> None:
    """Each byte of meta.json and of SHA256SUMS, and some of each other file, changed in turn: named, the older one used."""
    folder = stopped / "step-00000005"
    for name in PARTS:
        data = (folder / name).read_bytes()
        places = range(len(data)) if name in PARTS[-2:] else range(0, len(data), max(1, len(data) // 20))
        for place in places:
            (folder / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
            found, bad = stored.first_whole(stopped, stored.read_checkpoint)
            assert found.step == 4 and folder in bad, (name, place)
        (folder / name).write_bytes(data)
    assert newest(stopped)[1]["step"] == newest_meta(stopped)["step"] == 5


def test_a_file_added_to_a_checkpoint_is_named(stopped: Path, straight: Bits) -> None:
    (stopped / "step-00000005" / "extra.py").write_text("raise SystemExit")
    (stopped / "step-00000004" / ".DS_Store").write_bytes(b"finder")
    (stopped / "notes.txt").write_text("mine")
    said = CaptionFacts()
    go(stopped, log=said)
    assert "extra.py in it was not written by minidiff" in said[0] and "the one of step 4 is used" in said[0]
    assert said[1] == "Not of this run, and left alone: notes.txt."
    assert (stopped / "notes.txt").read_text() == "mine" and differing(straight, final(stopped)) == []


def test_one_flipped_bit_of_the_newest_meta_does_not_hide_the_older_run(stopped: Path) -> None:
    """The damaged meta.json still parses and names another seed: it is not believed."""
    meta = stopped / "step-00000005" / "meta.json"
    meta.write_text(meta.read_text().replace('"seed": 20', '"seed": 21'))
    said = CaptionFacts()
    go(stopped, log=said)
    assert said[0].startswith("step-00000005 cannot be used: meta.json is truncated or changed")


@pytest.mark.parametrize("name", [*PARTS, "losses.f32 of the run"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="2026-11: no pipes with names on this system")
def test_a_pipe_never_hangs(stopped: Path, name: str) -> None:
    path = stopped / "losses.f32" if name.endswith("run") else stopped / "step-00000005" / name
    path.unlink()
    os.mkfifo(path)
    said = CaptionFacts()
    signal.alarm(20)
    try:
        if name.endswith("run"):
            with pytest.raises(CheckpointError, match="move away what is in the way, '.*losses.f32'"):
                go(stopped, log=said)
            with pytest.raises(CheckpointError, match="not a plain file"):
                read_losses(stopped)
        else:
            go(stopped, log=said)
            assert said[0].startswith(f"step-00000005 cannot be used: {name} cannot be read (not a plain file)")
    finally:
        signal.alarm(0)


# ---- previews -------------------------------------------------------------------------------------------------------


def painted(net: TinyNet) -> torch.Tensor:
    return net.first.weight.detach()[:4].tanh()


def shown(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((out / "previews").iterdir())}


@pytest.mark.parametrize("when", ["before the preview", "after the preview", "after the checkpoint"])
def test_a_preview_is_there_when_its_checkpoint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    go(tmp_path / "whole", preview=painted, save_every=16)
    real_save, real_preview = Run.save, Run.preview

    class Killed(BaseException):
        pass

    def save(self: Run) -> None:
        if when == "after the preview" and self.step == 8:
            raise Killed
        real_save(self)
        if when == "after the checkpoint" and self.step == 8:
            raise Killed

    def preview(self: Run) -> Path | None:
        if when == "before the preview" and self.step == 8:
            raise Killed
        return real_preview(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save)
        patch.setattr(Run, "preview", preview)
        with pytest.raises(Killed):
            go(tmp_path / "killed", preview=painted, save_every=16)
    go(tmp_path / "killed", preview=painted, save_every=16)
    assert len(shown(tmp_path / "whole")) >= 10 and shown(tmp_path / "killed") == shown(tmp_path / "whole")


def test_damaged_previews_are_named_and_half_written_files_are_removed(stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    go(out, preview=painted, stop=8)
    first, second, *_ = sorted((out / "previews").iterdir())
    first.unlink()
    second.write_bytes(b"something else")
    (out / "previews" / "0000000002.png").write_bytes(b"not of this run")
    halves = [out / "previews" / ".0000000016.png-ab12cd_3.tmp", out / ".losses.f32-ab12cd_3.tmp"]
    for half in halves:
        half.write_bytes(b"half")
    said = CaptionFacts()
    go(out, preview=painted, log=said)
    assert said[:3] == [f"previews/{first.name} is gone; only the picture is lost.",
                        f"previews/{second.name} is no longer the picture that was written; only the picture is lost.",
                        f"Not of this run, and left alone: previews/0000000002.png, previews/{second.name}."]
    assert not any(half.exists() for half in halves)


# ---- what an error says is so ---------------------------------------------------------------------------------------


def test_an_error_does_not_call_whole_what_is_gone(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = fit(recipe(), images=48, out=stopped, device="cpu", save_every=16, log=lambda _: None)
    next(states)
    shutil.rmtree(stopped)
    with pytest.raises(CheckpointError, match="No such file or directory.*the checkpoint of step 5 is gone") as caught:
        collections.deque(states, maxlen=0)
    assert "permissions" not in str(caught.value) and "whole" not in str(caught.value)


def test_a_complete_run_names_no_rate() -> None:
    state = TrainState(12, 48, 48, torch.tensor(0.5), float("nan"), float("nan"), nn.Identity(), nn.Identity())
    assert describe(state) == "48 of 48 images"


# ---- another run's folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "says"), [
    ({"name": "other"}, "recipe is 'tiny' there and 'other' here"), ({"seed": 21}, "seed is 20 there and 21 here"),
    ({"lr": 1e-3}, "lr is 0.003 there and 0.001 here"), ({"images": 96}, "images is 48 there and 96 here"),
    ({"batch": 8}, "batch is 4 there and 8 here"), ({"ema": 0.99}, "ema is"), ({"clip": 1.0}, "clip is"),
    ({"warmup": 0}, "warmup is"), ({"betas": (0.9, 0.999)}, "betas is"), ({"weight_decay": 0.0}, "weight_decay is"),
    ({"plain": True}, "network is '"), ({"lr_shape": "linear"}, "lr_shape is 'cosine' there and 'linear' here"),
    ({"restarts": (0.5,)}, "restarts is"), ({"identity": {"predicts": "v"}}, "predicts is 'eps' there and 'v' here"),
])
def test_another_runs_folder_is_refused_before_anything_is_written(stopped: Path, change: dict[str, Any], says: str) -> None:
    (stopped / ".lock").unlink()
    (stopped / "step-00000009.tmp").mkdir()
    before = contents(stopped)
    with pytest.raises(CheckpointError) as caught:
        go(stopped, **change)
    assert says in str(caught.value) and "-2'" in str(caught.value)
    assert contents(stopped) == before and (stopped / "step-00000009.tmp").exists()


def test_a_run_can_be_planned_anew_when_asked(stopped: Path, straight: Bits) -> None:
    with pytest.raises(CheckpointError, match="extend=True"):
        go(stopped, images=96)
    with pytest.raises(CheckpointError, match="seed is 20 there and 21 here"):
        go(stopped, images=96, seed=21, extend=True)
    said: list[str] = []
    go(stopped, images=96, extend=True, stop=10, log=said.append)
    assert any("planned for 48 images; from here on it is planned for 96" in line for line in said)
    go(stopped, images=96, stop=14)                                                     # the new plan needs no word any more
    meta = json.loads((stopped / "step-00000014/meta.json").read_text())
    assert meta["schedule_history"] == [[0, 48], [20, 96]] and meta["settings"]["images"] == 96
    assert differing(straight, final(stopped)) != [], "the learning rate follows the new plan"
    assert torch.equal(read_losses(stopped)[:5], straight["losses"][:5]) and len(read_losses(stopped)) == 14


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_run_extended_at_its_end_is_a_run_with_a_planned_restart(tmp_path: Path, shape: str) -> None:
    """Bit for bit, and whether or not it was stopped in its second cycle."""
    go(tmp_path / "whole", images=96, lr_shape=shape, restarts=(0.5,))
    go(tmp_path / "longer", images=48, lr_shape=shape)
    go(tmp_path / "longer", images=96, lr_shape=shape, extend=True, stop=15)
    go(tmp_path / "longer", images=96, lr_shape=shape)
    assert differing(final(tmp_path / "whole"), final(tmp_path / "longer")) == []
    for run in ("whole", "longer"):
        meta = json.loads((tmp_path / run / "step-00000024/meta.json").read_text())
        assert meta["schedule_history"] == [[0, 48], [48, 96]]
    go(tmp_path / "other", images=96, lr_shape=shape)
    assert differing(final(tmp_path / "whole"), final(tmp_path / "other")) != []


def test_two_runs_cannot_write_in_one_folder(stopped: Path) -> None:
    lock = FileLock(stopped / ".lock")
    lock.acquire()
    before = contents(stopped)
    with pytest.raises(CheckpointError, match="another run is writing now"):
        go(stopped)
    assert contents(stopped) == before
    lock.release()
    go(stopped)


# ---- the disk fails ---------------------------------------------------------------------------------------------------


PLACES = {"write": (checkpoint, "write_file"), "fsync": (os, "fsync"), "rename": (os, "rename"), "mkdir": (Path, "mkdir")}


def failing_at(nth: int, code: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """``real``, but its call number ``nth`` fails as a full or forbidden disk does."""
    calls = 0

    def failing(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(code, os.strerror(code))
        return real(*args, **keywords)

    return failing


def whole(folder: Path) -> bool:
    before = (folder / "SHA256SUMS").read_text()
    return before == "".join(f"{sha256(folder / part)}  {part}\n" for part in PARTS[:-1])


@pytest.mark.parametrize("call", PLACES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_failing_disk_loses_nothing(stopped: Path, straight: Bits, monkeypatch: pytest.MonkeyPatch, call: str,
                                      code: int) -> None:
    """Every place where two saves touch the disk, failing in turn; then the run goes on as if nothing had been."""
    module, name = PLACES[call]
    for nth in range(1, 40):
        newest_before = max(steps(stopped))
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing_at(nth, code, getattr(module, name)))
            try:
                go(stopped, save_every=32)
                break
            except CheckpointError as error:
                assert ("free some room" if code == errno.ENOSPC else "change its permissions") in str(error)
        assert all(map(whole, stopped.glob("step-????????"))) and not list(stopped.glob("step-*.tmp"))
        assert max(steps(stopped)) >= newest_before and len(steps(stopped)) >= 2
    assert nth > 1
    go(stopped)
    assert differing(straight, final(stopped)) == []


def test_leaving_a_loop_when_the_disk_is_full_says_so(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = CaptionFacts()
    monkeypatch.setattr(checkpoint, "write_file", failing_at(1, errno.ENOSPC, checkpoint.write_file))
    go(stopped, stop=7, log=said)
    assert said[-1].startswith("Stopped at step 7, 28 of 48 images, and could not save. out: got")
    assert "step 5 is whole" in said[-1]
    assert steps(stopped) == [4, 5]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.mark.parametrize("limit", [1000, 30])
def test_a_disk_that_is_really_full(stopped: Path, straight: Bits, nursery: Nursery, tmp_path: Path, limit: int) -> None:
    """The system itself refuses: files may not grow beyond some bytes, too few for weights, or even for the losses."""
    kept = {name: data for name, data in contents(stopped).items() if name.startswith("step-")}
    assert nursery.do(out=str(stopped), file_limit=limit, report=str(tmp_path / "said")) == 0
    said = (tmp_path / "said").read_text()
    assert "CheckpointError" in said and "free some room" in said and "step 5 is whole" in said
    assert {name: data for name, data in contents(stopped).items() if name.startswith("step-")} == kept
    assert nursery.do(out=str(stopped)) == 0
    assert differing(straight, final(stopped)) == []


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_that_cannot_be_written(nursery: Nursery, tmp_path: Path, fresh: bool) -> None:
    """As another user, if these tests run as root, because root may write anywhere."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "run"
        if fresh:
            out.parent.chmod(0o555)
        else:
            go(out, stop=5)
            for path in [out.parent, *out.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
            out.chmod(0o555)
        before = contents(out.parent)
        job = {"user": 65534} if os.geteuid() == 0 else {}
        assert nursery.do(out=str(out), report=str(tmp_path / "said"), **job) == 0
        for path in [out.parent, *out.parent.rglob("*")]:
            path.chmod(stat.S_IRWXU)
        said = (tmp_path / "said").read_text()
        assert "CheckpointError: out: got" in said and "Permission denied" in said and "out='another/folder'" in said
        assert contents(out.parent) == before


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(CheckpointError, match="a folder that can be written") as caught:
        go(tmp_path / "run")
    assert "move away what is in the way" in str(caught.value) and "permissions" not in str(caught.value)
    assert (tmp_path / "run").read_text() == "mine"


# ---- weights for shipping ---------------------------------------------------------------------------------------------


def test_load_ema_gives_the_average_of_the_newest(stopped: Path) -> None:
    expected = load_file(stopped / "step-00000005" / "ema.safetensors")
    net = TinyNet()
    assert load_ema(stopped, net)["images"] == 20
    assert all(torch.equal(x, expected[name]) for name, x in net.state_dict().items())
    assert not torch.equal(expected["first.weight"], load_file(stopped / "step-00000005" / "model.safetensors")["first.weight"])


def test_load_ema_passes_over_a_damaged_checkpoint_and_changes_nothing(stopped: Path) -> None:
    expected = load_file(stopped / "step-00000004" / "ema.safetensors")
    truncate(stopped / "step-00000005", "ema.safetensors")
    before, net = contents(stopped), TinyNet()
    assert load_ema(stopped, net)["step"] == newest(stopped)[1]["step"] == 4 and contents(stopped) == before
    assert all(torch.equal(x, expected[name]) for name, x in net.state_dict().items())


def test_weights_of_another_network_are_refused_whole(stopped: Path) -> None:
    for net in (TinyNet(plain=True), nn.Linear(2, 2)):
        before = {name: x.clone() for name, x in net.state_dict().items()}
        with pytest.raises(CheckpointError, match="the network of recipe 'tiny'"):
            load_ema(stopped, net)
        assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())


def test_an_empty_folder_has_nothing_to_load(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            newest(folder)
    assert list(tmp_path.iterdir()) == [] and len(read_losses(tmp_path)) == 0


def test_errors_are_bad_input() -> None:
    assert issubclass(CheckpointError, BadInput)


# ---- SIGTERM ----------------------------------------------------------------------------------------------------------


def test_sigterm_saves_as_ctrl_c_does(tmp_path: Path, straight: Bits) -> None:
    """In the middle of a step, of a process without a handler of its own; and the command ends with 143."""
    out, said = tmp_path / "run", CaptionFacts()

    def loss_with_signal(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if not out.joinpath("sent").exists():
            out.joinpath("sent").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return train_child.loss(model, batch)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated):
        go(out, loss=loss_with_signal, log=said)
    assert steps(out) == [1] and said[-1].startswith("Stopped and saved at step 1")
    assert signal.getsignal(signal.SIGTERM) is before
    go(out)
    assert differing(straight, final(out)) == []


def test_sigterm_between_two_steps(tmp_path: Path) -> None:
    said = CaptionFacts()
    states = fit(recipe(), images=48, out=tmp_path / "run", device="cpu", save_every=1000, log=said)
    with pytest.raises(Terminated), ends_on_sigterm(), contextlib.closing(states):
        next(states)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert steps(tmp_path / "run") == [1]


def test_the_command_ends_with_143(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(*_: Any) -> int:
        raise Terminated

    monkeypatch.setattr(train_command, "train", act)
    assert cli.main(["train", "pixel-ddpm"]) == 143
