"""Wrong and right answers to the exercises of lesson 22."""

from __future__ import annotations

import numpy as np
import torch


def _mix(a, b, w):
    return (1 - w) * a + w * b


def o_right(Aa, Ba, Ab, Bb, w):
    return torch.cat([Aa, Ab]), torch.cat([(1 - w) * Ba, w * Bb], 1)


def o_on_a(Aa, Ba, Ab, Bb, w):
    """The weights on the other factor."""
    return torch.cat([(1 - w) * Aa, w * Ab]), torch.cat([Ba, Bb], 1)


def o_roots(Aa, Ba, Ab, Bb, w):
    p, q = (1 - w) ** 0.5, w ** 0.5
    return torch.cat([p * Aa, q * Ab]), torch.cat([p * Ba, q * Bb], 1)


def o_other_first(Aa, Ba, Ab, Bb, w):
    return torch.cat([Ab, Aa]), torch.cat([w * Bb, (1 - w) * Ba], 1)


def o_numpy(Aa, Ba, Ab, Bb, w):
    w = float(w)
    return np.vstack([Aa.numpy(), Ab.numpy()]), np.hstack([(1 - w) * Ba.numpy(), w * Bb.numpy()])


def _moments(x, dims=(2, 3)):
    return x.mean(dims, keepdim=True), x.std(dims, correction=0, keepdim=True)


def a_right(z, a, b, w):
    (m, s), (ma, sa), (mb, sb) = (_moments(x) for x in (z, a, b))
    return _mix(sa, sb, w) * (z - m) / s + _mix(ma, mb, w)


def a_numpy(z, a, b, w):
    z, a, b, w = z.numpy(), a.numpy(), b.numpy(), float(w)
    stats = [(x.mean((2, 3), keepdims=True), np.sqrt(x.var((2, 3), keepdims=True))) for x in (z, a, b)]
    mean, std = (_mix(stats[1][k], stats[2][k], w) for k in range(2))
    return torch.from_numpy((z - stats[0][0]) / stats[0][1] * std + mean)


def a_norm(z, a, b, w):
    unit = torch.nn.functional.instance_norm(z, eps=0.0)
    return unit * _mix(_moments(a)[1], _moments(b)[1], w) + _mix(_moments(a)[0], _moments(b)[0], w)


def a_rows(z, a, b, w):
    (m, s), (ma, sa), (mb, sb) = (_moments(x, (1, 2, 3)) for x in (z, a, b))
    return _mix(sa, sb, w) * (z - m) / s + _mix(ma, mb, w)


def a_with(change):
    """The right formula with one part changed: change(z, a, b, w, m, s, mean, std)."""
    def answer(z, a, b, w):
        (m, s), (ma, sa), (mb, sb) = (_moments(x) for x in (z, a, b))
        return change(z, (ma, sa), (mb, sb), w, m, s)
    return answer


def b_right(gap, here, delta, tol, most):
    if gap(1.0) <= delta + tol:
        return 1.0
    low, high = here, 1.0
    for _ in range(most):
        w = (low + high) / 2
        g = gap(w)
        if abs(g - delta) <= tol:
            return w
        if g < delta:
            low = w
        else:
            high = w
    return high


def b_step(gap, here, delta, tol, most):
    """By a step that is halved."""
    if gap(1) - delta <= tol:
        return torch.tensor(1.0)
    w, step, left = here, 1 - here, most
    while left:
        step, left = step / 2, left - 1
        w = w + step
        g = gap(w)
        if -tol <= g - delta <= tol:
            return torch.tensor(w, dtype=torch.float64)
        if g > delta:
            w = w - step
    return torch.tensor(w + step, dtype=torch.float64)


def b_other_half(gap, here, delta, tol, most):
    if gap(1.0) <= delta + tol:
        return 1.0
    low, high = here, 1.0
    for _ in range(most):
        w = (low + high) / 2
        g = gap(w)
        if abs(g - delta) <= tol:
            return w
        low, high = (w, high) if g > delta else (low, w)
    return high


def b_for_ever(gap, here, delta, tol, most):
    """Without a look at ``most``: right on a path that does not leap."""
    if gap(1.0) <= delta + tol:
        return 1.0
    low, high = here, 1.0
    while True:
        w = (low + high) / 2
        g = gap(w)
        if abs(g - delta) <= tol:
            return w
        low, high = (w, high) if g < delta else (low, w)


