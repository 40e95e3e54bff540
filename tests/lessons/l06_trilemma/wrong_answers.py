"""Lesson 06: plausible mistakes with words that the check must say, and honest variants that it must accept."""

import math

import numpy as np
import torch


def col(v, x):
    return v.view(-1, *[1] * (x.ndim - 1))


# true_variance -------------------------------------------------------------------------------------------------------------


def step(abar, prev):
    alpha = abar / prev
    return prev**0.5 * (1 - alpha) / (1 - abar), (1 - alpha) * (1 - prev) / (1 - abar)


def variance(coin=lambda x, a, m: 1 - torch.tanh(a**0.5 * m * x / (1 - a)) ** 2,
             rule=lambda c1, var, m, coin: var + (c1 * m) ** 2 * coin):
    def answer(x, abar, abar_prev, m):
        c1, var = step(abar, abar_prev)
        return rule(c1, var, m, coin(x, abar, m))
    return answer


def moments(x, abar, abar_prev, m):
    c1, var = step(float(abar), float(abar_prev))
    plus = 1 / (1 + np.exp(-2 * float(abar) ** 0.5 * float(m) * x.numpy() / (1 - float(abar))))
    mean = float(m) * (2 * plus - 1)
    return var + c1**2 * (float(m) ** 2 - mean**2)


def by_cosh(x, abar, abar_prev, m):
    beta = 1 - abar / abar_prev
    k = abar**0.5 * m / (1 - abar)
    return beta * (1 - abar_prev) / (1 - abar) + abar_prev * (beta * m / (1 - abar)) ** 2 / torch.cosh(k * x) ** 2


# path_pair -----------------------------------------------------------------------------------------------------------------


def pair(start="one", keep="alpha", second="before", own=True, flip=False, late=0):
    def answer(x0, t, abar, noise, more):
        table = torch.cat([torch.ones(1, dtype=abar.dtype), abar])
        prev = col(table[t + late] if start == "one" else abar[t - 1], x0)
        now = col(abar[t], x0)
        alpha = {"alpha": now / (prev if not late else col(table[t], x0)), "abar": now}[keep]
        before = prev.sqrt() * x0 + (1 - prev).sqrt() * noise
        old = before if second == "before" else x0
        by = alpha if second == "before" else now
        after = by.sqrt() * old + (1 - by).clamp(min=0).sqrt() * (more if own else noise)
        return torch.stack([after, before] if flip else [before, after])
    return answer


def pair_loop(x0, t, abar, noise, more):
    rows = []
    for x, k, a, b in zip(x0, t.tolist(), noise, more):
        prev = 1.0 if k == 0 else float(abar[k - 1])
        alpha = float(abar[k]) / prev
        first = prev**0.5 * x + (1 - prev) ** 0.5 * a
        rows.append(torch.stack([first, alpha**0.5 * first + (1 - alpha) ** 0.5 * b]))
    return torch.stack(rows, 1)


def pair_beta(x0, t, abar, noise, more):
    full = torch.cat([torch.ones(1, dtype=torch.float64), abar])
    beta = 1 - full[1:] / full[:-1]
    p, b = full[t].reshape(-1, *[1] * (x0.ndim - 1)), beta[t].reshape(-1, *[1] * (x0.ndim - 1))
    first = p**0.5 * x0 + (1 - p) ** 0.5 * noise
    return torch.stack([first, (1 - b) ** 0.5 * first + b**0.5 * more])


# r1_penalty ----------------------------------------------------------------------------------------------------------------


def penalty(reduce=lambda g: g.flatten(1).square().sum(1), graph=True, of=0, detach=False):
    def answer(D, before, t, after):  # noqa: N803
        pair = [before.detach().requires_grad_(True), after.detach().requires_grad_(True)]
        out = D(pair[0], t, pair[1]).sum()
        wanted = pair if of == "both" else [pair[of]]
        grads = torch.autograd.grad(out, wanted, create_graph=graph)
        found = sum(reduce(g) for g in grads)
        return found.detach() + 0 * out if detach else found
    return answer


def penalty_rows(D, before, t, after):  # noqa: N803
    rows = []
    for i in range(len(before)):
        x = before[i:i + 1].clone().requires_grad_(True)
        g, = torch.autograd.grad(D(x, t[i:i + 1], after[i:i + 1]), x, create_graph=True)
        rows.append((g**2).sum())
    return torch.stack(rows)


