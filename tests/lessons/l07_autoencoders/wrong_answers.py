"""Wrong and right answers to the exercises of lesson 07."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F


# 07.reparametrise
def r_of(sigma, halves=lambda m: m.chunk(2, 1), noisy=True, mean=True):
    def draw(moments, noise):
        mu, logvar = halves(moments)
        return (mu if mean else 0) + (sigma(logvar) * noise if noisy else 0)
    return draw


def root(v):
    return (0.5 * v.clamp(-30, 20)).exp()


def r_loop(moments, noise):
    c = noise.shape[1]
    out = torch.empty_like(noise)
    for i in range(len(noise)):
        for k in range(c):
            logvar = torch.clip(moments[i, c + k], -30, 20)
            out[i, k] = moments[i, k] + torch.sqrt(torch.exp(logvar)) * noise[i, k]
    return out


def r_diffusers(moments, noise):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    d = DiagonalGaussianDistribution(moments)
    return d.mean + d.std * noise


def r_changes(moments, noise):
    noise.mul_(root(moments.chunk(2, 1)[1]))
    return moments.chunk(2, 1)[0] + noise


# 07.halve
def h_of(pad, mode="constant", bias=True):
    return lambda x, w, b: F.conv2d(F.pad(x, pad, mode=mode), w, b if bias else None, stride=2)


def h_cut(x, weight, bias):
    """A convolution of stride 1 over a frame, of which every second place is kept, from the second on."""
    return F.conv2d(x, weight, bias, padding=1)[:, :, 1::2, 1::2]


def h_unfold(x, w, b):
    b_, _, h, wd = x.shape
    columns = F.unfold(F.pad(x, (0, 1, 0, 1)), 3, stride=2)
    return (w.flatten(1) @ columns + b[:, None]).view(b_, -1, h // 2, wd // 2)


def h_float32(x, w, b):
    return h_of((0, 1, 0, 1))(x.float(), w.float(), b.float())


# 07.codebook_loss
def c_of(first, second):
    return lambda h, e, beta: (first(h, e, beta) + second(h, e, beta)).mean((1, 2, 3))


def move_codes(h, e, beta):
    return (h.detach() - e) ** 2


def move_encoder(h, e, beta):
    return beta * (h - e.detach()) ** 2


def shares(index):
    share = torch.bincount(index.flatten()).double() / index.numel()
    return share[share > 0]


def entropy(index):
    return -(shares(index) * shares(index).log()).sum()


# 07.revive
def v_of(order=lambda far: far.argsort(descending=True), where=lambda dead: dead, score=None):
    def revive(codes, vectors, taken):
        dead = torch.ones(len(codes), dtype=torch.bool)
        dead[taken] = False
        far = (vectors - codes[taken]).norm(dim=1) if score is None else score(vectors)
        moved, out = where(dead), codes.clone()
        out[moved] = vectors[order(far)[: int(moved.sum())]]
        return out
    return revive


def v_loop(codes, vectors, taken):
    out, free = codes.clone(), list(range(len(vectors)))
    free.sort(key=lambda i: -float((vectors[i] - codes[taken[i]]).square().sum()))
    for k in range(len(codes)):
        if k not in taken.tolist():
            out[k] = vectors[free.pop(0)]
    return out


def v_in_place(codes, vectors, taken):
    codes[:] = v_of()(codes, vectors, taken)
    return codes


def only_first(dead):
    return dead & (dead.cumsum(0) == 1)


def all_on_one(codes, vectors, taken):
    out = v_of()(codes, vectors, taken)
    out[torch.bincount(taken, minlength=len(codes)) == 0] = vectors[(vectors - codes[taken]).norm(dim=1).argmax()]
    return out


# 07.paste
def cells(rows, columns, over=lambda a, b: (a, b)):
    def paste(z_a, z_b, box, f):
        ground, patch = over(z_a, z_b)
        t, l, u, r = box  # noqa: E741
        out = ground.clone()
        out[:, :, slice(*rows(t, u, f)), slice(*columns(l, r, f))] = patch[:, :, slice(*rows(t, u, f)), slice(*columns(l, r, f))]
        return out
    return paste


def outwards(start, end, f):
    return start // f, (end + f - 1) // f


def by_mask(z_a, z_b, box, f):
    h, w = (torch.arange(n * f) for n in z_a.shape[-2:])
    pixels = ((h >= box[0]) & (h < box[2]))[:, None] & ((w >= box[1]) & (w < box[3]))[None]
    touched = F.max_pool2d(pixels[None, None].double(), f) > 0
    return torch.where(touched, z_b, z_a)


def by_loop(z_a, z_b, box, f):
    out = z_a.clone()
    for y in range(box[0], box[2]):
        for x in range(box[1], box[3]):
            out[..., y // f, x // f] = z_b[..., y // f, x // f]
    return out


def paste_in_place(z_a, z_b, box, f):
    z_a[:] = by_loop(z_a, z_b, box, f)
    return z_a


def first_only(z_a, z_b, box, f):
    return torch.cat([by_loop(z_a, z_b, box, f)[:1], z_a[1:]])


WRONG = {
    "07.revive": {
        "nothing": (lambda c, v, t: c.clone(), "nothing moved"),
        "nearest": (v_of(lambda far: far.argsort()), "served best"),
        "first vectors": (v_of(lambda far: torch.arange(len(far))), "the first vectors"),
        "one place": (all_on_one, "each other"),
        "only the first": (v_of(where=only_first), "only the first dead"),
        "turned": (lambda c, v, t: v_of(lambda far: far.argsort(descending=True)[: len(c) - len(t.unique())].flip(0))(c, v, t),
                   "wrong order"),
        "from the middle": (v_of(score=lambda v: (v - v.mean(0)).norm(dim=1)), "from the middle"),
        "the living": (v_of(where=lambda dead: ~dead), "dead ones stayed"),
        "all": (v_of(where=torch.ones_like), "codes in use stay"),
        "in place": (v_in_place, "in place"),
        "one too few": (lambda c, v, t: v_of()(c, v, t)[1:], "shape"),
    },
    "07.paste": {
        "turned": (cells(outwards, outwards, lambda a, b: (b, a)), "wrong way round"),
        "pixels": (cells(lambda s, e, f: (s, e), lambda s, e, f: (s, e)), "in pixels"),
        "floor": (cells(lambda s, e, f: (s // f, e // f), lambda s, e, f: (s // f, e // f)), "end is rounded down"),
        "ceil": (cells(*[lambda s, e, f: (-(-s // f), -(-e // f))] * 2), "start is rounded up: "),
        "inwards": (cells(*[lambda s, e, f: (-(-s // f), e // f)] * 2), "as a whole"),
        "one more": (cells(*[lambda s, e, f: (s // f, e // f + 1)] * 2), "one cell too many"),
        "exchanged": (lambda a, b, box, f: by_loop(a, b, (box[1], box[0], box[3], box[2]), f)
                      if box[2] <= a.shape[3] * f and box[3] <= a.shape[2] * f
                      else cells(outwards, outwards)(a, b, (box[1], box[0], box[3], box[2]), f), "exchanged"),
        "nothing": (lambda a, b, box, f: a.clone(), "nothing was pasted"),
        "first picture": (first_only, "first picture"),
        "in place": (paste_in_place, "in place"),
        "the patch alone": (lambda a, b, box, f: b[:, :, box[0] // f : box[2] // f, box[1] // f : box[3] // f], "shape"),
        "mixed": (lambda a, b, box, f: (by_loop(a, b, box, f) + a) / 2, "not the paste"),
    },
    "07.perplexity": {
        "entropy": (entropy, "exponential"),
        "bits": (lambda i: entropy(i) / math.log(2), "in bits"),
        "exp of bits": (lambda i: (entropy(i) / math.log(2)).exp(), "power of 2"),
        "used": (lambda i: len(i.unique()), "come at all"),
        "largest": (lambda i: 1 / shares(i).max(), "largest share"),
        "squares": (lambda i: 1 / shares(i).square().sum(), "squared"),
        "sign": (lambda i: (-entropy(i)).exp(), "sign"),
        "zeros kept": (lambda i: torch.exp(-((p := torch.bincount(i.flatten()) / i.numel()) * p.log()).sum()), "leave it out"),
        "of the first picture": (lambda i: entropy(i[:1]).exp(), ""),
    },
    "07.reparametrise": {
        "variance": (r_of(torch.exp), "is the variance"),
        "logvar_as_sigma": (r_of(lambda v: v), "as sigma itself"),
        "as_variance": (r_of(lambda v: v.abs().sqrt()), "as the variance itself"),
        "log_sigma": (r_of(lambda v: (2 * v).exp()), "half a logarithm"),
        "halves_swapped": (r_of(root, lambda m: m.chunk(2, 1)[::-1]), "wrong way round"),
        "interleaved": (r_of(root, lambda m: (m[:, ::2], m[:, 1::2])), "in turns"),
        "no_noise": (r_of(root, noisy=False), "no effect"),
        "no_mean": (r_of(root, mean=False), "mean is missing"),
        "mean_scaled": (lambda m, n: (m.chunk(2, 1)[0] + n) * root(m.chunk(2, 1)[1]), "only the noise"),
        "sign": (r_of(lambda v: (-0.5 * v).exp()), "wrong sign"),
        "no_clamp": (r_of(lambda v: (0.5 * v).exp()), "not clamped"),
        "clamped_half": (r_of(lambda v: (0.5 * v).clamp(-30, 20).exp()), "half the log variance"),
        "wrong_dimension": (lambda m, n: m.chunk(2, 2)[0], "shape"),
        "changes_noise": (r_changes, "in place"),
    },
    "07.kl_weight": {
        "same": (1e-6, "twelve times"), "upside_down": (12e-6, "wrong way round"),
        "sum_beside_mean": (1e-6 / 12288, "still a sum"), "no_channels": (1e-6 / 16, "channels"),
        "only_one_mean": (1.024e-3, "leaves the error"), "one_side": (2.5e-7, "one direction"),
        "else": (1e-7, "not the same training"), "word": ("small", "one number"),
    },
    "07.halve": {
        "symmetric": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), "padding=1"),
        "left_top": (h_of((1, 0, 1, 0)), "left and on top"),
        "left_bottom": (h_of((1, 0, 0, 1)), "left and below"),
        "right_top": (h_of((0, 1, 1, 0)), "right and on top"),
        "replicate": (h_of((0, 1, 0, 1), "replicate"), "repeated"),
        "reflect": (h_of((0, 1, 0, 1), "reflect"), "mirrored"),
        "no_bias": (h_of((0, 1, 0, 1), bias=False), "bias"),
        "pool": (lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b, padding=1), 2), "average"),
        "no_padding": (lambda x, w, b: F.conv2d(x, w, b, stride=2), "shape"),
        "no_stride": (lambda x, w, b: F.conv2d(x, w, b, padding=1), "shape"),
    },
    "07.straight_through": {
        "only_e": (lambda h, e: e + 0, "goes to e"),
        "nothing_flows": (lambda h, e: (h + (e - h)).detach(), "no gradient"),
        "no_detach": (lambda h, e: h + (e - h), "goes to e"),
        "still_h": (lambda h, e: e + (h - e).detach(), "still h"),
        "sign": (lambda h, e: h + (h - e).detach(), "wrong sign"),
        "sum": (lambda h, e: h + e.detach(), "h + e"),
        "half": (lambda h, e: (h + e) / 2, "half way"),
        "both": (lambda h, e: h + e - h.detach(), "gets one as well"),
        "twice": (lambda h, e: 2 * h + (e - 2 * h).detach(), "twice"),
        "turned": (lambda h, e: (e + h).detach() - h, "sign is wrong"),
    },
    "07.codebook_loss": {
        "legacy": (c_of(lambda h, e, b: (h - e.detach()) ** 2, lambda h, e, b: b * (h.detach() - e) ** 2), "wrong term"),
        "no_stop": (lambda h, e, b: ((1 + b) * (h - e) ** 2).mean((1, 2, 3)), "nothing is stopped"),
        "no_beta": (lambda h, e, b: c_of(move_codes, move_encoder)(h, e, 1.0), "no effect"),
        "codes_only": (lambda h, e, b: move_codes(h, e, b).mean((1, 2, 3)), "commitment"),
        "encoder_only": (lambda h, e, b: move_encoder(h, e, b).mean((1, 2, 3)), "moves the codes, is missing"),
        "beta_on_both": (c_of(lambda h, e, b: b * move_codes(h, e, b), move_encoder), "before both"),
        "summed": (lambda h, e, b: (move_codes(h, e, b) + move_encoder(h, e, b)).sum((1, 2, 3)), "it is summed; take"),
        "channel_sum": (lambda h, e, b: (move_codes(h, e, b) + move_encoder(h, e, b)).sum(1).mean((1, 2)), "over the channels"),
        "absolute": (lambda h, e, b: ((h.detach() - e).abs() + b * (h - e.detach()).abs()).mean((1, 2, 3)), "not squared"),
        "codes_stopped": (c_of(lambda h, e, b: (h - e.detach()) ** 2, move_encoder), "codes get no gradient"),
        "encoder_stopped": (c_of(move_codes, lambda h, e, b: b * (h.detach() - e) ** 2), "encoder gets no gradient"),
        "one_number": (lambda h, e, b: c_of(move_codes, move_encoder)(h, e, b).mean(), "shape"),
        "h_in_both": (c_of(lambda h, e, b: (h - e) ** 2, move_encoder), "h is pulled by both"),
        "e_in_both": (c_of(move_codes, lambda h, e, b: b * (h - e) ** 2), "e is pulled by both"),
        "always_a_quarter": (lambda h, e, b: c_of(move_codes, move_encoder)(h, e, 0.25), "argument"),
    },
    "07.bits": {
        "bytes": (256, "bytes"), "one_hot": (65536, "8 bits, not 256"), "each_channel": (8192, "whole vector"),
        "f_forgotten": (32768, "16 places"), "one_row": (128, "one row"), "picture": (98304, "picture itself"),
        "with_codebook": (34816, "shared"), "else": (2047, "not it"), "word": ("few", "one number"),
    },
}

HONEST = {
    "07.revive": {"mask": v_of(), "loop": v_loop},
    "07.paste": {"slices": cells(outwards, outwards), "mask": by_mask, "loop": by_loop},
    "07.perplexity": {
        "unique": lambda i: (p := i.unique(return_counts=True)[1] / i.numel()).pow(-p).prod(),
        "power of two": lambda i: 2 ** -(shares(i) * shares(i).log2()).sum(),
        "numpy": lambda i: float(np.exp(-sum(p * np.log(p) for p in shares(i).numpy()))),
    },
    "07.reparametrise": {"loop": r_loop, "diffusers": r_diffusers, "float32": lambda m, n: r_of(root)(m.float(), n.float())},
    "07.kl_weight": {"ratio": 1e-6 / 12, "tensor": torch.tensor(1e-6 * 1024 / 12288), "rounded": 8.33e-8, "rounded_more": 8.3e-8},
    "07.halve": {"kept_places": h_cut, "unfold": h_unfold, "float32": h_float32},
    "07.straight_through": {"other_order": lambda h, e: e.detach() + h - h.detach(),
                            "negative": lambda h, e: h - (h - e).detach(),
                            "float32": lambda h, e: (h + (e - h).detach()).float()},
    "07.codebook_loss": {"other_order": lambda h, e, b: b * F.mse_loss(h, e.detach(), reduction="none").flatten(1).mean(1)
                         + F.mse_loss(e, h.detach(), reduction="none").flatten(1).mean(1),
                         "loop": lambda h, e, b: torch.stack([((u.detach() - v) ** 2 + b * (u - v.detach()) ** 2).mean()
                                                              for u, v in zip(h, e, strict=True)])},
    "07.bits": {"float": 2048.0, "tensor": torch.tensor(2048)},
}

EQUIVALENT = {
    "07.revive": {
        "far = (codes[taken] - vectors).norm(dim=1)": "a distance is symmetric",
        "mended[dead] = vectors[far.argsort(descending=True)[:dead.sum()]]": "a tensor of one whole number is an index",
    },
    "07.kl_weight": {"return 9.989999999999999e-07 * (4 * 16 * 16) / (3 * 64 * 64)": "within the rounding of 8.3e-8"},
    "07.halve": {
        "return F.conv2d(F.pad(x, (0, 2, 0, 1)), weight, bias, stride=2)": "even widths: the stride never meets it",
        "return F.conv2d(F.pad(x, (0, 1, 0, 2)), weight, bias, stride=2)": "even heights: the stride never meets it",
    },
}

ONCE = {
    "07.paste": {"box, length: 4": "a box has four sides"},
    "07.halve": {"weight, axis 2: 3": "the kernel is 3 x 3", "weight, axis 3: 3": "the kernel is 3 x 3",
                 "weight, square": "the kernel is 3 x 3", "weight, sizes that are equal": "the kernel is 3 x 3"},
}
