"""Wrong and right answers to the exercises of lesson 08."""

from __future__ import annotations

import torch
import torch.nn.functional as F


# 08.cross_attention
def _split(t, n):
    return t.unflatten(-1, (n, -1)).transpose(1, 2)


def _attend(q, k, v, heads, *, root=None, axis=-1, split=_split, join=lambda t: t.transpose(1, 2).flatten(2)):
    q, k, v = (split(t, heads) for t in (q, k, v))
    return join((q @ k.transpose(-1, -2) / (root or q.shape[-1] ** 0.5)).softmax(axis) @ v)


def x_sdpa(x, words, wq, wk, wv, heads):
    q, k, v = (_split(t, heads) for t in (x @ wq.T, words @ wk.T, words @ wv.T))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def x_einsum(x, words, wq, wk, wv, heads):
    e = wq.shape[0] // heads
    q, k, v = ((t @ w.T).view(*t.shape[:2], heads, e) for t, w in ((x, wq), (words, wk), (words, wv)))
    p = torch.softmax(torch.einsum("bihd,bjhd->bhij", q, k) * e**-0.5, dim=-1)
    return torch.einsum("bhij,bjhd->bihd", p, v).reshape(*x.shape[:2], -1)


def x_loop(x, words, wq, wk, wv, heads):
    x, words, wq, wk, wv = (t.float() for t in (x, words, wq, wk, wv))
    parts = []
    for q, k, v in zip((x @ wq.T).chunk(heads, -1), (words @ wk.T).chunk(heads, -1), (words @ wv.T).chunk(heads, -1)):
        s = q @ k.mT / q.shape[-1] ** 0.5
        e = (s - s.amax(-1, keepdim=True)).exp()
        parts.append(e / e.sum(-1, keepdim=True) @ v)
    return torch.cat(parts, -1)


# 08.token_positions
def t_list(text, word, pieces):
    tokens = ["<begin>"]
    for w in text.split():
        here = pieces.get(w, [w])
        if w == word:
            return [len(tokens) + i for i in range(len(here))]
        tokens += here


def t_numpy(text, word, pieces):
    words = text.split()
    first = words.index(word)
    start = 1 + sum(len(pieces.get(w, [w])) for w in words[:first])
    return torch.arange(start, start + len(pieces.get(word, [word])))


def t_words(text, word, pieces):
    return [1 + text.split().index(word)]


def t_words_then_pieces(text, word, pieces):
    start = 1 + text.split().index(word)
    return list(range(start, start + len(pieces.get(word, [word]))))


def t_substring(text, word, pieces):
    at = 1
    for w in text.split():
        n = len(pieces.get(w, [w]))
        if word in w:
            return list(range(at, at + n))
        at += n


def t_last(text, word, pieces):
    at, found = 1, None
    for w in text.split():
        n = len(pieces.get(w, [w]))
        if w == word:
            found = list(range(at, at + n))
        at += n
    return found


# 08.swapped_rows
def g_halves(prompt, empty, w):
    return empty + w * (prompt - empty)


def g_loop(both, w):
    n = len(both) // 2
    return torch.stack([both[n + i] + w * (both[i] - both[n + i]) for i in range(n)])


