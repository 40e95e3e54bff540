"""Lesson 01: plausible mistakes with words that the check must say, and honest variants that it must accept."""

import math

import torch

LINEAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def at(a):
    return a.view(-1, 1, 1, 1)


def noised(signal, rest):
    """A wrong q_sample from two functions of abar[t]."""
    return lambda x0, t, noise, abar: at(signal(abar[t])) * x0 + at(rest(abar[t])) * noise


RIGHT = noised(torch.sqrt, lambda a: (1 - a).sqrt())


def in_place(x0, t, noise, abar):
    x0 *= at(abar[t]).sqrt()
    return x0 + at(1 - abar[t]).sqrt() * noise


def looped(x0, t, noise, abar):
    out = torch.empty_like(x0)
    for i, step in enumerate(t.tolist()):
        out[i] = math.sqrt(abar[step]) * x0[i] + math.sqrt(1 - abar[step]) * noise[i]
    return out


def by_einsum(x0, t, noise, abar):
    return torch.einsum("b,bchw->bchw", abar[t] ** 0.5, x0) + torch.einsum("b,bchw->bchw", (1 - abar[t]) ** 0.5, noise)


def single(x0, t, noise, abar):
    a = at(abar[t]).float()
    return a.sqrt() * x0.float() + (1 - a).sqrt() * noise.float()


def on_a_copy(x0, t, noise, abar):
    out = x0.clone()
    out.mul_(at(abar[t]).sqrt()).add_(at(1 - abar[t]).sqrt() * noise)
    return out


def cosine(*, power=2, top=0.999, half=0.5, offset=None, ends=(0, 1), extra=1, give="beta"):
    def betas(T, s=0.008):
        s = s if offset is None else offset
        u = torch.linspace(*ends, T + extra, dtype=torch.float64)
        abar = torch.cos((u + s) / (1 + s) * math.pi * half) ** power
        beta = (1 - abar[1:] / abar[:-1]).clamp(max=top)
        return {"beta": beta, "abar": abar[1:], "alpha": 1 - beta, "all": 1 - abar[1:], "long": 1 - abar,
                "late": torch.cat([beta[:1] * 0, beta[:-1]])}[give]
    return betas


