"""Wrong answers and honest variants for lesson 02."""

import math

import torch


def _c(a, p):
    alpha = a / p
    return (1 - alpha) * p**0.5 / (1 - a), (1 - p) * alpha**0.5 / (1 - a)


def _mean(x0, x_t, a, p):
    c1, c2 = _c(a, p)
    return c1 * x0 + c2 * x_t


def _einsum_mean(x0, x_t, a, p):
    c1, c2 = (c.flatten() for c in _c(a, p))
    return torch.einsum("b,bchw->bchw", c1, x0) + torch.einsum("b,bchw->bchw", c2, x_t)


def _bayes_mean(x0, x_t, a, p):
    """Product of two Gaussians, precision-weighted: at p = 1 the second precision is infinite."""
    alpha = a / p
    left, right = alpha / (1 - alpha), 1 / (1 - p)
    return (left * x_t / alpha**0.5 + right * p**0.5 * x0) / (left + right)


def _gain_mean(x0, x_t, a, p):
    """The prior of x_{t-1} given x0, corrected by what x_t says."""
    alpha = a / p
    gain = (1 - p) * alpha**0.5 / (1 - a)
    return p**0.5 * x0 + gain * (x_t - a**0.5 * x0)


def _in_place_v(x0, eps, abar):
    out = eps.clone()
    out.mul_(abar.sqrt()).sub_((1 - abar).sqrt() * x0)
    return out


def _means(errors, stretch, parts, kept=None):
    """Mean error of each stretch, of the pictures that are ``kept``; 0 where there is none."""
    kept = torch.ones_like(stretch, dtype=torch.bool) if kept is None else kept
    return torch.stack([errors[here].mean() if (here := (stretch == k) & kept).any() else errors.new_zeros(())
                        for k in range(parts)])


def _snr(a):
    return a / (1 - a)


def _kl(m1, v1, m2, v2):
    return 0.5 * (torch.log(v2 / v1) - 1 + (v1 + (m1 - m2) ** 2) / v2)


def _blend(w, b, s):
    return torch.exp(w * b.log() + (1 - w) * s.log())


def _pair(x0, n, a):
    return a.sqrt() * x0 + (1 - a).sqrt() * n


