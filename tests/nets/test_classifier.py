"""The noisy classifier: shapes, rows apart, an attention pool written out."""

from __future__ import annotations

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.nets.classifier import AttentionPool, NoisyClassifier
from minidiff.rng import normal


def test_logits_of_a_row_do_not_depend_on_the_others_and_know_the_time() -> None:
    torch.manual_seed(0)
    net = NoisyClassifier({"kind": 4, "colour": 3}, dim=16, patch=2, size=16).eval()
    for p in net.parameters():
        if float(p.abs().sum()) == 0:
            torch.nn.init.normal_(p, std=0.1)
    x, t = normal((5, 3, 16, 16), "x"), torch.tensor([3, 900, 40, 500, 0])
    whole = net(x, t)
    assert whole["kind"].shape == (5, 4) and whole["colour"].shape == (5, 3)
    for i in range(5):
        torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1])["kind"], whole["kind"][i : i + 1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(x, t.flip(0))["kind"], whole["kind"], atol=1e-5)
    again = NoisyClassifier(**net.config)
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(x, t)["colour"], whole["colour"])
    with pytest.raises(BadInput, match="one step a picture"):
        net(x, t[:2])


def test_only_the_mean_asks_in_the_pool() -> None:
    pool = AttentionPool(8, 3, heads=2)
    x = normal((2, 8, 3, 3), "pool")
    tokens = torch.cat([x.mean((2, 3))[:, None], x.flatten(2).transpose(1, 2)], 1) + pool.position
    q, k, v = (part.view(2, 10, 2, 4).transpose(1, 2) for part in pool.qkv(tokens).chunk(3, -1))
    want = pool.out(((q[:, :, :1] @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).reshape(2, 8))
    torch.testing.assert_close(pool(x), want)
    with pytest.raises(BadInput, match="heads"):
        AttentionPool(8, 3, heads=3)
