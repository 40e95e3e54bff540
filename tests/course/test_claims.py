"""The scoreboard: targets, rows, and that a small sample never replaces a large one."""

import importlib
import math

import pytest
import torch

from minidiff.course import claims, limits, score, stored, verdict_of
from minidiff.course.claims import Claim, Outcome, Row
from minidiff.errors import BadInput

core = importlib.import_module("minidiff.course.claims")        # the name `claims` of the package is the function


@pytest.mark.parametrize(("low", "high", "target", "want"), [
    (1.1, 1.3, "<= 1.3", "passed"), (1.1, 1.31, "<= 1.3", "undecided"), (1.31, 1.4, "<= 1.3", "failed"),
    (0.9, 0.95, ">= 0.9", "passed"), (0.89, 0.95, ">= 0.9", "undecided"), (0.8, 0.89, ">= 0.9", "failed"),
    (0.9, 1.1, "1.0 +- 0.1", "passed"), (0.95, 1.2, "1.0 +- 0.1", "undecided"), (1.11, 1.2, "1.0 +- 0.1", "failed"),
    (0.0, 2.0, "1.0 +- 0.1", "undecided"), (-3.0, -2.0, ">= -1.0", "failed"),
    (math.nan, math.nan, "<= 1", "failed"), (math.nan, 1.0, ">= 0", "failed"),
])
def test_a_verdict_needs_the_interval_on_one_side(low, high, target, want):
    assert verdict_of(low, high, target) == want


def test_targets_that_cannot_be_read():
    for bad in ("about 1", "< 1", "", ">= x", "1 +- y", "<=1"):
        with pytest.raises(ValueError):
            limits(bad)


def test_every_claim_is_complete_and_stored():
    known, rows = claims(), stored()
    assert {id[:2] for id in known} >= {"00", "01", "02", "03"} and len(known) >= 20
    assert set(rows) == set(known), "run `minidiff score`"
    for id, row in rows.items():
        claim = known[id]
        assert (row.claim, row.unit, row.target, row.n) == (claim.text, claim.unit, claim.target, claim.n), id
        assert row.low <= row.value <= row.high and row.command == f"minidiff score {id}"
        assert row.verdict == verdict_of(row.low, row.high, row.target) and row.device == "cpu"
        assert row.passed or row.why, f"{id} failed without a word on why"
        assert row.baseline or row.floor, f"{id} has nothing to hold it against"
        assert claim.small <= claim.n


def test_the_readme_shows_what_is_stored():
    text = (core.data_folder().parent / "README.md").read_text(encoding="utf-8")
    begin, end = text.index("<!-- scoreboard -->"), text.index("<!-- /scoreboard -->")
    assert core.table(stored().values()) == text[begin:end].split("\n", 1)[1].strip("\n")


def _grows(n):
    return Outcome(n / 10, n / 10, n / 10, {"bad": 9.0}, {}, "it is large")


@pytest.fixture
def little(tmp_path, monkeypatch):
    """A board of one claim in an empty folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- scoreboard -->\nold\n<!-- /scoreboard -->\nafter\n")
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path / "data"))
    one = Claim(
        "99.one",
        "a claim",
        "things",
        "<= 5",
        100,
        3,
        lambda n: Outcome(n / 10, n / 10, n / 10, {"bad": 9.0}, {}, "it is large"),
        "none",
    )
    monkeypatch.setattr(core, "claims", lambda: {"99.one": one})
    return tmp_path


def test_a_row_says_where_it_ran_and_not_what_the_machine_has(little, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert core.compute("99.one").device == "cpu"


def test_scoring_stores_and_a_small_sample_does_not(little):
    said = []
    score(["99.one"], say=said.append)
    row = stored()["99.one"]
    assert (row.value, row.n, row.verdict, row.why) == (10.0, 100, "failed", "it is large") and "failed" in said[0]
    text = (little / "README.md").read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text and "it is large" in text
    before = (little / "data/scoreboard.json").read_bytes()
    score(["99.one"], n=3, say=said.append)
    assert (little / "data/scoreboard.json").read_bytes() == before and "passed" in said[1]
    with pytest.raises(BadInput, match="99.one"):
        score(["99.two"])
    assert isinstance(row, Row)