def g_sum(both, w):
    first, second = both.float().split(len(both) // 2)
    return w * first + (1 - w) * second


# 08.caption_dropout
def d_loop(context, empty, u, p):
    out = context.clone()
    for i in range(len(u)):
        if u[i] < p:
            out[i] = empty
    return out


def d_arithmetic(context, empty, u, p):
    gone = (u < p).to(context.dtype).view(-1, 1, 1)
    return gone * empty + (1 - gone) * context


def d_in_place(context, empty, u, p):
    context[u < p] = empty
    return context


# 08.noun_map
def n_prompt(probs):
    return probs[len(probs) // 2:]


def n_of(rows, *, tokens=lambda t: t, join=lambda x: x.mean(3).mean(1)):
    return lambda probs, t, grid: join(rows(probs)[..., tokens(t)]).reshape(-1, *grid)


def n_loop(probs, tokens, grid):
    out = []
    for row in probs.chunk(2)[1]:
        flat = sum(row[:, :, k] for k in tokens).mean(0) / len(tokens)
        out.append(torch.stack(flat.split(grid[1])))
    return torch.stack(out)


def n_einsum(probs, tokens, grid):
    chosen = torch.zeros(probs.shape[-1], dtype=probs.dtype)
    chosen[tokens] = 1 / len(tokens)
    return torch.einsum("bhnl,l->bn", probs[probs.shape[0] // 2:], chosen).div(probs.shape[1]).view(-1, *grid)


# 08.map_iou
def _on(attention, mask, threshold):
    big = F.interpolate(attention[None, None], size=mask.shape)[0, 0]
    return big / big.max() >= threshold, mask > 0.5


def i_repeat(attention, mask, threshold):
    a, b = mask.shape[0] // attention.shape[0], mask.shape[1] // attention.shape[1]
    on = (attention / attention.max()).repeat_interleave(a, 0).repeat_interleave(b, 1) >= threshold
    both = float((on * (mask == 1)).sum())
    return both / (float(on.sum()) + float(mask.sum()) - both)


def i_loop(attention, mask, threshold):
    both = one = 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            value = attention[y * attention.shape[0] // mask.shape[0], x * attention.shape[1] // mask.shape[1]]
            a = value >= threshold * attention.max()
            both, one = both + int(a and mask[y, x] == 1), one + int(a or mask[y, x] == 1)
    return both / one


def i_raw(attention, mask, threshold):
    on, thing = F.interpolate(attention[None, None], size=mask.shape)[0, 0] >= threshold, mask > 0.5
    return (on & thing).sum() / (on | thing).sum()


def _ratio(attention, mask, threshold, f):
    return f(*_on(attention, mask, threshold))


# 08.add_input_channels
def w_buffer(weight, extra):
    out = torch.zeros(weight.shape[0], weight.shape[1] + extra, *weight.shape[2:], dtype=weight.dtype)
    out[:, :weight.shape[1]] = weight
    return out


def w_pad(weight, extra):
    return F.pad(weight, (0, 0, 0, 0, 0, extra))


# 08.blend
def _noised(known, noise, a):
    return a**0.5 * known + (1 - a) ** 0.5 * noise


def b_where(z, known, noise, mask, a):
    return torch.where(mask.bool(), z, _noised(known, noise, a))


def b_in_place(z, known, noise, mask, a):
    out = (torch.as_tensor(a).sqrt() * known).add_((1 - torch.as_tensor(a)).sqrt() * noise)
    return out.mul_(1 - mask).add_(mask * z)


def b_float32(z, known, noise, mask, a):
    return b_where(z.float(), known.float(), noise.float(), mask, float(a))


def _put(mask, inside, outside):
    return mask * inside + (1 - mask) * outside


# 08.paste
def p_arithmetic(known, made, mask):
    return mask * made + (1 - mask) * known


def p_index(known, made, mask):
    out = known.clone()
    chosen = mask.bool().expand_as(out)
    out[chosen] = made[chosen]
    return out


def _soft(mask):
    return F.avg_pool2d(mask, 3, 1, 1)


WRONG = {
    "08.noun_map": {
        "both": (n_of(lambda p: (p[:len(p) // 2] + p[len(p) // 2:]) / 2), "both halves"),
        "empty": (n_of(lambda p: p[:len(p) // 2]), "empty prompt's rows"),
        "interleaved": (n_of(lambda p: p[1::2]), "every second row"),
        "first_token": (n_of(n_prompt, tokens=lambda t: t[:1]), "first token"),
        "tokens_added": (n_of(n_prompt, join=lambda x: x.sum(3).mean(1)), "added up"),
        "heads_added": (n_of(n_prompt, join=lambda x: x.mean(3).sum(1)), "heads are added"),
        "one_head": (n_of(n_prompt, join=lambda x: x.mean(3)[:, 0]), "one head"),
        "turned": (lambda p, t, g: n_of(n_prompt)(p, t, g[::-1]).transpose(1, 2), "exchanged"),
        "as_it_was": (lambda p, t, g: p.mean((0, 1))[:, t[0]].view(int(p.shape[2] ** 0.5), -1), ""),
        "flat": (lambda p, t, g: p[len(p) // 2:][..., t].mean((1, 3)), "shape"),
        "all_words": (n_of(n_prompt, tokens=lambda t: slice(None)), "lay the places out"),
    },
    "08.latent_numbers": {
        "one side only": (3, "both sides"),
        "places": (16, "places"),
        "upside down": (1 / 12, "other way round"),
        "channels exchanged": (64 / 3, "3 channels"),
        "f": (4, "f alone"),
        "no channels": (48, "four channels"),
        "words": ("twelve", "one number"),
    },
    "08.cross_attention": {
        "no root": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ b.T, w @ c.T, h, root=1.0), "not divided"),
        "root of all": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ b.T, w @ c.T, h, root=len(a) ** 0.5), "width of one head"),
        "d itself": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ b.T, w @ c.T, h, root=a.shape[0] / h), "square root"),
        "softmax over places": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ b.T, w @ c.T, h, axis=-2), "over the places"),
        "self-attention": (lambda x, w, a, b, c, h: _attend(x @ a.T, x @ b.T, x @ c.T, h), "self-attention"),
        "one head": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ b.T, w @ c.T, 1), "one head"),
        "one head, scaled": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ b.T, w @ c.T, 1, root=(len(a) / h) ** 0.5),
                             "as if there"),
        "woven heads": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ b.T, w @ c.T, h, split=lambda t, n: t.unflatten(
            -1, (-1, n)).movedim(-1, 1)), "neighbouring"),
        "heads not moved back": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ b.T, w @ c.T, h,
                                                                  join=lambda t: t.reshape(len(t), t.shape[2], -1)), "mixed up"),
        "k and v exchanged": (lambda x, w, a, b, c, h: _attend(x @ a.T, w @ c.T, w @ b.T, h), "exchanged"),
        "no values": (lambda x, w, a, b, c, h: (x @ a.T @ (w @ b.T).mT).softmax(-1), "shape"),
    },
    "08.token_positions": {
        "no begin": (lambda t, w, p: [i - 1 for i in t_list(t, w, p)], "begin token"),
        "words": (t_words, "count words"),
        "first piece": (lambda t, w, p: t_list(t, w, p)[:1], "first of its tokens"),
        "last piece": (lambda t, w, p: t_list(t, w, p)[-1:], "last of its tokens"),
        "words, then pieces": (t_words_then_pieces, "count words"),
        "substring": (t_substring, "catfish"),
        "last": (t_last, "are [8], not [10]"),
        "a number": (lambda t, w, p: t_list(t, w, p)[0], "list of whole numbers"),
        "nothing": (lambda t, w, p: t.split().index(w) and None, "return"),
        "floats": (lambda t, w, p: [float(v) for v in t_list(t, w, p)], "whole numbers"),
        "spoils the table": (lambda t, w, p: t_list(t, w, p) + (p.clear() or []), "table of pieces"),
    },
    "08.caption_dropout": {
        "zeros": (lambda c, e, u, p: c * (u >= p)[:, None, None], "zeros"),
        "the others": (lambda c, e, u, p: torch.where((u < p)[:, None, None], c, e), "other way round"),
        "nn.Dropout": (lambda c, e, u, p: c * (u >= p)[:, None, None] / (1 - p), "nn.Dropout"),
        "nothing": (lambda c, e, u, p: c.clone(), "Nothing is left out"),
        "all at once": (lambda c, e, u, p: e.expand_as(c) if u[0] < p else c.clone(), "whole batch"),
        "added": (lambda c, e, u, p: c + (u < p)[:, None, None] * e, "added"),
        "in place": (d_in_place, "in place"),
        "up to p": (lambda c, e, u, p: torch.where((u <= p)[:, None, None], e, c), "not u <= p"),
        "rows gone": (lambda c, e, u, p: c[u >= p], "shape"),
        "per token": (lambda c, e, u, p: torch.where((u[:5] < p)[None, :, None], e, c), "whole"),
    },
    "08.swapped_rows": {
        "right": (lambda b, w: g_halves(b[len(b) // 2:], b[:len(b) // 2], w), "as it should be"),
        "in turns": (lambda b, w: g_halves(b[::2], b[1::2], w), "in turns"),
        "from the first": (lambda b, w: b[:len(b) // 2] + w * (b[:len(b) // 2] - b[len(b) // 2:]), "starts at the first half"),
        "no weight": (lambda b, w: b[:len(b) // 2].clone(), "no effect"),
        "one more": (lambda b, w: g_halves(*b.chunk(2), 1 + w), "1 + w times"),
        "backwards": (lambda b, w: g_halves(*b.chunk(2), -w), "the other way"),
        "four": (lambda b, w: g_halves(*b.chunk(2), 4), "always 4"),
        "all rows": (lambda b, w: b * w, "shape"),
        "mean": (lambda b, w: sum(b.chunk(2)) / 2, "At w = 1"),
    },
    "08.map_iou": {
        "no maximum": (i_raw, "not divided by its maximum"),
        "stretched": (lambda a, m, t: i_repeat(a - a.min(), m, t), "minimum"),
        "dice": (lambda a, m, t: _ratio(a, m, t, lambda x, y: 2 * (x & y).sum() / (x.sum() + y.sum())), "Dice"),
        "recall": (lambda a, m, t: _ratio(a, m, t, lambda x, y: (x & y).sum() / y.sum()), "mask's area"),
        "precision": (lambda a, m, t: _ratio(a, m, t, lambda x, y: (x & y).sum() / x.sum()), "what is on"),
        "accuracy": (lambda a, m, t: _ratio(a, m, t, lambda x, y: (x == y).double().mean()), "agree"),
        "all pixels": (lambda a, m, t: _ratio(a, m, t, lambda x, y: (x & y).double().mean()), "all pixels"),
        "below": (lambda a, m, t: _ratio(a, m, t, lambda x, y: (~x & y).sum() / (~x | y).sum()), "below"),
        "more than": (lambda a, m, t: i_repeat(a, m, t + 1e-9), "exactly"),
        "a map": (lambda a, m, t: _on(a, m, t)[0], "shape"),
    },
    "08.unet_rows": {
        "no guidance": (200, "two predictions"),
        "one empty row": (225, "its own latent"),
        "weight": (800, "weight"),
        "calls": (25, "calls"),
        "one step": (16, "add up rows"),
        "w + 1": (1000, "two predictions"),
        "calls twice": (50, "rows"),
    },
    "08.add_input_channels": {
        "in front": (lambda w, n: torch.cat((w.new_zeros(len(w), n, 3, 3), w), 1), "before the old"),
        "copies": (lambda w, n: torch.cat((w, w[:, :1].repeat(1, n, 1, 1)), 1), "copies"),
        "mean": (lambda w, n: torch.cat((w, w.mean(1, keepdim=True).repeat(1, n, 1, 1)), 1), "mean"),
        "smaller": (lambda w, n: torch.cat((w * 4 / 9, w.new_zeros(len(w), n, 3, 3)), 1), "smaller"),
        "all zero": (lambda w, n: w.new_zeros(len(w), 4 + n, 3, 3), "old ones must stay"),
        "ones": (lambda w, n: torch.cat((w, w.new_ones(len(w), n, *w.shape[2:])), 1), "ones"),
        "random": (lambda w, n: torch.cat((w, torch.randn(len(w), n, 3, 3, dtype=w.dtype) * 0.1), 1), "Random weights"),
        "nearly zero": (lambda w, n: torch.cat((w, w.new_full((len(w), n, *w.shape[2:]), 2e-6)), 1), "not zero"),
        "outputs": (lambda w, n: torch.cat((w, w.new_zeros(n, 4, 3, 3)), 0), "output channels"),
        "float32": (lambda w, n: w_buffer(w.float(), n), "float32"),
    },
    "08.blend": {
        "clean": (lambda z, k, e, m, a: _put(m, z, k), "clean"),
        "mask": (lambda z, k, e, m, a: _put(m, _noised(k, e, a), z), "wrong way round"),
        "no roots": (lambda z, k, e, m, a: _put(m, z, a * k + (1 - a) * e), "square root"),
        "factors exchanged": (lambda z, k, e, m, a: _put(m, z, _noised(e, k, a)), "exchanged"),
        "no noise": (lambda z, k, e, m, a: _put(m, z, a**0.5 * k), "noise is missing."),
        "noise unscaled": (lambda z, k, e, m, a: _put(m, z, a**0.5 * k + e), "missing its factor"),
        "twice": (lambda z, k, e, m, a: _put(m, _noised(z, e, a), _noised(k, e, a)), "once more"),
        "added": (lambda z, k, e, m, a: z + (1 - m) * _noised(k, e, a), "added"),
        "average": (lambda z, k, e, m, a: (z + _noised(k, e, a)) / 2, "averaged"),
    },
    "08.paste": {
        "mask": (lambda k, n, m: torch.where(m > 0.5, k, n), "wrong way round"),
        "made": (lambda k, n, m: n.clone(), "nothing is pasted"),
        "known": (lambda k, n, m: k.clone(), "nothing of the made"),
        "average": (lambda k, n, m: (k + n) / 2, "averaged"),
        "added": (lambda k, n, m: k + m * n, "added"),
        "soft": (lambda k, n, m: _put(_soft(m), n, k), "softened"),
        "eight bits": (lambda k, n, m: torch.where(m > 0.5, n, (k * 127.5).round() / 127.5), "bit for bit"),
    },
}

HONEST = {
    "08.noun_map": {"loop": n_loop, "einsum": n_einsum, "float32": lambda p, t, g: n_of(n_prompt)(p.float(), t, g)},
    "08.latent_numbers": {"number": 12, "float": 12.0, "tensor": torch.tensor(12.0)},
    "08.cross_attention": {"sdpa": x_sdpa, "einsum": x_einsum, "loop, float32": x_loop},
    "08.token_positions": {"list": t_list, "tensor": t_numpy},
    "08.caption_dropout": {"loop": d_loop, "arithmetic": d_arithmetic},
    "08.swapped_rows": {"halves": lambda b, w: g_halves(*b.chunk(2), w), "loop": g_loop, "other sum": g_sum},
    "08.map_iou": {"repeat": i_repeat, "loop": i_loop},
    "08.unet_rows": {"number": 400, "float": 400.0},
    "08.add_input_channels": {"buffer": w_buffer, "pad": w_pad},
    "08.blend": {"where": b_where, "in place": b_in_place, "float32": b_float32},
    "08.paste": {"arithmetic": p_arithmetic, "index": p_index},
}

EQUIVALENT = {
    "08.cross_attention": {
        "probs = (q @ k.transpose(-1, 2) / q.shape[-1] ** 0.5).softmax(-1)": "of four axes number 2 is number -2",
        "probs = (q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5).softmax(-1)": "q, k and v have one width",
        "probs = (q @ k.transpose(-1, -2) / v.shape[-1] ** 0.5).softmax(-1)": "q, k and v have one width",
    },
    "08.token_positions": {"return range(at, at + count)": "a range is as good as a list"},
    "08.map_iou": {
        "big = torch.nn.functional.interpolate(attention[None, None], size=mask.shape, mode='nearest')": "two axes of 1 more",
        "big = torch.nn.functional.interpolate(attention[None, None], size=mask.shape, mode='nearest')[0,]": "an axis of 1 more",
        "big = torch.nn.functional.interpolate(attention[None, None], size=mask.shape, mode='nearest')[-1, 0]": "one picture",
        "big = torch.nn.functional.interpolate(attention[None, None], size=mask.shape, mode='nearest')[0, -1]": "one channel",
        "big = torch.nn.functional.interpolate(attention[None, None], size=mask.shape)[0, 0]": "nearest is the default",
        "on = big / attention.max() >= threshold": "enlarging does not change the maximum",
    },
}

ONCE = {
    "08.noun_map": {"grid, length: 2": "a height and a width"},
    "08.add_input_channels": {"weight, square": "the kernel is k x k"},
    "08.paste": {f"{name}, axis 1: 3": "the colours" for name in ("known", "made")},
}
