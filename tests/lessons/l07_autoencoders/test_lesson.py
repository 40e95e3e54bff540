"""Lesson 07: what its panels draw over their whole range, and the helpers of its claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minidiff.course import survival as tools
from minidiff.errors import BadInput
from minidiff.latent.autoencoder import decode, encode, make_autoencoder
from minidiff.lessons.l07_autoencoders import claims as board
from minidiff.lessons.l07_autoencoders.panels import Chooser, LatentExplorer, caption_of
from minidiff.measure import Reader, read, score_reader
from minidiff.show import choice, panel, pixels, slider, sweep
from minidiff.world import Scene, Scenes, Thing, WorldData, render
from minidiff.zoo import load


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return WorldData(32, "test", "full").images(4)


@pytest.fixture(scope="module")
def explorer(images) -> LatentExplorer:
    torch.manual_seed(0)
    return LatentExplorer(make_autoencoder(4, widths=(8, 8, 16)).eval(), images[:1])


def test_explorer_over_the_whole_range(explorer):
    p = panel(explorer.render, slider("channel", 0, 3, 1, 1, live=False), slider("row", 0, 7, 1, 4, live=False),
              slider("column", 0, 7, 1, 3, live=False), slider("amount", -4.0, 4.0, 0.5, 3.0, live=False), alt="latent")
    shape = explorer.render(channel=1, row=4, column=3, amount=3.0)[0].shape
    seen = set()
    for values in sweep(p, most=40):
        array, text = explorer.render(**values)
        assert array.shape == shape and array.dtype == np.uint8 and p.status.value == text
        seen.add(text)
    assert len(seen) >= 4 + 8 + 8 + 17 - 3, "some knob positions say the same"


def test_explorer_moves_the_number_that_it_names(explorer):
    z = explorer.z.clone()
    z[0, 2, 5, 1] += 1.5
    with torch.no_grad():
        want = decode(explorer.vae, z)
    assert torch.allclose(explorer.edited(channel=2, row=5, column=1, amount=1.5), want, atol=1e-5)
    assert torch.equal(explorer.edited(channel=2, row=5, column=1, amount=0.0), explorer.before)
    array, text = explorer.render(channel=2, row=5, column=1, amount=0.0)
    assert text.endswith("nothing changes")
    width = array.shape[1] // 3
    assert not array[-1 - width // 2, -width // 2].any(), "the difference must be black where nothing changes"


def test_shares_of_the_change(explorer):
    after = explorer.before.clone()
    after[..., 12:16, 8:12] += 0.2                                # the whole cell (3, 2)
    assert explorer.shares(after, 3, 2) == pytest.approx((1.0, 1.0))
    assert explorer.shares(after, 3, 3) == pytest.approx((0.0, 1.0), abs=1e-6)
    after[..., 0:4, 28:32] -= 0.2                                 # and one far away
    assert explorer.shares(after, 3, 2) == pytest.approx((0.5, 0.5)) and explorer.shares(after, 7, 7) == pytest.approx((0, 0))
    assert explorer.shares(after, 0, 7) == pytest.approx((0.5, 0.5)), "at the border"


@pytest.mark.parametrize("wrong", [{"channel": 4}, {"row": 8}, {"column": -1}, {"row": 1.5}])
def test_explorer_refuses(explorer, images, wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        explorer.render(**({"channel": 0, "row": 0, "column": 0, "amount": 1.0} | wrong))
    with pytest.raises(BadInput, match="image"):
        LatentExplorer(explorer.vae, images[:2])


def test_chooser_over_the_whole_range(images):
    torch.manual_seed(1)
    reader = Reader(8).eval()
    trips = {"dim": images * 0.5, "none": images, "shifted": images.roll(4, 3)}
    chooser = Chooser(images, trips, reader)
    p = panel(chooser.render, slider("picture", 0, 3, 1, 1), choice("autoencoder", chooser.names, "dim"), alt="trips")
    assert len({p.image.value for _ in sweep(p)}) == 4 + 3 - 1
    array, text = chooser.render(picture=2, autoencoder="shifted")
    side = 32 * 6
    tile = array[-side::6, side + 8:2 * side + 8:6]
    assert np.abs(tile.astype(int) - pixels(trips["shifted"][2:3])[0]).max() <= 4
    want = 10 * torch.log10(4 / (images[2] - trips["shifted"][2]).square().mean())
    assert float(text.split(" dB")[0]) == pytest.approx(float(want), abs=0.051)
    exact, words = chooser.render(picture=1, autoencoder="none")
    assert "read alike" in words and not exact[-side:, 2 * (side + 8):].any()
    for bad in ({"picture": 4, "autoencoder": "dim"}, {"picture": 0, "autoencoder": "f = 3"}):
        with pytest.raises(BadInput):
            chooser.render(**bad)
    with pytest.raises(BadInput, match="trips"):
        Chooser(images, {"short": images[:2]}, reader)


def test_said_in_words():
    scenes = Scenes.of([Scene((Thing("cat", "red", "striped"), Thing("house", "blue"))), Scene((Thing("fish", "pink"),))])
    assert caption_of(scenes, 0) == "red striped cat, blue house" and caption_of(scenes, 1) == "pink fish"
    assert caption_of(scenes.replace(present=torch.zeros_like(scenes.present)), 1) == "nothing"


def test_patches_are_the_principal_components():
    x = WorldData(16, "train", "simple").images(40)
    net = tools.Patches(x, f=4, channels=5)
    cut = F.unfold(x, 4, stride=4).mT.flatten(0, 1).double()
    values = torch.linalg.eigvalsh(torch.cov(cut.T, correction=0))
    error = float((net(x).double() - x).square().mean())
    assert error == pytest.approx(float(values[:-5].sum()) / 48, rel=1e-4)
    assert torch.allclose(net(net(x)), net(x), atol=1e-5)
    assert torch.allclose(tools.Patches(x, f=4, channels=48)(x), x, atol=1e-5)


def test_right_words_agree_with_the_readers_own_score():
    x, scenes = WorldData(64, "test", "full").batch(1, 24)
    masks, reader = render(scenes, 64).masks, load("readers/develop")
    got, want = tools.right_words(x, scenes, masks, reader), score_reader(reader, x, scenes, masks)
    assert int(got.scored["kind"].sum()) == want.things
    found = round(want.found * want.things)
    for name in ("kind", "colour", "pattern", "wears"):
        assert int(got.right[name].sum()) == round(getattr(want, name) * found), name
    faces = scenes.present & (scenes.kind < 4)
    assert bool((got.scored["mood"] <= faces).all()) and not bool((got.right["mood"] & ~got.scored["mood"]).any())
    blank = tools.right_words(torch.zeros_like(x), scenes, masks, reader)
    assert sum(int(r.sum()) for r in blank.right.values()) < sum(int(r.sum()) for r in got.right.values()) / 4


def test_survival_counts_pictures_before_and_after(monkeypatch):
    n = 12
    kept = tools.held_out(n)[0]
    monkeypatch.setattr(tools, "decoded", lambda name, count: kept if name == "same" else torch.zeros_like(kept))
    tools.survival.cache_clear()
    same, gone = tools.survival("same", n), tools.survival("gone", n)
    tools.survival.cache_clear()
    for counts in same.values():
        assert counts.shape == (n, 3) and torch.equal(counts[:, 1], counts[:, 2]) and bool((counts[:, 1] <= counts[:, 0]).all())
    assert float(board._points(same["kind"])) == 0 and float(board._points(gone["kind"])) < -50
    by_hand = torch.tensor([[2.0, 2, 1], [2.0, 1, 1]])
    assert float(board._points(by_hand)) == -25


def test_a_round_trip_is_encode_decode_and_clip(images):
    class Loud(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_autoencoder(4, widths=(8, 8, 16)).eval()
            self.config = self.net.config

        def encode(self, x):
            return self.net.encode(x)

        def decode(self, z):
            from types import SimpleNamespace

            return SimpleNamespace(sample=50 * self.net.decode(z).sample)

    torch.manual_seed(0)
    net = Loud()
    out = tools.through(net, images)
    with torch.no_grad():
        assert torch.equal(out, decode(net, encode(net, images)).clamp(-1, 1))
    assert float(out.abs().max()) == 1 and not out.requires_grad


def test_perplexity_counts_the_codes_that_carry_the_pictures():
    alike = torch.full((3, 16), 2.0)
    assert float(board.perplexity(alike)) == pytest.approx(16) and float(board.perplexity(torch.eye(16)[:1])) == pytest.approx(1)
    assert float(board.perplexity(torch.tensor([[3.0, 0, 1], [0, 0, 4]]))) == pytest.approx((3 / 8) ** -0.375 * (5 / 8) ** -0.625)


def test_codes_in_use_are_the_nearest_ones():
    counts, vq = board.codes_in_use(3), load("vq-f4")
    assert counts.shape == (3, 256) and counts.sum(1).tolist() == [256.0] * 3
    places = encode(vq, tools.held_out(3)[0][1:2])[0].flatten(1).T                                # (places, 4)
    nearest = ((places[:, None] - vq.quantize.embedding.weight) ** 2).sum(2).argmin(1)
    assert torch.equal(counts[1], torch.bincount(nearest, minlength=256).double())


def test_a_network_is_held_against_the_linear_map_of_its_own_size(monkeypatch):
    x = tools.held_out(8)[0]
    loss = {"vae-f2": 0.1, "patches-2": 0.05, "vae-f4": 0.1, "patches-4": 0.2, "vae-f8": 0.2, "patches-8": 0.2}
    monkeypatch.setattr(board, "decoded", lambda name, n: x + loss[name])
    found = board.network_or_line(8)
    assert found.value == pytest.approx(-20 * torch.tensor(2.0).log10().item(), abs=1e-3) and "f = 2" in found.why
    assert found.settings == pytest.approx({"f = 4": 6.0206, "f = 8": 0.0}, abs=1e-3)


def test_words_are_compared_thing_by_thing_and_word_by_word(monkeypatch):
    def counts(name, n):                                             # scored, right before, right after: 2 things a picture
        after = {"mini-vae": 2.0, "patches-4": 1.0, "vae-f8": 0.0, "vae-f4": 1.0}[name]
        return {word: torch.tensor([[2.0, 2.0, after if word == "kind" else 1.0]]).repeat(n, 1) for word in tools.ATTRIBUTES}

    monkeypatch.setattr(board, "survival", counts)
    found = board.words_or_line(6)
    assert (found.value, found.low, found.high) == pytest.approx((10.0, 10.0, 10.0))
    assert found.settings == pytest.approx({f"{word} alone": 50.0 if word == "kind" else 0.0 for word in tools.ATTRIBUTES})
    lost = board.study_survival(6)
    assert lost.value == pytest.approx(10.0) and lost.settings["kind alone"] == pytest.approx(50.0) and len(lost.settings) == 5


def test_closed_form_claim_holds():
    from minidiff.course import compute

    row = compute("07.kl_closed_form", 50)
    assert row.passed and row.baseline["by one draw for each number"] > 0.01


def test_every_reading_is_of_the_final_reader_and_the_names_exist():
    from minidiff.course.claims import claims

    mine = {id: c for id, c in claims().items() if c.lesson == "07"}
    assert len(mine) >= 12
    assert all((c.reader == "final") == ("surviv" in id or "words" in id) for id, c in mine.items())
    assert set(board.STUDY.values()) == {"vae-f2", "vae-f4", "vae-f8", "vq-f4"}
    assert read(WorldData(64, "test").images(2), load("readers/final")).scenes.present.any()
