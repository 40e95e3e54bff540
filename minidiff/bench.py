"""``minidiff bench``: how fast this machine renders, reads, trains and samples. Timings live here and in no test."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence

import torch

from minidiff.options import device as device_name
from minidiff.options import whole
from minidiff.show import plural

__all__ = ["main", "rate"]


def rate(work: Callable[[], object], amount: int, *, seconds: float = 2.0) -> float:
    """``amount`` per second of ``work()``: the median of as many runs as fit into ``seconds``, after one to warm up."""
    cuda = torch.cuda.is_available()

    def once() -> float:
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        times.append(once())
    return amount / sorted(times)[len(times) // 2]


def _rows(device: torch.device) -> list[tuple[str, float, str]]:
    from minidiff.diffusion import Eps, ddim, last, linear
    from minidiff.measure.reader import Reader
    from minidiff.nets import UNet
    from minidiff.recipes import PIXEL_NET, recipe
    from minidiff.rng import normal
    from minidiff.train import fit
    from minidiff.world import WorldData, render, sample_scenes

    rows = []
    for level, size in (("simple", 32), ("simple", 64), ("full", 64)):
        scenes = sample_scenes(torch.arange(512, device=device), level=level)
        with torch.no_grad():
            rows.append(
                (f"render, {level} scenes at {size} x {size}", rate(lambda s=scenes, p=size: render(s, p), 512), "scenes/s")
            )
    net = UNet(**PIXEL_NET).to(device, memory_format=torch.channels_last).eval()
    x = normal((32, 3, 32, 32), "bench").to(device)
    t = torch.full((32,), 500, device=device)
    with torch.no_grad():
        rows.append(("pixel-ddpm network, batch 32", rate(lambda: net(x, t), 32), "evaluations/s"))
        model = Eps(net, linear(1000))
        rows.append(("8 pictures by DDIM, 20 steps", 1 / rate(lambda: last(ddim(model, x[:8], steps=20)), 1), "s"))
        reader = Reader().to(device).eval()
        images = WorldData(64, "test", "full").batch(0, 64)[0].to(device)
        rows.append(("reader at 64 x 64, batch 64", rate(lambda: reader(images), 64), "pictures/s"))
    for name in ("pixel-ddpm", "readers/final"):
        states = fit(recipe(name), device=device, log=lambda _: None)
        next(states)
        rows.append((f"train {name}", rate(lambda s=states: [next(s) for _ in range(4)], 4 * recipe(name).batch), "images/s"))
        states.close()
    return rows


def main(argv: Sequence[str] = ()) -> int:
    """Print the table; ``--device`` picks another device than the best there is, ``--threads`` how many threads."""
    options = argparse.ArgumentParser(prog="minidiff bench")
    options.add_argument("--device", type=device_name, default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--threads", type=whole(1, 4096))
    given = options.parse_args(argv)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{name}, {plural(torch.get_num_threads(), 'thread')}, torch {torch.__version__}")
    for what, value, unit in _rows(device):
        print(f"{what:40} {value:10.4g} {unit}")
    return 0
