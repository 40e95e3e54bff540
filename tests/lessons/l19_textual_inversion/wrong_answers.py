"""Wrong and right answers to the exercises of lesson 19."""

from __future__ import annotations

import re

import numpy as np
import torch
import torch.nn.functional as F


# 19.free_row
def f_in_place(table, ids, new, v):
    table[new] = v
    return table[ids]


def f_copy(table, ids, new, v):
    table = table.detach().clone()
    table[new] = v.detach()
    return table[ids]


def f_first(table, ids, new, v):
    out = table[ids].clone()
    for row in range(len(ids)):
        found = (ids[row] == new).nonzero()
        if len(found):
            out[row, found[0, 0]] = v
    return out


def f_index_put(table, ids, new, v):
    out = table.detach()[ids]
    here = ids == new
    return out.masked_scatter(here[..., None].expand_as(out), v.repeat(int(here.sum()), 1))


def f_arithmetic(table, ids, new, v):
    here = (ids == new)[..., None].to(v)
    return here * v + (1 - here) * table[ids]


def f_cat(table, ids, new, v):
    return F.embedding(ids, torch.cat((table[:new], v[None], table[new + 1:])))


# 19.decayed
def d_loop(norm, lr, decay, steps):
    for _ in range(steps):
        norm -= lr * decay * norm
    return norm


def d_adamw(norm, lr, decay, steps):
    w = torch.tensor([norm], dtype=torch.float64, requires_grad=True)
    o = torch.optim.AdamW([w], lr=lr, weight_decay=decay)
    for _ in range(steps):
        w.grad = torch.zeros_like(w)
        o.step()
    return float(w.detach())


# 19.spell
def s_regex(prompt, word, k):
    names = " ".join([word] + [f"{word}_{i + 1}" for i in range(k - 1)])
    return re.sub(rf"(?<!\S){re.escape(word)}(?!\S)", lambda _: names, prompt)


def s_loop(prompt, word, k):
    out = []
    for w in prompt.split():
        out.append(w)
        if w == word:
            out += [f"{word}_{i}" for i in range(1, k)]
    return " ".join(out)


def _names(word, k, first=1):
    return " ".join([word, *(f"{word}_{i}" for i in range(first, k - 1 + first))])


def _solve(W, y):
    return torch.linalg.lstsq(W, y[:, None]).solution[:, 0]


def _to(v, length):
    return v / v.norm() * length


