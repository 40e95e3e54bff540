"""Prompt-to-Prompt: mappers by brute force, hooks by hand, no-ops, and the published defects shown wrong by an oracle."""

from __future__ import annotations

import itertools

import pytest
import torch

from minidiff import BadInput
from minidiff.diffusion import last
from minidiff.editing import (
    EmphasiseValue,
    IgnoreKey,
    LocalBlend,
    Refine,
    Replace,
    Reweight,
    SelfCopy,
    align_words,
    coarse_level,
    prompt_to_prompt,
    refine_mapper,
    replace_mapper,
    word_values,
)
from minidiff.latent import denoise, initial_noise, invert_image, make_tokenizer, token_indices
from minidiff.rng import normal
from minidiff.steer import Hook, Row, Site, StepContext, Trajectory
from tests.pipelines import CASES, make, shared

CROSS = Site("x", "cross", "up", 0, 2)
SELF = Site("s", "self", "up", 0, 2)


ROWS = tuple(Row(branch, text) for text in ("empty", "prompt") for branch in ("source", "edit"))


def context(index=0, steps=10, n=2, grid=(4, 4)):
    return StepContext(index, steps, 500, 400, 0.3, 0.5, grid, n, ROWS)


def probs_of(batch=8, heads=2, places=16, length=20, seed=0):
    return normal((batch, heads, places, length), "p2p probs", seed, dtype=torch.float64).softmax(-1)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(length=20)


# Alignment and mappers -------------------------------------------------------------------------------------------------------


def longest(a, b):
    """Length of the longest common subsequence, by trying all of them."""
    def is_part(part, whole):
        rest = iter(whole)
        return all(x in rest for x in part)
    return max(k for k in range(len(a) + 1) for part in itertools.combinations(a, k) if is_part(part, b))


def test_alignment_is_the_longest_common_subsequence():
    torch.manual_seed(2)
    for _ in range(60):
        a, b = (["cat dog red on the".split()[i] for i in torch.randint(5, (int(n),))] for n in torch.randint(1, 8, (2,)))
        pairs = align_words(a, b)
        assert len(pairs) == longest(a, b) and all(a[i] == b[j] for i, j in pairs)
        assert all(p[0] < q[0] and p[1] < q[1] for p, q in zip(pairs, pairs[1:], strict=False))


SWAPS = [("a red cat on the grass", "a blue cat on the grass"), ("a cat on the grass", "a mushroom on the grass"),
         ("a mushroom and a red dog", "a cat and a red dog"), ("watercolour of a mushroom", "outline of a cat"),
         ("a red cat", "a red cat")]


@pytest.mark.parametrize("source,target", SWAPS)
def test_the_replace_mapper_keeps_all_attention_and_word_goes_to_word(tokenizer, source, target):
    mapper = replace_mapper(tokenizer, source, target)
    assert mapper.shape == (20, 20) and torch.allclose(mapper.sum(1), torch.ones(20)) and bool((mapper >= 0).all())
    a, b = source.split(), target.split()
    for k, (old, new) in enumerate(zip(a, b, strict=True)):
        i, j = (token_indices(tokenizer, " ".join(words[: k + 1]), words[k])[-1] for words in (a, b))
        block = mapper[i[0] : i[-1] + 1, j[0] : j[-1] + 1]
        assert torch.allclose(block.sum(1), torch.ones(len(i))), f"{old} -> {new}"
        assert torch.equal(block, torch.eye(len(i))) if len(i) == len(j) else torch.allclose(block, block.new_tensor(1 / len(j)))
    ends = [int(k) for k in (len(tokenizer(t).input_ids) - 1 for t in (source, target))]
    assert mapper[0, 0] == 1 and mapper[ends[0], ends[1]] == 1
    if source == target:
        assert torch.equal(mapper, torch.eye(20))


def test_the_refine_mapper_keeps_shared_words_and_leaves_new_ones(tokenizer):
    mapper, new = refine_mapper(tokenizer, "a mushroom on the grass", "a big blue mushroom on the grass")
    kept = {0: 0, 1: 1, 2: 4, 3: 5, 4: 6, 5: 7, 6: 8, 7: 9}             # begin a mush room on the grass end
    for i, j in kept.items():
        assert mapper[i, j] == 1 and mapper[:, j].sum() == 1
    assert new.nonzero().flatten().tolist() == [2, 3] and float(mapper[:, 2:4].sum()) == 0
    mapper, new = refine_mapper(tokenizer, "a red cat", "a red cat")
    assert torch.equal(mapper, torch.eye(20)) and float(new.sum()) == 0
    mapper, new = refine_mapper(tokenizer, "a red cat on the grass", "a cat on the grass")
    assert float(mapper[2].sum()) == 0 and float(new.sum()) == 0, "the lost word's attention goes nowhere"


