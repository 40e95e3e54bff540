"""Wrong and right answers to the exercises of lesson 16."""

from __future__ import annotations

import numpy as np
import torch

cos = torch.nn.functional.cosine_similarity


# 16.share
def s_parts(here, there, put):
    way, gone = (there - here).flatten(1), (put - here).flatten(1)
    return way, gone, (gone * way).sum(1)


def s_with(how):
    return lambda *args: how(*s_parts(*args))


def s_einsum(here, there, put):
    way = there - here
    return torch.einsum("bchw,bchw->b", put - here, way) / torch.einsum("bchw,bchw->b", way, way)


def s_loop(here, there, put):
    return [float(((p - a) * (b - a)).sum() / ((b - a) ** 2).sum()) for a, b, p in zip(here, there, put)]


# 16.step
def t_with(first, second, a_of=lambda a, b: (a, b)):
    def answer(x, eps, shifted, abar, abar_prev):
        a, b = a_of(abar, abar_prev)
        e = {"plain": eps, "shifted": shifted}
        return b**0.5 * (x - (1 - a) ** 0.5 * e[first]) / a**0.5 + (1 - b) ** 0.5 * e[second]
    return answer


def t_sigma(x, eps, shifted, abar, abar_prev):
    """In the coordinates x / sqrt(abar)."""
    s, s_prev = ((1 - a) ** 0.5 / a**0.5 for a in (abar, abar_prev))
    return abar_prev**0.5 * (x / abar**0.5 - s * shifted + s_prev * eps)


def t_numpy(x, eps, shifted, abar, abar_prev):
    x, eps, shifted = (v.numpy() for v in (x, eps, shifted))
    x0 = (x - np.sqrt(1 - abar) * shifted) / np.sqrt(abar)
    return torch.from_numpy(np.sqrt(abar_prev) * x0 + np.sqrt(1 - abar_prev) * eps)


# 16.wrong_term
def w_parts(d, a, b):
    return -((b * (1 - a) / a) ** 0.5) * d, (1 - b) ** 0.5 * d


def w_with(how):
    return lambda d, a, b: torch.stack(how(*w_parts(d, a, b), d, a, b))


def w_numbers(d, abar, abar_prev):
    p, q = w_parts(1.0, abar, abar_prev)
    return torch.tensor([p, q, p + q], dtype=d.dtype).view(-1, *[1] * d.ndim) * d


def w_steps(d, abar, abar_prev):
    """Whole steps from x = 0, the shift put where it acts."""
    zero = torch.zeros_like(d)

    def made(e0, e1):
        return abar_prev**0.5 * (0 - (1 - abar) ** 0.5 * e0) / abar**0.5 + (1 - abar_prev) ** 0.5 * e1
    return torch.stack([made(d, zero), made(zero, d), made(d, d)])


# 16.cosine
def c_with(others, own=lambda flat: flat):
    return lambda d: cos(own(d.flatten(1)), others(d.flatten(1)), dim=1)


def c_loop(d):
    flat = d.flatten(1)
    out = []
    for i in range(len(flat)):
        rest = torch.cat([flat[:i], flat[i + 1:]]).mean(0)
        out.append(flat[i] @ rest / (flat[i].norm() * rest.norm()))
    return torch.stack(out)


