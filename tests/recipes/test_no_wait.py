"""A training step must not make a GPU wait, or it cannot be recorded as a CUDA graph: seen without a GPU, on the meta device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minidiff import guard
from minidiff.latent.bottleneck import Codebook
from minidiff.recipes import RECIPES, recipe

N = 4
_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "is_nonzero", "equal")


class NoWaiting(TorchDispatchMode):
    """Raises where a kernel's answer is asked for, and where a tensor of the CPU is copied to the device of the step."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        assert name not in _WAITS, f"{name} makes a GPU wait"
        if name in ("_to_copy", "copy_"):
            there = [x.device.type for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
            goal = (kwargs or {}).get("device")
            assert not ("cpu" in there and (str(goal) == "meta" or "meta" in there)), f"{name}: from the CPU inside a step"
        return func(*args, **(kwargs or {}))


def step(model, loss, batch):
    loss(model, batch).float().mean().backward()


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in ("readers/develop", "readers/final")])
def test_a_step_never_waits(name, monkeypatch):
    monkeypatch.setattr(guard, "_holds_numbers", lambda name, value: None)     # meta stands for a GPU here
    one = recipe(name)
    device = torch.device("meta")
    batch = {k: v.to(device) for k, v in one.draw(0, N, torch.device("cpu")).items()}
    model = one.build().to(device).train()
    step(model, one.loss, batch)                      # tables that are kept on each device get there once
    model.zero_grad(set_to_none=True)
    with NoWaiting():
        step(model, one.loss, batch)
    assert sum(p.grad is not None for p in model.parameters()) > 0


def test_a_step_that_waits_is_seen():
    layer = torch.nn.Linear(3, 3, device="meta")
    with pytest.raises(AssertionError, match="from the CPU"), NoWaiting():
        step(layer, lambda net, x: net(x) * torch.tensor([1.0, 2.0, 3.0]).to("meta"), torch.ones(4, 3, device="meta"))
    plain = torch.nn.Linear(3, 3)
    with pytest.raises(AssertionError, match="wait"), NoWaiting():
        step(plain, lambda net, x: net(x) / float(x.max()), torch.ones(4, 3))


@pytest.mark.parametrize("name", RECIPES)
def test_every_batch_has_the_same_shape_and_is_a_function_of_its_number(name):
    one, cpu = recipe(name), torch.device("cpu")
    first, ninth, again = one.draw(0, 4, cpu), one.draw(9, 4, cpu), one.draw(0, 4, cpu)
    for key in first:
        assert first[key].shape == ninth[key].shape and first[key].dtype == ninth[key].dtype
        assert torch.equal(first[key], again[key]), key
    assert any(not torch.equal(first[key], ninth[key]) for key in first)


def test_a_code_that_starves_is_put_where_a_latent_is():
    torch.manual_seed(0)
    book = Codebook(32, 4)
    h = torch.randn(8, 4, 8, 8) + 3
    with torch.no_grad():
        book.embedding.weight[1:] += 50                # only code 0 is near anything
    before = len(book(h).index.unique())
    for _ in range(400):
        book(h)
    assert before == 1 and len(book(h).index.unique()) >= 28
    book.eval()
    kept = book.embedding.weight.clone()
    book(h)
    assert torch.equal(kept, book.embedding.weight)
