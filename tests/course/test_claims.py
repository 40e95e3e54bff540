"""The scoreboard: targets, rows, and that a small sample never replaces a large one."""

import importlib
import math

import pytest
import torch

from minidiff.course import claims, meets, score, stored
from minidiff.course.claims import Claim, Outcome, Row
from minidiff.errors import BadInput

core = importlib.import_module("minidiff.course.claims")        # the name `claims` of the package is the function


@pytest.mark.parametrize(
    "value,target,want",
    [
        (1.3, "<= 1.3", True),
        (1.31, "<= 1.3", False),
        (0.9, ">= 0.9", True),
        (0.89, ">= 0.9", False),
        (1.1, "1.0 +- 0.1", True),
        (1.2, "1.0 +- 0.1", False),
        (math.nan, "<= 1", False),
        (math.nan, ">= 0", False),
    ],
)
def test_targets(value, target, want):
    assert meets(value, target) is want


def test_targets_that_cannot_be_read():
    for bad in ("about 1", "< 1", "", ">= x"):
        with pytest.raises(ValueError):
            meets(1.0, bad)


def test_every_claim_is_complete_and_stored():
    known, rows = claims(), stored()
    assert {id[:2] for id in known} >= {"00", "01", "02", "03"} and len(known) >= 20
    assert set(rows) == set(known), "run `minidiff score`"
    for id, row in rows.items():
        claim = known[id]
        assert (row.claim, row.unit, row.target, row.n) == (claim.text, claim.unit, claim.target, claim.n), id
        assert row.low <= row.value <= row.high and row.command == f"minidiff score {id}"
        assert row.passed == meets(row.value, row.target)
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
    assert (row.value, row.n, row.passed, row.why) == (10.0, 100, False, "it is large") and "FAILED" in said[0]
    text = (little / "README.md").read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text and "it is large" in text
    before = (little / "data/scoreboard.json").read_bytes()
    score(["99.one"], n=3, say=said.append)
    assert (little / "data/scoreboard.json").read_bytes() == before and "passed" in said[1]
    with pytest.raises(BadInput, match="99.one"):
        score(["99.two"])
    assert isinstance(row, Row)
