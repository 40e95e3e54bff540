"""The processes of ``minidiff remake``: all that are ready train side by side, one word starts each, a closed pipe stops it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch

from minidiff.recipes.pack import Pack
from minidiff.recipes.remake_worker import facts, publish_stopped, write_state
from minidiff.train import Recipe

__all__ = ["GRACE", "Jobs", "Row"]

GRACE = 20.0            # seconds between the word to stop and the kill
POLL = 0.05
HEAD_START = 8.0        # seconds that the first jobs have the cores to themselves
TAIL = 12               # lines of the log of a job that failed
_HAS = {"failed": "failed", "stopped": "was stopped", "not started": "was not started"}


@dataclass
class Row:
    """A job of a remake. state: waiting, running, done, stopped, failed or not started. minutes: the length of its run.

    lane: of two jobs of one lane the second waits until the first is over; None: beside all others.
    """

    name: str
    needs: tuple[str, ...]
    minutes: float
    lane: int | None = None
    state: str = "waiting"
    note: str = ""
    facts: dict[str, float] = field(default_factory=dict)
    child: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None
    went: float = 0.0                                          # when it was told to go

    @property
    def open(self) -> bool:
        return self.state in ("waiting", "running")


class Jobs:
    """The parent: starts processes, says "go", listens for their ends, packs."""

    def __init__(self, rows: dict[str, Row], out: Path, device: torch.device, budget: str, minutes: float | None,
                 pack: Pack | None, log: Callable[[str], None]) -> None:
        self.rows, self.out, self.device, self.budget, self.pack, self.log = rows, out, device, budget, pack, log
        self.start = time.monotonic()
        self.by_clock = minutes is not None
        self.end = math.inf if minutes is None else self.start + 60 * minutes
        self.margin = 0.0 if minutes is None else min(10.0, 0.03 * 60 * minutes)      # to publish in, after training
        cores = os.cpu_count() or 2
        self.slots = len(rows) if device.type == "cuda" else max(1, cores // 2)
        beside = len({row.name if row.lane is None else row.lane for row in rows.values()})
        self.threads = max(2, cores // max(1, min(self.slots, beside)))
        self._packed = True
        self._cost = [self.margin / 3]                        # seconds that jobs took beside training: loading, publishing

    def run(self, make: Callable[[str], Recipe]) -> list[Row]:
        """Train until all is done or the minutes are over; make: the recipe of a name."""
        before, os.environ["MINIDIFF_DATA"] = os.environ.get("MINIDIFF_DATA"), str(self.out / "data")
        try:
            for row in self.rows.values():
                self._take_up(row)
            try:
                while any(row.open for row in self.rows.values()) and time.monotonic() < self.end:
                    self._round()
                    if not self._packed:
                        self._write_pack()
                    time.sleep(POLL)
            finally:
                self._stop()
            self._salvage(make)
        finally:
            os.environ.pop("MINIDIFF_DATA") if before is None else os.environ.update(MINIDIFF_DATA=before)
        self._write_pack()
        return list(self.rows.values())

    def _take_up(self, row: Row) -> None:
        """What an earlier call left: a job that is done stays done, any other begins where its checkpoint is."""
        file = self.out / "jobs" / f"{row.name}.json"
        if file.exists():
            there = json.loads(file.read_text(encoding="utf-8"))
            if there["state"] == "done" and (self.out / "data" / row.name / "card.json").exists():
                row.state, row.note = "done", "in an earlier call"
            else:
                file.unlink()
        row.facts = facts(self.out / "runs" / row.name)
        if self.by_clock:
            row.minutes = row.facts.get("planned", row.minutes)      # a run by the clock keeps its length

    def _spawn(self, row: Row) -> None:
        log = self.out / "logs" / f"{row.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        row.log = open(log, "ab")  # noqa: SIM115 (open as long as the child)
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        ours = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        row.child = subprocess.Popen(
            [sys.executable, "-m", "minidiff.recipes.remake_worker", row.name, "--out", str(self.out), "--device",
             str(self.device), "--budget", self.budget],
            stdin=subprocess.PIPE, stdout=row.log, stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(self.threads)} | os.environ | ours,
            process_group=0 if os.name == "posix" else None)        # Ctrl-C in a terminal reaches the parent alone

    def _round(self) -> None:
        for row in self.rows.values():
            if row.open and row.child is not None and row.child.poll() is not None:
                self._ended(row)
        for row in self.rows.values():
            bad = [n for n in row.needs if n in self.rows and self.rows[n].state in ("failed", "stopped", "not started")]
            if row.state == "waiting" and bad:
                self._finish(row, "not started", f"needs {bad[0]}, which {_HAS[self.rows[bad[0]].state]}")
        for row in self.rows.values():
            running = [r for r in self.rows.values() if r.state == "running"]
            free = len(running) < self.slots and (row.lane is None or all(r.lane != row.lane for r in running))
            if row.state == "waiting" and free and all(n not in self.rows or self.rows[n].state == "done" for n in row.needs):
                self._go(row)
        if self.device.type == "cuda" and time.monotonic() - self.start > HEAD_START:
            self._warm_up()

    def _warm_up(self) -> None:
        """Start the processes of the next two jobs of each lane, so that they import while others train."""
        seen: dict[object, int] = {}
        for row in self.rows.values():
            if row.state == "waiting":
                lane = row.name if row.lane is None else row.lane
                seen[lane] = seen.get(lane, 0) + 1
                if row.child is None and seen[lane] <= 2:
                    self._spawn(row)

    def _left(self, row: Row) -> float:
        """Minutes that a job has still to train."""
        return max(row.minutes - row.facts.get("minutes", 0.0), 0.0)

    def _all(self, row: Row) -> float:
        """Those, and what it takes to load and to publish."""
        return self._left(row) + sum(self._cost) / len(self._cost) / 60

    def _chain(self, row: Row) -> float:
        """Minutes from the start of ``row`` to the end of the last job that needs it, publishing included."""
        after = [self._chain(r) for r in self.rows.values() if r.state == "waiting" and row.name in r.needs]
        return self._all(row) + max(after, default=0.0)

    def _go(self, row: Row) -> None:
        if row.child is None:
            self._spawn(row)
        minutes = 0.0
        if self.by_clock:
            left = max(0.0, self.end - self.margin - time.monotonic()) / 60
            waiting = [r for r in self.rows.values() if r.state == "waiting"]
            behind = sum(self._all(r) for r in waiting if row.lane is not None and r.lane == row.lane)
            longest = max(self._chain(row), behind, sum(map(self._all, waiting)) / self.slots, 1e-9)
            minutes = row.minutes if "planned" in row.facts else max(min(1.0, left / longest) * row.minutes, 0.01)
        try:
            row.child.stdin.write(f"go {minutes!r}\n".encode())
            row.child.stdin.flush()
        except OSError:                                       # it is gone already; the next round says why
            pass
        row.state, row.went = "running", time.monotonic()
        self._tell(f"{row.name}: goes" + (f" for {minutes:.2f} minutes" if minutes else ""))

    def _ended(self, row: Row) -> None:
        """A process is gone: its state file, or its exit code and the end of its log, say how."""
        file = self.out / "jobs" / f"{row.name}.json"
        if file.exists():
            told = json.loads(file.read_text(encoding="utf-8"))
            self._finish(row, told["state"], told["note"])
        else:
            if row.child.returncode == 0:
                return self._finish(row, "stopped", "before it began")
            lines = (self.out / "logs" / f"{row.name}.log").read_text(errors="replace").splitlines()[-TAIL:]
            self._finish(row, "failed", f"exit code {row.child.returncode}")
            self.log("\n".join(f"    {line}" for line in lines))

    def _finish(self, row: Row, state: str, note: str) -> None:
        before, row.facts = row.facts.get("minutes", 0.0), facts(self.out / "runs" / row.name)
        row.state, row.note = state, note
        if state == "done":
            self._cost.append(max(0.0, time.monotonic() - row.went - 60 * (row.facts["minutes"] - before)))
        for end in (row.child.stdin if row.child else None, row.log):
            if end is not None:
                try:
                    end.close()
                except OSError:
                    pass
        self._tell(f"{row.name}: {state}" + (f" ({note})" if note else ""))
        self._packed = self._packed and state not in ("done", "stopped")

    def _stop(self) -> None:
        """Close every job's input: one that waits exits, one that trains saves and publishes; the late ones are killed."""
        asked = [row for row in self.rows.values() if row.open]
        for row in asked:
            if row.child is not None:
                try:
                    row.child.stdin.close()
                except OSError:
                    pass
        limit = time.monotonic() + GRACE
        while any(r.state == "running" for r in asked) and time.monotonic() < limit:
            for row in [r for r in asked if r.state == "running" and r.child.poll() is not None]:
                self._ended(row)
            time.sleep(POLL)
        for row in asked:
            if row.child is not None and row.child.poll() is None:
                row.child.kill()
            if row.child is not None:
                row.child.wait()
            if row.state == "running":
                self._finish(row, "stopped", f"killed {GRACE:g} s after the end")
            elif row.state == "waiting":
                waits = [n for n in row.needs if n in self.rows and self.rows[n].state != "done"]
                self._finish(row, "not started", f"time was over before {waits[0]} was done" if waits else "time was over")

    def _salvage(self, make: Callable[[str], Recipe]) -> None:
        """Publish the newest checkpoints of jobs that failed or were killed, marked so on their cards."""
        for row in self.rows.values():
            if row.state in ("failed", "stopped") and not (self.out / "jobs" / f"{row.name}.json").exists():
                try:
                    kept = publish_stopped(make(row.name), self.out, row.note or "its training failed")
                except Exception as error:  # noqa: BLE001 (one model must not cost the others)
                    kept, row.note = False, f"{row.note}; cannot be published: {error}"
                row.note += "; its last checkpoint is published" if kept else "; nothing to publish"
                write_state(self.out, row.name, row.state, row.note)

    def _write_pack(self) -> None:
        self._packed = True
        try:
            if self.pack is not None:
                for sentence in self.pack.write(self.out, [row.name for row in self.rows.values() if not row.open]):
                    self.log(sentence)
        except OSError as error:                              # a full disk must not cost what is being trained
            self.log(f"cannot pack: {error}")

    def _tell(self, sentence: str) -> None:
        self.log(f"[{time.monotonic() - self.start:6.1f} s] {sentence}")
