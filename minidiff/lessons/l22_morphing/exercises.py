"""Exercises of lesson 22: adapters mixed, moments mixed, equal hops two ways, a rule and its yardstick, two networks."""

from __future__ import annotations

from typing import Any

import torch

from minidiff.course.answers import Mistake, call, expect, expect_number, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


@exercise("22.one_adapter", "Two adapters as one", points=2, hints=(
    "Stack the factors. In B A, the first r columns of B meet the first r rows of A, and no others.",
    "A: the two below each other. So how must the two B stand, and which of the factors takes the weights?",
))
def one_adapter(Aa, Ba, Ab, Bb, w):
    """One adapter (A, B) of rank 2 r whose B A is the Delta W of a frame: Ba Aa at w = 0, Bb Ab at w = 1,
    and on the straight line between.

    Aa, Ab (r, in); Ba, Bb (out, r); w: a number. A (2 r, in) and B (out, 2 r).
    """
    ### BEGIN SOLUTION
    return torch.cat([Aa, Ab]), torch.cat([(1 - w) * Ba, w * Bb], 1)
    ### END SOLUTION


@checks(one_adapter)
def _one_adapter(fn: Any) -> None:
    for r, wide, high, w in ((2, 5, 4, 0.3), (3, 4, 6, 0.8)):
        Aa, Ab = normal((2, r, wide), "22 A", r, dtype=torch.float64)
        Ba, Bb = normal((2, high, r), "22 B", r, dtype=torch.float64)

        def product(*given: Any, r: int = r, wide: int = wide, high: int = high) -> Any:
            out = fn(*given)
            if out is None or out is Ellipsis:
                return out
            if not isinstance(out, (tuple, list)) or len(out) != 2:
                raise Mistake("It returns two matrices, A and B, in this order.")
            A, B = (torch.as_tensor(x) for x in out)
            if tuple(A.shape) == (r, wide) and tuple(B.shape) == (high, r):
                raise Mistake("That has rank r. The line between two products of rank r has rank 2 r: not mixed factors.")
            if (tuple(A.shape), tuple(B.shape)) != ((2 * r, wide), (high, 2 * r)):
                raise Mistake(f"The shapes are {tuple(A.shape)} and {tuple(B.shape)}; expected are {(2 * r, wide)} and "
                              f"{(high, 2 * r)}.")
            return B @ A

        a, b = Ba @ Aa, Bb @ Ab
        want = (1 - w) * a + w * b
        expect(call(product, Aa, Ba, Ab, Bb, number(w), shape=(high, wide)), want, wrong=fits({
            "The weights are exchanged: w = 0 is the first picture.": w * a + (1 - w) * b,
            "That is the sum of both adapters; a frame in the middle would get each in full.": a + b,
            "The weights stand on both factors: their product is squared.": (1 - w) ** 2 * a + w**2 * b,
            "The halves of B are exchanged: B of one adapter then meets A of the other.": (1 - w) * Ba @ Ab + w * Bb @ Aa,
            "Half and half, whatever w is.": (a + b) / 2,
            "Only the first adapter.": (1 - w) * a,
        }, want), otherwise="B A is the sum of two products: (1 - w) of the first adapter's, w of the other's.")


@exercise("22.factor_norm", "Break it: mix the factors", points=2, hints=(
    "Multiply out (Ba + Bb)/2 (Aa + Ab)/2. How many products, and with which weight each?",
    "All products are independent and of one norm: how do the norms of independent summands add?",
    "Squares add: four of weight 1/4 against two of weight 1/2; then the root.",
))
def factor_norm():
    """Two adapters with independent random factors, all of one size. At w = 1/2: the norm of the product of
    the mixed factors, over the norm of the mixed Delta W?
    """
    ### BEGIN SOLUTION
    # four products of independent factors, each with weight 1/4, against two with weight 1/2; squares add
    return (4 / 16) ** 0.5 / (2 / 4) ** 0.5
    ### END SOLUTION


@checks(factor_norm)
def _factor_norm(value: Any) -> None:
    expect_number(value, 0.5**0.5, tol=0.008, wrong={
        "That is the quotient of the squared norms, or the norm over that of one adapter alone: take the root, against the mixed "
        "Delta W.": 0.5,
        "One quarter is the weight of each product; there are four of them.": 0.25,
        "Then the two would be the same, and they are where both adapters share A.": 1.0,
        "Upside down: the mixed factors give less.": 2**0.5,
        "Independent products add in squares.": 2.0,
    }, otherwise="Four independent products with weight 1/4, against two with weight 1/2; squares add.")