def official_replace_mapper(tokenizer, source, target):
    """The published aligner as its specification reads: behind the last swapped word it writes mapper[j, j]."""
    a, b = source.split(), target.split()
    length, out, i, j = 20, torch.zeros(20, 20), 0, 0
    swaps = [(token_indices(tokenizer, source, x)[0], token_indices(tokenizer, target, y)[0])
             for x, y in zip(a, b, strict=True) if x != y]
    while i < length and j < length:
        if swaps and i == swaps[0][0][0]:
            old, fresh = swaps.pop(0)
            block = torch.eye(len(old)) if len(old) == len(fresh) else 1 / len(fresh)
            out[old[0] : old[-1] + 1, fresh[0] : fresh[-1] + 1] = block
            i, j = i + len(old), j + len(fresh)
        elif swaps:
            out[i, j] = 1
            i, j = i + 1, j + 1
        else:
            out[j, j] = 1
            i, j = i + 1, j + 1
    return out


def test_the_published_tail_loses_a_word_and_ours_does_not(tokenizer):
    source, target = "a cat on the grass", "a mushroom on the grass"
    wrong, right = official_replace_mapper(tokenizer, source, target), replace_mapper(tokenizer, source, target)
    assert float(wrong[3].sum()) == 0, "the source's 'on' (token 3) goes nowhere"
    assert wrong[4, 4] == 1 and right[3, 4] == 1, "the target's 'on' gets the attention of 'the'"
    swap = "a blue cat on the grass"
    assert torch.equal(official_replace_mapper(tokenizer, "a red cat on the grass", swap), torch.eye(20)), "equal lengths hide it"
    attention = probs_of()
    assert float((attention @ right.double()).sum(-1).sub(1).abs().max()) < 1e-6
    assert float((attention @ wrong.double()).sum(-1).min()) < 0.99


def test_word_values(tokenizer):
    values = word_values(tokenizer, "a mushroom and a mushroom", {"mushroom": 3.0})
    assert values.tolist() == [1, 1, 3, 3, 1, 1, 3, 3, *[1] * 12]
    with pytest.raises(BadInput, match="word"):
        word_values(tokenizer, "a cat", {"dog": 2.0})
    with pytest.raises(BadInput, match="refine"):
        replace_mapper(tokenizer, "a cat", "a red cat")


# Hooks by hand ---------------------------------------------------------------------------------------------------------------


def test_replace_refine_and_reweight_change_the_edits_prompt_rows_alone():
    probs, ctx = probs_of(), context(index=3)
    maps = torch.stack([normal((20, 20), "mapper", k, dtype=torch.float64).softmax(1) for k in range(2)])
    new, until = (torch.arange(20) % 3 == 0).double(), torch.tensor([0.2, 0.5] * 10)
    weights = torch.linspace(-1, 3, 20, dtype=torch.float64)
    for hook, formula in [
        (Replace(maps, until=until),
         lambda s, e, r, n: sum(s[w] * maps[r, w, n] for w in range(20)) if until[n] > 0.3 else e[n]),
        (Refine(maps, new, until=1.0), lambda s, e, r, n: sum(s[w] * maps[r, w, n] for w in range(20)) + e[n] * new[n]),
        (Reweight(weights), lambda s, e, r, n: e[n] * weights[n]),
    ]:
        out = hook.on_probs(CROSS, probs, ctx)
        assert torch.equal(out[:6], probs[:6]) and hook.selects(CROSS) and not hook.selects(SELF)
        for r, h, p, n in itertools.product(range(2), range(2), (0, 7), range(20)):
            want = formula(probs[4 + r, h, p], probs[6 + r, h, p], r, n)
            assert float(out[6 + r, h, p, n]) == pytest.approx(float(want), abs=1e-9)
    assert Replace(maps, until=until).active(context(index=4)) and not Replace(maps, until=until).active(context(index=5))
    assert SelfCopy(until=0.4).active(context(index=3)) and not SelfCopy(until=0.4).active(context(index=4))
    q, k, v = (normal((8, 3, 7, 5), "selfcopy", i, dtype=torch.float64) for i in range(3))
    seen = SelfCopy(level=0).attend(SELF, q, k, v, ctx, lambda *qkv: qkv)
    for new, old in zip(seen[:2], (q, k)):
        assert torch.equal(new[6:], old[4:6]) and torch.equal(new[:6], old[:6])
    assert seen[2] is v


