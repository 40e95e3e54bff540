"""Composable Diffusion and structured values: identities, a product of two Gaussians in closed form, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from minidiff import BadInput
from minidiff.diffusion import last
from minidiff.editing.composable import StructuredValues, composable, structured_text
from minidiff.latent import denoise, encode_prompt, initial_noise, token_indices
from tests.pipelines import CASES, shared

PROMPT, OTHER = "a red cat and a blue dog", "a mushroom at night"


def end(pipe, parts, weights, z):
    return composable(pipe, parts, weights, latents=z, steps=3).trajectory["edit"].clean


def plain(pipe, prompts, z, w, **options):
    return last(denoise(pipe, prompts, latents=z, steps=3, guidance=w, **options)).x


@pytest.mark.parametrize("case", CASES)
def test_one_part_is_guidance_and_two_equal_halves_are_one(case):
    pipe = shared(case)
    z = initial_noise(pipe, 1, seed=3)
    want = plain(pipe, PROMPT, z, 3.0)
    assert float((end(pipe, [PROMPT], 3.0, z) - want).abs().max()) < 1e-5
    assert float((end(pipe, [PROMPT, PROMPT], 1.5, z) - want).abs().max()) < 2e-5
    assert float((end(pipe, [PROMPT, OTHER], (3.0, 0.0), z) - want).abs().max()) < 1e-5


def test_a_part_and_its_negative_cancel_and_order_does_not_count():
    pipe = shared(CASES[1])
    z = initial_noise(pipe, 2, seed=3)
    rows = [[PROMPT, OTHER, OTHER], [OTHER, PROMPT, PROMPT]]
    got = end(pipe, rows, (3.0, 2.0, -2.0), z)
    assert float((got - plain(pipe, [PROMPT, OTHER], z, 3.0)).abs().max()) < 2e-5
    a, b = end(pipe, [PROMPT, OTHER], (3.0, 1.0), z[:1]), end(pipe, [OTHER, PROMPT], (1.0, 3.0), z[:1])
    assert float((a - b).abs().max()) < 1e-5 and float((a - end(pipe, [PROMPT, OTHER], (1.0, 3.0), z[:1])).abs().max()) > 1e-3


def test_the_result_names_its_parts():
    pipe = shared(CASES[1])
    made = composable(pipe, [PROMPT, OTHER], (3.0, -1.0), seed=1, steps=2)
    assert made.prompts == {"edit": [f"{PROMPT} + {OTHER}"]} and made.details["weights"] == [3.0, -1.0]
    assert list(made.images) == ["edit"] and made.edit.shape[0] == 1


def test_what_does_not_fit_is_refused():
    pipe = shared(CASES[1])
    with pytest.raises(BadInput, match="weights"):
        composable(pipe, [PROMPT, OTHER], (1.0,))
    with pytest.raises(BadInput, match="equally many"):
        composable(pipe, [[PROMPT], [PROMPT, OTHER]])
    with pytest.raises(BadInput, match="things"):
        structured_text(pipe, [PROMPT], [])
    with pytest.raises(BadInput, match="structured_text"):
        StructuredValues(pipe, "a cat")


@pytest.mark.parametrize("case", CASES)
def test_structured_values_of_the_prompt_itself_change_nothing(case):
    pipe = shared(case)
    z = initial_noise(pipe, 2, seed=3)
    prompts = [PROMPT, OTHER]
    for guidance in (1.0, 3.0):
        want = plain(pipe, prompts, z, guidance)
        same = plain(pipe, prompts, z, guidance, hooks=[StructuredValues(pipe, encode_prompt(pipe, prompts))])
        assert float((same - want).abs().max()) < 1e-5
        one = structured_text(pipe, prompts, [(PROMPT,), (OTHER,)])                  # one phrase that is the prompt itself
        assert float((one - encode_prompt(pipe, prompts)).abs().max()) < 1e-6
        other = structured_text(pipe, prompts, [("red cat", "blue dog"), ("mushroom",)])
        assert float((plain(pipe, prompts, z, guidance, hooks=[StructuredValues(pipe, other)]) - want).abs().max()) > 1e-4


def test_structured_text_is_the_mean_of_one_encoding_for_each_phrase():
    pipe = shared(CASES[1])
    whole, said = encode_prompt(pipe, PROMPT)[0], ("red cat", "blue dog")
    want = torch.zeros_like(whole)
    for words in said:
        version = whole.clone()
        at = token_indices(pipe.tokenizer, PROMPT, words)[0]
        version[at] = encode_prompt(pipe, words)[0][1:1 + len(at)]
        want += version / len(said)
    assert torch.allclose(structured_text(pipe, PROMPT, [said])[0], want, atol=1e-6)


def test_the_mean_of_the_values_is_the_mean_of_the_outputs():
    """Feng et al. eq. 6 by hand, at one site: mean_i softmax(q k^T) V_i = softmax(q k^T) mean_i V_i."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64).softmax(-1)
    values = torch.randn(3, 2, 7, 4, generator=generator, dtype=torch.float64)
    assert torch.allclose((p @ values).mean(0), p @ values.mean(0))
