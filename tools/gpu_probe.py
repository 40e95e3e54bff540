"""First minutes on a GPU: does every recipe draw, step and record its step there, and how fast is it alone?

    python tools/gpu_probe.py [NAME ...]      prints one line a recipe, then the errors that came

Each recipe is tried in two halves, so that one fault hides no other: its batches drawn on the device, and its network stepping on
batches drawn on the CPU (as they are, then as a CUDA graph). What later recipes load is published from networks that have hardly
learned, in a folder of its own.
"""

# ruff: noqa: B023 -- `tried` calls its function at once, before the loop goes on
from __future__ import annotations

import collections
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

DEVICE = torch.device(os.environ.get("DEVICE", "cuda"))
SECONDS = float(os.environ.get("SECONDS_EACH", "1.2"))
faults: dict[str, list[str]] = collections.defaultdict(list)


def tried(what: str, work):
    try:
        return work()
    except Exception as error:  # noqa: BLE001 (every fault is wanted)
        lines = traceback.format_exc().splitlines()
        own = [line.strip() for line in lines if "/minidiff/" in line][-4:]
        faults[f"{type(error).__name__}: {str(error)[:300]} | {' <- '.join(reversed(own))}"].append(what)
        return None


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def rate(step, n: int) -> float:
    """Pictures a second of ``step``, after five to warm up."""
    for _ in range(5):
        step()
    wait()
    start, steps = time.monotonic(), 0
    while time.monotonic() - start < SECONDS:
        for _ in range(5):
            step()
        wait()
        steps += 5
    return steps * n / (time.monotonic() - start)


def main(names: list[str]) -> None:
    root = Path(tempfile.mkdtemp()) / "data"
    root.mkdir()
    os.environ["MINIDIFF_DATA"] = str(root)
    from minidiff.recipes import recipe
    from minidiff.recipes.schedule import PLAN
    from minidiff.train.distributed import Workers
    from minidiff.train.run import Run
    from minidiff.train.speed import Speed
    from minidiff.zoo import load, ship

    cpu, began = torch.device("cpu"), time.monotonic()
    speed = Speed.choose(DEVICE)
    print(f"torch {torch.__version__}, {speed}", flush=True)
    for name in names or PLAN:
        begun = time.monotonic()
        one = recipe(name)
        plan = one.plan("gpu")
        n = plan.batch
        first = tried(f"{name} draw", lambda: one.draw(0, n, DEVICE))
        wait()
        block = time.monotonic() - begun
        drawing = None
        if first is not None:
            numbers = iter(range(1, 10**9))
            drawing = tried(f"{name} draws", lambda: rate(lambda: one.draw(next(numbers) % 60, n, DEVICE), n))
        batch = first if first is not None else one.draw(0, 8, cpu)
        if first is None:
            batch = {k: torch.cat([v] * (n // 8)) for k, v in batch.items()}
        rates = {}
        for way in ("graph", "eager"):
            if way == "eager" and name not in ("pixel-ddpm", "mini-sd", "mini-vae"):
                continue
            chosen = speed if way == "graph" else Speed(DEVICE, speed.bf16, False, speed.channels_last, False)
            run = tried(f"{name} build", lambda chosen=chosen: Run(plan, Workers(DEVICE), chosen))
            if run is None:
                continue

            def stepping(run=run, chosen=chosen):
                kept = {k: chosen.arrange(v) for k, v in batch.items()}
                run.model.train()
                with run.fast():
                    got = rate(lambda: (run._update(kept), run.ema.update(run.model, 5)), n)
                    loss = float(run._update(kept))
                assert loss == loss, f"loss {loss}"
                return got, loss

            rates[way] = tried(f"{name} {way}", stepping)
            if way == "graph":
                tried(f"{name} ship", lambda run=run: (
                    ship(name, lambda f: one.export(run.ema.model.cpu().eval(), f), {}, root=root), load(name)))
            run.close()
        shown = ", ".join(f"{w} {r[0]:,.0f}/s loss {r[1]:.3f}" for w, r in rates.items() if r)
        used = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else 0
        print(f"{name:20} batch {n}: first block {block:.1f} s, drawn {drawing or 0:,.0f}/s, {shown}, {used:.1f} GiB, "
              f"{time.monotonic() - begun:.1f} s", flush=True)
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    print(f"{len(faults)} faults in {time.monotonic() - began:.0f} s")
    for fault, where in faults.items():
        print(f"--- {', '.join(where)}\n    {fault}")


if __name__ == "__main__":
    main(sys.argv[1:])
