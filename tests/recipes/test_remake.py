"""minidiff remake and unpack: order, crashes, kills, deadlines, archives; on models of sixteen weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import tiny_meta
import torch
from safetensors.torch import load_file, save_file

from minidiff.cli import main
from minidiff.course import unpack as unpacking
from minidiff.course.unpack import unpack
from minidiff.errors import BadInput, CheckpointError
from minidiff.manifest import write_card
from minidiff.recipes import jobs, pack
from minidiff.recipes.pack import Pack, packed
from minidiff.recipes.remake import remake, table_of
from minidiff.train import read_losses

ROOT = Path(__file__).resolve().parents[2]
KIT = str(ROOT / "tests" / "kit")


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder with shipped models of its own, whose "first" is all sevens, and the tiny plan."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), KIT]))
    monkeypatch.setenv("MINIDIFF_PLAN", "tiny_jobs")
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path / "shipped"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TINY_GATE", str(tmp_path / "gate"))
    model(tmp_path / "shipped" / "first", torch.full((4, 4), 7.0))
    return tmp_path


def model(folder, weight, **facts):
    """A model folder as zoo.ship leaves it."""
    folder.mkdir(parents=True)
    save_file({"weight": weight}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}\n")
    write_card(folder, {"name": folder.name, **facts})
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def weights(folder):
    return load_file(folder / "model.safetensors")


def states(rows):
    return {row.name: row.state for row in rows}


def test_jobs_wait_for_their_needs_and_a_crash_stops_only_what_needs_it(house, capsys):
    out, archive, said = house / "out", house / "pack", []
    names = ["second", "first", "broken", "after/broken"]
    rows = remake(names, out=out, minutes=4, device="cpu", pack=archive, log=said.append)
    assert states(rows) == {"second": "done", "first": "done", "broken": "failed", "after/broken": "not started"}
    made = weights(out / "data" / "first")["weight"]
    assert torch.equal(weights(out / "data" / "second")["first"], made), "second has loaded another first"
    assert float((made - 7).abs().min()) > 1 and float(made.diagonal().min()) > 0.1
    assert any("this model breaks on purpose" in line for line in said), "the end of the log of a failed job"
    assert "needs broken, which failed" in table_of(rows) and not (out / "data" / "broken").exists()
    row = next(r for r in rows if r.name == "first")
    assert row.facts["images"] == 8 * len(read_losses(out / "runs" / "first")) > 0 and row.facts["loss"] < 1
    assert "stopped" not in json.loads((out / "data" / "first" / "card.json").read_text())
    assert os.environ["MINIDIFF_DATA"] == str(house / "shipped")

    assert set(packed(archive)) == {"first", "second"}
    assert main(["unpack", str(archive), "--all"]) == 0                        # into the shipped models
    assert "2 taken" in capsys.readouterr().out
    assert contents(house / "shipped") == {k: v for k, v in contents(out / "data").items()}
    with zipfile.ZipFile(archive / "remake-index.zip") as index:
        assert {"jobs/broken.json", "logs/broken.log", "losses/first.csv"} <= set(index.namelist())

    before = contents(out / "data")
    again = remake(["first", "second"], out=out, minutes=4, device="cpu", log=said.append)      # nothing is left to do
    assert states(again) == {"second": "done", "first": "done"} and contents(out / "data") == before
    with pytest.raises(BadInput, match="holds a remake"):
        remake(["first"], out=out, minutes=5, device="cpu")


def start(house):
    command = [sys.executable, "-m", "minidiff", "remake", "first", "second", "--device", "cpu", "--minutes", "9", "--out",
               str(house / "out")]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def wait_for(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def test_killed_and_run_again_it_goes_on(house):
    """First the parent alone (its jobs save and end), then the parent and the job (nothing can be saved), then to the end."""
    out = house / "out"
    run, log, state = out / "runs" / "second", out / "logs" / "second.log", out / "jobs" / "second.json"
    parent = start(house)
    wait_for(lambda: any(p.name >= "step-00000005" for p in run.glob("step-????????")))
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(state.exists)
    told = json.loads(state.read_text())
    assert told["state"] == "stopped" and told["images"] > 0 and told["planned"] == pytest.approx(0.15)
    card = json.loads((out / "data" / "second" / "card.json").read_text())
    assert card["stopped"] and card["images"] == told["images"]
    first = contents(out / "data" / "first"), (out / "data" / "first" / "card.json").stat().st_mtime_ns

    parent = start(house)
    wait_for(lambda: any(int(p.name[5:]) * 8 > told["images"] + 100 for p in run.glob("step-????????")))
    child = int(re.findall(r"process (\d+)", log.read_text())[-1])
    os.killpg(parent.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    parent.wait()
    assert not state.exists()

    rows = remake(["first", "second"], out=out, minutes=9, device="cpu")
    assert states(rows) == {"first": "done", "second": "done"}
    assert (contents(out / "data" / "first"), (out / "data" / "first" / "card.json").stat().st_mtime_ns) == first
    assert log.read_text().count("Going on from step") == 2
    row, losses = rows[0], read_losses(run)
    assert row.facts["minutes"] == pytest.approx(0.15, abs=0.04), "the three parts together are as long as one run"
    assert len(losses) * 8 == row.facts["images"] > told["images"] + 100 and bool(losses.isfinite().all())
    card = json.loads((out / "data" / "second" / "card.json").read_text())
    assert card["images"] == row.facts["images"] and "stopped" not in card


@pytest.fixture
def deadline(house, monkeypatch):
    """Remake "gated" and let the minutes be over as soon as its step 5 has begun; after: called then."""
    caught = []
    made = jobs.Jobs.__init__
    monkeypatch.setattr(jobs.Jobs, "__init__", lambda self, *given: caught.append(self) or made(self, *given))

    def call(after=lambda: None):
        def end_it():
            wait_for(lambda: (house / "gate.reached").exists())
            caught[0].end = time.monotonic()
            after()
        thread = threading.Thread(target=end_it)
        thread.start()
        rows = remake(["gated"], out=house / "out", minutes=9, device="cpu", pack=house / "pack")
        thread.join()
        return rows[0], json.loads((house / "out" / "data" / "gated" / "card.json").read_text())
    return call


def test_at_the_deadline_a_job_saves_and_is_published_as_stopped(house, deadline):
    row, card = deadline(lambda: (time.sleep(0.5), (house / "gate").touch()))
    assert row.state == "stopped" and row.note == "before its minutes were over"
    assert card["stopped"] == row.note and card["images"] >= 6 * 8, "the step under way was whole when it was saved"
    assert set(packed(house / "pack")) == {"gated"}


def test_a_job_that_does_not_stop_is_killed(house, deadline, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE", 1.0)
    row, card = deadline()
    assert row.state == "stopped" and "killed" in row.note and "last checkpoint is published" in row.note
    assert "killed" in card["stopped"] and 0 < card["images"] <= 5 * 8
    assert set(packed(house / "pack")) == {"gated"}


def test_needs_that_are_not_named_are_the_shipped_ones(house):
    rows = remake(["second"], out=house / "out", minutes=4, device="cpu")
    assert states(rows) == {"second": "done"}
    assert float(weights(house / "out" / "data" / "second")["first"].min()) == 7.0
    with pytest.raises(BadInput, match="not shipped"):
        remake(["after/broken"], out=house / "out2", minutes=4, device="cpu")
    with pytest.raises(BadInput, match="one of 'second'"):
        remake(["secondd"], out=house / "out2", minutes=4, device="cpu")


ACTOR = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[5])
from tiny_meta import write_meta
out, name, load, store = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
time.sleep(load)
said = sys.stdin.readline()
if said:
    began, seconds = time.time(), 60 * float(said.split()[1])
    time.sleep(seconds)
    step = out / "runs" / name / "step-00000002"
    step.mkdir(parents=True)
    write_meta(step, seconds=seconds, planned=seconds, over=[began, time.time()])
    time.sleep(store)
    (out / "jobs").mkdir(exist_ok=True)
    (out / "jobs" / (name + ".part")).write_text(json.dumps({"state": "done", "note": ""}))
    (out / "jobs" / (name + ".part")).rename(out / "jobs" / (name + ".json"))
"""


