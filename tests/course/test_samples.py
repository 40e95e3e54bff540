"""Samples that claims share: sample i is a function of (seed, i), whatever n is and whatever lies on disk."""

from __future__ import annotations

import pytest
import torch

from minidiff.course import samples
from minidiff.course.samples import sampled
from minidiff.diffusion import Gaussian, linear


@pytest.fixture
def model(monkeypatch, tmp_path):
    """An exact model in the place of the shipped one; blocks of four; a disk of its own; counts its calls."""
    class Counted(Gaussian):
        calls = 0

        def __call__(self, x, t, cond=None):
            self.calls += 1
            return super().__call__(x, t)

    made = Counted(linear(1000), std=0.5)
    monkeypatch.setattr(samples, "load", lambda name: made)
    monkeypatch.setattr(samples, "BLOCK", 4)
    monkeypatch.setattr(samples, "_cache", lambda: tmp_path)
    samples._block.cache_clear()
    yield made
    samples._block.cache_clear()


@pytest.mark.parametrize(("loop", "options"), [("ddim", {"eta": 1.0, "clip": "both"}), ("ddpm", {"variance": "large"}),
                                               ("dpm2m", {})])
def test_a_sample_does_not_depend_on_how_many_are_made(model, loop, options) -> None:
    whole = sampled(11, loop, steps=3, **options)
    assert whole.shape == (11, 3, 32, 32) and whole.abs().max() <= 1
    samples._block.cache_clear()
    for n in (1, 3, 4, 6, 11):
        assert torch.equal(sampled(n, loop, steps=3, **options), whole[:n])
    assert torch.cdist(whole.flatten(1), whole.flatten(1)).fill_diagonal_(99).min() > 1
    assert not torch.equal(sampled(11, loop, steps=3, seed=1, **options), whole)


def test_whole_blocks_are_kept_and_the_key_holds_the_code(model, monkeypatch, tmp_path) -> None:
    whole = sampled(6, "ddim", steps=2)
    assert [f.name for f in sorted(tmp_path.rglob("*.safetensors"))] == ["000000.safetensors"]
    assert model.calls == 4
    samples._block.cache_clear()
    assert torch.equal(sampled(4, "ddim", steps=2), whole[:4]) and model.calls == 4              # from the disk
    monkeypatch.setattr(samples, "_code", lambda: 1)                                             # the code has changed
    assert torch.equal(sampled(4, "ddim", steps=2), whole[:4]) and model.calls == 6
    assert len(list(tmp_path.iterdir())) == 2
