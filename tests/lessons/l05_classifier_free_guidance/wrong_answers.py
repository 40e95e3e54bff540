"""Lesson 05: plausible mistakes with words that the check must say, and honest variants that it must accept."""

import numpy as np
import torch


def col(a, x):
    return a.view(-1, *[1] * (x.ndim - 1))


def batched(times=2, order="uc", rule=lambda u, c, s: u + s * (c - u)):
    def answer(net, x, t, cond, s):
        zero = torch.zeros_like(cond)
        out = net(torch.cat([x, x]), torch.cat([t] * times), torch.cat([zero, cond] if order == "uc" else [cond, zero]))
        u, c = out.chunk(2)
        return rule(u, c, s)
    return answer


def two_calls(net, x, t, cond, s):
    u, c = net(x, t, torch.zeros_like(cond)), net(x, t, cond)
    return u + s * (c - u)


def first_time(net, x, t, cond, s):
    u, c = net(torch.cat([x, x]), t[:1].expand(2 * len(x)), torch.cat([0 * cond, cond])).chunk(2)
    return u + s * (c - u)


def condition_first(net, x, t, cond, s):
    c, u = net(x.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([cond, cond * 0])).chunk(2)
    return s * c + (1 - s) * u


def interleaved(net, x, t, cond, s):
    both = torch.stack([torch.zeros_like(cond), cond], 1).flatten(0, 1)
    out = net(x.repeat_interleave(2, 0), t.repeat_interleave(2), both)
    return out[::2].lerp(out[1::2], s)


def masks(text, image):
    return lambda r, p: torch.stack([text(r, p), image(r, p)])


def masks_numpy(r, p):
    r = np.asarray(r)
    return np.stack([r < 2 * p, np.logical_and(r >= p, r < 3 * p)])


def masks_swap(r, p):
    return torch.stack([(r >= p) & (r < 3 * p), r < 2 * p])


def sigma(abar):
    return ((1 - abar) / abar).sqrt()


def scale(level=sigma, outside=1.0, inside=lambda s: s, low=True, high=True):
    def answer(abar, s, a, b):
        v = level(abar)
        keep = ((v > a) if low else v > -1) & ((v <= b) if high else v > -1)
        return torch.where(keep, float(inside(s)), outside)
    return answer


def middle_loop(abar, s, low, high):
    return torch.tensor([s if low < ((1 - a) / a) ** 0.5 <= high else 1.0 for a in abar.tolist()])


def middle_numpy(abar, s, low, high):
    level = np.sqrt((1 - abar.numpy()) / abar.numpy())
    return np.where((level > low) & (level <= high), s, 1.0)


def in_place(images, limit=1.0):
    return images.abs_().gt(limit).double().flatten(1).mean(1)


def implied(f):
    return lambda u, c, abar: f(u, c, col(abar, u))


