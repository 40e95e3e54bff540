"""Wrong and right answers to the exercises of lesson 12."""

from __future__ import annotations

import numpy as np
import torch


# 12.direction
def d_noun(bank, tokens):
    return torch.stack([row[i].mean(0) for row, i in zip(bank, tokens)]).mean(0)


def d_put(value, at, like):
    out = torch.zeros_like(like)
    out[at] = value
    return out


def d_with(noun=d_noun, places=lambda at, length: at, how=lambda a, b: b - a):
    def answer(a, b, one, two, at):
        return d_put(how(noun(a, one), noun(b, two)), places(at, a.shape[1]), a[0])
    return answer


def d_flat(bank, tokens):
    return torch.cat([row[i] for row, i in zip(bank, tokens)]).mean(0)


def d_first(bank, tokens):
    return torch.stack([row[i[0]] for row, i in zip(bank, tokens)]).mean(0)


def d_weights(a, b, one, two, at):
    """The means as matrix products."""
    means = []
    for bank, tokens in ((a, one), (b, two)):
        w = torch.zeros(bank.shape[:2], dtype=bank.dtype)
        for k, i in enumerate(tokens):
            w[k, i] = 1 / len(i)
        means.append(torch.einsum("nl,nld->d", w, bank) / len(bank))
    where = torch.zeros(a.shape[1], 1, dtype=a.dtype)
    where[at] = 1
    return where * (means[1] - means[0])


def d_numpy(a, b, one, two, at):
    a, b = a.numpy(), b.numpy()
    gap = (sum(row[i].mean(0) for row, i in zip(b, two)) / len(b) - sum(row[i].mean(0) for row, i in zip(a, one)) / len(a))
    out = np.zeros(a.shape[1:])
    for k in at:
        out[k] = gap
    return torch.from_numpy(out)


# 12.map_distance
def m_einsum(a, b):
    d = a - b
    return torch.einsum("bhpl,bhpl->b", d, d) / a.shape[1]


def m_loop(a, b):
    return [sum(float(((x - y) ** 2).sum()) for x, y in zip(p, q)) / len(p) for p, q in zip(a, b)]


# 12.relative_step
def r_where(z, g, share):
    long = g.flatten(1).norm(dim=1)
    factor = torch.where(long > 0, share * z.flatten(1).norm(dim=1) / long.clamp(min=1e-30), 0.0)
    return z - torch.einsum("b,bchw->bchw", factor, g)


def r_loop(z, g, share):
    out = z.clone()
    for k in range(len(z)):
        if g[k].norm() > 0:
            out[k] = z[k] - g[k] / g[k].norm() * share * z[k].norm()
    return out


def r_with(long=lambda z, g, share: share * z.flatten(1).norm(dim=1) / (g.flatten(1).norm(dim=1) + 1e-30), sign=-1):
    def answer(z, g, share):
        factor = long(z, g, share)
        return z + sign * (factor.view(-1, 1, 1, 1) if isinstance(factor, torch.Tensor) and factor.ndim else factor) * g
    return answer


# 12.two_rows
def o_with(rows):
    return lambda z, gradient, amount: z - amount * rows(gradient(torch.stack([z, z])))


def o_twice(z, gradient, amount):
    x = o_with(lambda g: g[1])(z, gradient, amount)
    return o_with(lambda g: g[1])(x, gradient, amount)


def o_expand(z, gradient, amount):
    return z - amount * gradient(z[None].expand(2, -1, -1, -1).contiguous())[-1]


# 12.auto_correlation
def a_pair(noise, down, right):
    return [(noise * noise.roll(d, axis)).mean((2, 3)) for d, axis in ((down, 2), (right, 3))]


def a_slices(noise, down, right):
    total = 0
    for d, axis in ((down, -2), (right, -1)):
        moved = torch.cat([noise.narrow(axis, noise.shape[axis] - d, d), noise.narrow(axis, 0, noise.shape[axis] - d)], axis)
        total = total + ((noise * moved).flatten(2).mean(2) ** 2).sum(1)
    return total


def a_fourier(noise, down, right):
    spectrum = torch.fft.fft2(noise).abs() ** 2
    likeness = torch.fft.ifft2(spectrum).real / (noise.shape[2] * noise.shape[3])
    return (likeness[..., down % noise.shape[2], 0] ** 2 + likeness[..., 0, right % noise.shape[3]] ** 2).sum(1)


def a_with(how):
    return lambda *args: sum(how(x) for x in a_pair(*args))


# 12.at_equal_success
def s_numpy(success, kept, level):
    order = np.argsort(success)
    return float(np.interp(level, np.asarray(success)[order], np.asarray(kept)[order]))


