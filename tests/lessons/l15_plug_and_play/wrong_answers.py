"""Wrong and right answers to the exercises of lesson 15."""

from __future__ import annotations

import math

import numpy as np
import torch

phi = torch.special.ndtr


# 15.flips
def f_with(mean=lambda abar, m: -(abar**0.5) * m, variance=lambda abar, v: abar * v + 1 - abar):
    return lambda abar, m, v, b: phi((mean(abar, m) - b) / variance(abar, v) ** 0.5)


def f_loop(abar, m, v, b):
    """With math.erfc, one level at a time."""
    out = []
    for level, edge in zip(abar.tolist(), b.tolist()):
        z = (edge + math.sqrt(level) * m) / math.sqrt(1 - level + level * v)
        out.append(0.5 * math.erfc(z / math.sqrt(2)))
    return out


def f_normal(abar, m, v, b):
    return 1 - torch.distributions.Normal(-m * abar.sqrt(), (1 - abar + abar * v).sqrt()).cdf(b)


# 15.inject
def i_with(which=lambda row: row[0] == "edit", block=("source", "prompt")):
    def answer(out, rows):
        blocks = list(out.split(len(out) // len(rows)))
        theirs = blocks[rows.index(block)] if block in rows else blocks[0]
        return torch.cat([theirs if which(row) else mine for row, mine in zip(rows, blocks)])
    return answer


def i_first(out, rows):
    n = len(out) // len(rows)
    return torch.cat([out[:n] if row[0] == "edit" else out[k * n:(k + 1) * n] for k, row in enumerate(rows)])


def i_turned(out, rows):
    blocks = list(out.split(len(out) // len(rows)))
    edit = blocks[rows.index(("edit", "prompt"))]
    return torch.cat([edit if row[0] == "source" else mine for row, mine in zip(rows, blocks)])


def i_shuffled(out, rows):
    new, theirs = out.clone(), rows.index(("source", "prompt"))
    for k, row in enumerate(rows):
        if row[0] == "edit":
            new[k::len(rows)] = out[theirs::len(rows)]
    return new


def i_in_place(out, rows):
    n, theirs = len(out) // len(rows), rows.index(("source", "prompt"))
    for k, row in enumerate(rows):
        if row[0] == "edit":
            out[k * n:(k + 1) * n] = out[theirs * n:(theirs + 1) * n]
    return out


def i_unflatten(out, rows):
    """As a table of blocks."""
    blocks = out.unflatten(0, (len(rows), -1)).clone()
    edit = [k for k, (branch, _) in enumerate(rows) if branch == "edit"]
    blocks[edit] = blocks[rows.index(("source", "prompt"))].clone()
    return blocks.flatten(0, 1)


# 15.tuple
def h_good(out, change):
    match out:
        case torch.Tensor():
            return change(out)
        case tuple():
            first, *rest = out
            return tuple([change(first), *rest])
    raise TypeError(f"neither a tensor nor a tuple, but {type(out).__name__}")


def h_short(out, change):
    if not isinstance(out, (torch.Tensor, tuple)):
        raise TypeError(type(out))
    return change(out) if isinstance(out, torch.Tensor) else (change(out[0]),) + out[1:]


def h_with(of_tuple, other=None):
    def answer(out, change):
        if isinstance(out, torch.Tensor):
            return change(out)
        if isinstance(out, tuple):
            return of_tuple(out, change)
        if other is None:
            raise TypeError("neither")
        return other(out)
    return answer


def h_broken(out, change):
    if isinstance(out, torch.Tensor):
        return change(out)


def h_key(out, change):
    if isinstance(out, torch.Tensor):
        return change(out)
    if isinstance(out, tuple):
        return (change(out[0]), *out[1:])
    raise KeyError("neither")


def every(part, change):
    return change(part) if isinstance(part, torch.Tensor) else tuple(every(p, change) for p in part)


# 15.equal_rate
def e_with(pick=lambda rates, goal: next((k for k, r in enumerate(rates) if r >= goal), len(rates) - 1),
           end=lambda a, b, right: (a - b).mean()):
    return lambda right, iou, theirs, other: end(iou, other[pick(theirs.mean(1).tolist(), float(right.mean()))], right)


def e_numpy(right, iou, theirs, other):
    rates = theirs.numpy().mean(1)
    found = np.flatnonzero(rates >= right.numpy().mean())
    k = found[0] if len(found) else -1
    return float(iou.numpy().mean() - other.numpy()[k].mean())


def e_argmax(right, iou, theirs, other):
    enough = theirs.sum(1) >= right.sum()
    k = int(enough.int().argmax()) if enough.any() else len(enough) - 1
    return iou.mean() - other[k].mean()


# 15.track
def t_with(inside=lambda dx, dy, r: max(abs(dx), abs(dy)) <= r, cost=lambda f, first, old: (f - first).abs().sum(),
           out=lambda x, y, px, py, r: (x, y)):
    def answer(features, first, place, radius):
        px, py = place
        _, high, wide = features.shape
        cells = [(float(cost(features[:, y, x], first, features[:, py, px])), x, y) for y in range(high) for x in range(wide)
                 if inside(x - px, y - py, radius)]
        _, x, y = min(cells)
        return torch.tensor(out(x, y, px, py, radius))
    return answer


def t_slices(features, first, place, radius):
    (px, py), (_, high, wide) = place, features.shape
    x0, y0 = max(px - radius, 0), max(py - radius, 0)
    part = features[:, y0:min(py + radius + 1, high), x0:min(px + radius + 1, wide)]
    k = int((part - first.view(-1, 1, 1)).abs().mean(0).argmin())
    return [x0 + k % part.shape[2], y0 + k // part.shape[2]]


WRONG = {
    "15.flips": {
        "stays": (lambda *args: 1 - f_with()(*args), "share that stays"),
        "no spread": (f_with(variance=lambda abar, v: 1 - abar), "own spread"),
        "unscaled": (f_with(mean=lambda abar, m: -m), "scaled down"),
        "abar": (f_with(mean=lambda abar, m: -abar * m), "sqrt(abar), not abar"),
        "variance": (f_with(variance=lambda abar, v: (abar * v + 1 - abar) ** 2), "divide by its root"),
        "other side": (f_with(mean=lambda abar, m: abar**0.5 * m), "not at +m"),
        "zero": (lambda abar, m, v, b: f_with()(abar, m, v, 0 * b), "not 0"),
        "root": (f_with(variance=lambda abar, v: abar**0.5 * v + 1 - abar), "variance by abar"),
        "no noise": (f_with(variance=lambda abar, v: abar * v), "Noise is missing"),
        "half": (lambda *args: f_with()(*args) / 2, "boundary at 0"),
    },
    "15.break_sdedit": {
        "word": ("far", "pair"), "one": (30.0, "pair"), "turned": ((0.03, 30.0), "abar lies"), "near": ((2.0, 0.03), "of 1000"),
        "kept": ((30.0, 0.5), "not lost"), "corr": ((30.0, 0.2), "not lost"), "far": ((1e6, 0.001), "m lies"),
        "gone": ((30.0, 0.0001), "of 1000"),
    },
    "15.inject": {
        "prompt only": (i_with(which=lambda row: row == ("edit", "prompt")), "Only the prompt's"),
        "empty": (i_with(block=("source", "empty")), "rows of the empty prompt"),
        "first": (i_first, "first block"), "turned": (i_turned, "turned"),
        "all": (i_with(which=lambda row: True), "Every block"),
        "others": (i_with(which=lambda row: row[0] != "source"), "not the source"),
        "shuffled": (i_shuffled, "like cards"), "in place": (i_in_place, "in place"),
        "nothing": (lambda out, rows: out.clone(), "one number"),
    },
    "15.steps_held": {"half": (10, "half of the steps"), "one less": (9, "not i = 1"), "all": (20, "all of them"),
                      "two": (12, "not two"), "word": ("half", "one number")},
    "15.tuple": {
        "broken": (h_broken, "returns nothing"), "tensor": (h_with(lambda out, change: change(out[0])), "returns a tensor"),
        "list": (h_with(lambda out, change: [change(out[0]), *out[1:]]), "tuple goes"),
        "rest lost": (h_with(lambda out, change: (change(out[0]),)), "keep the rest"),
        "as it was": (h_with(lambda out, change: out), "nothing is changed"),
        "everything": (h_with(lambda out, change: tuple(every(p, change) for p in out)), "skips, must go on"),
        "last": (h_with(lambda out, change: (*out[:-1], change(out[-1]) if isinstance(out[-1], torch.Tensor) else out[-1])),
                 "nothing is changed"),
        "silent": (h_with(lambda out, change: (change(out[0]), *out[1:]), other=lambda out: None), "silence"),
        "key": (h_key, "TypeError is asked for"),
        "tensor kept": (lambda out, change: out if isinstance(out, torch.Tensor) else h_good(out, change),
                        "tensor comes back"),
        "twice": (h_with(lambda out, change: (change(change(out[0])), *out[1:])), "changed twice"),
        "in place": (lambda out, change: h_with(lambda o, c: (c(o[0]), *o[1:]))(out.mul_(2) if isinstance(out, torch.Tensor) else
                                                                                out, change), "in place"),
    },
    "15.equal_rate": {
        "sign": (e_with(end=lambda a, b, right: (b - a).mean()), "turned"),
        "more": (e_with(pick=lambda rates, goal: next((k for k, r in enumerate(rates) if r > goal), len(rates) - 1)), "exactly"),
        "last": (e_with(pick=lambda rates, goal: len(rates) - 1), "last strength"),
        "first": (e_with(pick=lambda rates, goal: 0), "first strength"),
        "nearest": (e_with(pick=lambda rates, goal: min(range(len(rates)), key=lambda k: abs(rates[k] - goal))), "nearest"),
        "most": (e_with(pick=lambda rates, goal: max(range(len(rates)), key=lambda k: rates[k])), "edits most"),
        "kept": (lambda right, iou, theirs, other: (iou - other[other.mean(1).argmax()]).mean(), "keeps most"),
        "made": (e_with(end=lambda a, b, right: (a - b)[right.bool()].mean()), "not only those"),
        "sum": (e_with(end=lambda a, b, right: (a - b).sum()), "not the sum"),
        "ours": (e_with(end=lambda a, b, right: a.mean()), "one strength"),
    },
    "15.track": {
        "turned": (t_with(out=lambda x, y, *_: (y, x)), "x comes first"),
        "swapped": (lambda f, first, place, r: t_with()(f, first, place[::-1], r), "place is (x, y)"),
        "anywhere": (t_with(inside=lambda dx, dy, r: True), "anywhere"),
        "most": (t_with(cost=lambda f, first, old: -(f - first).abs().sum()), "most different"),
        "now": (t_with(cost=lambda f, first, old: (f - old).abs().sum()), "not with what is there now"),
        "stays": (lambda f, first, place, radius: torch.tensor(place), "where the handle was"),
        "within": (t_with(out=lambda x, y, px, py, r: (x - px + r, y - py + r)), "not in the picture"),
        "wide": (t_with(inside=lambda dx, dy, r: max(abs(dx), abs(dy)) <= r + 1), "too far"),
        "narrow": (t_with(inside=lambda dx, dy, r: max(abs(dx), abs(dy)) < r), "too near"),
        "disc": (t_with(inside=lambda dx, dy, r: dx * dx + dy * dy <= r * r), "not a disc"),
    },
}

HONEST = {
    "15.flips": {"erfc": f_loop, "normal": f_normal},
    "15.break_sdedit": {"list": [99.0, 0.01], "tensor": torch.tensor([25.0, 0.039])},
    "15.inject": {"blocks": i_with(), "table": i_unflatten},
    "15.steps_held": {"range": len(range(0, 11)), "float": 11.0},
    "15.tuple": {"match": h_good, "plus": h_short},
    "15.equal_rate": {"numpy": e_numpy, "argmax": e_argmax},
    "15.track": {"loop": t_with(), "slices": t_slices, "mean": t_with(cost=lambda f, first, old: (f - first).abs().mean())},
}

EQUIVALENT: dict[str, dict[str, str]] = {
    "15.break_sdedit": {f"return ({pair})": "another right answer" for pair in (
        "30.0, 0.02997", "29.97, 0.03", "45.0, 0.03", "29.0, 0.03", "31.0, 0.03")},
    "15.inject": {"new[k * n:(k + 1) * n] = new[theirs:theirs + n]": "the source's block is never replaced"},
    "15.tuple": {line: "it raises a TypeError, whatever it says" for line in (
        "raise TypeError()", "raise TypeError('neither a tensor nor a tuple: this hook would silently do nothingx')",
        "raise 'neither a tensor nor a tuple: this hook would silently do nothing'")},
    "15.equal_rate": {f"k = next((k for k, rate in enumerate(rates) if rate >= goal), len({name}) - 1)": "as many rows"
                      for name in ("other_right", "other_iou")},
    "15.track": {
        "y, x = torch.meshgrid(torch.arange(high), torch.arange(wide))": "the default order, with a warning",
        "apart = (features - first[:, None, None]).abs().mean(0)": "a mean is nearest where a sum is",
        "return [k % wide, k // wide]": "a list of two numbers will do", "k = apart.masked_fill(far, float('inf')).argmin()":
            "a tensor of one number works as an index",
    },
}
ONCE: dict[str, dict[str, str]] = {
    "15.inject": {"rows, items, length: 2": "a row is a branch and a text"},
    "15.track": {"place, length: 2": "a place is x and y"},
}
