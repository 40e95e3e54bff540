"""Claims of lesson 06: 25 Gaussians with and without training, what z decides, and the trilemma of five ways to draw."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim, stored
from minidiff.diffusion import ddpm, last
from minidiff.diffusion.ddgan import ddgan_schedule, grid_score, pair
from minidiff.lessons.l06_trilemma.data import DIFFUSION, WAYS, cells_of, coverage, cpu_seconds, fair_cells, pictures
from minidiff.lessons.l06_trilemma.toys import draw_points, imbalance, points, starts, trained, walk, z_share
from minidiff.measure import explain
from minidiff.measure.interval import Estimate, bootstrap, wilson
from minidiff.recipes.few import FewData
from minidiff.rng import normal
from minidiff.zoo import load

__all__ = ["AMONG", "found", "left_open", "mean_modes", "of_shipped", "table", "trilemma", "validity",
           "word_of"]

SET = 2500                                          # points a set: the protocol of PacGAN (Lin et al. 2018)
AMONG, EQUAL = 24, 32                               # cells are counted among so many countable pictures, or so many of any kind
TITLES = {"VAE": "a VAE in one pass", "GAN": "a GAN in one pass", "DDPM-1000": "DDPM in 1000 steps",
          "DDIM-20": "DDIM in 20 steps", "DDGAN-4": "a denoising diffusion GAN in 4 steps"}


def _inside(x: Tensor) -> Estimate:
    return wilson(int(grid_score(x)[0].sum()), len(x))


def _modes(x: Tensor) -> float:
    return float(grid_score(x)[1])


@claim("06.exact", "25 Gaussians, 4 steps, nothing trained: with x0 drawn from q(x0 | x_t) a step of any size is exact (a "
       "perfect sampler has 98.9 % within 3 standard deviations)",
       unit="share within 3 std", target=">= 0.98", n=10000, small=2500)
def exact(n: int) -> Outcome:
    """n: samples."""
    x = draw_points("exact", 4, n)
    found = _inside(x)
    return Outcome(found.value, found.low, found.high,
                   floor={"real points": _inside(points(n, 7)).value}, baseline={"pure noise": _inside(starts(n)).value},
                   settings={**{f"T = {T}": _inside(draw_points("exact", T, n)).value for T in (1, 2, 8)},
                             "modes of 25": _modes(x)})


@claim("06.mean", "The same with the mean E[x0 | x_t] in place of the draw, as every Gaussian step has it",
       unit="share within 3 std", target="<= 0.03", n=10000, small=2500)
def mean(n: int) -> Outcome:
    """n: samples."""
    found = _inside(draw_points("mean", 4, n))
    return Outcome(found.value, found.low, found.high, baseline={"pure noise": _inside(starts(n)).value},
                   settings={f"T = {T}": _inside(draw_points("mean", T, n)).value for T in (1, 2, 8, 16, 50)})


@claim("06.mean_modes", "The mean again: of the 25 modes, how many get at least one of 2,500 samples at T = 4",
       unit="modes of 25", target="9 +- 1", n=20, small=4)
def mean_modes(n: int) -> Outcome:
    """n: sets of 2,500 samples."""
    sets = {T: torch.tensor([_modes(draw_points("mean", T, SET, seed=s)) for s in range(n)]) for T in (4, 1, 2, 8)}
    found = bootstrap(torch.mean, sets[4])
    others = {f"T = {T}": float(v.mean()) for T, v in sets.items() if T != 4}
    return Outcome(found.value, found.low, found.high, settings=others,
                   baseline={"pure noise": _modes(starts(SET))}, floor={"exact draw": _modes(draw_points("exact", 4, SET))},
                   why="one stray point makes a mode count as hit, and a few points land beyond the nine")


@claim("06.points", "25 Gaussians learned in seconds: a denoising diffusion GAN of 4 steps trained on a CPU core puts its "
       "samples within 3 standard deviations of a centre (mean and range of three trainings)",
       unit="share within 3 std", target=">= 0.95", n=3, small=1)
def learned(n: int) -> Outcome:
    """n: trainings, each judged on 10,000 samples."""
    share = torch.tensor([_inside(walk(trained(4, seed), 4, 10_000, seed=seed)).value for seed in range(n)])
    return Outcome(float(share.mean()), float(share.min()), float(share.max()),
                   floor={"real points": _inside(points(10_000, 7)).value},
                   baseline={"untrained": _inside(walk(trained(4, iterations=1), 4, 10_000)).value},
                   settings={f"T = {T}": _inside(walk(trained(T), T, 10_000)).value for T in (1, 2, 8)},
                   why="what is missing lies on bridges: a continuous generator cannot jump from mode to mode")


@claim("06.points_modes", "The same trainings: modes that get at least one of 2,500 samples", unit="modes of 25",
       target=">= 25", n=3, small=1)
def learned_modes(n: int) -> Outcome:
    """n: trainings."""
    sets = [walk(trained(4, seed), 4, SET, seed=seed) for seed in range(n)]
    modes, others = torch.tensor([_modes(x) for x in sets]), {T: walk(trained(T), T, SET) for T in (1, 2, 8)}
    return Outcome(float(modes.mean()), float(modes.min()), float(modes.max()),
                   baseline={"one mode only": 1.0}, floor={"all modes": 25.0},
                   settings={f"T = {T}": _modes(x) for T, x in others.items()}
                   | {"divergence of the shares from equal ones, nats": sum(map(imbalance, sets)) / n}
                   | {f"the same, T = {T}": imbalance(x) for T, x in others.items()} | {"divergence, one mode only": 3.22})


# what z decides ------------------------------------------------------------------------------------------------------------


def of_shipped(t: int, n: int, *, k: int = 8) -> tuple[float, Tensor]:
    """:func:`toys.z_share` of the shipped ``ddgan`` at step t, on n held-out pictures noised as in training, k draws of z."""
    net, x0 = load("ddgan"), FewData(32, "test").batch(0, n)[0]
    after = pair(x0, t, net.schedule, *(normal(tuple(x0.shape), "06 z", t, i) for i in (0, 1)))[1]
    return z_share(net, after, t, normal((k, n, net.z_dim), "06 z draws", t))


def left_open(t: int, n: int, *, k: int = 4, steps: int = 10) -> float:
    """How much of the spread of x0 the state x_t of step t leaves open: the same figure for k draws of q(x0 | x_t) by a diffusion
    model of the same world, in ``steps`` steps of DDPM from the noise level of t.
    """
    model, table, x0 = load(DIFFUSION), ddgan_schedule(4), FewData(32, "test").batch(0, n)[0]
    after = pair(x0, t, table, *(normal(tuple(x0.shape), "06 z", t, i) for i in (0, 1)))[1]
    top = int((model.schedule.abar - table.at(t)).abs().argmin())
    way = torch.linspace(top, 0, steps + 1).round().long().unique().flip(0)[:-1].tolist()

    def draw(x: Tensor, _: Tensor, z: Tensor) -> Tensor:
        return last(ddpm(model, x, steps=way, clip="x0", seed=int(z[0, 0]))).x

    return z_share(draw, after, t, torch.arange(k).float()[:, None, None].expand(k, n, 1))[0]


@claim("06.z", "The shipped DDGAN-4: at t = 2, where x_t leaves much of the picture open, z decides a part of x0",
       unit="share of the standard deviation", target=">= 0.1", n=32, small=8)
def z_of_pictures(n: int) -> Outcome:
    """n: held-out pictures, 8 draws of z each."""
    value, each = of_shipped(2, n)
    found = bootstrap(lambda v: float(v.mean().sqrt()), each, n=200)
    return Outcome(value, found.low, found.high, floor={"left open by x_t": left_open(2, n)},
                   settings={f"t = {t}": of_shipped(t, n)[0] for t in (3, 1, 0)},
                   why="the mapping's first weights shrink z to 0.02 of the embedding, and training left it there")


def _spread(seed: int, n: int, **options: object) -> tuple[float, float]:
    """(share of x0 that z decides at t = 0 after n iterations, share of samples within 3 std)."""
    net, table, spare = trained(4, seed, n, **options), ddgan_schedule(4), options.get("spare", 0)
    x0 = points(400, 11, spare=spare)
    after = pair(x0, 0, table, *(normal(tuple(x0.shape), "06 spare", i) for i in (0, 1)))[1]
    return z_share(net, after, 0, normal((8, 400, 2), "06 spare z"))[0], _inside(walk(net, 4, SET)).value


@claim("06.z_unused", "Why z may stay unused, tried on 25 Gaussians: z behind three linear layers that shrink it, and 32 more "
       "coordinates that are noise in every x_t. What z decides of x0 at t = 0, over what it decides without the two",
       unit="ratio", target="<= 0.5", n=1000, small=60)
def unused(n: int) -> Outcome:
    """n: training iterations, for each of two seeds and four generators."""
    kinds = {"both": {"faint": True, "spare": 32, "spread": 1.0}, "layers alone": {"faint": True, "spread": 1.0},
             "noise alone, z beginning at 0.02": {"spare": 32, "spread": 0.02}, "neither": {}}
    rows = {name: torch.tensor([_spread(seed, n, **options) for seed in (0, 1)]) for name, options in kinds.items()}
    ratio = rows["both"][:, 0] / rows["neither"][:, 0]
    shares = {f"share of z, {name}": float(v[:, 0].mean()) for name, v in rows.items()}
    return Outcome(float(ratio.mean()), float(ratio.min()), float(ratio.max()), baseline={"no effect": 1.0},
                   settings=shares | {f"within 3 std, {name}": float(v[:, 1].mean()) for name, v in rows.items()},
                   why="each of the two weakens z, and training takes it up all the same: in the plane the cause cannot be shown")


# the trilemma --------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def found(way: str, n: int) -> Tensor:
    """(n,) the cells of the small world on n pictures by ``way``, -1 where there is none, by the final reader."""
    return cells_of(pictures(way, n))


def _world(n: int) -> Tensor:
    return cells_of(FewData(32, "test").batch(0, n)[0])


def word_of(way: str) -> str:
    """How a way of ``WAYS`` is called in the ids of its rows: "DDPM-1000" -> "ddpm"."""
    return way.split("-")[0].lower()


def table() -> dict[str, dict[str, Estimate]]:
    """The trilemma as stored: way -> quality, coverage, seconds, each with its interval."""
    rows, figures = stored(), ("quality", "coverage", "seconds")
    lines = {way: {name: rows[f"06.{name}_{word_of(way)}"] for name in figures} for way in WAYS}
    return {way: {name: Estimate(r.value, r.low, r.high, n=r.n) for name, r in line.items()} for way, line in lines.items()}


def trilemma() -> None:
    """The fifteen rows of the table: five ways, three figures."""
    for way, name in TITLES.items():
        word = word_of(way)
        many = {"DDPM-1000": 64, "DDIM-20": 512}.get(way, 1024)
        small = {"DDPM-1000": 2}.get(way, 32)

        @claim(f"06.quality_{word}", f"Trilemma, quality: {name} draws one thing of the small world, as the final reader sees it",
               unit="share of pictures", target=">= 0.85", n=many, small=small, reader="final")
        def quality(n: int, way: str = way) -> Outcome:
            """n: pictures."""
            good = wilson(int((found(way, n) >= 0).sum()), n)
            noise = cells_of(normal((32, 3, 32, 32), "06 noise").clamp(-1, 1))
            real = float((_world(min(n, 256)) >= 0).double().mean())
            return Outcome(good.value, good.low, good.high, floor={"the world": real},
                           baseline={"pure noise": float((noise >= 0).double().mean())}, why=WHY[way][0])

        @claim(f"06.coverage_{word}", f"Trilemma, coverage: {name} reaches the cells of kind, colour and backdrop as the world "
               f"does (cells among {AMONG} readable pictures, over {fair_cells(AMONG):.1f})",
               unit="share of the world's", target=">= 0.9", n=many, small=small, reader="final")
        def covered(n: int, way: str = way) -> Outcome:
            """n: pictures, readable or not."""
            cells = found(way, n)
            good, fair = cells[cells >= 0], fair_cells(AMONG)
            if len(good) <= AMONG:
                return Outcome(float("nan"), float("nan"), float("nan"), why="too few readable pictures at this N")
            got, real = coverage(good, AMONG), coverage(_world(min(n, 512)), AMONG)
            return Outcome(got.value / fair, got.low / fair, got.high / fair, baseline={"one cell only": 1 / fair},
                           floor={"the world, sampled": real.value / fair},
                           settings={"cells seen of 45": float(len(good[good >= 3].unique()))},
                           why=WHY[way][1])

        @claim(f"06.seconds_{word}", f"Trilemma, speed: {name}, CPU seconds a picture, 16 pictures at once",
               unit="CPU seconds", target="<= 0.25", n=8, small=2)
        def seconds(n: int, way: str = way) -> Outcome:
            """n: repeats."""
            spent = bootstrap(torch.mean, cpu_seconds(way, 16, repeats=n))
            return Outcome(spent.value, spent.low, spent.high, baseline={"network calls": float(WAYS[way])},
                           why="a thousand calls of a network, one after the other")


WHY = {"VAE": ("one mean for all pictures that share a code: things are blurred beyond recognition",
               "blurred things are read as a few kinds"),
       "GAN": ("343,000 pictures of training; one step has to place, shape and paint a thing at once",
               "the generator draws some cells again and again"),
       "DDPM-1000": ("single pictures that the reader calls by a name outside of the small world", "chance at this N"),
       "DDIM-20": ("single pictures that the reader calls by a name outside of the small world", "chance at this N"),
       "DDGAN-4": ("1.1 million pictures of training where the recipe asks for 4 million: half of the things have no clear shape",
                   "chance at this N")}
trilemma()


@claim("06.cells", "DDGAN-4 against DDPM-1000 at equal N: cells of the small world that 32 pictures show, readable or not",
       unit="ratio", target=">= 0.9", n=64, small=2, reader="final")
def cells_against(n: int) -> Outcome:
    """n: pictures of DDPM-1000; 16 times as many of DDGAN-4."""
    if n < EQUAL + 8:
        return Outcome(float("nan"), float("nan"), float("nan"), why="cells among 32 pictures need more than 32 of them")
    many, slow = coverage(found("DDGAN-4", 16 * n), EQUAL), coverage(found("DDPM-1000", n), EQUAL)
    ratio = many.value / slow.value
    half = ratio * (((many.high - many.value) / many.value) ** 2 + ((slow.high - slow.value) / slow.value) ** 2) ** 0.5
    return Outcome(ratio, ratio - half, ratio + half, floor={"the world": fair_cells(EQUAL) / slow.value},
                   baseline={way: coverage(found(way, 16 * n), EQUAL).value / slow.value for way in ("VAE", "GAN")},
                   settings={"cells of DDGAN-4": many.value, "cells of DDPM-1000": slow.value, "the world": fair_cells(EQUAL)},
                   why="every second picture shows nothing that can be counted; among those that do, coverage is the world's")


def validity(way: str, n: int) -> Estimate:
    """Share of n pictures that some scene explains in every part."""
    return wilson(int(explain(pictures(way, n), load("readers/final")).valid.sum()), n)


@claim("06.validity", "DDGAN-4 draws valid pictures: some scene of the world explains every part of them", unit="share valid",
       target=">= 0.85", n=32, small=4, reader="final")
def valid(n: int) -> Outcome:
    """n: pictures."""
    got = validity("DDGAN-4", n)
    real = wilson(int(explain(FewData(32, "test").batch(0, n)[0], load("readers/final")).valid.sum()), n)
    return Outcome(got.value, got.low, got.high, floor={"real pictures": real.value},
                   baseline={way: validity(way, n).value for way in ("VAE", "GAN")},
                   settings={"DDIM-20": validity("DDIM-20", n).value},
                   why="outlines and edges are soft: a thing can be named long before it is drawn to the pixel")