@pytest.mark.parametrize("steps,share,want", [(50, 0.8, 40), (50, 0.4, 20), (20, 0.8, 16), (25, 0.4, 10)])
def test_shares_of_steps_are_the_published_ones(steps, share, want):
    hooks = Replace(torch.eye(4), until=share), SelfCopy(until=share)
    for hook in hooks:
        assert sum(hook.active(context(index=k, steps=steps)) for k in range(steps)) == want


def test_local_blend_by_hand():
    words = {"source": torch.zeros(20), "edit": torch.zeros(20)}
    words["source"][2], words["edit"][3], words["edit"][4] = 1, 1, 1
    hook, z = LocalBlend(words, threshold=0.9, start=0.2), {b: normal((2, 3, 8, 8), b, 0) for b in ("source", "edit")}
    total = {b: torch.zeros(2, 16, dtype=torch.float64) for b in words}
    for index in range(3):
        probs, ctx = probs_of(seed=index), context(index=index, grid=(8, 8))
        hook.before_step(z, ctx, None)
        assert hook.on_probs(CROSS, probs, ctx) is None
        total["source"] += probs[4:6, :, :, 2].mean(1)
        total["edit"] += probs[6:8, :, :, 3:5].sum(-1).mean(1)
        out = hook.after_step(z, ctx)
        if index < 2:
            assert out is None
            continue
        for row in range(2):
            big = torch.zeros(8, 8, dtype=torch.bool)
            for branch in words:
                m = total[branch][row].view(4, 4)
                pooled = torch.stack([m[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2].max() for y in range(4) for x in range(4)])
                pooled = pooled.view(4, 4)
                big |= (pooled >= 0.9 * pooled.max()).repeat_interleave(2, 0).repeat_interleave(2, 1)
            assert torch.equal(hook.mask[row, 0], big) and 0 < int(big.sum()) < 64
            assert torch.equal(out["edit"][row], torch.where(big, z["edit"][row], z["source"][row]))
    hook.before_step(z, context(index=0), None)
    assert not hook.total, "a new run begins with nothing gathered"


# A word's value and a word's key -----------------------------------------------------------------------------------------------


class Scores(Hook):
    """The oracle of IgnoreKey: scores of some tokens are -inf before the softmax."""

    def __init__(self, tokens):
        self.tokens = tokens

    def selects(self, site):
        return site.kind == "cross"

    def attend(self, site, q, k, v, ctx, attention):
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        mine = ctx.of("source", "prompt")
        scores[mine] = scores[mine].masked_fill(self.tokens.bool(), -torch.inf)
        return scores.softmax(-1) @ v


def test_a_louder_value_is_reweighting_and_a_masked_key_is_not():
    """In float64, where the two forms of emphasis agree to rounding on any machine."""
    pipe = make(CASES[1])
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.double()
    prompts, z = ["a red mushroom", "a blue mushroom on the grass"], initial_noise(pipe, 2, seed=3)
    c = torch.stack([word_values(pipe.tokenizer, p, {"mushroom": 2.5}) for p in prompts])
    off = torch.stack([word_values(pipe.tokenizer, p, {"mushroom": 1.0}, 0.0) for p in prompts])

    def drawn(*hooks):
        return last(denoise(pipe, prompts, latents=z, steps=3, hooks=list(hooks))).x

    louder, reweighted, plain = drawn(EmphasiseValue(c)), drawn(Reweight(c, edit="source")), drawn()
    assert float((louder - reweighted).abs().max()) < 1e-10 < 1e-3 < float((louder - plain).abs().max())
    ignored, masked, zeroed = drawn(IgnoreKey(off)), drawn(Scores(off[0][None])), drawn(Reweight(1 - off, edit="source"))
    assert float((ignored - masked).abs().max()) < 1e-10 < 1e-3 < float((ignored - zeroed).abs().max())
    assert float((drawn(IgnoreKey(0 * off)) - plain).abs().max()) < 1e-10


