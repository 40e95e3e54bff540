"""The settings that a network can run in, and how fast each is on this machine.

Every network runs plainly (eager, float32, as :func:`minidiff.load` lays it out) and in the other settings in turn, so that
what else the machine does weighs on all alike; each time is the median. A setting counts only where its output stays within
:data:`TOLERANCE` of the plain one.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["CLOCKS", "NETWORKS", "SETTINGS", "TOLERANCE", "Clock", "Row", "Setting", "interleaved", "network_rows", "peak_rate",
           "settings_of"]

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
TOLERANCE = {"float32": 1e-4, "bf16": 2 / 255}      # mean difference over the mean size of the plain output
NETWORKS = ("pixel-ddpm", "pixel-guided", "mini-sd", "mini-vae", "readers/final")


class Setting(NamedTuple):
    """One way to run a network."""

    compiled: bool
    dtype: str
    layout: str

    def __str__(self) -> str:
        return f"{'compiled' if self.compiled else 'eager'} {self.dtype} {self.layout}"


PLAIN = Setting(False, "float32", "channels_last")  # how load() hands a network out
SETTINGS = [Setting(c, d, m) for c in (False, True) for d in TOLERANCE for m in ("channels_last", "NCHW")]


class Row(NamedTuple):
    """One line of the table. note: what else is to be said of it."""

    what: str
    value: float
    unit: str
    note: str = ""


def interleaved(works: Mapping[Any, Callable[[], object]], seconds: float, clock: Clock) -> dict[Any, float]:
    """Median seconds of each of ``works``, run in turn: three rounds at least, then as many as fit into ``seconds``, after one
    to warm up. What slows the machine for a while slows all of them."""
    for work in works.values():
        work()
    times: dict[Any, list[float]] = {name: [] for name in works}
    begin = clock()
    while len(next(iter(times.values()))) < 3 or clock() - begin < seconds:
        for name, work in works.items():
            start = clock()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(clock() - start)
    return {name: sorted(found)[len(found) // 2] for name, found in times.items()}


def peak_rate(device: torch.device, seconds: float, clock: Clock) -> float:
    """Floating-point operations a second in a large float32 product: what the shares are taken of."""
    a = torch.randn(1024, 1024, device=device)
    return 2 * 1024**3 / interleaved({"": lambda: a @ a}, seconds, clock)[""]


def _case(name: str, device: torch.device) -> tuple[nn.Module, Callable[[nn.Module], Tensor], int]:
    """A shipped network, a call of it on a fixed batch, and how many rows that has."""
    from minidiff.latent import encode_prompt
    from minidiff.latent.pipeline import TextUNet
    from minidiff.rng import normal
    from minidiff.zoo import load

    model, n = load(name, device=device), 16
    t = torch.full((n,), 500, device=device)
    if name == "mini-sd":
        x = normal((n, model.unet.config.in_channels, 16, 16), "bench").to(device)
        context = encode_prompt(model, ["a red cat on the grass"] * n)
        return TextUNet(model.unet), lambda net: net(x, t, context), n
    if name == "mini-vae":
        z = normal((n, model.config.latent_channels, 16, 16), "bench").to(device)
        return model.decoder, lambda net: net(z), n
    if name.startswith("readers/"):
        from minidiff.world import WorldData
        images = WorldData(64, "test", "full").batch(0, n)[0].to(device)
        return model, lambda net: net(images)[0], n
    x = normal((n, 3, 32, 32), "bench").to(device)
    wide = model.net.config.get("cond_dim")
    cond = torch.ones(n, wide, device=device) / wide if wide else None
    return model.net, lambda net: net(x, t) if cond is None else net(x, t, cond), n


def settings_of(net: nn.Module, call: Callable[[nn.Module], Tensor], device: torch.device, settings: Sequence[Setting]
                ) -> tuple[dict[Setting, Callable[[bool], Tensor]], dict[Setting, float], dict[Setting, str]]:
    """The network in each setting: what runs it (True: with gradients, backwards too), how far its output is from the plain
    one's (mean difference over mean size), and why a setting cannot run here."""
    runs: dict[Setting, Callable[[bool], Tensor]] = {}
    off: dict[Setting, float] = {}
    lost: dict[Setting, str] = {}
    with torch.no_grad():
        plain = call(net).float()
    for setting in settings:
        layout = torch.channels_last if setting.layout == "channels_last" else torch.contiguous_format
        one = copy.deepcopy(net).requires_grad_(True).to(memory_format=layout)
        if setting.compiled:
            one.compile()

        def run(learn: bool, one: nn.Module = one, low: bool = setting.dtype == "bf16") -> Tensor:
            cast = torch.autocast(device.type, dtype=torch.bfloat16) if low else contextlib.nullcontext()
            with torch.set_grad_enabled(learn), cast:
                out = call(one)
            if learn:
                out.float().square().mean().backward()
                one.zero_grad(set_to_none=True)
            return out.detach()

        try:
            out = run(False).float()
        except Exception as error:  # noqa: BLE001  a compiler that is not there, whatever it raises
            lost[setting] = (str(error).strip().splitlines() or [type(error).__name__])[0][:60]
            continue
        runs[setting], off[setting] = run, float((out - plain).abs().mean() / plain.abs().mean())
    return runs, off, lost


def network_rows(name: str, device: torch.device, seconds: float, clock: Clock, compiled: bool, peak: float) -> Iterator[Row]:
    """How many rows a second the network predicts, and learns from, in each setting; the fastest that is near enough is marked.

    compiled: try torch.compile too. peak: operations a second of :func:`peak_rate`. A share of it counts three times the
    operations of a prediction for a training step.
    """
    from torch.utils.flop_counter import FlopCounterMode

    net, call, n = _case(name, device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(net)
    flops = counter.get_total_flops()
    runs, off, lost = settings_of(net, call, device, [s for s in SETTINGS if compiled or not s.compiled])
    for learn, word in ((False, "predict"), (True, "train")):
        took = interleaved({s: functools.partial(run, learn) for s, run in runs.items()}, seconds, clock)
        good = [s for s in took if off[s] <= TOLERANCE[s.dtype]]
        best = min(good, key=took.__getitem__)
        for s, second in took.items():
            far = "" if s in good else f", off by {off[s]:.1g}: too far"
            share = flops * (3 if learn else 1) / second / peak
            note = f"{took[PLAIN] / second:.2f}x plain, {share:.0%} of the peak{far}{' <- fastest' if s == best else ''}"
            yield Row(f"{word} {name}, {s}", n / second, "rows/s", note)
    for s, why in lost.items():
        yield Row(f"{name}, {s}", 0.0, "rows/s", f"does not run here: {why}")
