"""Claims of lesson 00: what the readers can read, and whether the measures order known damage rightly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import real, sampled
from minidiff.measure import bad_pictures, bootstrap, explain, frechet, passing, score_reader, wilson
from minidiff.measure.features import features, mini_lpips
from minidiff.rng import normal
from minidiff.world import BACKDROPS, COLOURS, KINDS, Scenes, WorldData, render
from minidiff.zoo import load

__all__ = ["damaged", "spearman"]


def _share(value: float, n: int, chance: float, *, found: float | None = None) -> Outcome:
    """A share of n right answers beside chance; found: the share of the things that were found at all."""
    inside = wilson(round(value * n), n)
    return Outcome(value, inside.low, inside.high, {"chance": chance}, {"perfect": 1.0},
                   "small things, covered things and the five styles are harder than this network is deep",
                   {} if found is None else {"things found at all": found})


def _pictures(n: int, level: str, size: int) -> tuple[Tensor, Scenes, Tensor]:
    """Held-out pictures, their scenes and the visible masks of their things."""
    images, scenes = WorldData(size, "test", level).batch(0, n)
    return images, scenes, render(scenes, size).masks


def _reader_claims() -> None:
    for level, size, tag, where in (("simple", 32, "", "one thing, 32 x 32"),
                                    ("full", 64, "_full", "one to three things, all styles, 64 x 64")):

        def kind(n: int, level: str = level, size: int = size) -> Outcome:
            s = score_reader(load("readers/final"), *_pictures(n, level, size))
            return _share(s.kind, round(s.found * s.things), 1 / len(KINDS), found=s.found)

        def colour(n: int, level: str = level, size: int = size) -> Outcome:
            s = score_reader(load("readers/final"), *_pictures(n, level, size))
            return _share(s.colour, round(s.found * s.things), 1 / len(COLOURS), found=s.found)

        def backdrop(n: int, level: str = level, size: int = size) -> Outcome:
            s = score_reader(load("readers/final"), *_pictures(n, level, size))
            return _share(s.backdrop, s.pictures, 1 / len(BACKDROPS))

        def mask(n: int, level: str = level, size: int = size) -> Outcome:
            images, scenes, masks = _pictures(n, level, size)
            parts = [score_reader(load("readers/final"), images[i : i + 20], scenes[i : i + 20], masks[i : i + 20])
                     for i in range(0, n, 20)]                      # means of twenty pictures, drawn again by the bootstrap
            table = torch.tensor([[p.iou, p.found * p.things] for p in parts], dtype=torch.float64)
            inside = bootstrap(lambda rows: float((rows[:, 0] * rows[:, 1]).sum() / rows[:, 1].sum()), table, n=1000)
            area = float((masks > 0.5).double().mean((2, 3))[scenes.present].mean())
            return Outcome(inside.value, inside.low, inside.high, {"whole picture": area}, {"perfect": 1.0},
                           "thin parts and covered things lose")

        for name, run, target, what in (
            ("kind", kind, ">= 0.99", "names the kind of the things it finds"),
            ("colour", colour, ">= 0.99", "names the colour of the things it finds"),
            ("backdrop", backdrop, ">= 0.995", "names the backdrop"),
            ("mask", mask, ">= 0.9", "draws the mask (overlap with the true one)"),
        ):
            claim(f"00.reader_{name}{tag}", f"the final reader {what} on clean held-out scenes ({where})",
                  unit="overlap" if name == "mask" else "share right", target=target, n=4000 if name == "kind" and tag else 1000,
                  small=128, reader="final")(run)


_reader_claims()


def _validity_claims() -> None:
    for level, size, tag, where in (("simple", 32, "", "one thing, 32 x 32"),
                                    ("full", 64, "_full", "one to three things, all styles, 64 x 64")):

        def clean(n: int, level: str = level, size: int = size) -> Outcome:
            images, scenes = WorldData(size, "test", level).batch(0, n)
            reader, bad = load("readers/final"), bad_pictures(scenes, size)
            noisy = (images + 0.05 * normal(tuple(images.shape), "validity", 0)).clamp(-1, 1)
            share = {name: explain(x, reader).valid.double().mean().item()
                     for name, x in {"clean": images, "noisy": noisy, "cross-fade": bad["cross-fade"]}.items()}
            found = wilson(round(share["clean"] * n), n)
            return Outcome(found.value, found.low, found.high, {"cross-fade of two": share["cross-fade"]},
                           settings={"with noise of 0.05": share["noisy"]},
                           why="the reader's own slips cost a clean picture its explanation")

        def broken(n: int, level: str = level, size: int = size) -> Outcome:
            share = passing(load("readers/final"), level=level, size=size, n=n)
            real = share.pop("real")
            settings = dict(share)
            if size == 32:
                few = min(n, 64)
                made = explain(sampled(few, "ddim", name="pixel-small-eps", steps=50), load("readers/final")).valid
                settings["samples of pixel-small-eps"] = made.double().mean().item()
            worst = wilson(round(max(share.values()) * n), n)
            return Outcome(worst.value, worst.low, worst.high, {"clean pictures": real}, settings=settings,
                           why="a kind of broken picture has a scene close enough to it")

        claim(f"00.validity{tag}", f"clean held-out pictures are valid: some scene explains them ({where})", unit="share valid",
              target=">= 0.98", n=100 if size == 32 else 40, small=8, reader="final")(clean)
        claim(f"00.validity_bad{tag}", "of seven kinds of broken pictures (empty, smears, averages, ghosts, cross-fades, "
              f"chimeras, blots) hardly any is valid ({where})", unit="share valid, worst kind", target="<= 0.02",
              n=40 if size == 32 else 20, small=3, reader="final")(broken)


_validity_claims()


def damaged(x: Tensor) -> dict[str, list[Tensor]]:
    """Ladders of known damage to pictures (B, 3, S, S), each from mild to severe."""
    noise = normal(tuple(x.shape), "damage", 0)
    grey = x.mean(1, keepdim=True)
    mixed = x.roll(1, 0)
    return {
        "noise": [(x + s * noise).clamp(-1, 1) for s in (0.05, 0.1, 0.2, 0.4)],
        "blur": [F.avg_pool2d(F.pad(x, (k, k, k, k), mode="replicate"), 2 * k + 1, 1) for k in (1, 2, 3, 4)],
        "grey": [x + s * (grey - x) for s in (0.15, 0.3, 0.6, 1.0)],
        "cross-fade": [x + s * (mixed - x) for s in (0.1, 0.2, 0.3, 0.5)],
    }


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two vectors (ties do not matter for the uses here)."""
    ranks = [t.argsort().argsort().double() for t in (a, b)]
    x, y = (r - r.mean() for r in ranks)
    return float((x * y).sum() / (x.norm() * y.norm()))