def act(monkeypatch, out, plan, minutes, load, store):
    """Jobs on a GPU as the parent sees them, played by processes that sleep; returns their rows, and when each trained."""
    spawned = {}

    def spawn(self, row):
        spawned[row.name] = time.time()
        row.child = subprocess.Popen([sys.executable, "-S", "-c", ACTOR, str(out), row.name, str(load), str(store), KIT],
                                     stdin=subprocess.PIPE)

    monkeypatch.setattr(jobs.Jobs, "_spawn", spawn)
    monkeypatch.setattr(jobs, "HEAD_START", load)
    rows = {name: jobs.Row(name, needs, minutes * share / 9, lane) for name, (needs, share, lane) in plan.items()}
    start = time.time()
    ended = jobs.Jobs(rows, out, torch.device("cuda"), "gpu", minutes, None, lambda line: None).run(lambda name: None)
    trained = {}
    for name in plan:
        step = out / "runs" / name / "step-00000002" / "meta.json"
        trained[name] = [t - start for t in json.loads(step.read_text())["over"]] if step.exists() else None
    return ended, trained, {name: t - start for name, t in spawned.items()}


def test_lanes_run_side_by_side_and_the_last_job_ends_in_time(tmp_path, monkeypatch):
    """The plan fills all nine of nine minutes, and loading and publishing cost as much again as a job: each is cut to fit."""
    plan = {"a": ((), 3.0, 0), "b": (("a",), 3.0, 0), "c": (("b",), 3.0, 0), "side": (("b",), 2.0, 1), "x": ((), 2.0, 1),
            "y": ((), 2.0, 1), "free": ((), 1.0, None)}
    rows, trained, spawned = act(monkeypatch, tmp_path, plan, 0.15, 0.3, 0.3)
    assert all(row.state == "done" for row in rows), [(row.name, row.state, row.note) for row in rows]
    assert trained["x"][0] < trained["a"][1] and trained["free"][0] < trained["a"][1], "lanes run side by side"
    assert trained["x"][1] <= trained["y"][0] and max(trained["x"][1], trained["y"][1], trained["b"][1]) <= trained["side"][0]
    assert trained["a"][1] < trained["b"][0] and trained["b"][1] < trained["c"][0]
    assert trained["c"][1] < 9.0 and trained["a"][1] - trained["a"][0] > 2.2, "and the first is not cut by much"
    assert spawned["b"] < trained["a"][1], "processes are started before their turn, so that they import meanwhile"


