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


# 07.kl
def total(x):
    return x.flatten(1).sum(1)


def k_of(each, reduce=total):
    return lambda mu, logvar: reduce(each(mu, logvar))


def k_right(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar)


def k_torch(mu, logvar):
    from torch.distributions import Normal, kl_divergence
    return total(kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))))


def k_numpy(mu, logvar):
    m, v = mu.numpy(), logvar.numpy()
    return torch.tensor([0.5 * float(np.sum(a * a + np.exp(b) - 1 - b)) for a, b in zip(m, v, strict=True)])


def k_einsum(mu, logvar):
    n = mu[0].numel()
    return 0.5 * (torch.einsum("bchw,bchw->b", mu, mu) + logvar.exp().sum((1, 2, 3)) - logvar.sum((1, 2, 3)) - n)


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


# 07.perceptual
def p_of(each, unit=lambda a: F.normalize(a, dim=1), depths=lambda parts: parts.mean(0)):
    return lambda xs, ys: depths(torch.stack([each(unit(a), unit(b)) for a, b in zip(xs, ys, strict=True)]))


def p_each(a, b):
    return ((a - b) ** 2).sum(1).mean((1, 2))


def p_cosine(xs, ys):
    """2 - 2 cos: the same number by another way."""
    return sum((2 - 2 * F.cosine_similarity(a, b, dim=1)).mean((1, 2)) for a, b in zip(xs, ys, strict=True)) / len(xs)


def p_einsum(xs, ys):
    out = 0
    for a, b in zip(xs, ys, strict=True):
        d = a / torch.einsum("bchw,bchw->bhw", a, a).sqrt()[:, None] - b / torch.einsum("bchw,bchw->bhw", b, b).sqrt()[:, None]
        out = out + torch.einsum("bchw,bchw->b", d, d) / a[0, 0].numel()
    return out / len(xs)


def p_in_place(xs, ys):
    for a in xs:
        a /= a.norm(dim=1, keepdim=True)
    return p_of(p_each)(xs, ys)


# 07.nearest
def n_of(far, pick=torch.argmin, vectors=lambda h: h.permute(0, 2, 3, 1).reshape(-1, h.shape[1])):
    return lambda h, codes: pick(far(vectors(h), codes), 1).view(h.shape[0], *h.shape[2:])


def n_loop(h, codes):
    out = torch.zeros(h.shape[0], *h.shape[2:], dtype=torch.long)
    for b in range(h.shape[0]):
        for i in range(h.shape[2]):
            for j in range(h.shape[3]):
                out[b, i, j] = int((codes - h[b, :, i, j]).square().sum(1).argmin())
    return out


def n_expanded(h, codes):
    """|h|^2 - 2 h e + |e|^2 without the first term, which is the same for all codes; as a float32 map."""
    score = torch.einsum("bchw,kc->bkhw", h.float(), codes.float()) - 0.5 * codes.float().square().sum(1).view(1, -1, 1, 1)
    return score.argmax(1)


def n_spread(h, codes):
    return (h[:, None] - codes[None, :, :, None, None]).norm(dim=2).argmin(1).int()


# 07.codebook_loss
def c_of(first, second):
    return lambda h, e, beta: (first(h, e, beta) + second(h, e, beta)).mean((1, 2, 3))


def move_codes(h, e, beta):
    return (h.detach() - e) ** 2


def move_encoder(h, e, beta):
    return beta * (h - e.detach()) ** 2


# 07.adaptive
def a_of(ratio, norm=torch.Tensor.norm, low=1e-4, end=lambda r: r.clamp(0, 1e4).detach()):
    def balance(rec, adv, last):
        a, b = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rec, adv))
        return end(ratio(norm(a), norm(b) + low))
    return balance


def a_over(a, b):
    return a / b


def a_no_retain(rec, adv, last):
    a = torch.autograd.grad(rec, last, retain_graph=True)[0]
    b = torch.autograd.grad(adv, last)[0]
    return (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4)


def a_backward(rec, adv, last):
    rec.backward(retain_graph=True)
    a = last.grad.clone()
    last.grad = None
    adv.backward(retain_graph=True)
    return (a.norm() / (last.grad.norm() + 1e-4)).clamp(0, 1e4)


def a_float(rec, adv, last):
    a, b = (torch.autograd.grad(loss, [last], retain_graph=True)[0].flatten() for loss in (rec, adv))
    return min(max(math.sqrt(float(a @ a)) / (math.sqrt(float(b @ b)) + 1e-4), 0.0), 1e4)


def a_both(rec, adv, last):
    with torch.enable_grad():
        a, b = torch.autograd.grad(rec, last, retain_graph=True), torch.autograd.grad(adv, last, retain_graph=True)
    return torch.clamp(torch.linalg.vector_norm(a[0]) / (torch.linalg.vector_norm(b[0]) + 1e-4), 0.0, 1e4).detach()