WRONG = {
    "19.best_vector": {
        "gradient": (lambda W, y: W.T @ y, "W^T y"),
        "first rows": (lambda W, y: torch.linalg.solve(W[:W.shape[1]], y[:W.shape[1]]), "first rows"),
        "ridge": (lambda W, y: torch.linalg.solve(W.T @ W + torch.eye(W.shape[1]).to(W), W.T @ y), "ridge"),
        "unit": (lambda W, y: _to(_solve(W, y), 1), "length 1"),
        "sign": (lambda W, y: -_solve(W, y), "sign"),
        "scaled gradient": (lambda W, y: W.T @ y / (W**2).sum(), "orthonormal"),
        "shape": (lambda W, y: torch.linalg.lstsq(W, y[:, None]).solution, "shape"),
        "one step": (lambda W, y: 0.01 * W.T @ y, "W^T (W v - y)"),
    },
    "19.free_row": {
        "in place": (f_in_place, "in place"),
        "nothing": (lambda t, i, n, v: t[i], "Nothing is replaced"),
        "everywhere": (lambda t, i, n, v: v.expand(*i.shape, -1), "everywhere"),
        "added": (lambda t, i, n, v: t[i] + v * (i == n)[..., None], "added"),
        "first": (f_first, "first place"),
        "reversed": (lambda t, i, n, v: torch.where((i != n)[..., None], v, t[i]), "wrong way"),
        "no gradient": (f_copy, "No gradient"),
        "detached": (lambda t, i, n, v: torch.where((i == n)[..., None], v.detach(), t[i]), "No gradient"),
    },
    "19.rungs": {
        "all": (["inside", "paint", "kind", "panda"], "black patches"),
        "paint": (["inside", "paint"], "second colour"),
        "robot": (["inside", "kind"], "robot"),
        "none": ([], "pink rabbit"),
        "unknown": (["rabbit"], "no rung"),
        "string": ("inside", "list"),
    },
    "19.decayed": {
        "no rate": (lambda n, lr, d, s: n * (1 - d) ** s, "learning rate is missing"),
        "linear": (lambda n, lr, d, s: n * (1 - lr * d * s), "power of steps"),
        "one": (lambda n, lr, d, s: n * (1 - lr * d), "one step"),
        "no decay": (lambda n, lr, d, s: n * (1 - lr) ** s, "without the decay"),
        "nothing": (lambda n, lr, d, s: n, "decoupled"),
        "grows": (lambda n, lr, d, s: n * (1 + lr * d) ** s, "grow"),
    },
    "19.accumulated": {
        "sum": (lambda g, s: g.sum(0), "added"),
        "mean": (lambda g, s: g.mean(0), "alike"),
        "undivided": (lambda g, s: (s[:, None] * g).sum(0), "not divided"),
        "by K": (lambda g, s: (s[:, None] * g).sum(0) / len(s), "number of micro-batches"),
        "twice": (lambda g, s: (s[:, None] * g).sum(0) / s.sum() / len(s), "once more"),
        "last": (lambda g, s: g[-1], "last"),
        "matrix": (lambda g, s: s[:, None] * g / s.sum(), "shape"),
    },
    "19.nearest": {
        "dot": (lambda t, v, k: (t @ v).topk(k).indices, "dot product"),
        "farthest": (lambda t, v, k: (-F.cosine_similarity(t, v[None])).topk(k).indices, "farthest"),
        "euclid": (lambda t, v, k: (-(t - v).norm(dim=1)).topk(k).indices, "Euclidean"),
        "reversed": (lambda t, v, k: F.cosine_similarity(t, v[None]).topk(k).indices.flip(0), "reversed"),
        "values": (lambda t, v, k: F.cosine_similarity(t, v[None]).topk(k).values, "largest cosines"),
        "absolute": (lambda t, v, k: F.cosine_similarity(t, v[None]).abs().topk(k).indices, "sign"),
        "all": (lambda t, v, k: F.cosine_similarity(t, v[None]).argsort(descending=True), "shape"),
    },
    "19.rescaled": {
        "norm of mean": (lambda v, t, s: _to(v, s * t.mean(0).norm()), "mean row"),
        "undivided": (lambda v, t, s: v * s * t.norm(dim=1).mean(), "old length"),
        "no share": (lambda v, t, s: _to(v, t.norm(dim=1).mean()), "share is missing"),
        "share": (lambda v, t, s: _to(v, s), "table is missing"),
        "times": (lambda v, t, s: v * s, "multiplies"),
        "columns": (lambda v, t, s: _to(v, s * t.norm(dim=0).mean()), "columns"),
    },
    "19.spell": {
        "nothing": (lambda p, w, k: p, "Nothing"),
        "replace": (lambda p, w, k: p.replace(w, _names(w, k)), "longer word"),
        "from zero": (lambda p, w, k: " ".join(_names(w, k, 0) if x == w else x for x in p.split()), "Expected"),
        "one too many": (lambda p, w, k: " ".join(_names(w, k + 1) if x == w else x for x in p.split()), "tokens in all"),
        "first renamed": (lambda p, w, k: " ".join(" ".join(f"{w}_{i}" for i in range(k)) if x == w else x for x in p.split()),
                          "name of the word"),
        "first only": (lambda p, w, k: p.replace(w, _names(w, k), 1), "twice"),
        "list": (lambda p, w, k: s_loop(p, w, k).split(), "string"),
    },
}

HONEST = {
    "19.best_vector": {"pinv": lambda W, y: torch.linalg.pinv(W) @ y,
                       "normal equations": lambda W, y: torch.linalg.solve(W.T @ W, W.T @ y),
                       "numpy": lambda W, y: np.linalg.lstsq(W.numpy(), y.numpy(), rcond=None)[0]},
    "19.free_row": {"masked": f_index_put, "arithmetic": f_arithmetic, "new table": f_cat},
    "19.rungs": {"tuple": ("inside",), "set": {"inside"}},
    "19.decayed": {"loop": d_loop, "AdamW": d_adamw},
    "19.accumulated": {"einsum": lambda g, s: torch.einsum("k,kd->d", s, g) / s.sum(),
                       "repeat": lambda g, s: torch.cat([x[None].repeat(int(n), 1) for x, n in zip(g, s)]).mean(0)},
    "19.nearest": {"by hand": lambda t, v, k: (F.normalize(t, dim=1) @ F.normalize(v, dim=0)).topk(k).indices,
                   "lengths of rows alone": lambda t, v, k: (t @ v / t.norm(dim=1)).argsort(descending=True)[:k]},
    "19.rescaled": {"normalize": lambda v, t, s: F.normalize(v, dim=0) * s * (t**2).sum(1).sqrt().mean(),
                    "float32": lambda v, t, s: (v * (s * t.norm(dim=1).mean() / v.norm())).float()},
    "19.spell": {"regex": s_regex, "loop": s_loop},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "19.best_vector": {"return torch.linalg.lstsq(W, y[:, None]).solution[:, -1]": "one column: the first is the last"},
    "19.nearest": {"return F.cosine_similarity(v[None], table).topk(k).indices": "the cosine is symmetric",
                   "return F.cosine_similarity(table, v).topk(k).indices": "v is broadcast over the rows"},
    "19.spell": {"return ' '.join((names if w == word else w for w in prompt.split()))": "words stand between single spaces"},
}

ONCE: dict[str, dict[str, str]] = {}