@exercise("22.adain", "The moments between", points=2, hints=(
    "Subtract z's own mean, divide by its own standard deviation, then give it the mixed ones; all over the last two axes.",
    "m, s of each with mean((2, 3), keepdim=True) and std((2, 3), correction=0, keepdim=True).",
))
def adain(z, a, b, w):
    """z (n, C, h, w) with, in each channel of each row, mean and standard deviation on the line between those
    of a and b. a, b: like z; w: a number. Standard deviations over all h x w places (correction=0).
    """
    ### BEGIN SOLUTION
    mean = [x.mean((2, 3), keepdim=True) for x in (z, a, b)]
    std = [x.std((2, 3), correction=0, keepdim=True) for x in (z, a, b)]
    return ((1 - w) * std[1] + w * std[2]) * (z - mean[0]) / std[0] + (1 - w) * mean[1] + w * mean[2]
    ### END SOLUTION


@checks(adain)
def _adain(fn: Any) -> None:
    for shape, w in (((2, 3, 4, 5), 0.3), ((3, 2, 5, 3), 0.85)):
        shifts = normal((3, *shape[:2], 1, 1), "22 mean", 0, dtype=torch.float64)
        z, a, b = (s * normal(shape, "22 adain", k, dtype=torch.float64) + shifts[k] for k, s in enumerate((0.7, 0.5, 1.8)))
        m = [x.mean((2, 3), keepdim=True) for x in (z, a, b)]
        s = [x.std((2, 3), correction=0, keepdim=True) for x in (z, a, b)]

        def mixed(p: list, w: float = w) -> Any:
            return (1 - w) * p[1] + w * p[2]

        unit = (z - m[0]) / s[0]
        want = mixed(s) * unit + mixed(m)
        rows = [[f(x) for x in (z, a, b)] for f in (lambda x: x.mean((1, 2, 3), keepdim=True),
                                                    lambda x: x.std((1, 2, 3), correction=0, keepdim=True))]
        var = ((1 - w) * s[1] ** 2 + w * s[2] ** 2).sqrt()
        expect(call(fn, z, a, b, number(w), shape=shape), want, wrong=fits({
            "Moments of whole rows: each channel has its own.": mixed(rows[1]) * (z - rows[0][0]) / rows[1][0] + mixed(rows[0]),
            "The weights are exchanged: w = 0 is a.": (w * s[1] + (1 - w) * s[2]) * unit + w * m[1] + (1 - w) * m[2],
            "z keeps its own spread; divide by its standard deviation.": mixed(s) * (z - m[0]) + mixed(m),
            "z keeps its own mean; subtract it first.": mixed(s) * z / s[0] + mixed(m),
            "The new mean is missing.": mixed(s) * unit,
            "The new standard deviation is missing.": unit + mixed(m),
            "Variances are mixed; DiffMorpher mixes standard deviations.": var * unit + mixed(m),
            "The moments of a alone: where is b?": s[1] * unit + m[1],
        }, want), otherwise="(mixed std) (z - mean z) / std z + (mixed mean), channel by channel.")


@exercise("22.cube_root", "Predict: where do the frames go?", hints=(
    "How many hops are there between eleven frames, and how many of them lie behind frame 3?",
    "Draw f(w) = w^3: where does it cross that share of the way?",
))
def cube_root():
    """A path whose picture has gone w^3 of its way at weight w. Respaced to eleven frames at equal hops: at
    which weight is frame 3 (the ends are frames 0 and 10)?
    """
    ### BEGIN SOLUTION
    # after frame 3 of 10 hops, 3 / 10 of the way lies behind: w^3 = 0.3
    return 0.3 ** (1 / 3)
    ### END SOLUTION


@checks(cube_root)
def _cube_root(value: Any) -> None:
    expect_number(value, 0.3 ** (1 / 3), tol=0.004, wrong={
        "That is the way behind weight 0.3; you need its inverse.": 0.027,
        "That is where it was before: evenly spaced weights.": 0.3,
        "There are ten hops between eleven frames: 3 / 10, not 3 / 11.": (3 / 11) ** (1 / 3),
        "Square root: the speed profile is a cube.": 0.3**0.5,
        "Counted from the other end.": 1 - 0.3 ** (1 / 3),
        "The speed is 3 w^2; what counts is the way, its integral.": (0.3 / 3) ** 0.5,
    }, otherwise="The weight whose cube is 3 / 10.")


