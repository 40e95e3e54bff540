"""Attention interpolation: its identities, in float64, and the rows that it must not touch."""

from __future__ import annotations

import pytest
import torch

from minidiff.diffusion import last
from minidiff.errors import BadInput
from minidiff.latent import encode_prompt, initial_noise
from minidiff.morphing import Ends, Inner, Outer, aid, named, slerp_morph, walk
from minidiff.steer import Recorder, StepContext
from minidiff.steer.hooks import Row
from tests.pipelines import CASES, make

TEXTS = (["a red cat on the grass", "a blue dog"], ["a green star", "a red house on the beach"])
STEPS, W = 4, {"low": 0.3, "high": 0.8}


@pytest.fixture(scope="module", params=CASES)
def pipe(request):
    made = make(request.param)
    made.unet.double()
    return made


def ends(pipe, *, texts=TEXTS, seeds=(1, 2)):
    noise = tuple(initial_noise(pipe, 2, seed=s).double() for s in seeds)
    return Ends(noise, texts, tuple(encode_prompt(pipe, t).double() for t in texts))


def end(pipe, ends, hooks=(), guidance=2.5, **options):
    empty, pipe.text_encoder = pipe.text_encoder, pipe.text_encoder.double()
    try:
        return last(walk(pipe, ends, W, hooks=hooks, steps=STEPS, guidance=guidance, **options)).z
    finally:
        pipe.text_encoder = empty.float()


