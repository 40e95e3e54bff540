"""Wrong and right answers to the exercises of lesson 14."""

from __future__ import annotations

import math

import numpy as np
import torch


# 14.sort
def _codes(replaced, missing, wrong_colour):
    return torch.where(replaced, 3, torch.where(missing, 1, torch.where(wrong_colour, 2, 0)))


def s_where(there, right, borrowed):
    return _codes((~there & borrowed).any(1), ~there.all(1), ~right.all(1))


def s_loop(there, right, borrowed):
    out = []
    for t, r, b in zip(there.tolist(), right.tolist(), borrowed.tolist()):
        if any(not x and y for x, y in zip(t, b)):
            out.append(3)
        elif not all(t):
            out.append(1)
        else:
            out.append(0 if all(r) else 2)
    return torch.tensor(out)


# 14.excite_loss, 14.presence_loss
def _p(a, words, sharpness, fill=float("-inf")):
    return torch.softmax((sharpness * a).masked_fill(~words.unsqueeze(1), fill), -1)


def x_loop(a, words, tokens, sharpness):
    out = []
    for row, mask in zip(a, words):
        index = mask.nonzero().flatten().tolist()
        p = torch.softmax(sharpness * row[:, index], -1)
        out.append(max(1 - p[:, index.index(t)].max() for t in tokens))
    return torch.stack(out)


def x_weights(a, words, tokens, sharpness):
    e = torch.exp(sharpness * (a - a.max())) * words[:, None]
    p = e / e.sum(-1, keepdim=True)
    return 1 - p[..., tokens].max(1).values.min(1).values


def h_loop(a, words, phrases, sharpness):
    out = 0
    for phrase in phrases:
        p = _p(a, words, sharpness)
        out = out + 1 - sum(p[:, :, k] for k in phrase).max(1).values
    return out / len(phrases)


def h_matrix(a, words, phrases, sharpness):
    m = torch.zeros(a.shape[-1], len(phrases), dtype=a.dtype)
    for k, phrase in enumerate(phrases):
        m[phrase, k] = 1
    return 1 - (_p(a, words, sharpness) @ m).amax(1).mean(1)


def _phrase(a, words, phrases, sharpness, inner="sum", outer="mean"):
    p = _p(a, words, sharpness)
    maps = [getattr(p[:, :, phrase], inner)(-1) for phrase in phrases]
    return getattr(torch.stack([1 - m.amax(1) for m in maps]), outer)(0)


# 14.step
def _len(x):
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def m_loop(z, gradient, share):
    out = z.clone()
    for i in range(len(z)):
        if gradient[i].norm() > 0:
            out[i] = z[i] - share * z[i].norm() / gradient[i].norm() * gradient[i]
    return out


def m_where(z, gradient, share):
    long = gradient.square().sum((1, 2, 3), keepdim=True).sqrt()
    return z - torch.where(long > 0, share * _len(z) / long, 0.0) * torch.where(long > 0, gradient, 0.0)


def _move(long, reach, sign=-1.0):
    """A step whose two lengths are taken as told: (z, gradient) -> numbers that broadcast."""
    def fn(z, gradient, share):
        return z + sign * share * reach(z, gradient) / long(z, gradient).clamp(min=1e-30) * gradient
    return fn


def row_g(z, g):
    return _len(g)


def row_z(z, g):
    return _len(z)


def all_g(z, g):
    return g.norm()


def all_z(z, g):
    return z.norm()


def one(z, g):
    return torch.ones(1)


# 14.distance
def _kl(p, q):
    return (p * (p / q).log()).sum((1, 2))


def _where(a, b):
    return a / a.sum((1, 2), keepdim=True), b / b.sum((1, 2), keepdim=True)


def d_both(a, b):
    p, q = _where(a, b)
    return (_kl(p, q) + _kl(q, p)) / 2


def d_flat(a, b):
    p, q = (x.flatten(1) / x.flatten(1).sum(1, keepdim=True) for x in (a, b))
    f = torch.nn.functional.kl_div
    return (f(q.log(), p, reduction="none").sum(1) + f(p.log(), q, reduction="none").sum(1)) / 2