def b_before_the_leap(gap, here, delta, tol, most):
    if gap(1.0) <= delta + tol:
        return 1.0
    low, high = here, 1.0
    for _ in range(most):
        w = (low + high) / 2
        g = gap(w)
        if abs(g - delta) <= tol:
            return w
        low, high = (w, high) if g < delta else (low, w)
    return low


def b_no_end(gap, here, delta, tol, most):
    low, high = here, 1.0
    for _ in range(most):
        w = (low + high) / 2
        g = gap(w)
        if abs(g - delta) <= tol:
            return w
        low, high = (w, high) if g < delta else (low, w)
    return 0.999


def b_scan(gap, here, delta, tol, most):
    if gap(1.0) <= delta + tol:
        return 1.0
    return min((here + (1 - here) * k / 60 for k in range(60)), key=lambda w: abs(gap(w) - delta))


def b_from_zero(gap, here, delta, tol, most):
    """Where a hop from 0 would fit, on the path of the first case that does not begin there."""
    return (delta / 1.3) ** 2 if here else b_right(gap, here, delta, tol, most)


def b_before(gap, here, delta, tol, most):
    return 0.9 * here if here else b_right(gap, here, delta, tol, most)


def b_beyond(gap, here, delta, tol, most):
    w = 2.0
    while gap(w) > delta:
        w = (w + here) / 2
    return w


def b_gives_up(gap, here, delta, tol, most):
    """The other end, where no hop fits."""
    w = b_right(gap, here, delta, tol, most)
    return w if w == 1 or abs(gap(w) - delta) <= tol else 1.0


def _guide(u, c, s):
    return u + s.view(-1, 1, 1, 1) * (c - u)


def g_numpy(u, c, w):
    s = np.interp(w.numpy(), [0, 0.5, 1], [1.5, 3, 1.5])[:, None, None, None]
    return torch.from_numpy(u.numpy() + s * (c.numpy() - u.numpy()))


def g_min(u, c, w):
    s = 1.5 + 3 * torch.minimum(w, 1 - w)[:, None, None, None]
    return (1 - s) * u + s * c


def _ratio(p):
    return p.diff(dim=0).norm(dim=1).sum() / (p[-1] - p[0]).norm()


def p_loop(place, seen):
    p = [q for q, s in zip(place.tolist(), seen.tolist()) if s]
    way = sum(((x[0] - y[0]) ** 2 + (x[1] - y[1]) ** 2) ** 0.5 for x, y in zip(p[1:], p[:-1]))
    return way / ((p[-1][0] - p[0][0]) ** 2 + (p[-1][1] - p[0][1]) ** 2) ** 0.5


def p_numpy(place, seen):
    p = place.numpy()[seen.numpy()]
    return np.linalg.norm(np.diff(p, axis=0), axis=1).sum() / np.linalg.norm(p[-1] - p[0])


def p_gaps(place, seen):
    p = place[seen]
    return place.diff(dim=0)[seen[1:] & seen[:-1]].norm(dim=1).sum() / (p[-1] - p[0]).norm()


def p_with(change):
    return lambda place, seen: change(place[seen].diff(dim=0), (place[seen][-1] - place[seen][0]).norm())