@exercise("22.bisect", "Halve until the hop fits", points=3, hints=(
    "Keep low and high with gap(low) < delta < gap(high); look in the middle; replace one of the two.",
    "At most ``most`` times: w = (low + high) / 2 and g = gap(w); return w if abs(g - delta) <= tol; then (low, high) is "
    "(w, high) if g < delta, else (low, w). After the loop, which of low and high lies behind the leap?",
))
def bisect(gap, here, delta, tol, most):
    """The weight w in (here, 1] at which the hop from ``here`` is delta, to within tol.

    gap: w -> distance of the frame at w from the frame at here, 0 at here; each call draws a picture, so
    call it as rarely as halving needs. If even gap(1) is at most delta + tol, w is 1. Where no hop has fitted
    after ``most`` halvings the path leaps: then w is the end of the last interval that lies behind the leap.
    """
    ### BEGIN SOLUTION
    if gap(1.0) <= delta + tol:
        return 1.0
    low, high = here, 1.0
    for _ in range(most):
        w = (low + high) / 2
        g = gap(w)
        if abs(g - delta) <= tol:
            return w
        low, high = (w, high) if g < delta else (low, w)
    return high
    ### END SOLUTION


@checks(bisect)
def _bisect(fn: Any) -> None:
    leaps = ((0.1, 0.3, 0.01, 6, 0.43, 0.7), (0.0, 0.2, 0.01, 9, 0.613, 0.5), (0.55, 0.25, 0.02, 4, 0.82, 0.9))
    smooth = ((0.0, 0.2, 0.01, 3.0, 1.0), (0.35, 0.11, 0.004, 0.5, 1.3), (0.6, 0.3, 0.01, 2.0, 0.4), (0.2, 0.05, 0.002, 5.0, 2.0),
              (0.9, 0.03, 0.002, 1.0, 1.0), (0.5, 0.495, 0.01, 1.0, 1.0), (0.5, 0.4895, 0.01, 1.0, 1.0),
              (0.5, 0.4995, 0.0004, 1.0, 1.0))
    cases = [(here, delta, tol, 40, lambda w, p=p, s=s: s * w**p) for here, delta, tol, p, s in smooth]
    cases += [(here, delta, tol, most, lambda w, at=at, size=size: 0.1 * w + size * (w > at))
              for here, delta, tol, most, at, size in leaps]
    for k, (here, delta, tol, most, way) in enumerate(cases):
        asked: list[float] = []

        def gap(w: Any, here: float = here, asked: list[float] = asked, way: Any = way) -> float:
            if len(asked) > 100:
                raise Mistake("More than a hundred pictures for one hop: it never stops. Which half is kept, and how often?")
            if not 0 <= float(w) <= 1:
                raise Mistake(f"It asks for a weight of {float(w):.3g}, outside of [0, 1].")
            asked.append(float(w))
            return abs(way(float(w)) - way(here))

        w = float(call(fn, gap, here, delta, tol, most, shape=()))
        low, high, least, fitted = here, 1.0, 1, False
        for _ in range(most):
            middle = (low + high) / 2
            least += 1
            g = way(middle) - way(here)
            if abs(g - delta) <= tol:
                fitted = True
                break
            low, high = (middle, high) if g < delta else (low, middle)
        if way(1.0) - way(here) <= delta + tol:
            if abs(w - 1) > 1e-9:
                raise Mistake("The other end is near enough: then the answer is 1.")
            continue
        if not fitted:
            leap = leaps[k - len(smooth)][4]
            if here <= w <= leap:
                raise Mistake("The path leaps there: this frame lies before the leap, and from it the walk would not get on.")
            if not leap < w <= high + 1e-9:
                raise Mistake(f"After {most} halvings the leap lies between {low:.4g} and {high:.4g}; {w:.4g} is not the end of "
                              "that interval.")
        elif abs(way(w) - way(here) - delta) > tol * 1.001:
            if abs(way(w) - delta) <= tol * 1.001:
                raise Mistake("That hop is measured from 0; it begins at here.")
            if w < here:
                raise Mistake("That frame lies before here; the path goes on from here.")
            raise Mistake(f"The hop there is {way(w) - way(here):.3g}, and {delta} +- {tol} is asked for.")
        if len(asked) > least + 3:
            raise Mistake(f"It draws {len(asked)} pictures where halving needs {least}; each is a run of the network.")


