"""The pages that show the stored rows: data/SCOREBOARD.md with all of them, and the few that README.md picks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from minidiff.course.claims import UNDECIDED, Row, stored
from minidiff.course.rooms import rooms
from minidiff.errors import check_choice
from minidiff.files import data_folder, replace

__all__ = ["PAGE", "page", "short_table", "table", "write_pages"]

PAGE = "SCOREBOARD.md"
HEAD = """# The scoreboard

Every claim of the course that can be measured, with its 95 % interval. `minidiff score ID` measures a row again and prints it.
A claim holds or fails only where the whole interval lies on one side of its target; else it is undecided at this N. Claims that
fail stay, with the reason. The readers that judge pictures are networks of the course; how often they err stands in lesson 00.
"""
MARK = re.compile(r"<!-- scoreboard:([^>]*)-->.*?<!-- /scoreboard -->", re.S)


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _measured(row: Row) -> str:
    return f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}] {row.unit}"


def _title(lesson: str) -> str:
    """Number and name of a lesson, "02 ddpm"; the number alone where it has no room."""
    return rooms().get(lesson, f".l{lesson}").rpartition(".l")[2].replace("_", " ")


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table with everything that is stored of them."""
    lines = ["| id | claim | measured | target | floor, baseline, also measured | N | holds |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        ends = "; ".join(f"{k} {v:.3g}" for k, v in (*r.floor.items(), *r.baseline.items(), *r.settings.items()))
        verdict = "yes" if r.passed else f"**{'no' if r.verdict == 'failed' else r.verdict}**: {r.why}"
        lines.append(_cells(r.id, r.claim, _measured(r), r.target, ends, str(r.n), verdict))
    return "\n".join(lines)


def page(rows: Iterable[Row]) -> str:
    """The whole scoreboard, one section a lesson, each with the count of its verdicts."""
    rows, parts = list(rows), [HEAD]
    for lesson in sorted({r.lesson for r in rows}):
        here = [r for r in rows if r.lesson == lesson]
        counts = ", ".join(f"{sum(r.verdict == verdict for r in here)} {word}" for word, verdict in
                           (("hold", "passed"), ("fail", "failed"), (UNDECIDED, UNDECIDED)))
        parts.append(f"## {_title(lesson)}\n\n{len(here)} claims: {counts}.\n\n{table(here)}\n")
    return "\n".join(parts)


def short_table(rows: Iterable[Row]) -> str:
    """Five columns of the rows for a first reader; a row that is undecided says so."""
    lines = ["| lesson | claim | measured, 95 % interval | target | holds |", "|---|---|---|---|---|"]
    words = {"passed": "yes", "failed": "**no**", UNDECIDED: UNDECIDED}
    return "\n".join([*lines, *(_cells(_title(r.lesson), r.claim, _measured(r), r.target, words[r.verdict]) for r in rows)])


def text_table(rows: Iterable[Row]) -> str:
    """The rows as columns for a terminal, as they are stored: id, value with its interval and unit, target, N, verdict."""
    cells = [("id", "measured, 95 % interval", "target", "N", "verdict"),
             *((r.id, _measured(r), r.target, f"{r.n:,}", r.verdict) for r in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def write_pages(readme: Path | None = None) -> None:
    """Write data/SCOREBOARD.md, and in README.md the rows whose ids stand in its mark ``<!-- scoreboard: 01.one 02.two -->``.

    A README without the mark, or none at all, is left alone. Raises BadInput where the mark names a row that is not stored.
    """
    kept = stored()
    readme = readme or data_folder().parent / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    found = MARK.search(text)
    if found:
        for id in found[1].split():
            check_choice("README.md", id, kept)
        short = short_table(kept[id] for id in found[1].split())
        new = f"{text[:found.start()]}<!-- scoreboard:{found[1]}-->\n{short}\n<!-- /scoreboard -->{text[found.end():]}"
        if new != text:
            replace(readme, new)
    replace(data_folder() / PAGE, page(kept.values()))
