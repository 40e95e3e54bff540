"""Backwards: from a picture to the noise it comes from, and pictures between two pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from minidiff.diffusion.call import check_clip, check_model, predict_at
from minidiff.diffusion.noise import check_rows, row_noise
from minidiff.diffusion.predict import check_state, q_sample
from minidiff.diffusion.sample import Step, ddim, ddim_step, last, visits
from minidiff.diffusion.spacing import timesteps
from minidiff.errors import BadInput, check_choice, checks_first, require

__all__ = ["invert", "interpolate", "lerp", "slerp"]


@checks_first
def invert(model: Callable, x0: Tensor, *, steps: int | Sequence[int] = 50, fixed_point: int = 0, spacing: str = "leading",
           offset: int = 0, final_alpha: str = "one", cond: object = None) -> Iterator[Step]:
    """DDIM run from picture to noise (Song et al. 2021, section 4.3): the same map with the two noise levels swapped.

    x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, with x0 = (x_prev - sqrt(1 - abar_prev) eps) / sqrt(abar_prev).
    The right eps is eps(x_t, t), but x_t is not known yet: the first guess is eps(x_prev, t), as in all published code, and each
    of ``fixed_point`` further network calls a step asks again at the x_t just found (3 or more: the round trip nearly closes).

    x0: (B, C, H, W); steps, spacing, offset, final_alpha, cond: as in :func:`sample.ddim`, so that
    ddim(model, last(invert(...)).x) with the same five comes back. Yields Step where x is at noise level t (in sampling it is at
    t_prev). No eta, seed or clip: noise that was added and a clip have no inverse.
    """
    check_model(model)
    check_state("x0", x0)
    require(isinstance(fixed_point, int) and fixed_point >= 0, "fixed_point", fixed_point, "a whole number of repeats, 0 or more")
    way = visits(model.schedule, steps, spacing=spacing, offset=offset, final_alpha=final_alpha)[::-1]
    if way[-1].abar == 0:
        raise BadInput("steps", f"a way to t = {way[-1].t}, where abar = 0", "steps that stop before it: pure noise holds no "
                       "picture, so no step leads back", "spacing='leading'")
    yield  # arguments are good; the rest runs as the caller asks for steps
    x = x0
    for index, (_, count, t, t_prev, abar, abar_prev) in enumerate(way):
        guess = x
        for _ in range(1 + fixed_point):
            eps = predict_at(model, guess, t, cond).eps
            clean = (x - (1 - abar_prev) ** 0.5 * eps) / abar_prev**0.5
            guess = ddim_step(clean, eps, abar)
        x = guess
        yield Step(index, count, t, t_prev, x, clean, eps)


def lerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """(1 - weight) a + weight b. Between two noises it is too quiet: its norm dips to 1/sqrt(2) in the middle."""
    return (1 - weight) * a + weight * b


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Along the great circle (Shoemake 1985), one angle for each row: sin((1-w) o)/sin(o) a + sin(w o)/sin(o) b.

    a, b: (B, ...); weight: one for all rows, or (B,). Where the two are parallel (angle below 1e-4) it is lerp. Refuses opposite
    directions: no circle is shortest.
    """
    require(a.shape == b.shape, "b", f"shape {tuple(b.shape)}", f"the shape of a, {tuple(a.shape)}")
    wide = torch.float64 if a.dtype == torch.float64 else torch.float32
    unit_a, unit_b = (torch.nn.functional.normalize(x.flatten(1).to(wide), dim=1) for x in (a, b))
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1))  # exact near 0, where arccos is not
    require(bool((angle < torch.pi - 1e-4).all()), "b", "exactly the opposite of a in some row", "two directions less than 180 "
            "degrees apart", "lerp(a, b, weight), or other noise")
    near = angle < 1e-4
    sine = torch.where(near, 1.0, angle.sin())
    shape = (-1,) + (1,) * (a.ndim - 1)
    left = torch.where(near, 1 - weight, ((1 - weight) * angle).sin() / sine).to(a.dtype).view(shape)
    right = torch.where(near, weight, (weight * angle).sin() / sine).to(a.dtype).view(shape)
    return left * a + right * b


