"""Wrong and right answers to the exercises of lesson 23."""

from __future__ import annotations

import math

import numpy as np
import torch

# paint ------------------------------------------------------------------------------------------------------------------------


def _two(picture, colour, before):
    return picture - colour[:, :, None, None], picture - before


def _over(value, weight):
    return (weight * value).sum((1, 2)) / weight.sum((1, 2))


def p_right(picture, shape, colour, before, weight):
    a, b = _two(picture, colour, before)
    return weight * _over(a.square().mean(1), shape) + _over(b.square().mean(1), 1 - shape)


def p_einsum(picture, shape, colour, before, weight):
    a, b = _two(picture, colour, before)
    channels = picture.shape[1]
    inside = torch.einsum("bchw,bhw->b", a**2, shape) / (channels * shape.sum((1, 2)))
    outside = torch.einsum("bchw,bhw->b", b**2, 1 - shape) / (channels * (1 - shape).sum((1, 2)))
    return weight * inside + outside


def p_loop(picture, shape, colour, before, weight):
    rows = []
    for x, m, c, y in zip(picture, shape, colour, before, strict=True):
        near = ((x - c.view(-1, 1, 1)) ** 2).mean(0)
        far = ((x - y) ** 2).mean(0)
        rows.append(weight * (near * m).sum() / m.sum() + (far * (1 - m)).sum() / (1 - m).sum())
    return torch.stack(rows)


def p_of(measure):
    """The right energy with another distance in each cell: measure (B, C, h, w) -> (B, h, w)."""
    def answer(picture, shape, colour, before, weight):
        a, b = _two(picture, colour, before)
        return weight * _over(measure(a), shape) + _over(measure(b), 1 - shape)
    return answer


def p_with(change):
    """Squares as they should be, put together in another way: change(a, b, shape, weight)."""
    def answer(picture, shape, colour, before, weight):
        a, b = _two(picture, colour, before)
        return change(a.square().mean(1), b.square().mean(1), shape, weight)
    return answer


def p_parts(change):
    """change(inside, outside, weight) of the two parts."""
    return p_with(lambda a, b, m, w: change(_over(a, m), _over(b, 1 - m), w))


p_sums = p_of(lambda x: x.square().sum(1))


def p_mean_colour(picture, shape, colour, before, weight):
    mean = (picture * shape[:, None]).sum((2, 3)) / shape.sum((1, 2))[:, None]
    return weight * (mean - colour).square().mean(1) + _over((picture - before).square().mean(1), 1 - shape)


def p_detached(picture, shape, colour, before, weight):
    return p_right(picture.detach(), shape, colour, before, weight)


def p_numpy(picture, shape, colour, before, weight):
    given = (x.detach().numpy() for x in (picture, shape, colour, before))
    x, m, c, y = given
    near, far = ((x - c[:, :, None, None]) ** 2).mean(1), ((x - y) ** 2).mean(1)
    return float(weight) * (near * m).sum((1, 2)) / m.sum((1, 2)) + (far * (1 - m)).sum((1, 2)) / (1 - m).sum((1, 2))


def p_in_place(picture, shape, colour, before, weight):
    out = p_right(picture, shape, colour, before, weight)
    with torch.no_grad():
        picture.add_(1.0)
    return out.detach()


def p_one_number(picture, shape, colour, before, weight):
    return p_right(picture, shape, colour, before, weight).mean()


# gain -------------------------------------------------------------------------------------------------------------------------


def _interval(d, means, ends=(0.025, 0.975)):
    return torch.stack([d.mean(), *(torch.quantile(means, q) for q in ends)])


def g_right(ours, plain, counts, draws):
    d = ours[counts] - plain[counts]
    return _interval(d, d[draws].mean(-1))


def g_numpy(ours, plain, counts, draws):
    d = (ours - plain).numpy()[counts.numpy()]
    means = d[draws.numpy()].mean(1)
    return torch.from_numpy(np.array([d.mean(), *np.quantile(means, [0.025, 0.975])]))


