"""Prompts: the right token, or a clear error, with marks, other vocabularies, wrong counts and types; nothing silent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minidiff import BadInput, load
from minidiff.diffusion import last
from minidiff.latent import (
    assemble,
    denoise,
    encode_prompt,
    initial_noise,
    make_text_encoder,
    make_tokenizer,
    text_to_image,
    token_indices,
    word_tokens,
)
from tests.pipelines import CASES, make, shared

# A real pipeline's tokenizer knows marks as tokens: so does this one, whose vocabulary is its own and closed.
OWN = ("a", "wombat", "in", "snow", ",", ".", "blue")


@pytest.fixture(scope="module")
def pipe():
    return shared(CASES[1])


def own_pipe():
    pipe = make(CASES[1])
    tokenizer = make_tokenizer(OWN, length=12)
    return assemble(pipe.vae, make_text_encoder(tokenizer, width=32, layers=1, heads=2), pipe.unet, tokenizer)


def by_hand(tokenizer, text):
    """The words in order of their tokens, by decoding one id after the other."""
    ids = tokenizer(text).input_ids
    return [tokenizer.decode([i]).strip() for i in ids]


@pytest.mark.parametrize(("text", "word", "want"), [
    ("a red cat, on the grass", "grass", [[6]]), ("a red cat on the grass.", "grass", [[6]]), ("A Red CAT", "cat", [[3]]),
    ("a red cat;a dog", "dog", [[5]]), ("a cat: a blue mushroom!", "mushroom", [[5, 6]]), ("a mushroom, a cat", "cat", [[5]]),
    ("a cat and a cat", "cat", [[2], [5]]), ("a  red   cat", "cat", [[3]]), (" a red cat ", "red", [[2]]),
    ("a red cat, a red dog", "red dog", [[5, 6]]), ("a cat? a star", "star", [[4]]),
])
def test_a_word_is_found_behind_marks(text, word, want):
    tokenizer = make_tokenizer()
    assert token_indices(tokenizer, text, word) == want
    pieces = by_hand(tokenizer, "".join(" " if c in ",.;:!?" else c for c in text))
    for place in want:
        assert "".join(pieces[i] for i in place) == word.replace(" ", "")


@pytest.mark.parametrize(("text", "word", "want"), [
    ("a wombat, blue", "blue", [[4]]), ("a wombat, blue", ",", [[3]]), ("a wombat . a wombat", "wombat", [[2], [5]]),
    ("a wombat in snow.", "snow", [[4]]),
])
def test_a_tokenizer_that_knows_marks_keeps_them(text, word, want):
    assert token_indices(make_tokenizer(OWN, length=12), text, word) == want


@pytest.mark.parametrize("text", ["a red cat, a blue dog.", "a small red mushroom: a hat", "a cat with a bow tie; night"])
def test_words_and_tokens_cover_the_text_in_order(text):
    words = word_tokens(make_tokenizer(), text)
    assert [t for _, tokens in words for t in tokens] == list(range(1, 1 + sum(len(tokens) for _, tokens in words)))
    assert [w for w, _ in words] == "".join(" " if c in ",.;:" else c for c in text).split()


@pytest.mark.parametrize("word", ["dog", "ca", "", "red  dog", "catt"])
def test_a_word_that_is_not_there_is_named(word):
    with pytest.raises(BadInput, match="word"):
        token_indices(make_tokenizer(), "a red cat", word)


def test_marks_change_nothing_in_the_pipeline_itself():
    pipe = load("mini-sd")
    z = initial_noise(pipe, 1, seed=1)
    a, b = (pipe(p, latents=z, num_inference_steps=2, output_type="latent").images
            for p in ("a red cat, at night.", "a red cat at night"))
    assert torch.equal(a, b)
    assert torch.allclose(last(denoise(pipe, "a red cat, at night.", latents=z, steps=2, guidance=7.5)).x, a, atol=1e-5)


def test_another_vocabulary_is_not_refused_for_not_being_the_toy_worlds():
    pipe = own_pipe()
    assert encode_prompt(pipe, "a blue wombat, in snow").shape == (1, 12, 32)
    with pytest.raises(BadInput, match="'cat'.*words of this model"):
        encode_prompt(pipe, "a cat")
    added = shared(CASES[1])
    pipe = make(CASES[1])
    pipe.tokenizer.add_tokens(["<mine>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    assert encode_prompt(pipe, "a red <mine> on the grass").shape == encode_prompt(added, "a red cat").shape
    assert token_indices(pipe.tokenizer, "a red <mine>, night", "<mine>") == [[3]]
    with pytest.raises(BadInput, match="'wombat'"):
        encode_prompt(pipe, "a <mine> wombat")


TWO = ["a red cat", "a dog"]
BAD = [
    ({"prompts": []}, "prompts"), ({"prompts": None}, "prompts"), ({"prompts": 3}, "prompts"),
    ({"prompts": ["a cat", None]}, "prompts"), ({"prompts": np.array(TWO)}, "prompts"), ({"prompts": "a xyzzy"}, "xyzzy"),
    ({"prompts": "a cat " * 30}, "caption"), ({"negative": ["a cat"] * 3}, "negative"), ({"negative": None}, "negative"),
    ({"negative": "a xyzzy"}, "xyzzy"), ({"latents": torch.zeros(6, 4, 8, 8)}, "latents"),
    ({"latents": torch.zeros(2, 3, 8, 8)}, "latents"), ({"latents": torch.zeros(2, 4, 8, 8).long()}, "latents"),
    ({"latents": np.zeros((2, 4, 8, 8))}, "latents"), ({"latents": torch.full((2, 4, 8, 8), float("nan"))}, "latents"),
    ({"latents": torch.zeros(2, 4, 8)}, "latents"), ({"latents": torch.zeros(2, 4, 8, 8), "size": 32}, "size"),
    ({"size": 64.0}, "size"), ({"size": 33}, "size"), ({"size": (32,)}, "size"), ({"size": True}, "size"),
    ({"seed": 1.5}, "seed"), ({"seed": -1}, "seed"), ({"seed": None}, "seed"), ({"steps": 0}, "steps"),
    ({"steps": 2.5}, "steps"), ({"guidance": float("inf")}, "guidance"), ({"guidance": "4"}, "guidance"),
    ({"guidance": -1e30}, "guidance"), ({"guidance": None}, "guidance"), ({"eta": 1.5}, "eta"), ({"chunk": 0}, "chunk"),
    ({"hint": torch.zeros(2, 3, 8, 8)}, "hint"),
]


@pytest.mark.parametrize(("bad", "match"), BAD, ids=[f"{i} {match}" for i, (_, match) in enumerate(BAD)])
def test_wrong_counts_and_types_are_refused_before_the_first_chunk(pipe, bad, match, monkeypatch):
    given = {"prompts": TWO, "steps": 2, "chunk": 1} | bad

    def never(*_, **__):
        raise AssertionError("the network ran")

    monkeypatch.setattr(pipe.unet, "forward", never)
    with pytest.raises(BadInput, match=match):
        text_to_image(pipe, given.pop("prompts"), **given)


def test_negatives_for_each_prompt_go_with_their_chunk(pipe):
    z = initial_noise(pipe, 2, seed=3)
    negative = ["a tree", "a star"]
    both = text_to_image(pipe, TWO, steps=2, latents=z, negative=negative, chunk=1)
    alone = torch.cat([text_to_image(pipe, TWO[i], steps=2, latents=z[i:i + 1], negative=negative[i]) for i in range(2)])
    assert torch.allclose(both, alone, atol=1e-5)
    assert not torch.allclose(both, text_to_image(pipe, TWO, steps=2, latents=z, negative="a tree"), atol=1e-3)
