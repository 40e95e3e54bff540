"""Wrong and right answers to the exercises of lesson 09."""

from __future__ import annotations

import math

import numpy as np
import torch


# 09.latent_shape
def shape_of(f, channels=lambda c: c, turn=False):
    def shape(height, width, widths, c):
        h, w = (width, height) if turn else (height, width)
        return channels(c), h // f(widths), w // f(widths)
    return shape


def right_factor(widths):
    return 2 ** (len(widths) - 1)


def shape_by_halving(height, width, widths, channels):
    for _ in widths[1:]:
        height, width = height // 2, width // 2
    return torch.tensor([channels, height, width])


# 09.encode
def e_of(inside=lambda x: 2 * x - 1, pick=lambda d: d.mean, scale=lambda z, s: z * s):
    def to_latent(vae, pictures):
        return scale(pick(vae.encode(inside(pictures)).latent_dist), vae.config.scaling_factor)
    return to_latent


def e_loop(vae, pictures):
    rows = [vae.encode((x[None] - 0.5) / 0.5).latent_dist.mode()[0] for x in pictures]
    return torch.stack(rows).mul_(vae.config.scaling_factor)


def e_in_place(vae, pictures):
    pictures.mul_(2).sub_(1)
    return vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor


# 09.decode
def d_of(before=lambda z, s: z / s, after=lambda x: (x / 2 + 0.5).clamp(0, 1), byte=lambda x: (x * 255).round(), last=True):
    def to_picture(vae, z):
        x = byte(after(vae.decode(before(z, vae.config.scaling_factor)).sample)).to(torch.int64).to(torch.uint8)
        return x.permute(0, 2, 3, 1) if last else x
    return to_picture


def d_numpy(vae, z):
    x = vae.decode(z / vae.config.scaling_factor).sample.numpy().transpose(0, 2, 3, 1)
    return torch.from_numpy(np.rint(np.clip(x * 127.5 + 127.5, 0, 255)).astype(np.uint8))


def d_loop(vae, z):
    rows = []
    for one in z:
        x = vae.decode(one[None].float() / vae.config.scaling_factor).sample[0].clamp(-1, 1)
        rows.append(((x + 1) * 127.5).round().byte().permute(1, 2, 0))
    return torch.stack(rows)


