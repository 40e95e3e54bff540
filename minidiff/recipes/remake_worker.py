"""One job of ``minidiff remake``, in a process of its own: import, wait for "go" on standard input, train, publish, report.

When its standard input ends (the parent says so, or is gone) a job that waits exits, and one that trains saves, publishes what
it has and exits. The environment variable MINIDIFF_PLAN may name a module with ``PLAN`` and ``recipe`` of its own, in place
of the course's table; ``minidiff remake`` and its jobs then make those models.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import torch

from minidiff.errors import BadInput, CheckpointError
from minidiff.files import replace
from minidiff.manifest import update_card
from minidiff.recipes import publish, recipe
from minidiff.train import Progress, Recipe, fit, newest_meta, read_losses

__all__ = ["Channel", "facts", "main", "publish_stopped", "table", "write_state"]


def table() -> tuple[Mapping[str, Any], Callable[[str], Recipe]]:
    """The jobs by name (each with .needs, .minutes of nine and .lane) and how a recipe is made from a name."""
    module = importlib.import_module(os.environ.get("MINIDIFF_PLAN") or "minidiff.recipes.schedule")
    return module.PLAN, getattr(module, "recipe", recipe)


def facts(run: Path) -> dict[str, Any]:
    """Minutes trained, images seen, images a second and the mean of the last losses, as the folder of a run says.

    "planned": the minutes that a run by the clock was planned for.
    """
    meta = newest_meta(run)
    if meta is None:
        return {"minutes": 0.0, "images": 0, "rate": 0.0, "loss": float("nan")}
    planned = meta["settings"].get("seconds_planned")
    try:
        losses = read_losses(run)
    except CheckpointError:                                   # a damaged file: the job mends it when it goes on
        losses = torch.empty(0)
    losses = losses[-max(1, len(losses) // 50):]
    seconds = float(meta["seconds"])
    return {"minutes": round(seconds / 60, 3), "images": meta["images"], "rate": round(meta["images"] / max(seconds, 1e-9), 1),
            "loss": round(float(losses.nanmean()), 5) if len(losses) else float("nan"),
            **({} if planned is None else {"planned": planned / 60})}


def write_state(out: Path, name: str, state: str, note: str = "") -> None:
    """Say in ``out/jobs/NAME.json`` how a job ended; the last thing a job does."""
    file = out / "jobs" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    replace(file, json.dumps({"state": state, "note": note, **facts(out / "runs" / name)}, indent=1) + "\n")


def publish_stopped(one: Recipe, out: Path, why: str) -> bool:
    """Publish what was saved of a run that did not end, and say so on its card; False where nothing was saved."""
    if newest_meta(out / "runs" / one.name) is None:
        return False
    folder = publish(one, out / "runs" / one.name, root=out / "data")
    update_card(folder, stopped=why)
    return True


class Channel:
    """Standard input as the parent's voice: "go MINUTES" starts the job, its end stops it.

    The end comes as one Ctrl-C in the main thread, and only inside :meth:`interruptible`.
    """

    def __init__(self, file: int = 0) -> None:
        self.ended, self.minutes = False, None
        self._file, self._change, self._open = file, threading.Condition(), False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        said = b""
        while part := os.read(self._file, 4096):
            said += part
            if b"\n" in said and said.startswith(b"go "):
                with self._change:
                    self.minutes = float(said.split()[1])
                    self._change.notify()
        with self._change:
            self.ended = True
            self._change.notify()
            if self._open:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def wait(self) -> float | None:
        """Minutes (0: by images), or None when there is nothing to do any more."""
        with self._change:
            self._change.wait_for(lambda: self.ended or self.minutes is not None)
            return None if self.ended else self.minutes

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Where the end of the input is a KeyboardInterrupt."""
        with self._change:
            if self.ended:
                raise KeyboardInterrupt
            self._open = True
        try:
            yield
        finally:
            with self._change:
                self._open = False


def _warm(device: str) -> None:
    """What costs seconds on CUDA and needs no other model: the context and the libraries' imports (optimisers import dynamo)."""
    torch.zeros(1, device=device)
    for module in ("torch._dynamo", "diffusers.models.unets.unet_2d_condition",
                   "diffusers.models.autoencoders.autoencoder_kl", "transformers.models.clip.modeling_clip",
                   "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"):
        try:
            importlib.import_module(module)
        except ImportError as error:                          # a job that needs it says so itself; the others can do without
            print(f"{module}: {error}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit code, 0 when it is done or was stopped in good order."""
    top = argparse.ArgumentParser(prog="minidiff.recipes.remake_worker")
    top.add_argument("name")
    top.add_argument("--out", required=True, type=Path)
    top.add_argument("--device", required=True)
    top.add_argument("--budget", required=True)
    given = top.parse_args(argv)
    channel = Channel()
    one, run = table()[1](given.name), given.out / "runs" / given.name
    if given.device.startswith("cuda"):
        _warm(given.device)
    print(f"ready, process {os.getpid()}", flush=True)
    minutes = channel.wait()
    if minutes is None:
        return 0
    run.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(run / ".lock", timeout=60):        # the job of a remake that was killed is still saving
        pass
    print(f"{one.name}: {f'{minutes:.2f} minutes' if minutes else given.budget} on {given.device}", flush=True)
    clock = {"minutes": minutes, "by_clock": True} if minutes else {}
    start, stopped = time.monotonic(), False
    try:
        with channel.interruptible(), contextlib.closing(
                fit(one, budget=given.budget, device=given.device, out=run, **clock)) as states:
            collections.deque(Progress(states, log=lambda line: print(line, flush=True)), maxlen=0)
    except KeyboardInterrupt:
        stopped = True
    print(f"trained for {time.monotonic() - start:.1f} s{', stopped' if stopped else ''}", flush=True)
    start, note = time.monotonic(), ""
    if stopped:
        note = "before its minutes were over" if minutes else "before its images were seen"
        if not publish_stopped(one, given.out, note):
            note = "before anything was saved"
    else:
        publish(one, run, root=given.out / "data")
    print(f"published in {time.monotonic() - start:.1f} s", flush=True)
    write_state(given.out, one.name, "stopped" if stopped else "done", note)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BadInput as error:
        sys.exit(f"{type(error).__name__}: {error}")