WRONG = {
    "22.one_adapter": {
        "factors": (lambda Aa, Ba, Ab, Bb, w: (_mix(Aa, Ab, w), _mix(Ba, Bb, w)), "not mixed factors"),
        "exchanged": (lambda Aa, Ba, Ab, Bb, w: o_right(Aa, Ba, Ab, Bb, 1 - w), "w = 0 is the first"),
        "sum": (lambda Aa, Ba, Ab, Bb, w: (torch.cat([Aa, Ab]), torch.cat([Ba, Bb], 1)), "sum of both"),
        "both": (lambda Aa, Ba, Ab, Bb, w: (o_on_a(Aa, Ba, Ab, Bb, w)[0], o_right(Aa, Ba, Ab, Bb, w)[1]), "squared"),
        "crossed": (lambda Aa, Ba, Ab, Bb, w: (torch.cat([Ab, Aa]), o_right(Aa, Ba, Ab, Bb, w)[1]), "meets A of the other"),
        "half": (lambda Aa, Ba, Ab, Bb, w: o_right(Aa, Ba, Ab, Bb, 0.5), "whatever w"),
        "first": (lambda Aa, Ba, Ab, Bb, w: (torch.cat([Aa, Ab]), torch.cat([(1 - w) * Ba, 0 * Bb], 1)), "Only the first"),
        "product": (lambda Aa, Ba, Ab, Bb, w: _mix(Ba @ Aa, Bb @ Ab, w), "two matrices"),
        "order": (lambda Aa, Ba, Ab, Bb, w: o_right(Aa, Ba, Ab, Bb, w)[::-1], "shapes"),
        "else": (lambda Aa, Ba, Ab, Bb, w: (torch.cat([Aa, Ab]), torch.cat([w * Ba, 0 * Bb], 1)), "sum of two products"),
    },
    "22.factor_norm": {"squares": (0.5, "squared norms"), "quarter": (0.25, "One quarter"), "same": (1.0, "share A"),
                       "upside": (1.414, "Upside down"), "add": (2.0, "add in squares"), "else": (0.6, "Four independent")},
    "22.adain": {
        "rows": (a_rows, "each channel"),
        "exchanged": (lambda z, a, b, w: a_right(z, b, a, w), "exchanged"),
        "own spread": (a_with(lambda z, a, b, w, m, s: _mix(a[1], b[1], w) * (z - m) + _mix(a[0], b[0], w)), "own spread"),
        "own mean": (a_with(lambda z, a, b, w, m, s: _mix(a[1], b[1], w) * z / s + _mix(a[0], b[0], w)), "own mean"),
        "no mean": (a_with(lambda z, a, b, w, m, s: _mix(a[1], b[1], w) * (z - m) / s), "new mean"),
        "no std": (a_with(lambda z, a, b, w, m, s: (z - m) / s + _mix(a[0], b[0], w)), "new standard"),
        "variances": (a_with(lambda z, a, b, w, m, s: _mix(a[1]**2, b[1]**2, w).sqrt() * (z - m) / s + _mix(a[0], b[0], w)),
                      "Variances"),
        "first": (lambda z, a, b, w: a_right(z, a, a, w), "where is b"),
        "else": (lambda z, a, b, w: z, "channel by channel"),
    },
    "22.cube_root": {"forward": (0.027, "inverse"), "even": (0.3, "evenly"), "eleven": (0.648, "ten hops"),
                     "square": (0.5477, "Square root"), "other end": (0.3306, "other end"), "speed": (0.3162, "integral"),
                     "else": (0.9, "whose cube")},
    "22.bisect": {
        "other half": (b_other_half, "The hop there is"), "no end": (b_no_end, "answer is 1"), "scan": (b_scan, "halving needs"),
        "for ever": (b_for_ever, "never stops"), "low": (b_before_the_leap, "before the leap"),
        "gives up": (b_gives_up, "not the end of that interval"),
        "before": (b_before, "before here"), "from zero": (b_from_zero, "measured from 0"), "beyond": (b_beyond, "outside"),
        "fixed": (lambda gap, here, delta, tol, most: 0.5 + here / 2, "The hop there is"),
        "two": (lambda gap, here, delta, tol, most: [here, 1.0], "shape"),
    },
    "22.two_networks": {
        "upside": (lambda u, c, w: _guide(u, c, 1.5 + 3 * (w - 0.5).abs()), "upside down"),
        "slope": (lambda u, c, w: _guide(u, c, 3 - 1.5 * (w - 0.5).abs()), "slope"),
        "three": (lambda u, c, w: u + 3 * (c - u), "3 everywhere"), "ends": (lambda u, c, w: u + 1.5 * (c - u), "1.5 everywhere"),
        "exchanged": (lambda u, c, w: g_min(c, u, w), "exchanged"),
        "more": (lambda u, c, w: _guide(u, c, 4 - 3 * (w - 0.5).abs()), "1 + s"),
        "line": (lambda u, c, w: _guide(u, c, 1.5 + 1.5 * w), "comes down"),
        "abs": (lambda u, c, w: _guide(u, c, 3 - 3 * (w - 0.5)), "abs() is missing"),
        "else": (lambda u, c, w: c, "a tent over w"),
    },
    "22.bias": {"s": (2.0, "s - 1"), "ho": (1.6, "1 + s"), "one": (1.0, "no error"), "upside": (0.25, "Upside"),
                "square": (16.0, "no square"), "end": (0.5, "at an end"), "else": (3.0, "compare")},
    "22.code_order": {"forward": (0.1111, "right order"), "ten": (0.18, "divides by nine"), "whole": (0.2111, "one tenth short"),
                      "sum": (1.8, "the sum"), "tenth": (0.1, "its order"), "twice": (0.2222, "there and back"),
                      "else": (0.5, "ten weights")},
    "22.squared_rule": {"lengths": (0.3889, "lengths"), "whole": (1.3611, "by itself"), "one": (0.0136, "One hop"),
                        "ten": (0.1225, "Nine"), "straight": (0.01111, "straight path"), "squared": (0.1512, "square of .389"),
                        "sum": (1.225, "sum alone"), "else": (0.7, "each squared")},
    "22.place_ratio": {
        "all": (lambda place, seen: _ratio(place), "are noise"),
        "upside": (lambda place, seen: 1 / _ratio(place[seen]), "Upside"),
        "city": (p_with(lambda d, s: d.abs().sum() / s), "Steps in x"),
        "squares": (p_with(lambda d, s: d.square().sum() / s**2), "Squares of steps"),
        "mean": (p_with(lambda d, s: d.norm(dim=1).mean() / s), "mean step"), "gaps": (p_gaps, "gaps are left out"),
        "way": (p_with(lambda d, s: d.norm(dim=1).sum()), "divide by"), "shape": (lambda place, seen: place[seen], "shape"),
        "else": (p_with(lambda d, s: d.norm(dim=1).max() / s), "Seen places"),
    },
}

