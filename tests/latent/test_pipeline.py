"""Text, sampling and loading of Stable Diffusion pipelines of two sizes, against diffusers and transformers themselves."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

import minidiff
from minidiff import BadInput, CheckpointError
from minidiff.diffusion import last, row_noise
from minidiff.latent import (
    decode,
    denoise,
    denoiser,
    encode,
    encode_prompt,
    initial_noise,
    invert_image,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    schedule_from,
    text_to_image,
    token_ids,
    token_indices,
)
from minidiff.latent.pipeline import latent_shape
from minidiff.latent.text import LENGTH, PIECES
from minidiff.rng import normal
from minidiff.silence import silence_libraries
from minidiff.steer import CFG, Hook, Recorder, run, sites
from minidiff.world import VOCABULARY, captions, sample_scenes
from minidiff.zoo import ship
from tests.pipelines import CASES, make

PROMPTS = ["a red cat on the grass", "a blue mushroom left of a dog"]


@pytest.fixture(scope="module", params=CASES)
def folder(request, tmp_path_factory):
    where = tmp_path_factory.mktemp("pipe") / "saved"
    with silence_libraries():
        make(request.param).save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def pipe(folder):
    return minidiff.load(str(folder))


def theirs(pipe, prompts, z, *, steps, guidance, **options):
    return pipe(prompts, latents=z, num_inference_steps=steps, guidance_scale=guidance, output_type="latent", **options).images


def close(a, b, tol=1e-4):
    return a.shape == b.shape and float((a - b).abs().max()) <= tol * max(1.0, float(b.abs().max()))


# Words ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["new", "saved"])
def tokenizer(request, tmp_path_factory):
    made = make_tokenizer()
    if request.param == "new":
        return made
    where = tmp_path_factory.mktemp("words")
    made.save_pretrained(where)
    return CLIPTokenizer.from_pretrained(where)


def test_every_word_is_one_token_but_those_in_pieces(tokenizer):
    ids = {}
    for word in VOCABULARY:
        inner = tokenizer(word).input_ids[1:-1]
        assert len(inner) == (2 if word in PIECES else 1), word
        assert tokenizer.unk_token_id not in inner and tokenizer.decode(inner).strip() == word
        ids[word] = tuple(inner)
    assert len(set(ids.values())) == len(VOCABULARY), "two words share their tokens"
    pieces = {tuple(tokenizer.convert_ids_to_tokens(i).removesuffix("</w>") for i in ids[w]) for w in PIECES}
    assert pieces == set(PIECES.values())


def test_special_tokens_are_what_the_text_encoder_needs(tokenizer):
    ids = tokenizer("a cat", padding="max_length", max_length=LENGTH).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[3:] == [tokenizer.eos_token_id] * (LENGTH - 3)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id != 2, "transformers treats an end token 2 as an old checkpoint"
    assert tokenizer.init_kwargs["toy_world"] is True
    config = make_text_encoder(tokenizer).config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (
        tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert config.vocab_size == len(tokenizer) and config.max_position_embeddings == LENGTH


def test_captions_of_the_world_survive_and_fit(tokenizer):
    texts = captions(sample_scenes(range(64), split="test", seed=0, level="full"))
    texts = ["".join(" " if c in ",.;:" else c for c in t.lower()) for t in texts]
    ids = token_ids(tokenizer, texts)
    assert ids.shape == (64, LENGTH) and ids.dtype == torch.int64
    for text, row in zip(texts, ids):
        inner = [i for i in row.tolist()[1:] if i != tokenizer.eos_token_id]
        assert tokenizer.decode(inner).split() == text.split()


def test_spans_of_repeated_and_two_token_words(tokenizer):
    text = "a red mushroom left of a red cat and a mushroom"
    names = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)

    def at(word):
        return [[names[i].removesuffix("</w>") for i in place] for place in token_indices(tokenizer, text, word)]

    assert at("red") == [["red"], ["red"]] and at("mushroom") == [["mush", "room"]] * 2
    assert at("red cat") == [["red", "cat"]] and at("Cat") == [["cat"]]
    assert token_indices(tokenizer, text, "red")[0] != token_indices(tokenizer, text, "red")[1]
    for word in ("room", "blue", "at", ""):             # "room" and "at" stand inside other words only
        with pytest.raises(BadInput, match="word"):
            token_indices(tokenizer, text, word)


def test_too_long_a_prompt_is_refused_not_cut(pipe):
    room = pipe.tokenizer.model_max_length - 2
    assert token_ids(pipe.tokenizer, ["cat " * room]).shape == (1, room + 2)
    with pytest.raises(BadInput, match=f"at most {room + 2} tokens"):
        token_ids(pipe.tokenizer, ["a cat", "cat " * (room + 1)])
    with pytest.raises(BadInput, match="zebra"):
        encode_prompt(pipe, "a red zebra")
    assert torch.equal(encode_prompt(pipe, "A red cat."), encode_prompt(pipe, "a red cat"))
    for bad in ([], [3], None):
        with pytest.raises(BadInput, match="prompts"):
            encode_prompt(pipe, bad if bad is not None else [None])


def test_a_foreign_tokenizer_reads_any_word(pipe):
    pipe.tokenizer.init_kwargs["toy_world"] = False
    try:
        assert encode_prompt(pipe, "zebra").shape[1] == pipe.tokenizer.model_max_length
    finally:
        pipe.tokenizer.init_kwargs["toy_world"] = True


# The same numbers as the pipeline ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "guidance"), [(1, 4.0), (5, 1.0), (7, 7.5), (20, 3.0)])
def test_steps_of_is_the_pipeline(pipe, steps, guidance):
    z = initial_noise(pipe, 2, seed=4)
    mine = list(denoise(pipe, PROMPTS, steps=steps, guidance=guidance, latents=z))
    assert len(mine) == steps and close(mine[-1].x, theirs(pipe, PROMPTS, z, steps=steps, guidance=guidance))


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_eta_adds_the_schedulers_noise(pipe, eta, monkeypatch):
    z = initial_noise(pipe, 2)
    mine = list(denoise(pipe, PROMPTS, steps=4, guidance=2.0, latents=z, eta=eta, seed=3))
    ts = iter(step.t for step in mine)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddim.randn_tensor",
                        lambda shape, **_: row_noise(shape, seed=3, t=next(ts)))
    assert close(mine[-1].x, theirs(pipe, PROMPTS, z, steps=4, guidance=2.0, eta=eta))
    mine = mine[-1].x
    assert not close(mine, theirs(pipe, PROMPTS, z, steps=4, guidance=2.0), 1e-2)


@pytest.mark.parametrize("changes", [
    {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}, {"timestep_spacing": "trailing"},
    {"set_alpha_to_one": True}, {"beta_schedule": "linear", "beta_end": 0.02}, {"rescale_betas_zero_snr": True,
     "prediction_type": "v_prediction", "timestep_spacing": "trailing"}])
def test_the_schedulers_config_is_obeyed(pipe, changes):
    z, before = initial_noise(pipe, 1, seed=6), pipe.scheduler
    usual = last(denoise(pipe, PROMPTS[0], steps=5, latents=z)).x
    pipe.scheduler = DDIMScheduler.from_config(before.config, **changes)
    try:
        mine = last(denoise(pipe, PROMPTS[0], steps=5, latents=z)).x
        assert close(mine, theirs(pipe, PROMPTS[:1], z, steps=5, guidance=4.0))
        assert not torch.equal(mine, usual)
    finally:
        pipe.scheduler = before


def test_other_schedulers_lend_their_table_and_unknown_targets_are_refused(pipe):
    before, z = pipe.scheduler, initial_noise(pipe, 1)
    usual = last(denoise(pipe, PROMPTS[0], steps=3, latents=z)).x
    try:
        pipe.scheduler = PNDMScheduler.from_config(before.config)
        assert torch.equal(last(denoise(pipe, PROMPTS[0], steps=3, latents=z)).x, usual), "DDIM on PNDM's table is DDIM"
        pipe.scheduler = DDIMScheduler.from_config(before.config)
        pipe.scheduler.register_to_config(prediction_type="flow")
        with pytest.raises(BadInput, match="prediction_type"):
            denoiser(pipe)
    finally:
        pipe.scheduler = before


def test_pictures_and_negative_prompts_are_the_pipelines(pipe):
    z = initial_noise(pipe, 2, seed=1)
    want = pipe(PROMPTS, latents=z, num_inference_steps=4, guidance_scale=3.0, negative_prompt=["a tree"] * 2,
                output_type="pt").images
    got = text_to_image(pipe, PROMPTS, steps=4, guidance=3.0, latents=z, negative="a tree")
    assert close(got / 2 + 0.5, want) and float(got.abs().max()) <= 1
    assert not close(text_to_image(pipe, PROMPTS, steps=4, guidance=3.0, latents=z) / 2 + 0.5, want, 1e-3)


def test_other_sizes_are_the_pipelines(pipe):
    f, unit = pipe.vae_scale_factor, pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    high, wide = unit, 2 * unit
    z = initial_noise(pipe, 1, size=(high, wide))
    assert z.shape == (1, pipe.vae.config.latent_channels, high // f, wide // f)
    got = text_to_image(pipe, PROMPTS[0], steps=3, size=(high, wide))
    want = pipe(PROMPTS[:1], latents=z, height=high, width=wide, num_inference_steps=3, guidance_scale=4.0,
                output_type="pt").images
    assert got.shape == (1, 3, high, wide) and close(got / 2 + 0.5, want)
    with pytest.raises(BadInput, match=f"multiples of {unit}"):
        initial_noise(pipe, 1, size=high + f)
    assert latent_shape(pipe) == (pipe.vae.config.latent_channels, 8, 8)


def test_noise_and_pictures_do_not_depend_on_the_batch(pipe):
    assert torch.equal(initial_noise(pipe, 3, seed=2)[:2], initial_noise(pipe, 2, seed=2))
    assert not torch.equal(initial_noise(pipe, 1, seed=2), initial_noise(pipe, 1, seed=3))
    together, apart = text_to_image(pipe, PROMPTS, steps=2, seed=5), text_to_image(pipe, PROMPTS, steps=2, seed=5, chunk=1)
    assert close(apart, together)
    with pytest.raises(BadInput, match="latents"):
        text_to_image(pipe, PROMPTS, latents=initial_noise(pipe, 3), steps=2)


def test_guided_by_hand(pipe):
    z, (context, empty) = initial_noise(pipe, 2), (encode_prompt(pipe, PROMPTS), encode_prompt(pipe, ["", ""]))
    u, c = (pipe.unet(z, 300, encoder_hidden_states=e).sample for e in (empty, context))
    abar = schedule_from(pipe.scheduler).at(300)
    for w in (0.0, 1.0, 4.0):
        state = next(iter(run(denoiser(pipe), z, {"prompt": context, "empty": empty}, steps=[300], guider=CFG(w))))
        x0, eps = state.x0, state.eps
        want = u + w * (c - u)
        assert close(eps, want) and close(x0, ((z - (1 - abar).sqrt() * want) / abar.sqrt()).float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_run(folder, dtype):
    pipe = minidiff.load(str(folder)).to(dtype)
    out = text_to_image(pipe, PROMPTS[0], steps=2)
    assert out.dtype == dtype and bool(torch.isfinite(out).all())
    assert last(invert_image(pipe, out.float(), PROMPTS[0], steps=2)).x.dtype == dtype


# Inversion --------------------------------------------------------------------------------------------------------------


def test_inversion_closes_with_a_fixed_point_and_not_without(pipe):
    x = normal((2, 3, 8 * pipe.vae_scale_factor, 8 * pipe.vae_scale_factor), "test picture", 0).clamp(-1, 1)
    z = encode(pipe.vae, x)
    gaps = {}
    pipe.unet.conv_out.weight.mul_(1 / 16)           # random weights answer too wildly for the repeats to converge
    try:
        for repeats in (0, 9):
            code = last(invert_image(pipe, x, PROMPTS, steps=10, fixed_point=repeats)).x
            again = last(denoise(pipe, PROMPTS, steps=10, guidance=1.0, latents=code)).x
            gaps[repeats] = float((again - z).abs().max() / z.abs().max())
    finally:
        pipe.unet.conv_out.weight.mul_(16)
    assert gaps[9] < 1e-3 and gaps[9] < 0.1 * gaps[0], gaps
    one = last(invert_image(pipe, x[:1], PROMPTS[0], steps=10)).x
    assert close(one, last(invert_image(pipe, x, PROMPTS, steps=10)).x[:1])


def test_inversion_is_diffusers_inverse_scheduler(pipe):
    """The U-Net asked at the noisier step on the less noisy latent, by a scheduler that somebody else wrote.

    It steps from t - 100 to t as ours does, except that its first step leaves from abar[0] as well.
    """
    x = normal((1, 3, 8 * pipe.vae_scale_factor, 8 * pipe.vae_scale_factor), "test picture", 1).clamp(-1, 1)
    context, z = encode_prompt(pipe, PROMPTS[0]), encode(pipe.vae, x)
    table, S = pipe.scheduler.alphas_cumprod.double(), 10
    for t in range(1, 1000, 1000 // S):
        a, p = table[t], table[t - 1000 // S] if t >= 1000 // S else table[0]
        eps = pipe.unet(z, t, encoder_hidden_states=context).sample
        z = (a.sqrt() * (z - (1 - p).sqrt() * eps) / p.sqrt() + (1 - a).sqrt() * eps).float()
    assert close(last(invert_image(pipe, x, PROMPTS[0], steps=S)).x, z)


# One loader for every size ----------------------------------------------------------------------------------------------


def test_attention_of_both_sizes(pipe):
    found = sites(pipe.unet)
    assert {s.kind for s in found.values()} == {"self", "cross"} and len(found) == len(pipe.unet.attn_processors)
    before, z = pipe.unet.attn_processors, initial_noise(pipe, 1, size=(8 * pipe.vae_scale_factor, 16 * pipe.vae_scale_factor))
    plain = last(denoise(pipe, PROMPTS[0], steps=3, latents=z)).x
    recorder = Recorder()
    tapped = last(denoise(pipe, PROMPTS[0], steps=3, latents=z, hooks=[recorder])).x
    assert close(tapped, plain) and pipe.unet.attn_processors == before
    name = next(s.name for s in found.values() if s.kind == "cross" and s.level == 0)
    heat = recorder.map(token_indices(pipe.tokenizer, PROMPTS[0], "cat")[0], step=[0, 1, 2], site=name)
    assert heat.shape == (1, 8, 16) and bool((heat > 0).all())
    everything = recorder.map(list(range(pipe.tokenizer.model_max_length)), step=1, site=name)
    assert torch.allclose(everything * pipe.tokenizer.model_max_length, torch.ones(1, 8, 16), atol=1e-4)


def test_encode_and_decode_obey_the_config(pipe):
    x = normal((1, 3, 16, 16), "test picture", 2).clamp(-1, 1)
    z, scale = encode(pipe.vae, x), pipe.vae.config.scaling_factor
    assert torch.allclose(z, pipe.vae.encode(x).latent_dist.mean * scale) and z.shape[1] == pipe.vae.config.latent_channels
    assert torch.allclose(decode(pipe.vae, z), pipe.vae.decode(z / scale).sample)


def test_what_is_loaded_is_ready_and_what_is_saved_comes_back(pipe, folder, tmp_path, recwarn, caplog):
    parts = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
    assert len(parts) == 3 and all(not m.training and not any(p.requires_grad for p in m.parameters()) for m in parts)
    with caplog.at_level(logging.WARNING):
        with silence_libraries():
            pipe.save_pretrained(tmp_path / "copy")
            again = StableDiffusionPipeline.from_pretrained(tmp_path / "copy")
    again.set_progress_bar_config(disable=True)
    for part in (again.unet, again.vae):
        part.to(memory_format=torch.channels_last)            # as load leaves it: another layout rounds otherwise
    assert not [w for w in recwarn if "minidiff" in str(w.filename) or "scheduler" in str(w.message)] and not caplog.records
    assert torch.equal(text_to_image(again, PROMPTS, steps=2), text_to_image(pipe, PROMPTS, steps=2))
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == sorted(p.name for p in folder.iterdir())


def test_a_fresh_adapter_changes_nothing_and_a_saved_one_comes_back(folder, tmp_path):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    pipe, other = minidiff.load(str(folder)), minidiff.load(str(folder))
    plain = text_to_image(pipe, PROMPTS, steps=2)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian",
                                     target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    assert torch.equal(text_to_image(pipe, PROMPTS, steps=2), plain)
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * normal(tuple(weight.shape), name, 0))
    trained = text_to_image(pipe, PROMPTS, steps=2)
    assert not close(trained, plain, 1e-3)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    other.load_lora_weights(tmp_path, adapter_name="a")
    assert torch.equal(text_to_image(other, PROMPTS, steps=2), trained)
    other.set_adapters(["a"], [0.0])
    assert torch.equal(text_to_image(other, PROMPTS, steps=2), plain)
    other.unload_lora_weights()
    assert torch.equal(text_to_image(other, PROMPTS, steps=2), plain)


# The loader: what it says, and what it refuses ------------------------------------------------------------------------


def test_loading_is_silent_and_leaves_the_libraries_as_they_were(folder, capfd):
    from diffusers.utils import logging as one
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as two

    def state():
        return (one.is_progress_bar_enabled(), two.is_progress_bar_enabled(), are_progress_bars_disabled(), two.get_verbosity(),
                [len(logging.getLogger(n).handlers) for n in ("diffusers", "transformers")],
                len(logging.getLogger("transformers.utils.import_utils").filters))

    before = state()
    minidiff.load(str(folder))
    with pytest.raises(CheckpointError):
        minidiff.load(str(folder.parent))
    assert state() == before and before[0] and before[1]
    assert capfd.readouterr() == ("", "")
    with silence_libraries() as said:
        logging.getLogger("diffusers.test").warning("heard")
    assert said == ["heard"]


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def refused(where, *words):
    with pytest.raises(CheckpointError) as error:
        minidiff.load(str(where))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_broken_folders_are_refused_in_words(copy, tmp_path):
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(copy, "copy", "cannot be opened", "safetensors")
    weights.unlink()
    refused(copy, "cannot be opened")
    weights.write_bytes(whole)
    (copy / "model_index.json").write_text("{not json")
    refused(copy, "model_index.json cannot be read")
    (copy / "model_index.json").unlink()
    refused(copy, "without a model", "model_index.json")
    (copy / "config.json").write_text(json.dumps({"architectures": ["EvilModel"]}))
    refused(copy, "without a model")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "without a model")


def test_weights_that_lack_a_parameter_are_refused(copy):
    """diffusers and transformers would go on with random numbers there."""
    from safetensors.torch import load_file, save_file
    for part, file in (("unet", "diffusion_pytorch_model.safetensors"), ("text_encoder", "model.safetensors")):
        path = copy / part / file
        whole = load_file(path)
        save_file({k: v for i, (k, v) in enumerate(whole.items()) if i != 3}, path, metadata={"format": "pt"})
        refused(copy, "every parameter")
        save_file(whole, path, metadata={"format": "pt"})
    minidiff.load(str(copy))


def test_pickled_weights_are_never_read(copy):
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_name("diffusion_pytorch_model.bin"))
    weights.unlink()
    refused(copy, "pickle", "safetensors")


def test_shipped_pipelines_are_checked_by_hash_and_name(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path))
    with silence_libraries():
        ship("mini-sd", pipe.save_pretrained, {"seed": 1}, root=tmp_path)
    shipped = minidiff.load("mini-sd")
    assert isinstance(shipped, StableDiffusionPipeline)
    ship("again", shipped.save_pretrained, {"seed": 1}, root=tmp_path)
    places = [p for p in (tmp_path / "again").rglob("*.json") if str(tmp_path) in p.read_text()]
    assert not places, "the folder that a part was loaded from is nobody else's business"
    for wrong in ("mini-ds", "mini_sd", "Mini-SD "):
        refused(wrong, "shipped model", "mini-sd")
    weights = tmp_path / "mini-sd/vae/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused("mini-sd", "vae/diffusion_pytorch_model.safetensors has changed")
    weights.unlink()
    refused("mini-sd", "vae/diffusion_pytorch_model.safetensors is missing")
    for bad in ("", None, 3):
        with pytest.raises(BadInput, match="name"):
            minidiff.load(bad)


def test_a_hub_id_without_a_network_is_a_clear_error():
    refused("nobody/nothing-here", "nobody/nothing-here", "cannot be opened", "Hub")


def test_one_part_of_a_pipeline_is_a_model_of_its_own(pipe, folder, monkeypatch):
    """A folder with a config.json that is not below data/, by its absolute and by its relative path."""
    monkeypatch.chdir(folder)
    for name in (str(folder / "vae"), "vae", "./unet", "../saved/vae"):
        part = pipe.unet if "unet" in name else pipe.vae
        made = minidiff.load(name)
        assert type(made) is type(part) and torch.equal(next(made.parameters()), next(part.parameters()))


def test_half_precision_in_use_leaves_the_picture(recwarn):
    """Autocast, as the docstring of text_to_image has it: the pipeline's own type comes back, and a mean of 2/255 is kept."""
    pipe, prompts = minidiff.load("mini-sd"), ["a red cat on the grass", "a blue dog on the sand"]
    plain = text_to_image(pipe, prompts, steps=4, guidance=4.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = text_to_image(pipe, prompts, steps=4, guidance=4.0)
    apart = float((fast - plain).abs().mean()) / 2
    assert fast.dtype == torch.float32 and 0 < apart < 2 / 255


def test_a_compiled_network_draws_the_same_and_a_hook_reaches_it():
    """compile() keeps the numbers; a run with hooks is neither compiled anew nor blind to them."""
    pipe, made = make(CASES[1]), []
    z = initial_noise(pipe, 2)

    def draw(**options):
        return last(denoise(pipe, PROMPTS, steps=2, latents=z, **options)).x

    class Louder(Hook):
        modules = ("mid_block",)

        def on_module(self, path, out, ctx, inputs):
            return 1.5 * out

    def backend(graph, _):
        made.append(graph)
        return graph.forward

    plain, loud = draw(), draw(hooks=[Louder()])
    pipe.unet.mid_block.compile(backend=backend)        # the whole of it takes ten times as long to trace, and shows no more
    assert float((draw() - plain).abs().max()) <= 1e-4 and made
    count = len(made)
    assert torch.equal(draw(hooks=[Louder()]), loud) and not torch.equal(loud, plain) and len(made) == count
    draw()
    assert len(made) == count, "and after the hook the compiled code is there as it was"


def test_half_precision_on_disk_is_float32_in_use(pipe, tmp_path):
    """transformers would keep the precision of the file."""
    import copy as copies
    with silence_libraries():
        copies.deepcopy(pipe.text_encoder).half().save_pretrained(tmp_path / "half")
    made = minidiff.load(str(tmp_path / "half"))
    ours, exact = next(made.parameters()), next(pipe.text_encoder.parameters())
    assert ours.dtype == torch.float32 and torch.equal(ours, exact.half().float())


def test_our_scheduler_is_not_rewritten_by_the_pipeline(pipe, recwarn):
    config = make_scheduler().config
    assert config.steps_offset == 1 and config.clip_sample is False and config.set_alpha_to_one is False
    built = StableDiffusionPipeline(**{**pipe.components, "scheduler": make_scheduler()}, requires_safety_checker=False)
    assert dict(built.scheduler.config) == dict(config)
    assert not [w for w in recwarn if "steps_offset" in str(w.message) or "clip_sample" in str(w.message)]