def d_one(a, b):
    return _kl(*_where(a, b))


def d_mean(a, b):
    p, q = _where(a, b)
    m = (p + q) / 2
    return (_kl(p, m) + _kl(q, m)) / 2


# 14.composed
def _line(means, variances, weights, m0, v0, rest):
    precision = rest / v0 + sum(w / v for w, v in zip(weights, variances))
    pull = rest * m0 / v0 + sum(w * m / v for w, m, v in zip(weights, means, variances))
    return pull / precision, 1 / precision


def c_scores(means, variances, weights, m0, v0):
    """Slope and zero of the composed score, read at two points."""
    def score(x):
        s0 = (m0 - x) / v0
        return s0 + sum(w * ((m - x) / v - s0) for w, m, v in zip(weights, means, variances))
    slope = score(1.0) - score(0.0)
    return torch.tensor([-score(0.0) / slope, -1 / slope], dtype=torch.float64)


def c_tensors(means, variances, weights, m0, v0):
    m, v, w = (torch.tensor(x, dtype=torch.float64) for x in (means, variances, weights))
    rest = 1 - w.sum()
    p = rest / v0 + (w / v).sum()
    return torch.stack([(rest * m0 / v0 + (w * m / v).sum()) / p, 1 / p])


def c_mixture(means, variances, weights, m0, v0):
    total = sum(weights)
    mean = sum(w * m for w, m in zip(weights, means)) / total
    return torch.tensor([mean, sum(w * (v + m * m) for w, m, v in zip(weights, means, variances)) / total - mean**2])


def c_average(means, variances, weights, m0, v0):
    return torch.tensor([sum(w * x for w, x in zip(weights, xs)) / sum(weights) for xs in (means, variances)])


# 14.how_many
def n_numpy(differences, gain):
    return int(np.ceil((2.8 * np.std(differences.numpy(), ddof=1) / gain) ** 2))


def n_search(differences, gain):
    n, s = 1, float(differences.std())
    while gain - 2.8 * s / n**0.5 < 0:
        n += 1
    return n


# 14.place_term
def _share(maps, positions, radius, corner=0.5, over=None, square=False):
    b, k, h, w = maps.shape
    y = (torch.arange(h, dtype=maps.dtype) + corner) / (over[0] if over else h)
    x = (torch.arange(w, dtype=maps.dtype) + corner) / (over[1] if over else w)
    dx = (x - positions[:, :, 0, None]).abs()[:, :, None]
    dy = (y - positions[:, :, 1, None]).abs()[..., None]
    inside = torch.maximum(dx, dy) <= radius if square else torch.hypot(dx, dy) <= radius
    return torch.where(inside, maps, 0.0).sum((2, 3)) / maps.sum((2, 3))


def _term(share):
    return (1 - share).square().mean(1)


def p_line(maps, positions, radius):
    return 1 - _share(maps, positions, radius).mean(1)


def p_log(maps, positions, radius):
    return -_share(maps, positions, radius).clamp(min=1e-9).log().mean(1)


def p_loop(maps, positions, radius):
    b, k, h, w = maps.shape
    rows = []
    for n in range(b):
        total = 0.0
        for m in range(k):
            near = [maps[n, m, i, j] for i in range(h) for j in range(w)
                    if math.hypot((j + 0.5) / w - float(positions[n, m, 0]), (i + 0.5) / h - float(positions[n, m, 1])) <= radius]
            total = total + (1 - sum(near) / maps[n, m].sum()) ** 2
        rows.append(total / k)
    return torch.stack(rows)


def p_centroid(maps, positions, radius):
    """Lesson 13's: how far the centre of mass is from the place."""
    h, w = maps.shape[2:]
    x, y, mass = (torch.arange(w) + 0.5) / w, (torch.arange(h) + 0.5) / h, maps.sum((2, 3))
    at = torch.stack([(maps.sum(2) * x).sum(-1) / mass, (maps.sum(3) * y).sum(-1) / mass], -1)
    return (at - positions).abs().sum(-1).mean(1)


