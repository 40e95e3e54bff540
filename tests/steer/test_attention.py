"""Attention in the open, the tap and the recorder, each against an oracle that knows nothing of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from minidiff.errors import BadInput
from minidiff.latent.stable import make_unet
from minidiff.rng import normal
from minidiff.steer import Energy, EpsGuidance, ExplicitAttnProcessor, Hook, Recorder, Row, Tap, attention, sites

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
        layer.set_processor(ExplicitAttnProcessor(lambda q, k, v, attention: attention(q, k, v, seen.append)))
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
    layer.set_processor(ExplicitAttnProcessor(lambda q, k, v, attention: attention(q, k, v, lambda p: torch.full_like(p, 1 / 9))))
    with torch.no_grad():
        want = layer.to_out[0](layer.to_v(context).mean(1, keepdim=True)).expand(2, 24, 12)
        assert close(layer(x, encoder_hidden_states=context), want)
        layer.set_processor(ExplicitAttnProcessor(lambda q, k, v, attention: attention(q, k, v, lambda p: p[..., :5])))
        with pytest.raises(BadInput, match="on_probs"):
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


# Tap ---------------------------------------------------------------------------------------------------------------------

BOTH = [Row("source", "empty"), Row("source", "prompt")]        # the two rows of the worlds above


def processors(unet):
    return {name: id(p) for name, p in unet.attn_processors.items()}


def hooks(unet):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


class Stop(Exception):
    pass


class Asks(Hook):
    """Wants every site and the mid block, and returns what it was given (or None)."""

    modules = ("mid_block",)

    def __init__(self, same=True):
        self.same, self.calls = same, []

    def selects(self, site):
        return True

    def on_probs(self, site, probs, ctx):
        self.calls.append(site.name)
        return probs if self.same else None

    def on_module(self, path, out, ctx, inputs):
        self.calls.append(path)
        assert inputs["hidden_states"].ndim == 4 and inputs["temb"].shape[0] == len(out), "hooks see the module's inputs by name"
        return out if self.same else None


@pytest.mark.parametrize("same", [True, False])
def test_a_tap_that_changes_nothing_changes_nothing(world, same):
    unet, _, _, run = world
    before, plain, count = processors(unet), run(), hooks(unet)
    asks = Asks(same)
    with Tap(unet, asks, Hook()):
        assert close(run(), plain, 1e-9)
        assert sorted(asks.calls) == sorted([*sites(unet), "mid_block"])
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


def test_a_tap_in_which_nothing_ran_is_an_error(world):
    unet, _, _, _ = world
    other = make(next(iter(CASES)))
    before = processors(unet)
    with pytest.raises(RuntimeError, match="never ran"), Tap(unet, Asks()):
        pass
    with pytest.raises(RuntimeError, match="another U-Net"), Tap(unet, Asks()):
        other(draw(1, 4, 16, 24), 3, encoder_hidden_states=draw(1, 77, 24))
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


def test_a_site_that_the_network_has_not_got_is_refused(world):
    """By name, before anything runs, for a hook and for a guidance's energy; the nearest name is offered."""
    unet = world[0]
    name = next(site.name for site in sites(unet).values())
    energy = Energy(lambda maps, state: state.x0.flatten(1).sum(1), sites=[name, name + ".x"])
    for hook in (Recorder(name + "x"), Recorder([name, "nosuch"]), EpsGuidance(energy)):
        with pytest.raises(BadInput, match="sites: got") as error:
            Tap(unet, hook, rows=[Row("source")])
        assert "attention site of this network" in str(error.value) and "Write instead: '" in str(error.value)
    assert Tap(unet, Recorder(name), rows=[Row("source")]).wanted.keys() == {name}


def test_a_tap_changes_what_its_hook_says(world):
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
    with pytest.raises(BadInput, match="OneValue"), Tap(unet, OneToken(name, 3)):
        run()
    layer.processor = own
    with Tap(unet, OneToken(name, 3)):
        got = run()
    assert close(got, want, 1e-9) and not close(got, plain, 1e-4) and torch.equal(run(), plain)


class Values(Hook):
    """The same through ``attend``: keys are not looked at, every place takes the value of token 3."""

    def __init__(self, name):
        self.name = name

    def selects(self, site):
        return site.name == self.name

    def attend(self, site, q, k, v, ctx, attention):
        return v[:, :, 3:4].expand_as(q)


class Longer(Values):
    """Keys and values twice in a row: softmax over both copies changes nothing."""

    def attend(self, site, q, k, v, ctx, attention):
        return attention(q, torch.cat((k, k), 2), torch.cat((v, v), 2))


def test_attend_gets_queries_keys_and_values(world):
    unet, _, _, run = world
    name = [s.name for s in sites(unet).values() if s.kind == "cross"][1]
    with Tap(unet, OneToken(name, 3)):
        want = run()
    with Tap(unet, Values(name)):
        assert close(run(), want, 1e-9)
    plain = run()
    for chain in ([Longer(name)], [Longer(name), Longer(name)]):
        with Tap(unet, *chain):
            assert close(run(), plain, 1e-9)
    with Tap(unet, Longer(name), OneToken(name, 3)):              # what follows sees the longer list
        assert close(run(), want, 1e-9)


