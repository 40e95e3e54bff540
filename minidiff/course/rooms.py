"""Where the lessons are: one folder each, found by looking."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

__all__ = ["rooms", "enter"]

LESSONS = Path(__file__).resolve().parents[1] / "lessons"


def rooms() -> dict[str, str]:
    """Number of a lesson -> its package: "02" -> "minidiff.lessons.l02_ddpm", for every folder there is, in order."""
    found = {}
    for folder in sorted(LESSONS.glob("l[0-9][0-9]_*/__init__.py")):
        number = re.match(r"l(\d\d)_", folder.parent.name)
        assert number is not None
        found[number.group(1)] = f"minidiff.lessons.{folder.parent.name}"
    return found


def enter(part: str, lesson: str | None = None) -> None:
    """Import one module ("exercises" or "claims") of every lesson, or of one: it registers what it holds."""
    for number, room in rooms().items():
        if lesson in (None, number):
            importlib.import_module(f"{room}.{part}")