@exercise("22.two_networks", "Guidance between two networks", points=2, hints=(
    "The tent: how far is w from the middle, and what does it lose on the way from the middle to an end?",
    "It loses 1.5 over a distance of one half.",
    "One weight a row, so it needs three more axes before it meets u and c.",
))
def two_networks(u, c, w):
    """IMPUS's guided prediction of n frames: weight 1.5 at both ends, 3 in the middle, straight between.

    u (n, C, h, w): of the network that was fitted with the empty prompt; c: of the one fitted with the
    pictures' embeddings; w (n,): where each frame lies, in [0, 1].
    """
    ### BEGIN SOLUTION
    s = 3 - 1.5 * 2 * (w - 0.5).abs()
    return u + s.view(-1, 1, 1, 1) * (c - u)
    ### END SOLUTION


@checks(two_networks)
def _two_networks(fn: Any) -> None:
    for shape, where in (((3, 2, 4, 5), (0.1, 0.5, 0.85)), ((4, 3, 2, 3), (0.0, 0.3, 1.0, 0.6))):
        u, c = normal((2, *shape), "22 guide", shape[0], dtype=torch.float64)
        w = torch.tensor(where, dtype=torch.float64)

        def guided(s: Any, u: Any = u, c: Any = c) -> Any:
            return u + torch.as_tensor(s, dtype=torch.float64).expand(len(u)).view(-1, 1, 1, 1) * (c - u)

        s = 3 - 3 * (w - 0.5).abs()
        want = guided(s)
        expect(call(fn, u, c, w, shape=shape), want, wrong=fits({
            "The tent is upside down: 1.5 belongs at the ends.": guided(1.5 + 3 * (w - 0.5).abs()),
            "The slope is half of what it should be: at the ends that is 2.25.": guided(3 - 1.5 * (w - 0.5).abs()),
            "3 everywhere; at the ends the pictures would come back too strong.": guided(3.0),
            "1.5 everywhere.": guided(1.5),
            "u and c are exchanged.": c + s.view(-1, 1, 1, 1) * (u - c),
            "Ho and Salimans count from the conditional prediction: that is 1 + s in this weight.": guided(s + 1),
            "A straight line from 1.5 to 3; it comes down again.": guided(1.5 + 1.5 * w),
            "abs() is missing: one half of the way gets more than 3.": guided(3 - 3 * (w - 0.5)),
        }, want), otherwise="u + s (c - u), s a tent over w.")


@exercise("22.bias", "Predict: whose fault is it?", hints=(
    "Put c = e and u = e + b into the formula for the guided prediction. What is left beside e?",
    "Its size at s = 3, over its size at s = 1.5.",
))
def bias():
    """After fine-tuning, the conditional network predicts the right noise e. The other one has never seen the two
    pictures and predicts e + b. By which factor is the guided prediction's error in the middle (s = 3) larger
    than at an end (s = 1.5)?
    """
    ### BEGIN SOLUTION
    # u + s (c - u) with c = e and u = e + b is e + (1 - s) b: the error grows with s - 1
    return (3 - 1) / (1.5 - 1)
    ### END SOLUTION


@checks(bias)
def _bias(value: Any) -> None:
    expect_number(value, 4.0, tol=0.03, wrong={
        "The error does not grow with s but with s - 1: at s = 1 the other network is not asked (and 2 b is the error in the "
        "middle, not the factor).": 2.0,
        "That would be with 1 + s.": 4 / 2.5,
        "The prediction with s = 1 has no error: divide by the one at s = 1.5.": 1.0,
        "Upside down.": 0.25,
        "The error is no square.": 16.0,
        "That is the error at an end, in units of b.": 0.5,
    }, otherwise="(1 - s) b: compare s = 3 with s = 1.5.")


@exercise("22.code_order", "Debug: a path that is longer than it should be", points=2, hints=(
    "Which frames does the loop meet, in which order, with emb = a * emb1 + (1 - a) * emb2 and a = .1, .2, ..., 1?",
    "a = .1 is close to the end that the loop did not begin at. How long is the first hop, and how long are the others?",
    "Add the ten hops of a straight path of length 1, and divide by nine.",
))
def code_order():
    """A released loop measures a path of ten hops. It begins with the picture of emb1, walks a = .1, .2, ..., 1
    with emb = a * emb1 + (1 - a) * emb2, sums the hops and divides by nine times the distance of the ends. What
    does it print for a perfectly straight, even path?
    """
    ### BEGIN SOLUTION
    # from weight 0 to .9 in one hop, then nine hops of .1 back to 0; divided by nine times the distance 1
    return (0.9 + 9 * 0.1) / 9
    ### END SOLUTION