class Doubles(Hook):
    modules = ("mid_block",)

    def on_module(self, path, out, ctx, inputs):
        return 2 * out


def test_a_tap_changes_a_module(world):
    unet, _, _, run = world
    hook = unet.mid_block.register_forward_hook(lambda m, a, out: 2 * out)
    want = run()
    hook.remove()
    with Tap(unet, Doubles()):
        assert close(run(), want)


def test_hooks_act_in_turn_and_a_second_tap_on_a_site_is_refused(world):
    unet, _, _, run = world
    first, second = [s.name for s in sites(unet).values() if s.kind == "cross"][:2]
    with Tap(unet, OneToken(first, 3), OneToken(second, 1)):
        both = run()
    with Tap(unet, OneToken(first, 0), OneToken(first, 3)), Tap(unet, OneToken(second, 1)):
        assert close(run(), both)
    before = processors(unet)
    with Tap(unet, OneToken(first, 0)):
        with pytest.raises(RuntimeError, match="another tap"), Tap(unet, OneToken(first, 3)):
            run()
        run()
    assert processors(unet) == before


def test_a_missed_hook_is_an_error(world):
    unet, _, _, run = world
    before, count = processors(unet), hooks(unet)
    name = next(s.name for s in sites(unet).values() if s.kind == "cross")
    with pytest.raises(RuntimeError, match=name.replace(".", r"\.")), Tap(unet, Asks()):
        run()
        unet.get_submodule(name).processor = AttnProcessor2_0()              # somebody else takes the hook away
        run()
    assert processors(unet) == before and hooks(unet) == count
    with pytest.raises(BadInput, match="modules"):
        Tap(unet, Recorder(modules=("mid_blok",)))
    with pytest.raises(BadInput, match="unet"):
        Tap(lambda x: x)
    with pytest.raises(BadInput, match="instances of Hook"):
        Tap(unet, Recorder)


def test_a_module_that_is_bypassed_is_an_error():
    """The pixel U-Net calls the parts of ``middle`` one by one: a hook on the whole never fires, and that is said."""
    from minidiff.nets import UNet

    net = UNet(3, dim=8, mults=(1, 2), blocks=1, attention=())
    x, t = torch.randn(1, 3, 8, 8), torch.zeros(1, dtype=torch.long)
    with pytest.raises(RuntimeError, match="middle ran 0 times"), Tap(net, Recorder((), modules=["middle"]), rows=BOTH[:1]):
        net(x, t)


# Recorder ----------------------------------------------------------------------------------------------------------------


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
    recorder = Recorder(modules=("mid_block",))
    with Tap(unet, recorder, rows=BOTH):                                 # the second row plays the one with the prompt
        for _ in range(3):
            run()
    assert set(recorder.steps) == {0, 1, 2} and recorder.at(0).grid == tuple(z.shape[-2:])
    assert set(recorder.at(2).sites) == {s.name for s in sites(unet).values() if s.kind == "cross"}
    probs = by_hand(unet, z, context, torch.tensor([400, 10]), name)
    assert recorder.at(1).probs[name].shape == probs[1:].shape and close(recorder.at(1).probs[name], probs[1:])
    level = sites(unet)[name].level
    high, wide = z.shape[-2] >> level, z.shape[-1] >> level
    want = (probs[1, ..., 2] + probs[1, ..., 5]).mean(0).view(high, wide) / 2
    assert close(recorder.map([2, 5], step=[0, 2], site=name, row=0), want)
    assert recorder.map(2, step=1, site=lambda s: s.level == level and s.place == "up").shape == (1, high, wide)
    assert recorder.at(0).outputs["mid_block"].shape[0] == 1
    for wrong, match in (({"step": 7}, "step"), ({"tokens": 99}, "tokens"), ({"site": "nowhere"}, "site"),
                         ({"site": lambda s: True}, "one size"), ({"row": 1}, "row")):
        with pytest.raises(BadInput, match=match):
            recorder.map(**({"tokens": 1, "step": 0, "site": name} | wrong))


def test_recorder_needs_rows_and_a_shorter_run_leaves_nothing_old(world):
    unet, _, _, run = world
    with pytest.raises(BadInput, match="no row was named"), Tap(unet, Recorder()):
        run()
    recorder = Recorder()
    for calls in (3, 2):
        with Tap(unet, recorder, rows=BOTH):
            for _ in range(calls):
                run()
    assert set(recorder.steps) == {0, 1}
    with pytest.raises(BadInput, match="rows"), Tap(unet, Recorder(), rows=[*BOTH, Row("edit", "prompt")]):
        run()


def test_recorder_refuses_a_module_that_returns_a_tuple(world):
    unet, _, _, run = world
    with pytest.raises(BadInput, match="tuple"), Tap(unet, Recorder((), modules=["down_blocks.0"]), rows=BOTH):
        run()
