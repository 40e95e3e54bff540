"""``minidiff remake``: trains the models that ship, each in a process of its own, in the order in which they need each other.

    out/data/NAME     what this remake made, and what its jobs need of what ships: all that the jobs load
    out/runs/NAME     checkpoints, losses and previews
    out/logs/NAME.log out/jobs/NAME.json      what a job printed, and how it ended

Killed anywhere and called again with the same arguments it goes on: what is done stays, what is not resumes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import filelock

from minidiff.errors import BadInput, check_choice, require
from minidiff.files import data_folder, replace, replace_folder
from minidiff.manifest import in_part, read_card
from minidiff.recipes.jobs import Jobs, Row
from minidiff.recipes.pack import Pack
from minidiff.recipes.remake_worker import table
from minidiff.train.speed import pick_device
from minidiff.zoo.parts import check_files, write_whole

__all__ = ["NINE", "remake", "table_of"]

NINE = 9.0              # the minutes that the plan speaks of


def remake(names: Sequence[str] = (), *, out: str | Path = "runs/remake", minutes: float | None = NINE, device: str | None = None,
           budget: str = "gpu", pack: str | Path | None = None, log: Callable[[str], None] = print) -> list[Row]:
    """Train the named models (all of the plan when there are none) into ``out``; returns how each job ended.

    minutes: of wall clock in all; the plan's shares of nine are scaled to it and each job ends with its learning rate at zero.
    None: each job sees the images of its budget, however long that takes. On CUDA the jobs of different lanes of the plan
    run side by side; on a CPU one job runs for each two cores. When the minutes are over, jobs that still train
    save and are published as they are. What a job needs and is not named is taken from the shipped models. pack: folder for
    archives of what is made, written anew whenever a job ends (see :class:`~minidiff.recipes.pack.Pack`).

    Raises BadInput before anything starts. A job that fails stops only the jobs that need it.
    """
    plan, make = table()
    for name in names:
        check_choice("NAME", name, plan)
    require(minutes is None or minutes > 0, "--minutes", minutes, "a positive number of minutes", "--minutes 9")
    place = pick_device(device)
    out, shipped = Path(out).resolve(), data_folder().resolve()
    scale = 1.0 if minutes is None else minutes / NINE
    wanted = [name for name in plan if name in names or not names]
    rows = {name: Row(name, tuple(plan[name].needs), plan[name].minutes * scale, getattr(plan[name], "lane", None))
            for name in wanted}
    require(out / "data" != shipped, "--out", str(out), "a folder beside that of the shipped models", "--out runs/remake")
    _check_order(rows)
    for name in sorted({need for row in rows.values() for need in row.needs} - set(rows)):
        require((shipped / name / "card.json").is_file(), "NAME", f"models that need {name!r}, which is not shipped",
                f"{name} among the names", f"minidiff remake {name} {' '.join(names)}")
    require(pack is None or Path(pack).is_dir() or not Path(pack).exists(), "--pack", f"{str(pack)!r}, a file", "a folder",
            "--pack runs/packed")
    out.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(out / ".lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BadInput("--out", f"{str(out)!r}, where another remake is writing now", "a folder for this remake alone",
                       "--out runs/remake-2") from None
    try:
        _check_arguments(out, budget, minutes)
        _copy_needs(rows, shipped, out)
        archive = None if pack is None else Pack(Path(pack))
        return Jobs(rows, out, place, budget, minutes, archive, log).run(make)
    finally:
        lock.release()


def _check_order(rows: Mapping[str, Row]) -> None:
    settled: set[str] = set()
    while len(settled) < len(rows):
        ready = {r.name for r in rows.values() if r.name not in settled and all(n in settled or n not in rows for n in r.needs)}
        left = ", ".join(sorted(set(rows) - settled))
        require(bool(ready), "plan", f"jobs that wait for each other ({left})", "an order in which each can be made")
        settled |= ready


def _check_arguments(out: Path, budget: str, minutes: float | None) -> None:
    """Refuse to go on from a remake that was planned otherwise."""
    file, mine = out / "remake.json", {"budget": budget, "minutes": minutes}
    there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else mine
    require(there == mine, "--out", f"{str(out)!r}, which holds a remake with {there}", f"the same arguments, here {mine}",
            "--out runs/remake-2")
    replace(file, json.dumps(mine) + "\n")


def _copy_needs(rows: Mapping[str, Row], shipped: Path, out: Path) -> None:
    for name in sorted({need for row in rows.values() for need in row.needs} - set(rows)):
        folder = out / "data" / name
        if not folder.exists():
            fresh = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(fresh, ignore_errors=True)
            check_files(name, shipped)
            if in_part(read_card(shipped / name)):
                fresh.mkdir(parents=True)
                write_whole(shipped / name, shipped, fresh)
            else:
                shutil.copytree(shipped / name, fresh)
            replace_folder(fresh, folder)


def table_of(rows: Sequence[Row]) -> str:
    """The end of a remake as lines of text."""
    lines = [f"{'name':24} {'minutes':>7} {'images':>12} {'images/s':>9} {'loss':>9}  state"]
    for row in rows:
        f = row.facts or {"minutes": 0.0, "images": 0, "rate": 0.0, "loss": math.nan}
        state = row.state + (f": {row.note}" if row.note else "")
        lines.append(f"{row.name:24} {f['minutes']:7.2f} {f['images']:12,} {f['rate']:9,.0f} {f['loss']:9.4f}  {state}")
    return "\n".join(lines)
