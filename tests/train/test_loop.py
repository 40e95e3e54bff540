"""The training loop: its maths against a plain loop, what it yields, how it stops, what it refuses."""

from __future__ import annotations

import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from train_child import SEED, TinyNet, differing, draw, final, loss, recipe

from minidiff.errors import BadInput, CheckpointError
from minidiff.rng import key
from minidiff.train import Budget, Ema, Progress, Recipe, TrainState, describe, fit, lr_at, read_losses, speed
from minidiff.train.distributed import Workers
from minidiff.train.optimiser import adamw, restore_moments
from minidiff.train.run import Run
from minidiff.train.speed import Speed, automatic_bf16, native_bf16, pick_device


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class CaptionFacts(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


def go(used: Recipe, **arguments: Any) -> list[TrainState]:
    return list(fit(used, **({"images": 48, "device": "cpu", "log": lambda _: None} | arguments)))


def bits(state: TrainState) -> dict[str, torch.Tensor]:
    """Copies of the weights and their average."""
    both = {"model": state.model.state_dict(), "ema": state.ema.state_dict()}
    return {f"{kind} {name}": x.clone() for kind, weights in both.items() for name, x in weights.items()}


# ---- the maths ----------------------------------------------------------------------------------------------------


def test_the_loop_is_a_plain_loop_written_out_by_hand() -> None:
    """AdamW, warm-up and cosine, clipping and the average, from their formulas in float64 and numpy-like steps."""
    states = go(recipe(plain=True), precision="float32")
    with torch.random.fork_rng():
        torch.manual_seed(key(SEED, "build") & ((1 << 63) - 1))
        net = TinyNet(plain=True)
    weights = list(net.parameters())
    mean = [p.detach().clone() for p in weights]
    first, second = [torch.zeros_like(p) for p in weights], [torch.zeros_like(p) for p in weights]
    clipped = 0
    for i in range(12):
        value = loss(net, draw(i, 4, torch.device("cpu"))).mean()
        grads = torch.autograd.grad(value, weights)
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))
        clipped += norm > 0.5
        grads = [g * min(1.0, 0.5 / norm) for g in grads]
        seen = 4 * (i + 1)
        lr = 3e-3 * seen / 16 if seen < 16 else 3e-3 * (0.02 + 0.98 * (1 + math.cos(math.pi * (seen - 16) / 32)) / 2)
        decay = min(0.9, (i + 1) / (i + 10))
        with torch.no_grad():
            for p, g, m, v, average in zip(weights, grads, first, second, mean):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.99).add_(0.01 * g * g)
                p.mul_(1 - lr * 0.01)
                p.sub_(lr * (m / (1 - 0.9 ** (i + 1))) / ((v / (1 - 0.99 ** (i + 1))).sqrt() + 1e-8))
                average.mul_(decay).add_((1 - decay) * p)
        torch.testing.assert_close(states[i].loss, value.detach(), rtol=1e-4, atol=1e-6)
    assert 0 < clipped < 12  # the case reaches both sides of the clip
    for p, mine in zip(weights, states[-1].model.parameters()):
        torch.testing.assert_close(mine, p, rtol=1e-4, atol=2e-6)
    for average, mine in zip(mean, states[-1].ema.parameters()):
        torch.testing.assert_close(mine, average, rtol=1e-4, atol=2e-6)


def test_learning_rate_is_a_line_then_half_a_cosine_of_images() -> None:
    at = [lr_at(n, peak=2.0, warmup=100, total=1100) for n in (0, 25, 100, 350, 600, 1100, 5000)]
    assert at == pytest.approx([0, 0.5, 2.0, 2 * (0.02 + 0.98 * (1 + math.sqrt(0.5)) / 2), 1.02, 0.04, 0.04])
    assert recipe(batch=4).plan(images=960).lr_at(480) == recipe(batch=16).plan(images=960).lr_at(480)
    assert lr_at(50, peak=1.0, warmup=1000, total=100) == pytest.approx(0.5)  # a warm-up longer than the run still gets there