def penalty_norm(D, before, t, after):  # noqa: N803
    x = before.clone().requires_grad_(True)
    logits = D(x, t, after)
    g, = torch.autograd.grad(logits, x, grad_outputs=torch.ones_like(logits), create_graph=True)
    return g.reshape(len(x), -1).norm(dim=1).pow(2)


# draw_in_steps -------------------------------------------------------------------------------------------------------------


def steps(z="fresh", up=False, power=0.5, post=True, fresh=True):
    def answer(G, x, c1, c2, var, z_of, noise_of):  # noqa: N803
        order = range(len(c1)) if up else range(len(c1) - 1, -1, -1)
        for t in order:
            latent = {"fresh": z_of(t), "zero": torch.zeros_like(z_of(t)), "top": z_of(len(c1) - 1), "low": z_of(0)}[z]
            x0 = G(x, torch.full((len(x),), t), latent)
            x = c1[t] * x0 + c2[t] * x + var[t] ** power * noise_of(t if fresh else 0) if post else x0
        return x
    return answer


def steps_up_and_down(G, x, c1, c2, var, z_of, noise_of):  # noqa: N803
    t = len(c1)
    while t:
        t -= 1
        x0 = G(x, torch.tensor([t] * len(x)), z_of(t))
        mean = float(c1[t]) * x0 + float(c2[t]) * x
        x = torch.normal(mean, 0.0) + noise_of(t) * math.sqrt(float(var[t]))
    return x


def steps_ends_at_x0(G, x, c1, c2, var, z_of, noise_of):  # noqa: N803
    for t in torch.arange(len(c1)).flip(0):
        x0 = G(x, t.expand(len(x)), z_of(t))
        if t == 0:
            return x0
        x = c1[t] * x0 + c2[t] * x + var[t].sqrt() * noise_of(t)


# share_of_z ----------------------------------------------------------------------------------------------------------------


def share(rule):
    def answer(G, x, t, z):  # noqa: N803
        return rule(torch.stack([G(x, t, draw) for draw in z]))
    return answer


def pop(out, dims):
    return out.var(dims).mean()


def share_numpy(G, x, t, z):  # noqa: N803
    out = np.stack([G(x, t, draw).numpy() for draw in z])
    return math.sqrt(out.var(0, ddof=1).mean() / out.reshape(-1, *out.shape[2:]).var(0, ddof=1).mean())


def share_one_call(G, x, t, z):  # noqa: N803
    k, b = z.shape[:2]
    out = G(x.repeat(k, *[1] * (x.ndim - 1)), t.repeat(k), z.flatten(0, 1)).view(k, b, *x.shape[1:])
    inside = (out - out.mean(0)).square().sum() / (k - 1) / b
    return (inside / ((out - out.mean((0, 1))).square().sum() / (k * b - 1))) ** 0.5


# cells_among ---------------------------------------------------------------------------------------------------------------


def cells_comb(counts, n, m):
    return sum(1 - math.comb(n - int(k), m) / math.comb(n, m) for k in counts)


def cells_gamma(counts, n, m):
    def log_comb(a, b):
        return torch.lgamma(a + 1) - torch.lgamma(a - b + 1)
    left = (n - counts).double()
    miss = torch.where(left >= m, (log_comb(left.clamp(min=m), m) - log_comb(torch.tensor(float(n)).double(), m)).exp(), 0.0)
    return (1 - miss).sum()


def cells_in(n_of=lambda c, n: n, m_of=lambda m: m):
    def answer(counts, n, m):
        n, m = n_of(counts, n), m_of(m)
        if m > n:
            return float((counts > 0).sum())
        return cells_comb(counts, n, m)
    return answer


# cheat ---------------------------------------------------------------------------------------------------------------------


def fill(rest, every=lambda c, s: c):
    def answer(centres, std, n):
        first = every(centres, std)
        return torch.cat([first, rest(centres, std, n - len(first))])
    return answer


def fair(centres, std, n):
    g = torch.Generator().manual_seed(0)
    return centres[torch.arange(n) % len(centres)] + std / 3 * torch.randn(n, 2, generator=g, dtype=torch.float64).clamp(-2, 2)


def jittered(centres, std, n):
    where = torch.zeros(n, dtype=torch.long)
    where[:len(centres)] = torch.arange(len(centres))
    angle = torch.linspace(0, 50, n, dtype=torch.float64)
    return centres[where] + std * torch.stack([angle.cos(), angle.sin()], 1)


