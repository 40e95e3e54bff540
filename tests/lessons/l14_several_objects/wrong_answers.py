"""Wrong and right answers to the exercises of lesson 14."""

from __future__ import annotations

import math

import numpy as np
import torch


# 14.sort
def _codes(merged, missing, leaked):
    return torch.where(merged, 3, torch.where(missing, 1, torch.where(leaked, 2, 0)))


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


# 14.excite_loss, 14.phrase_loss
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


# 14.kernel
def _d2():
    d = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    return d[:, None] ** 2 + d**2


def _unit(k):
    return k / k.sum()


def k_outer(sigma):
    line = torch.exp(-0.5 * (torch.arange(-1, 2, dtype=torch.float64) / sigma) ** 2)
    return torch.outer(line / line.sum(), line / line.sum())


def k_numpy(sigma):
    y, x = np.mgrid[-1:2, -1:2]
    k = np.exp(-(x**2 + y**2) / (2.0 * sigma**2))
    return torch.tensor(k / k.sum())


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
    return int(np.ceil((1.96 * np.std(differences.numpy(), ddof=1) / gain) ** 2))


def n_search(differences, gain):
    n, s = 1, float(differences.std())
    while gain - 1.96 * s / n**0.5 < 0:
        n += 1
    return n


# 14.place_energy
def _share(maps, positions, radius, corner=0.5, over=None, square=False):
    b, k, h, w = maps.shape
    y = (torch.arange(h, dtype=maps.dtype) + corner) / (over[0] if over else h)
    x = (torch.arange(w, dtype=maps.dtype) + corner) / (over[1] if over else w)
    dx = (x - positions[:, :, 0, None]).abs()[:, :, None]
    dy = (y - positions[:, :, 1, None]).abs()[..., None]
    inside = torch.maximum(dx, dy) <= radius if square else torch.hypot(dx, dy) <= radius
    return torch.where(inside, maps, 0.0).sum((2, 3)) / maps.sum((2, 3))


def _energy(peaks, share, weight):
    return 1 - peaks.mean(1) + weight * (1 - share).square().mean(1)


def e_hypot(maps, peaks, positions, radius, weight):
    return _energy(peaks, _share(maps, positions, radius), weight)


def e_loop(maps, peaks, positions, radius, weight):
    b, k, h, w = maps.shape
    out = []
    for n in range(b):
        total = 0.0
        for m in range(k):
            x, y = positions[n, m].tolist()
            inside = sum(float(maps[n, m, i, j]) for i in range(h) for j in range(w)
                         if math.hypot((j + 0.5) / w - x, (i + 0.5) / h - y) <= radius)
            total += 1 - float(peaks[n, m]) + weight * (1 - inside / float(maps[n, m].sum())) ** 2
        out.append(total / k)
    return torch.tensor(out, dtype=torch.float64)