def g_list(ours, plain, counts, draws):
    d = [float(a - b) for a, b, c in zip(ours, plain, counts, strict=True) if c]
    means = torch.tensor([sum(d[k] for k in row) / len(row) for row in draws.tolist()], dtype=torch.float64)
    return [sum(d) / len(d), float(means.quantile(0.025)), float(means.quantile(0.975))]


def g_with(change):
    """change(d, draws) of the differences of the edits that count."""
    def answer(ours, plain, counts, draws):
        return change((ours - plain)[counts], draws)
    return answer


def g_all(ours, plain, counts, draws):
    d = ours - plain
    return _interval(d, d[draws].mean(1))


def g_apart(ours, plain, counts, draws):
    """The check offers one way to draw the second sample; any other is told by the general message."""
    from minidiff.rng import generator

    key = next(k for k, (n, r) in enumerate(((17, 300), (23, 500))) if (len(ours), len(draws)) == (n, r))
    m = int(counts.sum())
    other = torch.randint(m, draws.shape, generator=generator("23 draws again", key))
    d = (ours - plain)[counts]
    return _interval(d, ours[counts][draws].mean(1) - plain[counts][other].mean(1))


def g_normal(d, draws):
    half = 1.96 * d.std() / len(d) ** 0.5
    return torch.stack([d.mean(), d.mean() - half, d.mean() + half])


# turning ----------------------------------------------------------------------------------------------------------------------


def _hops(path):
    return path.flatten(2).diff(dim=1)


def _cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=2)


def t_right(path):
    h = _hops(path)
    unit = h / h.norm(dim=2, keepdim=True)
    return (unit[:, 1:] * unit[:, :-1]).sum(2).mean(1)


def t_numpy(path):
    x = path.numpy().reshape(*path.shape[:2], -1)
    h = x[:, 1:] - x[:, :-1]
    n = np.linalg.norm(h, axis=2)
    return torch.from_numpy(((h[:, 1:] * h[:, :-1]).sum(2) / (n[:, 1:] * n[:, :-1])).mean(1))


def t_loop(path):
    out = []
    for frames in path:
        h = [(b - a).flatten() for a, b in zip(frames[:-1], frames[1:], strict=True)]
        out.append(torch.stack([a @ b / (a.norm() * b.norm()) for a, b in zip(h[:-1], h[1:], strict=True)]).mean())
    return torch.stack(out)


def t_with(change):
    """change(h) of the hops (B, n - 1, D)."""
    return lambda path: change(_hops(path))


def t_last_axis(path):
    h = path.diff(dim=1)
    return torch.nn.functional.cosine_similarity(h[:, 1:], h[:, :-1], dim=-1).flatten(1).mean(1)


# needed -----------------------------------------------------------------------------------------------------------------------


def n_right(n, value, low, high, edge):
    gap = abs(value - edge)
    if gap == 0:
        return float("inf")
    side = value - low if value > edge else high - value
    return n * side * side / gap / gap


def n_numpy(n, value, low, high, edge):
    with np.errstate(divide="ignore"):
        side = np.where(value > edge, value - low, high - value)
        return n * np.square(np.divide(side, abs(value - edge)))


def n_tensor(n, value, low, high, edge):
    reach = max(0.0, value - low) if edge < value else high - value
    return n * (torch.tensor(reach, dtype=torch.float64) / abs(value - edge)) ** 2


def n_with(change):
    """change(n, reach, other, gap) where the value is off the edge."""
    def answer(n, value, low, high, edge):
        if value == edge:
            return math.inf
        sides = (value - low, high - value)
        reach, other = sides if edge < value else sides[::-1]
        return change(n, reach, other, abs(value - edge))
    return answer


