"""What makes training fast leaves it the same run: the loss curve and the pictures that come of it, each knob by itself.

The run that they are held to is a plain one: float32, NCHW, and AdamW in torch's own loop over the weights, with no fused pass.
Tolerances. In float32: 1e-4 of the loss at every step, and 1e-4 of the pictures' range in the mean. With bf16 products a run of
its own comes of it: 2 % of the loss at every step, 1 % of the loss on batches that no run saw, and pictures that are apart by at
most a quarter of what another seed sets them apart.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from minidiff.diffusion import Eps, ddim, last, linear, q_sample
from minidiff.nets import UNet
from minidiff.rng import generator, normal
from minidiff.train import Budget, Recipe
from minidiff.train.distributed import Workers
from minidiff.train.run import Run
from minidiff.train.speed import Speed

STEPS, BATCH, SCHEDULE = 60, 8, linear(100)
CPU = torch.device("cpu")


def draw(i: int, n: int, device: torch.device) -> dict[str, Tensor]:
    """Discs of one colour on grey, so that there is something to learn."""
    place, shade = normal((n, 2, 1, 1), 3, "place", i), normal((n, 3, 1, 1), 3, "shade", i).tanh()
    down, right = torch.meshgrid(torch.linspace(-2, 2, 16), torch.linspace(-2, 2, 16), indexing="ij")
    inside = ((right - place[:, :1]) ** 2 + (down - place[:, 1:]) ** 2 < 1).float()
    t = torch.randint(0, 100, (n,), generator=generator(3, "t", i))
    return {"x0": inside * shade, "t": t, "noise": normal((n, 3, 16, 16), 3, "noise", i)}


def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    x = q_sample(batch["x0"], batch["t"], batch["noise"], SCHEDULE)
    return (net(x, batch["t"]) - batch["noise"]).square().flatten(1).mean(1)


RECIPE = Recipe(name="knobs", seed=3, build=lambda: UNet(dim=16, mults=(1, 2), size=16), draw=draw, loss=loss, batch=BATCH,
                lr=6e-3, warmup=40, ema=0.9, weight_decay=0.01, budgets={"laptop": Budget(STEPS * BATCH, 1)})


class Trained(NamedTuple):
    """What a run leaves: losses (STEPS,); of the averaged weights four pictures, and the loss on batches that it did not see."""

    losses: Tensor
    pictures: Tensor
    unseen: float


def trained(*, fused: bool, bf16: bool = False, channels_last: bool = False, compile: bool = False, seed: int = 3) -> Trained:
    plan = replace(RECIPE, seed=seed).plan("laptop", None)
    run = Run(plan, Workers("cpu"), Speed(CPU, bf16, compile, channels_last))
    if not fused:
        run.optimiser = torch.optim.AdamW(run.model.parameters(), lr=0.0, betas=RECIPE.betas, weight_decay=RECIPE.weight_decay,
                                          foreach=False, fused=False)
    with run.fast():
        losses = torch.stack([run.take_step() for _ in range(STEPS)])
    z = normal((4, 3, 16, 16), "knobs")
    pictures = last(ddim(Eps(run.ema.model, SCHEDULE), z, steps=5, clip="x0")).x
    with torch.no_grad():
        unseen = torch.stack([loss(run.ema.model, draw(1000 + i, 64, CPU)).mean() for i in range(4)]).mean()
    run.close()
    return Trained(losses.float(), pictures.clamp(-1, 1), float(unseen))


@functools.cache
def plain(seed: int = 3) -> Trained:
    found = trained(fused=False, seed=seed)
    curve = found.losses
    assert curve[-8:].mean() < 0.6 * curve[:8].mean() and found.pictures.std() > 0.1, "it learns, so there is a curve to keep"
    return found


@pytest.mark.parametrize("knobs", [{"fused": True}, {"fused": False, "channels_last": True},
                                   {"fused": True, "channels_last": True}, {"fused": True, "compile": True}],
                         ids=lambda knobs: " ".join(name for name, on in knobs.items() if on))
def test_a_knob_leaves_the_loss_curve_and_the_pictures(knobs: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    # compiled but for the C++ compiler, which is not on every machine and takes half a minute for a network
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    fast, slow = trained(**knobs), plain()
    assert float(((fast.losses - slow.losses).abs() / slow.losses).max()) <= 1e-4
    assert float((fast.pictures - slow.pictures).abs().mean()) / 2 <= 1e-4


def test_half_precision_leaves_the_run_within_what_it_says() -> None:
    fast, slow, other = trained(fused=True, bf16=True), plain(), plain(seed=4)
    assert 0 < float(((fast.losses - slow.losses).abs() / slow.losses).max()) <= 0.02
    assert abs(fast.unseen / slow.unseen - 1) <= 0.01
    assert float((fast.pictures - slow.pictures).abs().mean()) <= 0.25 * float((other.pictures - slow.pictures).abs().mean())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_is_chosen_on_the_cpu_is_among_what_is_held(precision: str) -> None:
    chosen = Speed.choose(CPU, precision=precision)
    assert chosen == Speed(CPU, precision == "bf16", False, precision == "float32")
