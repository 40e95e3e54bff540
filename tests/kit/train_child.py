"""Recipes and child processes for the training tests.

    python train_child.py once '{"out": ...}'     one run in a process of its own
    python train_child.py serve                   jobs as JSON lines on stdin; each runs in a fork, with torch imported already
    accelerate launch train_child.py team '{...}' one run by several processes
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from safetensors.torch import load_file
from torch import nn

from minidiff import rng
from minidiff.train import Ema, Recipe, checkpoint, fit, read_losses
from minidiff.train.run import Run

SEED = 20
SIZE = 256  # bytes of the file that Ticks keeps


class TinyNet(nn.Module):
    """Three layers with all that a checkpoint must carry: dropout, running statistics, a frozen and a tied weight."""

    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6) if plain else nn.BatchNorm2d(6)
        self.drop = nn.Identity() if plain else nn.Dropout(0.2)
        self.last = nn.Conv2d(6, 3, 3, padding=1)
        if not plain:
            self.frozen = nn.Parameter(torch.randn(3, 1, 1), requires_grad=False)
            self.tied = self.last.bias

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.silu(self.norm(self.first(x))) * (1 + t[:, None, None, None])
        return self.last(self.drop(hidden)) + getattr(self, "frozen", 0)


def draw(i: int, n: int, device: torch.device) -> dict[str, torch.Tensor]:
    shapes = {"x": (n, 3, 6, 6), "t": (n,), "noise": (n, 3, 6, 6)}
    return {name: rng.normal(shape, SEED, name, i, device=device) for name, shape in shapes.items()}


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return ((model(batch["x"] + batch["noise"], batch["t"]) - batch["noise"]) ** 2).mean((1, 2, 3))


def painted(net: TinyNet) -> torch.Tensor:
    return net.first.weight.detach()[:4].tanh()


def recipe(plain: bool = False, **changes: object) -> Recipe:
    settings = dict(name="tiny", seed=SEED, build=lambda: TinyNet(plain), draw=draw, loss=loss, batch=4, lr=3e-3, warmup=16,
                    ema=0.9, clip=0.5, weight_decay=0.01, identity={"predicts": "eps"})
    return Recipe(**(settings | changes))


def final(out: Path) -> dict[str, torch.Tensor]:
    """Everything that must be bit-equal at the end of a run, by name, read without minidiff."""
    newest = max(out.glob("step-????????"))
    found = {f"{kind} {name}": x for kind in ("model", "ema") for name, x in load_file(newest / f"{kind}.safetensors").items()}
    for name, state in torch.load(newest / "optimiser.pt", weights_only=True).items():
        found |= {f"{kind} {name}": x for kind, x in state.items()}
    return found | {"losses": read_losses(out)}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    return sorted(name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name]))


class Ticks:
    """Counts the events of a run in a file that outlives the process.

    Bytes 0-7: the count. 8: is it saving. 9: is it done. 10: saves begun. From 16: the count at which each save began.
    """

    def __init__(self, path: str, kill_at: int = -1) -> None:
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), SIZE)
        self.kill_at = kill_at

    @property
    def count(self) -> int:
        return int.from_bytes(self.memory[:8], "little")

    def save_began(self, number: int) -> int:
        """The count when that save (from 0) began."""
        return int.from_bytes(self.memory[16 + 8 * number:24 + 8 * number], "little")

    @property
    def done(self) -> bool:
        return self.memory[9:10] == b"d"

    @done.setter
    def done(self, _: bool) -> None:
        self.memory[9:10] = b"d"

    @property
    def saving(self) -> bool:
        return self.memory[8:9] == b"s"

    def __call__(self, *_: object) -> None:
        self.memory[:8] = (self.count + 1).to_bytes(8, "little")
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function, saving: bool = False):  # type: ignore[no-untyped-def]
        def ticking(*args, **keywords):  # type: ignore[no-untyped-def]
            if saving:
                self.memory[8:9], saves = b"s", self.memory[10]
                self.memory[16 + 8 * saves:24 + 8 * saves] = self.memory[:8]
                self.memory[10] = saves + 1
            self()
            result = function(*args, **keywords)
            if saving:
                self.memory[8:9] = b"-"
            return result

        return ticking


def run(out: str | None, images: int = 48, save_every: int = 16, stop: int | None = None, ticks: str | None = None,
        kill_at: int = -1, file_limit: int | None = None, user: int | None = None, report: str | None = None,
        precision: str = "auto", preview: bool = False, **changes: object) -> None:
    """One job. stop: leave the loop after that step. ticks: count events there; kill_at: die by SIGKILL at that event.
    preview: with pictures, whose writing then is a save of its own, and each of its file operations an event.

    file_limit: the largest file that can be written, in bytes. user: become that user. report: write there what was said.
    """
    torch.set_num_threads(1)
    used = recipe(**changes, **{"preview": painted} if preview else {})
    if ticks is not None:

        tick = Ticks(ticks, kill_at)
        pictures = ((os, "replace", False), (os, "chmod", False), (tempfile, "mkstemp", False), (Run, "preview", True))
        for module, name, saving in (*pictures * preview,
                                     (os, "fsync", False), (os, "rename", False), (checkpoint, "write_file", False),
                                     (shutil, "rmtree", False), (checkpoint.CheckpointStore, "save", True),
                                     (Run, "take_step", False), (Ema, "update", False)):
            setattr(module, name, tick.around(getattr(module, name), saving))


        def slow_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            tick()
            time.sleep(0.005)  # so that steps last about as long as saves, and kills find both
            return loss(model, batch)

        used = replace(used, loss=slow_loss)
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    if user is not None:
        os.seteuid(user)
    said: list[str] = []
    try:
        for state in fit(used, images=images, out=out, save_every=save_every, preview_every=save_every, device="cpu",
                         precision=precision, log=said.append):
            if state.step == stop:
                break
    except ValueError as error:
        said.append(f"{type(error).__name__}: {error}")
    if report is not None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.seteuid(os.getuid())
        Path(report).write_text("\n".join(said))


def serve() -> None:
    """Fork a child for every job line; reap it when a line says so, so that its number stays its own until then."""
    run(None, images=4)  # the first step of a process imports half of torch
    print("ready", flush=True)
    pid = 0
    for line in sys.stdin:
        job = json.loads(line)
        if job == "reap":
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(**job)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                if job.get("ticks"):
                    Ticks(job["ticks"]).done = True
                os._exit(code)
        print(pid, flush=True)


class Nursery:
    """Starts jobs in processes that cost a fork instead of an import of torch."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, "serve"], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        assert self._line() == "ready"

    def _line(self) -> str:
        return self.process.stdout.readline().strip()

    def _tell(self, message: object) -> None:
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def start(self, **job: object) -> int:
        """Returns the child's process id, which stays valid until :meth:`wait`."""
        self._tell(job)
        return int(self._line())

    def wait(self) -> int:
        """Exit code of the child; -9 if it was killed."""
        self._tell("reap")
        return int(self._line())

    def do(self, **job: object) -> int:
        self.start(**job)
        return self.wait()

    def do_and_kill(self, at: int, delay: float, ticks: Path, **job: object) -> tuple[int, bool]:
        """Kill the child ``delay`` seconds after its event number ``at``. Returns (exit code, was it saving)."""
        ticks.write_bytes(bytes(SIZE))
        seen = Ticks(str(ticks))
        pid = self.start(ticks=str(ticks), **job)
        while seen.count < at and not seen.done:
            time.sleep(0.0002)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        return self.wait(), seen.saving

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)


def together(out: str, rows: str) -> None:
    """One of several processes: train without dropout, then write which rows this one saw to ``rows`` + rank."""
    seen = []

    def noting_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(batch["t"].tolist())
        return loss(model, batch)

    run(out, plain=True, loss=noting_loss, precision="float32", report=f"{rows}-said" if os.environ["RANK"] == "0" else None)
    Path(f"{rows}-{os.environ['RANK']}").write_text(json.dumps(seen))


def main(word: str, job: str = "{}") -> None:
    {"serve": serve, "once": run, "team": together}[word](**json.loads(job))


if __name__ == "__main__":
    main(*sys.argv[1:])