def _between(cond: object, cond_b: object, weight: float) -> object:
    """lerp of two conditions, tensor by tensor through tuples; the same object on both sides stays as it is."""
    if cond_b is cond:
        return cond
    if isinstance(cond, (tuple, list)) and isinstance(cond_b, (tuple, list)) and len(cond) == len(cond_b):
        return tuple(_between(a, b, weight) for a, b in zip(cond, cond_b, strict=True))
    both = isinstance(cond, Tensor) and isinstance(cond_b, Tensor) and cond.shape == cond_b.shape
    require(both and cond.is_floating_point(), "cond_b", getattr(cond_b, "shape", type(cond_b).__name__),
            "embeddings of the shape of cond (labels have nothing in between)", "cond=text_a, cond_b=text_b, both (B, L, D)")
    return lerp(cond, cond_b, weight)


def _joined(conds: list) -> object:
    """One condition for the concatenated batches, tensor by tensor through tuples."""
    if isinstance(conds[0], Tensor):
        return torch.cat(conds)
    return tuple(map(_joined, map(list, zip(*conds, strict=True)))) if isinstance(conds[0], (tuple, list)) else conds[0]


@checks_first
def interpolate(model: Callable, a: Tensor, b: Tensor, *, weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
                encode: str = "invert", mix: str = "slerp", t: int | None = None, noise: str = "shared", fixed_point: int = 0,
                steps: int | Sequence[int] = 50, eta: float = 0.0, spacing: str = "leading", offset: int = 0,
                final_alpha: str = "one", clip: str | None = None, cond: object = None, cond_b: object = None, seed: int = 0,
                rows: Sequence[int] | None = None) -> Iterator[Step]:
    """Encode two pictures, mix the codes, decode: yields the decoding steps; x is (len(weights) * B, C, H, W), weight by weight.

    a, b: (B, C, H, W). encode: "invert" (DDIM, section 5.3 of Song et al. 2021) or "q_sample" (Ho et al. 2020, section 4: noise
    both to level t, noise "shared" or each its "own"). mix: "slerp" or "lerp". t: the level of the codes, None for the highest.
    The code is at level t, so the first network call is at t: published code that starts at t - 1 leaves one step of noise in.
    cond: the condition of a, and of b unless cond_b is given; then each is encoded with its own, and the picture at weight w is
    decoded with (1 - w) cond + w cond_b. The other keywords are those of :func:`sample.ddim`; a row keeps its number, and with it
    its noise, at every weight.
    """
    check_model(model)
    check_state("a", a)
    check_state("b", b)
    require(a.shape == b.shape, "b", f"shape {tuple(b.shape)}", f"the shape of a, {tuple(a.shape)}")
    check_choice("encode", encode, ("invert", "q_sample"))
    check_choice("mix", mix, ("slerp", "lerp"))
    check_choice("noise", noise, ("shared", "own"))
    check_clip(clip)
    weights = [float(weight) for weight in weights]
    require(len(weights) > 0, "weights", weights, "at least one weight", "weights=(0.0, 0.5, 1.0)")
    T = model.schedule.T
    visited = timesteps(T, steps, spacing=spacing, offset=offset)
    level = visited[0] if t is None else t
    require(0 <= level < T, "t", t, f"a step in [0, {T - 1}]", f"t={T // 2}")
    way = {"steps": [level, *(u for u in visited if u < level)], "final_alpha": final_alpha}
    seed, rows = check_rows(seed, rows, len(a))
    cond_b = cond if cond_b is None else cond_b
    conds = _joined([_between(cond, cond_b, weight) for weight in weights])
    options = {"eta": eta, "clip": clip, "cond": conds, "seed": seed, "rows": rows * len(weights)}
    ddim(model, a.repeat(len(weights), *[1] * (a.ndim - 1)), **way, **options)  # refuses its own arguments now
    yield  # arguments are good; the rest runs as the caller asks for steps
    if encode == "invert":
        codes = [last(invert(model, x, fixed_point=fixed_point, cond=c, **way)).x for x, c in ((a, cond), (b, cond_b))]
    else:
        streams = ("interpolate a", "interpolate a" if noise == "shared" else "interpolate b")
        codes = [q_sample(x, level, row_noise(x.shape, seed=seed, t=level, rows=rows, dtype=x.dtype, device=x.device, stream=s),
                          model.schedule) for x, s in zip((a, b), streams, strict=True)]
    between = slerp if mix == "slerp" else lerp
    yield from ddim(model, torch.cat([between(*codes, weight) for weight in weights]), **way, **options)
