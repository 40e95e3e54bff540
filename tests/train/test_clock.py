"""Runs by the clock: so many minutes, however many images that makes, and the learning rate at zero when they are over."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from train_child import recipe

from minidiff.errors import BadInput, CheckpointError
from minidiff.train import fit, lr_at
from minidiff.train import loop as loop_module
from minidiff.train import run as run_module
from minidiff.train.optimiser import adamw, set_lr


class Clock:
    """time.monotonic that a test moves: each step takes ``tick`` seconds."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(1.0)
    for module in (run_module, loop_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic, time=time.time))
    real = run_module.Run.take_step

    def step(self: run_module.Run) -> torch.Tensor:
        loss = real(self)
        made.now += made.tick
        rates.append(float(self.optimiser.param_groups[0]["lr"]))
        return loss

    rates: list[float] = []
    made.rates = rates
    monkeypatch.setattr(run_module.Run, "take_step", step)
    return made


def run(out: Path | None = None, minutes: float = 0.5):
    return fit(recipe(), images=48, minutes=minutes, by_clock=True, out=out, device="cpu", log=lambda _: None)


def test_thirty_seconds_of_steps_of_a_second_are_thirty_steps(clock: Clock) -> None:
    states = list(run())
    one = recipe()
    assert [s.step for s in states] == list(range(1, 31)) and states[-1].images == 30 * one.batch
    for i, rate in enumerate(clock.rates):
        warm = min(1.0, one.batch * (i + 1) / one.warmup)
        want = warm * lr_at(round(1e6 * i / 30), peak=one.lr, warmup=0, total=1_000_000, shape=one.lr_shape)
        assert rate == pytest.approx(want, rel=1e-6)
    assert clock.rates[-1] < 0.05 * max(clock.rates)
    assert abs(states[9].total - states[-1].images) <= one.batch, "the end is foreseen from the pace"


def test_a_slower_machine_sees_fewer_images_and_ends_at_the_same_rate(clock: Clock) -> None:
    clock.tick = 3.0
    states = list(run())
    assert len(states) == 10 and clock.rates[-1] < 0.15 * max(clock.rates)


def test_stopped_and_taken_up_again_it_has_the_seconds_that_are_left(clock: Clock, tmp_path: Path) -> None:
    states = run(tmp_path)
    for _ in range(12):
        next(states)
    states.close()
    clock.now += 10_000                                    # a night passes; only training counts
    rest = list(run(tmp_path))
    assert rest[0].step == 13 and rest[-1].step == 30
    again = list(run(tmp_path))
    assert len(again) == 1 and again[0].step == 30, "complete: nothing more to train"


def test_another_length_is_another_run(clock: Clock, tmp_path: Path) -> None:
    list(run(tmp_path))
    with pytest.raises(CheckpointError, match="seconds_planned"):
        list(run(tmp_path, minutes=1.0))


def test_the_clock_needs_minutes_and_no_other_length() -> None:
    with pytest.raises(BadInput, match="minutes"):
        fit(recipe(), images=48, by_clock=True, device="cpu")
    with pytest.raises(BadInput, match="extend"):
        fit(recipe(), images=48, minutes=1.0, by_clock=True, extend=True, device="cpu")


def test_a_rate_that_is_a_tensor_is_changed_in_place() -> None:
    """A recorded step reads the tensor it was recorded with."""
    optimiser = adamw(torch.nn.Linear(2, 2), lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    set_lr(optimiser, 0.2)
    assert optimiser.param_groups[0]["lr"] == 0.2
    rate = torch.tensor(0.1)
    optimiser.param_groups[0]["lr"] = rate
    set_lr(optimiser, 0.3)
    assert optimiser.param_groups[0]["lr"] is rate and float(rate) == pytest.approx(0.3)