def p_count(maps, positions, radius):
    """Whether the brightest cell is inside."""
    return _term(_share((maps == maps.amax((2, 3), keepdim=True)).double(), positions, radius))


WRONG = {
    "14.sort": {"any object": (lambda t, r, b: _codes((~t).any(1) & b.any(1), (~t).any(1), (~r).any(1)), "ITS colour"),
                "missing first": (lambda t, r, b: torch.where((~t).any(1), 1, s_where(t, r, b)), "3 goes before 1"),
                "colour first": (lambda t, r, b: torch.where((~r).any(1), 2, 0), "all of them there"),
                "all gone": (lambda t, r, b: _codes((~t & b).any(1), (~t).all(1), (~r).any(1)), "one is enough"),
                "all colours": (lambda t, r, b: _codes((~t & b).any(1), (~t).any(1), (~r).all(1)), "All colours"),
                "borrowed": (lambda t, r, b: _codes(b.any(1), (~t).any(1), (~r).any(1)), "no failure"),
                "exchanged": (lambda t, r, b: torch.tensor([0, 2, 1, 3])[s_where(t, r, b)], ""),
                "a mask": (lambda t, r, b: ~r.all(1), "whole numbers"),
                "one number": (lambda t, r, b: s_where(t, r, b).sum(), "shape")},
    "14.competition": {"alone": (1 / (1 + 8 * math.exp(-4)), "same map"), "both": (2 / (2 + 8 * math.exp(-4)), "both words"),
                       "raw": (0.06 / 0.28, "without 100"), "no factor": (1 / (2 + 8 * math.exp(-0.04)), "hardly"),
                       "half": (0.5, "take a little"), "loss": (1 - 1 / (2 + 8 * math.exp(-4)), "loss"), "tenth": (0.1, "alike"),
                       "peak": (0.06, "eight")},
    "14.excite_loss": {
        "all tokens": (lambda a, w, t, s: (1 - (s * a).softmax(-1)[:, :, t].amax(1)).amax(1), "begin token"),
        "raw": (lambda a, w, t, s: (1 - a[:, :, t].amax(1)).amax(1), "do not compete"),
        "over places": (lambda a, w, t, s: (1 - (s * a).softmax(1)[:, :, t].amax(1)).amax(1), "over the places"),
        "mean": (lambda a, w, t, s: (1 - _p(a, w, s)[:, :, t].amax(1)).mean(1), "worst one"),
        "best": (lambda a, w, t, s: (1 - _p(a, w, s)[:, :, t].amax(1)).amin(1), "best token"),
        "sum": (lambda a, w, t, s: (1 - _p(a, w, s)[:, :, t].amax(1)).sum(1), "Sum"),
        "place mean": (lambda a, w, t, s: (1 - _p(a, w, s)[:, :, t].mean(1)).amax(1), "one high place"),
        "batch": (lambda a, w, t, s: (1 - _p(a, w, s)[:, :, t].amax(1)).max().expand(len(a)), "whole batch"),
        "peak": (lambda a, w, t, s: _p(a, w, s)[:, :, t].amax(1).amax(1), "1 minus"),
        "dull": (lambda a, w, t, s: x_loop(a, w, t, 1.0), "Sharpness"),
        "zeros": (lambda a, w, t, s: (1 - (s * a * w[:, None]).softmax(-1)[:, :, t].amax(1)).amax(1), "score 0")},
    "14.kernel": {"asked": (0.5, "asked for"), "outside": (1.0, "outside the square"), "narrower": (0.5 / 2**0.5, "other way"),
                  "root": (2**0.5, "which width"), "square": (0.25, "0.5 squared"), "tenth": (0.1, "equal to")},
    "14.decay": {"comment": (20 * (1 - 12 / 49), "comment says"), "end": (20 * 0.5**0.5, "end of the table"),
                 "end by comment": (10.0, "by the comment"), "fifty": (20 * (1 - 12 / 50) ** 0.5, "by 49"),
                 "one late": (20 * (1 - 12.5 / 49) ** 0.5, "from 0"), "factor": ((1 - 12 / 49) ** 0.5, "factor of 20"),
                 "start": (20.0, "entry 24")},
    "14.step": {"batch": (_move(all_g, all_z), "whole batch"), "batch gradient": (_move(all_g, row_z), "gradient's length"),
                "batch latent": (_move(row_g, all_z), "|z| is that"), "raw": (_move(one, row_z), "brought to length 1"),
                "share alone": (_move(row_g, one), "not share of"), "up": (_move(row_g, row_z, 1.0), "up the gradient"),
                "step alone": (lambda z, g, s: m_loop(z, g, s) - z, "should stay"),
                "nan": (lambda z, g, s: z - s * _len(z) / _len(g) * g, "NaN"),
                "step only": (lambda z, g, s: torch.where(_len(g) > 0, m_loop(z, g, s) - z, z), "step alone"),
                "flat": (lambda z, g, s: m_loop(z, g, s).flatten(1), "shape")},
    "14.presence_loss": {
        "worst": (lambda a, w, p, s: _phrase(a, w, p, s, outer="amax"), "worst"),
        "sum": (lambda a, w, p, s: _phrase(a, w, p, s, outer="sum"), "summed"),
        "mean words": (lambda a, w, p, s: _phrase(a, w, p, s, inner="mean"), "averaged"),
        "strongest": (lambda a, w, p, s: _phrase(a, w, p, s, inner="amax"), "strongest"),
        "each word": (
            lambda a, w, p, s: torch.stack([(1 - _p(a, w, s)[:, :, q].amax(1)).mean(1) for q in p]).mean(0), "its own"),
        "late": (
            lambda a, w, p, s: torch.stack([1 - _p(a, w, s)[:, :, q].amax(1).sum(1) for q in p]).mean(0), "different places"),
        "nouns": (lambda a, w, p, s: _phrase(a, w, [q[-1:] for q in p], s), "last word"),
        "raw": (lambda a, w, p, s: torch.stack([1 - a[:, :, q].sum(-1).amax(1) for q in p]).mean(0), "no softmax"),
        "all tokens": (lambda a, w, p, s: _phrase(a, torch.ones_like(w), p, s), "begin token"),
        "dull": (lambda a, w, p, s: _phrase(a, w, p, 1.0), "Sharpness"),
        "place mean": (
            lambda a, w, p, s: torch.stack([1 - _p(a, w, s)[:, :, q].sum(-1).mean(1) for q in p]).mean(0), "one high")},
    "14.distance": {"raw": (lambda a, b: (_kl(a, b) + _kl(b, a)) / 2, "divided by their sums"), "one": (d_one, "One direction"),
                    "other": (lambda a, b: d_one(b, a), "other one"), "sum": (lambda a, b: 2 * d_both(a, b), "half"),
                    "js": (d_mean, "Jensen"), "bits": (lambda a, b: d_both(a, b) / math.log(2), "base of 2"),
                    "lines": (lambda a, b: (_kl(a / a.sum(2, keepdim=True), b / b.sum(2, keepdim=True))
                                            + _kl(b / b.sum(2, keepdim=True), a / a.sum(2, keepdim=True))) / 2, "line"),
                    "batch": (lambda a, b: (_kl(a / a.sum(), b / b.sum()) + _kl(b / b.sum(), a / a.sum())) / 2, "batch"),
                    "mean": (lambda a, b: d_both(a, b) / a[0].numel(), "sum"),
                    "absolute": (lambda a, b: (_where(a, b)[0] - _where(a, b)[1]).abs().sum((1, 2)) / 2, "another distance")},
    "14.composed": {
        "no empty": (lambda m, v, w, m0, v0: torch.tensor(_line(m, v, w, m0, v0, 0.0)), "left out"),
        "whole empty": (lambda m, v, w, m0, v0: torch.tensor(_line(m, v, w, m0, v0, 1.0)), "not taken off"),
        "mixture": (c_mixture, "mixture"), "average": (c_average, "precisions"),
        "precision": (lambda *a: torch.stack([c_scores(*a)[0], 1 / c_scores(*a)[1]]), "1 over it"),
        "deviation": (lambda *a: torch.stack([c_scores(*a)[0], c_scores(*a)[1] ** 0.5]), "standard deviation"),
        "exchanged": (lambda *a: c_scores(*a).flip(0), "exchanged"),
        "pull": (lambda *a: torch.stack([c_scores(*a)[0] / c_scores(*a)[1], c_scores(*a)[1]]), "not divided"),
        "unweighted": (lambda m, v, w, m0, v0: c_scores(m, v, [1.0] * len(w), m0, v0), "weights are left out"),
        "sign": (lambda m, v, w, m0, v0: torch.tensor(_line(m, v, w, m0, v0, sum(w) - 1)), "turned"),
        "centred": (lambda m, v, w, m0, v0: c_scores(m, v, w, 0.0, v0), "as 0")},
    "14.how_many": {"half": (lambda d, g: math.ceil((1.96 * float(d.std()) / g) ** 2), "half of the repetitions"),
                    "biased": (lambda d, g: math.ceil((2.8 * float(d.std(correction=0)) / g) ** 2), "m - 1"),
                    "no square": (lambda d, g: math.ceil(2.8 * float(d.std()) / g), "square is missing"),
                    "no interval": (lambda d, g: math.ceil((0.84 * float(d.std()) / g) ** 2), "1.96"),
                    "own mean": (lambda d, g: math.ceil((2.8 * float(d.std()) / float(d.mean())) ** 2), "own mean"),
                    "down": (lambda d, g: math.floor((2.8 * float(d.std()) / g) ** 2), "Round up"),
                    "spread": (lambda d, g: math.ceil(2.8**2 * float(d.std()) / g**2), "not squared"),
                    "unpaired": (lambda d, g: math.ceil(2 * (2.8 * float(d.std()) / g) ** 2), "paired"),
                    "difference": (lambda d, g: math.ceil((1.12 * float(d.std()) / g) ** 2), "are added")},
    "14.place_term": {
        "swapped": (lambda m, at, r: p_line(m, at.flip(-1), r), "exchanged"),
        "corner": (lambda m, at, r: _term(_share(m, at, r, corner=0.0)), "corner"),
        "linspace": (lambda m, at, r: _term(_share(m, at, r, 0.0, (m.shape[2] - 1, m.shape[3] - 1))), "different sizes"),
        "radius": (lambda m, at, r: p_line(m, at, r**0.5), "square that"),
        "square": (lambda m, at, r: _term(_share(m, at, r, square=True)), "disc"),
        "outside": (lambda m, at, r: _term(1 - _share(m, at, r)), "Outside and inside"),
        "share": (lambda m, at, r: 1 + _share(m, at, r).mean(1), "Something is left"),
        "radius squared": (lambda m, at, r: p_line(m, at, 2 * r), "radius only"),
        "centroid": (p_centroid, ""),
        "amount": (lambda m, at, r: ((1 - _share(m, at, r)) * m.sum((2, 3))).mean(1), "HOW MUCH"),
        "sum": (lambda m, at, r: (1 - _share(m, at, r)).sum(1), "mean over the things"),
        "worst": (lambda m, at, r: (1 - _share(m, at, r)).amax(1), "not the worst"),
        "batch": (lambda m, at, r: p_line(m, at, r) * p_line(m, at, r).max(), "other rows"),
        "saturates": (lambda m, at, r: (2 * (1 - _share(m, at, r))).clamp(max=1).mean(1), "every bit"),
        "count": (p_count, "every bit"),
        "dead": (lambda m, at, r: p_line(m.detach(), at, r), "no gradient"),
        "one number": (lambda m, at, r: p_line(m, at, r).mean(), "shape")},
}

