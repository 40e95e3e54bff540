"""Wrong and right answers to the exercises of lesson 17."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F


# 17.self_similarity
def unit(k):
    return F.normalize(k, dim=-1)


def s_loop(k):
    out = torch.zeros(len(k), k.shape[1], k.shape[1], dtype=k.dtype)
    for b, row in enumerate(k):
        for i, a in enumerate(row):
            for j, c in enumerate(row):
                out[b, i, j] = a @ c / (a.norm() * c.norm())
    return out


def s_numpy(k):
    a = k.numpy()
    a = a / np.linalg.norm(a, axis=2, keepdims=True)
    return torch.from_numpy(np.einsum("bid,bjd->bij", a, a))


def s_less(dim):
    def answer(k):
        k = unit(k - k.mean(dim, keepdim=True))
        return k @ k.mT
    return answer


# 17.turn
def t_turned(k):
    a, b = k[..., :1], k[..., 1:2]
    return torch.cat([-b, a, -k[..., 2:]], -1)


# 17.contrast
def c_logits(a, b, t):
    return unit(a) @ unit(b).detach().mT / t


def c_of(logits):
    return -logits.log_softmax(-1).diagonal(dim1=1, dim2=2).mean(1)


def c_entropy(a, b, t):
    logits = c_logits(a, b, t)
    right = torch.arange(a.shape[1]).expand(len(a), -1)
    return F.cross_entropy(logits.mT, right, reduction="none").mean(1)


def c_loop(a, b, t):
    rows = []
    for x, y in zip(a, b.detach()):
        cos = torch.stack([F.cosine_similarity(k[None], y) for k in x]) / t
        rows.append(torch.stack([cos[i].exp().sum().log() - cos[i, i] for i in range(len(x))]).mean())
    return torch.stack(rows)


def c_without_own(a, b, t):
    logits = c_logits(a, b, t)
    own = torch.eye(a.shape[1], dtype=torch.bool)
    return (torch.logsumexp(logits.masked_fill(own, -1e9), -1) - logits.diagonal(dim1=1, dim2=2)).mean(1)


# 17.push
def p_with(length=lambda x, e, g, s: s * e.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1), sign=1, end=None, at="x",
           detach=True):
    def answer(x, predict, loss, a, s):
        x = x.detach().requires_grad_()
        e = predict(x)
        x0 = (x - (1 - a) ** 0.5 * (e.detach() if at == "eps" else e)) / a**0.5
        g = torch.autograd.grad(loss(x0).sum(), x0 if at == "x0" else x)[0]
        factor = length(x, e, g, s)
        push = (factor.view(-1, 1, 1, 1) if isinstance(factor, torch.Tensor) and factor.ndim else factor) * g
        out = end(x, e, push, a) if end is not None else (x - (1 - a) ** 0.5 * (e + sign * push)) / a**0.5
        return out.detach() if detach else out
    return answer


def p_loop(x, predict, loss, a, s):
    x = x.clone().requires_grad_(True)
    e = predict(x)
    x0 = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
    values, out = loss(x0), []
    for k in range(len(x)):
        g = torch.autograd.grad(values[k], x, retain_graph=True)[0][k]
        moved = e[k] + s * e[k].norm() * g / g.norm()
        out.append(((x[k] - math.sqrt(1 - a) * moved) / math.sqrt(a)).detach())
    return torch.stack(out)


def p_backward(x, predict, loss, a, s):
    x = x.clone().requires_grad_(True)
    e = predict(x)
    loss((x - (1 - a) ** 0.5 * e) / a**0.5).sum().backward()
    with torch.no_grad():
        g = F.normalize(x.grad.flatten(1), dim=1) * s * e.flatten(1).norm(dim=1, keepdim=True)
        return (x - (1 - a) ** 0.5 * (e + g.view_as(x))) / a**0.5


# 17.renoise
def n_two(x, noise, a, b):
    """Mean and variance, each by itself."""
    u = (a / b) ** 0.5
    return u * x + ((1 - a) - u**2 * (1 - b)) ** 0.5 * noise


def n_beta(x, noise, a, b):
    beta = (b - a) / b
    return (1 - beta) ** 0.5 * x + beta**0.5 * noise


# 17.silent
def a_with(grad=True, detach=True, how=lambda gap: gap.mean(1)):
    def answer(tower, x, y):
        with torch.set_grad_enabled(grad):
            want = tower(y).detach() if detach else tower(y)
            return how((tower(x) - want).square())
    return answer


def a_detached(tower, x, y):
    return F.mse_loss(tower(x), tower(y.detach()), reduction="none").mean(-1)


# 17.best_start
def b_sorted(starts, flips, ious, level):
    rows = sorted(zip(starts, flips, ious))
    best = None
    for row in rows:
        if row[1] >= level and (best is None or row[2] > best[2]):
            best = row
    return (best or max(rows, key=lambda row: row[1]))[0]


def b_numpy(starts, flips, ious, level):
    s, f, i = map(np.asarray, (starts, flips, ious))
    ok = f >= level
    if not ok.any():
        return float(s[f.argmax()])
    top = i[ok].max()
    return float(s[ok & (i == top)].min())


def b_strict(starts, flips, ious, level):
    return b_sorted(starts, flips, ious, level + 1e-9)


def b_most(starts, flips, ious, level):
    return starts[flips.index(max(flips))]


def b_large(starts, flips, ious, level):
    ready = [(i, s) for s, f, i in zip(starts, flips, ious) if f >= level]
    return max(ready)[1] if ready else b_most(starts, flips, ious, level)


WRONG = {
    "17.self_similarity": {
        "raw": (lambda k: k @ k.mT, "long keys"), "once": (lambda k: unit(k) @ k.mT, "both are"),
        "together": (lambda k: k @ k.mT / k.flatten(1).norm(dim=1)[:, None, None] ** 2, "together"),
        "places": (lambda k: F.normalize(k, dim=1) @ F.normalize(k, dim=1).mT, "over places"),
        "correlation": (s_less(1), "correlation"), "centred": (s_less(2), "own mean"),
        "distance": (lambda k: torch.cdist(unit(k), unit(k)), "distances"),
        "attention": (lambda k: (unit(k) @ unit(k).mT).softmax(-1), "softmax"),
        "half": (lambda k: s_loop(k) / 2, "diagonal"), "batch": (lambda k: s_loop(k)[0], "shape"),
    },
    "17.turn": {
        "same": (lambda k: k, "at least"), "longer": (lambda k: 1.5 * k, "at least"),
        "moved": (lambda k: k + 3, "loss sees"), "shuffled": (lambda k: k.roll(1, 1), "loss sees"),
        "axis": (lambda k: k * torch.tensor([2.0] + [1.0] * (k.shape[2] - 1)), "loss sees"),
        "nothing": (lambda k: 0 * k, "length 0"), "half": (lambda k: torch.cat([-k[:, :1], k[:, 1:]], 1), "loss sees"),
        "rolled": (lambda k: k.roll(1, 1).flip(2), "loss sees"),
    },
    "17.contrast": {
        "plain": (lambda a, b, t: c_of(c_logits(a, b, 1)), "left out"),
        "times": (lambda a, b, t: c_of(c_logits(a, b, 1 / t)), "sharpens"),
        "raw": (lambda a, b, t: c_of(a @ b.detach().mT / t), "cosine"),
        "turned": (lambda a, b, t: c_of(c_logits(a, b, t).mT), "turn the matrix"),
        "sum": (lambda a, b, t: c_of(c_logits(a, b, t)) * a.shape[1], "not averaged"),
        "sign": (lambda a, b, t: -c_of(c_logits(a, b, t)), "sign"),
        "without own": (c_without_own, "all n places"),
        "cosine": (lambda a, b, t: -c_logits(a, b, t).diagonal(dim1=1, dim2=2).mean(1), "without the others"),
        "itself": (lambda a, b, t: c_of(c_logits(a, a, t)), "among themselves"),
        "attached": (lambda a, b, t: c_of(unit(a) @ unit(b).mT / t), "detach"),
        "detached": (lambda a, b, t: c_of(c_logits(a.detach(), b, t)), "no gradient"),
        "half": (lambda a, b, t: c_of(c_logits(a, b, t)) / 2, "softmax is 1"),
        "batch": (lambda a, b, t: c_of(c_logits(a, b, t)).mean(), "shape"),
    },
    "17.zero": {
        "all": ({"structure", "contrast", "style", "divergence", "range"}, "cross-entropy"),
        "two": ({"structure", "style"}, "step before"), "no range": ({"structure", "style", "divergence"}, "range"),
        "no style": ({"structure", "range", "divergence"}, "style"), "word": ("structure", "set of names"),
        "other": ({"keys"}, "none of"), "no structure": ({"style", "range", "divergence"}, "structure"),
    },
    "17.push": {
        "down": (p_with(sign=-1), "walks up"), "raw": (p_with(lambda x, e, g, s: s), "depends on the loss"),
        "unit": (p_with(lambda x, e, g, s: s / g.flatten(1).norm(dim=1)), "whatever eps"),
        "batch": (p_with(lambda x, e, g, s: s * e.norm() / g.norm()), "whole batch"),
        "x": (p_with(lambda x, e, g, s: s * x.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1)), "not of |eps|"),
        "eps": (p_with(end=lambda x, e, push, a: e + push), "p_t is asked"),
        "p_t": (p_with(end=lambda x, e, push, a: (x - (1 - a) ** 0.5 * e) / a**0.5 - push), "belongs to eps"),
        "square": (p_with(lambda x, e, g, s: s * e.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1) ** 2), "square"),
        "no abar": (p_with(end=lambda x, e, push, a: x - (1 - a) ** 0.5 * (e + push)), "divide by"),
        "x0": (p_with(at="x0"), "respect to x_t"), "no network": (p_with(at="eps"), "respect to x_t"),
        "graph": (p_with(detach=False), "graph"), "none": (p_with(lambda x, e, g, s: 0.0), "not moved"),
        "half": (p_with(lambda x, e, g, s: s / 2 * e.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1)), "share 0"),
    },
    "17.renoise": {
        "clean": (lambda x, n, a, b: a**0.5 * x + (1 - a) ** 0.5 * n, "as if it were clean"),
        "difference": (lambda x, n, a, b: (a / b) ** 0.5 * x + (b - a) ** 0.5 * n, "shrinks"),
        "unscaled": (lambda x, n, a, b: x + (b - a) ** 0.5 * n, "scaled down"),
        "roots": (lambda x, n, a, b: a / b * x + (1 - a / b) * n, "square roots"),
        "fresh": (lambda x, n, a, b: (a / b) ** 0.5 * x + (1 - a) ** 0.5 * n, "stays in x"),
        "exchanged": (lambda x, n, a, b: (1 - a / b) ** 0.5 * x + (a / b) ** 0.5 * n, "exchanged their factors"),
        "prev": (lambda x, n, a, b: b**0.5 * x + (1 - b) ** 0.5 * n, "abar_prev's own"),
        "none": (lambda x, n, a, b: (a / b) ** 0.5 * x, "no noise"),
        "upside": (lambda x, n, a, b: (b / a) ** 0.5 * x + abs(1 - b / a) ** 0.5 * n, "are exchanged"),
        "same": (lambda x, n, a, b: x, "gives x back"),
    },
    "17.mean_push": {
        "no alpha": (lambda a, b: (1 - b) / (1 - a), "left out"),
        "turned": (lambda a, b: (1 - a) / ((1 - b) * (a / b) ** 0.5), "turned"),
        "under": (lambda a, b: (1 - b) / (1 - a) / (a / b) ** 0.5, "above the fraction"),
        "sigma": (lambda a, b: (1 - a / b) * (1 - b) / (1 - a), "alone"),
        "no root": (lambda a, b: a / b * (1 - b) / (1 - a), "root"),
        "sigma once": (lambda a, b: ((a / b) * (1 - b) / (1 - a) / (1 - a / b)) ** 0.5, "place of"),
        "exchanged": (lambda a, b: (b / a) ** 0.5 * (1 - a) / (1 - b), "turned"), "one": (lambda a, b: 1.0, "tiny"),
    },
    "17.silent": {
        "no gradient": (a_with(grad=False), "constant"), "batch": (a_with(how=lambda gap: gap.mean()), "whole batch"),
        "broken": (a_with(grad=False, how=lambda gap: gap.mean()), "whole batch"), "target": (a_with(detach=False), "is data"),
        "sum": (a_with(how=lambda gap: gap.sum(1)), "sum over"), "root": (a_with(how=lambda gap: gap.mean(1).sqrt()), "root"),
        "sign": (a_with(how=lambda gap: -gap.mean(1)), "sign"),
        "pixels": (lambda tower, x, y: (x - y.detach()).square().flatten(1).mean(1), "tower sees"),
        "half": (a_with(how=lambda gap: gap.mean(1) / 2), "equal pictures"),
        "detached": (lambda tower, x, y: a_with()(tower, x.detach(), y), "constant"),
    },
    "17.best_start": {
        "iou": (lambda s, f, i, level: s[i.index(max(i))], "largest iou of all"), "most": (b_most, "flips most"),
        "strict": (b_strict, "exactly"), "large": (b_large, "smaller start"),
        "index": (lambda s, f, i, level: float(s.index(b_sorted(s, f, i, level))), "place in the list"),
        "level": (lambda s, f, i, level: level, "cross out"),
        "smallest": (lambda s, f, i, level: min([a for a, b in zip(s, f) if b >= level], default=b_most(s, f, i, level)),
                     "smallest start"),
    },
}

HONEST = {
    "17.self_similarity": {"loop": s_loop, "numpy": s_numpy},
    "17.turn": {"turned": t_turned, "longer": lambda k: -2 * k, "doubled": lambda k: 3 * k},
    "17.contrast": {"cross-entropy": c_entropy, "loop": c_loop},
    "17.zero": {"list": ["range", "style", "structure", "divergence"],
                "frozen": frozenset(("range", "style", "structure", "divergence"))},
    "17.push": {"loop": p_loop, "steps": p_with(), "backward": p_backward},
    "17.renoise": {"two conditions": n_two, "beta": n_beta},
    "17.mean_push": {"plain": lambda a, b: math.sqrt(a / b) * (1 - b) / (1 - a),
                     "long": lambda a, b: ((1 - a / b) * (1 - b) / (1 - a)) / ((1 - a / b) / (a / b) ** 0.5)},
    "17.silent": {"detached": a_detached, "steps": a_with()},
    "17.best_start": {"sorted": b_sorted, "numpy": b_numpy},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "17.turn": {f"return {k} * keys": "any negative factor: lengths of keys do not count" for k in (-1.5, -2.0)}
    | {"return -0.999 * keys": "the same, to a thousandth"},
    "17.push": {"g, = torch.autograd.grad(loss(x0).mean(), x)": "the push gets a length of its own",
                "x = x.requires_grad_()": "what the check hands over has no history"},
}
ONCE: dict[str, dict[str, str]] = {}
