"""Lesson 04: plausible mistakes with words that the check must say, and honest variants that it must accept."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def mode(k, f=lambda k, x: k * (1 - torch.sigmoid(k * x))):
    return lambda x, abar, m, s: f(k(abar, m, s), x)


def right_k(abar, m, s):
    return 2 * abar**0.5 * m / (abar * s**2 + 1 - abar)


def mode_autograd(x, abar, m, s):
    x = x.clone().requires_grad_(True)
    v = abar * s**2 + 1 - abar
    both = torch.stack([-(x - c * abar**0.5 * m) ** 2 / (2 * v) for c in (1, -1)])
    return torch.autograd.grad(both.log_softmax(0)[0].sum(), x)[0]


def mode_loop(x, abar, m, s):
    k = right_k(abar, m, s)
    return [k / (1 + math.exp(k * v)) for v in x.tolist()]


def slope(pick, *, first_time=False, sign=1):
    def answer(classifier, x, t, y):
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_(True)
            z = classifier(x, t[:1].expand(len(x)) if first_time else t)
            return sign * torch.autograd.grad(pick(z, torch.arange(len(y)), y), x)[0]
    return answer


def no_enable(classifier, x, t, y):
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(classifier(x, t).log_softmax(1)[torch.arange(len(y)), y].sum(), x)[0]


def leaves_mark(classifier, x, t, y):
    with torch.enable_grad():
        x.requires_grad_(True)
        return torch.autograd.grad(classifier(x, t).log_softmax(1)[torch.arange(len(y)), y].sum(), x)[0]


def one_by_one(classifier, x, t, y):
    rows = []
    with torch.enable_grad():
        for i in range(len(x)):
            v = x[i : i + 1].detach().requires_grad_(True)
            rows.append(torch.autograd.grad(classifier(v, t[i : i + 1]).log_softmax(1)[0, y[i]], v)[0])
    return torch.cat(rows)


def by_cross_entropy(classifier, x, t, y):
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        return -torch.autograd.grad(F.cross_entropy(classifier(x, t), y, reduction="sum"), x)[0]


def col(v, x):
    return v.view(-1, *[1] * (x.ndim - 1))


def shift(f):
    return lambda eps, g, abar, s: f(eps, g, col(abar, eps), s)


def step(pick, *, factor=lambda a, b, s: s * (1 - a) ** 0.5, stays=False):
    """A DDIM step; pick(old eps, shifted eps) -> the eps for x0 and the eps that is put back."""
    def answer(x, eps, g, abar, abar_next, s):
        for_x0, for_noise = pick(eps, eps - factor(abar, abar_next, s) * g)
        b = abar if stays else abar_next
        return b**0.5 * (x - (1 - abar) ** 0.5 * for_x0) / abar**0.5 + (1 - b) ** 0.5 * for_noise
    return answer


def half(old, new):
    return old, new


def forgets_by_difference(x, eps, g, abar, abar_next, s):
    """The whole unguided step, and the shift added to it once."""
    ratio = (abar_next / abar) ** 0.5
    plain = ratio * x + ((1 - abar_next) ** 0.5 - ratio * (1 - abar) ** 0.5) * eps
    return plain - s * ((1 - abar) * (1 - abar_next)) ** 0.5 * g


def forgets_in_place(x, eps, g, abar, abar_next, s):
    x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
    eps -= s * (1 - abar) ** 0.5 * g
    return abar_next**0.5 * x0 + (1 - abar_next) ** 0.5 * eps


def adagn(f):
    def answer(h, e, groups):
        c = h.shape[1]
        return f(h, e[:, :c, None, None], e[:, c:, None, None], groups)
    return answer


def adagn_by_hand(h, e, groups):
    b, c, y, x = h.shape
    flat = h.reshape(b, groups, -1)
    n = ((flat - flat.mean(2, keepdim=True)) / (flat.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()).reshape(h.shape)
    scale, moved = e.view(b, 2, c, 1, 1).unbind(1)
    return n + n * scale + moved


def adagn_turns(h, e, groups):
    return F.group_norm(h, groups) * (1 + e[:, 0::2, None, None]) + e[:, 1::2, None, None]


def adagn_in_place(h, e, groups):
    c = h.shape[1]
    h -= 0.5
    return F.group_norm(h, groups) * (1 + e[:, :c, None, None]) + e[:, c:, None, None]


def shares(counts):
    return counts[counts > 0].double() / counts.sum()


def entropy(f):
    return lambda counts: f(shares(counts))


def entropy_nan(counts):
    p = counts / counts.sum()
    return -(p * p.log2()).sum()


def entropy_loop(counts):
    total = sum(counts.tolist())
    return -sum(c / total * math.log2(c / total) for c in counts.tolist() if c)


WRONG = {
    "04.mode_gradient": {
        "p": (mode(right_k, lambda k, x: k * torch.sigmoid(k * x) * (1 - torch.sigmoid(k * x))), "not of log p"),
        "minus": (mode(right_k, lambda k, x: -k * torch.sigmoid(k * x)), "log p(minus"),
        "distance": (mode(lambda a, m, s: 2 * m / (a * s**2 + 1 - a)), "times as far apart"),
        "two": (mode(lambda a, m, s: a**0.5 * m / (a * s**2 + 1 - a)), "factor 2"),
        "noise only": (mode(lambda a, m, s: 2 * a**0.5 * m / (1 - a)), "width of a mode has grown"),
        "width not shrunk": (mode(lambda a, m, s: 2 * a**0.5 * m / (s**2 + 1 - a)), "shrinks with abar"),
        "no noise": (mode(lambda a, m, s: 2 * a**0.5 * m / s**2), "no noise"),
        "line": (mode(right_k, lambda k, x: k * torch.ones_like(x)), "slope of the log ratio"),
        "root": (mode(lambda a, m, s: 2 * a**0.5 * m / (a * s**2 + 1 - a) ** 0.5), "divides by the variance"),
    },
    "04.row_gradient": {
        "mean": (slope(lambda z, r, y: z.log_softmax(1)[r, y].mean()), "larger batch"),
        "down": (slope(lambda z, r, y: z.log_softmax(1)[r, y].sum(), sign=-1), "guidance goes up"),
        "cross entropy": (slope(lambda z, r, y: F.cross_entropy(z, y)), "takes a mean, and a minus"),
        "logit": (slope(lambda z, r, y: z[r, y].sum()), "gradient of the logit"),
        "probability": (slope(lambda z, r, y: z.softmax(1)[r, y].sum()), "gradient of the probability"),
        "all": (slope(lambda z, r, y: z.log_softmax(1).sum()), "all classes"),
        "first class": (slope(lambda z, r, y: z.log_softmax(1)[:, y[0]].sum()), "class of the first"),
        "first time": (slope(lambda z, r, y: z.log_softmax(1)[r, y].sum(), first_time=True), "time of the first"),
        "no_grad": (no_enable, "does not require grad"),
    },
    "04.shifted_eps": {
        "sign": (shift(lambda e, g, a, s: e + s * (1 - a).sqrt() * g), "sign is turned"),
        "no scale": (shift(lambda e, g, a, s: e - (1 - a).sqrt() * g), "s is not used"),
        "no factor": (shift(lambda e, g, a, s: e - s * g), "is missing"),
        "variance": (shift(lambda e, g, a, s: e - s * (1 - a) * g), "is its root"),
        "picture": (shift(lambda e, g, a, s: e - s * a.sqrt() * g), "factor of the picture"),
        "below": (shift(lambda e, g, a, s: e - s * g / (1 - a).sqrt()), "not below"),
        "first": (shift(lambda e, g, a, s: e - s * (1 - a[:1]).sqrt() * g), "first one"),
        "alone": (shift(lambda e, g, a, s: -s * (1 - a).sqrt() * g), "shift alone"),
    },
    "04.forgotten_x0": {
        "whole": (step(lambda old, new: (new, new)), "as it should be"),
        "other half": (step(lambda old, new: (new, old)), "other half"),
        "nothing": (step(lambda old, new: (old, old)), "nothing is shifted"),
        "sign": (step(half, factor=lambda a, b, s: -s * (1 - a) ** 0.5), "sign of the shift"),
        "no scale": (step(half, factor=lambda a, b, s: (1 - a) ** 0.5), "s is not used"),
        "no factor": (step(half, factor=lambda a, b, s: s), "is missing"),
        "variance": (step(half, factor=lambda a, b, s: s * (1 - a)), "is the root"),
        "next level": (step(half, factor=lambda a, b, s: s * (1 - b) ** 0.5), "that the step leaves"),
        "stays": (step(half, stays=True), "stays at the level"),
        "in place": (forgets_in_place, "in place"),
    },
    "04.kept_time": {
        "own count": (lambda i, kept: i, "own count"),
        "even": (lambda i, kept: (i * ((int(kept.max()) + 1) / len(kept))).long(), "evenly spaced"),
        "even to the top": (lambda i, kept: (i * (int(kept.max()) / (len(kept) - 1))).long(), "evenly spaced"),
        "wrong end": (lambda i, kept: kept.flip(0)[i], "wrong end"),
        "early": (lambda i, kept: kept[(i - 1).clamp(min=0)], "early"),
        "late": (lambda i, kept: kept[(i + 1).clamp(max=len(kept) - 1)], "late"),
        "table": (lambda i, kept: kept, "shape"),
    },
    "04.ada_gn": {
        "no one": (adagn(lambda h, a, b, n: F.group_norm(h, n) * a + b), "scale is 1 +"),
        "exchanged": (adagn(lambda h, a, b, n: F.group_norm(h, n) * (1 + b) + a), "exchanged"),
        "no norm": (adagn(lambda h, a, b, n: h * (1 + a) + b), "normalise it first"),
        "before": (adagn(lambda h, a, b, n: F.group_norm(h * (1 + a) + b, n)), "before the norm"),
        "no shift": (adagn(lambda h, a, b, n: F.group_norm(h, n) * (1 + a)), "shift is missing"),
        "bracket": (adagn(lambda h, a, b, n: (F.group_norm(h, n) + b) * (1 + a)), "outside of the bracket"),
        "turns": (adagn_turns, "in turn"),
        "one group": (adagn(lambda h, a, b, n: F.group_norm(h, 1) * (1 + a) + b), "one group"),
        "instance": (adagn(lambda h, a, b, n: F.group_norm(h, h.shape[1]) * (1 + a) + b), "group for each channel"),
        "in place": (adagn_in_place, "in place"),
    },
    "04.entropy": {
        "nats": (entropy(lambda p: -(p * p.log()).sum()), "nats"),
        "sign": (entropy(lambda p: (p * p.log2()).sum()), "sign is turned"),
        "counts": (lambda c: -(c[c > 0].double() * c[c > 0].double().log2()).sum(), "counts, not shares"),
        "mean": (entropy(lambda p: -(p * p.log2()).mean()), "mean over the classes"),
        "not weighted": (entropy(lambda p: -p.log2().sum()), "not weighted"),
        "most": (entropy(lambda p: torch.tensor(math.log2(len(p)))), "largest entropy"),
        "gini": (entropy(lambda p: 1 - p.square().sum()), "another measure"),
        "effective": (entropy(lambda p: 2 ** -(p * p.log2()).sum()), "number of classes"),
        "nan": (entropy_nan, "nan"),
    },
    "04.heads": {"one": (3, "level one"), "two": (6, "level two"), "four": (12, "level four"), "width": (64, "width of a head"),
                 "level": (576, "width of the level"), "ddpm": (4, "whatever the width"), "else": (8, "divided by")},
}

HONEST = {
    "04.mode_gradient": {
        "autograd": mode_autograd, "loop": mode_loop,
        "minus": mode(right_k, lambda k, x: k * torch.sigmoid(-k * x)),
        "single": lambda x, abar, m, s: mode(right_k)(x.float(), abar, m, s),
    },
    "04.row_gradient": {"one by one": one_by_one, "cross entropy": by_cross_entropy, "leaves a mark": leaves_mark,
                        "logsumexp": slope(lambda z, r, y: (z[r, y] - z.logsumexp(1)).sum())},
    "04.shifted_eps": {
        "scores": shift(lambda e, g, a, s: -(1 - a).sqrt() * (-e / (1 - a).sqrt() + s * g)),
        "loop": lambda eps, g, abar, s: torch.stack([e - s * math.sqrt(1 - a) * h for e, h, a in zip(eps, g, abar.tolist())]),
        "single": shift(lambda e, g, a, s: (e - s * (1 - a) ** 0.5 * g).float()),
    },
    "04.forgotten_x0": {"halves": step(half), "by difference": forgets_by_difference,
                        "single": lambda x, e, g, a, b, s: step(half)(x, e, g, a, b, s).float()},
    "04.kept_time": {"gather": lambda i, kept: kept.gather(0, i), "numpy": lambda i, kept: np.asarray(kept)[np.asarray(i)],
                     "loop": lambda i, kept: torch.tensor([int(kept[j]) for j in i])},
    "04.ada_gn": {"by hand": adagn_by_hand, "addcmul": adagn(lambda h, a, b, n: torch.addcmul(b, F.group_norm(h, n), 1 + a)),
                  "module": adagn(lambda h, a, b, n: torch.nn.GroupNorm(n, h.shape[1], affine=False)(h) * (a + 1) + b)},
    "04.entropy": {"loop": entropy_loop, "distribution": lambda c: torch.distributions.Categorical(probs=c.double()).entropy()
                   / math.log(2), "special": lambda c: -torch.special.xlogy(c / c.sum(), c / c.sum()).sum() / math.log(2)},
    "04.heads": {"whole": 9, "float": 9.0, "product": 3 * 192 // 64},
}

EQUIVALENT = {
    "04.row_gradient": {
        "x = x.detach().requires_grad_()": "True is the default",
        "x = x.requires_grad_(True)": "the caller's x is marked, the gradient is the same",
        "return torch.autograd.grad(chosen.sum(), x)[-1]": "there is one gradient",
    },
    "04.shifted_eps": {
        "return eps - s * (1 - abar).sqrt().view(-1, *[1] * (gradient.ndim - 1)) * gradient": "eps and gradient have one shape",
    },
    "04.kept_time": {"return torch.gather(kept, -1, i)": "the table has one axis"},
    "04.entropy": {"share = counts[counts > 0] / counts.sum()": "whole numbers divide to floats"},
}

ONCE: dict[str, dict[str, str]] = {}