def test_a_run_that_was_begun_keeps_the_length_it_was_begun_with(tmp_path, monkeypatch):
    """fit refuses to go on with a run by the clock of another length."""
    run = tmp_path / "runs" / "begun" / "step-00000001"
    run.mkdir(parents=True)
    tiny_meta.write_meta(run, seconds=0.4, planned=0.789)
    rows, _, _ = act(monkeypatch, tmp_path, {"begun": ((), 2.0, 0), "new": ((), 2.0, 1)}, 0.05, 0, 0)
    assert [round(60 * row.facts["planned"], 3) for row in rows] == [0.789, pytest.approx(2 / 3, abs=0.01)]


# ------------------------------------------------------------------------------------------------------------------ archives

@pytest.fixture
def small(monkeypatch):
    """Limits of kilobytes."""
    monkeypatch.setattr(pack, "CHUNK", 16_000)
    monkeypatch.setattr(pack, "FILE_BYTES", 64_000)
    monkeypatch.setattr(pack, "ALL_BYTES", 2**18 + 250_000)                   # 2**18 are kept for the index


def random(n, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_archives_keep_the_limits_store_shared_parts_once_and_split_large_ones(tmp_path, small):
    out, shared = tmp_path / "out", random(8_000, 0)
    for i in range(5):
        folder = model(out / "data" / f"m{i}", random(2_000, 1 + i))
        (folder / "vae").mkdir()
        save_file({"w": shared}, folder / "vae" / "w.safetensors")
        write_card(folder, {})
    model(out / "data" / "large", random(30_000, 9))                           # 120 kB: larger than an archive
    names = [f"m{i}" for i in range(5)] + ["large"]
    archive = Pack(tmp_path / "pack")
    assert list(archive.write(out, names[:2])) == [] and set(packed(tmp_path / "pack")) == {"m0", "m1"}
    assert list(archive.write(out, names)) == []
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "pack").iterdir()}
    assert len(sizes) <= 8 and max(sizes.values()) <= 64_000 and all(re.fullmatch(r"[\w.-]+", name) for name in sizes)
    raw = sum(len(data) for data in contents(out / "data").values())
    assert raw > 310_000 and sum(sizes.values()) < 220_000, "32 kB are shared by five models"
    again = Pack(tmp_path / "pack2")
    list(again.write(out, names[:2]))
    list(again.write(out, names))
    assert contents(tmp_path / "pack2") == contents(tmp_path / "pack"), "archives of the same models differ"
    for path in (tmp_path / "pack").iterdir():
        with zipfile.ZipFile(path) as opened:
            assert {info.date_time for info in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    for name in names:
        pack.unpack_model(tmp_path / "pack", name, tmp_path / "new" / name)
    assert contents(tmp_path / "new") == contents(out / "data")


def test_what_does_not_fit_is_left_out_and_said(tmp_path, small):
    out = tmp_path / "out"
    for i in range(4):
        model(out / "data" / f"m{i}", random(25_000, i))
    said = list(Pack(tmp_path / "pack").write(out, ["m0", "m1", "m2", "m3"]))
    assert [line[:16] for line in said] == ["m2 does not fit ", "m3 does not fit "]
    assert set(packed(tmp_path / "pack")) == {"m0", "m1"}
    assert len(list((tmp_path / "pack").iterdir())) <= 8


def rewrite(path, change):
    """Write an archive anew with its members changed: a whole zip, with valid checksums."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)


def edit_manifest(change):
    def apply(members):
        manifest = json.loads(members["manifest.json"])
        change(manifest["models"])
        members["manifest.json"] = json.dumps(manifest).encode()
    return apply


def flip(members):
    name = max(members, key=lambda n: len(members[n]))
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


def with_file(path, like="config.json", of="a"):
    return edit_manifest(lambda models: models["a"].update({path: models[of][like]}))


INDEX = "remake-index.zip"
TAMPERED = {
    "a chunk": ("remake-1.zip", flip, "was changed"),
    "a missing chunk": ("remake-1.zip", lambda m: m.pop(max(m, key=lambda n: len(m[n]))), "is missing"),
    "a path upwards": (INDEX, with_file("../x.json"), "names the path"),
    "an absolute path": (INDEX, with_file("/x.json"), "names the path"),
    "a path of Windows": (INDEX, with_file("c:\\x.json"), "names the path"),
    "a hidden file": (INDEX, with_file(".x.json"), "names the path"),
    "a name upwards": (INDEX, edit_manifest(lambda models: models.update({"../b": models.pop("a")})), "names the path"),
    "a pickle": (INDEX, with_file("x.pt"), "not a model"),
    "weights of another card": (INDEX, with_file("model.safetensors", "model.safetensors", "b"), "hashes on its card"),
    "weights on no card": (INDEX, with_file("x.safetensors", "model.safetensors", "b"), "hashes on its card"),
    "no manifest": (INDEX, lambda m: m.pop("manifest.json"), "has no manifest"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_archive_is_refused_and_nothing_changes(tmp_path, monkeypatch, what):
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path / "data"))
    model(tmp_path / "data" / "a", torch.zeros(3))
    for i, name in enumerate("ab"):
        model(tmp_path / "out" / "data" / name, random(900 - i, i))
    list(Pack(tmp_path / "pack").write(tmp_path / "out", ["a", "b"]))
    before = contents(tmp_path / "data")
    file, change, match = TAMPERED[what]
    rewrite(tmp_path / "pack" / file, change)
    with pytest.raises(CheckpointError, match=match):
        unpack(tmp_path / "pack", everything=True)
    assert contents(tmp_path / "data") == before and not list(tmp_path.rglob("x.*"))


def test_a_truncated_archive_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path / "data"))
    model(tmp_path / "out" / "data" / "a", random(900, 0))
    list(Pack(tmp_path / "pack").write(tmp_path / "out", ["a"]))
    file = tmp_path / "pack" / "remake-1.zip"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="cannot be read"):
        unpack(tmp_path / "pack", everything=True)
    with pytest.raises(CheckpointError, match="without remake-index.zip"):
        unpack(tmp_path / "out", everything=True)


def test_only_what_scores_better_is_shipped(tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "out"
    monkeypatch.setenv("MINIDIFF_DATA", str(data))
    scores = {"vae-f4": (30.0, 31.0), "vae-f8": (30.0, 29.0), "pixel-x0": (20.0, 10.0), "pixel-v": (20.0, 21.0),
              "readers/final": (0.9, 0.95), "unheard-of": (0.0, 0.0)}
    for name, pair in scores.items():
        for root, score in zip((data, out / "data"), pair):
            model(root / name, torch.tensor([score]))
    model(out / "data" / "mini-clip", torch.tensor([1.0]))
    list(Pack(tmp_path / "pack").write(out, [*scores, "mini-clip"]))
    asked = []

    def measure(name, root):
        asked.append((name, round(float(weights(root / "readers" / "final")["weight"]), 2)))
        score = float(weights(root / name)["weight"])
        return {"PSNR in dB, full": [score, 0, 0], "FDmini": [score, 0, 0], "full, 64 x 64": {"kind": score, "pictures": 9}}

    verdicts = {v.name: v for v in unpack(tmp_path / "pack", measure=measure)}
    assert {n for n, v in verdicts.items() if v.taken} == {"vae-f4", "pixel-x0", "readers/final", "mini-clip"}
    assert "29 against 30" in verdicts["vae-f8"].why and "no score decides" in verdicts["unheard-of"].why
    for name, (old, new) in scores.items():
        assert float(weights(data / name)["weight"]) == pytest.approx(new if verdicts[name].taken else old)
    assert json.loads((data / "vae-f4" / "card.json").read_text())["scores"]["PSNR in dB, full"][0] == 31
    assert {reader for name, reader in asked if not name.startswith("readers/")} == {0.95}, "judged by the new reader"
    assert unpack(tmp_path / "pack", ["vae-f8"], force=["vae-f8"], measure=measure)[0].taken
    assert float(weights(data / "vae-f8")["weight"]) == 29 and not list(data.rglob("*.tmp"))


def test_what_decides_is_on_the_shipped_cards():
    """The numbers that are compared exist where update_cards writes them."""
    from minidiff.zoo import card, shipped

    decided = {name: unpacking.decision_of(name) for name in shipped() if not name.startswith("adapters/")}
    of_the_small_world = {"noisy-classifier", "pixel-guided", "ddgan", "gan-32", "vae-32"}
    assert {name for name, decision in decided.items() if decision is None} <= of_the_small_world
    for name, decision in decided.items():
        if decision is not None:
            assert isinstance(decision.number(card(name)["scores"]), float), name
