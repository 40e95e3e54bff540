"""Claims of lesson 18: style and content at once, the sum against the joint form, knobs that turn one way, and what leaks.

The weights were chosen on split "valid" with the develop reader; the rows use split "test", the final reader and fresh pictures.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.editing.parasol import blend_styles, invert_content, parasol
from minidiff.editing.style_tokens import content_code, style_statistics
from minidiff.editing.triplets import Triplets, retrieved_triplets
from minidiff.latent import decode, encode, initial_noise
from minidiff.lessons.l04_classifier_guidance.data import spearman
from minidiff.lessons.l18_style_control.data import (
    CHUNK,
    STEPS,
    Codes,
    Marks,
    codes_of,
    draw,
    in_words,
    joint,
    marks,
    models,
    shown,
    triplets,
)
from minidiff.measure import bootstrap, read, wilson
from minidiff.measure.pictures import psnr
from minidiff.rng import generator
from minidiff.steer import Dual
from minidiff.world import render
from minidiff.zoo import load

__all__ = ["BLENDS", "JOINT", "KEEPS", "STYLES_AT", "SUM", "blended", "kept", "scored", "worded"]

SUM, JOINT = (5.0, 4.0), (4.0, 4.0)  # (g_s, g_y) of the two forms, at about the same style accuracy
STYLES_AT = (0.0, 1.0, 2.5, 5.0)  # g_s along which the style must rise
KEEPS = (0, 4, 6, 8, 10, 12)  # of STEPS
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)


@functools.lru_cache(maxsize=3)
def _reader(name: str) -> torch.nn.Module:
    return load(f"readers/{name}")


@functools.lru_cache(maxsize=16)
def _coded(n: int, split: str) -> tuple[Triplets, Codes]:
    found = triplets(n, split=split)
    return found, codes_of(models(), found.y, found.s)


@functools.lru_cache(maxsize=256)
def _piece(k: int, g_style: float, g_content: float, form: str, name: str, split: str, reader: str) -> Marks:
    """Triplets CHUNK k to CHUNK (k + 1) - 1, drawn and marked: rows of different sizes share them."""
    rows = torch.arange(CHUNK * k, CHUNK * (k + 1))
    found, codes = _coded(CHUNK * (k + 1), split)
    found, codes = (kind(*(part[rows] for part in given)) for kind, given in ((Triplets, found), (Codes, codes)))
    guider = Dual(g_style, g_content) if form == "sum" else joint(g_style, g_content)
    known = models(name)
    z = initial_noise(known.pipe, CHUNK * (k + 1), seed=18)[rows]
    return marks(draw(known, codes, guider, latents=z), found, _reader(reader))


def scored(n: int, g_style: float, g_content: float, form: str = "sum", name: str = "mini-parasol", split: str = "test",
           reader: str = "final") -> Marks:
    """n fresh triplets drawn with two weights. form: "sum", the published guidance, or "joint"."""
    parts = [_piece(k, g_style, g_content, form, name, split, reader) for k in range(-(-n // CHUNK))]
    return Marks(*(torch.cat(column)[:n] for column in zip(*parts, strict=True)))


@functools.lru_cache(maxsize=4)
def worded(n: int, split: str = "test", reader: str = "final") -> Marks:
    """The same from words by mini-sd."""
    found, _ = _coded(n, split)
    return marks(in_words(found.x), found, _reader(reader))


@claim(
    "18.style",
    "A picture drawn from y's content and s's style with two weights has s's style (Tarres et al. 2023)",
    unit="share of pictures",
    target=">= 0.85",
    n=96,
    small=8,
    reader="final",
)
def style(n: int) -> Outcome:
    ours, bare, small = scored(n, *SUM), scored(min(n, 48), 0.0, SUM[1]), min(n, 16)
    m = wilson(int(ours.style.sum()), n)
    return Outcome(
        m.value,
        m.low,
        m.high,
        baseline={"g_s = 0": float(bare.style.double().mean())},
        settings={"mini-sd not tuned, the same tokens": float(scored(small, *SUM, name="mini-sd").style.double().mean())},
        floor={"said in words": float(worded(min(n, 48)).style.double().mean())},
        why="mini-sd itself draws a style that words ask for no more often",
    )


@claim(
    "18.content",
    "and y's kind, colour and backdrop, at the same two weights",
    unit="share of attributes",
    target=">= 0.85",
    n=96,
    small=8,
    reader="final",
)
def content(n: int) -> Outcome:
    ours, small = scored(n, *SUM), min(n, 16)
    m = bootstrap(torch.mean, ours.each)
    each = dict(zip(("kind", "colour", "backdrop"), ours.content.double().mean(0).tolist(), strict=True))
    return Outcome(
        m.value,
        m.low,
        m.high,
        baseline={"g_y = 0": float(scored(small, SUM[0], 0.0).each.mean())},
        settings=each | {"mini-sd not tuned, the same tokens": float(scored(small, *SUM, name="mini-sd").each.mean())},
        floor={"said in words": float(worded(min(n, 48)).each.mean())},
        why="the backdrop is lost most often",
    )


@claim(
    "18.style_gain",
    "The style weight is what brings the style: g_s at its setting against 0 (paired)",
    unit="style gained",
    target=">= 0.5",
    n=48,
    small=8,
    reader="final",
)
def style_gain(n: int) -> Outcome:
    ours, bare = scored(n, *SUM), scored(n, 0.0, SUM[1])
    m = bootstrap(torch.mean, ours.style.double() - bare.style.double())
    return Outcome(
        m.value,
        m.low,
        m.high,
        baseline={"content at g_s = 0": float(bare.each.mean())},
        settings={"content": float(ours.each.mean())},
        why="content tokens say something of the style, too",
    )


@claim(
    "18.joint",
    "The joint form u + g_y (y - u) + g_s (sy - y) keeps more of the content than the published sum at about the same "
    "style (paired)",
    unit="content gained",
    target=">= 0.1",
    n=96,
    small=8,
    reader="final",
)
def joint_form(n: int) -> Outcome:
    ours, other = scored(n, *JOINT, form="joint"), scored(n, *SUM)
    m = bootstrap(torch.mean, ours.each - other.each)
    beside = {
        f"{what}, {name}": float(value.double().mean())
        for name, found in (("joint", ours), ("sum", other))
        for what, value in (("style", found.style), ("content", found.each))
    }
    return Outcome(m.value, m.low, m.high, baseline=beside, why="where the sum keeps nearly all, little is left to gain")


@claim(
    "18.leak",
    "Of the kinds, colours and backdrops in which s and y differ, the result takes few from s",
    unit="share leaked",
    target="<= 0.1",
    n=96,
    small=8,
    reader="final",
)
def leak(n: int) -> Outcome:
    ours = scored(n, *SUM)
    m = bootstrap(lambda a, b: a.sum() / b.sum(), ours.leaked.double(), ours.open.double(), paired=True)
    found, codes = _coded(n, "test")
    near = (codes.style @ codes.style.T).fill_diagonal_(-1).argmax(1)
    same = float((shown(found.s)[near, 1] == shown(found.s)[:, 1]).double().mean())
    strange, y = shown(found.s).roll(1, 0), shown(found.y)
    other = float(((ours.seen == strange) & (strange != y)).sum() / (strange != y).sum())
    return Outcome(
        m.value,
        m.low,
        m.high,
        baseline={"as often from a picture that was not shown": other},
        settings={"same colour in the nearest style code": same},
        why="the code is not free of colour",
    )


# Knobs -----------------------------------------------------------------------------------------------------------------------


STILL = {"a knob without effect": 0.0}


def _rises(x: Tensor, table: Tensor) -> tuple[float, float, float]:
    """Rank correlation of x (K,) with the mean of the columns of table (n, K), and its interval over pictures."""
    m = bootstrap(lambda rows: spearman(x, rows.mean(0)), table.double(), n=200)
    return m.value, m.low, m.high


@claim(
    "18.guidance",
    "More style weight, more style: rank correlation of g_s and style accuracy",
    unit="Spearman",
    target=">= 0.9",
    n=32,
    small=6,
    reader="final",
)
def guidance(n: int) -> Outcome:
    table = torch.stack([scored(n, g, SUM[1]).style for g in STYLES_AT], 1)
    settings = {f"g_s = {g:g}": float(v) for g, v in zip(STYLES_AT, table.double().mean(0), strict=True)}
    return Outcome(
        *_rises(torch.tensor(STYLES_AT), table), baseline=STILL, settings=settings,
        why="two neighbouring weights differ by few pictures"
    )


@functools.lru_cache(maxsize=2)
def _inverted(n: int, split: str) -> Tensor:
    pictures = render(triplets(n, split=split).y, 64).images
    return torch.cat([invert_content(*models(), pictures[i : i + CHUNK], steps=STEPS).noise for i in range(0, n, CHUNK)])


@functools.lru_cache(maxsize=16)
def kept(n: int, keep: int, split: str = "test", reader: str = "final") -> tuple[Marks, Tensor]:
    """n content pictures inverted and drawn anew with the first ``keep`` steps held: marks, and the PSNR to y (n,)."""
    found, out = triplets(n, split=split), []
    y, s = render(found.y, 64).images, render(found.s, 64).images
    for i in range(0, n, CHUNK):
        part = slice(i, i + CHUNK)
        knobs = {"g_style": SUM[0], "g_content": SUM[1], "keep": keep, "latents": _inverted(n, split)[part]}
        out.append(parasol(*models(), s[part], y[part], steps=STEPS, **knobs).edit)
    images = torch.cat(out)
    return marks(images, found, _reader(reader)), psnr(images, y)


@claim(
    "18.keep",
    "The more first steps are kept from y (the paper's lambda), the less of s's style: rank correlation",
    unit="Spearman",
    target="<= -0.9",
    n=16,
    small=3,
    reader="final",
)
def keep(n: int) -> Outcome:
    made = [kept(n, k) for k in KEEPS]
    table = torch.stack([m.style for m, _ in made], 1)
    settings = {f"style, keep {k}": float(m.style.double().mean()) for k, (m, _) in zip(KEEPS, made, strict=True)}
    return Outcome(
        *_rises(torch.tensor(KEEPS).double(), table), baseline=STILL, settings=settings,
        why="from y's own noise the style is right in half of the pairs at best"
    )


@claim(
    "18.reconstructs",
    "With all steps kept y comes back: dB below the autoencoder's own round trip",
    unit="dB lost",
    target="<= 1",
    n=16,
    small=3,
)
def reconstructs(n: int) -> Outcome:
    y = render(triplets(n).y, 64).images
    with torch.no_grad():
        bound = psnr(decode(models().pipe.vae, encode(models().pipe.vae, y)).clamp(-1, 1), y)
    m = bootstrap(torch.mean, (bound - kept(n, STEPS)[1]).double())
    return Outcome(
        m.value,
        m.low,
        m.high,
        floor={"autoencoder, dB": float(bound.mean())},
        settings={"nothing kept, dB": float(kept(n, 0)[1].mean())},
        why="DDIM's steps are not its inversion's",
    )


@functools.lru_cache(maxsize=2)
def blended(n: int, split: str = "test", reader: str = "final") -> Tensor:
    """(n, len(BLENDS)): the reader's probability of the second style, from the style of s to that of the next row's s."""
    found, codes = _coded(2 * n, split)
    first = torch.tensor([i for i in range(2 * n - 1) if found.s.style[i] != found.s.style[i + 1]])[:n]
    goal, out = found.s.style[first + 1], []
    for w in BLENDS:
        some = Codes(blend_styles(codes.style[first], codes.style[first + 1], w), codes.content[first], codes.own[first])
        seen = read(draw(models(), some, Dual(*SUM)), _reader(reader))
        out.append(seen.probs["style"].gather(1, goal[:, None])[:, 0])
    return torch.stack(out, 1)


@claim(
    "18.blend",
    "Between two style codes the second style never falls by more than .05 as its weight grows: share of contents",
    unit="share of contents",
    target=">= 0.9",
    n=40,
    small=3,
    reader="final",
)
def blend(n: int) -> Outcome:
    table = blended(n)
    rising = (table.diff(dim=1) >= -0.05).all(1)
    between = ((table[:, 1:-1] > 0.1) & (table[:, 1:-1] < 0.9)).double().mean()
    settings = {f"probability at w = {w:g}": float(v) for w, v in zip(BLENDS, table.double().mean(0), strict=True)}
    m = wilson(int(rising.sum()), n)
    order = torch.argsort(torch.rand(table.shape, generator=generator("18.blend"), dtype=torch.float64), dim=1)
    shuffled = (table.gather(1, order).diff(dim=1) >= -0.05).all(1)
    return Outcome(
        m.value,
        m.low,
        m.high,
        baseline={"the same frames in any order": float(shuffled.double().mean())},
        settings=settings | {"frames undecided (.1 to .9)": float(between)},
        why="a style is a class to the model: the second one comes in a leap",
    )


@claim(
    "18.retrieval",
    "Retrieved from a gallery instead of rendered, s has the style of x",
    unit="share of triplets",
    target=">= 0.9",
    n=400,
    small=60,
)
def retrieval(n: int) -> Outcome:
    found = triplets(n)
    pictures = torch.cat([render(found.x[i : i + 64], 64).images for i in range(0, n, 64)])
    reader, tokens = models().reader, models().tokens
    with torch.no_grad():
        code = tokens.style_code(torch.cat([style_statistics(reader, x) for x in pictures.split(64)]))
        meant = torch.cat([content_code(reader, x) for x in pictures.split(64)])
    picked, truth = retrieved_triplets(code, meant), shown(found.x)
    m = wilson(int((found.x.style[picked.s] == found.x.style).sum()), n)
    agree = dict(zip(("y: kind", "y: colour", "y: backdrop"), (truth[picked.y] == truth).double().mean(0).tolist(), strict=True))
    return Outcome(
        m.value,
        m.low,
        m.high,
        baseline={"any other picture": float((found.x.style.roll(1) == found.x.style).double().mean())},
        settings=agree,
        floor={"rendered": 1.0},
        why="the gallery has no picture of that style with other content",
    )