WRONG = {
    "05.implicit": {
        "sign": (implied(lambda u, c, a: (c - u) / (1 - a).sqrt()), "sign is turned"),
        "bare": (implied(lambda u, c, a: u - c), "divide by sqrt(1 - abar)"),
        "variance": (implied(lambda u, c, a: (u - c) / (1 - a)), "variance"),
        "picture": (implied(lambda u, c, a: (u - c) / a.sqrt()), "that of the picture"),
        "in front": (implied(lambda u, c, a: (u - c) * (1 - a).sqrt()), "belongs below"),
        "conditional": (implied(lambda u, c, a: -c / (1 - a).sqrt()), "subtract the score of p(x)"),
        "first row": (implied(lambda u, c, a: (u - c) / (1 - a[:1]).sqrt()), "first one"),
        "transposed": (lambda u, c, abar: (u - c) / (1 - abar).sqrt(), "stops in its line"),
        "nothing": (lambda u, c, abar: print(end=""), "returns nothing"),
    },
    "05.drop": {
        "swapped": (masks_swap, "changed places"),
        "together": (masks(lambda r, p: r < 3 * p, lambda r, p: r < 3 * p), "together only"),
        "never together": (masks(lambda r, p: r < p, lambda r, p: (r >= p) & (r < 2 * p)), "never dropped together"),
        "kept": (masks(lambda r, p: r >= 2 * p, lambda r, p: ~((r >= p) & (r < 3 * p))), "share to drop"),
        "from zero": (masks(lambda r, p: r < 2 * p, lambda r, p: r < 3 * p), "bottom of the line"),
        "fixed": (masks(lambda r, p: r < 0.1, lambda r, p: (r >= 0.05) & (r < 0.15)), "use p"),
        "open end": (masks(lambda r, p: r < 2 * p, lambda r, p: r >= p), "from p to 3p only"),
        "closed ends": (masks(lambda r, p: r <= 2 * p, lambda r, p: (r > p) & (r <= 3 * p)), "ends of a stretch"),
        "one row": (lambda r, p: r < 2 * p, "shape"),
    },
    "05.batched": {
        "as given": (batched(times=1, order="cu"), "one of each a row"),
        "only time": (batched(times=1), "one of each a row"),
        "order": (batched(order="cu"), "exchanged"),
        "other convention": (batched(rule=lambda u, c, s: (1 + s) * c - s * u), "other convention"),
        "difference": (batched(rule=lambda u, c, s: s * (c - u)), "difference alone"),
        "no u": (batched(rule=lambda u, c, s: s * c), "missing from the sum"),
        "no scale": (batched(rule=lambda u, c, s: c), "s is not used"),
        "two calls": (two_calls, "called 2 times"),
        "first time": (first_time, "time of the first"),
    },
    "05.saturation": {
        "bright only": (lambda x, limit=1.0: (x > limit).double().flatten(1).mean(1), "dark values"),
        "good ones": (lambda x, limit=1.0: (x.abs() <= limit).double().flatten(1).mean(1), "still good"),
        "count": (lambda x, limit=1.0: (x.abs() > limit).double().flatten(1).sum(1), "a count"),
        "one": (lambda x, limit=1.0: (x.abs() > 1).double().flatten(1).mean(1), "use the argument"),
        "how far": (lambda x, limit=1.0: (x.abs() - limit).clamp(min=0).flatten(1).mean(1), "how far"),
        "pixels": (lambda x, limit=1.0: (x.abs() > limit).any(1).double().flatten(1).mean(1), "one of its colours"),
        "whole batch": (lambda x, limit=1.0: (x.abs() > limit).double().mean(), "one number for the whole batch"),
        "closed": (lambda x, limit=1.0: (x.abs() >= limit).double().flatten(1).mean(1), "white"),
        "in place": (in_place, "in place"),
    },
    "05.interval": {
        "zero": (scale(outside=0.0), "is forgotten there"),
        "turned": (lambda a, s, lo, hi: torch.where((sigma(a) > lo) & (sigma(a) <= hi), 1.0, s), "turned round"),
        "squared": (scale(level=lambda a: (1 - a) / a), "take the root"),
        "noise": (scale(level=lambda a: (1 - a).sqrt()), "compares it with abar"),
        "inverse": (scale(level=lambda a: (a / (1 - a)).sqrt()), "the inverse"),
        "low only": (scale(high=False), "only the lower end"),
        "high only": (scale(low=False), "only the upper end"),
        "one more": (scale(inside=lambda s: s + 1), "not s more than 1"),
        "a number": (lambda a, s, lo, hi: s, "shape"),
    },
    "05.compose": {
        "towards": (lambda u, a, b, n, p, q, r: u + p * (a - u) + q * (b - u) + r * (n - u), "needs a minus"),
        "chain": (lambda u, a, b, n, p, q, r: u + p * (a - u) + q * (b - a) - r * (n - u), "instructpix2pix"),
        "sum": (lambda u, a, b, n, p, q, r: u + p * a + q * b - r * n, "subtract u"),
        "no start": (lambda u, a, b, n, p, q, r: p * (a - u) + q * (b - u) - r * (n - u), "starting point u"),
        "negative prompt": (lambda u, a, b, n, p, q, r: n + p * (a - n) + q * (b - n), "another rule"),
        "exchanged": (lambda u, a, b, n, p, q, r: u + q * (a - u) + p * (b - u) - r * (n - u), "exchanged"),
        "no not": (lambda u, a, b, n, p, q, r: u + p * (a - u) + q * (b - u), "left out"),
        "average": (lambda u, a, b, n, p, q, r: u + (p * (a - u) + q * (b - u)) / 2 - r * (n - u), "half as far"),
    },
    "05.convention": {
        "literally": (0.3, "only above 1"), "should have": (1.3, "should have typed"), "off": (0.0, "not the other one"),
        "minus": (-0.7, "other direction"), "a word": ("1 or so", "one number"), "else": (7.5, "one pass only"),
    },
}

HONEST = {
    "05.implicit": {
        "scores": lambda u, c, abar: (-c / col(1 - abar, u) ** 0.5) - (-u / col(1 - abar, u) ** 0.5),
        "loop": lambda u, c, abar: torch.stack([(x - y) / (1 - a) ** 0.5 for x, y, a in zip(u, c, abar)]),
        "single": lambda u, c, abar: ((u - c).float() / col(1 - abar, u).float().sqrt()),
        "reshape": lambda u, c, abar: ((u - c).flatten(1) * (1 - abar[:, None]).rsqrt()).reshape(u.shape),
    },
    "05.drop": {
        "numpy": masks_numpy,
        "floats": lambda r, p: torch.stack([r < 2 * p, (r >= p) & (r < 3 * p)]).float(),
        "arithmetic": lambda r, p: torch.stack([r < 2 * p, (r < 3 * p) ^ (r < p)]),
    },
    "05.batched": {
        "condition first": condition_first, "interleaved": interleaved,
        "w": batched(rule=lambda u, c, s: s * c - (s - 1) * u),
    },
    "05.saturation": {
        "two sides": lambda x, limit=1.0: ((x > limit) | (x < -limit)).float().mean((1, 2, 3)),
        "numpy": lambda x, limit=1.0: (np.abs(x.numpy()) > limit).mean((1, 2, 3)),
        "loop": lambda x, limit=1.0: torch.tensor([float((p.abs() > limit).double().mean()) for p in x]),
    },
    "05.interval": {
        "loop": middle_loop, "numpy": middle_numpy,
        "by abar": lambda a, s, lo, hi: 1 + (s - 1) * ((a < 1 / (1 + lo**2)) & (a >= 1 / (1 + hi**2) - 1e-15)).double(),
    },
    "05.compose": {
        "collected": lambda u, a, b, n, p, q, r: (1 - p - q + r) * u + p * a + q * b - r * n,
        "loop": lambda u, a, b, n, p, q, r: u + sum(s * (x - u) for s, x in ((p, a), (q, b), (-r, n))),
        "single": lambda u, a, b, n, p, q, r: (u + p * (a - u) + q * (b - u) - r * (n - u)).float(),
    },
    "05.convention": {"float": 1.0, "whole": 1, "tensor": torch.tensor(1.0)},
}

EQUIVALENT = {
    "05.implicit": {"return (u - c) / (1 - abar).sqrt().view(-1, *[1] * (c.ndim - 1))": "u and c have one shape"},
}

ONCE: dict[str, dict[str, str]] = {}