def test_a_linear_rate_is_two_lines_and_ends_at_zero() -> None:
    at = [lr_at(n, peak=2.0, warmup=100, total=1100, shape="linear") for n in (0, 25, 100, 350, 600, 1099, 1100, 5000)]
    assert at == pytest.approx([0, 0.5, 2.0, 1.5, 1.0, 0.002, 0, 0], abs=1e-12)


@pytest.fixture
def rates() -> Iterator[list[float]]:
    """The learning rates that optimisers step with."""
    used: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimiser, *_: used.append(optimiser.param_groups[0]["lr"]))
    yield used
    handle.remove()


def triangle(images: int, start: int, end: int) -> float:
    """recipe()'s rate in a linear cycle from ``start`` to ``end``: up over 16 images, then down to zero."""
    return 3e-3 * min((images - start) / 16, (end - images) / (end - start - 16))


def test_the_rate_starts_anew_at_a_planned_restart(rates: list[float]) -> None:
    go(recipe(lr_shape="linear", restarts=(0.25, 0.75)), images=160)
    ends = [0] * 10 + [1] * 20 + [2] * 10
    cycles = [(0, 40), (40, 120), (120, 160)]
    assert rates == pytest.approx([triangle(4 * k, *cycles[ends[k - 1]]) for k in range(1, 41)], abs=1e-12)
    assert [k + 1 for k, rate in enumerate(rates) if rate < 1e-12] == [10, 30, 40]
    cosine = recipe(restarts=(0.25,)).plan(images=160)
    assert [cosine.lr_at(n) for n in (40, 44, 160)] == pytest.approx([0.02 * 3e-3, 0.25 * 3e-3, 0.02 * 3e-3])


def test_an_extended_run_starts_a_new_cycle_where_it_was_taken_up(rates: list[float], tmp_path: Path) -> None:
    """Stopped at 20 of 48 images, planned anew for 80, stopped again at 40, gone on from, extended once more."""
    used = recipe(lr_shape="linear")
    for stop, arguments in ((5, {"images": 48}), (10, {"images": 80, "extend": True}), (None, {"images": 80}),
                            (None, {"images": 120, "extend": True})):
        for state in fit(used, out=tmp_path, device="cpu", log=lambda _: None, **arguments):
            if state.step == stop:
                break
    cycles = [(0, 48)] * 5 + [(20, 80)] * 15 + [(80, 120)] * 10
    assert rates == pytest.approx([triangle(4 * k, *cycles[k - 1]) for k in range(1, 31)], abs=1e-12)


def test_average_starts_fast_and_ends_at_its_decay() -> None:
    net = nn.BatchNorm1d(1)
    ema = Ema(net, 0.9)
    assert [ema.decay_at(s) for s in (1, 9, 81, 82, 1000)] == pytest.approx([0.1, 0.5, 0.9, 0.9, 0.9])
    expected = 1.0
    for step in range(1, 200):
        with torch.no_grad():
            net.weight.fill_(math.sin(step))
            net.running_mean.fill_(float(step))
        ema.update(net, step)
        kept = step / (step + 9) if step < 81 else 0.9
        expected = kept * expected + (1 - kept) * math.sin(step)
    assert ema.model.weight.item() == pytest.approx(expected, abs=1e-5)
    assert ema.model.running_mean.item() == 199 and not ema.model.training and not ema.model.weight.requires_grad
    assert net.training and net.weight.requires_grad


def test_frozen_weights_stay_and_tied_ones_stay_tied() -> None:
    state = go(recipe())[-1]
    with torch.random.fork_rng():
        torch.manual_seed(key(SEED, "build") & ((1 << 63) - 1))
        fresh = TinyNet()
    assert torch.equal(state.model.frozen, fresh.frozen) and torch.equal(state.ema.frozen, fresh.frozen)
    assert state.model.tied is state.model.last.bias and not torch.equal(state.model.tied, fresh.tied)