def s_pairs(success, kept, level):
    points = sorted(zip(success, kept))
    level = min(max(level, points[0][0]), points[-1][0])
    k = max(i for i, (s, _) in enumerate(points) if s <= level)
    if k == len(points) - 1:
        return points[-1][1]
    (s0, k0), (s1, k1) = points[k:k + 2]
    return (k0 * (s1 - level) + k1 * (level - s0)) / (s1 - s0)


def s_beyond(success, kept, level):
    points = sorted(zip(success, kept))
    inside = [p for p in zip(points, points[1:]) if p[0][0] <= level <= p[1][0]]
    (s0, k0), (s1, k1) = inside[0] if inside else (points[:2] if level < points[0][0] else points[-2:])
    return k0 + (level - s0) / (s1 - s0) * (k1 - k0)


def s_turned(success, kept, level):
    points = sorted(zip(success, kept))
    level = min(max(level, points[0][0]), points[-1][0])
    (s0, k0), (s1, k1) = next(p for p in zip(points, points[1:]) if p[0][0] <= level <= p[1][0])
    return k1 + (level - s0) / (s1 - s0) * (k0 - k1)


def s_unsorted(success, kept, level):
    points = list(zip(success, kept))
    if level <= points[0][0]:
        return points[0][1]
    for (s0, k0), (s1, k1) in zip(points, points[1:]):
        if level <= s1:
            return k0 + (level - s0) / (s1 - s0) * (k1 - k0)
    return points[-1][1]


def s_below(success, kept, level):
    points = [(s, k) for s, k in sorted(zip(success, kept)) if s <= level]
    return points[-1][1] if points else s_numpy(success, kept, level)


def s_above(success, kept, level):
    points = [(s, k) for s, k in sorted(zip(success, kept)) if s >= level]
    return points[0][1] if points else s_numpy(success, kept, level)


def table(rows):
    return [list(map(float, row)) for row in rows]