# The whole method --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_no_ops(case):
    pipe = shared(case)
    a, b, z = "a red cat on the grass", "a blue cat on the grass", initial_noise(shared(case), 1, seed=5)

    def apart(x, y):
        return float((x - y).abs().max()) / max(1.0, float(y.abs().max()))

    def plain(p):
        return last(denoise(pipe, p, latents=z, steps=4)).x

    kept = prompt_to_prompt(pipe, a, b, seed=5, steps=4)
    assert apart(kept.trajectory["source"].clean, plain(a)) < 1e-5, "the source's rows are plain sampling"
    given = prompt_to_prompt(pipe, a, b, latents=z, steps=4, maps=False)
    assert torch.equal(given.edit, kept.edit), "the noise itself in place of its seed"
    off = prompt_to_prompt(pipe, a, b, seed=5, steps=4, cross=0.0, self_attention=0.0)
    assert apart(off.trajectory["edit"].clean, plain(b)) < 1e-5
    for how in ("replace", "refine"):
        same = prompt_to_prompt(pipe, a, a, seed=5, steps=4, edit=how, cross=1.0, self_attention=1.0, weights={"cat": 1.0})
        assert apart(same.trajectory["edit"].clean, same.trajectory["source"].clean) < 1e-5
    everywhere = prompt_to_prompt(pipe, a, b, seed=5, steps=4, blend="cat", threshold=0.0)
    assert apart(everywhere.trajectory["edit"].clean, kept.trajectory["edit"].clean) < 1e-5
    assert everywhere.details["mask"].shape == (1, 1, *z.shape[-2:]) and bool(everywhere.details["mask"].all())
    assert set(kept.maps) == {"source", "edit"} and kept.maps["edit"].steps.keys() == set(range(4))
    tokens = token_indices(pipe.tokenizer, a, "cat")[0]
    seen = [kept.maps[branch].map(tokens, step=0, site=lambda s: s.kind == "cross" and s.place == "up" and s.level == 1)
            for branch in ("source", "edit")]
    assert torch.allclose(*seen), "the edit's map of a kept word is the source's"


def test_pictures_and_trajectories_are_sources_too():
    pipe = shared(CASES[1])
    images = normal((2, 3, 32, 32), "pictures", 0).clamp(-1, 1)
    way = Trajectory.of(invert_image(pipe, images, ["a red cat", "a red dog"], steps=4))
    one = prompt_to_prompt(pipe, ["a red cat", "a red dog"], ["a blue cat", "a blue dog"], trajectory=way, steps=4, guidance=7.5)
    assert torch.equal(one.trajectory["source"].clean, way.clean), "direct inversion: the source comes back whatever the guidance"
    two = prompt_to_prompt(pipe, ["a red cat", "a red dog"], ["a blue cat", "a blue dog"], image=images, steps=4, guidance=7.5)
    assert torch.allclose(one.edit, two.edit, atol=1e-5) and torch.equal(two.images["source"], images)
    assert not torch.allclose(one.edit, one.images["source"], atol=1e-3)
    for wrong in ({"seed": 1, "trajectory": way}, {"trajectory": way, "steps": 5}, {"edit": "swap"}, {"blend": "fish"},
                  {"weights": {"fish": 2.0}}, {"cross": {"fish": 0.2}}, {"cross": 1.5}, {"seed": 1, "latents": way.noise},
                  {"latents": way.noise[:, :1]}):
        with pytest.raises(BadInput):
            prompt_to_prompt(pipe, "a red cat", "a blue cat", **({"steps": 4} | wrong))


def test_the_published_rule_matches_no_site_here_and_ours_is_the_published_one_in_stable_diffusion():
    four, two = shared(CASES[0]), shared(CASES[1])
    assert coarse_level(four) == 2, "64 / 2^2 = 16 places along a side, of four levels"
    assert coarse_level(two) == 0
    sides = [two.unet.config.sample_size // 2**level for level in range(2)]
    assert not [s for s in sides if s <= two.unet.config.sample_size // 4]


def test_a_result_shows_itself():
    result = prompt_to_prompt(make(CASES[1]), "a red cat", "a blue cat", seed=1, steps=2, maps=False)
    bundle, meta = result._repr_mimebundle_()
    assert bundle["image/png"] and "source, edit" in meta["image/png"]["alt"] and not result.maps
    assert "Prompt-to-Prompt: source, edit; 1 of 32 x 32" in repr(result)
