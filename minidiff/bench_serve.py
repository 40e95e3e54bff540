"""One work of ``minidiff bench peers`` in a process of its own: ``python -m minidiff.bench_serve WORK N``.

The process says one line of JSON when it is ready, and one for each line that it reads: "go" does the work once, anything else is
a path to which the work's pictures are written.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable

import torch

from minidiff import bench_edits, bench_works
from minidiff.bench_works import SEED, Work

__all__ = ["WORKS", "serve"]

WORKS: dict[str, Callable[[int], Work]] = {
    "sample minidiff": bench_works.sample_minidiff,
    "sample minidiff bf16": lambda n: bench_works.sample_minidiff(n, "bf16"),
    "sample minidiff compiled": lambda n: bench_works.sample_minidiff(n, "compiled"),
    "sample diffusers": bench_works.sample_diffusers,
    "train minidiff": bench_works.train_minidiff,
    "train diffusers": bench_works.train_diffusers,
    "train lucidrains": bench_works.train_lucidrains,
    "train smalldiffusion": bench_works.train_smalldiffusion,
    "zero minidiff": bench_edits.zero_minidiff,
    "zero diffusers": bench_edits.zero_diffusers,
    "excite minidiff": bench_edits.excite_minidiff,
    "excite minidiff presence": lambda n: bench_edits.excite_minidiff(n, "presence"),
    "excite diffusers": bench_edits.excite_diffusers,
}


def _memory() -> float:
    """The most that this process has held, in MiB; 0 on Windows, which does not say."""
    if platform.system() == "Windows":
        return 0.0
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def serve(name: str, n: int) -> None:
    """Do the work ``name`` on n pictures each time that a line "go" comes in."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)                                    # what the libraries print is no answer
    torch.manual_seed(SEED)
    try:
        work = WORKS[name](n)
        answers.write(json.dumps({"torch": torch.__version__}) + "\n")
        made = None
        for line in map(str.strip, sys.stdin):
            if line != "go":
                torch.save(made, line)
                answers.write("{}\n")
                continue
            start = time.perf_counter(), time.process_time()
            made = work()
            answers.write(json.dumps({"wall": time.perf_counter() - start[0], "processor": time.process_time() - start[1],
                                      "memory": _memory()}) + "\n")
    except Exception as error:  # noqa: BLE001  another library's, whatever it raises: it is told, not hidden
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]}) + "\n")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
