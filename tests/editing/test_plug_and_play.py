"""Plug-and-Play: against a hand-written loop of two passes, its ends, the published count of steps, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from minidiff import BadInput
from minidiff.diffusion import last
from minidiff.editing.plug_and_play import CopyModule, CopyQK, feature_layer, later_sites, plug_and_play
from minidiff.editing.prompt_to_prompt import SelfCopy
from minidiff.editing.result import run_edit, source_of
from minidiff.latent import denoise, encode_prompt, initial_noise
from minidiff.rng import normal
from minidiff.steer import Hook, Recorder, StepContext, Trajectory
from tests.pipelines import CASES, make, shared

SOURCE, TARGET = ["a red cat on the grass", "a blue dog at night"], ["a green cat on the grass", "a pink dog at night"]


def apart(a, b):
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


def pictures(pipe, n=2):
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return torch.nn.functional.interpolate(normal((n, 3, 4, 4), "plug and play", 0), size=side).clamp(-1, 1)


# Where -----------------------------------------------------------------------------------------------------------------------


def test_the_layer_and_the_sites_are_those_of_the_paper_on_stable_diffusions_shape():
    """Decoder blocks 4 to 11 of twelve, three a stage; the first stage has no attention (the authors' code)."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8, 8, 8), layers_per_block=2, attention_head_dim=2, norm_num_groups=4,
        cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    assert feature_layer(unet) == "up_blocks.1.resnets.1.conv2"
    numbers = [3 * int(name.split(".")[1]) + int(name.split(".")[3]) for name in later_sites(unet, feature_layer(unet))]
    assert numbers == list(range(4, 12))
    assert all(name.endswith("attn1") for name in later_sites(unet, feature_layer(unet)))


def test_on_the_toys_shape():
    unet = shared(CASES[1]).unet
    assert feature_layer(unet) == "up_blocks.0.resnets.1.conv2"
    assert [name.split(".transformer")[0] for name in later_sites(unet, feature_layer(unet))] == [
        "up_blocks.0.attentions.1", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1"]
    for wrong in ("mid_block", "down_blocks.0.resnets.0", "up_blocks.9.resnets.0"):
        with pytest.raises(BadInput, match="layer"):
            later_sites(unet, wrong)


# The method ------------------------------------------------------------------------------------------------------------------


def by_hand(pipe, trajectory, source, target, noise, *, w, until_f, until_a, source_text):
    """Two passes with forward hooks, DDIMScheduler's steps: the source's layers are kept at each stored latent, then put into
    a batch [empty, prompt] of the edit. until_f, until_a: numbers of steps."""
    unet, layer = pipe.unet, feature_layer(pipe.unet)
    linear = [f"{site}.{part}" for site in later_sites(unet, layer) for part in ("to_q", "to_k")]
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(len(trajectory.timesteps))
    said = encode_prompt(pipe, source if source_text == "prompt" else [""] * len(source))
    contexts = [encode_prompt(pipe, [""] * len(target)), encode_prompt(pipe, target)]
    z = noise
    for i, t in enumerate(scheduler.timesteps):
        kept, handles = {}, []
        for path in (layer, *linear):
            handles.append(unet.get_submodule(path).register_forward_hook(
                lambda m, a, out, path=path, kept=kept: kept.__setitem__(path, out.clone())))
        unet(trajectory.latents[i], t, encoder_hidden_states=said)
        for h in handles:
            h.remove()
        handles = [unet.get_submodule(path).register_forward_hook(
                       lambda m, a, out, path=path, kept=kept: torch.cat([kept[path]] * 2))
                   for path in (layer, *linear) if i < (until_f if path == layer else until_a)]
        u, c = unet(torch.cat([z, z]), t, encoder_hidden_states=torch.cat(contexts)).sample.chunk(2)
        for h in handles:
            h.remove()
        z = scheduler.step(u + w * (c - u), t, z).prev_sample
    return z


@pytest.mark.parametrize(("case", "options", "steps_of"), [
    (CASES[0], {"feature_share": 0.75, "attention_share": 0.5}, (3, 2)),
    (CASES[1], {"feature_share": 0.5, "attention_share": 1.0, "text": "empty"}, (2, 4)),
    (CASES[0], {"feature_share": 0.5, "attention_share": 0.25, "compat": "official"}, (3, 2)),
])
def test_it_is_the_two_pass_loop_by_hand(case, options, steps_of):
    pipe = make(case)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.double()
    begin = source_of(pipe, SOURCE, TARGET, image=pictures(pipe).double(), steps=4)
    made = plug_and_play(pipe, SOURCE, TARGET, inversion=begin.inversion, steps=4, guidance=3.0, **options)
    with torch.no_grad():
        want = by_hand(pipe, begin.trajectory, SOURCE, TARGET, begin.noise, w=3.0, until_f=steps_of[0], until_a=steps_of[1],
                       source_text=options.get("text", "prompt"))
    assert apart(made.trajectory["edit"].clean, want) < 1e-6
    assert torch.equal(made.trajectory["source"].clean, begin.trajectory.clean), "the source is held on its inversion"


def test_the_same_prompt_at_guidance_one_is_the_same_picture_with_or_without_injection():
    pipe = shared(CASES[0])
    z = initial_noise(pipe, 2, seed=3)
    for share in (0.0, 0.5, 1.0):
        made = plug_and_play(pipe, SOURCE, SOURCE, latents=z, feature_share=share, attention_share=share, guidance=1.0, steps=3)
        assert apart(made.trajectory["edit"].clean, made.trajectory["source"].clean) < 1e-5


def test_nothing_copied_is_plain_sampling_and_everything_copied_is_not():
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 2, seed=3)
    plain = last(denoise(pipe, TARGET, latents=z, steps=4, guidance=4.0)).x
    off = plug_and_play(pipe, SOURCE, TARGET, latents=z, feature_share=0.0, attention_share=0.0, steps=4)
    assert apart(off.trajectory["edit"].clean, plain) < 1e-5
    for only in ({"feature_share": 0.5, "attention_share": 0.0}, {"feature_share": 0.0, "attention_share": 0.5}):
        assert apart(plug_and_play(pipe, SOURCE, TARGET, latents=z, steps=4, **only).trajectory["edit"].clean, plain) > 1e-3


def test_copying_queries_and_keys_is_copying_the_probabilities():
    """Of the prompt's rows; the probabilities are functions of q and k alone."""
    pipe = shared(CASES[0])
    z = initial_noise(pipe, 2, seed=3)
    begin = source_of(pipe, SOURCE, TARGET, latents=z, steps=3)
    chosen = [s for s in later_sites(pipe.unet, feature_layer(pipe.unet))]

    class Probabilities(Hook):
        def selects(self, site):
            return site.name in chosen

        def on_probs(self, site, probs, ctx):
            out = probs.clone()
            out[ctx.of("edit")] = probs[ctx.of("source")]
            return out

    class Chosen(SelfCopy):
        def selects(self, site):
            return site.name in chosen

    ends = [last(run_edit(pipe, begin, hooks=[hook], steps=3, guidance=1.0)).z["edit"]
            for hook in (CopyQK(chosen), Chosen(until=1.0), Probabilities())]
    assert apart(ends[0], ends[2]) < 1e-5 and apart(ends[1], ends[2]) < 1e-5


@pytest.mark.parametrize(("until", "compat", "steps"), [
    (0.8, None, 40), (0.8, "official", 41), (0.5, None, 25), (0.5, "official", 26), (0.0, None, 0), (1.0, None, 50),
    (1.0, "official", 50), (0.58, None, 29)])
def test_how_many_of_fifty_steps_are_held(until, compat, steps):
    hook = CopyQK(until=until, compat=compat)
    here = [StepContext(i, 50, 1.0, 0.0, 0.5, 0.6, (8, 8), 1) for i in range(50)]
    assert [hook.active(ctx) for ctx in here] == [True] * steps + [False] * (50 - steps)


def test_maps_and_result():
    pipe = shared(CASES[1])
    made = plug_and_play(pipe, SOURCE[0], TARGET[0], seed=2, steps=2, maps=True)
    assert isinstance(made.maps["edit"], Recorder) and set(made.images) == {"source", "edit"}
    assert made.prompts == {"source": SOURCE[:1], "edit": TARGET[:1]} and isinstance(made.trajectory["edit"], Trajectory)


# What it refuses ---------------------------------------------------------------------------------------------------------------


def test_it_refuses_what_would_silently_do_nothing():
    pipe = shared(CASES[0])
    z = initial_noise(pipe, 1, seed=0)
    call = {"latents": z, "steps": 2}
    for wrong, said in (({"feature_share": 1.5}, "until"), ({"attention_share": "half"}, "until"), ({"text": "edit"}, "text"),
                        ({"compat": "code"}, "compat"), ({"layer": "up_blocks.7.resnets.1.conv2"}, "modules|layer"),
                        ({"text": "empty", "guidance": 1.0}, "text"), ({"sites": lambda s: s.kind == "cross"}, "sites")):
        with pytest.raises(BadInput, match=said):
            plug_and_play(pipe, SOURCE[0], TARGET[0], **(call | wrong))
    begin = source_of(pipe, SOURCE[0], TARGET[0], latents=z)
    with pytest.raises(BadInput, match="one tensor"):
        list(run_edit(pipe, begin, hooks=[CopyModule("down_blocks.1", until=1.0)], steps=2))
    with pytest.raises(BadInput, match="CopyQK for text .empty"):
        list(run_edit(pipe, begin, hooks=[CopyQK(text="empty")], steps=2, guidance=1.0))
