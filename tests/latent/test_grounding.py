"""The grounding loss and the phrases it stands on, against sums written out by hand."""

from __future__ import annotations

import pytest
import torch

from minidiff.errors import BadInput
from minidiff.latent.grounding import grounding_loss, phrase_masks, phrases
from minidiff.latent.text import make_tokenizer, token_ids, token_indices
from minidiff.rng import normal
from minidiff.steer.attention import pool_masks
from minidiff.world import KINDS, captions, parse, sample_scenes


def draw(*shape, name="attention", seed=0):
    return normal(shape, f"test {name}", seed, dtype=torch.float64)


def test_pooled_masks():
    masks = torch.zeros(1, 2, 8, 16)
    masks[0, 0, :4, :8] = 1
    masks[0, 1, 0, 0] = 1
    small = pool_masks(masks, 8, 0.5)                                          # 2 x 4 cells
    assert small[0, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0] and float(small[0, 1, 0]) == pytest.approx(1 / 16)
    with pytest.raises(BadInput, match="cells"):
        pool_masks(masks, 7, 0.5)


def corner():
    """One thing in the upper left quarter of 4 x 4 cells, spoken of by token 2."""
    masks, words = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 5)
    masks[0, 0, :4, :4] = 1
    words[0, 0, 2] = 1
    inside = pool_masks(masks, 16, 1.0)[0, 0]
    return masks, words, inside


def test_grounding_loss_extremes():
    masks, words, inside = corner()
    probs = torch.full((1, 2, 16, 5), 0.2)
    for column, want in ((inside, 0.0), (1 - inside, 2.0)):
        probs[..., 2] = column
        assert float(grounding_loss(probs, words, masks)) == pytest.approx(want, abs=1e-5)
    probs[..., 2] = 0.4 * inside                                            # a fainter map of the right shape is as good
    assert float(grounding_loss(probs, words, masks)) == pytest.approx(0.0, abs=1e-5)
    probs[..., 2] = 0.25                                                    # everywhere alike: share 1/4, Dice 2 * 4 / (16 + 4)
    assert float(grounding_loss(probs, words, masks)) == pytest.approx(0.75**2 + 1 - 0.4, abs=1e-5)


def test_grounding_loss_looks_only_at_words_of_visible_things():
    masks, words, inside = corner()
    probs = draw(2, 2, 16, 5).softmax(-1).float()
    assert float(grounding_loss(probs[:1], torch.zeros_like(words), masks)) == 0
    assert float(grounding_loss(probs[:1], words, torch.zeros_like(masks))) == 0
    both = grounding_loss(probs, words.expand(2, -1, -1), masks.expand(2, -1, -1, -1))
    assert both.shape == (2,) and float(both[1]) == pytest.approx(float(grounding_loss(probs[1:], words, masks)))
    changed = probs.clone()
    changed[..., 0] = changed[..., 0] * 0.1                                  # a token of which no word speaks
    assert torch.allclose(grounding_loss(changed[:1], words, masks), both[:1])
    heads = torch.stack([inside, 0 * inside])                               # heads may divide the work: their mean counts
    probs[0, :, :, 2] = heads
    assert float(grounding_loss(probs[:1], words, masks)) == pytest.approx(0.0, abs=1e-5)


def test_grounding_gradient_by_finite_differences():
    """Against the formula written as sums, in float64, with the scale of the map held as the loss holds it (detached)."""
    masks = draw(2, 3, 8, 8, seed=4).sigmoid()
    words = torch.zeros(2, 3, 6, dtype=torch.float64)
    words[0, 0, 1] = words[0, 1, 3] = words[1, 2, 4] = words[1, 2, 5] = 1
    probs = draw(2, 2, 16, 6, seed=5).softmax(-1)
    m = pool_masks(masks, 16, 1.0)

    def value(p):
        total = torch.zeros(2, dtype=torch.float64)
        for b in range(2):
            parts = []
            for k, token in words[b].nonzero().tolist():
                a, top = p[b, :, :, token].mean(0), probs[b, :, :, token].mean(0).max()
                share = (m[b, k] * a).sum() / a.sum()
                dice = 2 * (m[b, k] * a / top).sum() / ((a / top).sum() + m[b, k].sum())
                parts.append((1 - share) ** 2 + 1 - dice)
            total[b] = sum(parts) / len(parts)
        return total

    leaf = probs.clone().requires_grad_()
    loss = grounding_loss(leaf, words, masks)
    assert torch.allclose(loss.double(), value(probs), atol=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    for seed in range(3):
        step = 1e-5 * draw(*probs.shape, seed=10 + seed)
        slope = float((value(probs + step) - value(probs - step)).sum() / 2)
        assert float((gradient * step).sum()) == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_phrases_by_hand():
    assert phrases("a small red cat on the grass") == {"cat": [2, 3, 4]}
    assert phrases("a red mushroom left of a blue dog with a hat") == {"mushroom": [2, 3, 4], "dog": [8, 9]}
    assert phrases("watercolour of a green tree") == {"tree": [5, 6]} and phrases("") == {}


def test_phrases_speak_of_what_parse_reads():
    """In 300 captions every thing has a phrase, and the tokens of its phrase are its noun and adjectives that parse knows."""
    tokenizer = make_tokenizer()
    scenes = sample_scenes(range(300), level="full")
    texts = captions(scenes)
    masks = phrase_masks(texts, scenes.kind, tokenizer.model_max_length)
    ids = token_ids(tokenizer, texts)
    for row, text in enumerate(texts):
        said = parse(text)
        found = phrases(text)
        assert set(found) == {t.kind for t in said.things}
        for thing in said.things:
            slot = scenes.kind[row].tolist().index(KINDS.index(thing.kind))
            assert masks[row, slot].nonzero()[:, 0].tolist() == found[thing.kind]
            noun = token_indices(tokenizer, text, thing.kind)[0]
            assert found[thing.kind][-len(noun):] == noun
            words = tokenizer.decode(ids[row, found[thing.kind]]).split()
            assert parse("a " + " ".join(words)).things[0].kind == thing.kind
            assert {w for w in (thing.colour, thing.pattern) if w in words} <= {thing.colour, thing.pattern}
            for other in said.things:
                if other.colour and other.colour != thing.colour:
                    assert other.colour not in words, text
    absent = ~scenes.present
    assert float(masks[absent].sum()) == 0
