"""Wrong and right answers to the exercises of lesson 13."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


# 13.centroid
def _place(a, x, y, mass=None):
    mass = a.sum((1, 2)) if mass is None else mass
    return torch.stack([(a.sum(1) * x).sum(-1) / mass, (a.sum(2) * y).sum(-1) / mass], -1)


def _cells(a):
    return torch.arange(a.shape[2]).double(), torch.arange(a.shape[1]).double()


def c_einsum(a):
    h, w = a.shape[1:]
    p = a / a.sum((1, 2), keepdim=True)
    grid = torch.stack(torch.meshgrid((torch.arange(w) + 0.5) / w, (torch.arange(h) + 0.5) / h, indexing="xy")).to(a)
    return torch.einsum("bhw,khw->bk", p, grid)


def c_numpy(a):
    a = a.numpy()
    h, w = a.shape[1:]
    rows, columns = np.mgrid[0:h, 0:w]
    return torch.tensor([[((columns + 0.5) / w * m).sum() / m.sum(), ((rows + 0.5) / h * m).sum() / m.sum()] for m in a])


def c_corner(a):
    x, y = _cells(a)
    return _place(a, x / a.shape[2], y / a.shape[1])


def c_linspace(a):
    return _place(a, torch.linspace(0, 1, a.shape[2]).double(), torch.linspace(0, 1, a.shape[1]).double())


def c_signed(a):
    return 2 * c_einsum(a) - 1


def c_swapped(a):
    return c_einsum(a).flip(-1)


def c_cells(a):
    x, y = _cells(a)
    return _place(a, x + 0.5, y + 0.5)


def c_no_mass(a):
    x, y = _cells(a)
    return _place(a, (x + 0.5) / a.shape[2], (y + 0.5) / a.shape[1], mass=1.0)


def c_over_cells(a):
    x, y = _cells(a)
    return _place(a, (x + 0.5) / a.shape[2], (y + 0.5) / a.shape[1], mass=a.shape[1] * a.shape[2])


# 13.normalise
def _stretch(m, *axes):
    low, high = m.amin(axes, keepdim=True), m.amax(axes, keepdim=True)
    return (m - low) / (high - low)


def n_flat(m):
    n, h, w, k = m.shape
    x = m.permute(0, 3, 1, 2).reshape(n * k, -1)
    x = (x - x.min(1, keepdim=True).values) / (x.max(1, keepdim=True).values - x.min(1, keepdim=True).values)
    return x.view(n, k, h, w).permute(0, 2, 3, 1)


def n_loop(m):
    out = torch.empty_like(m)
    for i in range(m.shape[0]):
        for j in range(m.shape[3]):
            a = m[i, :, :, j]
            out[i, :, :, j] = (a - a.min()) / (a.max() - a.min())
    return out


# 13.shift_map
def s_floor(a, d):
    w = a.shape[-1]
    padded = F.pad(a, (w, w))
    cells = d * w
    whole = cells.floor().long()
    part = (cells - whole)[:, None, None]
    rows = [torch.stack([p[:, w - k:2 * w - k], p[:, w - k - 1:2 * w - k - 1]]) for p, k in zip(padded, whole.tolist())]
    near, far = torch.stack(rows, 1)
    return (1 - part) * near + part * far


def s_loop(a, d):
    out = torch.zeros_like(a)
    for b in range(len(a)):
        for j in range(a.shape[2]):
            at = j - float(d[b]) * a.shape[2]
            for i in range(a.shape[2]):
                out[b, :, j] += max(0.0, 1 - abs(at - i)) * a[b, :, i]
    return out


def s_grid_sample(a, d):
    b, h, w = a.shape
    theta = torch.zeros(b, 2, 3, dtype=a.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 0, 2] = -2 * d
    return F.grid_sample(a[:, None], F.affine_grid(theta, (b, 1, h, w), align_corners=False), align_corners=False)[:, 0]


def s_roll(a, d):
    return torch.stack([m.roll(round(float(x) * m.shape[-1]), -1) for m, x in zip(a, d)])


def s_wrapped(a, d):
    whole = (d * a.shape[-1]).floor()
    part = (d * a.shape[-1] - whole)[:, None, None]
    near, far = (torch.stack([m.roll(int(k) + n, -1) for m, k in zip(a, whole)]) for n in (0, 1))
    return (1 - part) * near + part * far


# 13.push
def p_loop(eps, gradient, share):
    out = eps.clone()
    for i in range(len(eps)):
        if gradient[i].abs().max() > 0:
            out[i] += share * eps[i].norm() * gradient[i] / gradient[i].norm()
    return out


def _rows(x):
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def p_eps(eps, gradient, share):
    rows = [(1, 2, 3)]
    n = gradient.square().sum(rows[0], keepdim=True).sqrt()
    return eps + share * eps.square().sum(rows[0], keepdim=True).sqrt() * gradient / n.clamp(min=1e-20)


def p_nan(eps, gradient, share):
    n = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return eps + share * eps.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * gradient / n


# 13.move_energy
def e_l1(shape, target, place, goal, others, before):
    return torch.stack([F.l1_loss(a, b) + F.l1_loss(p, g) / 2 + F.l1_loss(o, r)
                        for a, b, p, g, o, r in zip(shape, target, place, goal, others, before)])


def e_each(shape, target, place, goal, others, before):
    kept = sum((others[:, k] - before[:, k]).abs().flatten(1).mean(1) for k in range(others.shape[1])) / others.shape[1]
    return (shape - target).abs().flatten(1).mean(1) + (place - goal).abs().sum(1) / 4 + kept


# 13.success
def u_numpy(requested, got, drift, tolerance):
    far = np.hypot(*(got - requested).numpy().T)
    other = np.hypot(*drift.numpy().T)
    return float(np.mean((far < tolerance) & (other < tolerance)))


def u_loop(requested, got, drift, tolerance):
    good = 0
    for a, g, d in zip(requested, got, drift):
        if (g - a).square().sum().sqrt() < tolerance and d.square().sum().sqrt() < tolerance:
            good += 1
    return good / len(requested)


def _parts(requested, got, drift, tolerance):
    return (got - requested).norm(dim=1), drift.norm(dim=1)


def u_survivors(requested, got, drift, tolerance):
    err, far = _parts(requested, got, drift, tolerance)
    there = ~(err.isnan() | far.isnan())
    return ((err < tolerance) & (far < tolerance))[there].double().mean()


def u_lost_is_good(requested, got, drift, tolerance):
    err, far = _parts(requested, got, drift, tolerance)
    return (~(err >= tolerance) & ~(far >= tolerance)).double().mean()


# 13.look
def l_einsum(shape, features):
    w = F.interpolate(shape[:, None], size=tuple(features.shape[2:]), mode="bilinear", align_corners=False)[:, 0]
    w = w / w.flatten(1).sum(1)[:, None, None]
    return torch.einsum("bhw,bchw->bc", w, features)


def l_loop(shape, features):
    out = []
    for s, f in zip(shape, features):
        w = F.interpolate(s[None, None], size=f.shape[-2:], mode="bilinear")[0]
        out.append((f * w).sum((1, 2)) / w.sum())
    return torch.stack(out)


def _weight(shape, features, mode="bilinear", **options):
    return F.interpolate(shape[:, None], size=features.shape[-2:], mode=mode, **options)


WRONG = {
    "13.centroid": {"corner": (c_corner, "corner"), "linspace": (c_linspace, "linspace"), "signed": (c_signed, "-1 to 1"),
                    "swapped": (c_swapped, "exchanged"), "cells": (c_cells, "in cells"),
                    "no mass": (c_no_mass, "mass is missing"),
                    "cell count": (c_over_cells, "number of cells"),
                    "one number": (lambda a: a.mean((1, 2)), "shape")},
    "13.raw_slope": {"all": (1.0, "without any background"), "one": (1 / 4.15, "nearly"), "cells": (0.687, "in cells"),
                     "rest": (0.95 / 3.15, "bright cell"), "share": (0.05, "one cell"),
                     "still": (1 - 0.95 / 4.15, "does not move"),
                     "sides": (3 * 0.95 / 4.15 / 8, "shares of the side"), "other": (0.5, "moved mass")},
    "13.normalise": {"published": (lambda m: _stretch(m, 2, 3), "published"), "lines": (lambda m: _stretch(m, 2), "line"),
                     "words": (lambda m: _stretch(m, 1, 2, 3), "words share"), "places": (lambda m: _stretch(m, 3), "words only"),
                     "all": (lambda m: _stretch(m, 0, 1, 2, 3), "everything"),
                     "columns": (lambda m: _stretch(m, 1), "column"),
                     "pictures": (lambda m: _stretch(m, 0, 1, 2), "pictures share"),
                     "by maximum": (lambda m: (m - m.amin((1, 2), keepdim=True)) / m.amax((1, 2), keepdim=True), "max - min"),
                     "undivided": (lambda m: m - m.amin((1, 2), keepdim=True), "not divided"),
                     "maximum": (lambda m: m / m.amax((1, 2), keepdim=True), "minimum off")},
    "13.shift_map": {"left": (lambda a, d: s_loop(a, -d), "left"), "roll": (s_roll, ""), "wrapped": (s_wrapped, "comes back"),
                     "whole": (lambda a, d: s_loop(a, (d * a.shape[2]).round() / a.shape[2]), "whole cells"),
                     "half": (lambda a, d: s_loop(a, d / 2), "half as long"), "dust": (s_grid_sample, "bit for bit"),
                     "down": (lambda a, d: s_loop(a.transpose(1, 2), d).transpose(1, 2), "down"),
                     "one shift": (lambda a, d: s_loop(a, d[:1].expand(len(a))), "first one"),
                     "cells": (lambda a, d: s_loop(a, d / a.shape[2]), "d w")},
    "13.push": {"down": (lambda e, g, s: 2 * e - p_loop(e, g, s), "added"), "raw": (lambda e, g, s: e + s * g, "raw"),
                "batch": (lambda e, g, s: e + s * e.norm() / g.norm() * g, "neighbours"), "nan": (p_nan, "0 / 0"),
                "unit": (lambda e, g, s: e + s * g / g.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1), "length share"),
                "squared": (lambda e, g, s: e + s * _rows(e) * g / (_rows(g) ** 2).clamp(min=1e-30), "square of the length"),
                "sign": (lambda e, g, s: p_loop(e, g.sign(), s), "sign of the gradient"),
                "no share": (lambda e, g, s: p_loop(e, g, 1.0), "share is missing"),
                "only": (lambda e, g, s: p_loop(e, g, s) - e, "only the push")},
    "13.move_energy": {
        "signed": (lambda s, t, p, g, o, b: (s - t).mean((1, 2)) + 0.5 * (p - g).mean(1) + (o - b).mean((1, 2, 3)), "absolute"),
        "square": (lambda s, t, p, g, o, b: (s - t).square().mean((1, 2)) + 0.5 * (p - g).square().mean(1)
                   + (o - b).square().mean((1, 2, 3)), "square"),
        "unkept": (lambda s, t, p, g, o, b: (s - t).abs().mean((1, 2)) + 0.5 * (p - g).abs().mean(1), "nothing keeps"),
        "no half": (lambda s, t, p, g, o, b: e_l1(s, t, p, g, o, b) + 0.5 * (p - g).abs().mean(1), "twice as much"),
        "sums": (lambda s, t, p, g, o, b: (s - t).abs().sum((1, 2)) + 0.5 * (p - g).abs().sum(1) + (o - b).abs().sum((1, 2, 3)),
                 "finer"),
        "no place": (lambda s, t, p, g, o, b: e_l1(s, t, p, p, o, b), "left out"),
        "halved": (lambda s, t, p, g, o, b: e_l1(s, t, p, g, o, b) / 2, "whole sum"),
        "others summed": (lambda s, t, p, g, o, b: e_l1(s, t, p, g, o, b) + (o.shape[1] - 1) * (o - b).abs().mean((1, 2, 3)),
                          "more things"),
        "one number": (lambda s, t, p, g, o, b: e_l1(s, t, p, g, o, b).mean(), "shape")},
    "13.success": {"survivors": (u_survivors, "survivors"), "lost": (u_lost_is_good, "lost thing"),
                   "either": (lambda a, g, d, t: ((((g - a).norm(dim=1) < t) | (d.norm(dim=1) < t)).double().mean()), "enough"),
                   "product": (lambda a, g, d, t: ((g - a).norm(dim=1) < t).double().mean() * (d.norm(dim=1) < t).double().mean(),
                               "multiply"),
                   "moved": (lambda a, g, d, t: ((g - a).norm(dim=1) < t).double().mean(), "other thing"),
                   "other only": (lambda a, g, d, t: (d.norm(dim=1) < t).double().mean(), "moved thing is left"),
                   "way": (lambda a, g, d, t: u_loop(torch.zeros_like(a), g, d, t), "way itself"),
                   "by axis": (lambda a, g, d, t: (((g - a).abs() < t).all(1) & (d.abs() < t).all(1)).double().mean(),
                               "one by one"),
                   "number": (lambda a, g, d, t: u_loop(a, g, d, t) * len(a), "divide by n")},
    "13.appearance": {"mean": (lambda s, f: f.mean((2, 3)), "no effect"),
                "area": (lambda s, f: (_weight(s, f) * f).mean((2, 3)), "faint"),
                "sum": (lambda s, f: (_weight(s, f) * f).sum((2, 3)), "not divided"),
                "nearest": (lambda s, f: l_einsum(_weight(s, f, "nearest")[:, 0], f), "nearest"),
                "hard": (lambda s, f: l_einsum((_weight(s, f)[:, 0] > 0.5).double(), f), "one half"),
                "corners": (lambda s, f: l_einsum(_weight(s, f, align_corners=True)[:, 0], f), "align_corners"),
                "outside": (lambda s, f: l_einsum(1 - _weight(s, f)[:, 0], f), "outside")},
}

HONEST = {
    "13.centroid": {"einsum": c_einsum, "numpy": c_numpy},
    "13.raw_slope": {"fraction": 0.95 / 4.15, "rounded": 0.23},
    "13.normalise": {"flat": n_flat, "loop": n_loop},
    "13.shift_map": {"floor": s_floor, "loop": s_loop},
    "13.push": {"loop": p_loop, "clamp": p_eps},
    "13.move_energy": {"l1": e_l1, "each": e_each},
    "13.success": {"numpy": u_numpy, "loop": u_loop},
    "13.appearance": {"einsum": l_einsum, "loop": l_loop},
}

EQUIVALENT = {
    "13.centroid": {line: "the same axis by another name" for line in (
        "return torch.stack([(a.sum(-2) * x).sum(-1) / mass, (a.sum(-1) * y).sum(-1) / mass], 1)",
        "return torch.stack([(a.sum(-2) * x).sum(1) / mass, (a.sum(-1) * y).sum(-1) / mass], -1)",
        "return torch.stack([(a.sum(-2) * x).sum(-1) / mass, (a.sum(-1) * y).sum(1) / mass], -1)")},
    "13.raw_slope": {"return (1 - 0.04995) / (1 + 63 * 0.05)": "0.23 all the same",
                     "return (1 - 0.05) / (1 + 63 * 0.04995)": "0.23 all the same"},
    "13.shift_map": {"cells = torch.arange(a.shape[-1])": "whole numbers do as well",
                     "cells = torch.arange(a.shape[-1], dtype=d.dtype)": "map and shift come in one type",
                     "places = cells - d[:, None] * cells.shape[-1]": "as many cells as columns"},
    "13.push": {"factor = want / (length - 1e-30)": "nothing beside a length, and a zero gradient stays zero",
                "factor = want / (length + 1.5000000000000001e-30)": "any tiny number",
                "factor = want / (length + 9.99e-31)": "any tiny number"},
    "13.success": {"there = (requested - got).norm(dim=1) < tolerance": "a distance has no sign"},
    "13.appearance": {"weight = torch.nn.functional.interpolate(shape[:, None], size=features.shape[2:], mode='bilinear')":
                "of four axes the last two"},
}
TWO = "x and y"
ONCE = {"13.move_energy": {"place, axis 1: 2": TWO, "goal, axis 1: 2": TWO},
        "13.success": {"requested, axis 1: 2": TWO, "got, axis 1: 2": TWO, "drift, axis 1: 2": TWO}}
