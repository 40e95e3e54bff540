"""``minidiff bench``: medians in turn, settings held to the plain output, arguments refused. Nothing here is timed."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from minidiff import bench
from minidiff.bench_settings import PLAIN, SETTINGS, TOLERANCE, Row, Setting, interleaved, settings_of
from minidiff.cli import main


def test_medians_are_of_works_run_in_turn() -> None:
    now, order = [0.0], []
    costs = {"a": iter([9, 1, 5, 2, 100, 100]), "b": iter([9, 10, 30, 20, 100, 100])}      # the first is to warm up

    def work(name: str) -> None:
        order.append(name)
        now[0] += next(costs[name])

    found = interleaved({name: lambda name=name: work(name) for name in costs}, seconds=0.0, clock=lambda: now[0])
    assert found == {"a": 2, "b": 20} and order == ["a", "b"] * 4


class Layers(nn.Module):
    """Says which layout its weights have; as wrong in a layout as it is told to be."""

    def __init__(self, wrong: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.wrong = nn.Conv2d(3, 8, 3), wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        odd = self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        if self.wrong < 0 and not odd:
            raise RuntimeError("no compiler here\nmore of it")
        return self.conv(x) * (1 + self.wrong * (not odd))


@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_a_setting_is_held_to_the_plain_output(wrong: float) -> None:
    net = Layers(wrong).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    settings = [s for s in SETTINGS if not s.compiled]
    runs, off, lost = settings_of(net, lambda one: one(x), torch.device("cpu"), settings)
    assert set(runs) == set(settings) and not lost and off[PLAIN] == 0.0
    good = {s for s in settings if off[s] <= TOLERANCE[s.dtype]}
    assert good == {s for s in settings if not wrong or s.layout == "channels_last"}
    assert 0 < off[Setting(False, "bf16", "channels_last")] < TOLERANCE["bf16"]              # it did run in half precision
    for run in runs.values():
        assert run(True).shape == (2, 8, 4, 4)
    assert all(p.grad is None for p in net.parameters())                                     # copies learn, not the network


def test_a_setting_that_cannot_run_is_named() -> None:
    net = Layers(-1.0).to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 6, 6)
    _, _, lost = settings_of(net, lambda one: one(x), torch.device("cpu"), [PLAIN, Setting(False, "float32", "NCHW")])
    assert lost == {Setting(False, "float32", "NCHW"): "no compiler here"}


def test_the_table_and_json_hold_the_same_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("render", 12.5, "scenes/s"), Row("train", 3.0, "rows/s", "1.00x plain")]
    monkeypatch.setattr(bench, "_rows", lambda given, device: iter(rows))
    assert main(["bench"]) == 0
    table = capsys.readouterr().out
    assert all(str(part) in table for part in ("render", 12.5, "scenes/s", "1.00x plain", torch.__version__))
    assert main(["bench", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [Row(**row) for row in said["rows"]] == rows and torch.__version__ in said["machine"]


@pytest.mark.parametrize("words", [["nothing"], ["world", "a.ipynb"], ["--threads", "0"], ["--seconds", "-1"], ["--device", "x"]])
def test_what_cannot_be_meant_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["bench", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and "expected" in capsys.readouterr().err
