"""``minidiff bench``: how fast this machine draws, trains and samples, and in which settings. Timings live here, in no test."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from minidiff.bench_settings import CLOCKS, NETWORKS, Clock, Row, interleaved, network_rows, peak_rate
from minidiff.errors import BadInput, check_choice, require
from minidiff.options import device as device_name
from minidiff.options import number, whole

__all__ = ["main"]


def _world_rows(device: torch.device, seconds: float, clock: Clock) -> Iterator[Row]:
    from minidiff.world import render, sample_scenes

    for level, size in (("simple", 32), ("simple", 64), ("full", 64)):
        scenes = sample_scenes(torch.arange(512, device=device), level=level)
        with torch.no_grad():
            second = interleaved({"": lambda s=scenes, p=size: render(s, p)}, seconds, clock)[""]
        yield Row(f"render, {level} scenes at {size} x {size}", 512 / second, "scenes/s")


def _recipe_rows(device: torch.device, seconds: float, clock: Clock) -> Iterator[Row]:
    """The training loop as it is, pictures drawn and moments kept."""
    from minidiff.recipes import recipe
    from minidiff.train import fit

    for name in ("pixel-ddpm", "readers/final"):
        states = fit(recipe(name), device=device, log=lambda _: None)
        second = interleaved({"": lambda s=states: next(s)}, seconds, clock)[""]
        yield Row(f"minidiff train {name}", recipe(name).batch / second, "images/s")
        states.close()


def _peer_rows(given: argparse.Namespace) -> Iterator[Row]:
    """The same work by others."""
    from minidiff.bench_peers import CONTESTS, compare, setup

    place = Path(given.peers)
    if given.setup:
        for peer, why in setup(place):
            yield Row(f"set up: {peer}", float(not why), "", why)
    for name in given.files or CONTESTS:
        contest = CONTESTS[name]
        if not given.compile:
            contest = contest._replace(sides=tuple(side for side in contest.sides if not side.work.endswith("compiled")))
        yield from compare(contest, place, given.seconds, given.clock)


def _page_rows(files: Sequence[str]) -> Iterator[Row]:
    """The time of every page, run from the top on a copy, its kernel's start included."""
    from minidiff.notebooks import find, run

    for book in find(list(files)):
        with tempfile.TemporaryDirectory(prefix="minidiff-") as place:
            page = Path(shutil.copy(book, place))
            start = time.perf_counter()
            run(page, timeout=900)
            yield Row(book.name, time.perf_counter() - start, "s")


def _memory_rows(device: torch.device) -> Iterator[Row]:
    """The most this process has held; Windows does not say."""
    if device.type == "cuda":
        yield Row("most memory held", torch.cuda.max_memory_allocated(device) / 2**20, "MiB")
    elif platform.system() != "Windows":
        import resource
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield Row("most memory held", most / (2**20 if platform.system() == "Darwin" else 2**10), "MiB")


def main(argv: Sequence[str] = ()) -> int:
    """Print the table; ``minidiff bench --help`` says what there is."""
    options = argparse.ArgumentParser(prog="minidiff bench", description="Measure this machine; the fastest setting is marked.")
    options.add_argument("part", nargs="?", default="networks", help=f"networks (all), one of {', '.join(NETWORKS)}, world "
                         "(renderer), recipes (whole training loops), peers (other libraries), or notebooks")
    options.add_argument("files", nargs="*", help="with notebooks and peers: which (sample, train, zero, excite, words); all if "
                         "left out")
    options.add_argument("--setup", action="store_true", help="with peers: first make the environments of those that the course "
                         "does not itself use, from PyPI")
    options.add_argument("--peers", default="runs/peers", help="with peers: the folder of those environments")
    options.add_argument("--compile", action="store_true", help="torch.compile too: some 20 s more for each network and setting")
    options.add_argument("--seconds", type=number(0, 3600), default=2.0, help="for each comparison")
    options.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: its own time, for a machine that others use")
    options.add_argument("--json", action="store_true", help="a list of rows in place of the table")
    options.add_argument("--device", type=device_name, default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--threads", type=whole(1, 4096))
    given = options.parse_args(argv)
    parts = ("networks", *NETWORKS, "world", "recipes", "peers", "notebooks")
    if given.part not in parts:
        raise BadInput("part", repr(given.part), f"one of {', '.join(parts)}", "minidiff bench networks")
    require(not given.files or given.part in ("notebooks", "peers"), "files", " ".join(given.files),
            "files beside notebooks, or contests beside peers", "minidiff bench notebooks FILE")
    require(not given.setup or given.part == "peers", "--setup", f"beside {given.part}", "peers", "minidiff bench peers --setup")
    if given.part == "peers":
        from minidiff.bench_peers import CONTESTS
        for name in given.files:
            check_choice("contest", name, CONTESTS)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    title = f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {given.clock} time"
    if not given.json:
        print(title, flush=True)
    rows = []
    for row in _rows(given, device):
        rows.append(row)
        if not given.json:
            print(f"{row.what:52} {row.value:10.4g} {row.unit:9} {row.note}".rstrip(), flush=True)
    if given.json:
        print(json.dumps({"machine": title, "rows": [row._asdict() for row in rows]}, indent=1))
    return 0


def _rows(given: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    if given.part == "notebooks":
        yield from _page_rows(given.files)
        return
    if given.part == "peers":
        yield from _peer_rows(given)
        return
    clock = CLOCKS[given.clock]
    if given.part in ("networks", *NETWORKS):
        peak = peak_rate(device, given.seconds, clock)
        yield Row("product of two 1024 x 1024 matrices, float32", peak / 1e9, "GFLOP/s", "the peak below")
        for name in NETWORKS if given.part == "networks" else (given.part,):
            yield from network_rows(name, device, given.seconds, clock, given.compile, peak)
    else:
        yield from {"world": _world_rows, "recipes": _recipe_rows}[given.part](device, given.seconds, clock)
    yield from _memory_rows(device)
