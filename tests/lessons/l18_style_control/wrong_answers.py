"""Wrong and right answers to the exercises of lesson 18."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


# 18.neighbour
def n_with(close):
    return lambda codes, labels: (labels[close(codes).argmax(1)] == labels).double().mean()


def n_others(x):
    return x.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf)


def n_unit(codes):
    return codes / codes.norm(dim=1, keepdim=True)


def n_loop(codes, labels):
    right = 0
    for i in range(len(codes)):
        best = max((j for j in range(len(codes)) if j != i), key=lambda j: float(F.cosine_similarity(codes[i], codes[j], dim=0)))
        right += int(labels[best] == labels[i])
    return right / len(codes)


def n_numpy(codes, labels):
    x = codes.numpy() / np.linalg.norm(codes.numpy(), axis=1, keepdims=True)
    close = x @ x.T
    np.fill_diagonal(close, -2)
    return float((labels.numpy()[close.argmax(1)] == labels.numpy()).mean())


N_COSINE = n_with(lambda c: n_others(n_unit(c) @ n_unit(c).T))


# 18.whiten
def w_root(c, p):
    values, vectors = torch.linalg.eigh(c)
    return vectors @ torch.diag(values**p) @ vectors.T


def w_with(matrix=lambda cx, cs: w_root(cs, 0.5) @ w_root(cx, -0.5), before=True, add="style", correction=0):
    def answer(x, s):
        mx, ms = x.mean(1, keepdim=True), s.mean(1, keepdim=True)
        moved = matrix(torch.cov(x, correction=correction), torch.cov(s, correction=correction)) @ (x - mx if before else x)
        return moved + {"style": ms, "image": mx, "none": 0}[add]

    return answer


def w_svd(x, s):
    def root(c, p):
        u, d, _ = torch.linalg.svd(c)
        return (u * d**p) @ u.T

    mx, ms = x.mean(1, keepdim=True), s.mean(1, keepdim=True)
    cx, cs = (x - mx) @ (x - mx).T / x.shape[1], (s - ms) @ (s - ms).T / s.shape[1]
    return torch.einsum("ij,jn->in", root(cs, 0.5) @ root(cx, -0.5), x - mx) + ms


def w_numpy(x, s):
    return torch.from_numpy(w_with()(x, s).numpy().copy())


# 18.leak
def l_loop(r, y, s):
    hits = total = 0
    for a, b, c in zip(r.flatten().tolist(), y.flatten().tolist(), s.flatten().tolist()):
        if b != c:
            total, hits = total + 1, hits + (a == c)
    return hits / total


def l_masked(r, y, s):
    there = y != s
    return (r[there] == s[there]).double().mean()


# 18.search
def s_unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def s_with(score):
    def answer(style, content, gs, gc, w):
        return score(F.cosine_similarity(style[None], gs), F.cosine_similarity(content[None], gc), w).argmax()

    return answer


def s_loop(style, content, gs, gc, w):
    scores = [
        float(w * F.cosine_similarity(style, a, dim=0) + (1 - w) * F.cosine_similarity(content, b, dim=0)) for a, b in zip(gs, gc)
    ]
    return scores.index(max(scores))


def s_joined(style, content, gs, gc, w):
    """One product of joined unit codes."""
    query = torch.cat([w * s_unit(style), (1 - w) * s_unit(content)])
    return (torch.cat([s_unit(gs), s_unit(gc)], 1) @ query).argmax()


def rows(a, b):
    return [list(map(float, a))] * 4, [list(map(float, b))] * 4


def p_clone(context, style):
    out = context.clone()
    out[:, -style.shape[1] :] = style
    return out


WRONG = {
    "18.break_style": {
        "word": ("stripes", "pair of tables"),
        "one": ([[0.0] * 4] * 4, "two tables"),
        "small": (([[0, 1]], [[1, 0]]), "4 x 4"),
        "mean": (rows((0, 0, 1, 1), (0, 2, 0, 2)), "means differ"),
        "loud": (rows((0, 0, 1, 1), (-1, 2, -1, 2)), "deviations differ"),
        "flat": (rows((0, 0, 0, 0), (0, 0, 0, 0)), "no neighbours differ"),
        "same": (rows((0, 0, 1, 1), (0, 0, 1, 1)), "three times as much"),
        "turned": (rows((0, 1, 0, 1), (0, 0, 1, 1)), "three times as much"),
    },
    "18.neighbour": {
        "own": (n_with(lambda c: n_unit(c) @ n_unit(c).T), "own nearest"),
        "raw": (n_with(lambda c: n_others(c @ c.T)), "different lengths"),
        "distance": (n_with(lambda c: n_others(-(c[:, None] - c[None]).norm(dim=2))), "not a cosine"),
        "least": (n_with(lambda c: n_others(-(n_unit(c) @ n_unit(c).T))), "least"),
        "count": (lambda c, k: N_COSINE(c, k) * len(c), "not a count"),
        "wrong ones": (lambda c, k: 1 - N_COSINE(c, k), "wrong neighbours"),
        "guess": (lambda c, k: (torch.bincount(k).double() / len(k)).square().sum(), "guessing"),
        "each": (lambda c, k: (k[n_others(n_unit(c) @ n_unit(c).T).argmax(1)] == k).double(), "shape"),
        "half": (lambda c, k: N_COSINE(c, k) / 2, "far from all others"),
    },
    "18.sum": {
        "joint": (5.5, "joint mean"),
        "mean": (3.5, "mean of the two"),
        "interaction": (-1.5, "interaction"),
        "twice": (8.5, "not subtracted"),
        "content": (5, "content alone"),
        "all": (12.5, "never evaluated"),
        "else": (6.25, "add to m"),
    },
    "18.joint": {
        "exchanged": (lambda u, y, b, gs, gy: u + gs * (y - u) + gy * (b - y), "exchanged"),
        "from nothing": (lambda u, y, b, gs, gy: u + gy * (y - u) + gs * (b - u), "from nothing"),
        "no content": (lambda u, y, b, gs, gy: u + gs * (b - y), "left out"),
        "one weight": (lambda u, y, b, gs, gy: u + gy * (b - u), "one weight"),
        "begins": (lambda u, y, b, gs, gy: y + gy * (y - u) + gs * (b - y), "begin with nothing"),
        "classic": (lambda u, y, b, gs, gy: y + gs * (b - y), "ignores g_content"),
        "bare": (lambda u, y, b, gs, gy: gy * (y - u) + gs * (b - y), "minus it"),
        "away": (lambda u, y, b, gs, gy: u + gy * (y - u) + gs * (y - b), "away"),
        "product": (lambda u, y, b, gs, gy: u + gy * (y - u) + gs * gy * (b - y), "both weights 1"),
    },
    "18.put_tokens": {
        "faulty": (lambda c, s: torch.cat((c, s), 1)[:, : c.shape[1]], "faulty line"),
        "front": (lambda c, s: torch.cat((s, c[:, s.shape[1] :]), 1), "in front"),
        "pushed": (lambda c, s: torch.cat((s, c), 1)[:, : c.shape[1]], "pushed back"),
        "beginning": (lambda c, s: torch.cat((c, s), 1)[:, s.shape[1] :], "beginning lost"),
        "added": (lambda c, s: torch.cat((c[:, : -s.shape[1]], c[:, -s.shape[1] :] + s), 1), "takes its place"),
        "reversed": (lambda c, s: p_clone(c, s.flip(1)), "reverse"),
        "first": (lambda c, s: p_clone(c, s[:, :1].expand_as(s)), "first token"),
        "long": (lambda c, s: torch.cat((c, s), 1), "shape"),
        "half": (lambda c, s: (c + p_clone(c, s)) / 2, "all but the last"),
    },
    "18.whiten": {
        "channels": (w_with(lambda cx, cs: torch.diag((cs.diagonal() / cx.diagonal()).sqrt())), "by itself"),
        "cholesky": (w_with(lambda cx, cs: torch.linalg.cholesky(cs) @ torch.linalg.inv(torch.linalg.cholesky(cx))), "cholesky"),
        "own mean": (w_with(add="image"), "image's mean is put back"),
        "no mean": (w_with(add="none"), "mean is missing"),
        "not whitened": (w_with(lambda cx, cs: w_root(cs, 0.5)), "taken out first"),
        "white": (w_with(lambda cx, cs: w_root(cx, -0.5)), "white"),
        "no roots": (w_with(lambda cx, cs: cs @ torch.linalg.inv(cx)), "roots"),
        "order": (w_with(lambda cx, cs: w_root(cx, -0.5) @ w_root(cs, 0.5)), "wrong order"),
        "uncentred": (w_with(before=False), "not taken off"),
        "unbiased": (w_with(correction=1), "n - 1"),
        "half": (lambda x, s: (x + w_with()(x, s)) / 2, "nothing may change"),
    },
    "18.leak": {
        "all": (lambda r, y, s: (r == s).double().mean(), "nothing can leak"),
        "over all": (lambda r, y, s: ((r == s) & (y != s)).double().mean(), "not by all"),
        "kept": (lambda r, y, s: (r == y)[y != s].double().mean(), "kept"),
        "not right": (lambda r, y, s: (r != y)[y != s].double().mean(), "not yet leaked"),
        "count": (lambda r, y, s: (r == s)[y != s].double().sum(), "not a count"),
        "rows": (lambda r, y, s: (((r == s) & (y != s)).sum(1) / (y != s).sum(1).clamp(min=1)).mean(), "once"),
        "any": (lambda r, y, s: ((r == s) & (y != s)).any(1).double().mean(), "any leak"),
        "half": (lambda r, y, s: l_masked(r, y, s) / 2, "equal to s"),
    },
    "18.search": {
        "turned": (s_with(lambda a, b, w: (1 - w) * a + w * b), "turned"),
        "raw": (lambda s, c, gs, gc, w: (w * (gs @ s) + (1 - w) * (gc @ c)).argmax(), "long ones"),
        "least": (lambda s, c, gs, gc, w: s_with(lambda a, b, w: -(w * a + (1 - w) * b))(s, c, gs, gc, w), "least fitting"),
        "style": (s_with(lambda a, b, w: a), "only the style"),
        "content": (s_with(lambda a, b, w: b), "only the content"),
        "even": (s_with(lambda a, b, w: a + b), "by half"),
        "product": (s_with(lambda a, b, w: a * b), "multiplied"),
        "score": (
            lambda s, c, gs, gc, w: (w * F.cosine_similarity(s[None], gs) + (1 - w) * F.cosine_similarity(c[None], gc)).max(),
            "whole numbers",
        ),
        "first": (lambda s, c, gs, gc, w: 0, "at w = 1"),
    },
}

HONEST = {
    "18.break_style": {
        "tensors": (torch.tensor([[0.0, 0, 1, 1]] * 4), torch.tensor([[1.0, 0, 1, 0]] * 4)),
        "numpy": (np.array([[3.0, 3, 5, 5]] * 4), np.array([[5.0, 3, 5, 3]] * 4)),
    },
    "18.neighbour": {"loop": n_loop, "numpy": n_numpy},
    "18.sum": {"whole": 7, "tensor": torch.tensor(7.0)},
    "18.joint": {
        "collected": lambda u, y, b, gs, gy: (1 - gy) * u + (gy - gs) * y + gs * b,
        "torch": lambda u, y, b, gs, gy: torch.lerp(u, y, gy) + gs * (b - y),
    },
    "18.put_tokens": {"clone": p_clone, "where": lambda c, s: torch.cat((c[:, : c.shape[1] - s.shape[1]], s), dim=1)},
    "18.whiten": {"svd": w_svd, "numpy": w_numpy},
    "18.leak": {"loop": l_loop, "masked": l_masked},
    "18.search": {"loop": s_loop, "joined": s_joined},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "18.neighbour": {
        "return (labels[cosine.argmax(0)] == labels).double().mean()": "cosines are the same both ways",
        "cosine = (codes @ unit.T).fill_diagonal_(-torch.inf)": "a row's own length does not change which product is largest",
    },
    "18.whiten": {"return -(vectors @ torch.diag(values ** power) @ vectors.T)": "two roots, and both signs cancel"},
    "18.search": {
        line: "the same cosines: a row is broadcast"
        for line in (
            "by_style = torch.nn.functional.cosine_similarity(style, gallery_style)",
            "by_style = torch.nn.functional.cosine_similarity(gallery_style, style[None])",
            "by_content = torch.nn.functional.cosine_similarity(gallery_content, content[None])",
            "by_content = torch.nn.functional.cosine_similarity(content, gallery_content)",
        )
    },
}
ONCE: dict[str, dict[str, str]] = {"18.whiten": {f"{name}, axis 0: 3": "red, green and blue" for name in ("image", "style")}}
