import hashlib

import pytest
import torch
from tiny_pipe import pipeline

from minidiff.errors import BadInput
from minidiff.personal import (
    LoRA,
    dreambooth,
    encode_words,
    examples,
    fit,
    load_word,
    nearest_words,
    new_word,
    pictures,
    prior_examples,
    textual_inversion,
    unet_parameters,
)


def digest(module, skip=None):
    h = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name != skip:
            h.update(value.contiguous().numpy().tobytes())
    return h.hexdigest()



def table(pipe):
    return pipe.text_encoder.get_input_embeddings().weight.detach()


def run(loop):
    return [step.loss for step in loop]


def test_textual_inversion_moves_its_rows_and_nothing_else(pipe, images):
    name = next(k for k in pipe.text_encoder.state_dict() if k.endswith("token_embedding.weight"))
    before = (digest(pipe.unet), digest(pipe.vae), digest(pipe.text_encoder, skip=name), table(pipe).clone())
    other = encode_words(pipe, ["a red cat"])
    rows, loop = textual_inversion(pipe, images, word="<mine>", start="cat", vectors=2, iterations=3)
    began = rows.v.detach().clone()
    assert torch.equal(began[0], table(pipe)[pipe.tokenizer.convert_tokens_to_ids("cat</w>")])
    run(loop)
    assert (rows.v.detach() - began).abs().max() > 1e-4
    assert (digest(pipe.unet), digest(pipe.vae), digest(pipe.text_encoder, skip=name)) == before[:3]
    assert torch.equal(table(pipe)[:len(before[3])], before[3]) and torch.equal(table(pipe)[rows.ids], rows.v.detach())
    assert torch.equal(encode_words(pipe, ["a red cat"]), other)
    assert not any(p.requires_grad for p in pipe.unet.parameters())


def test_weight_decay_on_the_whole_table_would_move_every_row():
    """The mistake that the free row is there to prevent: what the test above notices."""
    pipe = pipeline()
    weight = pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    kept = weight.detach().clone()
    optimiser = torch.optim.AdamW([weight], lr=1e-2, weight_decay=1e-2)
    encode_words(pipe, ["a red cat"]).square().mean().backward()
    optimiser.step()
    assert (weight.detach() != kept).any(1).all()


def test_diffusers_loads_the_word(pipe, images, tmp_path):
    rows, loop = textual_inversion(pipe, images, word="<mine>", vectors=2, iterations=2)
    run(loop)
    rows.save(tmp_path)
    ours = encode_words(pipe, ["a <mine> on the grass"])
    theirs, back = pipeline(), pipeline()
    theirs.load_textual_inversion(tmp_path / "learned_embeds.safetensors")
    load_word(back, tmp_path)
    with torch.no_grad():
        said = theirs.encode_prompt("a <mine> on the grass", "cpu", 1, False)[0]
    assert torch.equal(said, ours) and torch.equal(encode_words(back, ["a <mine> on the grass"]), ours)


def test_the_loop_is_a_function_of_its_seed_and_its_loss_falls(images):
    losses = []
    for _ in range(2):
        pipe = pipeline()
        rows, loop = dreambooth(pipe, images, word="<mine>", class_word="cat", iterations=4, seed=3)
        losses.append((run(loop), rows.v.detach().clone(), digest(pipe.unet)))
    assert losses[0][0] == losses[1][0] and torch.equal(losses[0][1], losses[1][1]) and losses[0][2] == losses[1][2]
    pipe = pipeline()
    _, loop = dreambooth(pipe, images, word="<mine>", class_word="cat", iterations=24, lr=1e-2)
    falls = run(loop)
    assert sum(falls[-8:]) < 0.9 * sum(falls[:8])