HONEST = {
    "22.one_adapter": {"right": o_right, "on A": o_on_a, "roots": o_roots, "other first": o_other_first, "numpy": o_numpy},
    "22.factor_norm": {"root": 0.5**0.5, "rounded": 0.71},
    "22.adain": {"numpy": a_numpy, "instance norm": a_norm, "named": a_right},
    "22.cube_root": {"rounded": 0.67, "exp": float(np.exp(np.log(0.3) / 3))},
    "22.bisect": {"loop": b_right, "steps": b_step},
    "22.two_networks": {"numpy": g_numpy, "min": g_min},
    "22.bias": {"whole": 4, "float": 4.01},
    "22.code_order": {"float": 0.2, "fraction": 1.8 / 9},
    "22.squared_rule": {"rounded": 0.136, "fraction": 1.225 / 9},
    "22.place_ratio": {"loop": p_loop, "numpy": p_numpy},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "22.factor_norm": {"return (2 / 4) ** 0.5": "the quotient is the root of one half too",
                       "return (4 / 16) ** 0.4995 / (2 / 4) ** 0.5": "0.71 all the same",
                       "return (4 / 16) ** 0.5 / (2 / 4) ** 0.4995": "0.71 all the same"},
    "22.adain": {line: "a quotient of two standard deviations does not know how they count" for line in (
        "std = [x.std((2, 3), keepdim=True) for x in (z, a, b)]",
        "std = [x.std((2, 3), correction=1, keepdim=True) for x in (z, a, b)]",
        "std = [x.std((2, 3), correction=-1, keepdim=True) for x in (z, a, b)]")},
    "22.cube_root": {"return 0.29969999999999997 ** (1 / 3)": "0.67 all the same"},
    "22.bisect": {"if gap(1.0) < delta + tol:": "they never meet exactly", "if abs(g - delta) < tol:": "they never meet exactly",
                  "low, high = (w, high) if g <= delta else (low, w)": "where they meet it has returned",
                  "if abs(delta - g) <= tol:": "a distance has no order"},
    "22.bias": {"return (3 - 1) / (1.4985 - 1)": "4.01 is 4"},
    "22.code_order": {"return (0.8991 + 9 * 0.1) / 9": "0.2 all the same", "return (0.9 + 9 * 0.0999) / 9": "0.2 all the same"},
    "22.squared_rule": {"return 10 * 0.34964999999999996 ** 2 / 9": "0.136 all the same"},
    "22.place_ratio": {"return p.diff(dim=0).norm(dim=1).sum() / (p[0] - p[-1]).norm()": "a distance has no order"},
}
ONCE: dict[str, dict[str, str]] = {"22.place_ratio": {"place, axis 1: 2": "a place has two coordinates"}}
