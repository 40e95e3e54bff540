"""The planted mistakes still fit the code. That the suite catches them: ``python -m tests.steer.planted`` (.ci/run)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.steer.planted import MISTAKES, plant


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_python_and_stands_where_it_should(name: str, tmp_path: Path) -> None:
    plant(name, tmp_path)
    ast.parse((tmp_path / "minidiff" / MISTAKES[name][0]).read_text())


def test_there_are_at_least_twenty() -> None:
    assert len(MISTAKES) >= 20
