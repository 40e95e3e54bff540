"""Wrong and right answers to the exercises of lesson 20."""

from __future__ import annotations

from collections import Counter
from math import log2

import torch
import torch.nn.functional as F


def c_counter(colours):
    n = len(colours)
    return -sum(k / n * log2(k / n) for k in Counter(colours.tolist()).values())


def c_unique(colours):
    _, counts = colours.unique(return_counts=True)
    return torch.distributions.Categorical(counts.double()).entropy() / torch.tensor(2.0).double().log()


def c_nan(colours):
    p = torch.bincount(colours, minlength=9).double() / len(colours)
    return -(p * p.log2()).sum()


def _p(colours):
    p = torch.bincount(colours).double() / len(colours)
    return p[p > 0]


def _svd(D):
    return torch.linalg.svd(D, full_matrices=False)


def b_loop(D, r):
    U, S, Vh = _svd(D)
    return sum(S[i] * torch.outer(U[:, i], Vh[i]) for i in range(r))


def b_project(D, r):
    values, vectors = torch.linalg.eigh(D @ D.T)
    top = vectors[:, values.argsort(descending=True)[:r]]
    return top @ top.T @ D


def b_first_rows(D, r):
    out = D.clone()
    out[r:] = 0
    return out


def l_merged(x, W, A, B, alpha):
    return F.linear(x, W + alpha / len(A) * B @ A)


def p_loop(shapes, r):
    a = w = 0
    for o, i in shapes:
        a, w = a + r * o + r * i, w + o * i
    return a / w


def w_loop(s, c):
    return torch.stack([(a - b).norm() / b.norm() for a, b in zip(s, c)])


def _n(x):
    return x.flatten(1).norm(dim=1)


