"""Wrong and right answers to the exercises of lesson 21."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from minidiff.diffusion import slerp


def j_bisect(a, b, angle):
    out = []
    for x, y, o in zip(a.tolist(), b.tolist(), angle.tolist()):
        low, high = 0.0, 1.0
        for _ in range(80):
            w = (low + high) / 2
            low, high = (w, high) if np.sin((1 - w) * o) * x + np.sin(w * o) * y > 0 else (low, w)
        out.append((low + high) / 2)
    return torch.tensor(out, dtype=torch.float64)


def j_arctan(a, b, o):
    return (a * o.sin() / (a * o.cos() - b)).atan() / o


def j_right(a, b, o):
    return torch.atan2(a * o.sin(), a * o.cos() - b) / o


def _left(x, a, b, w):
    return (x - a - w * (b - a)).square().sum()


def _w(x, a, b):
    return (x - a) @ (b - a) / (b - a).square().sum()


def _near(x, a, b):
    return torch.minimum((x - a).square().sum(), (x - b).square().sum())


def g_right(x, a, b):
    return 1 - _left(x, a, b, _w(x, a, b).clamp(0, 1)) / _near(x, a, b)


def g_search(x, a, b):
    """By halving thirds: |x - blend|^2 is convex in w."""
    low, high = 0.0, 1.0
    for _ in range(200):
        p, q = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, q) if _left(x, a, b, p) < _left(x, a, b, q) else (p, high)
    return float(1 - _left(x, a, b, (low + high) / 2) / _near(x, a, b))


def g_numpy(x, a, b):
    x, a, b = (v.numpy() for v in (x, a, b))
    w = np.clip(np.dot(x - a, b - a) / np.dot(b - a, b - a), 0, 1)
    return 1 - np.sum((x - (1 - w) * a - w * b) ** 2) / min(np.sum((x - a) ** 2), np.sum((x - b) ** 2))


def _gini(h):
    return (h[:, None] - h).abs().mean() / (2 * h.mean())


def s_sorted(h):
    x, n = h.sort().values, len(h)
    rank = torch.arange(1, n + 1, dtype=h.dtype)
    return 1 - (2 * (rank * x).sum() / (n * x.sum()) - (n + 1) / n)


def s_loop(h):
    v = h.tolist()
    return 1 - sum(abs(p - q) for p in v for q in v) / len(v) ** 2 / (2 * sum(v) / len(v))


def _way(h):
    return torch.cat([torch.zeros(1, dtype=h.dtype), h.cumsum(0)])


def r_numpy(w, h, count):
    way = np.concatenate([[0], np.cumsum(h.numpy())])
    return torch.from_numpy(np.interp(np.linspace(0, way[-1], count), way, w.numpy()))


def r_loop(w, h, count):
    out, way = [], _way(h).tolist()
    for i in range(count):
        goal = way[-1] * i / (count - 1)
        k = next(j for j in range(1, len(way)) if way[j] >= goal - 1e-12)
        out.append(float(w[k - 1]) + (goal - way[k - 1]) / (way[k] - way[k - 1]) * float(w[k] - w[k - 1]))
    return torch.tensor(out, dtype=torch.float64)


def r_forward(w, h, count):
    way = _way(h)
    return torch.from_numpy(np.interp(np.linspace(0, 1, count), w.numpy(), (way / way[-1]).numpy()))


def r_nearest(w, h, count):
    way = _way(h)
    return w[(torch.linspace(0, 1, count, dtype=h.dtype)[:, None] * way[-1] - way).abs().argmin(1)]


def r_inside(w, h, count):
    way = _way(h).numpy()
    return torch.from_numpy(np.interp(np.arange(1, count + 1) / (count + 1) * way[-1], way, w.numpy()))


def _noised(x, eps, abar):
    return abar**0.5 * x + (1 - abar) ** 0.5 * eps


def m_right(a, b, eps, abar):
    return slerp(_noised(a, eps, abar), _noised(b, eps, abar), 0.5)


def m_hand(a, b, eps, abar):
    x, y = _noised(a, eps, abar), _noised(b, eps, abar)
    cos = (x * y).flatten(1).sum(1) / (x.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1))
    return (x + y) / (2 * (cos.arccos() / 2).cos()).view(-1, 1, 1, 1)


def _attend(q, k, v):
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def _mixed(a, b, w):
    return (1 - w) * a + w * b


def i_sdpa(q, k, v, ka, va, kb, vb, w):
    return F.scaled_dot_product_attention(q, torch.cat((k, _mixed(ka, kb, w)), 1), torch.cat((v, _mixed(va, vb, w)), 1))


def i_parts(q, k, v, ka, va, kb, vb, w):
    own, new = (torch.einsum("hnd,hld->hnl", q, x) / q.shape[-1] ** 0.5 for x in (k, _mixed(ka, kb, w)))
    p, r = own.exp(), new.exp()
    return (p @ v + r @ _mixed(va, vb, w)) / (p.sum(-1) + r.sum(-1))[..., None]


def i_outer(q, k, v, ka, va, kb, vb, w):
    a, b = (_attend(q, torch.cat((k, x), 1), torch.cat((v, y), 1)) for x, y in ((ka, va), (kb, vb)))
    return _mixed(a, b, w)


WRONG = {
    "21.lerp_variance": {
        "independent": (lambda w, r: (1 - w) ** 2 + w**2, "where is rho"),
        "one": (lambda w, r: torch.ones_like(w), "squared"),
        "std": (lambda w, r: ((1 - w) ** 2 + w**2 + 2 * w * (1 - w) * r) ** 0.5, "standard deviation"),
        "once": (lambda w, r: (1 - w) ** 2 + w**2 + w * (1 - w) * r, "counts twice"),
        "minus": (lambda w, r: (1 - w) ** 2 + w**2 - 2 * w * (1 - w) * r, "louder"),
        "half": (lambda w, r: 0.5 + 0.5 * r, "take the weights"),
        "unweighted": (lambda w, r: (1 - w) ** 2 + w**2 + 2 * r, "weighted by"),
        "other": (lambda w, r: w, "times the correlation"),
    },
    "21.jump_weight": {
        "line": (lambda a, b, o: a / (a - b), "straight line"), "half": (lambda a, b, o: 0.5 * torch.ones_like(a), "|b| alone"),
        "angle": (lambda a, b, o: j_right(a, b, o) * o, "whole angle"),
        "end": (lambda a, b, o: 1 - j_right(a, b, o), "other end"),
        "arctan": (j_arctan, "atan2"), "sign": (lambda a, b, o: torch.atan2(a * o.sin(), a * o.cos() + b) / o, "sign of b"),
        "number": (lambda a, b, o: j_right(a, b, o).mean(), "shape"), "else": (lambda a, b, o: a * 0.1, "Solve"),
    },
    "21.ghost": {
        "free": (lambda x, a, b: 1 - _left(x, a, b, _w(x, a, b)) / _near(x, a, b), "beyond an end"),
        "lengths": (lambda x, a, b: 1 - (1 - g_right(x, a, b)).sqrt(), "squares"),
        "first": (lambda x, a, b: 1 - _left(x, a, b, _w(x, a, b).clamp(0, 1)) / (x - a).square().sum(), "not with the first"),
        "farther": (lambda x, a, b: 1 - _left(x, a, b, _w(x, a, b).clamp(0, 1))
                    / torch.maximum((x - a).square().sum(), (x - b).square().sum()), "farther"),
        "left": (lambda x, a, b: 1 - g_right(x, a, b), "not explained"),
        "half": (lambda x, a, b: 1 - _left(x, a, b, 0.5) / _near(x, a, b), "half and half"),
        "ends": (lambda x, a, b: 1 - _left(x, a, b, _w(x, a, b).clamp(0, 1)) / (b - a).square().sum(), "distance of the ends"),
        "else": (lambda x, a, b: _w(x, a, b), "Project"),
    },
    "21.smoothness": {
        "gini": (_gini, "Take it from 1"), "once": (lambda h: 1 - 2 * _gini(h), "both orders"),
        "n - 1": (lambda h: 1 - (h[:, None] - h).abs().sum() / (len(h) * (len(h) - 1)) / (2 * h.mean()), "itself"),
        "cv": (lambda h: 1 - h.std(correction=0) / h.mean(), "variation"),
        "neighbours": (lambda h: 1 - h.diff().abs().mean() / (2 * h.mean()), "neighbours"),
        "undivided": (lambda h: 1 - (h[:, None] - h).abs().mean(), "Not divided"),
        "largest": (lambda h: h.mean() / h.max(), "largest"), "else": (lambda h: h.min() / h.max(), "over all pairs"),
    },
    "21.squared_hops": {"square": (0.64, "add up to less"), "length": (0.8, "length"), "one": (0.01, "One hop"),
                        "twice": (8 * 0.08**2, "once more"), "shrunk": (0.00125, "8 of them"), "else": (0.5, "0.01")},
    "21.respace": {
        "even": (lambda w, h, n: torch.linspace(0, 1, n, dtype=h.dtype), "as they were"), "forward": (r_forward, "inverse"),
        "nearest": (r_nearest, "Nearest"), "inside": (r_inside, "ends are missing"),
        "backwards": (lambda w, h, n: r_numpy(w, h, n).flip(0), "backwards"), "way": (lambda w, h, n: _way(h)[:2], "shape"),
        "else": (lambda w, h, n: r_numpy(w, h, n) ** 2, "Running sum"),
    },
    "21.noised_midpoint": {
        "lerp": (lambda a, b, e, t: _noised((a + b) / 2, e, t), "too quiet"),
        "first": (lambda a, b, e, t: _noised(slerp(a, b, 0.5), e, t), "Mixed first"),
        "no roots": (lambda a, b, e, t: slerp(t * a + (1 - t) * e, t * b + (1 - t) * e, 0.5), "roots"),
        "exchanged": (lambda a, b, e, t: slerp((1 - t) ** 0.5 * a + t**0.5 * e,
                                               (1 - t) ** 0.5 * b + t**0.5 * e, 0.5), "exchanged"),
        "clean": (lambda a, b, e, t: slerp(a, b, 0.5), "without noise"),
        "one": (lambda a, b, e, t: slerp(_noised(a, e, t), b, 0.5), "Only the first"),
        "quarter": (lambda a, b, e, t: slerp(_noised(a, e, t), _noised(b, e, t), 0.25), "one half"),
        "else": (lambda a, b, e, t: a + b, "same eps"),
    },
    "21.own_noise": {"shared": (0.4, "shared noise"), "right angle": (0.8, "cosine abar"), "root": (0.756, "standard"),
                     "noise": (0.4286, "noise's share"), "lerp": (0.7, "write the share"), "else": (0.1, "squared")},
    "21.inner": {
        "not fused": (lambda q, k, v, ka, va, kb, vb, w: _attend(q, _mixed(ka, kb, w), _mixed(va, vb, w)), "not fused"),
        "outer": (i_outer, "outer"),
        "exchanged": (lambda q, k, v, ka, va, kb, vb, w: i_sdpa(q, k, v, kb, vb, ka, va, w), "exchanged"),
        "unscaled": (lambda q, k, v, ka, va, kb, vb, w: i_sdpa(q * q.shape[-1] ** 0.5, k, v, ka, va, kb, vb, w), "sqrt"),
        "two": (lambda q, k, v, ka, va, kb, vb, w: _attend(q, k, v) + _attend(q, _mixed(ka, kb, w), _mixed(va, vb, w)),
                "compete"),
        "ordinary": (lambda q, k, v, ka, va, kb, vb, w: _attend(q, k, v), "left out"),
        "keys": (lambda q, k, v, ka, va, kb, vb, w: i_sdpa(q, k, v, ka, va, kb, va, w), "Only the keys"),
        "three": (lambda q, k, v, ka, va, kb, vb, w: _attend(q, torch.cat((k, ka, kb), 1), torch.cat((v, va, vb), 1)),
                  "side by side"),
        "else": (lambda q, k, v, ka, va, kb, vb, w: q, "one softmax"),
    },
    "21.same_as_lerp": {
        "self": (["cross, not fused", "self, not fused"], "own latents"), "one": (["cross, not fused"], "doubles"),
        "fused": (["cross, fused"], "linear"),
        "outer": (["cross, fused", "cross, not fused", "outer, cross, not fused"], "softmax"),
        "none": ([], "linear"), "unknown": (["cross"], "no case"), "string": ("cross, fused", "list"),
    },
}

HONEST = {
    "21.lerp_variance": {"floats": lambda w, r: (1 - float(w)) ** 2 + float(w) ** 2 + 2 * float(w) * (1 - float(w)) * float(r),
                         "quadratic form": lambda w, r: 1 - 2 * w * (1 - w) * (1 - r)},
    "21.jump_weight": {"bisection": j_bisect, "numpy": lambda a, b, o: torch.from_numpy(
        np.arctan2(a.numpy() * np.sin(o.numpy()), a.numpy() * np.cos(o.numpy()) - b.numpy()) / o.numpy())},
    "21.ghost": {"search": g_search, "numpy": g_numpy},
    "21.smoothness": {"sorted": s_sorted, "loop": s_loop},
    "21.squared_hops": {"number": 0.08, "tensor": torch.tensor(0.08)},
    "21.respace": {"numpy": r_numpy, "loop": r_loop},
    "21.noised_midpoint": {"by hand": m_hand, "float32": lambda a, b, e, t: m_right(a.float(), b.float(), e.float(), float(t))},
    "21.own_noise": {"fraction": 4 / 7, "rounded": 0.571},
    "21.inner": {"sdpa": i_sdpa, "parts": i_parts},
    "21.same_as_lerp": {"tuple": ("cross, not fused", "cross, fused"), "set": {"cross, not fused", "cross, fused"}},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "21.ghost": {"w = ((b - a) @ (x - a) / ((b - a) @ (b - a))).clamp(0, 1)": "a scalar product has no order"},
    "21.squared_hops": {"return 8 * (0.7992 / 8) ** 2": "within the rounding that is allowed"},
    "21.respace": {
        **{f"k = torch.searchsorted(way, goal){end}": "at the first cut the segment before it gives 0 as well" for end in (
            "", ".clamp(1)", ".clamp(0, len(way) - 1)")},
        **{f"k = torch.searchsorted(way, goal).clamp(1, {most})": "a bound against rounding at the last cut" for most in (
            "len(way) + 1", "len(way)", "len(way - 1)", "len(way) - 0", "len(weights) - 1", "len(goal) - 1")},
        "goal = torch.linspace(0, 1, count) * way[-1]": "float32 is exact enough",
        "way = torch.cat([torch.zeros(1), hops.cumsum(0)])": "promoted to the type of the hops",
        "way = torch.cat([torch.zeros(1, dtype=hops.dtype), hops.cumsum(-1)])": "one axis",
        "goal = torch.linspace(0, 1, count, dtype=weights.dtype) * way[-1]": "weights and hops come in one type",
        "goal = torch.linspace(0, 1, count, dtype=way.dtype) * way[-1]": "the type of the hops",
        "way = torch.cat([torch.zeros(1, dtype=weights.dtype), hops.cumsum(0)])": "weights and hops come in one type"},
    "21.noised_midpoint": {
        "return slerp(abar ** 0.5 * b + (1 - abar) ** 0.5 * eps, abar ** 0.5 * a + (1 - abar) ** 0.5 * eps, 0.5)":
        "one half is as far from either"},
    "21.own_noise": {"return 0.3996 / ((1 + 0.4) / 2)": "0.57 all the same",
                     "return 0.4 / ((1 + 0.3996) / 2)": "0.57 all the same"},
    "21.inner": {f"return (q @ keys.transpose(-1, -2) / {x}.shape[-1] ** 0.5).softmax(-1) @ values": "all have d numbers a token"
                 for x in ("k", "v", "ka", "va", "kb", "vb", "keys", "values")},
    "21.same_as_lerp": {"return ['cross, not fused', 'cross, fused']": "the order does not matter"},
}
ONCE: dict[str, dict[str, str]] = {}