WRONG = {
    "02.posterior_mean": {
        "swapped": (lambda x0, x_t, a, p: _mean(x_t, x0, a, p), "swapped"),
        "abar_t in c1": (lambda x0, x_t, a, p: (1 - a / p) * a**0.5 / (1 - a) * x0 + _c(a, p)[1] * x_t, "not at t"),
        "no root in c1": (lambda x0, x_t, a, p: (1 - a / p) * p / (1 - a) * x0 + _c(a, p)[1] * x_t, "missing"),
        "abar in c2": (lambda x0, x_t, a, p: _c(a, p)[0] * x0 + (1 - p) * a**0.5 / (1 - a) * x_t, "not of alpha-bar"),
        "no root in c2": (lambda x0, x_t, a, p: _c(a, p)[0] * x0 + (1 - p) * (a / p) / (1 - a) * x_t, "c2"),
        "wrong denominator": (lambda x0, x_t, a, p: _mean(x0, x_t, a, p) * (1 - a) / (1 - p), "denominator"),
        "forward": (lambda x0, x_t, a, p: (a / p) ** 0.5 * x_t, "forward"),
        "by Bayes": (_bayes_mean, "last step"),
    },
    "02.v_target": {
        "sign": (lambda x0, e, a: (1 - a).sqrt() * x0 - a.sqrt() * e, "sign"),
        "swapped": (lambda x0, e, a: a.sqrt() * x0 - (1 - a).sqrt() * e, "swapped"),
        "plus": (lambda x0, e, a: a.sqrt() * e + (1 - a).sqrt() * x0, "subtracted"),
        "weights": (lambda x0, e, a: (1 - a).sqrt() * e - a.sqrt() * x0, "weights are swapped"),
        "no roots": (lambda x0, e, a: a * e - (1 - a) * x0, "roots"),
        "x_t": (lambda x0, e, a: a.sqrt() * x0 + (1 - a).sqrt() * e, "noised picture"),
    },
    "02.lazy_loss": {
        "answers 0": (1.0, "answers 0"),
        "x0 alone": (0.19, "x0 alone"),
        "eps alone": (0.01, "eps alone"),
        "root": (0.19**0.5 + 0.01, "its root"),
        "not squared": (0.29, "0.01"),
        "independent": (1.81, "in common"),
        "no number": ("small", "one number"),
        "something else": (0.5, "variance"),
    },
    "02.deaf": {
        "true t": (lambda net, T: net, "true t"),
        "T": (lambda net, T: lambda x, t: net(x, torch.full_like(t, T)), "no step"),
        "first": (lambda net, T: lambda x, t: net(x, t[:1].expand_as(t)), "first one"),
        "zero": (lambda net, T: lambda x, t: net(x, torch.zeros_like(t)), "last step"),
        "half of t": (lambda net, T: lambda x, t: net(x, t // 2), "t // 2"),
        "number": (lambda net, T: lambda x, t: net(x, T // 2), "tensor"),
        "one time": (lambda net, T: lambda x, t: net(x, torch.tensor([T // 2])), "shape"),
        "fraction": (lambda net, T: lambda x, t: net(x, torch.full((len(t),), T / 2)), "whole"),
        "called": (lambda net, T: net(torch.zeros(1, 1, 1, 1), torch.tensor([T // 2])), "function"),
        "never asked": (lambda net, T: lambda x, t: torch.sin(x), "never asked"),
        "twice": (lambda net, T: lambda x, t: 2 * net(x, torch.full_like(t, T // 2)), "nothing added"),
    },
    "02.loss_by_t": {
        "sums": (lambda e, t, T, n: torch.zeros(n, dtype=e.dtype).index_add(0, t * n // T, e), "sums"),
        "all pictures": (lambda e, t, T, n: torch.zeros(n, dtype=e.dtype).index_add(0, t * n // T, e) / len(t), "all pictures"),
        "borders": (lambda e, t, T, n: _means(e, ((t - 1).clamp(min=0) * n // T), n, t > 0), "border"),
        "falling": (lambda e, t, T, n: _means(e, t * n // T, n).flip(0), "falling"),
        "counts": (lambda e, t, T, n: torch.bincount(t * n // T, minlength=n), "numbers of pictures"),
        "roots": (lambda e, t, T, n: _means(e, t * n // T, n).sqrt(), "roots"),
        "empty": (lambda e, t, T, n: torch.stack([e[t * n // T == k].mean() for k in range(n)]), "0 / 0"),
        "reversed time": (lambda e, t, T, n: _means(e, (T - 1 - t) * n // T, n), ""),
    },
    "02.min_snr": {
        "x0 weight": (lambda a, g: _snr(a).clamp(max=g), "x0-prediction"),
        "v weight": (lambda a, g: _snr(a).clamp(max=g) / (_snr(a) + 1), "v-prediction"),
        "larger": (lambda a, g: torch.maximum(_snr(a), torch.as_tensor(g)) / _snr(a), "larger"),
        "zero by zero": (lambda a, g: _snr(a).clamp(max=g) / _snr(a), "zero by zero"),
        "ones": (lambda a, g: torch.ones_like(a), "all weights are 1"),
        "upside down": (lambda a, g: (g * _snr(a)).clamp(max=1), "upside down"),
        "root": (lambda a, g: (g / _snr(a).sqrt()).clamp(max=1), "root"),
        "always 5": (lambda a, g: (5 / _snr(a)).clamp(max=1), "argument"),
    },
    "02.gaussian_kl": {
        "swapped": (lambda m1, v1, m2, v2: _kl(m2, v2, m1, v1), "swapped"),
        "no half": (lambda m1, v1, m2, v2: 2 * _kl(m1, v1, m2, v2), "half"),
        "no one": (lambda m1, v1, m2, v2: _kl(m1, v1, m2, v2) + 0.5, "- 1"),
        "upside down": (lambda m1, v1, m2, v2: 0.5 * (torch.log(v1 / v2) - 1 + (v1 + (m1 - m2) ** 2) / v2), "upside down"),
        "not squared": (lambda m1, v1, m2, v2: 0.5 * (torch.log(v2 / v1) - 1 + (v1 + (m1 - m2).abs()) / v2), "squared"),
        "square not divided": (lambda m1, v1, m2, v2: 0.5 * (torch.log(v2 / v1) - 1 + v1 / v2 + (m1 - m2) ** 2),
                               "divided by var2"),
        "bits": (lambda m1, v1, m2, v2: _kl(m1, v1, m2, v2) / math.log(2), "bits"),
    },
    "02.learned_range": {
        "v as share": (lambda v, b, s: _blend(v, b, s), "(v + 1) / 2"),
        "linear": (lambda v, b, s: (v + 1) / 2 * b + (1 - v) / 2 * s, "logarithms"),
        "ends swapped": (lambda v, b, s: _blend((1 - v) / 2, b, s), "swapped"),
        "logarithm": (lambda v, b, s: (v + 1) / 2 * b.log() + (1 - v) / 2 * s.log(), "exponential"),
        "deviation": (lambda v, b, s: _blend((v + 1) / 2, b, s).sqrt(), "standard deviation"),
        "sigmoid": (lambda v, b, s: _blend(v.sigmoid(), b, s), "sigmoid"),
    },
    "02.immiscible": {
        "published": (lambda x0, n, o, a: torch.stack([_pair(x0, n[o], a), n]), "published bug"),
        "other half": (lambda x0, n, o, a: torch.stack([_pair(x0, n, a), n[o]]), "as it was"),
        "not reordered": (lambda x0, n, o, a: torch.stack([_pair(x0, n, a), n]), "not reordered"),
        "pictures": (lambda x0, n, o, a: torch.stack([_pair(x0[o], n, a), n]), "pictures were reordered"),
        "inverse": (lambda x0, n, o, a: torch.stack([_pair(x0, n[o.argsort()], a), n[o.argsort()]]), "inverted"),
        "no roots": (lambda x0, n, o, a: torch.stack([a * x0 + (1 - a) * n[o], n[o]]), "roots"),
        "results swapped": (lambda x0, n, o, a: torch.stack([n[o], _pair(x0, n[o], a)]), "swapped"),
    },
}

HONEST = {
    "02.posterior_mean": {
        "einsum": _einsum_mean,
        "by gain": _gain_mean,
        "float32": lambda x0, x_t, a, p: _mean(x0.float(), x_t.float(), a.float(), p.float()),
    },
    "02.v_target": {
        "in place on a copy": _in_place_v,
        "from x_t": lambda x0, e, a: (a.sqrt() * (a.sqrt() * x0 + (1 - a).sqrt() * e) - x0) / (1 - a).sqrt(),
    },
    "02.lazy_loss": {"exact": 0.19 + (0.9 - 1) ** 2, "rounded": 0.2, "tensor": torch.tensor(0.2)},
    "02.deaf": {
        "ones": lambda net, T: lambda x, t: net(x, torch.ones_like(t) * (T // 2)),
        "by length": lambda net, T: lambda x, t: net(x, torch.full((len(x),), T // 2)),
    },
    "02.loss_by_t": {
        "loop": lambda e, t, T, n: _means(e, t * n // T, n),
        "one hot": lambda e, t, T, n: (hot := torch.nn.functional.one_hot(t * n // T, n).to(e)).T @ e / hot.sum(0).clamp(min=1),
        "float32": lambda e, t, T, n: _means(e.float(), t * n // T, n),
    },
    "02.min_snr": {
        "where": lambda a, g: torch.where(_snr(a) > g, g / _snr(a), 1.0),
        "float32": lambda a, g: (g * (1 - a.float()) / a.float()).clamp(max=1),
    },
    "02.gaussian_kl": {
        "distributions": lambda m1, v1, m2, v2: torch.distributions.kl_divergence(
            torch.distributions.Normal(m1, v1.sqrt()), torch.distributions.Normal(m2, v2.sqrt())
        ),
        "float32": lambda *x: _kl(*(y.float() for y in x)),
    },
    "02.learned_range": {
        "powers": lambda v, b, s: b ** ((v + 1) / 2) * s ** ((1 - v) / 2),
        "ratio": lambda v, b, s: s * (b / s) ** ((v + 1) / 2),
    },
    "02.immiscible": {
        "index_select": lambda x0, n, o, a: torch.stack([_pair(x0, n.index_select(0, o), a), n.index_select(0, o)]),
        "float32": lambda x0, n, o, a: torch.stack([_pair(x0.float(), n.float()[o], a.float()), n.float()[o]]),
    },
}

EQUIVALENT = {
    "02.deaf": {"return lambda x, t: net(x, torch.full_like(t, T / 2))": "t holds whole numbers, so the fraction is cut off"},
    "02.loss_by_t": {
        "total = errors.new_zeros(parts).index_add(-1, stretch, errors)": "there is one dimension",
    },
}

ONCE: dict[str, dict[str, str]] = {}