def _ladder(n: int, distance: Callable[[Tensor, Tensor], float]) -> float:
    """The share of steps from one strength of damage to the next at which ``distance`` to other real pictures grows."""
    x, other = real(n), real(n, start=n)
    values = [[distance(other, y) for y in steps] for steps in damaged(x).values()]
    right = [float(a < b) for steps in values for a, b in zip(steps, steps[1:], strict=False)]
    return sum(right) / len(right)


@claim(
    "00.fd_mini_ladder",
    "FDmini grows with every step of four kinds of damage",
    unit="share of steps in order",
    target=">= 1.0",
    n=1300,
    small=96,
    reader="final",
)
def fd_ladder(n: int) -> Outcome:
    reader = load("readers/final")
    cached: dict[int, Tensor] = {}

    def distance(a: Tensor, b: Tensor) -> float:
        if id(a) not in cached:
            cached[id(a)] = features(a, reader)
        return float(frechet(cached[id(a)], features(b, reader)))

    share = _ladder(n, distance)
    return Outcome(share, share, share, {"steps in any order": 0.5}, {}, "one step of the ladder is out of order")


@claim(
    "00.mini_lpips_rank",
    "MiniLPIPS ranks pairs of scenes as the distance of their parameters does",
    unit="Spearman correlation",
    target=">= 0.8",
    n=400,
    small=64,
    reader="final",
)
def lpips_rank(n: int) -> Outcome:
    reader = load("readers/final")
    _, scenes = WorldData(32, "test", "simple").batch(0, n)
    shift = torch.linspace(0, 0.12, n)
    moved = dataclasses.replace(scenes, x=scenes.x + torch.where(scenes.x < 0.5, 1, -1) * shift[:, None])
    far = mini_lpips(render(scenes, 32).images, render(moved, 32).images, reader)
    value = spearman(far, shift)
    resampled = torch.tensor(
        [
            spearman(far[i], shift[i])
            for i in (torch.randint(n, (n,), generator=torch.Generator().manual_seed(k)) for k in range(200))
        ]
    )
    low, high = resampled.quantile(torch.tensor([0.025, 0.975])).tolist()
    pixels = (render(scenes, 32).images - render(moved, 32).images).square().mean((1, 2, 3))
    return Outcome(
        value,
        low,
        high,
        {"squared pixel difference": spearman(pixels, shift)},
        {},
        "the distance also depends on which thing moves",
    )
