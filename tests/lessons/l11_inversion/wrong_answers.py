"""Wrong and right answers to the exercises of lesson 11."""

from __future__ import annotations

import numpy as np
import torch


# 11.code_gain
def c_with(at=lambda p, a: a, ends=lambda p, a: (p, a), width=lambda s: s**2, eps_too=True):
    def answer(s, p, a):
        level, (clean, noisy) = at(p, a), ends(p, a)
        eps = (1 - level) ** 0.5 / (level * width(s) + 1 - level)
        x0 = (1 - (1 - clean) ** 0.5 * eps) / clean**0.5
        return noisy**0.5 * x0 + eps_too * (1 - noisy) ** 0.5 * eps
    return answer


def c_slope(s, p, a):
    """x_t = A x_prev + C eps."""
    eps = np.sqrt(1 - a) / (1 + a * (s * s - 1))
    return np.sqrt(a / p) + (np.sqrt(1 - a) - np.sqrt(a / p * (1 - p))) * eps


# 11.whiteness
def w_numpy(code):
    x = code.numpy()
    return [x.std(ddof=1), np.corrcoef(x[:, :, :-1].ravel(), x[:, :, 1:].ravel())[0, 1]]


def w_by_hand(code):
    a, b = code[..., :-1], code[..., 1:]
    a, b = a - a.mean(), b - b.mean()
    return torch.stack([code.std(unbiased=False), (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()])


def w_corr(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


def w_with(pairs=lambda c: (c[..., :-1], c[..., 1:]), second=w_corr, first=lambda c: c.std(), order=lambda *both: both):
    return lambda code: torch.stack(order(first(code), second(*pairs(code))))


def w_channels(code):
    each = [torch.corrcoef(torch.stack([c[:, :-1].flatten(), c[:, 1:].flatten()]))[0, 1] for c in code]
    return torch.stack([code.std(), torch.stack(each).mean()])


# 11.null_loss
def n_slope(u, c, z, goal, abar, abar_prev, w):
    eps = (1 - w) * u + w * c
    a = (abar_prev / abar) ** 0.5
    return ((a * z + ((1 - abar_prev) ** 0.5 - a * (1 - abar) ** 0.5) * eps - goal) ** 2).flatten(1).mean(1)


def n_rows(u, c, z, goal, abar, abar_prev, w):
    return [float(n_slope(*(x[i:i + 1] for x in (u, c, z, goal)), abar, abar_prev, w)) for i in range(len(z))]


def n_miss(u, c, z, goal, abar, abar_prev, w):
    eps = u + w * (c - u)
    z0 = (z - (1 - abar) ** 0.5 * eps) / abar**0.5
    return abar_prev**0.5 * z0 + (1 - abar_prev) ** 0.5 * eps - goal


# 11.hold
def h_loop(z, pivot, index):
    return {name: pivot[index + 1] if name == "source" else x for name, x in z.items()}


def h_added(z, pivot, index):
    return dict(z, source=z["source"] + (pivot[index + 1] - z["source"]))


def h_inplace(z, pivot, index):
    z["source"] = pivot[index + 1].clone()
    return z


# 11.noisy_path
def p_broadcast(clean, noises, abars):
    a = torch.tensor(abars, dtype=clean.dtype).view(-1, 1, 1, 1, 1)
    return a.sqrt() * clean[None] + (1 - a).sqrt() * noises


def p_loop(clean, noises, abars):
    out = torch.empty_like(noises)
    for i, abar in enumerate(abars):
        out[i] = clean * abar**0.5 + noises[i] * (1 - abar) ** 0.5
    return out


def p_chain(clean, noises, abars):
    path, x = [], clean
    for abar, noise in zip(abars, noises):
        x = abar**0.5 * x + (1 - abar) ** 0.5 * noise
        path.append(x)
    return torch.stack(path)


def p_forward(clean, noises, abars):
    out, x, before = torch.empty_like(noises), clean, 1.0
    for i in reversed(range(len(abars))):
        step = abars[i] / before
        x, before = step**0.5 * x + (1 - step) ** 0.5 * noises[i], abars[i]
        out[i] = x
    return out


# 11.kept_noise
def k_back(x0, eps, x_prev, abar_prev, sigma):
    return x_prev / sigma - (abar_prev**0.5 / sigma) * x0 - ((1 - abar_prev) / sigma**2 - 1) ** 0.5 * eps


def k_numpy(x0, eps, x_prev, abar_prev, sigma):
    x0, eps, x_prev = (x.numpy() for x in (x0, eps, x_prev))
    return torch.from_numpy((x_prev - np.sqrt(abar_prev) * x0 - np.sqrt(1 - abar_prev - sigma**2) * eps) / sigma)


def k_mean(x0, eps, abar_prev, sigma):
    return abar_prev**0.5 * x0 + (1 - abar_prev - sigma**2) ** 0.5 * eps


# 11.undo_mix
def u_solve(x, y, p):
    """The 2 x 2 matrix of the mixing, inverted."""
    m = torch.tensor([[p, 1 - p], [p * (1 - p), p + (1 - p) ** 2]], dtype=torch.float64).inverse()
    return m[0, 0] * x + m[0, 1] * y, m[1, 0] * x + m[1, 1] * y


def u_list(x, y, p):
    old = y / p - (1 - p) / p * x
    return [x / p - (1 - p) / p * old, old]


def u_first(x, y, p):
    x = (x - (1 - p) * y) / p
    return x, (y - (1 - p) * x) / p


WRONG = {
    "11.grey_code": {"one": (1.0, "should be"), "root": (50**-0.5, "averaged"), "fiftieth": (0.02, "factor"),
                     "fifty": (50, "add up"), "grows": (50**0.5, "deterministic"), "half": (0.5, "put x = 0")},
    "11.code_gain": {
        "ode": (lambda s, p, a: ((a * s**2 + 1 - a) / (p * s**2 + 1 - p)) ** 0.5, "exact way"),
        "old level": (c_with(at=lambda p, a: p), "new level"),
        "down": (c_with(ends=lambda p, a: (a, p)), "sampling"),
        "variance": (c_with(width=lambda s: s), "standard deviation"),
        "standard": (c_with(width=lambda s: 1.0), "s = 1"),
        "no noise": (c_with(eps_too=False), "noise is missing"),
        "one": (lambda s, p, a: 1.0, "check s = 1"),
    },
    "11.whiteness": {
        "order": (w_with(order=lambda a, b: (b, a)), "exchanged"),
        "down": (w_with(pairs=lambda c: (c[:, :-1], c[:, 1:])), "vertical"),
        "product": (w_with(second=lambda a, b: (a * b).mean()), "mean product"),
        "variance": (w_with(first=lambda c: c.var()), "variance"),
        "same": (w_with(pairs=lambda c: (c, c)), "shift"),
        "covariance": (w_with(second=lambda a, b: torch.cov(torch.stack([a.flatten(), b.flatten()]))[0, 1]), "covariance"),
        "channels": (w_channels, "each channel"),
        "whole": (lambda code: torch.stack([code.std(), ((code[..., :-1] - code.mean()) * (code[..., 1:] - code.mean())).mean()
                                            / code.var()]), "ends of a row"),
        "one": (lambda code: code.std(), "shape"),
    },
    "11.break_fixed_point": {
        "word": ("three", "one number"), "huge": (1e6, "no such number"), "at the pole": (2.124, "no solution"),
        "none": (0, "first guess"), "converges": (1.0, "each repeat leaves 0.47"), "from both sides": (-2.0, "alternating"),
    },
    "11.npi_target": {"ordinary": (9.0, "ordinary"), "source": (1.0, "at any w"), "bare": (1.2, "without guidance"),
                      "push": (1.5, "only the push"), "turned": (-0.3, "exchanged"), "ho": (2.7, "one less"),
                      "other": (4.0, "u = 1.0")},
    "11.null_loss": {
        "exchanged": (lambda u, c, *rest: n_slope(c, u, *rest), "exchanged"),
        "levels": (lambda u, c, z, g, a, p, w: n_slope(u, c, z, g, p, a, w), "levels"),
        "no guidance": (lambda u, c, z, g, a, p, w: n_slope(u, c, z, g, a, p, 1.0), "no guidance"),
        "ho": (lambda u, c, z, g, a, p, w: n_slope(u, c, z, g, a, p, w + 1), "Ho and Salimans"),
        "sum": (lambda *args: n_miss(*args).square().sum((1, 2, 3)), "sums grow"),
        "abs": (lambda *args: n_miss(*args).abs().mean((1, 2, 3)), "not its square"),
        "no step": (lambda u, c, z, g, *rest: n_slope(u, c, z, z, *rest), "where the step begins"),
        "batch": (lambda *args: n_miss(*args).square().mean(), "shape"),
    },
    "11.hold": {
        "before": (lambda z, pivot, i: dict(z, source=pivot[i]), "next one"),
        "nothing": (lambda z, pivot, i: dict(z), "drifts away"),
        "reversed": (lambda z, pivot, i: dict(z, source=pivot[len(pivot) - 2 - i]), "runs from the noise"),
        "picture": (lambda z, pivot, i: dict(z, source=pivot[-1]), "finished"),
        "half": (lambda z, pivot, i: dict(z, source=(z["source"] + pivot[i + 1]) / 2), "half way"),
        "all": (lambda z, pivot, i: {name: pivot[i + 1] for name in z}, "every branch"),
        "added to all": (lambda z, pivot, i: {name: x + pivot[i + 1] - z["source"] for name, x in z.items()}, "source's error"),
        "only it": (lambda z, pivot, i: {"source": pivot[i + 1]}, "branches"),
        "tensor": (lambda z, pivot, i: pivot[i + 1], "table"),
        "other moved": (lambda z, pivot, i: {n: pivot[i + 1] if n == "source" else 2 * x for n, x in z.items()}, "left alone"),
    },
    "11.noisy_path": {
        "twice": (p_chain, "noised already"),
        "forward": (p_forward, "forward process"),
        "one noise": (lambda c, n, a: p_broadcast(c, n[:1].expand_as(n), a), "its own"),
        "turned": (lambda c, n, a: p_broadcast(c, n, [1 - v for v in a]), "exchanged"),
        "no roots": (lambda c, n, a: torch.stack([v * c + (1 - v) * m for v, m in zip(a, n)]), "roots"),
        "no picture": (lambda c, n, a: p_broadcast(0 * c, n, a), "picture is missing"),
        "last": (lambda c, n, a: p_broadcast(c, n, a)[-1], "shape"),
    },
    "11.kept_noise": {
        "added": (lambda x0, e, x, p, s: x - k_mean(x0, e, p, s), "divided by sigma"),
        "sign": (lambda x0, e, x, p, s: (k_mean(x0, e, p, s) - x) / s, "turned"),
        "ddim": (lambda x0, e, x, p, s: (x - k_mean(x0, e, p, 0.0)) / s, "less of eps"),
        "square": (lambda x0, e, x, p, s: (x - k_mean(x0, e, p, s)) / s**2, "not by its square"),
        "exchanged": (lambda x0, e, x, p, s: k_back(e, x0, x, p, s), "exchanged"),
        "no direction": (lambda x0, e, x, p, s: (x - p**0.5 * x0) / s, "missing"),
        "sigma": (lambda x0, e, x, p, s: (x - p**0.5 * x0 - max(1 - p - s, 0) ** 0.5 * e) / s, "goes off"),
        "path": (lambda x0, e, x, p, s: x / s, "put your z back"),
    },
    "11.undo_mix": {
        "turned": (lambda x, y, p: u_solve(x, y, p)[::-1], "exchanged"),
        "again": (lambda x, y, p: (p * x + (1 - p) * y, p * y + (1 - p) * (p * x + (1 - p) * y)), "once more"),
        "order": (u_first, "order"),
        "mixed y": (lambda x, y, p: ((x - (1 - p) * y) / p, (y - (1 - p) * x) / p), "mixed y"),
        "no p": (lambda x, y, p: (x - (1 - p) * (y - (1 - p) * x), y - (1 - p) * x), "division"),
        "nothing": (lambda x, y, p: (x, y), "nothing is undone"),
        "one": (lambda x, y, p: (y - (1 - p) * x) / p, "pair"),
    },
}

HONEST = {
    "11.grey_code": {"int": 0, "tensor": torch.tensor(0.0)},
    "11.code_gain": {"slope": c_slope, "tensor": lambda s, p, a: torch.tensor(c_slope(s, p, a))},
    "11.whiteness": {"numpy": w_numpy, "by hand": w_by_hand},
    "11.break_fixed_point": {"negative": -3, "large": 50.0, "tensor": torch.tensor(2.5)},
    "11.npi_target": {"formula": 1 + 7.5 * 0.2, "tensor": torch.tensor(2.5)},
    "11.null_loss": {"slope": n_slope, "rows": n_rows},
    "11.hold": {"loop": h_loop, "added": h_added, "in place": h_inplace},
    "11.noisy_path": {"broadcast": p_broadcast, "loop": p_loop},
    "11.kept_noise": {"expanded": k_back, "numpy": k_numpy},
    "11.undo_mix": {"matrix": u_solve, "list": u_list},
}

EQUIVALENT = {
    "11.whiteness": {
        "return [code.std(), torch.corrcoef(torch.stack([left, right]))[0, 1]]": "a list of two is as good",
        "return torch.stack([code.std(), torch.corrcoef(torch.stack([left, right]))[1, 0]])": "a correlation is symmetric",
        "return torch.stack([code.std(), torch.corrcoef(torch.stack([right, left]))[0, 1]])": "a correlation is symmetric",
        "right, left = (code[..., :-1].flatten(), code[..., 1:].flatten())": "a correlation is symmetric",
        "left, right = (code[..., 1:].flatten(), code[..., :-1].flatten())": "a correlation is symmetric",
    },
    "11.break_fixed_point": {line: "every slope above 2.12 will do, of either sign" for line in (
        "return 4.0", "return 2.997", "return -3.0", "return 4.5")},
}
ONCE: dict[str, dict[str, str]] = {}
