"""Claims: each statement of the course that can be measured, as a row that a command computes again."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minidiff.course.rooms import enter
from minidiff.errors import BadInput, check_choice, require
from minidiff.files import data_folder, replace

__all__ = ["CLAIMS", "UNDECIDED", "Claim", "Outcome", "Row", "claim", "claims", "compute", "limits", "score", "stored",
           "verdict_of"]

UNDECIDED = "undecided"


@dataclass(frozen=True)
class Outcome:
    """What a claim's function found: the value with its 95 % interval, and what to compare it with.

    baseline: trivial answers (blur, no edit, another prompt); floor: the best that can be (real against real). These two are in
    the row's unit and stand on its axis. settings: what else was measured, in any unit (other steps, another figure of the same
    samples); printed, never drawn. why: what explains a row that does not pass; always given, shown only then. device: where it
    ran.
    """

    value: float
    low: float
    high: float
    baseline: dict[str, float] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    why: str = ""
    settings: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """One line of the scoreboard, as stored in data/scoreboard.json."""

    id: str
    lesson: str
    claim: str
    value: float
    low: float
    high: float
    unit: str
    baseline: dict[str, float]
    floor: dict[str, float]
    n: int
    target: str
    verdict: str
    reader: str
    device: str
    seconds: float
    command: str
    why: str = ""
    settings: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True where the whole interval meets the target."""
        return self.verdict == "passed"

    def __str__(self) -> str:
        """Three lines: the claim; value, interval and what to compare it with; the verdict in words."""
        def listed(d: dict[str, float]) -> str:
            return ", ".join(f"{k} {v:.3g}" for k, v in d.items())

        beside = [f"{name}: {listed(d)}" for name, d in (("floor", self.floor), ("baseline", self.baseline),
                                                           ("also measured", self.settings)) if d]
        words = {"passed": "passed, the whole interval meets the target", "failed": "failed, the whole interval misses it",
                 UNDECIDED: f"undecided at N = {self.n}, the target lies inside the interval"}
        reason = f". {self.why[:1].upper()}{self.why[1:]}" if self.why and not self.passed else ""
        return (f"{self.id}  {self.claim}\n"
                f"    {self.value:.3g} [{self.low:.3g}, {self.high:.3g}] {self.unit}, N = {self.n}"
                + "".join(f"; {x}" for x in beside)
                + f"\n    target {self.target}: {words[self.verdict]}{reason}")


@dataclass(frozen=True)
class Claim:
    """A claim that can be measured: ``run(n)`` gives an Outcome. n: the stored size; small: the size for a notebook."""

    id: str
    text: str
    unit: str
    target: str
    n: int
    small: int
    run: Callable[[int], Outcome]
    reader: str

    @property
    def lesson(self) -> str:
        return self.id.split(".")[0]


CLAIMS: dict[str, Claim] = {}


def claim(id: str, text: str, *, unit: str, target: str, n: int, small: int, reader: str = "none") -> Callable:
    """Register a function ``f(n) -> Outcome`` as the claim ``id`` ("03.ddim_50"). target: "<= 1.3", ">= 0.9" or "1.0 +- 0.1"."""
    require(re.fullmatch(r"\d\d\.[a-z0-9_]+", id) is not None, "id", repr(id), "a lesson and a name", "'03.ddim_50'")
    require(1 <= small <= n, "n, small", (n, small), "positive numbers, no more samples on a page than in the stored row")
    limits(target)

    def register(run: Callable[[int], Outcome]) -> Callable[[int], Outcome]:
        CLAIMS[id] = Claim(id, text, unit, target, n, small, run, reader)
        return run

    return register


def limits(target: str) -> tuple[float, float]:
    """The interval that a target allows: "<= x", ">= x" or "x +- y"."""
    found = re.fullmatch(r"(<=|>=) (\S+)|(\S+) \+- (\S+)", target)
    try:
        if found and found[1]:
            return (-math.inf, float(found[2])) if found[1] == "<=" else (float(found[2]), math.inf)
        if found:
            middle, width = float(found[3]), float(found[4]) * (1 + 1e-9)
            return middle - width, middle + width
    except ValueError:
        pass
    raise BadInput("target", repr(target), '"<= x", ">= x" or "x +- y"')


def verdict_of(low: float, high: float, target: str) -> str:
    """"passed" where all of [low, high] meets the target, "failed" where none of it does, else "undecided". NaN fails."""
    least, most = limits(target)
    if not (low <= high):
        return "failed"
    if least <= low and high <= most:
        return "passed"
    return "failed" if high < least or low > most else UNDECIDED


def claims() -> dict[str, Claim]:
    """All claims of all lessons, in order."""
    enter("claims")
    return dict(sorted(CLAIMS.items()))


def compute(id: str, n: int | None = None) -> Row:
    """Measure one claim now. n: sample size; None takes the claim's own."""
    known = claims()
    check_choice("claim", id, known)
    c = known[id]
    n = c.n if n is None else n
    require(n >= 2, "n", n, "at least 2 samples")
    start = time.perf_counter()
    found = c.run(n)
    seconds = round(time.perf_counter() - start, 1)
    return Row(
        id,
        c.lesson,
        c.text,
        found.value,
        found.low,
        found.high,
        c.unit,
        found.baseline,
        found.floor,
        n,
        c.target,
        verdict_of(found.low, found.high, c.target) if math.isfinite(found.value) else "failed",
        c.reader,
        found.device,
        seconds,
        f"minidiff score {id}",
        found.why,
        found.settings,
    )


def _file() -> Path:
    return data_folder() / "scoreboard.json"


def stored() -> dict[str, Row]:
    """The rows of data/scoreboard.json by id; empty when there is none yet."""
    if not _file().is_file():
        return {}
    return {r["id"]: Row(**r) for r in json.loads(_file().read_text())}


def ids_of(names: Iterable[str] = ()) -> list[str]:
    """The ids of claims that are named one by one, "03.eta_at_10_steps", or by their lesson, "03"; all when none is named.

    Raises BadInput for a name that is neither.
    """
    known, out = claims(), []
    for name in names:
        here = [id for id, c in known.items() if c.lesson == name]
        if not here:
            check_choice("claim", name, known)
        out += here or [name]
    return out or list(known)


def score(ids: Iterable[str] = (), *, n: int | None = None, write: bool = False, log: Callable[[str], Any] = print) -> list[Row]:
    """Measure claims and say each row; nothing is stored unless ``write`` is true.

    ids: as :func:`ids_of` takes them, "03" for all claims of lesson 03; all when none is named.
    n: sample size; None takes each claim's own. write: put the rows into data/scoreboard.json and redraw the pages that show it.
    Raises BadInput for an unknown id, and where rows of another ``n`` are to be written: a small sample never replaces a
    large one.
    """
    from minidiff.course.scoreboard import write_pages

    ids = ids_of(ids)
    require(n is None or not write, "--n", f"{n} with --write", "rows of the claims' own size when they are to be stored",
            "minidiff score CLAIM --write")
    rows = []
    try:
        for id in ids:
            row = compute(id, n)
            log(str(row))
            rows.append(row)
            if write:
                kept = stored() | {row.id: row}
                replace(_file(), json.dumps([asdict(kept[k]) for k in sorted(kept)], indent=1) + "\n")
    finally:
        if write and rows:
            write_pages()
    return rows
