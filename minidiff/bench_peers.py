"""``minidiff bench peers``: the same work by this package and by others, each in a process of its own, in turn.

A library that the course does not itself use lives in a virtual environment below ``runs/peers``, which ``--setup`` makes: it
sees everything that the course has, torch included, and beside it nothing but that library (``pip install --no-deps``). What
cannot be had, or does not run, is a row that says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidiff.bench_settings import Row

__all__ = ["CONTESTS", "Contest", "PEERS", "Side", "Worker", "compare", "setup"]

# what it is called here -> what pip is asked for; the versions are those that the works in bench_works were written against
PEERS: dict[str, tuple[str, ...]] = {
    "lucidrains": ("denoising-diffusion-pytorch==2.3.4", "ema-pytorch==0.7.9"),
    "smalldiffusion": ("smalldiffusion==0.5.0",),
}
ROUNDS = 3


class Side(NamedTuple):
    """One who does the work. name: in the table; work: of ``bench_serve.WORKS``; peer: its environment, "" for the course's own;
    missing: why it cannot take part."""

    name: str
    work: str = ""
    peer: str = ""
    missing: str = ""


class Contest(NamedTuple):
    """The same work by several; the first is what the others are compared with. judge: side -> pictures, n -> a note on each."""

    what: str
    sides: tuple[Side, ...]
    n: int
    judge: Callable[[Mapping[str, Tensor], int], dict[str, str]] | None = None


def _apart(pictures: Mapping[str, Tensor], n: int) -> dict[str, str]:
    """How far each is from the first, of a range of one."""
    first = next(iter(pictures.values()))
    return {side: f"apart by {float((x - first).abs().mean()) / 2:.1g}" for side, x in pictures.items()}


def _edit_scores(pictures: Mapping[str, Tensor], n: int) -> dict[str, str]:
    """The course's edit score of n edits of one kind into another."""
    from minidiff.bench_works import GUIDANCE, SEED, STEPS
    from minidiff.latent import initial_noise, text_to_image
    from minidiff.measure import edit_pairs, edit_score
    from minidiff.zoo import load
    pipe, pairs = load("mini-sd"), edit_pairs("kind", n)
    drawn = text_to_image(pipe, pairs.prompts, latents=initial_noise(pipe, n, seed=SEED), steps=STEPS, guidance=GUIDANCE)
    truth = pairs.truth(load("readers/final"), drawn)
    notes = {}
    for side, x in pictures.items():
        found = edit_score(x, truth)
        means = ", ".join(f"{name} {float(found.of(name).mean()):.2f}" for name in ("target", "preserved", "iou"))
        notes[side] = f"{means} of {int(found.valid.sum())}"
    return notes


def _things_shown(pictures: Mapping[str, Tensor], n: int) -> dict[str, str]:
    """The share of the nouns of n prompts that are seen."""
    from minidiff.bench_edits import three_things
    from minidiff.lessons.l14_several_objects.data import shown
    from minidiff.zoo import load
    reader, rows = load("readers/final"), three_things(n)
    return {side: f"shows {float(shown(x, rows, reader).present.double().mean()):.2f} of the things"
            for side, x in pictures.items()}


_COMMUNITY = "a file of diffusers' examples on GitHub: no package holds it, and nothing here is copied"
CONTESTS: dict[str, Contest] = {
    "sample": Contest("8 pictures, 20 steps, guidance", (
        Side("minidiff", "sample minidiff"), Side("StableDiffusionPipeline", "sample diffusers"),
        Side("minidiff, bf16", "sample minidiff bf16"), Side("minidiff, compiled", "sample minidiff compiled")), 8, _apart),
    "train": Contest("4 steps of training, 2.6M weights", (
        Side("minidiff", "train minidiff"), Side("diffusers' step", "train diffusers"),
        Side("denoising-diffusion-pytorch", "train lucidrains", "lucidrains"),
        Side("smalldiffusion", "train smalldiffusion", "smalldiffusion")), 16),
    "zero": Contest("Pix2Pix-Zero", (Side("minidiff", "zero minidiff"), Side("diffusers", "zero diffusers")), 8, _edit_scores),
    "excite": Contest("Attend-and-Excite", (
        Side("minidiff", "excite minidiff presence"), Side("minidiff, as published", "excite minidiff"),
        Side("diffusers", "excite diffusers")), 8, _things_shown),
    "words": Contest("Prompt-to-Prompt", (Side("diffusers' community pipeline", missing=_COMMUNITY),), 8),
}