WRONG = {
    "20.prior_loss": {
        "no lam": (lambda e, p, w: e[~p].mean() + e[p].mean(), "lam is missing"),
        "lam on subject": (lambda e, p, w: w * e[~p].mean() + e[p].mean(), "weighs the prior"),
        "one mean": (lambda e, p, w: torch.where(p, w * e, e).mean(), "One mean"),
        "exchanged": (lambda e, p, w: e[p].mean() + w * e[~p].mean(), "exchanged"),
        "sums": (lambda e, p, w: e[~p].sum() + w * e[p].sum(), "Sums"),
        "no prior": (lambda e, p, w: e[~p].mean(), "prior's part"),
        "mixture": (lambda e, p, w: (1 - w) * e[~p].mean() + w * e[p].mean(), "mixture"),
        "minus": (lambda e, p, w: e[~p].mean() - w * e[p].mean(), "subtracted"),
        "halves": (lambda e, p, w: e[:len(e) // 2].mean() + w * e[len(e) // 2:].mean(), "Mean over the subject"),
    },
    "20.mixed_entropy": {"half": (1.585, "Half of the bits"), "binary": (1.0, "panda or not"), "others": (3.0, "eight other"),
                         "no bit": (1.5, "adds a bit"), "nats": (1.733, "nats"), "same": (3.17, "Nothing is lost"),
                         "guess": (2.0, "p log2 p")},
    "20.colour_entropy": {
        "nats": (lambda c: -(_p(c) * _p(c).log()).sum(), "nats"),
        "sign": (lambda c: (_p(c) * _p(c).log2()).sum(), "sign"),
        "support": (lambda c: torch.tensor(float(len(c.unique()))).log2(), "alike"),
        "share": (lambda c: -(_p(c) * _p(c).log2()).sum() / log2(9), "share"),
        "mean": (lambda c: -(_p(c) * _p(c).log2()).mean(), "mean of the terms"),
        "nan": (c_nan, "NaN"),
        "counts": (lambda c: -(_p(c) * len(c) * (_p(c) * len(c)).log2()).sum(), "not normalised"),
    },
    "20.best_rank": {
        "smallest": (lambda D, r: (_svd(D)[0][:, -r:] * _svd(D)[1][-r:]) @ _svd(D)[2][-r:], "smallest"),
        "no values": (lambda D, r: _svd(D)[0][:, :r] @ _svd(D)[2][:r], "missing"),
        "one more": (lambda D, r: b_loop(D, r + 1), "too many"),
        "rows": (b_first_rows, "first r rows"),
        "whole": (lambda D, r: D.clone(), "Nothing is cut"),
        "twice": (lambda D, r: (_svd(D)[0][:, :r] * _svd(D)[1][:r] ** 2) @ _svd(D)[2][:r], "not twice"),
        "transposed": (lambda D, r: b_loop(D, r).T, "shape"),
    },
    "20.lora_forward": {
        "no scale": (lambda x, W, A, B, a: x @ W.T + x @ A.T @ B.T, "missing"),
        "alpha": (lambda x, W, A, B, a: x @ W.T + a * x @ A.T @ B.T, "division by r"),
        "r / alpha": (lambda x, W, A, B, a: x @ W.T + len(A) / a * x @ A.T @ B.T, "wrong way"),
        "no base": (lambda x, W, A, B, a: a / len(A) * x @ A.T @ B.T, "frozen layer is missing"),
        "base": (lambda x, W, A, B, a: x @ W.T, "Only the frozen"),
        "scaled all": (lambda x, W, A, B, a: a / len(A) * (x @ W.T + x @ A.T @ B.T), "low-rank path alone"),
        "no alpha": (lambda x, W, A, B, a: x @ W.T + x @ A.T @ B.T / len(A), "alpha is missing"),
        "r of B": (lambda x, W, A, B, a: x @ W.T + a / len(B) * x @ A.T @ B.T, "alpha / r"),
    },
    "20.parameters": {
        "A": (lambda s, r: sum(r * i for o, i in s) / sum(o * i for o, i in s), "A alone"),
        "B": (lambda s, r: sum(r * o for o, i in s) / sum(o * i for o, i in s), "B alone"),
        "mean": (lambda s, r: sum(r * (o + i) / (o * i) for o, i in s) / len(s), "averaged"),
        "no r": (lambda s, r: sum(o + i for o, i in s) / sum(o * i for o, i in s), "r is missing"),
        "inverse": (lambda s, r: sum(o * i for o, i in s) / sum(r * (o + i) for o, i in s), "wrong way"),
        "full": (lambda s, r: r, "no saving"),
        "square": (lambda s, r: 2 * r / s[0][1], "not square"),
    },
    "20.starts": {
        "all": (["A random, B zero", "A zero, B random", "both zero", "both random"], "for ever"),
        "random": (["A random, B zero", "A zero, B random", "both random"], "spoils"),
        "paper": (["A random, B zero"], "as good"),
        "other": (["A zero, B random"], "paper's"),
        "none": ([], "paper's"),
        "unknown": (["B zero"], "no start"),
        "string": ("A random, B zero", "list"),
    },
    "20.lost_alpha": {
        "reversed": (lambda d, a, r: d * a / r, "wrong way"),
        "over alpha": (lambda d, a, r: d / a, "not r"),
        "same": (lambda d, a, r: d.clone(), "alpha = r alone"),
        "times r": (lambda d, a, r: d * r, "still in delta"),
        "times alpha": (lambda d, a, r: d * a, "once more"),
        "zero": (lambda d, a, r: 0 * d, "alpha / r"),
    },
    "20.word_effect": {
        "squares": (lambda s, c: _n(s - c) ** 2 / _n(c) ** 2, "Square root"),
        "by subject": (lambda s, c: _n(s - c) / _n(s), "compare with the class"),
        "lengths": (lambda s, c: (_n(s) - _n(c)).abs() / _n(c), "Lengths"),
        "undivided": (lambda s, c: _n(s - c), "Not divided"),
        "batch": (lambda s, c: ((s - c).norm() / c.norm()).expand(len(s)), "whole batch"),
        "mean": (lambda s, c: (s - c).flatten(1).mean(1) / c.flatten(1).mean(1), "cancel"),
        "plus": (lambda s, c: _n(s + c) / _n(c), "Added"),
        "shape": (lambda s, c: (s - c).norm(dim=1) / c.norm(dim=1), "shape"),
    },
}

HONEST = {
    "20.prior_loss": {"weights": lambda e, p, w: (e * ~p).sum() / (~p).sum() + w * (e * p).sum() / p.sum(),
                      "python": lambda e, p, w: float(e[~p].mean()) + float(w) * float(e[p].mean())},
    "20.mixed_entropy": {"number": 2.5, "tensor": torch.tensor(2.5)},
    "20.colour_entropy": {"counter": c_counter, "distribution": c_unique},
    "20.best_rank": {"loop": b_loop, "projection": b_project},
    "20.lora_forward": {"merged": l_merged,
                        "einsum": lambda x, W, A, B, a: F.linear(x, W) + a / len(A) * torch.einsum("...i,ri,or->...o", x, A, B)},
    "20.parameters": {"loop": p_loop, "tensor": lambda s, r: torch.tensor(p_loop(s, r), dtype=torch.float64)},
    "20.starts": {"tuple": ("A zero, B random", "A random, B zero"), "set": {"A random, B zero", "A zero, B random"}},
    "20.lost_alpha": {"divide": lambda d, a, r: d / (a / r), "in place on a copy": lambda d, a, r: d.clone().mul_(r).div_(a)},
    "20.word_effect": {"loop": w_loop,
                       "float32": lambda s, c: (((s - c) ** 2).sum((1, 2, 3)) / (c**2).sum((1, 2, 3))).sqrt().float()},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "20.mixed_entropy": {"return 0.4995 * 1 + 8 * (1 / 16) * 4": "within the rounding that is allowed"},
    "20.colour_entropy": {"p = torch.bincount(colours) / len(colours)": "float32 is exact enough"},
    "20.best_rank": {"U, S, Vh = torch.linalg.svd(D, full_matrices=True)": "the first r columns are the same",
                     "U, S, Vh = torch.linalg.svd(D)": "the first r columns are the same"},
    "20.parameters": {"return sum((r * (o + i) for i, o in shapes)) / sum((o * i for o, i in shapes))": "O + I = I + O",
                      "return sum((r * (o + i) for o, i in shapes)) / sum((o * i for i, o in shapes))": "O I = I O"},
    "20.starts": {"return ['A zero, B random', 'A random, B zero']": "the order does not matter"},
    "20.word_effect": {"return (eps_class - eps_subject).flatten(1).norm(dim=1) / eps_class.flatten(1).norm(dim=1)":
                       "a norm has no sign"},
}

ONCE: dict[str, dict[str, str]] = {"20.parameters": {"shapes, items, length: 2": "a layer is a pair (O, I)"}}
