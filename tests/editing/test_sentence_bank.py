"""Banks of sentences: pairs that differ in one word, and the edit by two words against the parts it is made of."""

from __future__ import annotations

import pytest
import torch

from minidiff import BadInput
from minidiff.editing import NoiseRegularizer, edit_direction, edit_words, pix2pix_zero, put_word, sentence_bank, word_direction
from minidiff.editing.sentence_bank import TEMPLATES
from minidiff.latent import invert_image, make_tokenizer, token_indices
from minidiff.rng import normal
from minidiff.steer import Trajectory
from minidiff.world import parse
from tests.pipelines import CASES, shared

PROMPT = "a red cat on the grass"


def test_a_word_is_put_in_with_its_article():
    assert put_word("a cat and a red catfish", "cat", "owl") == "an owl and a red catfish"
    assert put_word("an orange cat", "orange", "blue") == "a blue cat"
    assert put_word("a red cat", "red", "orange") == "an orange cat"


@pytest.mark.parametrize(("word", "other", "noun"), [("cat", "dog", None), ("mushroom", "cat", None), ("red", "orange", "house")])
def test_pairs_of_captions_differ_in_the_word_alone(word, other, noun):
    source, target = sentence_bank(make_tokenizer(), word, other, 20, noun=noun)
    assert len(source) == len(set(source)) == len(target) == 20
    for a, b in zip(source, target, strict=True):
        parse(a), parse(b)
        assert put_word(a, word, other) == b and put_word(b, other, word) == a
        assert a.split().count(word) == 1 and other not in a.split()
        if noun:
            assert f"{word} {noun}" in a and f"{other} {noun}" in b
    places = {text.split().index(word) for text in source}
    assert len(places) > 4, "as the grammar makes them: the word is anywhere"
    assert sentence_bank(make_tokenizer(), word, other, 12, noun=noun)[0] == source[:12]


def test_another_tokenizer_gets_templates():
    tokenizer = make_tokenizer(("cat", "dog", "red", "a"))
    source, target = sentence_bank(tokenizer, "cat", "owl", 8)
    assert source[0] == TEMPLATES[0].format("cat") and target[3] == "one owl on a table" and target[0] == "a photo of an owl"
    assert sentence_bank(tokenizer, "red", "orange", 3, noun="cat")[1][0] == "a photo of an orange cat"
    with pytest.raises(BadInput, match="templates"):
        sentence_bank(tokenizer, "cat", "dog", 9)


def test_the_direction_is_that_of_its_bank_at_the_noun():
    pipe = shared(CASES[1])
    source, target = sentence_bank(pipe.tokenizer, "cat", "dog", 6)
    want = edit_direction(pipe, source, target, words=("cat", "dog"), prompt=PROMPT)
    assert torch.equal(word_direction(pipe, PROMPT, "cat", "dog", n=6), want)
    assert torch.equal(word_direction(pipe, PROMPT, "cat", "dog", sentences=source), want)
    colour = word_direction(pipe, PROMPT, "red", "blue", noun="cat", n=6)
    at = token_indices(pipe.tokenizer, PROMPT, "cat")[0]
    assert set(colour[0].norm(dim=1).nonzero().flatten().tolist()) == set(at)
    assert torch.equal(colour, edit_direction(pipe, *sentence_bank(pipe.tokenizer, "red", "blue", 6, noun="cat"),
                                              words=("cat", "cat"), prompt=PROMPT))


def test_the_edit_by_words_is_the_method_with_that_direction():
    pipe = shared(CASES[1])
    made = edit_words(pipe, PROMPT, words="cat dog", seed=4, steps=2)
    want = pix2pix_zero(pipe, PROMPT, word_direction(pipe, PROMPT, "cat", "dog"), seed=4, steps=2)
    assert torch.equal(made.edit, want.edit) and made.prompts["edit"] == [f"{PROMPT}: cat to dog"]


@pytest.mark.parametrize("regularize", [True, False])
def test_pictures_are_inverted_with_a_white_noise_and_guided_from_their_prompt(regularize):
    pipe = shared(CASES[1])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    x = torch.nn.functional.interpolate(normal((2, 3, 4, 4), "words", 0), size=side).clamp(-1, 1)
    made = edit_words(pipe, PROMPT, words=("cat", "dog"), image=x, steps=2, regularize=regularize, sentences=["a cat", "the cat"])
    way = Trajectory.of(invert_image(pipe, x, PROMPT, steps=2, hooks=[NoiseRegularizer()] if regularize else []))
    want = pix2pix_zero(pipe, [PROMPT] * 2, word_direction(pipe, PROMPT, "cat", "dog", sentences=["a cat", "the cat"]),
                        trajectory=way, negative=[PROMPT] * 2, steps=2)
    assert float((made.edit - want.edit).abs().max()) < 1e-5 and torch.equal(made.images["source"], x)


def test_it_refuses_what_it_cannot_use():
    pipe = shared(CASES[1])
    for wrong, said in (({"words": "cat"}, "words"), ({}, "words"), ({"words": "cat dog", "sentences": ["a dog"]}, "sentences"),
                        ({"words": "dog cat"}, "word"), ({"words": "cat cat"}, "other")):
        with pytest.raises(BadInput, match=said):
            edit_words(pipe, PROMPT, steps=2, **wrong)