WRONG = {
    "23.tilt": {
        "it stays": (0.0, "does not stay"), "to the right": (2.0, "how far it goes to the right"), "scale 1": (0.5, "at scale 1"),
        "uphill": (-1.0, "downhill is to the right"), "inverse": (-4.0, "not its inverse"), "far off": (3.3, "second number"),
        "a word": ("up", "one number"),
    },
    "23.too_hard": {
        "known": (1.0, "if x0 were known"), "4": (4.0, "1/s + v"), "upside down": (0.2, "upside down"),
        "scale 1": (2.0, "at scale 1"),
        "variance": (1.25, "the quotient is s times"), "far off": (17.0, "against"),
    },
    "23.paint": {
        "nothing kept": (p_parts(lambda inside, outside, w: w * inside), "nothing is kept"),
        "no weight": (p_parts(lambda inside, outside, w: inside + outside), "weight is left out"),
        "exchanged": (p_with(lambda a, b, m, w: w * _over(a, 1 - m) + _over(b, m)), "exchanged"),
        "all painted": (p_with(lambda a, b, m, w: w * a.mean((1, 2)) + _over(b, 1 - m)), "the whole picture is painted"),
        "all kept": (p_with(lambda a, b, m, w: w * _over(a, m) + b.mean((1, 2))), "the thing too"),
        "channel sums": (p_sums, "sums over the channels"),
        "cells": (p_with(lambda a, b, m, w: w * (a * m).mean((1, 2)) + (b * (1 - m)).mean((1, 2))), "number of cells"),
        "not divided": (p_with(lambda a, b, m, w: w * (a * m).sum((1, 2)) + (b * (1 - m)).sum((1, 2))), "not divided at all"),
        "no squares": (p_of(lambda x: x.mean(1)), "square them"),
        "absolute": (p_of(lambda x: x.abs().mean(1)), "absolute"),
        "mean colour": (p_mean_colour, "mean colour of the shape"),
        "weight outside": (p_parts(lambda inside, outside, w: inside + w * outside), "belongs to the part inside"),
        "halved": (p_parts(lambda inside, outside, w: (w * inside + outside) / 2), "with weight = 0"),
        "detached": (p_detached, "no gradient"), "numpy": (p_numpy, "no gradient"), "in place": (p_in_place, "in place"),
        "one number": (p_one_number, "one number a row"), "nothing": (lambda *given: None, "returns nothing"),
    },
    "23.gain": {
        "all edits": (g_all, "do not count"), "sign": (g_with(lambda d, r: _interval(-d, -d[r].mean(1))), "ours minus plain"),
        "ends": (g_with(lambda d, r: _interval(d, d[r].mean(1))[[0, 2, 1]]), "exchanged"),
        "single edits": (g_with(lambda d, r: _interval(d, d[r].flatten())), "single edits"),
        "90 %": (g_with(lambda d, r: _interval(d, d[r].mean(1), (0.05, 0.95))), "2.5 % on each side"),
        "extremes": (g_with(lambda d, r: torch.stack([d.mean(), d[r].mean(1).min(), d[r].mean(1).max()])), "extremes"),
        "normal": (g_with(g_normal), "1.96"),
        "mean of means": (g_with(lambda d, r: torch.cat([d[r].mean()[None], _interval(d, d[r].mean(1))[1:]])),
                          "not of the resamples"),
        "apart": (g_apart, "draw pairs"),
        "sums": (g_with(lambda d, r: torch.stack([d.sum(), *_interval(d, d[r].sum(1))[1:]])), "sums in place"),
        "medians": (g_with(lambda d, r: torch.stack([d.median(), *_interval(d, d[r].median(1).values)[1:]])), "medians"),
        "shifted": (g_with(lambda d, r: _interval(d, d[r].mean(1)) + 1), "one difference an edit"),
        "value alone": (g_with(lambda d, r: d.mean()), "shape"),
    },
    "23.turning": {
        "frames": (lambda path: _cosine(path.flatten(2)[:, 1:], path.flatten(2)[:, :-1]).mean(1), "frames themselves"),
        "first hop": (t_with(lambda h: _cosine(h[:, 1:], h[:, :1]).mean(1)), "with the first one"),
        "whole way": (t_with(lambda h: _cosine(h, h.sum(1, keepdim=True)).mean(1)), "way from first to last"),
        "sum": (t_with(lambda h: _cosine(h[:, 1:], h[:, :-1]).sum(1)), "take their mean"),
        "products": (t_with(lambda h: (h[:, 1:] * h[:, :-1]).sum(2).mean(1)), "divide by both lengths"),
        "divided once": (t_with(lambda h: (h[:, 1:] * h[:, :-1]).sum((1, 2))
                                / (h[:, 1:].norm(dim=2) * h[:, :-1].norm(dim=2)).sum(1)), "long hops then count more"),
        "angle": (t_with(lambda h: _cosine(h[:, 1:], h[:, :-1]).acos().mean(1)), "the angle itself"),
        "absolute": (t_with(lambda h: _cosine(h[:, 1:], h[:, :-1]).abs().mean(1)), "back and forth looks straight"),
        "last axis": (t_last_axis, "last axis"),
        "two apart": (t_with(lambda h: _cosine(h[:, 2:], h[:, :-2]).mean(1)), "two steps apart"),
        "one less": (t_with(lambda h: 1 - _cosine(h[:, 1:], h[:, :-1]).mean(1)), "on a straight path"),
        "each hop": (t_with(lambda h: _cosine(h[:, 1:], h[:, :-1])), "shape"),
    },
    "23.needed": {
        "other side": (n_with(lambda n, reach, other, gap: n * (other / gap) ** 2), "the other side"),
        "half": (n_with(lambda n, reach, other, gap: n * ((reach + other) / 2 / gap) ** 2), "not equal"),
        "whole": (n_with(lambda n, reach, other, gap: n * ((reach + other) / gap) ** 2), "whole width"),
        "root": (n_with(lambda n, reach, other, gap: n * reach / gap), "square the quotient"),
        "upside down": (n_with(lambda n, reach, other, gap: n * (gap / reach) ** 2), "upside down"),
        "factor": (n_with(lambda n, reach, other, gap: (reach / gap) ** 2), "times n"),
        "more": (n_with(lambda n, reach, other, gap: 2 * n * (reach / gap) ** 2), "n times the square"),
        "zero on the edge": (lambda n, value, low, high, edge: 0.0 if value == edge else n_right(n, value, low, high, edge),
                             "math.inf"),
        "nothing": (lambda n, value, low, high, edge: None if value == edge else n_right(n, value, low, high, edge), "math.inf"),
        "a list": (lambda n, value, low, high, edge: math.inf if value == edge else [n_right(n, value, low, high, edge)],
                   "one number"),
    },
}
HONEST = {
    "23.tilt": {"number": 1.0, "int": 1, "tensor": torch.tensor(1.0)},
    "23.too_hard": {"number": 5.0, "int": 5},
    "23.paint": {"own words": p_right, "einsum": p_einsum, "loop": p_loop},
    "23.gain": {"own words": g_right, "numpy": g_numpy, "a list": g_list},
    "23.turning": {"unit hops": t_right, "numpy": t_numpy, "loop": t_loop},
    "23.needed": {"own words": n_right, "numpy": n_numpy, "tensor": n_tensor},
}
EQUIVALENT = {
    "23.paint": {"rest = shape - 1": "its sign falls out of the weighted mean"},
    "23.gain": {"return [d.mean(), torch.quantile(means, 0.025), torch.quantile(means, 0.975)]": "a list of three numbers"},
    "23.turning": {"return F.cosine_similarity(h[:, :-1], h[:, 1:], dim=2).mean(1)": "a cosine does not know an order"},
    "23.needed": {
        "reach = value - low if edge <= value else high - value": "the edge itself has returned before",
        "reach = low - value if edge < value else high - value": "the square takes the sign away",
        "reach = value - low if edge < value else value - high": "the square takes the sign away",
        "return n * (reach / (edge - value)) ** 2": "the square takes the sign away",
    },
}
ONCE: dict[str, dict[str, str]] = {}
