"""Rows on a page, scenes of a model's edition, and the answer that a page goes on with."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from minidiff.course import board, check, editions, find, shown, solved
from minidiff.course.claims import Claim, Outcome, Row, stored
from minidiff.course.editions import as_in_training, first_edition
from minidiff.errors import BadInput
from minidiff.measure.prompts import make_scenes
from minidiff.world import Scene, Scenes, Thing, render, sample_scenes


def row(id: str, value: float, verdict: str, **more: object) -> Row:
    given = {"lesson": "99", "claim": "a claim of many words " * 8, "unit": "share", "baseline": {"blur": 0.1},
             "floor": {"real": 1.0}, "n": 64, "target": ">= 0.5", "reader": "none", "device": "cpu", "seconds": 1.0,
             "command": "", "why": "it is blurred"}
    return Row(id=id, value=value, low=value - 0.1, high=value + 0.1, verdict=verdict, **(given | more))


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    kept = {"99.a": row("99.a", 0.8, "passed"), "99.b": row("99.b", 0.2, "failed", settings={"other": 0.9})}
    known = {id: Claim(id, "text", "share", ">= 0.5", 64, 3, lambda n: Outcome(n / 10, 0.0, 1.0), "none")
             for id in (*kept, "99.c")}
    for module in (shown, __import__("importlib").import_module("minidiff.course.claims")):
        monkeypatch.setattr(module, "claims", lambda: known)
    monkeypatch.setattr(shown, "stored", lambda: kept)
    return kept


def test_a_board_prints_three_short_lines_a_row_and_draws_the_stored_ones(little, capsys) -> None:
    picture = board("99.a", "99.b")
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 110
    flat = " ".join(said.split())
    assert "now 0.3 [0, 1] at N = 3; stored 0.8 [0.7, 0.9] at N = 64 (share)" in flat and "target >= 0.5: passed" in flat
    assert "target >= 0.5: failed. It is blurred" in flat and "trivial baseline: blur 0.1; also measured: other 0.9" in flat
    assert flat.count("It is blurred") == 1, "why is said only of a row that did not pass"
    assert "99.a 0.8" in picture.alt and "99.b 0.2" in picture.alt and "failed" in picture.alt
    assert picture.array.shape[0] > 200 and board("99.a") is None, "a row alone is only printed"


def test_slow_rows_are_shown_as_stored(little, capsys, monkeypatch) -> None:
    monkeypatch.setattr(shown, "compute", lambda *_: pytest.fail("it measured"))
    picture = board("99.a", "99.b", now=False)
    flat = " ".join(capsys.readouterr().out.split())
    assert "now" not in flat and "stored 0.8 [0.7, 0.9] at N = 64 (share), 1 s by minidiff score 99.a" in flat
    assert "99.b 0.2" in picture.alt and "measured now" not in picture.caption


def test_a_gain_is_drawn_against_no_gain_and_not_against_levels() -> None:
    gain = shown._levels(row("99.a", 0.1, "passed", unit="dB gained", baseline={"PSNR, plain": 22.0}))
    assert gain.baseline == {"no gain": 0.0} and gain.floor == {} and shown._range(gain)[1] < 1
    assert shown._levels(row("99.b", 0.2, "failed")).baseline == {"blur": 0.1}


def test_what_stands_on_an_axis_is_in_the_unit_of_its_row() -> None:
    """A share, a rank correlation and an overlap have ends, and a word for another unit has no place beside them."""
    ends = {"share": (0, 1), "Spearman": (-1, 1), "rank": (-1, 1), "correlation": (-1, 1), "IoU": (0, 1), "modes": (0, 25)}
    words = ("nats", "bits", "PSNR", "dB", "modes", "width", "area", "divergence")
    for id, row in stored().items():
        drawn = shown._levels(row)
        low, high = ends.get(row.unit.split()[0].rstrip(","), (-math.inf, math.inf))
        low = -1 if "minus" in row.unit.split() else low
        for label, value in (drawn.baseline | drawn.floor).items():
            assert low - 0.1 <= value <= high * 1.1, f"{id}: {label} {value:.3g} on an axis of {row.unit!r}"
            foreign = set(words) & set(label.partition("(")[0].replace(",", "").split()) - set(row.unit.split())
            assert not foreign, f"{id}: {label!r} on an axis of {row.unit!r}"


def test_an_axis_shows_both_intervals_and_leaves_a_far_baseline_outside() -> None:
    stored, now = row("99.a", 0.8, "passed", baseline={"far": 90.0, "near": 0.4}, floor={}), row("99.a", 1.7, "passed")
    left, right = shown._range(stored, now)
    assert left < 0.4 and 1.8 < right < 3, "the near baseline and the interval measured now are inside"
    lonely = row("99.a", 0.8, "passed", baseline={"far": 90.0}, floor={})
    assert shown._range(lonely)[1] < 2
    assert shown._drawn([lonely, stored], [None, now]).array.shape[0] > 150


def test_a_board_refuses_what_is_not_stored_before_it_measures(little, monkeypatch) -> None:
    monkeypatch.setattr(shown, "compute", lambda *_: pytest.fail("it measured first"))
    for ids, words in (((), "none"), (("99.c",), "stored"), (("99.a", "99.x"), "99.x")):
        with pytest.raises(BadInput, match=words):
            board(*ids)


def test_scenes_of_the_first_edition() -> None:
    scenes = sample_scenes(range(256), level="full", split="test")
    old = first_edition(scenes)
    assert bool((old.vary == 0).all()) and torch.equal(old.present, scenes.present) and torch.equal(old.kind, scenes.kind)
    for count, (low, high) in {1: (0.20, 0.30), 2: (0.15, 0.20), 3: (0.13, 0.18)}.items():
        size = old.size[scenes.present.sum(1) == count][old.present[scenes.present.sum(1) == count]]
        assert len(size) > 20 and low - 1e-6 <= float(size.min()) and float(size.max()) <= high + 1e-6
    inside = old.present & (old.x - 1.14 * old.size >= -1e-6) & (old.x + 1.14 * old.size <= 1 + 1e-6)
    assert torch.equal(inside, old.present), "a thing that grew is moved back into the frame"
    nothing = ~old.present
    assert torch.equal(old.size[nothing], scenes.size[nothing]) and torch.equal(first_edition(old).x, old.x)
    fits = Scenes.of([Scene((Thing("cat", "red", x=0.5, y=0.5, size=0.25),), backdrop="grass")])
    assert torch.equal(render(first_edition(fits)).images, render(fits).images), "what fits is left alone"


def test_the_card_says_which_edition(monkeypatch) -> None:
    scenes = make_scenes(4, "two")
    monkeypatch.setattr(editions, "card", {"old": {"world_edition": 1}, "new": {"world_edition": 2}}.get)
    assert as_in_training(scenes, "new") is scenes
    old = as_in_training(scenes, "old")
    assert all(torch.equal(getattr(old, f.name), getattr(first_edition(scenes), f.name))
               for f in dataclasses.fields(old) if isinstance(getattr(old, f.name), torch.Tensor))


def test_the_page_goes_on_with_the_learners_answer_once_it_is_right(capsys) -> None:
    task = find("08.paste")

    def mine(known, made, mask):
        return task.answer(known, made, mask)

    assert solved("08.paste", mine) is mine
    for unsolved in (lambda known, made, mask: made, ..., None):
        assert solved("08.paste", unsolved) is task.answer
    assert solved("08.unet_rows", 400) == 400 and solved("08.unet_rows", ...) == 400 and solved("08.unet_rows", 7) == 400
    assert capsys.readouterr().out == "", "the check above it has spoken"
    check("08.paste", mine)