def test_batches_are_drawn_once_each_and_in_order(tmp_path: Path) -> None:
    drawn: list[tuple[int, int]] = []

    def noting(i: int, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        drawn.append((i, n))
        return draw(i, n, device)

    for state in fit(recipe(draw=noting), images=46, out=tmp_path, device="cpu", log=lambda _: None):
        if state.step == 5:
            break
    go(recipe(draw=noting), images=46, out=tmp_path)
    assert drawn == [(i, 4) for i in range(12)]


def test_nobody_elses_dice_are_touched() -> None:
    """First weights and dropout follow the recipe's seed alone, and the caller's own generator goes on undisturbed."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = bits(go(recipe())[-1])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert differing(one, bits(go(recipe())[-1])) == []
    assert differing(one, bits(go(recipe(seed=21))[-1])) != []
    net = go(recipe(), images=4)[0].model
    assert net.drop.p == 0.2 and net.training


def test_every_step_has_its_own_dice() -> None:
    """Dropout masks differ from step to step, and from those of another seed."""
    masks: list[torch.Tensor] = []

    def noting(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        masks.append(model.drop(torch.ones(200)) == 0)
        return loss(model, batch)

    go(recipe(loss=noting))
    go(recipe(loss=noting, seed=21), images=4)
    assert len({tuple(mask.tolist()) for mask in masks}) == 13 and 0.1 < torch.stack(masks).float().mean() < 0.3


# ---- what it yields -----------------------------------------------------------------------------------------------


def test_states_count_steps_and_images_and_carry_the_loss(tmp_path: Path) -> None:
    states = go(recipe(), out=tmp_path, save_every=16)
    assert [(s.step, s.images, s.total) for s in states] == [(k, 4 * k, 48) for k in range(1, 13)]
    assert torch.equal(torch.stack([s.loss for s in states]), read_losses(tmp_path))
    assert all(s.loss.ndim == 0 and s.loss.dtype == torch.float32 and not s.loss.requires_grad for s in states)
    assert math.isnan(states[0].recent) and states[-1].recent == pytest.approx(float(read_losses(tmp_path)[8:].mean()), rel=1e-5)
    assert states[-1].rate > 0 and states[-1].seconds_left == 0


def test_losses_are_read_every_fifty_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minidiff.train.run.READ_SECONDS", math.inf)
    states = go(recipe(), images=4 * 120)
    recent = [s.recent for s in states]
    assert all(map(math.isnan, recent[:49])) and len(set(recent[49:99])) == 1 and len(set(recent[99:119])) == 1
    for end in (50, 100):
        assert recent[end - 1] == pytest.approx(float(torch.stack([s.loss for s in states[end - 50:end]]).mean()), rel=1e-5)
    monkeypatch.setattr("minidiff.train.run.READ_SECONDS", 0.0)
    assert not any(math.isnan(s.recent) for s in go(recipe()))


def test_a_complete_run_yields_its_last_state_once(tmp_path: Path) -> None:
    last = bits(go(recipe(), out=tmp_path)[-1])
    said = CaptionFacts()
    again = go(recipe(), out=tmp_path, log=said)
    assert [s.step for s in again] == [12] and differing(last, bits(again[0])) == []
    assert again[0].loss == read_losses(tmp_path)[-1] and said == ["This run is complete: 48 images."]


def test_training_mode_comes_back_after_a_look_at_the_model() -> None:
    straight = bits(go(recipe())[-1])
    for state in fit(recipe(), images=48, device="cpu"):
        state.model.eval()
    assert differing(straight, bits(state)) == []


def test_budgets_and_their_own_batch_and_rate() -> None:
    used = recipe(budgets={"laptop": Budget(48, 1), "gpu": Budget(96, 1, batch=8, lr=1e-2)})
    assert [s.images for s in fit(used, device="cpu")] == list(range(4, 49, 4))
    gpu = used.plan("gpu")
    assert (gpu.steps, gpu.batch, gpu.lr_at(16)) == (12, 8, 1e-2)
    assert used.plan("gpu", images=50).steps == 7


# ---- stopping -----------------------------------------------------------------------------------------------------


def test_minutes_stop_a_run_that_can_be_taken_up_again(tmp_path: Path) -> None:
    go(recipe(), out=tmp_path / "straight")
    said = CaptionFacts()
    for steps in (1, 2):
        states = go(recipe(), out=tmp_path / "stopped", minutes=1e-9, log=said)
        assert [s.step for s in states] == [steps]
        where = f"step {steps}, {4 * steps} of 48 images"
        assert said[-1] == f"1e-09 minutes are over at {where}. To go on, run the same command again."
    go(recipe(), out=tmp_path / "stopped")
    assert differing(final(tmp_path / "straight"), final(tmp_path / "stopped")) == []


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Ctrl-C as in a terminal, also where the tests themselves run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(at: int, times: int = 1) -> Callable[..., torch.Tensor]:
    """A loss that presses Ctrl-C in the middle of a step."""
    calls = 0

    def pressed(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return loss(model, batch)

    return pressed


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path: Path, keyboard: None) -> None:
    go(recipe(), out=tmp_path / "straight")
    said = CaptionFacts()
    with pytest.raises(KeyboardInterrupt):
        go(recipe(loss=interrupting(4)), out=tmp_path / "stopped", save_every=1000, log=said)
    assert said == ["Stopped and saved at step 4, 16 of 48 images. To go on, run the same command again."]
    assert [p.name for p in (tmp_path / "stopped").glob("step-*")] == ["step-00000004"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    go(recipe(), out=tmp_path / "stopped")
    assert differing(final(tmp_path / "straight"), final(tmp_path / "stopped")) == []


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing_half_done(tmp_path: Path, keyboard: None) -> None:
    said = CaptionFacts()
    with pytest.raises(KeyboardInterrupt):
        go(recipe(loss=interrupting(4, times=2)), out=tmp_path, save_every=8, log=said)
    assert said == [] and [p.name for p in tmp_path.glob("step-*")] == ["step-00000002"]


def test_a_loop_that_is_left_saves_and_lets_go(tmp_path: Path) -> None:
    for state in fit(recipe(), images=48, out=tmp_path, device="cpu", save_every=1000, log=lambda _: None):
        if state.step == 3:
            break
    assert (tmp_path / "step-00000003").is_dir()
    assert go(recipe(), out=tmp_path)[0].step == 4


def test_a_cell_that_is_run_again_takes_the_folder_over(tmp_path: Path) -> None:
    """As after an interrupted cell: the old generator is still alive in the traceback."""
    old = fit(recipe(), images=48, out=tmp_path, device="cpu", log=lambda _: None)
    for _ in range(3):
        next(old)
    new = fit(recipe(), images=48, out=tmp_path, device="cpu", log=lambda _: None)
    assert next(new).step == 4 and list(old) == []


def test_an_error_in_a_step_saves_nothing(tmp_path: Path) -> None:
    def broken(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        go(recipe(loss=broken), out=tmp_path)
    assert list(tmp_path.glob("step-*")) == []


@pytest.mark.parametrize("where", ["loss", "weights"])
def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, where: str) -> None:
    def bad(i: int, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        return draw(i, n, device) | {"bad": torch.full((n,), float(i == 5))}

    def sick(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if where == "loss":
            return loss(model, batch) + torch.where(batch["bad"] > 0, math.inf, 0.0)
        if batch["bad"].any():
            model.first.weight.register_hook(lambda g: g * math.nan)
        return loss(model, batch)

    with pytest.raises(BadInput, match="a loss of inf at step 6" if where == "loss" else "not finite after step 6") as caught:
        go(recipe(draw=bad, loss=sick), out=tmp_path, save_every=8)
    assert "a smaller lr" in str(caught.value) and "step 4 is whole" in str(caught.value)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000002", "step-00000004"]
    assert all(x.isfinite().all() for x in final(tmp_path).values())


# ---- what it refuses, before any work ------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "says"), [
    ({"images": 0}, "images: got 0"), ({"images": -5}, "images: got -5"), ({"images": 1.5}, "images: got 1.5"),
    ({"images": True}, "images: got True"), ({"images": None}, "'tiny' has no budgets"), ({"minutes": 0}, "minutes: got 0"),
    ({"save_every": 0}, "save_every: got 0"), ({"preview_every": -1}, "preview_every"), ({"device": "gpu"}, "device='cuda'"),
    ({"precision": "fp16"}, "'bf16'"),
])
def test_bad_arguments_are_refused_before_any_work(tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    def never() -> nn.Module:
        raise AssertionError("work had started")

    with pytest.raises(BadInput) as caught:
        fit(recipe(build=never), **({"images": 48, "device": "cpu", "out": tmp_path / "run"} | arguments))
    assert says in str(caught.value) and not (tmp_path / "run").exists()


def test_a_gpu_is_taken_where_there_is_one_and_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device().type == "cpu"
    with pytest.raises(BadInput, match="sees no CUDA GPU"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(speed._COUNTS, "cuda", lambda: 1)
    assert pick_device().type == pick_device("cuda:0").type == "cuda" and pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("change", [{"batch": 0}, {"lr": 0.0}, {"ema": 1.0}, {"warmup": -1}, {"clip": 0.0}, {"betas": (0.9, 1.0)},
                                    {"weight_decay": -0.1}, {"name": ""}, {"lr_shape": "line"}, {"restarts": (0.5, 0.5)},
                                    {"restarts": (1.0,)}, {"restarts": (0.0,)}])
def test_bad_recipes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        replace(recipe(), **change)
    assert caught.value.argument in change


def test_unknown_budget_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match="budget='laptop'"):
        fit(recipe(budgets={"laptop": Budget(8, 1), "gpu": Budget(8, 1)}), budget="laptpo")


def test_losses_must_be_one_a_row() -> None:
    with pytest.raises(BadInput, match=r"losses of shape \(\)"):
        go(recipe(loss=lambda model, batch: loss(model, batch).mean()))


# ---- speed knobs change nothing -------------------------------------------------------------------------------------


def test_bf16_runs_the_network_in_bf16_and_the_loss_in_float32() -> None:
    seen: dict[str, set[torch.dtype]] = {"inside": set(), "outside": set()}

    def noting(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        hook = model.last.register_forward_hook(lambda _m, _a, out: seen["inside"].add(out.dtype))
        predicted = model(batch["x"] + batch["noise"], batch["t"])
        hook.remove()
        seen["outside"].add(predicted.dtype)
        return ((predicted - batch["noise"]) ** 2).mean((1, 2, 3))

    full, short = go(recipe(plain=True), precision="float32")[-1], go(recipe(plain=True, loss=noting), precision="bf16")[-1]
    assert seen == {"inside": {torch.bfloat16}, "outside": {torch.float32}} and short.loss.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in [*short.model.parameters(), *short.ema.parameters()])
    assert differing(bits(full), bits(short)) != []
    for a, b in zip(full.model.parameters(), short.model.parameters()):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.01)
    assert short.model(torch.zeros(1, 3, 6, 6), torch.zeros(1)).dtype == torch.float32 and not short.model._forward_hooks


@pytest.mark.parametrize(("able", "native"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True),
                                              ({"avx512_bf16": False, "avx2": True}, False), ({}, False)])
def test_bf16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], native: bool) -> None:
    monkeypatch.delenv("MINIDIFF_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert native_bf16(torch.device("cpu")) is native
    assert Speed.choose(torch.device("cpu")).bf16 is native
    assert not Speed.choose(torch.device("cpu"), precision="float32").bf16


@pytest.mark.parametrize(("word", "bf16"), [("float32", False), ("bf16", True), ("auto", None), ("", None)])
def test_one_variable_says_what_automatic_precision_means(monkeypatch: pytest.MonkeyPatch, word: str, bf16: bool | None) -> None:
    """It never overrules a precision that was asked for, and the run notes what it ran in."""
    cpu = torch.device("cpu")
    monkeypatch.setenv("MINIDIFF_PRECISION", word)
    assert automatic_bf16(cpu) is (native_bf16(cpu) if bf16 is None else bf16)
    assert Speed.choose(cpu).bf16 is automatic_bf16(cpu)
    assert Speed.choose(cpu, precision="bf16").bf16 and not Speed.choose(cpu, precision="float32").bf16


def test_a_wrong_word_for_automatic_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDIFF_PRECISION", "bfloat16")
    with pytest.raises(BadInput, match="MINIDIFF_PRECISION: got 'bfloat16'.*'bf16'"):
        fit(recipe(), images=48, device="cpu")
    assert len(go(recipe(), images=4, precision="float32")) == 1


def test_channels_last_and_fused_moments_come_back_in_the_layout_of_the_weights() -> None:
    """The CUDA choices, on the CPU: same numbers, and a restored optimiser is laid out as one that never stopped."""
    plan = recipe(plain=True).plan(images=48)
    last = Run(plan, Workers("cpu"), Speed(torch.device("cpu"), bf16=False, compile=False, channels_last=True))
    plain = Run(plan, Workers("cpu"), Speed(torch.device("cpu"), bf16=False, compile=False, channels_last=False))
    for run in (last, plain):
        run.optimiser = torch.optim.AdamW(run.model.parameters(), betas=(0.9, 0.99), fused=run is last)
        for _ in range(5):
            run.take_step()
    again = Run(plan, Workers("cpu"), last.speed)
    again.optimiser = torch.optim.AdamW(again.model.parameters(), betas=(0.9, 0.99), fused=True)
    saved = {n: {k: v.contiguous() for k, v in s.items()} for n, s in last.snapshot().optimiser.items()}
    again.load(replace_moments(last, saved))
    weight = "first.weight"
    here, there = again.snapshot().optimiser[weight], last.snapshot().optimiser[weight]
    assert there["exp_avg"].is_contiguous(memory_format=torch.channels_last) and not there["exp_avg"].is_contiguous()
    assert here["exp_avg"].stride() == there["exp_avg"].stride()
    for run in (last, plain, again):
        run.take_step()
    for a, b, c in zip(last.model.parameters(), plain.model.parameters(), again.model.parameters()):
        assert torch.equal(a, c)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def replace_moments(run: Run, moments: dict[str, dict[str, torch.Tensor]]) -> Any:
    snapshot = run.snapshot()
    snapshot.optimiser = moments
    return snapshot


def test_moments_of_another_network_are_refused() -> None:
    run = Run(recipe().plan(images=48), Workers("cpu"), Speed.choose(torch.device("cpu")))
    with pytest.raises(BadInput, match="moments of attic.weight"):
        restore_moments(run.optimiser, run.model, {"attic.weight": {"step": torch.tensor(1.0)}})


def test_a_compiled_network_saves_plain_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    state = go(recipe(), out=tmp_path, compile=True)[-1]
    assert compiled == [state.model]  # in place: no wrapper, so no "_orig_mod." in names
    assert {n.split(" ", 1)[1] for n in final(tmp_path) if n.startswith("model ")} == set(TinyNet().state_dict())


# ---- progress and previews -----------------------------------------------------------------------------------------


def test_progress_says_images_rate_loss_and_time_left() -> None:
    net = nn.Identity()
    state = TrainState(10, 12_000, 120_000, torch.tensor(0.0), 0.12345, 60.0, net, net)
    assert describe(state) == "12,000 of 120,000 images   60 images/s   loss 0.1235   30:00 left"
    assert describe(replace(state, images=119_940)).endswith("00:01 left")
    assert describe(replace(state, rate=2.54)) == "12,000 of 120,000 images   2.5 images/s   loss 0.1235   11:48:39 left"
    said = CaptionFacts()
    states = [replace(state, rate=math.nan), state, replace(state, images=120_000, preview=Path("x.png"))]
    passed = list(Progress(states, log=said))
    assert len(passed) == 3 and said[0] == describe(state) and said[1].endswith("see x.png") and said[-1].startswith("120,000 of")


def test_progress_is_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    states = [TrainState(k, 400 * k, 1200, torch.tensor(0.0), 0.25, 60.0, nn.Identity(), nn.Identity()) for k in (1, 2, 3)]
    states[1].preview = Path("x.png")
    assert list(Progress(states)) == states
    assert "see x.png" in screen.getvalue() and screen.getvalue().rstrip().endswith("loss 0.2500]")
    assert "100%" in screen.getvalue() and "1200/1200" in screen.getvalue()
    assert list(Progress([])) == []


def test_previews_are_the_average_models_pictures_and_change_nothing(tmp_path: Path) -> None:
    shown: list[torch.Tensor] = []

    def preview(net: nn.Module) -> torch.Tensor:
        assert not net.training and not torch.is_grad_enabled()
        torch.rand(7)
        level = torch.tanh(next(net.parameters()).mean()).expand(5, 3, 6, 6).clone()
        level[1:] = torch.linspace(-1, 1, 4)[:, None, None, None]
        shown.append(level)
        return level

    go(recipe(), out=tmp_path / "without")
    before = torch.get_rng_state()
    states = go(recipe(preview=preview), out=tmp_path / "with", preview_every=16)
    assert torch.equal(torch.get_rng_state(), before)
    assert differing(final(tmp_path / "without"), final(tmp_path / "with")) == []
    assert [s.preview.name for s in states if s.preview] == ["0000000016.png", "0000000032.png", "0000000048.png"]
    assert sorted(p.name for p in (tmp_path / "with" / "previews").iterdir()) == [s.preview.name for s in states if s.preview]
    for state, level in zip([s for s in states if s.preview], shown):
        pixels = np.asarray(Image.open(state.preview).convert("RGB"))
        height, width = pixels.shape[:2]
        assert 256 <= width <= 640 and width > height  # five pictures: three columns, two rows
        centres = [pixels[height * (2 * r + 1) // 4, width * (2 * c + 1) // 6] for r in (0, 1) for c in (0, 1, 2)][:5]
        expected = ((level[:, :, 3, 3] + 1) * 127.5).round()
        assert np.abs(np.stack(centres).astype(int) - expected.numpy()).max() <= 1


def test_a_recipe_may_have_no_preview_to_show(tmp_path: Path) -> None:
    assert all(s.preview is None for s in go(recipe(preview=lambda net: None), out=tmp_path))
    with pytest.raises(CheckpointError, match="out"):
        go(recipe(), out=tmp_path, images=52)


def test_the_fused_update_is_the_plain_one() -> None:
    """The same losses as torch's loop over the weights, which follows the algorithm line by line."""
    losses = []
    for make in (lambda net: adamw(net, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1),
                 lambda net: torch.optim.AdamW(net.parameters(), 1e-2, (0.9, 0.99), weight_decay=0.1, fused=False)):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.SiLU(), torch.nn.Linear(16, 3))
        x, y, optimiser, seen = torch.randn(64, 5), torch.randn(64, 3), make(net), []
        for _ in range(60):
            loss = (net(x) - y).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen.append(float(loss.detach()))
        losses.append(torch.tensor(seen))
    assert losses[0][-1] < 0.8 * losses[0][0]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