WRONG = {
    "14.sort": {"any object": (lambda t, r, b: _codes((~t).any(1) & b.any(1), (~t).any(1), (~r).any(1)), "ITS colour"),
                "missing first": (lambda t, r, b: torch.where((~t).any(1), 1, s_where(t, r, b)), "3 goes before 1"),
                "leaked first": (lambda t, r, b: torch.where((~r).any(1), 2, 0), "all of them there"),
                "all gone": (lambda t, r, b: _codes((~t & b).any(1), (~t).all(1), (~r).any(1)), "one is enough"),
                "all leaked": (lambda t, r, b: _codes((~t & b).any(1), (~t).any(1), (~r).all(1)), "All colours"),
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
    "14.kernel": {"published": (lambda s: _unit(torch.exp(-_d2() / (4 * s**2))), "published"),
                  "no two": (lambda s: _unit(torch.exp(-_d2() / s**2)), "2 is missing"),
                  "no sum": (lambda s: torch.exp(-_d2() / (2 * s**2)), "sum to 1"),
                  "density": (lambda s: torch.exp(-_d2() / (2 * s**2)) / (2 * math.pi * s**2), "own factor"),
                  "no square": (lambda s: _unit(torch.exp(-_d2().sqrt() / (2 * s**2))), "without its square"),
                  "variance": (lambda s: _unit(torch.exp(-_d2() / (2 * s))), "not squared"),
                  "box": (lambda s: torch.full((3, 3), 1 / 9), "box"), "line": (lambda s: k_outer(s).sum(0), "shape")},
    "14.phrase_loss": {
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
    "14.how_many": {"biased": (lambda d, g: math.ceil((1.96 * float(d.std(correction=0)) / g) ** 2), "m - 1"),
                    "no square": (lambda d, g: math.ceil(1.96 * float(d.std()) / g), "square is missing"),
                    "one error": (lambda d, g: math.ceil((float(d.std()) / g) ** 2), "1.96"),
                    "own mean": (lambda d, g: math.ceil((1.96 * float(d.std()) / float(d.mean())) ** 2), "own mean"),
                    "down": (lambda d, g: math.floor((1.96 * float(d.std()) / g) ** 2), "Round up"),
                    "spread": (lambda d, g: math.ceil(1.96**2 * float(d.std()) / g**2), "not squared"),
                    "unpaired": (lambda d, g: math.ceil(2 * (1.96 * float(d.std()) / g) ** 2), "paired")},
    "14.place_energy": {
        "swapped": (lambda m, p, at, r, w: e_hypot(m, p, at.flip(-1), r, w), "exchanged"),
        "corner": (lambda m, p, at, r, w: _energy(p, _share(m, at, r, corner=0.0), w), "corner"),
        "linspace": (lambda m, p, at, r, w: _energy(
            p, _share(m, at, r, corner=0.0, over=(m.shape[2] - 1, m.shape[3] - 1)), w), "different sizes"),
        "radius": (lambda m, p, at, r, w: e_hypot(m, p, at, r**0.5, w), "square that"),
        "square": (lambda m, p, at, r, w: _energy(p, _share(m, at, r, square=True), w), "disc"),
        "no sum": (lambda m, p, at, r, w: _energy(p, _share(m, at, r) * m.sum((2, 3)), w), "own sum"),
        "cells": (lambda m, p, at, r, w: _energy(p, _share(m, at, r) * m.mean((2, 3)), w), "number of cells"),
        "outside": (lambda m, p, at, r, w: _energy(p, 1 - _share(m, at, r), w), "outside"),
        "places only": (lambda m, p, at, r, w: e_hypot(m, torch.ones_like(p), at, r, w), "nothing keeps"),
        "no weight": (lambda m, p, at, r, w: e_hypot(m, p, at, r, 1.0), "weight is missing"),
        "no square": (lambda m, p, at, r, w: 1 - p.mean(1) + w * (1 - _share(m, at, r)).mean(1), "square is missing"),
        "sum": (lambda m, p, at, r, w: m.shape[1] * e_hypot(m, p, at, r, w), "summed"),
        "worst": (lambda m, p, at, r, w: e_hypot(m, p.amin(1, keepdim=True), at, r, w), "worst"),
        "peaks": (lambda m, p, at, r, w: e_hypot(m, 1 - p, at, r, w), "wrong sign")},
}

HONEST = {
    "14.sort": {"where": s_where, "loop": s_loop},
    "14.competition": {"rounded": 0.466, "formula": math.exp(6) / (2 * math.exp(6) + 8 * math.exp(2))},
    "14.excite_loss": {"loop": x_loop, "weights": x_weights},
    "14.kernel": {"outer": k_outer, "numpy": k_numpy},
    "14.phrase_loss": {"loop": h_loop, "matrix": h_matrix},
    "14.distance": {"both": d_both, "flat": d_flat},
    "14.composed": {"scores": c_scores, "tensors": c_tensors},
    "14.how_many": {"numpy": n_numpy, "search": n_search},
    "14.place_energy": {"hypot": e_hypot, "loop": e_loop},
}

WHOLE, SAME = "a float or a 0-d tensor, the same number", "a tensor or a list of two numbers"
EQUIVALENT = {
    "14.sort": {"out = torch.zeros(len(right), dtype=torch.int64)": "as many rows",
                "out = torch.zeros(len(borrowed), dtype=torch.int64)": "as many rows"},
    "14.competition": {"return 1 / (2 + 8 * math.exp(100 * (0.01998 - 0.06)))": "0.466 all the same",
                       "return 1 / (2 + 8 * math.exp(100 * (0.02 - 0.05994)))": "0.466 all the same"},
    "14.kernel": {"d = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)": "the distance is squared",
                  "d = torch.tensor([-1.0, 0.0, 1.0])": "float32 is enough"},
    "14.distance": {"return ((p - q) * (p.log() - b.log())).sum((1, 2)) / 2": "a constant more, and p - q sums to 0",
                    "return ((p - q) * (a.log() - q.log())).sum((1, 2)) / 2": "a constant more, and p - q sums to 0"},
    "14.composed": {"pull = rest * mean_0 / variance_0 + sum((w * m / v for w, m, v in zip(means, weights, variances)))":
                    "w m is m w", "return [pull / precision, 1 / precision]": SAME},
    "14.how_many": {"return math.ceil(float((1.96 * spread / gain) ** 2))": WHOLE,
                    "return math.ceil((float(1.96 * spread) / gain) ** 2)": WHOLE,
                    "return math.ceil((1.96 * spread / gain) ** 2)": WHOLE},
    "14.place_energy": {"x, y = ((torch.arange(w) + 0.5) / w, ((torch.arange(h) + 0.4995) / h)[:, None])":
                        "a thousandth of a cell moves no middle across a border",
                        "inside = (x - at[:, :, 0]) ** 2 + (y - at[:, :, 1]) ** 2 < radius ** 2": "no middle lies on the border"},
}
ONCE = {"14.place_energy": {"positions, axis 2: 2": "x and y"}}
