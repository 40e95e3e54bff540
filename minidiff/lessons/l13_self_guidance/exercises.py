"""Exercises of lesson 13: centroid, what background does to it, the published normalisation, a shift without dust, the push,
the energy of a move, who counts when things get lost, and the look of a thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__ = []


def _maps(*shape: int, key: int = 0) -> Tensor:
    return normal(shape, "lesson 13 maps", key, dtype=torch.float64).exp() / 7


# 1 -------------------------------------------------------------------------------------------------------------------------


@exercise("13.centroid", "Where is it?", points=2, hints=(
    "Weights first: what share of the map's mass lies in each column? Its sum with the columns' places is x.",
    "Column j of w columns has its middle at (j + 0.5) / w.",
    "a.sum(-2) adds the rows up and leaves the columns.",
))
def centroid(a):
    """a: maps (B, h, w), not negative. Returns (B, 2): the centre of mass (x, y) in shares of the
    picture.

    The left edge is x = 0 and the right edge x = 1, the top y = 0 and the bottom y = 1; a cell counts at
    its middle.
    """
    ### BEGIN SOLUTION
    h, w = a.shape[-2:]
    x = (torch.arange(w) + 0.5) / w
    y = (torch.arange(h) + 0.5) / h
    mass = a.sum((-2, -1))
    return torch.stack([(a.sum(-2) * x).sum(-1) / mass, (a.sum(-1) * y).sum(-1) / mass], -1)
    ### END SOLUTION


@checks(centroid)
def _centroid(fn: Callable) -> None:
    for key, shape in enumerate(((3, 4, 7), (2, 8, 5))):
        a = _maps(*shape, key=key)
        h, w = shape[1:]
        mass = a.sum((1, 2))
        i, j = torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64)

        def place(x: Tensor, y: Tensor, a: Tensor = a, mass: Tensor | float = mass) -> Tensor:
            return torch.stack([(a.sum(1) * x).sum(-1) / mass, (a.sum(2) * y).sum(-1) / mass], -1)

        want = place((j + 0.5) / w, (i + 0.5) / h)
        expect(call(fn, a, shape=(shape[0], 2)), want, wrong=fits({
            "x and y are exchanged: x counts columns and comes first; sum over the rows for the columns' masses.": want.flip(-1),
            "The places run from -1 to 1; here the picture goes from 0 to 1.": 2 * want - 1,
            "You count a cell at its corner, j / w; its middle is at (j + 0.5) / w.": place(j / w, i / h),
            "The first cell lies at 0 and the last at 1, as in linspace(0, 1); then maps of 8 and of 16 cells disagree.":
                place(j / (w - 1), i / (h - 1)),
            "The answer is in cells; divide by the number of cells.": place(j + 0.5, i + 0.5),
            "The map's mass is missing: divide by its sum.": place((j + 0.5) / w, (i + 0.5) / h, mass=1.0),
            "You divide by the number of cells; divide by the sum of the map.": place((j + 0.5) / w, (i + 0.5) / h, mass=h * w),
        }, want), otherwise="Try a map with one cell: the answer must be the middle of that cell.")


# 2 -------------------------------------------------------------------------------------------------------------------------


@exercise("13.raw_slope", "What a little background does", hints=(
    "Mass of the thing and mass of the background: which of the two moves?",
    "The centroid is a mean of places weighted by mass. Before and after differ in the place of the one cell only.",
))
def raw_slope():
    """On an 8 x 8 map one cell is 1 and each of the other 63 is 0.05. The bright cell moves 3 cells to
    the right. What share of this way does the centroid move?
    """
    ### BEGIN SOLUTION
    return (1 - 0.05) / (1 + 63 * 0.05)      # 0.23: what moves is 0.95 of mass, and it is shared out over 4.15
    ### END SOLUTION


@checks(raw_slope)
def _raw_slope(value: Any) -> None:
    expect_number(value, 0.95 / 4.15, tol=0.0013, wrong={
        "That would be true without any background.": 1.0,
        "That is nearly it, but where the cell was there is background afterwards: 0.95 moves, not 1.": 1 / 4.15,
        "You left out the bright cell itself in the total mass.": 0.95 / 3.15,
        "That is the way in cells; asked for is the share of 3 cells.": 3 * 0.95 / 4.15,
        "That is the background's share of one cell.": 0.05,
        "That is what does not move.": 1 - 0.95 / 4.15,
        "That is the way in shares of the side, not of the way asked for.": 3 * 0.95 / 4.15 / 8,
    }, otherwise="Moved mass over total mass.")


# 3 -------------------------------------------------------------------------------------------------------------------------


@exercise("13.normalise", "Repair the published normalisation", points=2, hints=(
    "What do all cells of one bar in the picture have in common, and what do the two words' bars share?",
    "Count the axes of (n, h, w, k) from 0: which of them are places of the picture?",
    "The minimum that is wanted belongs to one picture and one word; keepdim=True, so that it can be subtracted.",
))
def normalise(maps):
    """maps (n, h, w, k): n pictures, k words. Returns each map stretched so that its own smallest value
    is 0, its largest 1.
    """
    ### BEGIN SOLUTION
    low = maps.amin((1, 2), keepdim=True)
    high = maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)
    ### END SOLUTION


@checks(normalise)
def _normalise(fn: Callable) -> None:
    for key, shape in enumerate(((2, 4, 5, 3), (3, 6, 4, 2))):
        a = _maps(*shape, key=10 + key)

        def by(*axes: int, a: Tensor = a) -> Tensor:
            low, high = a.amin(axes, keepdim=True), a.amax(axes, keepdim=True)
            return (a - low) / (high - low)

        low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
        expect(call(fn, a, shape=shape), by(1, 2), wrong={
            "That is the published version: one minimum for each line of the picture, over all words.": by(2, 3),
            "One minimum for each line of the picture; it is for the whole map.": by(2),
            "One minimum for each column of the picture.": by(1),
            "All words share one scale; each map has its own.": by(1, 2, 3),
            "All pictures share one scale.": by(0, 1, 2),
            "Over the words only: then the words of a place are compared with each other.": by(3),
            "Everything shares one scale.": by(0, 1, 2, 3),
            "You divide by the maximum and do not take the minimum off.": a / high,
            "You divide by the maximum; after the minimum is taken off the largest value is max - min.": (a - low) / high,
            "The minimum is taken off but the map is not divided.": a - low,
        }, otherwise="Each map (i, :, :, j) must have 0 as its minimum and 1 as its maximum.")


# 4 -------------------------------------------------------------------------------------------------------------------------


def _moved(a: Tensor, d: Tensor, *, wrap: bool = False) -> Tensor:
    w = a.shape[-1]
    cells = d * w
    whole = cells.floor()
    part = (cells - whole)[:, None, None]
    out = []
    for row, k in zip(a, whole.long().tolist(), strict=True):
        if wrap:
            out.append(torch.stack([row.roll(k, -1), row.roll(k + 1, -1)]))
            continue
        both = []
        for n in (k, k + 1):
            moved = torch.zeros_like(row)
            if abs(n) < w:
                moved[:, max(n, 0):w + min(n, 0)] = row[:, max(-n, 0):w - max(n, 0)]
            both.append(moved)
        out.append(torch.stack(both))
    near, far = torch.stack(out, 1)
    return (1 - part) * near + part * far


@exercise("13.shift_map", "A shift without dust", points=3, hints=(
    "Count in cells: cell j of the answer comes from the place j - d w of the map.",
    "A place between two cells takes a share of each: max(0, 1 - distance) is the weight of a cell (a hat).",
    "All at once: a matrix of weights (B, to, from) from |j - d w - i|, and one matrix product along the last axis.",
))
def shift_map(a, d):
    """a: maps (B, h, w); d (B,): shares of the width. Returns the maps moved to the right by d, each by
    its own.

    In between cells linear; what comes in from outside is 0. Where d is 0 the very same numbers must come
    back, bit for bit.
    """
    ### BEGIN SOLUTION
    cells = torch.arange(a.shape[-1], dtype=a.dtype)
    places = cells - d[:, None] * a.shape[-1]                                   # where each cell of the answer comes from
    hat = (1 - (places[:, :, None] - cells).abs()).clamp(min=0)                 # (B, to, from)
    return a @ hat.transpose(1, 2)
    ### END SOLUTION


@checks(shift_map)
def _shift_map(fn: Callable) -> None:
    for key, (shape, shifts) in enumerate((((4, 3, 8), (0.0, 0.25, -0.15, 0.37)), ((2, 5, 6), (-0.3, 0.1)))):
        a, d = _maps(*shape, key=20 + key), torch.tensor(shifts, dtype=torch.float64)
        want = _moved(a, d)
        expect(call(fn, a, d, shape=shape), want, wrong=fits({
            "It moves to the left: cell j of the answer comes from j - d w.": _moved(a, -d),
            "What leaves on the right comes back on the left; outside there is 0.": _moved(a, d, wrap=True),
            "It moves down; the width is the last axis.": _moved(a.transpose(1, 2), d).transpose(1, 2),
            "It moves by whole cells only; in between it is linear.": _moved(a, (d * shape[2]).round() / shape[2]),
            "d is a share of the width; in cells that is d w.": _moved(a, d / shape[2]),
            "All maps move by the first one's shift.": _moved(a, d[:1].expand(len(a))),
            "A shift counts places from -1 to 1 (as grid_sample does): it is half as long as asked.": _moved(a, d / 2),
        }, want), otherwise="Try one bright cell and d = 1 / w: it must be one cell further to the right.")
    single = _maps(3, 4, 7, key=25).float()
    got = fn(single.clone(), torch.zeros(3))
    if not torch.equal(torch.as_tensor(got).float(), single):
        raise Mistake("Right to rounding, but with d = 0 the map does not come back bit for bit: there is dust, and L1 takes its "
                      "sign.")


# 5 -------------------------------------------------------------------------------------------------------------------------


@exercise("13.push", "One guided step", points=2, hints=(
    "The gradient points to where the energy grows, and eps is what the step takes away.",
    "norm over everything but the rows: .flatten(1).norm(dim=1).",
    "0 / 0: divide only where the gradient's length is above 0, or add torch.finfo(...).tiny to it.",
))
def push(eps, gradient, share):
    """eps: predicted noise (B, C, h, w); gradient of the energy with respect to z, like it. Returns the
    guided prediction.

    What is added points along the gradient and is as long as `share` times |eps|, row by row. A row whose
    gradient is exactly zero comes back as it was.
    """
    ### BEGIN SOLUTION
    want = share * eps.flatten(1).norm(dim=1)
    length = gradient.flatten(1).norm(dim=1)
    factor = want / (length + 1e-30)                                            # a zero gradient stays zero
    return eps + factor[:, None, None, None] * gradient
    ### END SOLUTION


@checks(push)
def _push(fn: Callable) -> None:
    for key, (shape, share) in enumerate((((3, 2, 4, 5), 0.4), ((4, 3, 3, 2), 0.9))):
        eps, g = (normal(shape, "lesson 13 push", key, k, dtype=torch.float64) for k in range(2))
        g = 1e-3 * g * torch.arange(1, shape[0] + 1).view(-1, 1, 1, 1)

        def rows(x: Tensor) -> Tensor:
            return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

        want = eps + share * rows(eps) / rows(g) * g
        expect(call(fn, eps, g, share, shape=shape), want, wrong={
            "It goes down: x_prev subtracts eps, so the gradient is added.": 2 * eps - want,
            "The raw gradient is added; its length differs from model to model.": eps + share * g,
            "The push always has length share; it should be a share of |eps|.": eps + share * g / rows(g),
            "One length for the whole batch: then a row depends on its neighbours.": eps + share * eps.norm() / g.norm() * g,
            "Only the push comes back; it is added to eps.": want - eps,
            "The sign of the gradient is used; only its length should change.":
                eps + share * rows(eps) / rows(g.sign()) * g.sign(),
            "The square of the length stands where the length should.": eps + share * rows(eps) / rows(g) ** 2 * g,
            "share is missing.": eps + rows(eps) / rows(g) * g,
        }, otherwise="What is added must have the length share times |eps| in each row.")
    still = g.clone()
    still[1] = 0
    out = torch.as_tensor(fn(eps.clone(), still.clone(), share))
    if not bool(torch.isfinite(out).all()):
        raise Mistake("A row whose gradient is zero becomes NaN: 0 / 0.")
    expect(out[1].double(), eps[1], otherwise="A row whose gradient is exactly zero must come back as it was.")
    expect(out[[0, 2]].double(), want[[0, 2]], otherwise="The rows beside one without a gradient change.")


# 6 -------------------------------------------------------------------------------------------------------------------------


@exercise("13.move_energy", "The energy of a move", points=3, hints=(
    "Three terms, each a mean over the cells (or the two coordinates) of one row.",
    "The target of the moved thing is its reference shape, moved; of the others their reference shape as it was.",
    "abs().mean over everything but the first axis.",
))
def move_energy(shape, target, place, goal, others, before):
    """shape, target (B, h, w): the thing's shape now and where it should be; place, goal (B, 2): its
    centroid now and wanted;

    others, before (B, K, h, w): the shapes of K other things now and in the reference. Returns (B,): mean
    absolute difference of the shapes, plus half that of the two coordinates, plus that of the others
    (their mean).
    """
    ### BEGIN SOLUTION
    there = (shape - target).abs().mean((1, 2))
    at = (place - goal).abs().mean(1)
    kept = (others - before).abs().mean((1, 2, 3))
    return there + 0.5 * at + kept
    ### END SOLUTION


@checks(move_energy)
def _move_energy(fn: Callable) -> None:
    for key, (b, k, h, w) in enumerate(((3, 2, 4, 5), (2, 3, 6, 4))):
        shape, target = _maps(b, h, w, key=30 + key), _maps(b, h, w, key=40 + key)
        place, goal = _maps(b, 2, key=50 + key), _maps(b, 2, key=60 + key)
        others, before = _maps(b, k, h, w, key=70 + key), _maps(b, k, h, w, key=80 + key)
        s, c, o = ((x - y).flatten(1) for x, y in ((shape, target), (place, goal), (others, before)))
        want = s.abs().mean(1) + 0.5 * c.abs().mean(1) + o.abs().mean(1)
        expect(call(fn, shape, target, place, goal, others, before, shape=(b,)), want, wrong={
            "The differences have no absolute value: what is too much in one cell pays for what is too little in another.":
                s.mean(1) + 0.5 * c.mean(1) + o.mean(1),
            "That is the mean square; the paper takes the absolute difference.":
                s.square().mean(1) + 0.5 * c.square().mean(1) + o.square().mean(1),
            "The coordinates weigh twice as much as they should: half of their mean.":
                s.abs().mean(1) + c.abs().mean(1) + o.abs().mean(1),
            "The others are left out: nothing keeps them.": s.abs().mean(1) + 0.5 * c.abs().mean(1),
            "The others are summed; take their mean, so that more things do not weigh more.":
                s.abs().mean(1) + 0.5 * c.abs().mean(1) + k * o.abs().mean(1),
            "Sums in place of means: then a finer map weighs more.": s.abs().sum(1) + 0.5 * c.abs().sum(1) + o.abs().sum(1),
            "The coordinates are left out.": s.abs().mean(1) + o.abs().mean(1),
            "The whole sum is halved.": want / 2,
        }, otherwise="Set two of the three pairs equal: one term is left.")


# 7 -------------------------------------------------------------------------------------------------------------------------


@exercise("13.success", "Who counts when things get lost?", points=2, hints=(
    "A thing that is not found has NaN as its way. What does NaN < 2 give?",
    "(got - requested).norm(dim=1) is how far from the goal each ended up.",
    "Both conditions for one picture, then the share over ALL pictures.",
))
def success(requested, got, drift, tolerance):
    """requested, got (n, 2): the way a thing should go and went, in pixels; drift (n, 2): the way another
    thing went. NaN: not found.

    Returns the share of ALL n pictures in which the thing ended less than `tolerance` from its goal and
    the other moved by less than `tolerance`. A thing that is lost is a failure.
    """
    ### BEGIN SOLUTION
    there = (got - requested).norm(dim=1) < tolerance
    kept = drift.norm(dim=1) < tolerance
    return (there & kept).double().mean()
    ### END SOLUTION


@checks(success)
def _success(fn: Callable) -> None:
    for key, (n, tolerance) in enumerate(((23, 2.0), (31, 1.2))):
        requested, noise, drift = (normal((n, 2), "lesson 13 success", key, k, dtype=torch.float64) for k in range(3))
        requested, got, drift = 8 * requested, 8 * requested + 1.1 * tolerance * noise, 0.9 * tolerance * drift
        got[::5], drift[::7] = float("nan"), float("nan")
        requested[1:3], drift[1:3], got[1], got[2] = 0.0, 0.0, torch.tensor([tolerance, 0.0]), 0.0     # exactly at the border
        drift[2, 1] = tolerance
        got[3], drift[3] = requested[3] + 0.9 * tolerance, 0.0                         # near in x and in y, and yet not near
        err, far = (got - requested).norm(dim=1), drift.norm(dim=1)
        ok, found = (err < tolerance) & (far < tolerance), ~(err.isnan() | far.isnan())

        def share(x: Tensor) -> Tensor:
            return x.double().mean()

        want = share(ok)
        given = [x.clone() for x in (requested, got, drift)]
        out = fn(*given, tolerance)
        if out is None:
            raise Mistake("It returns nothing; is a return missing?")
        expect(torch.as_tensor(out).double().reshape(()), want, tol=1e-6, wrong=fits({
            "You leave out the pictures in which something is lost: only the survivors count, and the share looks too good.":
                share(ok[found]),
            "The other thing is left out.": share(err < tolerance),
            "The moved thing is left out.": share(far < tolerance),
            "One of the two is enough in your count; both must hold in one picture.":
                share((err < tolerance) | (far < tolerance)),
            "You multiply the two shares; ask for both in the same picture.": share(err < tolerance) * share(far < tolerance),
            "You compare the way itself, not how far it is from the one asked for.":
                share((got.norm(dim=1) < tolerance) & (far < tolerance)),
            "A lost thing counts as a success in your count (not less is not the same as more, where there is NaN).":
                share(~(err >= tolerance) & ~(far >= tolerance)),
            "You test x and y one by one; the distance is what counts.":
                share(((got - requested).abs() < tolerance).all(1) & (drift.abs() < tolerance).all(1)),
            "That is their number; divide by n.": ok.double().sum(),
        }, want), otherwise="Distances below the tolerance, both at once, over all pictures.")


# 8 -------------------------------------------------------------------------------------------------------------------------


@exercise("13.appearance", "What it looks like", points=2, hints=(
    "F.interpolate(shape[:, None], size=features.shape[-2:], mode='bilinear') brings the shape to the features' size.",
    "A mean weighted by the shape: divide by the sum of the weights.",
))
def appearance(shape, features):
    """shape (B, h, w) in [0, 1]; features of a decoder block (B, C, H, W). Returns (B, C): their mean
    under the shape.

    The shape is resized to H x W, linearly in between (corners not aligned), and serves as the weight of
    each place.
    """
    ### BEGIN SOLUTION
    weight = torch.nn.functional.interpolate(shape[:, None], size=features.shape[-2:], mode="bilinear")
    return (weight * features).sum((2, 3)) / weight.sum((2, 3))
    ### END SOLUTION


@checks(appearance)
def _look(fn: Callable) -> None:
    for key, (b, c, small, large) in enumerate(((2, 3, (4, 5), (8, 10)), (3, 4, (6, 3), (5, 7)))):
        shape = (_maps(b, *small, key=90 + key) * 2).clamp(max=1)
        features = normal((b, c, *large), "lesson 13 look", key, dtype=torch.float64)

        def mean(mode: str = "bilinear", weight: Tensor | None = None, over: float | None = None, shape: Tensor = shape,
                 features: Tensor = features) -> Tensor:
            wt = F.interpolate(shape[:, None], size=features.shape[-2:], mode=mode) if weight is None else weight
            return (wt * features).sum((2, 3)) / (wt.sum((2, 3)) if over is None else over)

        resized = F.interpolate(shape[:, None], size=large, mode="bilinear")
        want = mean()
        expect(call(fn, shape, features, shape=(b, c)), want, wrong=fits({
            "That is the mean over the whole picture; the shape has no effect.": features.mean((2, 3)),
            "You divide by the number of places: then a small thing has a faint look.": mean(over=large[0] * large[1]),
            "The sum is not divided at all.": mean(over=1.0),
            "The shape is resized by its nearest cell; in between it is linear.": mean("nearest"),
            "The shape is cut at one half; here it is a weight.": mean(weight=(resized > 0.5).double()),
            "Outside in place of inside.": mean(weight=1 - resized),
            "The corners are aligned; leave align_corners as it is.": mean(
                weight=F.interpolate(shape[:, None], size=large, mode="bilinear", align_corners=True)),
        }, want), otherwise="With constant features the answer must be that constant.")
