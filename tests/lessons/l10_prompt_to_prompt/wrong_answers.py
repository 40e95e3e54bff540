"""Wrong and right answers to the exercises of lesson 10."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


# 10.swap_mapper
def m_loops(source, target, length):
    m = [[0.0] * length for _ in range(length)]
    for i, j in zip(source, target):
        for a, w in enumerate(i):
            for b, n in enumerate(j):
                m[w][n] = float(a == b) if len(i) == len(j) else 1 / len(j)
    return m


def m_numpy(source, target, length):
    m = np.zeros((length, length))
    for i, j in zip(source, target):
        m[np.ix_(i, j)] = np.eye(len(i)) if len(i) == len(j) else 1 / len(j)
    return m


def m_block(source, target, length, block):
    m = torch.zeros(length, length)
    for i, j in zip(source, target):
        m[torch.tensor(i)[:, None], torch.tensor(j)] = block(len(i), len(j)).float()
    return m


# 10.mix_attention
def a_loop(source, edit, mapper, new, until, progress):
    out = edit.clone()
    for n in range(edit.shape[-1]):
        if progress < float(until[n]):
            out[..., n] = torch.einsum("hpw,w->hp", source, mapper[:, n]) + edit[..., n] * new[n]
    return out


def a_alpha(source, edit, mapper, new, until, progress):
    on = (until > progress).to(edit)
    mixed = torch.einsum("hpw,wn->hpn", source, mapper) + new * edit
    return on * mixed + (1 - on) * edit


def a_with(mix, on=lambda progress, until: progress < until, own=None):
    def answer(source, edit, mapper, new, until, progress):
        return torch.where(on(progress, until), mix(source, edit, mapper, new), edit if own is None else own(source))
    return answer


def a_right(source, edit, mapper, new):
    return source @ mapper + edit * new


# 10.ignore_word
def i_left_out(q, k, v, tokens):
    keep = [t for t in range(k.shape[1]) if t not in tokens]
    return F.scaled_dot_product_attention(q, k[:, keep], v[:, keep])


def i_renormalised(q, k, v, tokens):
    p = torch.softmax(torch.einsum("hnd,hld->hnl", q, k) * k.shape[-1] ** -0.5, -1)
    p[:, :, tokens] = 0
    return p / p.sum(-1, keepdim=True) @ v


def i_with(root=lambda d: d**0.5, mask=lambda s, tokens: s.index_fill(-1, torch.tensor(tokens), -torch.inf), after=None):
    def answer(q, k, v, tokens):
        p = mask(q @ k.transpose(-1, -2) / root(q.shape[-1]), tokens).softmax(-1)
        return (p if after is None else after(p, tokens)) @ v
    return answer


# 10.blend
def b_shift(edit, source, maps, threshold):
    out = source.clone()
    for r, m in enumerate(maps):
        p = F.pad(m, (1, 1, 1, 1))                                   # maps are not negative
        near = torch.stack([p[dy:dy + m.shape[0], dx:dx + m.shape[1]] for dy in range(3) for dx in range(3)]).amax(0)
        out[r][:, near >= threshold * near.max()] = edit[r][:, near >= threshold * near.max()]
    return out


def b_soft(edit, source, maps, threshold):
    near = F.max_pool2d(maps, 3, stride=1, padding=1)
    mask = (near / near.flatten(1).max(1).values[:, None, None] >= threshold).to(edit)[:, None]
    return source + mask * (edit - source)


def b_with(top=lambda near: near.amax((2, 3), keepdim=True), pool=lambda m: F.max_pool2d(m, 3, 1, 1),
           over=lambda near, level: near >= level, mix=torch.where):
    def answer(edit, source, maps, threshold):
        near = pool(maps[:, None])
        return mix(over(near, threshold * top(near)), edit, source)
    return answer


# 10.lost_tokens
def l_loop(mapper):
    return [w for w in range(len(mapper)) if abs(sum(mapper[w].tolist()) - 1) > 1e-3]


def l_tensor(mapper):
    return torch.where((mapper.double().sum(-1) - 1).abs() > 1e-5)[0]


# 10.paired_gain
def g_numpy(ours, plain, rows):
    gain = ours.numpy() - plain.numpy()
    return [gain.mean(), *np.quantile(gain[rows.numpy()].mean(-1), [0.025, 0.975])]


def g_means(ours, plain, rows):
    means = ours[rows].mean(1) - plain[rows].mean(1)
    return torch.stack([ours.mean() - plain.mean(), means.quantile(0.025), means.quantile(0.975)])


def g_with(means=lambda gain, rows: gain[rows].mean(1), ends=(0.025, 0.975), value=lambda gain, means: gain.mean(), sign=1):
    def answer(ours, plain, rows):
        gain = sign * (ours - plain)
        m = means(gain, rows)
        return torch.stack([value(gain, m), *torch.quantile(m, torch.tensor(ends, dtype=m.dtype))])
    return answer


WRONG = {
    "10.swap_mapper": {
        "turned": (lambda s, t, n: torch.tensor(m_loops(s, t, n)).T, "exchanged"),
        "back": (lambda s, t, n: m_loops(t, s, n), "back to the source"),
        "word numbers": (lambda s, t, n: torch.diag((torch.arange(n) < len(s)).float()), "word number k"),
        "not shared": (lambda s, t, n: m_block(s, t, n, lambda a, b: torch.eye(a) if a == b else torch.ones(a, b)),
                       "share it out"),
        "over source": (lambda s, t, n: m_block(s, t, n, lambda a, b: torch.eye(a) if a == b else torch.full((a, b), 1 / a)),
                        "number of the source"),
        "identity": (lambda s, t, n: torch.eye(n), "identity"),
        "all to all": (lambda s, t, n: m_block(s, t, n, lambda a, b: torch.full((a, b), 1 / b)), "token by token"),
        "firsts": (lambda s, t, n: m_block([i[:1] for i in s], [j[:1] for j in t], n, lambda a, b: torch.eye(a)), "first token"),
        "flat": (lambda s, t, n: torch.zeros(n), "shape"),
    },
    "10.mix_attention": {
        "exchanged": (lambda s, e, m, n, u, p: a_alpha(e, s, m, n, u, p), "exchanged"),
        "turned": (a_with(lambda s, e, m, n: s @ m.T + e * n), "turned round"),
        "no new": (a_with(lambda s, e, m, n: s @ m), "get nothing"),
        "everywhere": (a_with(lambda s, e, m, n: s @ m + e), "everywhere"),
        "source's": (a_with(lambda s, e, m, n: s @ m + s * n), "has none"),
        "opposite": (a_with(a_right, lambda p, u: p >= u), "lets go"),
        "always": (a_with(a_right, lambda p, u: u > -1), "no effect"),
        "at most": (a_with(a_right, lambda p, u: p <= u), "progress < until"),
        "plain": (lambda s, e, m, n, u, p: e.clone(), "nothing is changed"),
        "source after": (a_with(a_right, own=lambda s: s), "not the source's"),
    },
    "10.row_sum": {"one": (1.0, "divides"), "all": (4.0, "whole row"), "alone": (1.2, "alone"), "added": (5.0, "multiplies"),
                   "more": (0.9, "on top"), "divided": (1.2 / 1.9, "divided by its sum"), "other": (2.5, "add up")},
    "10.break_refine": {
        "one list": ([0.5, 0.5], "two lists"), "three": (([0.2, 0.3, 0.5], [0, 1, 0]), "one number for each"),
        "negative": (([1.5, -0.5], [0, 1, 0]), "negative"), "sum": (([1, 1], [0, 1, 0]), "sums to 2"),
        "edit's sum": (([0.5, 0.5], [0, 2, 0]), "sums to 2"), "split": (([0.5, 0.5], [0.2, 0.6, 0.2]), "sums to 1.6"),
        "none": (([1, 0], [1, 0, 0]), "sums to 1"),
    },
    "10.ignore_word": {
        "after": (i_with(mask=lambda s, t: s, after=lambda p, t: p.index_fill(-1, torch.tensor(t), 0)), "after the softmax"),
        "zero score": (i_with(mask=lambda s, t: s.index_fill(-1, torch.tensor(t), 0)), "no mask"),
        "nothing": (i_with(mask=lambda s, t: s), "nothing is masked"),
        "only it": (lambda q, k, v, t: F.scaled_dot_product_attention(q, k[:, t], v[:, t]), "left"),
        "no root": (i_with(root=lambda d: 1), "not divided"),
        "by d": (i_with(root=lambda d: d), "square root"),
        "first": (i_with(mask=lambda s, t: s.index_fill(-1, torch.tensor(t[:1]), -torch.inf)), "several"),
    },
    "10.blend": {
        "exchanged": (b_with(mix=lambda m, e, s: torch.where(m, s, e)), "exchanged"),
        "not spread": (b_with(pool=lambda m: m), "not spread"),
        "all pictures": (b_with(top=lambda near: near.amax()), "each has its own"),
        "number": (b_with(top=lambda near: 1.0), "share of the map"),
        "more than": (b_with(over=lambda near, level: near > level), "not more than"),
        "average": (b_with(pool=lambda m: F.avg_pool2d(m, 3, 1, 1)), "average"),
        "added": (b_with(mix=lambda m, e, s: s + m * e), "replaces"),
        "everywhere": (lambda e, s, m, t: e.clone(), "everywhere"),
        "soft": (b_with(over=lambda near, level: near / near.amax((2, 3), keepdim=True), mix=lambda m, e, s: s + m * (e - s)),
                 "soft"),
    },
    "10.lost_tokens": {
        "columns": (lambda m: [k for k, s in enumerate(m.sum(0).tolist()) if abs(s - 1) > 1e-4], "columns"),
        "whole": (lambda m: [k for k, s in enumerate(m.sum(1).tolist()) if abs(s - 1) < 1e-4], "others are asked"),
        "zeros": (lambda m: [k for k, row in enumerate(m) if not row.any()], "lose a part"),
        "no one": (lambda m: [k for k, row in enumerate(m.tolist()) if 1.0 not in row], "share its attention"),
        "too little": (lambda m: [k for k, s in enumerate(m.sum(1).tolist()) if s < 0.999], "too much"),
        "count": (lambda m: 2, "list of token positions"),
    },
    "10.controlled": {
        "from one": (lambda i, n, s: 0 < i <= round(s * n), "step 0 is missed"),
        "one more": (lambda i, n, s: i / n <= s, "one step too many"),
        "last": (lambda i, n, s: n - i <= round(s * n), "last steps"),
        "others": (lambda i, n, s: i / n >= s, "other steps"),
        "always": (lambda i, n, s: i >= 0, "you control"),
        "half": (lambda i, n, s: i / n < s / 2, "not the first"),
    },
    "10.paired_gain": {
        "sign": (g_with(sign=-1), "other way round"),
        "single": (g_with(means=lambda gain, rows: gain), "single gains"),
        "axis": (g_with(means=lambda gain, rows: gain[rows].mean(0)), "own mean"),
        "bootstrap mean": (g_with(value=lambda gain, m: m.mean()), "that was measured"),
        "ends": (g_with(ends=(0.975, 0.025)), "low first"),
        "90": (g_with(ends=(0.05, 0.95)), "90 %"),
        "range": (g_with(ends=(0.0, 1.0)), "smallest"),
        "apart": (lambda a, b, rows: g_with(means=lambda *_: a[rows].mean(1) - b[rows.roll(1, 0)].mean(1))(a, b, rows), "apart"),
    },
}

HONEST = {
    "10.swap_mapper": {"loops": m_loops, "numpy": m_numpy},
    "10.mix_attention": {"loop": a_loop, "alpha": a_alpha},
    "10.row_sum": {"int": 1.9, "tensor": torch.tensor(1.9)},
    "10.break_refine": {"one word": ([1, 0], [0, 1, 0]), "tensors": (torch.tensor([0.3, 0.7]), torch.tensor([0.0, 1.0, 0.0]))},
    "10.ignore_word": {"left out": i_left_out, "renormalised": i_renormalised},
    "10.blend": {"shifts": b_shift, "soft": b_soft},
    "10.lost_tokens": {"loop": l_loop, "tensor": l_tensor},
    "10.controlled": {"round": lambda i, n, s: i < round(s * n), "tensor": lambda i, n, s: torch.tensor(i / n) < s - 1e-6},
    "10.paired_gain": {"numpy": g_numpy, "means": g_means},
}

EQUIVALENT = {
    "10.ignore_word": {"scores = q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5": "queries and keys are as wide"},
    "10.lost_tokens": {
        "return (~torch.isclose(torch.ones_like(sums), sums)).nonzero().flatten().tolist()": "close to each other, either way",
        "return (~torch.isclose(sums, torch.ones_like(sums))).nonzero().flatten()": "a tensor of positions is as good",
    },
    "10.controlled": {"return -(index / steps < share)": "minus one is as true as one"},
    "10.paired_gain": {
        "return [gain.mean(), low, high]": "a list of three is as good",
        "low, high = torch.quantile(means, torch.tensor([0.025, 0.975]).to(gain))": "the same type and device",
        "low, high = torch.quantile(means, torch.tensor([0.025, 0.975]).to(ours))": "the same type and device",
        "low, high = torch.quantile(means, torch.tensor([0.025, 0.975]).to(plain))": "the same type and device",
    },
}
ONCE = {"10.mix_attention": {"mapper, sizes that are equal": "a mapper is square: both prompts are padded to one length"}}