def cosine_loop(T, s=0.008):
    def abar(u):
        return math.cos((u + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2
    return [min(1 - abar((i + 1) / T) / abar(i / T), 0.999) for i in range(T)]


def cosine_single(T, s=0.008):
    return cosine()(T, s).float()


def nearest(of, *, shift=0):
    def find(t, abar_from, abar_to):
        return (of(abar_to)[None] - of(abar_from[t])[:, None]).abs().argmin(1) + shift
    return find


def swapped(t, abar_from, abar_to):
    return nearest(torch.logit)(t.clamp(max=len(abar_to) - 1), abar_to, abar_from)


def first_below(t, abar_from, abar_to):
    return (abar_to[None] > abar_from[t][:, None]).sum(1).clamp(max=len(abar_to) - 1)


def in_between(t, abar_from, abar_to):
    want, have = torch.logit(abar_from[t]), torch.logit(abar_to)
    right = torch.searchsorted(-have, -want).clamp(1, len(have) - 1)
    return (right - (have[right - 1] - want) / (have[right - 1] - have[right]) + 0.3).clamp(0, len(have) - 1)


def noise_loop(t, abar_from, abar_to):
    found = []
    for i in t.tolist():
        want = math.log(abar_from[i] / (1 - abar_from[i]))
        found.append(min(range(len(abar_to)), key=lambda j: abs(math.log(abar_to[j] / (1 - abar_to[j])) - want)))
    return torch.tensor(found)


def rescaled(make):
    return lambda abar: make(abar.sqrt(), abar.sqrt()[0], abar.sqrt()[-1])


def last_only(abar):
    out = abar.clone()
    out[-1] = 0
    return out


def terminal_in_place(abar):
    root = abar.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root -= last
    root *= first / (first - last)
    return root * root


def terminal_loop(abar):
    first, last = math.sqrt(abar[0]), math.sqrt(abar[-1])
    return [((math.sqrt(v) - last) * first / (first - last)) ** 2 for v in abar.tolist()]


def terminal_spoils(abar):
    abar.sqrt_()
    return ((abar - abar[-1]) * abar[0] / (abar[0] - abar[-1])) ** 2


def fused(mean, var):
    return lambda m1, v1, m2, v2: torch.stack([mean(m1, v1, m2, v2), var(v1, v2)])


def good_mean(m1, v1, m2, v2):
    return (m1 * v2 + m2 * v1) / (v1 + v2)


def good_var(v1, v2):
    return v1 * v2 / (v1 + v2)


def by_precision(m1, v1, m2, v2):
    precision = 1 / v1 + 1 / v2
    return torch.stack([(m1 / v1 + m2 / v2) / precision, 1 / precision])


def gain(m1, v1, m2, v2):
    k = v1 / (v1 + v2)                     # as in a Kalman filter
    return torch.stack([m1 + k * (m2 - m1), (1 - k) * v1])


def fused_loop(m1, v1, m2, v2):
    four = zip(m1.tolist(), v1.tolist(), m2.tolist(), v2.tolist(), strict=True)
    return torch.tensor([((a * q + b * p) / (p + q), p * q / (p + q)) for a, p, b, q in four]).T


def denoiser(*, a=lambda b: b**0.5, width=lambda b: 2 * (1 - b), sign=-1, dim=1, power=2, after=lambda b: 1.0):
    def mean(x, points, abar):
        far = (x[:, None] - a(abar) * points[None]).square().sum(-1) ** (power / 2)
        return after(abar) * torch.softmax(sign * far / width(abar), dim) @ points
    return mean


def no_softmax(x, points, abar):
    weight = torch.exp(-((x[:, None] - abar**0.5 * points) ** 2).sum(-1) / (2 * (1 - abar)))
    return weight @ points / weight.sum(1, keepdim=True)


def unnormalised(x, points, abar):
    return torch.exp(-((x[:, None] - abar**0.5 * points) ** 2).sum(-1) / (2 * (1 - abar))) @ points


def closest(x, points, abar):
    return points[torch.cdist(x, abar**0.5 * points).argmin(1)]


def by_inner_products(x, points, abar):
    """|x - a p|^2 without the part that all points share."""
    logits = (abar**0.5 * x @ points.T - abar * points.square().sum(1) / 2) / (1 - abar)
    return torch.einsum("bn,nd->bd", logits.softmax(1), points)


def denoiser_loop(x, points, abar):
    out = []
    for row in x:
        far = ((row - abar**0.5 * points) ** 2).sum(1) / (2 * (1 - abar))
        weight = (far.min() - far).exp()
        out.append((weight[:, None] * points).sum(0) / weight.sum())
    return torch.stack(out)


def denoiser_single(x, points, abar):
    return denoiser()(x.float(), points.float(), abar)


WRONG = {
    "01.q_sample": {
        "no_roots": (noised(lambda a: a, lambda a: 1 - a), "square roots are missing"),
        "variance_for_std": (noised(torch.sqrt, lambda a: 1 - a), "standard deviation"),
        "no_root_on_the_picture": (noised(lambda a: a, lambda a: (1 - a).sqrt()), "square root of alpha-bar"),
        "one_minus_root": (noised(torch.sqrt, lambda a: 1 - a.sqrt()), "must add up to 1"),
        "factors_swapped": (noised(lambda a: (1 - a).sqrt(), torch.sqrt), "swapped"),
        "one_early": (lambda x, t, n, a: RIGHT(x, t - 1, n, a), "one index early"),
        "one_late": (lambda x, t, n, a: RIGHT(x, (t + 1).clamp(max=len(a) - 1), n, a), "late"),
        "lined_up_with_the_width": (lambda x, t, n, a: a[t].sqrt() * x + (1 - a[t]).sqrt() * n, "width"),
        "first_step_for_all": (lambda x, t, n, a: a[t[0]].sqrt() * x + (1 - a[t[0]]).sqrt() * n, "step of the first"),
        "own_noise": (lambda x, t, n, a: RIGHT(x, t, torch.randn_like(x), a), "drawing your own"),
        "spoils_its_input": (in_place, "in place"),
    },
    "01.snr_one": {
        "half_of_the_steps": (500, "Half of the steps"),
        "cosine": (496, "cosine"),
        "counted_from_one": (260, "from 1"),
        "last_above": (258, "above 1"),
        "root_below_half": (int((LINEAR.sqrt() < 0.5).nonzero()[0]), "square root"),
        "snr_below_half": (int((LINEAR / (1 - LINEAR) < 0.5).nonzero()[0]), "one half"),
        "a_share": (0.259, "index"),
        "a_guess": (120, "one half"),
        "words": ("about a quarter", "one number"),
    },
    "01.cosine_betas": {
        "not_clipped": (cosine(top=1.0), "clip"),
        "no_offset": (cosine(offset=0.0), "offset s is missing"),
        "offset_fixed": (cosine(offset=0.008), "use the argument"),
        "not_squared": (cosine(power=1), "squared"),
        "alpha_bar": (cosine(give="abar"), "not betas"),
        "alphas": (cosine(give="alpha"), "kept"),
        "all_the_noise": (cosine(give="all", top=0.999), "alpha"),
        "one_moment_too_few": (cosine(extra=0), "T + 1 moments"),
        "one_too_many": (cosine(give="long"), "steps between them"),
        "pi": (cosine(half=1.0), "pi / 2"),
        "one_step_late": (cosine(give="late"), "early"),
        "float32": (cosine_single, "float64"),
    },
    "01.same_noise": {
        "same_index": (lambda t, a, b: t.clone(), "same index"),
        "same_share": (lambda t, a, b: t * len(b) // len(a), "same share"),
        "alpha_bar": (nearest(lambda a: a), "compare alpha-bar"),
        "plain_snr": (nearest(lambda a: a / (1 - a)), "not its log"),
        "swapped": (swapped, "changed places"),
        "first_below": (first_below, "more noise"),
        "last_above": (lambda t, a, b: (first_below(t, a, b) - 1).clamp(min=0), "less noise"),
        "one_late": (nearest(torch.logit, shift=1), "late"),
        "between_two": (in_between, "whole numbers"),
    },
    "01.zero_terminal": {
        "on_abar": (lambda a: (a - a[-1]) * a[0] / (a[0] - a[-1]), "square root"),
        "last_only": (last_only, "Only the last"),
        "shift_only": (rescaled(lambda r, first, last: (r - last) ** 2), "scale as well"),
        "first_becomes_one": (rescaled(lambda r, first, last: ((r - last) / (first - last)) ** 2), "now 1"),
        "roots": (rescaled(lambda r, first, last: (r - last) * first / (first - last)), "square them"),
        "scale_upside_down": (rescaled(lambda r, first, last: ((r - last) * (first - last) / first) ** 2), "upside down"),
        "unchanged": (lambda a: a.clone(), "not 0"),
        "nearly_zero": (rescaled(lambda r, first, last: ((r - last) * first / (first - last)) ** 2 + 1e-9), "exactly 0"),
        "spoils_its_input": (terminal_spoils, "in place"),
    },
    "01.when_lost": {
        "first": (lambda t, s, v: t[(s < v).nonzero()[0, 0]], "first time"),
        "one early": (lambda t, s, v: t[(s >= v).nonzero()[-1, 0]], "the one after it"),
        "above": (lambda t, s, v: t[(s > v).nonzero()[-1, 0] + 1], "equals"),
        "place": (lambda t, s, v: (s >= v).nonzero()[-1, 0] + 1, "place in the list"),
        "last": (lambda t, s, v: t[-1], "last step of all"),
        "two late": (lambda t, s, v: t[(s >= v).nonzero()[-1, 0] + 1] + 1, "every share"),
        "all of them": (lambda t, s, v: t[s < v], "shape"),
    },
    "01.fuse": {
        "plain_average": (fused(lambda m1, v1, m2, v2: (m1 + m2) / 2, good_var), "surer"),
        "weights_swapped": (fused(lambda m1, v1, m2, v2: (m1 * v1 + m2 * v2) / (v1 + v2), good_var), "swapped"),
        "variances_added": (fused(good_mean, lambda v1, v2: v1 + v2), "inverses"),
        "precision": (fused(good_mean, lambda v1, v2: 1 / v1 + 1 / v2), "precision"),
        "std": (fused(good_mean, lambda v1, v2: good_var(v1, v2).sqrt()), "standard deviation"),
        "mean_variance": (fused(good_mean, lambda v1, v2: (v1 + v2) / 2), "surer than either"),
        "weights_by_std": (fused(lambda m1, v1, m2, v2: good_mean(m1, v1**0.5, m2, v2**0.5), good_var), "not with standard"),
        "not_divided": (fused(lambda m1, v1, m2, v2: m1 / v1 + m2 / v2, good_var), "without dividing"),
        "rows_swapped": (lambda m1, v1, m2, v2: torch.stack([good_var(v1, v2), good_mean(m1, v1, m2, v2)]), "rows"),
        "harmonic_mean": (fused(good_mean, lambda v1, v2: 2 * good_var(v1, v2)), "harmonic"),
        "zero_by_zero": (by_precision, "v1 = 0"),
    },
    "01.ideal_denoiser": {
        "points_not_scaled": (denoiser(a=lambda b: 1.0), "scaled by sqrt(abar)"),
        "points_scaled_by_abar": (denoiser(a=lambda b: b), "scaled by abar"),
        "half_the_width": (denoiser(width=lambda b: 1 - b), "twice the variance"),
        "std": (denoiser(width=lambda b: 2 * (1 - b) ** 0.5), "standard deviation"),
        "abar_for_variance": (denoiser(width=lambda b: 2 * b), "you use abar"),
        "sign": (denoiser(sign=1), "sign"),
        "over_the_batch": (denoiser(dim=0), "batch"),
        "not_squared": (denoiser(power=1), "squared"),
        "nearest": (closest, "nearest point"),
        "scaled_result": (denoiser(after=lambda b: b**0.5), "average the points themselves"),
        "no_softmax": (no_softmax, "0 by 0"),
        "unnormalised": (unnormalised, "softmax"),
        "plain_mean": (lambda x, p, b: p.mean(0).expand(len(x), -1), "plain mean"),
    },
}

HONEST = {
    "01.q_sample": {
        "python_loop": looped, "float32": single, "in_place_on_a_copy": on_a_copy,
        "einsum": by_einsum,
    },
    "01.snr_one": {"integer": 259, "float": 259.0, "tensor": torch.tensor(259)},
    "01.cosine_betas": {"python_loop": cosine_loop, "solution_form": cosine()},
    "01.same_noise": {
        "python_loop": noise_loop,
        "log": nearest(lambda a: 0.5 * (a.log() - torch.log1p(-a))),
        "sigma": nearest(lambda a: ((1 - a) / a).sqrt().log()),
    },
    "01.zero_terminal": {
        "in_place_on_its_own": terminal_in_place,
        "float32": lambda a: rescaled(lambda r, first, last: ((r - last) * first / (first - last)) ** 2)(a.float()),
        "python_loop": terminal_loop,
    },
    "01.when_lost": {
        "loop": lambda t, s, v: next(int(t[i]) for i in range(len(t)) if (s[i:] < v).all()),
        "cumulative": lambda t, s, v: t[(s.flip(0).cummax(0).values.flip(0) < v).nonzero()[0, 0]],
        "float32": lambda t, s, v: t[(s.float() >= torch.tensor(v)).nonzero()[-1, 0] + 1],
    },
    "01.fuse": {"kalman": gain, "python_loop": fused_loop,
                "float32": lambda *a: fused(good_mean, good_var)(*(v.float() for v in a))},
    "01.ideal_denoiser": {"inner_products": by_inner_products, "python_loop": denoiser_loop, "float32": denoiser_single,
                          "softmax": denoiser()},
}

EQUIVALENT = {
    "01.when_lost": {"last = (share >= level).nonzero()[-1, -1]": "there is one column"},
    "01.same_noise": {
        "return (have - want[:, None]).square().argmin(1)": "the nearest is the nearest, squared or not",
    },
    "01.zero_terminal": {
        "root = (root - root[-1]) * root[0] / (root[-1] - root[0])": "the sign goes when the root is squared",
        "root = (root[-1] - root) * root[0] / (root[0] - root[-1])": "the sign goes when the root is squared",
    },
}

ONCE: dict[str, dict[str, str]] = {}
