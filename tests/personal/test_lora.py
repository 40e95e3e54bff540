import pytest
import torch
from tiny_pipe import pipeline

from minidiff.errors import BadInput
from minidiff.personal import ATTENTION, EVERYWHERE, LoRA, load_lora, pictures
from minidiff.rng import normal
from minidiff.show import pixels


def random(lora, scale=0.3):
    with torch.no_grad():
        for path, b in lora.B.items():
            b.copy_(scale * normal(tuple(b.shape), "B", path).to(b))
    return lora


def call(pipe, rows=2, height=16):
    dtype = pipe.unet.dtype
    z, c = normal((rows, 4, height, 16), "z").to(dtype), normal((rows, 77, 16), "c").to(dtype)
    with torch.no_grad():
        return pipe.unet(z, torch.tensor([300] * rows), encoder_hidden_states=c).sample


def draw(pipe):
    return pictures(pipe, ["a cat", "a red dog"], seed=1, steps=3)


@pytest.mark.parametrize("targets", [ATTENTION, EVERYWHERE])
def test_fresh_scale_zero_detached_and_unmerged_are_the_network_bit_for_bit(pipe, targets):
    plain = call(pipe)
    weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    lora = LoRA(pipe.unet, rank=3, targets=targets)
    assert torch.equal(call(pipe), plain)
    random(lora)
    adapted = call(pipe)
    assert (adapted - plain).abs().max() > 1e-3
    lora.scale = 0
    assert torch.equal(call(pipe), plain)
    lora.scale = 1.0
    lora.merge()
    lora.unmerge()
    assert torch.equal(call(pipe), adapted)
    lora.detach()
    assert torch.equal(call(pipe), plain)
    assert all(torch.equal(v, weights[k]) for k, v in pipe.unet.state_dict().items())


@pytest.mark.parametrize("targets", [ATTENTION, EVERYWHERE])
def test_merged_draws_the_picture_that_is_drawn_beside(targets):
    pipe = pipeline(dtype=torch.float64)
    lora = random(LoRA(pipe.unet, rank=3, alpha=6.0, targets=targets))
    lora.scale = 0.7
    beside = call(pipe), draw(pipe)
    lora.merge()
    for merged, wanted in zip((call(pipe), draw(pipe)), beside, strict=True):
        assert (merged - wanted).abs().max() < 1e-6
    lora.unmerge()
    lora.detach()
    assert (draw(pipe) - beside[1]).abs().max() > 1e-3


def test_it_is_pefts_in_float64():
    from peft import LoraConfig

    pipe = pipeline(dtype=torch.float64)
    targets = ("to_q", "to_k", "to_v", "to_out.0", "conv1")
    lora = random(LoRA(pipe.unet, rank=2, alpha=6.0, targets=targets))
    ours = call(pipe, height=24)
    tensors = lora.tensors()
    lora.detach()
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=6.0, target_modules=list(targets)))
    named = dict(pipe.unet.named_parameters())
    theirs = [n for n in named if ".lora_" in n]
    assert len(theirs) == len(tensors)
    with torch.no_grad():
        for name in theirs:
            named[name].copy_(tensors["unet." + name.replace(".default", "")])
    pipe.unet.to(torch.float64)
    assert (call(pipe, height=24) - ours).abs().max() < 1e-12


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_diffusers_loads_what_is_saved_and_saves_what_is_loaded(pipe, tmp_path, alpha):
    lora = random(LoRA(pipe.unet, rank=2, alpha=alpha))
    ours = call(pipe)
    lora.save(tmp_path / "a")
    fresh = pipeline()
    fresh.load_lora_weights(tmp_path / "a")
    assert (call(fresh) - ours).abs().max() < 1e-6
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict
    theirs = convert_state_dict_to_diffusers(get_peft_model_state_dict(fresh.unet, adapter_name="default_0"))
    from diffusers import StableDiffusionPipeline
    config = {"r": 2, "lora_alpha": lora.alpha, "target_modules": lora.paths}
    StableDiffusionPipeline.save_lora_weights(tmp_path / "b", unet_lora_layers=theirs, unet_lora_adapter_metadata=config)
    back = pipeline()
    load_lora(back, tmp_path / "b")
    assert torch.equal(call(back), ours)


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_what_diffusers_loads_draws_the_identical_picture(tmp_path, alpha):
    pipe, theirs, back = (pipeline(dtype=torch.float64) for _ in range(3))
    plain = draw(pipe)
    lora = random(LoRA(pipe.unet, rank=2, alpha=alpha))
    lora.save(tmp_path)
    theirs.load_lora_weights(tmp_path)
    theirs.unet.to(torch.float64)
    load_lora(back, tmp_path)
    ours = draw(pipe)
    assert (pixels(ours) != pixels(plain)).any()
    for other in (theirs, back):
        assert (pixels(draw(other)) == pixels(ours)).all() and (draw(other) - ours).abs().max() < 1e-6


def test_rows_make_a_bank_several_adapters_one_batch(pipe):
    first, other = random(LoRA(pipe.unet, rank=2, seed=1)), random(LoRA(pipe.unet, rank=2, seed=2), 0.5)
    first.rows, other.rows = slice(0, 1), slice(1, 3)
    both = call(pipe, rows=3)
    first.rows = None
    other.detach()
    assert (call(pipe, rows=3)[:1] - both[:1]).abs().max() < 1e-5
    first.detach()
    other.rows = None
    other.attach()
    assert (call(pipe, rows=3)[1:] - both[1:]).abs().max() < 1e-5


def test_rank_delta_and_count(pipe):
    lora = random(LoRA(pipe.unet, rank=3, targets=EVERYWHERE))
    layers = dict(pipe.unet.named_modules())
    assert lora.count() == sum(3 * (w.shape[0] + w[0].numel()) for w in (layers[p].weight for p in lora.paths))
    for path in lora.paths[:6]:
        assert torch.linalg.matrix_rank(lora.delta(path).flatten(1)) <= 3
    scaled = LoRA(pipe.unet, rank=3, alpha=6.0, targets=EVERYWHERE)
    scaled.load_state_dict(lora.state_dict())
    assert torch.allclose(scaled.delta(lora.paths[0]), 2 * lora.delta(lora.paths[0]))


def test_gradients_reach_b_first_and_a_when_b_is_not_zero(pipe):
    lora = LoRA(pipe.unet, rank=2)
    z, c = normal((1, 4, 16, 16), "z"), normal((1, 77, 16), "c")

    def gradients():
        lora.zero_grad()
        pipe.unet(z, 300, encoder_hidden_states=c).sample.square().mean().backward()
        return [sum(float(p.grad.abs().sum()) for p in table.values()) for table in (lora.A, lora.B)]

    a, b = gradients()
    assert a == 0 and b > 0
    random(lora)
    assert min(gradients()) > 0


def test_what_is_refused(pipe, tmp_path):
    lora = LoRA(pipe.unet, rank=1)
    lora.merge()
    other = pipeline(widths=(32, 32, 32, 32))
    lora.save(tmp_path)
    for make, word in [(lambda: LoRA(pipe.unet, rank=0), "rank"), (lambda: LoRA(pipe.unet, targets=("to_x",)), "targets"),
                       (lora.merge, "merged"), (lora.attach, "merged"), (lambda: load_lora(pipe, tmp_path / "no"), "folder"),
                       (lambda: load_lora(other, tmp_path), "adapter of this U-Net"), (lambda: lora.delta("conv_in"), "path")]:
        with pytest.raises(BadInput, match=word):
            make()