@checks(code_order)
def _code_order(value: Any) -> None:
    expect_number(value, 0.2, tol=0.002, wrong={
        "That would be in the right order; look at which end a = .1 is close to.": 1 / 9,
        "Divided by ten hops; the loop divides by nine.": 0.18,
        "The first hop is not all of the way: a = .1 is one tenth short of the other end.": 1.9 / 9,
        "That is the sum; it is divided by nine.": 1.8,
        "Ten even hops over ten; the loop divides by nine, and its order is not that.": 0.1,
        "Back at the start it has gone there and back: there in one hop of .9, back in nine of .1.": 2 / 9,
    }, otherwise="Write down the ten weights that the loop meets, and the hops between them.")


@exercise("22.squared_rule", "Predict: the same path, another yardstick", points=2, hints=(
    "How long is one of the ten even hops, in units of the distance d of the ends?",
    "A squared distance sees the square of that, and the square of d for the ends.",
))
def squared_rule():
    """IMPUS's rule leaves rank 1 where sum(hops) / (9 x distance of the ends) passes .389: a path of ten hops
    3.5 times as long as the straight one. What does the quotient become for the same path, ten even hops, if
    the distance is a squared one, as MiniLPIPS is?
    """
    ### BEGIN SOLUTION
    # each of ten hops is .35 of the distance of the ends; its square, ten times, over nine
    return 10 * 0.35 ** 2 / 9
    ### END SOLUTION


@checks(squared_rule)
def _squared_rule(value: Any) -> None:
    expect_number(value, 1.225 / 9, tol=0.0006, wrong={
        "That is with lengths; squares of small hops add up to less.": 3.5 / 9,
        "The square of the whole path; each hop is squared by itself.": 3.5**2 / 9,
        "One hop; there are ten.": 0.35**2 / 9,
        "Nine, not ten, stand below.": 0.1225,
        "That is a straight path; this one is 3.5 times as long.": 0.1 / 9,
        "That is the square of .389: numerator and denominator are squared differently.": (3.5 / 9) ** 2,
        "The sum alone; divide by nine.": 1.225,
    }, otherwise="Ten hops of .35, each squared, over nine.")


@exercise("22.place_ratio", "Measure: how straight does it move?", points=2, hints=(
    "Keep the rows that are seen: what is the way from each to the next, and how long is it?",
    "Add these lengths; divide by the length from the first seen place to the last one.",
))
def place_ratio(place, seen):
    """Length of a thing's way over the straight way. place (n, 2): where the reader finds it in each frame;
    seen (n,) bool: whether it finds it at all; frames without it are passed over, at the ends too. A number.
    """
    ### BEGIN SOLUTION
    p = place[seen]
    return p.diff(dim=0).norm(dim=1).sum() / (p[-1] - p[0]).norm()
    ### END SOLUTION


@checks(place_ratio)
def _place_ratio(fn: Any) -> None:
    for n, gone in ((7, (2, 3, 6)), (6, (0, 4)), (8, (0, 3, 7))):
        line = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
        place = line * torch.tensor([0.6, -0.3], dtype=torch.float64) + 0.1 * normal((n, 2), "22 place", n, dtype=torch.float64)
        seen = torch.ones(n, dtype=torch.bool)
        seen[list(gone)] = False
        p = place[seen]
        hops, straight = p.diff(dim=0), (p[-1] - p[0]).norm()
        want = hops.norm(dim=1).sum() / straight
        both = seen[1:] & seen[:-1]
        expect(call(fn, place, seen, shape=()), want, wrong=fits({
            "Frames in which nothing is found count too: their places are noise.":
                place.diff(dim=0).norm(dim=1).sum() / (place[-1] - place[0]).norm(),
            "Upside down: 1 is straight and more is longer.": 1 / want,
            "Steps in x and in y added; a step's length is the root of squares.": hops.abs().sum() / straight,
            "Squares of steps, not their lengths.": hops.square().sum() / straight**2,
            "The mean step; add them.": hops.norm(dim=1).mean() / straight,
            "The gaps are left out: over a frame without the thing it still has to move.":
                place.diff(dim=0)[both].norm(dim=1).sum() / straight,
            "The way's length; divide by the straight one.": hops.norm(dim=1).sum(),
        }, want), otherwise="Seen places, lengths of their steps, over first to last.")
