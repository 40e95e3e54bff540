"""Wrong and right answers to the exercises of lesson 03."""

from __future__ import annotations

import math

import numpy as np
import torch


# 03.sigma
def s_torch(a, p, eta):
    return eta * torch.sqrt((1 - p) / (1 - a)) * torch.sqrt(1 - a / p)


def s_posterior(a, p, eta):
    """By way of beta: eta^2 times the posterior's variance."""
    beta = 1 - a / p
    return (eta * eta * beta * (1 - p) / (1 - a)) ** 0.5


# 03.ddim_step
def _x0(x, eps, a):
    return (x - (1 - a) ** 0.5 * eps) / a**0.5


def _step(x0, eps, p, sigma, z):
    return p**0.5 * x0 + (1 - p - sigma**2) ** 0.5 * eps + sigma * z


def d_loop(x, eps, a, p, sigma, z):
    out = torch.empty_like(x)
    for i in range(len(x)):
        out[i] = _step(_x0(x[i], eps[i], a), eps[i], p, sigma, z[i])
    return out


def d_float32(x, eps, a, p, sigma, z):
    x, eps, z = x.float(), eps.float(), z.float()
    return _step(_x0(x, eps, float(a)), eps, float(p), float(sigma), z)


def d_in_place(x, eps, a, p, sigma, z):
    """In place on a copy; Euler's form, then the noise."""
    out = x.clone()
    out.sub_(eps * math.sqrt(1 - a)).mul_(math.sqrt(p / a)).add_(eps * math.sqrt(1 - p - sigma**2)).add_(sigma * z)
    return out


def d_changes_x(x, eps, a, p, sigma, z):
    x -= (1 - a) ** 0.5 * eps
    return p**0.5 * x / a**0.5 + (1 - p - sigma**2) ** 0.5 * eps + sigma * z