# Environments ----------------------------------------------------------------------------------------------------------------


def python_of(peer: str, place: Path) -> Path:
    """The interpreter that runs a peer: this one, or that of the peer's environment below ``place``."""
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    return place / peer / scripts / Path(sys.executable).name if peer else Path(sys.executable)


def setup(place: Path, peers: Mapping[str, Sequence[str]] | None = None) -> Iterator[tuple[str, str]]:
    """Make the environment of each peer below ``place``; yields (peer, "" or why it cannot be had)."""
    for peer, packages in (PEERS if peers is None else peers).items():
        place.mkdir(parents=True, exist_ok=True)
        python = python_of(peer, place)
        made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(place / peer)], capture_output=True,
                              text=True)
        if made.returncode == 0:
            asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
            own = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
            # what the course has comes after what the peer brings: --system-site-packages would show the base's, not this one's
            (own / "course.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
            made = subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps",
                                   "--disable-pip-version-check", *packages], capture_output=True, text=True)
        lines = made.stderr.strip().splitlines() or [f"exit status {made.returncode}"]
        yield peer, "" if made.returncode == 0 else lines[-1][:300]


# Processes -------------------------------------------------------------------------------------------------------------------


class Worker:
    """A side's process: ready when it is made, or with the reason in ``error``."""

    def __init__(self, side: Side, n: int, place: Path) -> None:
        python, self.error, self.answer = python_of(side.peer, place), side.missing, {}
        self.process: subprocess.Popen[str] | None = None
        if not self.error and not python.exists():
            self.error = "not set up: minidiff bench peers --setup"
        if not self.error:
            self.process = subprocess.Popen([str(python), "-m", "minidiff.bench_serve", side.work, str(n)], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                            cwd=Path(__file__).parents[1],
                                            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())})
            self._read()
            if not self.error and self.answer["torch"] != torch.__version__:
                self.error = f"its torch is {self.answer['torch']}, ours {torch.__version__}: another comparison"

    def _read(self) -> None:
        line = self.process.stdout.readline()
        self.answer = json.loads(line) if line else {"error": "the process ended without a word"}
        self.error = self.answer.get("error", "")

    def ask(self, line: str) -> dict[str, Any]:
        """What the process answers to a line; {} where it failed, which ``error`` then tells."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        self._read()
        return {} if self.error else self.answer

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()


def compare(contest: Contest, place: Path, seconds: float, clock: str) -> Iterator[Row]:
    """One row a side: the median time of runs in turn, its multiple of the first side's, memory, and what is judged.

    ROUNDS runs at least, and as many as fit into ``seconds``; before them one that does not count, in which a side warms up, or
    is compiled. clock: "wall" or "processor".
    """
    works = {side.name: Worker(side, contest.n, place) for side in contest.sides}
    times: dict[str, list[float]] = {name: [] for name in works}
    first: dict[str, float] = {}
    memory: dict[str, float] = {}

    def go() -> None:
        for name, work in works.items():
            answer = {} if work.error else work.ask("go")
            if answer and name not in first:
                first[name] = answer["wall"]
            elif answer:
                times[name].append(answer[clock])
                memory[name] = answer["memory"]

    try:
        go()
        begin = time.perf_counter()
        for done in range(1000):
            if done >= ROUNDS and time.perf_counter() - begin >= seconds:
                break
            go()
        notes = _judged(contest, works)
    finally:
        for work in works.values():
            work.close()
    median = {name: sorted(some)[len(some) // 2] for name, some in times.items() if some}
    lead = median.get(contest.sides[0].name)
    for name, work in works.items():
        if work.error or name not in median:
            yield Row(f"{contest.what}: {name}", 0.0, "s", work.error or "it never finished")
            continue
        ratio = "" if lead is None else f"{median[name] / lead:.2f}x, "
        note = f"{ratio}{memory[name]:.0f} MiB, {first[name]:.1f} s at first"
        yield Row(f"{contest.what}: {name}", median[name], "s", f"{note}{', ' if name in notes else ''}{notes.get(name, '')}")


def _judged(contest: Contest, works: Mapping[str, Worker]) -> dict[str, str]:
    """The note of each side that made pictures."""
    if contest.judge is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="minidiff-bench-") as folder:
        pictures = {}
        for i, (name, work) in enumerate(works.items()):
            path = Path(folder) / f"{i}.pt"
            if not work.error:
                work.ask(str(path))
            if not work.error:
                pictures[name] = torch.load(path, weights_only=True)
        return contest.judge(pictures, contest.n) if pictures else {}