def c_numpy(d):
    flat = d.flatten(1).numpy()
    rest = flat.sum(0) - flat
    return list((flat * rest).sum(1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(rest, axis=1))


def c_pairs(d):
    unit = torch.nn.functional.normalize(d.flatten(1), dim=1)
    return ((unit @ unit.T).sum(1) - 1) / (len(d) - 1)


# 16.compose
def k_sizes(deltas):
    total = sum(deltas)
    return total, torch.stack([d.flatten(1).norm(dim=1) for d in deltas]), total.flatten(1).norm(dim=1)


def k_with(how):
    """how: (lengths of the k changes, (k, B); length of their sum, (B,); k) -> factor of the sum."""
    def answer(deltas):
        total, sizes, long = k_sizes(deltas)
        factor = how(sizes, long, len(deltas))
        return factor.view(-1, 1, 1, 1) * total if isinstance(factor, torch.Tensor) else factor * total
    return answer


def k_batch(deltas):
    total, sizes, _ = k_sizes(deltas)
    return float((sizes.square().sum() / len(deltas)).sqrt() / total.norm()) * total


def k_stack(deltas):
    d = torch.stack(deltas).flatten(2)
    total = d.sum(0)
    return (total * (d.norm(dim=2).pow(2).mean(0).sqrt() / total.norm(dim=1))[:, None]).view(deltas[0].shape)


def k_loop(deltas):
    out = []
    for b in range(len(deltas[0])):
        mine = [d[b].numpy() for d in deltas]
        total = np.sum(mine, 0)
        out.append(total * np.sqrt(np.mean([np.sum(v**2) for v in mine])) / np.linalg.norm(total))
    return torch.from_numpy(np.stack(out))


# 16.fires
def f_with(module=lambda net, path: net.get_submodule(path), remove=True, guard=True, calls=1):
    def answer(net, path, x):
        seen = []
        handle = module(net, path).register_forward_hook(lambda *a: seen.append(1))
        try:
            for _ in range(calls):
                net(x)
        except RuntimeError:
            if guard:
                handle.remove()
            raise
        if remove:
            handle.remove()
        return len(seen)
    return answer


def f_once(net, path, x):
    return min(f_with()(net, path, x), 1)


def f_inside(net, path, x):
    """Counts what runs inside as well."""
    return sum(f_with()(net, name, x) for name, _ in net.named_modules() if name == path or name.startswith(path + "."))


def f_there(net, path, x):
    net(x)
    return int(path in dict(net.named_modules()))


def f_walk(net, path, x):
    for name in path.split("."):
        net_inside = getattr(net if name == path.split(".")[0] else net_inside, name)  # noqa: F821
    return f_with(lambda *a: net_inside)(net, path, x)


def f_pre(net, path, x):
    count = [0]

    def add(*args):
        count[0] += 1
    handle = dict(net.named_modules())[path].register_forward_pre_hook(add)
    try:
        net(x)
    finally:
        handle.remove()
    return torch.tensor(count[0])


# 16.activated
def a_below(limit):
    return lambda e: bool((e > limit).all())


def a_moments(e):
    return bool(e.mean() > 0.1)


def a_sorted(e):
    return float(e.flatten().sort().values[0]) > -0.2785


def a_numpy(e):
    x = np.linspace(-5, 5, 100001)
    return np.all(e.numpy() >= (x / (1 + np.exp(-x))).min() - 1e-4)


def table(*rows):
    return [list(map(float, row)) for row in rows]


EYE = [[1.0 if i == j else 0.0 for j in range(6)] for i in range(4)]
HALF = 0.5**0.5
WRONG = {
    "16.share": {
        "to go": (lambda *a: 1 - s_einsum(*a), "still to go"),
        "length": (s_with(lambda way, gone, dot: dot / way.norm(dim=1)), "squared length"),
        "cosine": (s_with(lambda way, gone, dot: dot / way.norm(dim=1) / gone.norm(dim=1)), "however short"),
        "lengths": (s_with(lambda way, gone, dot: gone.norm(dim=1) / way.norm(dim=1)), "sideways"),
        "sign": (lambda *a: -s_einsum(*a), "sign"),
        "batch": (s_with(lambda way, gone, dot: (dot.sum() / way.square().sum()).expand(len(way))), "whole batch"),
        "put": (lambda here, there, put: ((there - here) * put).flatten(1).sum(1) / (there - here).flatten(1).square().sum(1),
                "itself"),
        "gone": (s_with(lambda way, gone, dot: dot / gone.square().sum(1)), "whole way"),
        "half": (lambda *a: s_einsum(*a) / 2, "halfway"),
    },
    "16.step": {
        "both": (t_with("shifted", "shifted"), "symmetric"), "other": (t_with("plain", "shifted"), "only the direction"),
        "none": (t_with("plain", "plain"), "nothing is shifted"),
        "roots": (lambda x, e, s, a, b: b**0.5 * (x - (1 - a) * s) / a**0.5 + (1 - b) * e, "square roots"),
        "exchanged": (t_with("shifted", "plain", lambda a, b: (b, a)), "exchanged"),
        "x0": (lambda x, e, s, a, b: (x - (1 - a) ** 0.5 * s) / a**0.5, "put back"),
        "scale": (lambda x, e, s, a, b: (x - (1 - a) ** 0.5 * s) / a**0.5 + (1 - b) ** 0.5 * e, "scaled"),
        "level": (lambda x, e, s, a, b: b**0.5 * (x - (1 - a) ** 0.5 * s) / a**0.5 + (1 - a) ** 0.5 * e, "level after"),
        "half": (lambda *a: t_sigma(*a) / 2, "plain DDIM"),
    },
    "16.same_push": {
        "same": (lambda c, n, m: c, "twice as often"), "upside": (lambda c, n, m: c * m / n, "upside down"),
        "root": (lambda c, n, m: c * (n / m) ** 0.5, "noise"), "one": (lambda c, n, m: c / m, "one step alone"),
        "all": (lambda c, n, m: c * n, "together"), "square": (lambda c, n, m: c * (n / m) ** 2, "square"),
        "less": (lambda c, n, m: c - n / m, "as many steps"),
    },
    "16.wrong_term": {
        "sign": (w_with(lambda p, q, *_: [-p, q, q - p]), "minus"),
        "unscaled": (w_with(lambda p, q, d, a, b: [p / b**0.5, q, p / b**0.5 + q]), "scaled by"),
        "exchanged": (w_with(lambda p, q, *_: [q, p, p + q]), "exchanged"),
        "difference": (w_with(lambda p, q, *_: [p, q, p - q]), "signs differ"),
        "roots": (w_with(lambda p, q, d, a, b: [-b * (1 - a) / a * d, (1 - b) * d, -b * (1 - a) / a * d + (1 - b) * d]), "roots"),
        "level": (w_with(lambda p, q, d, a, b: [p, (1 - a) ** 0.5 * d, p + (1 - a) ** 0.5 * d]), "level after"),
        "half": (w_with(lambda p, q, *_: [p / 2, q / 2, (p + q) / 2]), "at abar_prev"),
    },
    "16.vanishes": {
        "word": ("orthogonal", "list of lists"), "square": (EYE[:3], "4 x 6"), "cancel": (table([1, 0, 0, 0, 0, 0],
        [-1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, -1, 0, 0, 0, 0]), "negative"),
        "short": (table(*([0.5 * v for v in row] for row in EYE)), "lengths"),
        "same": (table(*[[1, 0, 0, 0, 0, 0]] * 4), "share"),
        "pairs": (table(*[[1, 0, 0, 0, 0, 0]] * 2, *[[0, 1, 0, 0, 0, 0]] * 2), "0.71"),
        "nan": (table([float("nan")] * 6, *EYE[1:]), "nan"),
        "some": (table([HALF, HALF, 0, 0, 0, 0], *EYE[1:]), "other cells"),
    },
    "16.cosine": {
        "itself": (c_with(lambda flat: flat.mean(0, keepdim=True)), "itself"),
        "dot": (lambda d: (d.flatten(1) * (d.sum(0) - d).flatten(1) / (len(d) - 1)).sum(1), "dot product"),
        "pairs": (c_pairs, "each other"),
        "unit": (c_with(lambda flat: (flat / flat.norm(dim=1, keepdim=True)).sum(0) - flat / flat.norm(dim=1, keepdim=True)),
                 "unit vectors"),
        "one": (lambda d: c_loop(d).mean().expand(len(d)), "repeated"),
        "pooled": (lambda d: cos(d.mean((2, 3)), (d.sum(0) - d).mean((2, 3)), dim=1), "over places"),
        "sign": (lambda d: -c_loop(d), "sign"),
        "half": (lambda d: c_loop(d) / 2, "equal changes"),
    },
    "16.compose": {
        "sum": (lambda d: sum(d), "harder"), "root": (k_with(lambda sizes, long, k: k**-0.5), "right angles"),
        "mean": (k_with(lambda sizes, long, k: 1 / k), "shorter"), "batch": (k_batch, "whole batch"),
        "lengths": (k_with(lambda sizes, long, k: sizes.mean(0) / long), "mean of the lengths"),
        "first": (k_with(lambda sizes, long, k: sizes[0] / long), "first change"),
        "unit": (k_with(lambda sizes, long, k: 1 / long), "unit vector"),
        "square": (k_with(lambda sizes, long, k: sizes.square().mean(0) / long**2), "root is missing"),
        "upside": (k_with(lambda sizes, long, k: long / sizes.square().mean(0).sqrt()), "upside down"),
        "all": (k_with(lambda sizes, long, k: sizes.square().sum(0).sqrt() / long), "is missing"),
        "half": (lambda d: k_stack(d) / 2, "comes back"),
    },
    "16.fires": {
        "stays": (f_with(remove=False), "still there"), "unguarded": (f_with(guard=False), "raises"),
        "once": (f_once, "more than"),
        "inside": (f_inside, "silent hook"), "there": (f_there, "more than once"),
        "double": (f_with(calls=2), "call the network"),
        "zero": (lambda net, path, x: 0, "you counted 0"),
    },
    "16.activated": {
        "positive": (a_below(0.0), "negative"), "never": (lambda e: False, "negative"), "always": (lambda e: True, "not seen"),
        "deep": (a_below(-1.28), "-0.2789"), "shallow": (a_below(-0.25), "negative"),
        "moments": (a_moments, "small numbers"), "any": (lambda e: bool((e > -0.2785).any()), "not seen"),
        "spread": (lambda e: bool((e > -0.2785).all()) and float(e.max()) < 8, "large numbers"),
        "number": (lambda e: 1.5, "true or false"),
    },
}

HONEST = {
    "16.share": {"einsum": s_einsum, "loop": s_loop},
    "16.step": {"sigma": t_sigma, "numpy": t_numpy},
    "16.same_push": {"pushes": lambda c, n, m: c / (m / n), "float": lambda c, n, m: float(c) * n / m},
    "16.wrong_term": {"numbers": w_numbers, "whole steps": w_steps},
    "16.vanishes": {"turned": table(*EYE[::-1]), "spread": table([HALF, HALF, 0, 0, 0, 0], [0, 0, HALF, HALF, 0, 0],
                                                                [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1])},
    "16.cosine": {"loop": c_loop, "numpy": c_numpy, "sums": c_with(lambda flat: flat.sum(0) - flat)},
    "16.compose": {"stack": k_stack, "loop": k_loop},
    "16.fires": {"walk": f_walk, "before": f_pre},
    "16.activated": {"sorted": a_sorted, "numpy": a_numpy},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "16.cosine": {"return torch.nn.functional.cosine_similarity(flat, others)": "dim = 1 is its own default",
                  "return torch.nn.functional.cosine_similarity(others, flat, dim=1)": "a cosine is the same both ways"},
    "16.activated": {"return bool((e >= -0.2785).all())": "no float is just that number",
                     "return (e > -0.2785).all()": "a tensor of one truth value says the same"},
}
ONCE: dict[str, dict[str, str]] = {}