# 03.timesteps
def t_numpy(T, S, spacing):
    if spacing == "leading":
        return (np.arange(S) * (T // S))[::-1].copy()
    return np.round(T - np.arange(S) * T / S).astype(int) - 1


def t_torch(T, S, spacing):
    i = torch.arange(S, dtype=torch.float64)
    return ((i * (T // S)).flip(0) if spacing == "leading" else (T - i * T / S).round() - 1).long()


def _trailing(T, S, f=round):
    return [f(T - i * T / S) - 1 for i in range(S)]


def _leading(T, S):
    return [i * (T // S) for i in range(S)][::-1]


def t_rising(T, S, spacing):
    return (_leading(T, S) if spacing == "leading" else _trailing(T, S))[::-1]


def t_no_minus_one(T, S, spacing):
    return _leading(T, S) if spacing == "leading" else [round(T - i * T / S) for i in range(S)]


def t_range(T, S, spacing):
    return list(range(0, T, T // S))[::-1] if spacing == "leading" else _trailing(T, S)


def t_floor(T, S, spacing):
    return _leading(T, S) if spacing == "leading" else _trailing(T, S, int)


def t_half_up(T, S, spacing):
    return _leading(T, S) if spacing == "leading" else _trailing(T, S, lambda v: int(v + 0.5))


def t_whole_stride(T, S, spacing):
    return _leading(T, S) if spacing == "leading" else [T - i * (T // S) - 1 for i in range(S)]


def t_fraction(T, S, spacing):
    return [int(i * T / S) for i in range(S)][::-1] if spacing == "leading" else _trailing(T, S)


def t_fraction_rounded(T, S, spacing):
    return [round(i * T / S) for i in range(S)][::-1] if spacing == "leading" else _trailing(T, S)


def t_linspace(T, S, spacing):
    return np.linspace(T - 1, 0, S).round().astype(int) if spacing == "leading" else _trailing(T, S)


def t_always_trailing(T, S, spacing):
    return _trailing(T, S)


# 03.clip_step
def _again(x, x0, a):
    return (x - a**0.5 * x0) / (1 - a) ** 0.5


def c_clip(f, again=True, at="a", before=False):
    def step(x, eps, a, p):
        free = _x0(x, eps, a)
        x0 = f(free)
        if again:
            eps = _again(x, free if before else x0, a if at == "a" else p)
        return p**0.5 * x0 + (1 - p) ** 0.5 * eps
    return step


def c_torch(x, eps, abar, abar_prev):
    """In the coordinates of the ODE: the slope is taken from the clipped picture."""
    s, s_prev = torch.sqrt((1 - abar) / abar), torch.sqrt((1 - abar_prev) / abar_prev)
    x_bar = x / torch.sqrt(abar)
    x0 = torch.clip(x_bar - s * eps, -1, 1)
    return torch.sqrt(abar_prev) * (x_bar + (s_prev - s) * (x_bar - x0) / s)


def c_float32(x, eps, a, p):
    return c_clip(lambda v: v.clamp(-1, 1))(x.float(), eps.float(), float(a), float(p))


def unit(x):
    return x.clamp(-1, 1)


# 03.heun_step
def h_right(slope, x, s, n):
    """Trapezium written with lists and a loop over weights."""
    points = [slope(x, s)]
    if n > 0:
        points.append(slope(x + (n - s) * points[0], n))
    out = x.clone()
    for k in points:
        out += (n - s) * k / len(points)
    return out


def h_two_steps(slope, x, s, n):
    h = n - s
    k1 = slope(x, s)
    y = x + h * k1
    return y if n == 0 else torch.stack([y, x + h * slope(y, n)]).mean(0)


def h_of(f):
    def step(slope, x, s, n):
        k = slope(x, s)
        end = x + (n - s) * k
        return end if n == 0 else f(slope, x, s, n, k, end)
    return step


def h_asks_at_zero(slope, x, s, n):
    k = slope(x, s)
    end = x + (n - s) * k
    return x + (n - s) * (k + slope(end, n)) / 2


def h_wasteful(slope, x, s, n):
    end = x + (n - s) * slope(x, s)
    return end if n == 0 else x + (n - s) * (slope(x, s) + slope(end, n)) / 2


# 03.invert_step
def i_of(update, extra=1, walk=False, once=False):
    def step(predict, x, p, a, repeats):
        guess, base, eps = x, x, None
        for _ in range(extra + repeats):
            if eps is None or not once:
                eps = predict(guess)
            guess = update(base, eps, p, a)
            if walk:
                base = guess
        return guess
    return step


def i_up(x, eps, p, a):
    return a**0.5 * (x - (1 - p) ** 0.5 * eps) / p**0.5 + (1 - a) ** 0.5 * eps


def i_ode(predict, x, p, a, repeats):
    """In the coordinates of the ODE, recursive."""
    s_p, s = torch.sqrt((1 - p) / p), torch.sqrt((1 - a) / a)

    def at(guess, left):
        new = torch.sqrt(a) * (x / torch.sqrt(p) + (s - s_p) * predict(guess))
        return new if left == 0 else at(new, left - 1)
    return at(x, repeats)


def i_float32(predict, x, p, a, repeats):
    return i_of(i_up)(predict, x.float(), float(p), float(a), repeats)


# 03.slerp
def _circle(a, b, w, omega):
    return (torch.sin((1 - w) * omega) * a + torch.sin(w * omega) * b) / torch.sin(omega)


def _omega(a, b, dims, keep=True):
    n = lambda x: x.square().sum(dims, keepdim=keep).sqrt()  # noqa: E731
    return torch.arccos((a * b).sum(dims, keepdim=keep) / (n(a) * n(b)))


def l_einsum(a, b, w):
    dot = torch.einsum("bchw,bchw->b", a, b)
    size = torch.einsum("bchw,bchw->b", a, a).sqrt() * torch.einsum("bchw,bchw->b", b, b).sqrt()
    return _circle(a, b, w, torch.acos(dot / size)[:, None, None, None])


def l_loop(a, b, w):
    rows = []
    for u, v in zip(a, b, strict=True):
        o = math.acos(float((u * v).sum() / (u.norm() * v.norm())))
        rows.append((math.sin((1 - w) * o) * u + math.sin(w * o) * v) / math.sin(o))
    return torch.stack(rows)


def l_float32(a, b, w):
    return l_einsum(a.float(), b.float(), w)


def l_stretched(a, b, w):
    c = (1 - w) * a + w * b
    n = lambda x: x.flatten(1).norm(dim=1)[:, None, None, None]  # noqa: E731
    return c / n(c) * ((1 - w) * n(a) + w * n(b))


def l_unnormalised(a, b, w):
    return _circle(a, b, w, torch.arccos((a * b).sum((1, 2, 3), keepdim=True)))


def l_degrees(a, b, w):
    return _circle(a, b, w, torch.rad2deg(_omega(a, b, (1, 2, 3))))


def lazy(asks=lambda k: k % 2 == 0, until=None):
    def walk(predict, x, levels):
        levels = levels[:until]
        for k in range(len(levels) - 1):
            a, b = levels[k], levels[k + 1]
            eps = predict(x, a) if asks(k) else eps  # noqa: F821
            x = b**0.5 * _x0(x, eps, a) + (1 - b) ** 0.5 * eps
        return x
    return walk


def lazy_ode(predict, x, levels):
    """One long step of Euler's method in the coordinates of the ODE for every two levels."""
    kept = [*levels[:-1:2], levels[-1]]
    sigmas = [((1 - a) / a) ** 0.5 for a in kept]
    for a, here, there in zip(kept, sigmas, sigmas[1:], strict=False):
        x = (x / a**0.5 + (there - here) * predict(x, a)) / (1 + there**2) ** 0.5
    return x


WRONG = {
    "03.orders": {
        "sign": (lambda e: torch.log2(e[1:] / e[:-1]), "sign"),
        "ratios": (lambda e: e[:-1] / e[1:], "ratios"),
        "natural": (lambda e: torch.log(e[:-1] / e[1:]), "natural"),
        "decimal": (lambda e: torch.log10(e[:-1] / e[1:]), "base 10"),
        "halves": (lambda e: e[:-1] / e[1:] / 2, "halves"),
        "first": (lambda e: torch.log2(e[0] / e[1:]), "neighbour"),
        "differences": (lambda e: e[:-1] - e[1:], "1/16"),
        "one number": (lambda e: torch.log2(e[0] / e[-1]) / (len(e) - 1), "shape"),
    },
    "03.lazy": {
        "every step": (lazy(lambda k: True), "that is DDIM"),
        "once": (lazy(lambda k: k == 0), "never again"),
        "the other ones": (lazy(lambda k: k == 0 or k % 2 == 1), "the fourth"),
        "every third": (lazy(lambda k: k % 3 == 0), "third"),
        "last left out": (lazy(until=-1), "last step"),
        "nothing": (lambda predict, x, levels: x, "not that walk"),
        "asks and ignores": (lambda predict, x, levels: ([predict(x, a) for a in levels], lazy()(predict, x, levels))[1],
                             "times"),
    },
    "03.sigma": {
        "variance": (lambda a, p, e: s_torch(a, p, e) ** 2, "variance"),
        "eta_under_root": (lambda a, p, e: (e * (1 - p) / (1 - a) * (1 - a / p)) ** 0.5, "under the square root"),
        "eta_squared": (lambda a, p, e: e * s_torch(a, p, e), "eta is squared"),
        "no_eta": (lambda a, p, e: s_torch(a, p, 1), "no effect"),
        "sigma_hat": (lambda a, p, e: e * (1 - a / p) ** 0.5, "large variance"),
        "first_factor_only": (lambda a, p, e: e * ((1 - p) / (1 - a)) ** 0.5, "1 - abar / abar_prev is missing"),
        "abar_for_alpha": (lambda a, p, e: e * ((1 - p) / (1 - a)) ** 0.5 * (1 - a) ** 0.5, "ratio"),
        "one_root": (lambda a, p, e: e * ((1 - p) / (1 - a)) ** 0.5 * (1 - a / p), "second factor"),
        "other_root": (lambda a, p, e: e * (1 - p) / (1 - a) * (1 - a / p) ** 0.5, "first factor"),
        "levels_swapped": (lambda a, p, e: s_torch(p, a, e), "nan"),
        "forgets_return": (lambda a, p, e: print(end=""), "return"),
    },
    "03.ddim_step": {
        "x_for_x0": (lambda x, e, a, p, s, z: _step(x, e, p, s, z), "x stands where x0"),
        "no_scale": (lambda x, e, a, p, s, z: _step(_x0(x, e, a) / p**0.5, e, p, s, z), "full size"),
        "old_scale": (lambda x, e, a, p, s, z: a**0.5 * _x0(x, e, a) + (1 - p - s**2) ** 0.5 * e + s * z, "old strength"),
        "old_noise": (lambda x, e, a, p, s, z: p**0.5 * _x0(x, e, a) + (1 - a - s**2) ** 0.5 * e + s * z,
                      "keeps its old strength"),
        "x0_not_divided": (lambda x, e, a, p, s, z: _step(x - (1 - a) ** 0.5 * e, e, p, s, z), "not divided"),
        "no_roots": (lambda x, e, a, p, s, z: p * _x0(x, e, a) + (1 - p - s**2) * e + s * z, "square roots"),
        "too_loud": (lambda x, e, a, p, s, z: p**0.5 * _x0(x, e, a) + (1 - p) ** 0.5 * e + s * z, "too loud"),
        "sigma_not_squared": (lambda x, e, a, p, s, z: p**0.5 * _x0(x, e, a) + (1 - p - s).clamp(min=0) ** 0.5 * e + s * z,
                              "sigma was taken off"),
        "variance_times_noise": (lambda x, e, a, p, s, z: _step(_x0(x, e, a), e, p, s, s * z), "sigma squared"),
        "no_new_noise": (lambda x, e, a, p, s, z: _step(_x0(x, e, a), e, p, s, 0 * z), "missing"),
        "changes_its_input": (d_changes_x, "in place"),
        "one_row": (lambda x, e, a, p, s, z: _step(_x0(x, e, a), e, p, s, z)[0], "shape"),
    },
    "03.timesteps": {
        "rising": (t_rising, "rises"),
        "no_minus_one": (t_no_minus_one, "one too high"),
        "too_many": (t_range, "instead of 7"),
        "floor": (t_floor, "rounded down"),
        "half_up": (t_half_up, "halves"),
        "whole_stride": (t_whole_stride, "too early"),
        "fraction": (t_fraction, "a fraction"),
        "fraction_rounded": (t_fraction_rounded, "fraction, rounded"),
        "linspace": (t_linspace, "linspace"),
        "floats": (lambda T, S, spacing: t_torch(T, S, spacing).double(), "whole numbers"),
        "always_trailing": (t_always_trailing, "trailing list"),
        "includes_the_end": (lambda T, S, spacing: [*_leading(T, S), -1], "11 steps"),
    },
    "03.clip_step": {
        "keeps_eps": (c_clip(unit, again=False), "network's own"),
        "no_clip": (c_clip(lambda v: v), "nothing is clipped"),
        "clips_the_result": (lambda x, e, a, p: c_clip(lambda v: v)(x, e, a, p).clamp(-1, 1), "result is clipped"),
        "unit_interval": (c_clip(lambda v: v.clamp(0, 1)), "[0, 1]"),
        "wrong_level": (c_clip(unit, at="p"), "abar_prev"),
        "too_early": (lambda x, e, a, p: c_clip(unit, again=False)(x, _again(x, _x0(x, e, a), a), a, p), "network's own"),
        "clips_eps": (lambda x, e, a, p: p**0.5 * _x0(x, e, a) + (1 - p) ** 0.5 * e.clamp(-1, 1), "in place of x0"),
        "clips_both": (lambda x, e, a, p: p**0.5 * unit(_x0(x, e, a)) + (1 - p) ** 0.5 * unit(_again(x, unit(_x0(x, e, a)), a)),
                       "eps is clipped as well"),
    },
    "03.heun_step": {
        "euler": (h_of(lambda f, x, s, n, k, end: end), "Euler's step"),
        "sum": (h_of(lambda f, x, s, n, k, end: x + (n - s) * (k + f(end, n))), "not averaged"),
        "goes_on": (h_of(lambda f, x, s, n, k, end: end + (n - s) * (k + f(end, n)) / 2), "goes on"),
        "second_only": (h_of(lambda f, x, s, n, k, end: x + (n - s) * f(end, n)), "only the second"),
        "asks_at_start": (h_of(lambda f, x, s, n, k, end: x + (n - s) * (k + f(x, n)) / 2), "where Euler's step lands"),
        "asks_at_old_level": (h_of(lambda f, x, s, n, k, end: x + (n - s) * (k + f(end, s)) / 2), "asked at sigma;"),
        "midpoint": (h_of(lambda f, x, s, n, k, end: x + (n - s) * f(x + (n - s) / 2 * k, (s + n) / 2)), "midpoint"),
        "wrong_way": (h_of(lambda f, x, s, n, k, end: x + (s - n) * (k + f(end, n)) / 2), "wrong way"),
        "asks_at_zero": (h_asks_at_zero, "no meaning"),
        "three_calls": (h_wasteful, "asks 3 times"),
    },
    "03.which_variance": {
        "large": ("large", "beta itself"), "beta": ("beta", "beta itself"), "fixed_large": ("fixed_large", "beta itself"),
        "learned": ("learned", "nothing is learned"), "number": (1.0, "a word"), "else": ("medium", "neither"),
        "sigma_hat": ("sigma-hat", "beta itself"),
    },
    "03.heun_calls": {
        "two_each": (20, "last step"), "euler": (10, "Euler's cost"), "reuse": (11, "can be kept"),
        "both_ends": (18, "only the last"),
        "levels": (21, "one too many"), "else": (15, "not it"), "word": ("many", "one number"),
    },
    "03.invert_step": {
        "swapped": (i_of(lambda x, e, p, a: p**0.5 * (x - (1 - a) ** 0.5 * e) / a**0.5 + (1 - p) ** 0.5 * e), "wrong way round"),
        "wrong_level": (i_of(lambda x, e, p, a: x - (1 - a) ** 0.5 * e + (1 - a) ** 0.5 * e), "level abar_prev"),
        "noising": (i_of(lambda x, e, p, a: a**0.5 * x + (1 - a) ** 0.5 * e), "plain noising"),
        "x0": (i_of(lambda x, e, p, a: (x - (1 - p) ** 0.5 * e) / p**0.5), "is x0"),
        "too_many": (i_of(i_up, extra=2), "too many"),
        "too_few": (lambda f, x, p, a, r: i_of(i_up, extra=0)(f, x, p, a, max(r, 1)), "too few"),
        "one_too_few": (lambda f, x, p, a, r: i_of(i_up)(f, x, p, a, min(r, 1) if r < 3 else r - 1), "too few"),
        "no_repeats": (lambda f, x, p, a, r: i_of(i_up)(f, x, p, a, 0), "no effect"),
        "asks_once": (i_of(i_up, once=True), "no effect"),
        "walks": (i_of(i_up, walk=True), "further and further"),
    },
    "03.slerp": {
        "lerp": (lambda a, b, w: (1 - w) * a + w * b, "lerp"),
        "stretched": (l_stretched, "even speed"),
        "length_of_a": (lambda a, b, w: torch.lerp(a, b, w) / torch.lerp(a, b, w).flatten(1).norm(dim=1)[:, None, None, None]
                        * a.flatten(1).norm(dim=1)[:, None, None, None], "length of a"),
        "whole_batch": (lambda a, b, w: _circle(a, b, w, _omega(a, b, (0, 1, 2, 3))), "whole batch"),
        "channels": (lambda a, b, w: _circle(a, b, w, _omega(a, b, (1,))), "along the channels"),
        "per_channel": (lambda a, b, w: _circle(a, b, w, _omega(a, b, (2, 3))), "each channel"),
        "last_dimension": (lambda a, b, w: _circle(a, b, w, _omega(a, b, (3,))), "last dimension"),
        "no_division": (lambda a, b, w: _circle(a, b, w, _omega(a, b, (1, 2, 3))) * torch.sin(_omega(a, b, (1, 2, 3))),
                        "missing"),
        "swapped": (lambda a, b, w: _circle(b, a, w, _omega(a, b, (1, 2, 3))), "wrong way round"),
        "cos_as_angle": (lambda a, b, w: _circle(a, b, w, torch.cos(_omega(a, b, (1, 2, 3)))), "arccos"),
        "always_acute": (lambda a, b, w: _circle(a, b, w, torch.arccos(torch.cos(_omega(a, b, (1, 2, 3))).abs())),
                         "lost its sign"),
        "unnormalised": (l_unnormalised, "both norms"),
        "degrees": (l_degrees, "great circle"),
    },
}

HONEST = {
    "03.orders": {
        "differences of logarithms": lambda e: -torch.diff(torch.log2(e)),
        "list": lambda e: [math.log2(a / b) for a, b in zip(e.tolist(), e.tolist()[1:], strict=False)],
        "numpy": lambda e: -np.diff(np.log2(e.numpy())),
    },
    "03.lazy": {
        "plain": lazy(),
        "one long step of the ODE": lazy_ode,
        "float32": lambda predict, x, levels: lazy()(predict, x.float(), levels),
    },
    "03.sigma": {"torch": s_torch, "posterior": s_posterior, "float32": lambda a, p, e: s_torch(a.float(), p.float(), e.float()),
                 "math": lambda a, p, e: float(e) * math.sqrt((1 - p) * (1 - a / p) / (1 - a))},
    "03.ddim_step": {"loop": d_loop, "float32": d_float32, "in_place_on_a_copy": d_in_place},
    "03.timesteps": {"numpy": t_numpy, "torch": t_torch},
    "03.clip_step": {"ode": c_torch, "float32": c_float32, "plain": c_clip(unit)},
    "03.heun_step": {"loop": h_right, "mean_of_ends": h_two_steps,
                     "float32": lambda f, x, s, n: h_two_steps(f, x.float(), s.float(), n.float())},
    "03.which_variance": {"quoted": "'small'", "capital": " Small ", "theirs": "fixed_small", "posterior": "posterior"},
    "03.heun_calls": {"float": 19.0, "tensor": torch.tensor(19)},
    "03.invert_step": {"plain": i_of(i_up), "ode": i_ode, "float32": i_float32},
    "03.slerp": {"einsum": l_einsum, "loop": l_loop, "float32": l_float32},
}

EQUIVALENT = {
    "03.lazy": {
        "for k, (abar, abar_next) in enumerate(zip(levels[:], levels[1:])):": "zip ends with the shorter list",
        "for k, (abar, abar_next) in enumerate(zip(levels, levels[1:])):": "zip ends with the shorter list",
    },
    "03.slerp": {
        "v, u = (a.flatten(1), b.flatten(1))": "the angle between two is symmetric",
        "u, v = (b.flatten(1), a.flatten(1))": "the angle between two is symmetric",
    },
}

ONCE: dict[str, dict[str, str]] = {}