def d_float(vae, z):
    return (vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


# 09.timesteps
def t_numpy(T, steps, offset):
    return (np.arange(0, steps) * (T // steps)).round()[::-1].copy().astype(np.int64) + offset


def t_loop(T, steps, offset):
    out, t = [], (steps - 1) * (T // steps) + offset
    while len(out) < steps:
        out.append(t)
        t -= T // steps
    return out


def _leading(T, S):
    return [i * (T // S) for i in range(S)][::-1]


# 09.model_input
def m_of(factor):
    return lambda z, sigma: z * factor(sigma).view(-1, 1, 1, 1)


def m_loop(z, sigma):
    return torch.stack([row / (1 + float(s) ** 2) ** 0.5 for row, s in zip(z, sigma)])


# 09.step
def s_of(before=lambda t, T, S: t - T // S, end=lambda abar: abar[0], negative=False, step=None, limit=None):
    def sd_step(z, eps, t, steps, abar):
        p = before(t, len(abar), steps)
        a, b = abar[t], abar[p] if p >= 0 or negative else end(abar)
        if step is not None:
            return step(z, eps, a, b)
        z0 = (z - (1 - a) ** 0.5 * eps) / a**0.5
        z0 = z0 if limit is None else z0.clamp(-limit, limit)
        return b**0.5 * z0 + (1 - b) ** 0.5 * eps
    return sd_step


def s_ode(z, eps, t, steps, abar):
    """Euler's step in z / sqrt(abar), the view of notebook 03."""
    a, b = abar[t], abar[max(t - len(abar) // steps, 0)]
    return b.sqrt() * (z / a.sqrt() + (((1 - b) / b).sqrt() - ((1 - a) / a).sqrt()) * eps)


def s_float32(z, eps, t, steps, abar):
    return s_of()(z.float(), eps.float(), t, steps, abar.float())


def s_floats(z, eps, t, steps, abar):
    """Python numbers, in place on a copy."""
    p = t - len(abar) // steps
    a, b = float(abar[t]), float(abar[p]) if p > -1 else float(abar[0])
    out = z.clone()
    out.sub_(math.sqrt(1 - a) * eps).mul_(math.sqrt(b / a)).add_(math.sqrt(1 - b) * eps)
    return out


# 09.start
def l_filter(visited, strength):
    n = int(len(visited) * strength)
    return [t for i, t in enumerate(visited) if i >= len(visited) - n]


def l_tensor(visited, strength):
    return torch.tensor(visited)[max(len(visited) - int(len(visited) * strength), 0):]


def l_pops(visited, strength):
    n = int(len(visited) * strength)
    while len(visited) > n:
        visited.pop(0)
    return visited


def _n(visited, strength):
    return int(len(visited) * strength)


ALL = {"solver", "num_inference_steps", "timestep_spacing", "eta", "guidance_scale"}

# 09.forgotten_scale
def level(ratio):
    return lambda abar, scale: (snr := ratio(abar / (1 - abar), scale)) / (1 + snr)


def right_level(abar, scale):
    return abar / (abar + scale**2 * (1 - abar))


def level_by_sigma(abar, scale):
    """By the noise on a picture of unit size: sigma shrinks with the factor."""
    sigma = scale * ((1 - abar) / abar).sqrt()
    return 1 / (1 + sigma**2)


def level_by_bisection(abar, scale):
    low, high = torch.zeros_like(abar), torch.ones_like(abar)
    for _ in range(60):
        middle = (low + high) / 2
        below = middle * (1 - abar) * scale**2 < abar * (1 - middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def level_in_place(abar, scale):
    abar[:] = right_level(abar, scale)
    return abar


WRONG = {
    "09.forgotten_scale": {
        "not squared": (level(lambda r, s: r / s), "not squared"),
        "upside down": (level(lambda r, s: r * s**2), "upside down"),
        "ratio": (lambda a, s: a / (1 - a) / s**2, "signal-to-noise ratio"),
        "variance": (lambda a, s: a / s**2, "signal's variance"),
        "clipped": (lambda a, s: (a / s).clamp(max=1), "no level"),
        "unchanged": (lambda a, s: a.clone(), "no effect"),
        "noise": (lambda a, s: 1 - right_level(a, s), "share of the noise"),
        "root": (lambda a, s: right_level(a, s) ** 0.5, "root of the level"),
        "mini-sd": (lambda a, s: right_level(a, 0.39), "mini-sd"),
        "copied": (lambda a, s: right_level(a, 0.18215), "0.18215"),
        "in place": (level_in_place, "in place"),
        "one number": (lambda a, s: right_level(a, s).mean(), "shape"),
        "half way": (lambda a, s: (a + right_level(a, s)) / 2, "not the level"),
    },
    "09.model_input": {
        "as_it_is": (lambda z, sigma: z, "as the scheduler holds it"),
        "sum": (m_of(lambda s: 1 / (s + 1)), "variances add"),
        "variance": (m_of(lambda s: 1 / (s**2 + 1)), "divide by the variance"),
        "times": (m_of(lambda s: (s**2 + 1) ** 0.5), "you multiply"),
        "sigma": (m_of(lambda s: 1 / s.clamp(min=1)), "deviation 1 only"),
        "one_row": (lambda z, sigma: z / (sigma[0] ** 2 + 1) ** 0.5, "one factor for the whole batch"),
        "by_sigma": (m_of(lambda s: 1 / (s + 1e-9)), "Which abar"),
    },
    "09.latent_shape": {
        "one_too_many": (shape_of(lambda w: 2 ** len(w)), "one halving too many"),
        "eight": (shape_of(lambda w: 8), "8 is Stable"),
        "four": (shape_of(lambda w: 4), "4 is mini-sd"),
        "turned": (shape_of(right_factor, turn=True), "wrong way round"),
        "moments": (shape_of(right_factor, lambda c: 2 * c), "twice as many"),
        "levels": (shape_of(len), "not the factor"),
        "widths": (shape_of(lambda w: w[-1] // w[0]), "channels inside"),
        "two_numbers": (lambda h, w, widths, c: (h // right_factor(widths), w // right_factor(widths)), "instead of three"),
        "floats": (lambda h, w, widths, c: (c, h / right_factor(widths), w / right_factor(widths)), "whole numbers"),
        "order": (lambda h, w, widths, c: (h // right_factor(widths), w // right_factor(widths), c), "expected (4"),
    },
    "09.encode": {
        "zero_to_one": (e_of(lambda x: x), "as [0, 1]"),
        "no_scale": (e_of(scale=lambda z, s: z), "not scaled"),
        "divides": (e_of(scale=lambda z, s: z / s), "way out"),
        "samples": (e_of(pick=lambda d: d.sample()), "random sample"),
        "constant": (e_of(scale=lambda z, s: z * 0.18215), "0.18215"),
        "neither": (e_of(lambda x: x, scale=lambda z, s: z), "and the latent is not scaled"),
        "pictures_scaled": (lambda vae, x: vae.encode((2 * x - 1) * vae.config.scaling_factor).latent_dist.mean,
                            "not the latent"),
        "width": (e_of(pick=lambda d: d.std), "width"),
        "other_order": (e_of(lambda x: 2 * (x - 1)), "other order"),
        "in_place": (e_in_place, "in place"),
        "centred_only": (e_of(lambda x: x - 0.5), "which of the three"),
    },
    "09.decode": {
        "no_clip": (d_of(after=lambda x: x / 2 + 0.5), "wraps round"),
        "no_clip_no_round": (d_of(after=lambda x: x / 2 + 0.5, byte=lambda x: x * 255), "nothing is rounded"),
        "still_scaled": (d_of(lambda z, s: z), "still scaled"),
        "multiplies": (d_of(lambda z, s: z * s), "multiplied"),
        "constant": (d_of(lambda z, s: z / 0.18215), "0.18215"),
        "no_shift": (d_of(after=lambda x: x.clamp(0, 1)), "read as [0, 1]"),
        "clips_first": (d_of(after=lambda x: (x.clamp(0, 1) + 1) / 2), "before the shift"),
        "cuts_down": (d_of(byte=lambda x: x * 255), "cut down"),
        "times_256": (d_of(byte=lambda x: (x * 256).clamp(max=256).round()), "256"),
        "channels_first": (d_of(last=False), "channels come last"),
        "float": (d_float, "uint8"),
        "scale_after": (d_of(lambda z, s: z, after=lambda x: (x / 0.18215 / 2 + 0.5).clamp(0, 1)), "divide the latent"),
    },
    "09.timesteps": {
        "floats": (lambda T, S, o: [float(t + o) for t in _leading(T, S)], "whole numbers"),
        "rising": (lambda T, S, o: [i * (T // S) + o for i in range(S)], "rises"),
        "no_offset": (lambda T, S, o: _leading(T, S), "missing"),
        "taken_off": (lambda T, S, o: [t - o for t in _leading(T, S)], "taken off"),
        "always_one": (lambda T, S, o: [t + 1 for t in _leading(T, S)], "always 1"),
        "trailing": (lambda T, S, o: [round(T - i * T / S) - 1 for i in range(S)], "trailing"),
        "trailing_offset": (lambda T, S, o: [round(T - i * T / S) - 1 + o for i in range(S)], "with an offset"),
        "linspace": (lambda T, S, o: np.linspace(T - 1, 0, S).round().astype(int), "linspace"),
        "fraction": (lambda T, S, o: [int(i * T / S) + o for i in range(S)][::-1], "a fraction;"),
        "rounded": (lambda T, S, o: [round(i * T / S) + o for i in range(S)][::-1], "fraction, rounded"),
        "too_many": (lambda T, S, o: [t + o for t in range(0, T, T // S)][::-1], "steps instead of"),
    },
    "09.step": {
        "one_back": (s_of(lambda t, T, S: t - 1), "t - 1"),
        "clips": (s_of(limit=1.0), "clipped"),
        "negative": (s_of(negative=True), "from the end"),
        "to_one": (s_of(end=lambda abar: abar[0] * 0 + 1), "abar[0]"),
        "is_z0": (s_of(step=lambda z, e, a, b: (z - (1 - a) ** 0.5 * e) / a**0.5), "this is z0"),
        "adds_noise": (s_of(step=lambda z, e, a, b: a**0.5 * (z - (1 - b) ** 0.5 * e) / b**0.5 + (1 - a) ** 0.5 * e), "swapped"),
        "jumps_steps": (s_of(lambda t, T, S: t - S), "stride"),
        "no_factor": (s_of(step=lambda z, e, a, b: (z - (1 - a) ** 0.5 * e) / a**0.5 + (1 - b) ** 0.5 * e), "without its factor"),
        "z_for_z0": (s_of(step=lambda z, e, a, b: b**0.5 * z + (1 - b) ** 0.5 * e), "z stands"),
        "variance": (s_of(step=lambda z, e, a, b: b * (z - (1 - a) * e) / a + (1 - b) * e), "which two"),
    },
    "09.start": {
        "first_steps": (lambda v, s: v[:_n(v, s)], "first, noisiest"),
        "complement": (lambda v, s: v[_n(v, s):], "share left out"),
        "minus_zero": (lambda v, s: v[-_n(v, s):], "visited[-0:]"),
        "one_more": (lambda v, s: v[max(len(v) - _n(v, s) - 1, 0):], "one step too many"),
        "one_less": (lambda v, s: v[len(v) - _n(v, s) + 1:], "one step too few"),
        "floating": (lambda v, s: v[int(len(v) * (1 - s)):], "floating"),
        "rounds": (lambda v, s: v[len(v) - round(len(v) * s):], "rounded"),
        "rising": (lambda v, s: v[len(v) - _n(v, s):][::-1], "rises"),
        "by_t": (lambda v, s: [t for t in v if t <= 1000 * s], "t / 1000"),
        "floats": (lambda v, s: [float(t) for t in v[len(v) - _n(v, s):]], "whole numbers"),
        "pops": (l_pops, "changes the list"),
    },
    "09.same_negative": {
        "seven": (7, "difference"), "zero": (0, "empty prompt"), "minus": (-7, "push away"), "eight": (8, "doubling"),
        "six": (6, "ho and salimans"), "else": (3, "put u = c"), "word": ("none", "one number"),
    },
    "09.may_swap": {
        "prediction_type": (ALL | {"prediction_type"}, "prediction_type must stay"),
        "betas": (ALL | {"beta_end"}, "beta_end must stay"),
        "schedule": ("solver, beta_schedule", "beta_schedule must stay"),
        "train_steps": (ALL | {"num_train_timesteps"}, "num_train_timesteps must stay"),
        "no_spacing": (ALL - {"timestep_spacing"}, "timestep_spacing may"),
        "only_steps": ({"num_inference_steps"}, "4 missing"),
        "typo": ({"ETA"}, "not one of"),
        "number": (5, "a set"),
    },
}

HONEST = {
    "09.forgotten_scale": {"fraction": right_level, "sigma": level_by_sigma, "bisection": level_by_bisection,
                           "float32": lambda a, s: right_level(a.float(), s)},
    "09.model_input": {"loop": m_loop, "abar": m_of(lambda s: (1 / (1 + s**2)).sqrt()),
                       "float32": lambda z, sigma: m_of(lambda s: (s**2 + 1) ** -0.5)(z.float(), sigma.float())},
    "09.latent_shape": {"halving": shape_by_halving, "plain": shape_of(right_factor),
                        "shift": shape_of(lambda w: 1 << len(w) - 1)},
    "09.encode": {"loop": e_loop, "mode": e_of(pick=lambda d: d.mode()), "float32": e_of(lambda x: 2 * x.float() - 1)},
    "09.decode": {"numpy": d_numpy, "loop_float32": d_loop, "half_up": d_of(byte=lambda x: (x * 255 + 0.5).floor())},
    "09.timesteps": {"numpy": t_numpy, "loop": t_loop, "torch": lambda T, S, o: torch.arange(S).flip(0) * (T // S) + o},
    "09.step": {"ode": s_ode, "float32": s_float32, "floats": s_floats},
    "09.start": {"filter": l_filter, "tensor": l_tensor},
    "09.same_negative": {"float": 1.0, "tensor": torch.tensor(1)},
    "09.may_swap": {"list": sorted(ALL), "text": "eta, solver, num_inference_steps, guidance_scale, timestep_spacing"},
}

EQUIVALENT = {
    "09.step": {
        "a, a_prev = (abar[t], abar[before] if before > 0 else abar[0])": "at 0 both are abar[0]",
        "a, a_prev = (abar[t], abar[before] if before >= 1 else abar[0])": "at 0 both are abar[0]",
    },
}

ONCE = {
    "09.encode": {"pictures, axis 1: 3": "the colours"},
}