def cheat_numpy(centres, std, n):
    c = np.asarray(centres)
    return np.concatenate([np.repeat(c[-1:], n - len(c), 0), c])


WRONG = {
    "06.mean_modes": {
        "all": (25, "cannot reach"), "none": (0, "very middle"), "four steps": (9, "four steps"), "two": (4, "two steps"),
        "samples": (10_000, "changes nothing"), "half": (12, "whatever the noise"), "word": ("one", "one number"),
    },
    "06.true_variance": {
        "gaussian": (variance(rule=lambda c1, v, m, coin: v + 0 * coin), "with x0 known"),
        "coin": (variance(rule=lambda c1, v, m, coin: (c1 * m) ** 2 * coin), "coin alone"),
        "c1": (variance(rule=lambda c1, v, m, coin: v + c1 * m**2 * coin), "square of it"),
        "no c1": (variance(rule=lambda c1, v, m, coin: v + m**2 * coin), "full size"),
        "fair": (variance(coin=lambda x, a, m: torch.ones_like(x)), "has seen"),
        "p (1 - p)": (variance(coin=lambda x, a, m: torch.sigmoid(2 * a**0.5 * m * x / (1 - a))
                               * torch.sigmoid(-2 * a**0.5 * m * x / (1 - a))), "four times"),
        "two": (variance(coin=lambda x, a, m: 1 - torch.tanh(2 * a**0.5 * m * x / (1 - a)) ** 2), "off by two"),
        "std": (lambda *a: variance()(*a).sqrt(), "standard deviation"),
        "abar": (variance(coin=lambda x, a, m: 1 - torch.tanh(a * m * x / (1 - a)) ** 2), "belongs"),
        "unit": (lambda x, a, p, m: variance()(x, a, p, 1.0), "use m"),
    },
    "06.pair": {
        "as given": (pair(start="end", second="x0"), "colleague"),
        "unrelated": (pair(second="x0"), "from x0 again"),
        "minus one": (pair(start="end"), "index -1"),
        "abar": (pair(keep="abar"), "should keep alpha"),
        "one noise": (pair(own=False), "one of its own"),
        "flipped": (pair(flip=True), "comes first"),
        "late": (pair(late=1), "one step late"),
        "only one": (lambda x0, t, abar, a, b: pair()(x0, t, abar, a, b)[0], "shape"),
    },
    "06.r1": {
        "length": (penalty(lambda g: g.flatten(1).norm(dim=1)), "its square"),
        "mean": (penalty(lambda g: g.flatten(1).square().mean(1)), "is their sum"),
        "x_t": (penalty(of=1), "only given. penalise"),
        "both": (penalty(of="both"), "is in it too"),
        "absolute": (penalty(lambda g: g.flatten(1).abs().sum(1)), "absolute"),
        "cancel": (penalty(lambda g: g.flatten(1).sum(1).square()), "cancel"),
        "half": (penalty(lambda g: g.flatten(1).square().sum(1) / 2), "gamma / 2"),
        "no graph": (penalty(graph=False), "create_graph"),
        "detached": (penalty(detach=True), "detached"),
        "one number": (lambda *a: penalty()(*a).mean(), "shape"),
    },
    "06.sampler": {
        "as given": (steps(z="low", up=True, power=1.0), "three faults"),
        "once": (steps(z="top"), "for all the steps; each"),
        "once, low": (steps(z="low"), "at step 0"),
        "up": (steps(up=True), "go up"),
        "variance": (steps(power=1.0), "root"),
        "zero": (steps(z="zero"), "only draw one"),
        "no posterior": (steps(post=False), "straight"),
        "same noise": (steps(fresh=False), "same noise"),
        "t as a number": (lambda G, x, c1, c2, v, z, n: G(x, torch.tensor(0), z(0)), "one of each"),
    },
    "06.z_share": {
        "variances": (share(lambda o: pop(o, 0) / pop(o.flatten(0, 1), 0)), "take its root"),
        "x": (share(lambda o: (pop(o.mean(0), 0) / pop(o.flatten(0, 1), 0)).sqrt()), "x_t decides; keep"),
        "odds": (share(lambda o: (pop(o, 0) / pop(o.mean(0), 0)).sqrt()), "no upper end"),
        "population": (share(lambda o: (o.var(0, unbiased=False).mean() / o.flatten(0, 1).var(0, unbiased=False).mean()).sqrt()),
                       "less one"),
        "alone": (share(lambda o: pop(o, 0).sqrt()), "alone"),
        "all values": (share(lambda o: (pop(o, 0) / o.var()).sqrt()), "dark and bright"),
        "two draws": (lambda G, x, t, z: share_numpy(G, x, t, z[:2]), "all k"),
        "constant": (lambda G, x, t, z: 0.5, "must get 0"),
        "as a batch": (lambda G, x, t, z: G(x, t, z).std(), "one of each"),
    },
    "06.cells": {
        "putting back": (lambda c, n, m: (1 - (1 - c / n) ** m).sum(), "putting back"),
        "all": (lambda c, n, m: float((c > 0).sum()), "among all"),
        "proportional": (lambda c, n, m: (c > 0).sum() * m / n, "in proportion"),
        "countable": (cells_in(n_of=lambda c, n: int(c.sum())), "use up draws"),
        "missed": (lambda c, n, m: len(c) - cells_comb(c, n, m), "missed"),
        "share": (lambda c, n, m: cells_comb(c, n, m) / len(c), "number is asked"),
        "one fewer": (cells_in(m_of=lambda m: m - 1), "one picture too few"),
        "each": (lambda c, n, m: torch.ones_like(c), "shape"),
    },
    "06.fool": {
        "fair": (fair, "too honest"),
        "one place": (lambda c, s, n: c[:1].repeat(n, 1), "have no point"),
        "far": (fill(lambda c, s, k: (c[:1] + 4 * s).repeat(k, 1)), "quality figure"),
        "between": (fill(lambda c, s, k: c.mean(0, keepdim=True).repeat(k, 1)), "quality figure"),
        "one missing": (lambda c, s, n: torch.cat([c[1:], c[1:2].repeat(n - len(c) + 1, 1)]), "have no point"),
        "half": (lambda c, s, n: torch.cat([c[torch.arange(n // 2) % len(c)],
                                            c[torch.arange(n - n // 2) % (len(c) // 2)]]), "too honest"),
        "too few": (lambda c, s, n: c, "shape"),
    },
}

HONEST = {
    "06.mean_modes": {"float": 1.0, "tensor": torch.tensor(1)},
    "06.true_variance": {"moments": moments, "cosh": by_cosh, "single": lambda *a: variance()(*a).float()},
    "06.pair": {"loop": pair_loop, "beta": pair_beta, "single": lambda *a: pair()(*a).float()},
    "06.r1": {"rows": penalty_rows, "norm": penalty_norm},
    "06.sampler": {"while": steps_up_and_down, "returns x0": steps_ends_at_x0},
    "06.z_share": {"numpy": share_numpy, "one call": share_one_call},
    "06.cells": {"comb": cells_comb, "gamma": cells_gamma},
    "06.fool": {"jittered": jittered, "numpy": cheat_numpy},
}

EVEN = "squared, or in an even function"
EQUIVALENT = {
    "06.true_variance": {
        "c1 = abar_prev ** 0.5 * (1 - alpha) / (abar - 1)": EVEN,
        "c1 = abar_prev ** 0.5 * (alpha - 1) / (1 - abar)": EVEN,
        "coin = 1 - torch.tanh(abar ** 0.5 * m * x / (abar - 1)) ** 2": EVEN},
    "06.pair": {f"shape = (-1, *[1] * ({name}.ndim - 1))": "shaped like x0" for name in ("noise", "more")},
    "06.r1": {
        "before = before.detach().requires_grad_()": "True is the default",
        "before = before.requires_grad_(True)": "what comes has no graph",
        "gradient = torch.autograd.grad(D(before, t, after).sum(), before, create_graph=True)[-1]": "there is one"},
    "06.sampler": {
        "return x0": "the last posterior has variance 0, and is x0",
        "for t in reversed(range(len(c2))):": "as long as c1", "for t in reversed(range(len(var))):": "as long as c1"},
    "06.fool": {"return torch.cat([centres[:1].expand(n - len(centres), 2), centres])": "the order of the points means nothing"},
}

PLANE = "points of the plane"
ONCE: dict[str, dict[str, str]] = {"06.fool": {"centres, axis 1: 2": PLANE}}
