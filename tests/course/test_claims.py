"""The scoreboard: targets, rows, its pages, and that nothing is stored unless told, a small sample never."""

import importlib
import math
import re

import pytest
import torch

from minidiff.course import claims, limits, score, scoreboard, stored, verdict_of
from minidiff.course.claims import Claim, Outcome, Row, ids_of
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


def test_claims_are_named_by_id_or_by_lesson():
    of_06 = [id for id in claims() if id.startswith("06.")]
    assert ids_of(["06"]) == of_06 and len(of_06) > 10
    assert ids_of(["03.order_ddim", "06"]) == ["03.order_ddim", *of_06] and ids_of() == list(claims())
    for name in ("6", "99", "06.", "l06"):
        with pytest.raises(BadInput, match="claim: got"):
            ids_of([name])


def test_a_table_for_a_terminal_shows_each_row_in_columns():
    rows = [stored()[id] for id in ("06.exact", "06.quality_gan")]
    head, one, two = scoreboard.text_table(rows).splitlines()
    for line, row in ((one, rows[0]), (two, rows[1])):
        cells = re.split(r"  +", line)
        assert cells[0] == row.id and cells[2:] == [row.target, f"{row.n:,}", row.verdict]
        assert cells[1] == f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}] {row.unit}"
        assert line.index(row.target) == head.index("target")


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


def test_the_pages_show_what_is_stored():
    data, rows = core.data_folder(), stored()
    page, readme = ((data / name).read_text(encoding="utf-8") for name in (scoreboard.PAGE, "../README.md"))
    assert page == scoreboard.page(rows.values()), "run `minidiff score --pages`"
    ids, shown = re.search(r"<!-- scoreboard:([^>]*)-->\n(.*?)\n<!-- /scoreboard -->", readme, re.S).groups()
    assert shown == scoreboard.short_table(rows[id] for id in ids.split()), "run `minidiff score --pages`"
    verdicts = [rows[id].verdict for id in ids.split()]
    assert len(verdicts) <= 20 and set(verdicts) == {"passed", "failed"}, "the README picks decided claims, failures among them"


def test_a_page_holds_every_row_once_and_counts_its_verdicts():
    rows = [Row(f"{id}.a", id, "x | y", 1.0, 0.5, 2.0, "things", {"bad": 3.0}, {}, 9, "<= 1", verdict, "none", "cpu", 1.0, "c",
                "as it is") for id, verdict in (("02", "passed"), ("98", "undecided"), ("02", "failed"))]
    text = scoreboard.page(rows)
    assert "## 02 ddpm\n\n2 claims: 1 hold, 1 fail, 0 undecided.\n" in text
    assert "## 98\n\n1 claims: 0 hold, 0 fail, 1 undecided." in text
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith(("| 02.a", "| 98.a"))]
    assert len(lines) == 3 and all(line.count("|") == 8 and "bad 3" in line for line in lines)
    assert sum("as it is" in line for line in lines) == 2, "a reason stands where the claim does not hold"


@pytest.fixture
def little(tmp_path, monkeypatch):
    """A board of one claim in an empty folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- scoreboard: 99.one -->\nstale\n<!-- /scoreboard -->\nafter\n")
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


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scoring_writes_nothing_unless_told(little):
    before, said = files(little), []
    rows = score(["99.one"], log=said.append) + score(["99.one"], n=3, log=said.append)
    assert files(little) == before and [row.verdict for row in rows] == ["failed", "passed"] and "passed" in said[1]
    with pytest.raises(BadInput, match="99.one"):
        score(["99.two"])
    with pytest.raises(BadInput, match="--n: got 3 with --write"):
        score(["99.one"], n=3, write=True)
    assert files(little) == before


def test_what_is_told_to_is_written_and_redrawn(little):
    score(["99.one"], write=True, log=lambda row: None)
    row = stored()["99.one"]
    assert (row.value, row.n, row.verdict, row.why) == (10.0, 100, "failed", "it is large")
    text = (little / "README.md").read_text()
    assert text.startswith("before\n<!-- scoreboard: 99.one -->\n") and text.endswith("<!-- /scoreboard -->\nafter\n")
    assert "stale" not in text
    assert "10 [10, 10] things" in text and "it is large" in (little / "data" / scoreboard.PAGE).read_text()


def test_interrupted_scoring_keeps_what_was_measured_on_the_pages_too(little):
    said = []

    def interrupt(row):
        said.append(row)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(["99.one", "99.one"], write=True, log=interrupt)
    assert set(stored()) == {"99.one"} and "10 [10, 10] things" in (little / "README.md").read_text()


def test_a_readme_without_marks_is_left_and_a_wrong_mark_is_named(little):
    score(["99.one"], write=True, log=lambda row: None)
    for text in ("no marks", "<!-- scoreboard: 99.one -->"):
        (little / "README.md").write_text(text)
        scoreboard.write_pages()
        assert (little / "README.md").read_text() == text
    (little / "README.md").write_text("<!-- scoreboard: 99.won -->\n<!-- /scoreboard -->")
    with pytest.raises(BadInput, match="README.md: got '99.won'.*99.one"):
        scoreboard.write_pages()