def gap(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_inner_on_cross_attention_is_lerp_of_the_text(pipe):
    """to_k and to_v are linear and see nothing but the text, so mixing their outputs is mixing the text: exactly."""
    both = ends(pipe)
    plain = end(pipe, both)
    cross = Inner(W, fused=False, until=1.0, sites=lambda site: site.kind == "cross")
    elsewhere = encode_prompt(pipe, "a purple fish").double()               # whatever the frames' own text is
    assert gap(end(pipe, both, [cross], guide=elsewhere), plain) < 1e-10
    assert gap(end(pipe, both, guide=elsewhere), plain) > 1e-3
    outer = Outer(W, fused=False, until=1.0, sites=lambda site: site.kind == "cross")
    assert gap(end(pipe, both, [outer], guide=elsewhere), plain) > 1e-5, "the softmax is not linear: outer is another map"


@pytest.mark.parametrize("kind", [Inner, Outer])
@pytest.mark.parametrize("fused", [True, False])
def test_equal_ends_change_nothing(pipe, kind, fused):
    same = ends(pipe, texts=(TEXTS[0], TEXTS[0]), seeds=(1, 1))
    assert gap(end(pipe, same, [kind(W, fused=fused, until=1.0)]), end(pipe, same)) < 1e-10


@pytest.mark.parametrize("kind", [Inner, Outer])
def test_the_ends_stay_plain_and_warm_up_of_zero_is_nothing(pipe, kind):
    both = ends(pipe)
    plain, mixed = end(pipe, both), end(pipe, both, [kind(W, until=1.0)])
    assert all(float((mixed[name] - plain[name]).abs().max()) < 1e-10 for name in ("first", "other"))
    assert all(float((mixed[name] - plain[name]).abs().max()) > 1e-4 for name in W)
    assert gap(end(pipe, both, [kind(W, until=0.0)]), plain) == 0
    half = end(pipe, both, [kind(W, until=0.5)])
    assert gap(half, plain) > 1e-5 and gap(half, mixed) > 1e-5


def test_inner_and_outer_agree_at_the_ends_and_nowhere_else(pipe):
    both = ends(pipe)
    for w in (0.0, 1.0):
        there = {"low": w, "high": w}
        assert gap(end(pipe, both, [Inner(there, until=1.0)]), end(pipe, both, [Outer(there, until=1.0)])) < 1e-10
    assert gap(end(pipe, both, [Inner(W, until=1.0)]), end(pipe, both, [Outer(W, until=1.0)])) > 1e-5


@pytest.mark.parametrize("fused", [True, False])
def test_by_hand_on_one_layer(fused):
    """The formulas, row by row, with softmax attention spelt out."""
    q, k, v = (torch.randn(8, 2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in range(3))
    rows = tuple(Row(branch, text) for text in ("empty", "prompt") for branch in ("first", "m", "other", "alone"))
    ctx = StepContext(0, 2, 9, 4, 0.5, 0.7, (1, 5), 1, rows)

    def softmax(q, k, v):
        return (q @ k.transpose(-1, -2) / 3**0.5).softmax(-1) @ v

    a, m, b = 4, 5, 6                               # rows of the prompt: the ends around the frame

    def own(new, old):
        return torch.cat([old, new], -2) if fused else new

    got = Inner({"m": 0.3}, fused=fused).attend(None, q, k, v, ctx, softmax)
    want = softmax(q[m], own(0.7 * k[a] + 0.3 * k[b], k[m]), own(0.7 * v[a] + 0.3 * v[b], v[m]))
    assert torch.allclose(got[m], want, atol=1e-12)
    got_outer = Outer({"m": 0.3}, fused=fused).attend(None, q, k, v, ctx, softmax)
    want = 0.7 * softmax(q[m], own(k[a], k[m]), own(v[a], v[m])) + 0.3 * softmax(q[m], own(k[b], k[m]), own(v[b], v[m]))
    assert torch.allclose(got_outer[m], want, atol=1e-12)
    untouched = [i for i in range(8) if i != m]
    for out in (got, got_outer):
        assert torch.allclose(out[untouched], softmax(q, k, v)[untouched], atol=1e-12), "empty prompt and ends as ever"


def test_the_guide_is_in_the_frames_between_and_not_in_the_ends(pipe):
    both = ends(pipe)
    guide = encode_prompt(pipe, "a purple fish").double()
    hooked, plain = end(pipe, both, [Inner(W)], guide=guide), end(pipe, both, [Inner(W)])
    assert float((hooked["first"] - plain["first"]).abs().max()) < 1e-10
    assert float((hooked["low"] - plain["low"]).abs().max()) > 1e-4


def test_the_method_is_its_hook_on_the_walk():
    pipe = make(CASES[1])
    made = aid(pipe, *TEXTS, weights=3, attend="outer", fused=False, until=0.7, steps=3, guidance=2.0, guide="a purple fish")
    between = named(made.weights)
    both = Ends(tuple(initial_noise(pipe, 2, seed=0) for _ in range(2)), TEXTS, tuple(encode_prompt(pipe, t) for t in TEXTS))
    z = last(walk(pipe, both, between, hooks=[Outer(between, fused=False, until=0.7)], steps=3, guidance=2.0,
                  guide=encode_prompt(pipe, "a purple fish"))).z
    from minidiff.latent import decode

    with torch.no_grad():
        assert (made.images[:, 1] - decode(pipe.vae, z["frame 1"]).clamp(-1, 1)).abs().max() < 1e-4
    assert "outer" in made.method and made.prompts == TEXTS
    plain = slerp_morph(pipe, *TEXTS, weights=3, steps=3, guidance=2.0)
    assert (made.images[:, [0, 2]] - plain.images[:, [0, 2]]).abs().max() < 1e-4


def test_it_goes_together_with_a_recorder():
    pipe = make(CASES[1])
    both = Ends(tuple(initial_noise(pipe, 1, seed=s) for s in (0, 1)), (["a cat"], ["a dog"]),
                tuple(encode_prompt(pipe, t) for t in ("a cat", "a dog")))
    record = Recorder(branch="mid")
    last(walk(pipe, both, {"mid": 0.5}, hooks=[Inner({"mid": 0.5}, fused=False, until=1.0), record], steps=2, guidance=2.0))
    probs = next(iter(record.at(1).probs.values()))
    assert torch.allclose(probs.sum(-1), torch.ones(probs.shape[:-1]), atol=1e-5)


@pytest.mark.parametrize("options", [{"weights": [0.0, 1.0]}, {"attend": "both"}, {"until": 1.5}, {"guide": ["a cat"] * 3},
                                     {"guide": "a zebra"}, {"mix": "slurp"}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(BadInput):
        aid(make(CASES[1]), *TEXTS, steps=1, **options)
    with pytest.raises(BadInput, match="weights"):
        Inner({})
