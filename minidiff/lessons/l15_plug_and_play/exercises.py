"""Exercises of lesson 15: SDEdit in one dimension, rows copied, steps counted, a silent hook, equal edit rate, point tracking."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, "lesson 15", seed, dtype=torch.float64)


# SDEdit ------------------------------------------------------------------------------------------------------------------------


@exercise("15.flips", "How many change their mode", points=3, hints=(
    "Forget the way back: it keeps the order of the x_t, so all that counts is on which side of the boundary x_t lies.",
    "x_t = sqrt(abar) x_0 + sqrt(1 - abar) n is a normal variable. What are its mean and its variance?",
    "P(x > b) of a normal variable is Phi((mean - b) / deviation); Phi is torch.special.ndtr.",
))
def flips(abar, m, v, boundary):
    """abar: levels (n,); the source x_0 is normal with mean -m and variance v; boundary (n,): above it, x_t
    ends in the other mode.

    Returns (n,): the share of sources that change their mode when SDEdit starts at abar.
    """
    ### BEGIN SOLUTION
    mean = -abar ** 0.5 * m
    deviation = (abar * v + 1 - abar) ** 0.5
    return torch.special.ndtr((mean - boundary) / deviation)
    ### END SOLUTION


@checks(flips)
def _flips(fn: Callable) -> None:
    cases = (([0.9, 0.5, 0.1], 2.0, 0.09, [0.1, -0.2, -0.5]), ([0.7, 0.3], 1.0, 0.3, [-0.6, 0.4]),
             ([0.99, 0.6, 0.4, 0.05], 0.7, 0.5, [0.0, 0.3, -0.4, -1.0]))
    phi = torch.special.ndtr
    for levels, m, v, edges in cases:
        abar, b = (torch.tensor(x, dtype=torch.float64) for x in (levels, edges))
        a, s2 = abar**0.5, 1 - abar
        d = (abar * v + s2) ** 0.5
        want = phi((-a * m - b) / d)
        expect(call(fn, abar, m, v, b, shape=abar.shape), want, wrong=fits({
            "That is the share that stays; the other side of the boundary is asked for.": 1 - want,
            "The source's own spread v is there at level abar, too: variance abar v + 1 - abar.": phi((-a * m - b) / s2**0.5),
            "The mode is scaled down with the picture: its mean is -sqrt(abar) m.": phi((-m - b) / d),
            "sqrt(abar), not abar, scales the picture.": phi((-abar * m - b) / d),
            "That is the variance; divide by its root.": phi((-a * m - b) / d**2),
            "The source sits at -m, not at +m.": phi((a * m - b) / d),
            "The boundary is an x_t, not a share of sqrt(abar) m: it is not 0.": phi(-a * m / d),
            "The spread shrinks by sqrt(abar), the variance by abar.": phi((-a * m - b) / (a * v + s2) ** 0.5),
            "Noise is missing from the variance.": phi((-a * m - b) / (abar * v) ** 0.5),
        }, want), otherwise="With v = 0 and the boundary at 0 it is Phi(-sqrt(abar) m / sqrt(1 - abar)).")


@exercise("15.break_sdedit", "Break it: the place is lost, and nothing is edited", points=2, hints=(
    "The correlation of a place before and after is sqrt(abar). How small must abar be?",
    "With equal weights the boundary is 0, and the share that changes is Phi(-sqrt(abar) m / sqrt(abar / 4 + 1 - abar)).",
    "Phi(-3.09) is about 0.001. Even a small sqrt(abar) leaves sqrt(abar) m large where m is.",
))
def break_sdedit():
    """Two modes at -m and +m, each of deviation 0.5, of equal weight; beside it a place of unit variance.
    Give (m, abar) so that SDEdit at abar keeps less than 0.2 of the place (as a correlation), and yet
    changes the mode of fewer than 1 in 1000 sources. m at most 100.
    """
    ### BEGIN SOLUTION
    return 30.0, 0.03
    ### END SOLUTION


@checks(break_sdedit)
def _break_sdedit(value: Any) -> None:
    try:
        m, abar = (float(x) for x in value)
    except (TypeError, ValueError):
        raise Mistake("The answer is a pair of numbers, (m, abar).") from None
    if not 0 < abar < 1:
        raise Mistake(f"abar lies between 0 and 1, and {abar:g} does not.")
    if not 0 < m <= 100:
        raise Mistake(f"m lies between 0 and 100, and {m:g} does not.")
    kept, share = abar**0.5, NormalDist().cdf(-(abar**0.5) * m / (0.25 * abar + 1 - abar) ** 0.5)
    if kept >= 0.2:
        raise Mistake(f"The place is kept with a correlation of {kept:.2f}: that is not lost. Start from more noise.")
    if share >= 0.001:
        raise Mistake(f"{1000 * share:.3g} of 1000 sources change their mode: the edit is made. Draw the modes further apart.")


# Copying -----------------------------------------------------------------------------------------------------------------------


@exercise("15.inject", "Copy the source's rows", points=3, hints=(
    "len(out) // len(rows) pictures a block; block k is out[k * n : (k + 1) * n].",
    "Copied is block rows.index((\"source\", \"prompt\")); replaced are all of the branch \"edit\", whatever their text.",
    "Work on out.clone(): the tensor that came belongs to the network.",
))
def inject(out, rows):
    """out: what a module returned for a whole batch, (number of blocks * n, ...); rows: (branch, text) of
    each block, in order, such as ("source", "empty"), ("edit", "prompt"). Nothing is said about that order.

    Returns a new tensor in which every block of the branch "edit" is the block ("source", "prompt").
    """
    ### BEGIN SOLUTION
    n = len(out) // len(rows)
    theirs = rows.index(("source", "prompt")) * n
    new = out.clone()
    for k, (branch, _) in enumerate(rows):
        if branch == "edit":
            new[k * n:(k + 1) * n] = out[theirs:theirs + n]
    return new
    ### END SOLUTION


_S, _E = "source", "edit"
_ORDERS = ([(_E, "empty"), (_S, "empty"), (_E, "prompt"), ("other", "prompt"), (_S, "prompt")], [(_E, "prompt"), (_S, "prompt")],
           [(_S, "prompt"), (_E, "empty"), (_E, "prompt")], [(_S, "empty"), (_E, "empty"), (_S, "prompt"), (_E, "prompt")])


@checks(inject)
def _inject(fn: Callable) -> None:
    for case, (rows, n) in enumerate(zip(_ORDERS, (2, 3, 5, 1), strict=True)):
        shape = ((3, 2, 4), (5, 2), (2, 3, 2), (4, 3, 2))[case]
        out = _noise(len(rows) * n, *shape, seed=case)
        blocks = list(out.split(n))

        def put(which: Callable[[tuple], bool], block: Tensor, blocks: list = blocks, rows: list = rows) -> Tensor:
            return torch.cat([block if which(row) else mine for row, mine in zip(rows, blocks, strict=True)])

        theirs = blocks[rows.index((_S, "prompt"))]
        empty = blocks[rows.index((_S, "empty"))] if (_S, "empty") in rows else theirs
        edit = blocks[rows.index((_E, "prompt"))]
        want = put(lambda row: row[0] == _E, theirs)
        each = out.clone()
        mine, source = [k for k, row in enumerate(rows) if row[0] == _E], rows.index((_S, "prompt"))
        for k in mine:
            each[k::len(rows)] = out[source::len(rows)]
        expect(call(fn, out, list(rows), shape=out.shape), want, wrong=fits({
            "Only the prompt's rows of the edit are replaced; guidance subtracts the empty prompt's, so those, too.":
                put(lambda row: row == (_E, "prompt"), theirs),
            "You took the source's rows of the empty prompt.": put(lambda row: row[0] == _E, empty),
            "You took the first block: nothing says that it is the source's.": put(lambda row: row[0] == _E, blocks[0]),
            "It is turned: the source got the edit's rows.": put(lambda row: row[0] == _S, edit),
            "Every block is replaced; the source's other rows must stay.": put(lambda row: True, theirs),
            "Everything that is not the source is replaced; only the edit is to be.": put(lambda row: row[0] != _S, theirs),
            "Blocks lie one after the other; you counted rows as if they were shuffled like cards.": each,
        }, want), otherwise="Give each block one number: the result says which block stands where.")


@exercise("15.steps_held", "How many steps?", hints=(
    "Write the numbers of the steps down: the first is 0. What is steps // 2 of 20?",
    "0, 1, ..., 10: count them.",
))
def steps_held():
    """The authors' first code copies queries and keys in step i (the first is i = 0) while
    i <= steps // 2. In how many steps of a run of 20 are they copied?
    """
    ### BEGIN SOLUTION
    return 20 // 2 + 1          # i = 0, 1, ..., 10
    ### END SOLUTION


@checks(steps_held)
def _steps_held(value: Any) -> None:
    expect_number(value, 11, tol=1e-6, wrong={
        "That is half of the steps, what a reader of `steps // 2` expects; but i = 10 passes the test, too.": 10,
        "The first step is i = 0, not i = 1.": 9,
        "That is all of them: at i = 11 the test fails.": 20,
        "`<=` holds one step more, not two.": 12,
    }, otherwise="List the i for which i <= 10, from 0 on.")


@exercise("15.tuple", "Debug: the hook that did nothing", points=2, hints=(
    "Print type(out) for a down block. What does torch do with a forward hook that returns None?",
    "A down block returns a tuple: first the tensor that goes on, then its skips. Return one of the same length.",
    "(change(out[0]), *out[1:]). And whatever is neither a tensor nor a tuple deserves an error, not silence.",
))
def hook(out, change):
    """out: what a block of the U-Net returned; blocks do not all return the same type. change: a function of
    the one tensor that goes on to the next block.

    Returns out with that tensor changed and everything else as it came, in the type in which it came. What
    it cannot serve it refuses with a TypeError, in place of silence.
    """
    ### BEGIN SOLUTION
    if isinstance(out, torch.Tensor):
        return change(out)
    if isinstance(out, tuple):
        return (change(out[0]), *out[1:])
    raise TypeError("neither a tensor nor a tuple: this hook would silently do nothing")
    ### END SOLUTION


@checks(hook)
def _hook(fn: Callable) -> None:
    for case, rest in enumerate(((), (0,), (1, 2), (0, 1, 2))):
        x = _noise(2 + case, 3 + case % 2, seed=40 + case)
        more = tuple(_noise(2 + case, 1 + k, seed=50 + k) for k in rest)
        skips = (more,) if case >= 2 else more
        factor = 2.0 + case

        def change(t: Tensor, factor: float = factor) -> Tensor:
            return factor * t - 1
        plain = call(fn, x, change, shape=x.shape)
        expect(plain, change(x), wrong=fits({"A tensor comes back as it was.": x, "It is changed twice.": change(change(x))},
                                            change(x)),
               otherwise="For a tensor it is change(out).")
        try:
            got = fn((x.clone(), *skips), change)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the learner's
            raise Mistake(f"For a tuple of {1 + len(skips)} it raises {type(error).__name__}: {error}") from None
        if got is None:
            raise Mistake("For a tuple it returns nothing, and torch takes that for 'leave it as it was'.")
        if isinstance(got, Tensor):
            raise Mistake("For a tuple it returns a tensor: the block after it expects the tuple, skips and all.")
        if not isinstance(got, tuple):
            raise Mistake(f"For a tuple it returns a {type(got).__name__}; a tuple came, a tuple goes.")
        if len(got) != 1 + len(skips):
            raise Mistake(f"A tuple of {1 + len(skips)} came, one of {len(got)} goes on: keep the rest.")
        if not isinstance(got[0], Tensor) or got[0].shape != x.shape:
            raise Mistake("The first member of the tuple must be the changed tensor.")
        if torch.equal(got[0], x):
            raise Mistake("The tuple comes back as it was: nothing is changed.")
        expect(got[0], change(x), wrong=fits({"It is changed twice.": change(change(x))}, change(x)),
               otherwise="The first member is change(out[0]).")
        flat = [t for part in got[1:] for t in (part if isinstance(part, tuple) else (part,))]
        pairs = zip(flat, more, strict=False)
        if len(flat) != len(more) or not all(isinstance(a, Tensor) and torch.equal(a, b) for a, b in pairs):
            raise Mistake("The rest of the tuple, the skips, must go on as it came.")
    for other in ({"sample": _noise(2)}, [_noise(2), _noise(3)], None, 3.0, 5.0):
        try:
            got = fn(other, lambda t: t)
        except TypeError:
            continue
        except Exception as error:  # noqa: BLE001
            raise Mistake(f"For a {type(other).__name__} it raises {type(error).__name__}; TypeError is asked for.") from None
        raise Mistake(f"For a {type(other).__name__} it returns {type(got).__name__}: silence again. Raise TypeError.")


# The measure -------------------------------------------------------------------------------------------------------------------


@exercise("15.equal_rate", "Measure: what is kept at equal edit rate", points=3, hints=(
    "The edit rate is the mean of `right`; of each strength, other_right.mean(1).",
    "next((k for k, rate in enumerate(rates) if rate >= goal), the last k)",
    "Paired: the mean of iou - other_iou[k], edit by edit.",
))
def gained(right, iou, other_right, other_iou):
    """right, iou: (n,) of one method, right is 1.0 where the edit was made; other_right, other_iou: (S, n) of
    another, one row a strength, in rising order.

    The other is taken at the first strength whose edit rate is at least ours, at the last where none is.
    Returns the mean over the edits of our IoU minus its IoU.
    """
    ### BEGIN SOLUTION
    goal, rates = right.mean(), other_right.mean(1)
    k = next((k for k, rate in enumerate(rates) if rate >= goal), len(rates) - 1)
    return (iou - other_iou[k]).mean()
    ### END SOLUTION


@checks(gained)
def _gained(fn: Callable) -> None:
    cases = [(14, (3, 2, 6, 10, 12, 11), 7), (6, (2, 4, 4, 5), 4), (8, (3, 5, 6), 8), (10, (9, 10), 3)]
    for case, (n, rates, goal) in enumerate(cases):
        right = (torch.arange(n) < goal).double()
        theirs = torch.stack([(torch.arange(n) < r).double().flip(0) for r in rates])
        iou = 0.35 + 0.1 * _noise(n, seed=60 + case)
        other = 0.25 + 0.1 * _noise(len(rates), n, seed=70 + case) - 0.05 * (torch.arange(len(rates)) - 1).abs().double()[:, None]
        enough = [k for k, r in enumerate(rates) if r >= goal]
        more = [k for k, r in enumerate(rates) if r > goal]
        k = enough[0] if enough else len(rates) - 1
        near = min(range(len(rates)), key=lambda j: abs(rates[j] - goal))

        def gap(j: int, iou: Tensor = iou, other: Tensor = other) -> Tensor:
            return (iou - other[j]).mean()
        want = gap(k)
        made = right.bool()
        expect(call(fn, right, iou, theirs, other, shape=()), want, wrong=fits({
            "The sign is turned: ours minus theirs.": -want,
            "A strength with exactly our rate is enough.": gap(more[0] if more else len(rates) - 1),
            "That is the last strength, whatever its rate.": gap(len(rates) - 1),
            "That is the first strength, whatever its rate.": gap(0),
            "That is the nearest rate; a strength that edits less often than we do is not enough.": gap(near),
            "That is the strength that edits most; the first that edits as often is asked for.":
                gap(max(range(len(rates)), key=lambda j: rates[j])),
            "That is the strength that keeps most, at a smaller edit rate.": gap(int(other.mean(1).argmax())),
            "All edits count, not only those that were made: a choice by success favours the one that succeeds seldom.":
                (iou - other[k])[made].mean(),
            "The mean, not the sum.": (iou - other[k]).sum(),
        }, want), otherwise="With one strength only the answer is iou.mean() - other_iou[0].mean().")


# Dragging ----------------------------------------------------------------------------------------------------------------------


@exercise("15.track", "Where has the handle gone?", points=3, hints=(
    "How far is each cell from `first`? (features - first[:, None, None]).abs().sum(0), one number a cell.",
    "Cells more than `radius` away from `place`, in x or in y, do not count: set them to infinity, then argmin.",
    "k = argmin of the flat table; its column is k % W, its row k // W.",
))
def track(features, first, place, radius):
    """features (C, H, W): of the picture as it is now; first (C,): the feature at the handle before anything
    moved; place: (x, y), the handle's last cell; radius: how far it may have gone, in x and in y.

    Returns (2,): x and y of the cell within `radius` of `place` whose feature is nearest to `first` in L1.
    """
    ### BEGIN SOLUTION
    high, wide = features.shape[1:]
    apart = (features - first[:, None, None]).abs().sum(0)
    y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    far = ((x - place[0]).abs() > radius) | ((y - place[1]).abs() > radius)
    k = int(apart.masked_fill(far, float("inf")).argmin())
    return torch.tensor([k % wide, k // wide])
    ### END SOLUTION


@checks(track)
def _track(fn: Callable) -> None:
    cases = [((3, 9, 12), (6, 4), 2, (8, 3)), ((2, 11, 8), (1, 9), 3, (0, 6)), ((4, 7, 10), (8, 1), 3, (5, 4)),
             ((5, 8, 13), (4, 5), 1, (3, 6)), ((3, 10, 9), (4, 5), 2, (4, 7)), ((3, 9, 12), (6, 4), 2, (4, 4))]
    for case, (shape, (px, py), radius, (gx, gy)) in enumerate(cases):
        c, high, wide = shape
        f, first = _noise(*shape, seed=80 + case), _noise(c, seed=90 + case)
        f[:, gy, gx] = first                                                # 0.3 off in one channel: the nearest in L1
        f[0, gy, gx] += 0.3
        if case > 1:
            f[:, py, px] = first - 0.36 / c                                     # 0.36 off over all: the nearest in squares
        f[:, (gy + 4) % high, (gx + 5) % wide] = first                    # nearer still, but too far away
        for k, (dx, dy) in enumerate(((radius + 1, 0), (0, radius + 1), (-radius - 1, 0), (0, -radius - 1))):
            if 0 <= px + dx < wide and 0 <= py + dy < high:
                f[:, py + dy, px + dx] = first + 0.005 * (1 + k)
        y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        apart = (f - first[:, None, None]).abs().sum(0)

        def best(cost: Tensor, keep: Tensor, wide: int = wide) -> Tensor:
            k = int(cost.masked_fill(~keep, float("inf")).argmin())
            return torch.tensor([k % wide, k // wide]).double()
        square = ((x - px).abs() <= radius) & ((y - py).abs() <= radius)
        turned = ((x - py).abs() <= radius) & ((y - px).abs() <= radius)
        want = best(apart, square)
        assert want.tolist() == [gx, gy]
        expect(call(fn, f, first, (px, py), radius, shape=(2,)).double(), want, tol=1e-6, wrong=fits({
            "x comes first: (column, row).": want.flip(0),
            "That is the nearest feature anywhere: the handle cannot have gone further than the radius.":
                best(apart, torch.ones_like(square)),
            "You looked around (y, x): place is (x, y).": best(apart, turned) if bool(turned.any()) else want,
            "That is the most different feature.": best(-apart, square),
            "That is where the handle was. Compare with what was there first, not with what is there now.":
                torch.tensor([px, py]).double(),
            "That is the place within the square, not in the picture.": want - torch.tensor([px - radius, py - radius]),
            "That is one cell too far: |x - place| <= radius.":
                best(apart, ((x - px).abs() <= radius + 1) & ((y - py).abs() <= radius + 1)),
            "That is one cell too near: the rim of the square counts.":
                best(apart, ((x - px).abs() < radius) & ((y - py).abs() < radius)),
            "A square of cells, not a disc.": best(apart, (x - px) ** 2 + (y - py) ** 2 <= radius**2),
        }, want), otherwise="With radius 0 the answer is the place itself.")
