"""How mini-sd is trained: the weight of each noise level, the levels that are drawn, the loss of a batch by hand."""

from __future__ import annotations

import math

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from minidiff.diffusion import X0, Eps, V, make_schedule, q_sample, simple_loss
from minidiff.latent.grounding import grounding_loss, place_loss
from minidiff.latent.stable import LatentDiffusion, _Probs, make_unet, snr_weight
from minidiff.latent.text import make_text_encoder, make_tokenizer, token_ids
from minidiff.recipes.stable import draw_t
from minidiff.steer import Row, Tap

S = make_schedule("scaled_linear", 1000)


def test_the_weight_is_that_of_v_at_high_noise_and_min_snr_at_low() -> None:
    t = torch.arange(0, 900, 3)
    x0, eps = torch.randn(2, len(t), 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    x = q_sample(x0, t, eps, S)
    guess = torch.sin(3 * x) - 0.1 * t[:, None, None, None] / 1000                       # an x0 that depends on x and t
    a = S.at(t)[:, None, None, None]
    read = {"x0": guess, "eps": (x - a.sqrt() * guess) / (1 - a).sqrt()}
    read["v"] = a.sqrt() * read["eps"] - (1 - a).sqrt() * read["x0"]
    loss = {w.kind: simple_loss(w(lambda x, t, k=w.kind: read[k], S), x0, t, eps) for w in (Eps, X0, V)}
    snr = S.at(t) / (1 - S.at(t))
    got = loss["eps"] * snr_weight(snr)
    high = snr < 4
    assert high.any() and (~high).any()
    assert torch.allclose(got[high], loss["v"][high], rtol=1e-8)
    assert torch.allclose(got[~high], 5 * loss["x0"][~high], rtol=1e-8)


def test_the_weight_is_finite_without_any_signal() -> None:
    assert snr_weight(torch.tensor([0.0, 1e-12, 1 / 300])).tolist() == [100.0, 100.0, 100.0]
    assert 0 < float(snr_weight(torch.tensor(1e9))) < 1e-8


def test_the_levels_are_drawn_by_their_density() -> None:
    n, T = 200_000, 1000
    t = draw_t(n, T, torch.Generator().manual_seed(0))
    assert t.dtype == torch.long and int(t.min()) >= 0 and int(t.max()) <= T - 1
    at = torch.arange(1, T, dtype=torch.float64) / T                                    # t < k exactly when the draw is < k / T
    normal = 0.5 * (1 + torch.erf((torch.logit(at) - 0.4) / math.sqrt(2)))
    want = 0.25 * at + 0.25 * ((at - 0.7) / 0.3).clamp(min=0) + 0.5 * normal
    have = torch.bincount(t, minlength=T).cumsum(0)[:-1] / n
    assert float((have - want).abs().max()) < 1.63 / math.sqrt(n), "Kolmogorov's bound at 1 %"
    assert torch.equal(t, draw_t(n, T, torch.Generator().manual_seed(0)))


def net(inputs: int = 4, ground: float = 0.0, place: float = 0.0) -> LatentDiffusion:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    return LatentDiffusion(make_unet(inputs=inputs, widths=(16, 32), heads=2), make_text_encoder(tokenizer), ground=ground,
                           place=place)


def batch() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    z, noise = (torch.randn(3, 4, 16, 16, generator=g) for _ in range(2))
    ids = token_ids(make_tokenizer(), ["a red cat", "", "a dog"])
    words = torch.zeros(3, 1, ids.shape[1])
    words[0, 0, 3] = words[2, 0, 2] = 1
    masks = torch.zeros(3, 1, 16, 16)
    masks[:, :, 4:9, 5:11] = 1
    return {"z": z, "noise": noise, "t": torch.tensor([20, 500, 960]), "ids": ids, "words": words, "masks": masks}


@torch.no_grad()
def test_the_loss_of_a_batch_by_hand_with_diffusers_noise() -> None:
    model, b = net(), batch()
    noisy = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear").add_noise(b["z"], b["noise"], b["t"])
    out = model.unet(noisy, b["t"], model.text_encoder(b["ids"])[0]).sample
    snr = (S.at(b["t"]) / (1 - S.at(b["t"]))).tolist()
    weight = torch.tensor([5 / snr[0], (1 + snr[1]) / snr[1], 100.0])
    want = ((out - b["noise"]) ** 2).mean((1, 2, 3)) * weight
    assert snr[0] > 5 > 4 > snr[1] and 1 + 1 / snr[2] > 100
    assert torch.allclose(model(**b), want, rtol=1e-4)


@torch.no_grad()
def test_grounding_is_added_for_words_that_name_a_thing() -> None:
    plain, taught, b = net(), net(ground=1.0), batch()
    more = taught(**b) - plain(**b)
    with Tap(taught.unet, seen := _Probs(taught._taught), rows=[Row("source")]):
        taught.unet(q_sample(b["z"], b["t"], b["noise"], S).float(), b["t"], taught.text_encoder(b["ids"])[0])
    maps = torch.stack([grounding_loss(probs, b["words"], b["masks"]) for probs in seen.probs.values()]).mean(0)
    assert torch.allclose(more, maps, rtol=1e-3, atol=2e-5)
    assert float(more[0]) > 0.01 and float(more[2]) > 0.01
    assert float(more[1]) == 0.0, "an empty caption names nothing"


def test_each_token_is_asked_where_its_thing_is() -> None:
    masks = torch.zeros(2, 2, 8, 16)
    masks[0, 0, 2:4, 4:8] = 1                # its middle: x = 6 of 16, y = 3 of 8
    masks[0, 1, 6:8, 14:16] = 0.5
    words = torch.zeros(2, 2, 5)
    words[0, 0, 1] = words[0, 0, 2] = words[0, 1, 4] = words[1, 0, 3] = 1                 # the last thing is not to be seen
    true = torch.tensor([[0, 0], [-0.25, -0.25], [-0.25, -0.25], [9, 9], [0.875, 0.75]])
    assert torch.allclose(place_loss(true.expand(2, -1, -1), words, masks), torch.zeros(2), atol=1e-6)
    off = true.clone()
    off[2, 0] += 0.6                                                                      # one of three tokens
    assert torch.allclose(place_loss(off.expand(2, -1, -1), words, masks), torch.tensor([0.12, 0.0]), atol=1e-6)


def test_positions_are_learned_by_the_text_encoder() -> None:
    plain, learned, b = net(), net(place=1.0), batch()
    learned.load_state_dict(plain.state_dict())
    assert float(learned.positions(torch.ones(96)).detach().abs().sum()) == 0, "at first everything is in the middle"
    nn.init.normal_(learned.positions.weight)
    context = learned.text_encoder(b["ids"])[0]
    want = place_loss(learned.positions(context), b["words"], b["masks"])
    assert torch.allclose(learned(**b) - plain(**b), want, rtol=1e-3, atol=2e-5) and float(want[0].detach()) > 0.001
    want.sum().backward()
    assert float(learned.text_encoder.get_input_embeddings().weight.grad.abs().sum()) > 0


@torch.no_grad()
def test_a_hint_stands_beside_the_noisy_latent() -> None:
    model, b = net(inputs=7), batch()
    hint = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    seen = []
    handle = model.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss = model(**b, hint=hint)
    handle.remove()
    assert torch.equal(seen[0][:, 4:], hint) and seen[0].shape[1] == 7
    assert not torch.equal(loss, model(**b, hint=-hint))
