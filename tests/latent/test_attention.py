"""Attention in the open, the tap, the recorder and the grounding loss, each against an oracle that knows nothing of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from minidiff.diffusion.sample import Step
from minidiff.errors import BadInput
from minidiff.latent.grounding import grounding_loss, phrase_masks, phrases
from minidiff.latent.stable import make_unet
from minidiff.latent.text import make_tokenizer, token_ids, token_indices
from minidiff.rng import normal
from minidiff.steer import Hook, Recorder, Row, Tap, rows_of
from minidiff.steer.attention import ExplicitAttnProcessor, Watched, attention, pool_masks, sites
from minidiff.world import KINDS, captions, parse, sample_scenes

CASES = {"four levels, 77 tokens": (77, 24, (16, 24)), "two levels, 20 tokens": (20, 16, (8, 12))}


def draw(*shape, name="attention", seed=0):
    return normal(shape, f"test {name}", seed, dtype=torch.float64)


def make(case):
    tokens, width, grid = CASES[case]
    torch.manual_seed(5)
    if tokens == 20:
        unet = make_unet(size=grid[0], widths=(32, 64), context=width, heads=2)
    else:
        unet = UNet2DConditionModel(
            sample_size=grid[0], block_out_channels=(32, 32, 64, 64), layers_per_block=1, cross_attention_dim=width,
            attention_head_dim=4, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    return unet.double().eval().requires_grad_(False)


@pytest.fixture(scope="module", params=CASES)
def world(request):
    """(unet, z, t, context, run) with non-square latents; run() is the U-Net on two rows."""
    unet = make(request.param)
    tokens, width, grid = CASES[request.param]
    z, context, t = draw(2, 4, *grid), draw(2, tokens, width, seed=1), torch.tensor([400, 10])
    return unet, z, context, lambda c=context: unet(z, t, encoder_hidden_states=c).sample


def close(a, b, tol=1e-10):
    return a.shape == b.shape and float((a - b).abs().max()) <= tol


# attention and Explicit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_sdpa(masked):
    q, k, v = draw(2, 3, 7, 5), draw(2, 3, 9, 5, seed=1), draw(2, 3, 9, 6, seed=2)
    mask = draw(2, 1, 1, 9, seed=3) * 4 if masked else None
    out, probs = attention(q, k, v, mask)
    assert close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert probs.shape == (2, 3, 7, 9) and close(probs.sum(-1), torch.ones(2, 3, 7, dtype=torch.float64))
    assert bool((probs >= 0).all())


def test_attention_by_hand():
    """One query, two keys, width 1: the scores are 2 and 0, so the weights are the logistic function of 2."""
    out, probs = attention(torch.tensor([[2.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([[10.0], [0.0]]))
    want = 1 / (1 + torch.exp(torch.tensor(-2.0)))
    assert float(probs[0, 0]) == pytest.approx(float(want)) and float(out) == pytest.approx(10 * float(want))


LAYERS = {
    "cross": (dict(query_dim=12, cross_attention_dim=7, heads=3, dim_head=4), "context"),
    "self": (dict(query_dim=12, heads=2, dim_head=6, bias=True), None),
    "group norm, residual, rescaled, 4-D": (dict(query_dim=12, heads=3, dim_head=4, norm_num_groups=4, residual_connection=True,
                                                 rescale_output_factor=1.7, eps=1e-5), "4-D"),
    "norm of q and k": (dict(query_dim=12, cross_attention_dim=7, heads=3, dim_head=4, qk_norm="layer_norm"), "context"),
    "norm of the context": (dict(query_dim=12, cross_attention_dim=7, heads=3, dim_head=4, cross_attention_norm="layer_norm"),
                            "context"),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_explicit_is_the_processor_of_diffusers(name, masked):
    options, kind = LAYERS[name]
    torch.manual_seed(3)
    layer = Attention(**options).double().eval()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(std=0.5)
        x = draw(2, 12, 4, 6) if kind == "4-D" else draw(2, 24, 12)
        context = draw(2, 9, 7, seed=1) if kind == "context" else None
        mask = draw(2, 9 if context is not None else 24, seed=2) * 3 if masked else None
        layer.set_processor(AttnProcessor2_0())
        want = layer(x, encoder_hidden_states=context, attention_mask=mask)
        seen = []
        layer.set_processor(ExplicitAttnProcessor(seen.append))
        got = layer(x, encoder_hidden_states=context, attention_mask=mask)
    assert close(got, want) and got.shape == x.shape
    assert seen[0].shape == (2, layer.heads, 24, 9 if context is not None else 24)
    assert close(seen[0].sum(-1), torch.ones(seen[0].shape[:-1], dtype=torch.float64))
    if masked:
        layer.set_processor(AttnProcessor2_0())
        with torch.no_grad():
            assert not close(layer(x, encoder_hidden_states=context), want, 1e-3), "the mask must matter here"


def test_explicit_uses_what_change_returns():
    """Uniform probabilities: every place gets the mean of the values, whatever the queries say."""
    torch.manual_seed(4)
    layer = Attention(query_dim=12, cross_attention_dim=7, heads=3, dim_head=4).double().eval()
    x, context = draw(2, 24, 12), draw(2, 9, 7, seed=1)
    layer.set_processor(ExplicitAttnProcessor(lambda probs: torch.full_like(probs, 1 / 9)))
    with torch.no_grad():
        want = layer.to_out[0](layer.to_v(context).mean(1, keepdim=True)).expand(2, 24, 12)
        assert close(layer(x, encoder_hidden_states=context), want)
        layer.set_processor(ExplicitAttnProcessor(lambda probs: probs[..., :5]))
        with pytest.raises(BadInput, match="change"):
            layer(x, encoder_hidden_states=context)


# sites -----------------------------------------------------------------------------------------------------------------


def test_sites_of_both_models(world):
    """Kind, level and place against what the modules really get: shapes caught by plain forward hooks, in running order."""
    unet, z, context, run = world
    found, order, shapes = sites(unet), [], {}
    high, wide = z.shape[-2:]

    def note(name):
        def hook(module, args, kwargs):
            order.append(name)
            shapes[name] = (args[0].shape[1], kwargs.get("encoder_hidden_states") is not None)
        return hook

    hooks = [unet.get_submodule(name).register_forward_pre_hook(note(name), with_kwargs=True) for name in found]
    run()
    for hook in hooks:
        hook.remove()
    assert order == list(found) and {f"{n}.processor" for n in found} == set(unet.attn_processors)
    for name, site in found.items():
        places, cross = shapes[name]
        assert site.kind == ("cross" if cross else "self") and site.name == name and name.startswith(site.place)
        assert places == (high >> site.level) * (wide >> site.level)
        assert site.heads == unet.get_submodule(name).heads
    deepest = len(unet.config.block_out_channels) - 1
    assert {s.level for s in found.values() if s.place == "mid"} == {deepest}
    assert sum(s.kind == "cross" for s in found.values()) == len(found) // 2


# Watched and Tap ---------------------------------------------------------------------------------------------------------


def processors(unet):
    return {name: id(p) for name, p in unet.attn_processors.items()}


def hooks(unet):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


class Stop(Exception):
    pass


def test_watched_gives_the_probabilities_with_gradients_and_goes(world):
    unet, z, context, run = world
    before, plain = processors(unet), run()
    names = [s.name for s in sites(unet).values() if s.kind == "cross"][:2]
    context = context.clone().requires_grad_()
    with Watched(unet, names) as seen:
        assert close(run(context).detach(), plain)
    assert set(seen) == set(names) and processors(unet) == before
    layer = unet.get_submodule(names[0])
    assert seen[names[0]].shape[1:] == (layer.heads, seen[names[0]].shape[2], context.shape[1])
    (gradient,) = torch.autograd.grad(seen[names[0]][..., 0].sum(), context)
    assert float(gradient.abs().max()) > 0
    with pytest.raises(Stop), Watched(unet, names):
        raise Stop
    assert processors(unet) == before


class Asks(Hook):
    """Wants every site and the mid block, and returns what it was given (or None)."""

    def __init__(self, same=True):
        self.same, self.calls = same, []

    def selects(self, site):
        return True

    def modules(self):
        return ("mid_block",)

    def on_probs(self, site, probs, ctx):
        self.calls.append(site.name)
        return probs if self.same else None

    def on_module(self, path, out, ctx):
        self.calls.append(path)
        return out if self.same else None


@pytest.mark.parametrize("same", [True, False])
def test_a_tap_that_changes_nothing_changes_nothing(world, same):
    unet, _, _, run = world
    before, plain, count = processors(unet), run(), hooks(unet)
    asks = Asks(same)
    with Tap(unet, asks, Hook()) as tap:
        assert close(run(), plain, 1e-9) and hooks(unet) == count + 1
        assert set(asks.calls) == {*sites(unet), "mid_block"} and set(tap.calls.values()) == {1}
    assert processors(unet) == before and hooks(unet) == count and torch.equal(run(), plain)


@pytest.mark.parametrize("calls", [0, 1])
def test_a_tap_goes_after_an_exception_and_does_not_hide_it(world, calls):
    unet, _, _, run = world
    before, count = processors(unet), hooks(unet)
    with pytest.raises(Stop), Tap(unet, Asks()):
        for _ in range(calls):
            run()
        raise Stop
    assert processors(unet) == before and hooks(unet) == count


def test_a_tap_around_nothing_is_no_error(world):
    unet = world[0]
    before = processors(unet)
    with Tap(unet, Asks()):
        pass
    assert processors(unet) == before


class OneToken(Hook):
    """All attention of one site to one token."""

    def __init__(self, name, token):
        self.name, self.token = name, token

    def selects(self, site):
        return site.name == self.name

    def on_probs(self, site, probs, ctx):
        out = torch.zeros_like(probs)
        out[..., self.token] = 1
        return out


def test_a_tap_changes_what_its_controller_says(world):
    """All attention to token 3 is a layer that hands on the value of token 3: written out without any attention."""
    unet, _, context, run = world
    name = [s.name for s in sites(unet).values() if s.kind == "cross"][1]
    layer = unet.get_submodule(name)

    class OneValue:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
            v = attn.to_out[0](attn.to_v(encoder_hidden_states[:, 3:4]))
            return v.expand(-1, hidden_states.shape[1], -1)

    own, plain = layer.processor, run()
    layer.processor = OneValue()
    want = run()
    layer.processor = own
    with Tap(unet, OneToken(name, 3)):
        got = run()
    assert close(got, want, 1e-9) and not close(got, plain, 1e-4) and torch.equal(run(), plain)


class Doubles(Hook):
    def modules(self):
        return ("mid_block",)

    def on_module(self, path, out, ctx):
        return 2 * out


def test_a_tap_changes_a_module(world):
    unet, _, _, run = world
    hook = unet.mid_block.register_forward_hook(lambda m, a, out: 2 * out)
    want = run()
    hook.remove()
    with Tap(unet, Doubles()):
        assert close(run(), want)


def test_controllers_act_in_turn_and_taps_nest(world):
    unet, _, _, run = world
    first, second = [s.name for s in sites(unet).values() if s.kind == "cross"][:2]
    with Tap(unet, OneToken(first, 3), OneToken(second, 1)):
        both = run()
    with Tap(unet, OneToken(first, 0), OneToken(first, 3)), Tap(unet, OneToken(second, 1)):
        assert close(run(), both)


def test_a_missed_hook_is_an_error(world):
    unet, _, _, run = world
    before = processors(unet)
    name = next(s.name for s in sites(unet).values() if s.kind == "cross")
    with pytest.raises(RuntimeError, match=name.replace(".", r"\.")), Tap(unet, Asks()):
        run()
        unet.get_submodule(name).processor = AttnProcessor2_0()              # somebody else takes the hook away
        run()
    assert processors(unet) == before
    with pytest.raises(RuntimeError, match="mid_block"), Tap(unet, Asks()) as tap:
        tap._hooks[0].remove()
        run()
    with pytest.raises(BadInput, match="modules"):
        Tap(unet, Recorder(paths=("mid_blok",)))
    with pytest.raises(BadInput, match="unet"):
        Tap(torch.nn.Linear(2, 2))


# Recorder ----------------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_guidance():
    assert rows_of(2) == (Row("source", False),) * 2 + (Row("source", True),) * 2
    assert rows_of(1, guided=False, branch="edit") == (Row("edit", True),)


def loop(run, z, steps):
    for k in range(steps):
        run()
        yield Step(k, steps, 10 - k, 9 - k, z, z, z)


def by_hand(unet, z, context, t, name):
    """Softmax of to_q(x) to_k(words)^T, with x caught on its way into the layer."""
    caught = {}
    layer = unet.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda m, args, kwargs: caught.update(x=args[0], c=kwargs["encoder_hidden_states"]),
                                           with_kwargs=True)
    unet(z, t, encoder_hidden_states=context)
    hook.remove()
    q, k = layer.to_q(caught["x"]), layer.to_k(caught["c"])
    b, n, d = q.shape[0], layer.heads, q.shape[-1] // layer.heads
    scores = torch.einsum("bihd,bjhd->bhij", q.view(b, -1, n, d), k.view(b, -1, n, d)) / d**0.5
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def test_recorder_maps_by_hand(world):
    unet, z, context, run = world
    name = [s.name for s in sites(unet).values() if s.kind == "cross" and s.place == "up"][-1]
    recorder = Recorder(lambda s: s.kind == "cross", paths=("mid_block",))
    with Tap(unet, recorder) as tap:                                      # the second row plays the one with the prompt
        for _ in tap.follow(loop(run, z, 3), [Row("source", False), Row("source", True)]):
            pass
    assert set(recorder.probs) == set(recorder.outputs) == {0, 1, 2} and recorder.grid == tuple(z.shape[-2:])
    assert {s for s in recorder.seen} == {s.name for s in sites(unet).values() if s.kind == "cross"}
    probs = by_hand(unet, z, context, torch.tensor([400, 10]), name)
    assert recorder.probs[1][name].shape == probs[1:].shape and close(recorder.probs[1][name], probs[1:])
    level = sites(unet)[name].level
    high, wide = z.shape[-2] >> level, z.shape[-1] >> level
    want = (probs[1, ..., 2] + probs[1, ..., 5]).mean(0).view(high, wide) / 2
    assert close(recorder.map([2, 5], step=[0, 2], site=name, row=0), want)
    assert recorder.map(2, step=1, site=lambda s: s.level == level and s.place == "up").shape == (1, high, wide)
    assert recorder.outputs[0]["mid_block"].shape[0] == 1
    for wrong, match in (({"step": 7}, "step"), ({"tokens": 99}, "tokens"), ({"site": "nowhere"}, "site"),
                         ({"site": lambda s: True}, "one size")):
        with pytest.raises(BadInput, match=match):
            recorder.map(**({"tokens": 1, "step": 0, "site": name} | wrong))


def test_recorder_needs_a_name_for_every_row(world):
    unet, z, _, run = world
    with pytest.raises(BadInput, match="rows"), Tap(unet, Recorder()) as tap:
        for _ in tap.follow(loop(run, z, 1), rows_of(2)):
            pass


def test_recorder_with_gradients(world):
    unet, z, context, run = world
    context = context.clone().requires_grad_()
    recorder = Recorder(lambda s: s.place == "mid" and s.kind == "cross", graph=True)
    with Tap(unet, recorder):
        run(context)
    shape = tuple(z.shape[-2:])
    loss = recorder.map(1, step=-1, site=lambda s: True, grid=shape).square().sum()
    (gradient,) = torch.autograd.grad(loss, context)
    step = 1e-6 * draw(*context.shape, seed=9)

    def value(c):
        with Tap(unet, seen := Recorder(lambda s: s.place == "mid" and s.kind == "cross")):
            run(c)
        return float(seen.map(1, step=-1, site=lambda s: True, grid=shape).square().sum())

    slope = (value(context.detach() + step) - value(context.detach() - step)) / 2
    assert slope == pytest.approx(float((gradient * step).sum()), rel=1e-4)


# Grounding -----------------------------------------------------------------------------------------------------------------


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
