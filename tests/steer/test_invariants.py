"""What every method on the engine keeps, one row of ``methods.METHODS`` each."""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from peft import LoraConfig

from minidiff import BadInput
from minidiff.latent import initial_noise
from tests.pipelines import CASES, make, shared
from tests.steer.methods import METHODS, plain

PROMPTS = ["a red cat on the grass", "a blue mushroom left of a dog"]
SHAPES = {"square": None, "wide": (1, 2)}


def size(pipe, shape):
    unit = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    return None if SHAPES[shape] is None else tuple(unit * side for side in SHAPES[shape])


def apart(a, b):
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


@functools.cache
def exact(case):
    """The shared pipeline of a case in float64; nothing that patches it may leave a trace."""
    pipe = make(case)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    return pipe


def fingerprint(unet):
    """Every processor and every hook that hangs on the network, by identity."""
    processors = {name: id(p) for name, p in unet.attn_processors.items()}
    return processors, {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in unet.named_modules()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_neutral_is_plain_and_the_method_works(method, case, shape):
    pipe = shared(case)
    z = initial_noise(pipe, 2, seed=4, size=size(pipe, shape))
    before = fingerprint(pipe.unet)
    want = plain(pipe, method.target(PROMPTS), z)
    neutral = method.sample(pipe, z, PROMPTS, 0.0, [0, 1])[method.edited]
    assert not method.neutral or apart(neutral, want) <= 1e-5
    active = method.sample(pipe, z, PROMPTS, 1.0, [0, 1])
    assert method.name.startswith("plain") or apart(active[method.edited], want) > 1e-3, "the method does nothing at all"
    if method.source is not None:
        assert apart(active[method.source], plain(pipe, PROMPTS, z)) <= 1e-5
    assert fingerprint(pipe.unet) == before


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_batch_is_a_loop_of_singles(method, case):
    """In float64: what is left is not rounding, which the loop of a method can multiply by hundreds."""
    pipe = exact(case)
    z = initial_noise(pipe, 2, seed=4).double()
    together = method.sample(pipe, z, PROMPTS, 1.0, [0, 1])
    for row in range(2):
        for branch, alone in method.sample(pipe, z[row:row + 1], PROMPTS[row:row + 1], 1.0, [row]).items():
            assert apart(together[branch][row:row + 1], alone) <= 1e-8, branch


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_with_a_lora_active_and_restored_after_an_error(method):
    pipe = make(CASES[1])
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    z = initial_noise(pipe, 1, seed=4)
    neutral = method.sample(pipe, z, PROMPTS[:1], 0.0, [0])[method.edited]
    assert not method.neutral or apart(neutral, plain(pipe, method.target(PROMPTS[:1]), z)) <= 1e-5
    before, calls = fingerprint(pipe.unet), []
    forward = pipe.unet.mid_block.forward

    def breaks(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("planted")
        return forward(*args, **kwargs)

    pipe.unet.mid_block.forward = breaks
    with pytest.raises(KeyError, match="planted"):
        method.sample(pipe, z, PROMPTS[:1], 1.0, [0])
    del pipe.unet.mid_block.forward
    assert fingerprint(pipe.unet) == before


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_scheduler_it_cannot_work_with_is_refused_by_name(method):
    pipe = make(CASES[1])
    z = initial_noise(pipe, 1)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(BadInput, match="FlowMatchEulerDiscreteScheduler"):
        method.sample(pipe, z, PROMPTS[:1], 1.0, [0])