SINE = (2**0.5 * torch.sin(2 * torch.pi * (torch.arange(8) + 0.5) / 8)).double()
WRONG = {
    "12.smeared": {"whole": (1.0, "every sentence"), "rest": (0.75, "elsewhere"), "one": (0.01, "one sentence"),
                   "root": (0.5, "random sign"), "minus": (-0.5, "pull the other way"), "sum": (25, "all 100"),
                   "third": (1 / 3, "average 100")},
    "12.direction": {
        "turned": (d_with(how=lambda a, b: a - b), "target minus source"),
        "smeared": (lambda a, b, *_: b.mean(0) - a.mean(0), "smeared"),
        "everywhere": (d_with(places=lambda at, length: list(range(length))), "every token"),
        "tokens": (d_with(noun=d_flat), "counts once"),
        "first": (d_with(noun=d_first), "not its first"),
        "target": (d_with(how=lambda a, b: b), "subtract"),
        "shared out": (lambda a, b, one, two, at: d_with()(a, b, one, two, at) / len(at), "whole difference"),
        "vector": (lambda a, b, one, two, at: d_noun(b, two) - d_noun(a, one), "shape"),
        "other": (lambda a, b, one, two, at: 3 * d_with()(a, b, one, two, at), "one sentence in each"),
    },
    "12.map_distance": {
        "heads": (lambda a, b: (a - b).square().sum((1, 2, 3)), "not summed"),
        "mean": (lambda a, b: (a - b).square().mean((1, 2, 3)), "too small"),
        "places": (lambda a, b: (a - b).square().sum(3).mean((1, 2)), "they are summed"),
        "root": (lambda a, b: (a - b).square().sum((2, 3)).sqrt().mean(1), "square"),
        "abs": (lambda a, b: (a - b).abs().sum((2, 3)).mean(1), "absolute"),
        "before": (lambda a, b: (a.mean(1) - b.mean(1)).square().sum((1, 2)), "disagree"),
        "signed": (lambda a, b: (a - b).sum((2, 3)).mean(1), "cancel"),
        "half": (lambda a, b: 0.5 * m_einsum(a, b), "one token differ"),
    },
    "12.relative_step": {
        "up": (r_with(sign=1), "up the gradient"),
        "raw": (r_with(long=lambda z, g, share: share), "depends on the loss"),
        "batch": (r_with(long=lambda z, g, share: share * z.norm() / g.norm()), "whole batch"),
        "unit": (r_with(long=lambda z, g, share: share / (g.flatten(1).norm(dim=1) + 1e-30)), "whatever z"),
        "square": (r_with(long=lambda z, g, share: share * z.flatten(1).norm(dim=1)
                          / g.flatten(1).norm(dim=1).clamp(min=1e-12) ** 2), "square"),
        "step": (lambda z, g, share: z - r_with()(z, g, share), "step alone"),
        "sign": (lambda z, g, share: z - (share * z.flatten(1).norm(dim=1)).view(-1, 1, 1, 1) * g.sign()
                 / z[0].numel() ** 0.5, "direction is lost"),
        "dust": (lambda z, g, share: z - g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1), "NaN"),
        "half": (lambda z, g, share: (z + r_with()(z, g, share)) / 2, "must move by"),
    },
    "12.two_rows": {
        "published": (o_with(lambda g: g[0]), "published"),
        "up": (lambda z, gradient, amount: z + amount * gradient(torch.stack([z, z]))[1], "walk up"),
        "both": (o_with(lambda g: g.sum(0)), "both rows"),
        "mean": (o_with(lambda g: g.mean(0)), "half a say"),
        "no amount": (lambda z, gradient, amount: z - gradient(torch.stack([z, z]))[1], "left out"),
        "step": (lambda z, gradient, amount: amount * gradient(torch.stack([z, z]))[1], "take it off"),
        "twice": (o_twice, "two steps"),
        "none": (lambda z, gradient, amount: z, "nothing is moved"),
        "one": (lambda z, gradient, amount: z - amount * gradient(z[None])[0], "pair"),
        "half": (lambda z, gradient, amount: o_with(lambda g: g[1])(z, gradient, amount / 2), "which row"),
    },
    "12.auto_correlation": {
        "axes": (lambda n, d, r: a_slices(n.transpose(2, 3), d, r), "axes"),
        "signed": (a_with(lambda x: x.sum(1)), "squared"),
        "mean": (a_with(lambda x: x.square().mean(1)), "not averaged"),
        "before": (a_with(lambda x: x.sum(1).square()), "cancel"),
        "rows": (lambda *args: a_pair(*args)[0].square().sum(1), "only the rows"),
        "columns": (lambda *args: a_pair(*args)[1].square().sum(1), "only the columns"),
        "slanted": (lambda n, d, r: (n * n.roll((d, r), (2, 3))).mean((2, 3)).square().sum(1), "each alone"),
        "sums": (lambda n, d, r: sum((n * n.roll(k, a)).sum((2, 3)).square().sum(1) for k, a in ((d, 2), (r, 3))), "grows"),
        "strength": (lambda n, d, r: sum((n * n.roll(k, a)).square().mean((2, 3)).sum(1) for k, a in ((d, 2), (r, 3))),
                     "strength"),
        "batch": (lambda *args: a_slices(*args).sum(), "shape"),
        "half": (lambda *args: a_slices(*args) / 2, "stripes"),
    },
    "12.break_kl": {
        "word": ("stripes", "list of lists"), "small": (table([[1, -1]] * 2), "8 x 8"), "zero": (table([[0] * 8] * 8), "no"),
        "mean": (table([[2, 0] * 4] * 8), "mean is 1"), "loud": (table([[2, -2] * 4] * 8), "variance is 4"),
        "white": (table((lambda x: (x - x.mean()) / x.std(unbiased=False))(
            torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).tolist()), "only"),
    },
    "12.at_equal_success": {
        "beyond": (s_beyond, "goes on"), "turned": (s_turned, "turned"),
        "nearest": (lambda s, k, level: min(zip(s, k), key=lambda p: abs(p[0] - level))[1], "go linearly"),
        "above": (s_above, "more success"), "below": (s_below, "less success"), "unsorted": (s_unsorted, "sort"),
        "mean": (lambda s, k, level: sum(k) / len(k), "mean of all"), "level": (lambda s, k, level: level, "itself"),
    },
}

HONEST = {
    "12.smeared": {"fraction": 1 / 4, "tensor": torch.tensor(0.25)},
    "12.direction": {"weights": d_weights, "numpy": d_numpy},
    "12.map_distance": {"einsum": m_einsum, "loop": m_loop},
    "12.relative_step": {"where": r_where, "loop": r_loop},
    "12.two_rows": {"expanded": o_expand, "by index": o_with(lambda g: g[-1])},
    "12.auto_correlation": {"slices": a_slices, "fourier": a_fourier},
    "12.break_kl": {"rows": table([[1] * 8, [-1] * 8] * 4), "waves": SINE.expand(8, 8)},
    "12.at_equal_success": {"numpy": s_numpy, "pairs": s_pairs},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "12.direction": {f"out = torch.zeros_like({row})": "all sentences have one shape" for row in (
        "target[0]", "source[1]", "source[-1]")},
    "12.relative_step": {f"factor = want / (gradient.flatten(1).norm(dim=1) {dust})": "any number far below rounding will do"
                         for dust in ("- 1e-30", "+ 9.99e-31", "+ 1.5000000000000001e-30")},
    "12.break_kl": {"return [[-1.0, 1.0] * 4] * 8": "the same stripes, one column on"},
    "12.at_equal_success": {line: "at a point of the method itself both ways give its value" for line in (
        "if level < points[0][0]:", "if level < s1:")},
}
ONCE: dict[str, dict[str, str]] = {}