def hinge(real, fake, push=F.relu):
    return 0.5 * (push(1 - real) + push(1 + fake)).mean((1, 2, 3))


def hinge_loop(real, fake):
    rows = []
    for r, f in zip(real, fake, strict=True):
        rows.append(sum(max(0.0, 1 - float(v)) for v in r.flatten()) / r.numel() / 2
                    + sum(max(0.0, 1 + float(v)) for v in f.flatten()) / f.numel() / 2)
    return torch.tensor(rows)


def shares(index):
    share = torch.bincount(index.flatten()).double() / index.numel()
    return share[share > 0]


def entropy(index):
    return -(shares(index) * shares(index).log()).sum()


def far_away(vectors, K):
    """One code in the middle, the others on a distant line."""
    line = 1e4 + torch.arange(1.0, K).to(vectors)[:, None].expand(-1, vectors.shape[1])
    return torch.cat([vectors.mean(0, keepdim=True), line])


WRONG = {
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
    "07.collapse": {
        "all the same": (lambda v, K: v.mean(0).expand(K, -1).clone(), "same"),
        "vectors": (lambda v, K: v[:K].clone(), "nearest"),
        "random": (lambda v, K: torch.linspace(-2, 2, K * v.shape[1], dtype=v.dtype).view(K, -1), "nearest"),
        "near the mean": (lambda v, K: v.mean(0) + 0.1 * torch.arange(K)[:, None], "nearest"),
        "one too few": (lambda v, K: far_away(v, K)[1:], "shape"),
        "mean and its mirror": (lambda v, K: torch.cat([far_away(v, K)[:-1], v.mean(0, keepdim=True)]), "same"),
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
    "07.kl": {
        "mean": (k_of(k_right, lambda x: x.flatten(1).mean(1)), "averaged"),
        "no_half": (k_of(lambda m, v: 2 * k_right(m, v)), "one half"),
        "negative": (k_of(lambda m, v: -k_right(m, v)), "never below zero"),
        "no_one": (k_of(lambda m, v: 0.5 * (m**2 + v.exp() - v)), "the 1 is missing"),
        "no_exp": (k_of(lambda m, v: 0.5 * (m**2 + v - 1 - v)), "exp is missing"),
        "log_sigma": (k_of(lambda m, v: 0.5 * (m**2 + (2 * v).exp() - 1 - 2 * v)), "logarithm of sigma"),
        "sigma": (k_of(lambda m, v: 0.5 * (m**2 + (0.5 * v).exp() - 1 - v)), "sigma stands"),
        "reverse": (k_of(lambda m, v: 0.5 * ((1 + m**2) / v.exp() - 1 + v)), "not symmetric"),
        "mu_not_squared": (k_of(lambda m, v: 0.5 * (m + v.exp() - 1 - v)), "not squared"),
        "plus_logvar": (k_of(lambda m, v: 0.5 * (m**2 + v.exp() - 1 + v)), "sign of logvar"),
        "whole_batch": (k_of(k_right, torch.sum), "shape"),
        "channels_only": (k_of(k_right, lambda x: x.sum(1)), "shape"),
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
    "07.perceptual": {
        "not_normalised": (p_of(p_each, lambda a: a), "length 1"),
        "over_places": (p_of(p_each, lambda a: a / a.square().sum((2, 3), keepdim=True).sqrt()), "over the places"),
        "over_all": (p_of(p_each, lambda a: a / a.square().sum((1, 2, 3), keepdim=True).sqrt()), "channels and places together"),
        "channel_mean": (p_of(lambda a, b: ((a - b) ** 2).mean((1, 2, 3))), "channels are averaged"),
        "place_sum": (p_of(lambda a, b: ((a - b) ** 2).sum((1, 2, 3))), "places are summed"),
        "depth_sum": (p_of(p_each, depths=lambda p: p.sum(0)), "depths are summed"),
        "absolute": (p_of(lambda a, b: (a - b).abs().sum(1).mean((1, 2))), "not squared"),
        "root": (p_of(lambda a, b: ((a - b) ** 2).sum(1).sqrt().mean((1, 2))), "square root"),
        "cosine": (p_of(lambda a, b: (a * b).sum(1).mean((1, 2))), "cosine"),
        "in_place": (p_in_place, "in place"),
        "one_number": (lambda xs, ys: p_of(p_each)(xs, ys).mean(), "shape"),
    },
    "07.nearest": {
        "furthest": (n_of(torch.cdist, torch.argmax), "furthest"),
        "dot": (n_of(lambda v, c: v @ c.T, torch.argmax), "scalar product"),
        "cosine": (n_of(lambda v, c: v @ F.normalize(c, dim=1).T, torch.argmax), "cosine"),
        "absolute": (n_of(lambda v, c: torch.cdist(v, c, p=1)), "absolute differences"),
        "not_permuted": (n_of(torch.cdist, vectors=lambda h: h.reshape(-1, h.shape[1])), "permute first"),
        "transposed": (lambda h, c: n_of(torch.cdist)(h, c).transpose(1, 2).reshape(len(h), *h.shape[2:]), "exchanged"),
        "first_channel": (n_of(lambda v, c: (v[:, :1] - c[:, 0]).abs()), "first channel"),
        "the_codes_themselves": (lambda h, c: c[n_of(torch.cdist)(h, c)], "shape"),
        "flat": (lambda h, c: n_of(torch.cdist)(h, c).flatten(), "shape"),
        "distances": (lambda h, c: (h[:, None] - c[None, :, :, None, None]).norm(dim=2).min(1).values, "whole numbers"),
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
    "07.hinge": {
        "turned": (lambda r, f: hinge(-r, -f), "signs are turned"),
        "both_high": (lambda r, f: hinge(r, -f), "both terms"),
        "no_relu": (lambda r, f: hinge(r, f, lambda v: v), "larger logits"),
        "no_half": (lambda r, f: 2 * hinge(r, f), "one half"),
        "mean_first": (lambda r, f: 0.5 * (F.relu(1 - r.mean((1, 2, 3))) + F.relu(1 + f.mean((1, 2, 3)))), "before the relu"),
        "sum": (lambda r, f: 0.5 * (F.relu(1 - r) + F.relu(1 + f)).sum((1, 2, 3)), "summed"),
        "no_margin": (lambda r, f: 0.5 * (F.relu(-r) + F.relu(f)).mean((1, 2, 3)), "margin"),
        "softplus": (lambda r, f: 0.5 * (F.softplus(-r) + F.softplus(f)).mean((1, 2, 3)), "logistic"),
        "only_real": (lambda r, f: 0.5 * F.relu(1 - r).mean((1, 2, 3)), "false pictures"),
        "only_fake": (lambda r, f: 0.5 * F.relu(1 + f).mean((1, 2, 3)), "real pictures"),
        "one_number": (lambda r, f: hinge(r, f).mean(), "shape"),
    },
    "07.adaptive": {
        "upside_down": (a_of(lambda a, b: (b - 1e-4) / (a + 1e-4)), "upside down"),
        "squared": (a_of(lambda a, b: a**2 / ((b - 1e-4) ** 2 + 1e-4)), "squared"),
        "absolute": (a_of(a_over, lambda g: g.abs().sum()), "absolute values"),
        "losses": (lambda rec, adv, last: (rec / (adv.abs() + 1e-4)).detach().clamp(0, 1e4), "ratio of the losses"),
        "no_epsilon": (a_of(a_over, low=0.0), "1e-4 below is missing"),
        "not_clamped": (a_of(a_over, end=lambda r: r.detach()), "not clamped"),
        "epsilon_outside": (a_of(lambda a, b: a / b + 1e-4, low=0.0), "added to the ratio"),
        "no_retain": (a_no_retain, "retain_graph"),
        "backward": (a_backward, "last.grad"),
        "not_detached": (lambda rec, adv, last: a_of(a_over)(rec, adv, last) + 0 * rec, "detach"),
        "no_return": (lambda rec, adv, last: print(end=""), "return"),
    },
    "07.scale": {
        "std": (lambda z: z.std(), "standard deviation itself"),
        "variance": (lambda z: 1 / z.var(), "variance"),
        "rms": (lambda z: 1 / (z**2).mean().sqrt(), "mean is not taken off"),
        "each_channel": (lambda z: 1 / z.std((0, 2, 3)), "one number for all"),
        "mean_of_factors": (lambda z: (1 / z.std((0, 2, 3))).mean(), "own factor"),
        "mean_of_channels": (lambda z: 1 / z.std((0, 2, 3)).mean(), "channels' standard deviations"),
        "mean_of_pictures": (lambda z: 1 / z.std((1, 2, 3)).mean(), "pictures' standard deviations"),
        "first_picture": (lambda z: 1 / z[0].std(), "first picture"),
        "absolute": (lambda z: 1 / z.abs().mean(), "mean absolute value"),
        "copied": (lambda z: 0.18215, "its own"),
    },
}

HONEST = {
    "07.perplexity": {
        "unique": lambda i: (p := i.unique(return_counts=True)[1] / i.numel()).pow(-p).prod(),
        "power of two": lambda i: 2 ** -(shares(i) * shares(i).log2()).sum(),
        "numpy": lambda i: float(np.exp(-sum(p * np.log(p) for p in shares(i).numpy()))),
    },
    "07.collapse": {
        "far away": far_away,
        "around one vector": lambda v, K: torch.cat([v[:1], v[:1] + 1e3 * torch.arange(1, K)[:, None]]),
    },
    "07.reparametrise": {"loop": r_loop, "diffusers": r_diffusers, "float32": lambda m, n: r_of(root)(m.float(), n.float())},
    "07.kl": {"torch.distributions": k_torch, "numpy": k_numpy, "einsum": k_einsum,
              "float32": lambda m, v: k_of(k_right)(m.float(), v.float())},
    "07.kl_weight": {"ratio": 1e-6 / 12, "tensor": torch.tensor(1e-6 * 1024 / 12288), "rounded": 8.33e-8, "rounded_more": 8.3e-8},
    "07.halve": {"kept_places": h_cut, "unfold": h_unfold, "float32": h_float32},
    "07.perceptual": {"cosine": p_cosine, "einsum": p_einsum,
                      "float32": lambda xs, ys: p_of(p_each)([a.float() for a in xs], [b.float() for b in ys])},
    "07.nearest": {"loop": n_loop, "expanded": n_expanded, "all_at_once": n_spread},
    "07.straight_through": {"other_order": lambda h, e: e.detach() + h - h.detach(),
                            "negative": lambda h, e: h - (h - e).detach(),
                            "float32": lambda h, e: (h + (e - h).detach()).float()},
    "07.codebook_loss": {"other_order": lambda h, e, b: b * F.mse_loss(h, e.detach(), reduction="none").flatten(1).mean(1)
                         + F.mse_loss(e, h.detach(), reduction="none").flatten(1).mean(1),
                         "loop": lambda h, e, b: torch.stack([((u.detach() - v) ** 2 + b * (u - v.detach()) ** 2).mean()
                                                              for u, v in zip(h, e, strict=True)])},
    "07.bits": {"float": 2048.0, "tensor": torch.tensor(2048)},
    "07.hinge": {"clamp": lambda r, f: hinge(r, f, lambda v: v.clamp(min=0)), "loop": hinge_loop,
                 "float32": lambda r, f: hinge(r.float(), f.float())},
    "07.adaptive": {"float": a_float, "vector_norm": a_both, "plain": a_of(a_over)},
    "07.scale": {"variance": lambda z: z.var() ** -0.5, "biased": lambda z: 1 / z.flatten().std(correction=0),
                 "numpy": lambda z: 1 / np.std(z.numpy()), "float32": lambda z: 1 / z.float().std()},
}

EQUIVALENT = {
    "07.collapse": dict.fromkeys((
        "return -(10 * distant[:, None].expand(K, vectors.shape[1]))",
        "distant = vectors.abs().max() + torch.arange(K)",
        "return 10 + distant[:, None].expand(K, vectors.shape[1])",
        "return 9 * distant[:, None].expand(K, vectors.shape[1])",
        "return 11 * distant[:, None].expand(K, vectors.shape[1])",
        "distant = vectors.max() * torch.arange(K)",
        "distant = vectors.square().max() * torch.arange(K)",
        "distant = vectors.neg().max() * torch.arange(K)",
    ), "another codebook of the kind that is asked for"),
    "07.kl_weight": {"return 9.989999999999999e-07 * (4 * 16 * 16) / (3 * 64 * 64)": "within the rounding of 8.3e-8"},
    "07.halve": {
        "return F.conv2d(F.pad(x, (0, 2, 0, 1)), weight, bias, stride=2)": "even widths: the stride never meets it",
        "return F.conv2d(F.pad(x, (0, 1, 0, 2)), weight, bias, stride=2)": "even heights: the stride never meets it",
    },
    "07.perceptual": {
        "for b, a in zip(layers_x, layers_y):": "a distance is symmetric",
        "for a, b in zip(layers_y, layers_x):": "a distance is symmetric",
        "b, a = (F.normalize(a, dim=1), F.normalize(b, dim=1))": "a distance is symmetric",
        "a, b = (F.normalize(b, dim=1), F.normalize(a, dim=1))": "a distance is symmetric",
        "a, b = (F.normalize(a), F.normalize(b, dim=1))": "dim=1 is the default",
        "a, b = (F.normalize(a, dim=1), F.normalize(b))": "dim=1 is the default",
        "return total / len(layers_y)": "the lists have one length",
    },
    "07.adaptive": {
        "return (a.norm() / (b.norm() + 0.0001)).clamp(-1, 10000.0)": "a ratio of norms is never below 0",
    },
}

ONCE = {
    "07.halve": {"weight, axis 2: 3": "the kernel is 3 x 3", "weight, axis 3: 3": "the kernel is 3 x 3",
                 "weight, square": "the kernel is 3 x 3", "weight, sizes that are equal": "the kernel is 3 x 3"},
}