def test_prior_pictures_share_the_batch_and_weight_counts(pipe, images):
    prior = prior_examples(pipe, "cat", n=2, steps=2, weight=1.0)
    assert prior.latents.shape == (2, 4, 16, 16) and prior.prompts == [["a cat"]] * 2
    subject = examples(pipe, images, word="<mine> cat")
    new_word(pipe, "<mine>")
    free = [{"params": unet_parameters(pipe), "lr": 0.0}]
    one, other, zero = (next(fit(pipe, s, free, iterations=1)).loss for s in
                        ([subject], [prior], [subject, examples(pipe, images, word="cat", weight=0.0)]))
    assert one > 0 and other > 0 and zero > 0
    both = next(fit(pipe, [subject, prior], free, iterations=1)).loss
    alone = next(fit(pipe, [subject, _weighted(prior, 0.0)], free, iterations=1)).loss
    tripled = next(fit(pipe, [subject, _weighted(prior, 3.0)], free, iterations=1)).loss
    assert abs((tripled - alone) - 3 * (both - alone)) < 1e-4 * tripled


def _weighted(source, weight):
    return type(source)(source.latents, source.prompts, weight)


def test_custom_diffusion_trains_keys_and_values_of_cross_attention_alone(pipe, images):
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    _, loop = dreambooth(pipe, images, word="<mine>", class_word="cat", free="cross_kv", iterations=2)
    run(loop)
    moved = [k for k, v in pipe.unet.state_dict().items() if not torch.equal(v, before[k])]
    assert moved and all("attn2.to_k" in k or "attn2.to_v" in k for k in moved)
    assert len(moved) == sum("attn2.to_k" in k or "attn2.to_v" in k for k in before)


def test_an_adapter_and_the_word_learn_and_the_weights_stay(pipe, images):
    before = digest(pipe.unet)
    lora = LoRA(pipe.unet, rank=2)
    rows, loop = dreambooth(pipe, images, word="<mine>", class_word="cat", lora=lora, iterations=3)
    began = rows.v.detach().clone()
    run(loop)
    lora.detach()
    assert digest(pipe.unet) == before and any(float(b.detach().abs().max()) > 0 for b in lora.B.values())
    assert not torch.equal(rows.v.detach(), began)
    still, loop = dreambooth(pipe, images, word="<still>", class_word="cat", train_word=False, iterations=1)
    began = still.v.detach().clone()
    run(loop)
    assert torch.equal(still.v.detach(), began)


def test_a_loop_that_is_closed_early_leaves_the_pipeline_usable(pipe, images):
    rows, loop = textual_inversion(pipe, images, word="<mine>", iterations=50)
    next(loop)
    loop.close()
    assert torch.equal(table(pipe)[rows.ids], rows.v.detach()) and not pipe.text_encoder.get_input_embeddings()._forward_hooks
    made = pictures(pipe, ["a <mine>", "a cat"], steps=2)
    assert made.shape == (2, 3, 32, 32) and torch.equal(made[1:], pictures(pipe, ["a cat", "a cat"], steps=2)[1:])


def test_new_words_start_where_they_are_told(pipe):
    copied = new_word(pipe, "<a>", start="dog")
    random = new_word(pipe, "<b>", norm=0.47)
    assert nearest_words(pipe, copied.v[0], 1)[0] == ("dog", pytest.approx(1.0))
    assert abs(float(random.v.norm()) - 0.47) < 1e-5


def test_what_is_refused(pipe, images, tmp_path):
    new_word(pipe, "<old>")
    cases = [(lambda: new_word(pipe, "<old>"), "word"), (lambda: new_word(pipe, "two words"), "word"),
             (lambda: new_word(pipe, "<Mine>"), "lower"), (lambda: new_word(pipe, "<x>", start="mushroom"), "one token"),
             (lambda: new_word(pipe, "<y>", vectors=0), "vectors"), (lambda: load_word(pipe, tmp_path), "path"),
             (lambda: examples(pipe, images, word="w", captions=["a {}"]), "captions"),
             (lambda: examples(pipe, images, word="w", captions=["a cat"] * 3), "captions"),
             (lambda: encode_words(pipe, ["a red cat " * 40]), "tokens"),
             (lambda: unet_parameters(pipe, "all"), "free")]
    for make, words in cases:
        with pytest.raises(BadInput, match=words):
            make()