HONEST = {
    "14.sort": {"where": s_where, "loop": s_loop},
    "14.competition": {"rounded": 0.466, "formula": math.exp(6) / (2 * math.exp(6) + 8 * math.exp(2))},
    "14.excite_loss": {"loop": x_loop, "weights": x_weights},
    "14.kernel": {"rounded": 0.707, "root": 0.5**0.5},
    "14.decay": {"rounded": 17.38, "numpy": float(20 * np.sqrt(np.linspace(1, 0.5, 50)[24]))},
    "14.step": {"loop": m_loop, "where": m_where},
    "14.presence_loss": {"loop": h_loop, "matrix": h_matrix},
    "14.distance": {"both": d_both, "flat": d_flat},
    "14.composed": {"scores": c_scores, "tensors": c_tensors},
    "14.how_many": {"numpy": n_numpy, "search": n_search},
    "14.place_term": {"line": p_line, "log": p_log, "loop": p_loop},
}

WHOLE, SAME = "a float or a 0-d tensor, the same number", "a tensor or a list of two numbers"
EQUIVALENT = {
    "14.sort": {"out = torch.zeros(len(right), dtype=torch.int64)": "as many rows",
                "out = torch.zeros(len(borrowed), dtype=torch.int64)": "as many rows"},
    "14.competition": {"return 1 / (2 + 8 * math.exp(100 * (0.01998 - 0.06)))": "0.466 all the same",
                       "return 1 / (2 + 8 * math.exp(100 * (0.02 - 0.05994)))": "0.466 all the same"},
    "14.distance": {"return ((p - q) * (p.log() - b.log())).sum((1, 2)) / 2": "a constant more, and p - q sums to 0",
                    "return ((p - q) * (a.log() - q.log())).sum((1, 2)) / 2": "a constant more, and p - q sums to 0"},
    "14.composed": {"pull = rest * mean_0 / variance_0 + sum((w * m / v for w, m, v in zip(means, weights, variances)))":
                    "w m is m w", "return [pull / precision, 1 / precision]": SAME},
    "14.kernel": {"return 0.4995 * 2 ** 0.5": "0.707 to a thousandth", "return 0.5 * 2 ** 0.4995": "0.707 to a thousandth"},
    "14.decay": {"return 20 * (1 - 0.5 * 24 / 49) ** 0.4995": "17.38 to a hundredth",
                 "return 20 * (1 - 0.4995 * 24 / 49) ** 0.5": "17.38 to a hundredth"},
    "14.step": {"direction = torch.nn.functional.normalize(gradient.flatten(1), dim=1).view_as(gradient)": "z has its shape",
                "direction = torch.nn.functional.normalize(gradient.flatten(1)).view_as(z)": "1 is the default"},
    "14.how_many": {"return math.ceil(float(((1.96 + 0.84) * spread / gain) ** 2))": WHOLE,
                    "return math.ceil(((1.96 + 0.84) * spread / gain) ** 2)": WHOLE,
                    "return math.ceil((float((1.96 + 0.84) * spread) / gain) ** 2)": WHOLE},
    "14.place_term": {"inside = (x - at[:, :, 0]) ** 2 + (y - at[:, :, 1]) ** 2 < radius ** 2": "no middle lies on the border",
                      "share = maps.sum((2, 3)) / (maps * inside).sum((2, 3))": "a design: steeper far off",
                      "return ((1 - share) * 2).mean(1)": "a design: twice the line", "return (1 - share).mean(1)": "a line",
                      "return ((1 - share) ** 1).mean(1)": "a design: a line",
                      "return ((1 - share) ** 3).mean(1)": "a design: a cube",
                      "x, y = ((torch.arange(w) + 0.4995) / w, ((torch.arange(h) + 0.5) / h)[:, None])":
                      "a thousandth of a cell moves no middle across a border",
                      "x, y = ((torch.arange(w) + 0.5) / w, ((torch.arange(h) + 0.4995) / h)[:, None])":
                      "a thousandth of a cell moves no middle across a border"},
}
ONCE = {"14.place_term": {"positions, axis 2: 2": "x and y"}}
