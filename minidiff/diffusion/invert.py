"""Backwards: from a picture to the noise it comes from, and pictures between two pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from minidiff import rng
from minidiff.diffusion.predict import check_state, q_sample
from minidiff.diffusion.sample import Step, abar_after, check_model, ddim, ddim_step, last, predict_at
from minidiff.diffusion.spacing import pairs, timesteps
from minidiff.errors import BadInput, check_choice, require

__all__ = ["invert", "interpolate", "lerp", "slerp"]


def invert(model: Callable, x0: Tensor, *, steps: int | Sequence[int] = 50, fixed_point: int = 0, spacing: str = "leading",
           offset: int = 0, final: str = "one", cond: object = None) -> Iterator[Step]:
    """DDIM run from picture to noise (Song et al. 2021, section 4.3): the same map with the two noise levels swapped.

    x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, with x0 = (x_prev - sqrt(1 - abar_prev) eps) / sqrt(abar_prev).
    The right eps is eps(x_t, t), but x_t is not known yet: the first guess is eps(x_prev, t), as in all published code, and each
    of ``fixed_point`` further network calls a step asks again at the x_t just found (3 or more: the round trip nearly closes).

    x0: (B, C, H, W); steps, spacing, offset, final: as in :func:`sample.ddim`, so that ddim(model, last(invert(...)).x) with the
    same four comes back. Yields Step where x is at noise level t (in sampling it is at t_prev). eta is 0 and nothing is clipped:
    a clip has no inverse.
    """
    check_model(model)
    check_state("x0", x0)
    require(isinstance(fixed_point, int) and fixed_point >= 0, "fixed_point", fixed_point, "a whole number of repeats, 0 or more")
    check_choice("final", final, ("one", "first"))
    route = pairs(model.schedule.T, steps, spacing=spacing, offset=offset)[::-1]
    if float(model.schedule.at(route[-1][0])) == 0:
        raise BadInput("steps", f"a way to t = {route[-1][0]}, where abar = 0", "steps that stop before it: pure noise holds no "
                       "picture, so no step leads back", "spacing='leading'")
    return _invert(model, x0, route, fixed_point, final, cond)


@torch.no_grad()
def _invert(model: Callable, x: Tensor, route: list[tuple[int, int]], fixed_point: int, final: str,
            cond: object) -> Iterator[Step]:
    for index, (t, t_prev) in enumerate(route):
        abar, abar_prev = float(model.schedule.at(t)), abar_after(model.schedule, t_prev, final)
        guess = x
        for _ in range(1 + fixed_point):
            eps = predict_at(model, guess, t, cond).eps
            x0 = (x - (1 - abar_prev) ** 0.5 * eps) / abar_prev**0.5
            guess = ddim_step(x0, eps, abar)
        x = guess
        yield Step(index, len(route), t, t_prev, x, x0, eps)


def lerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """(1 - weight) a + weight b. Between two noises it is too quiet: its norm dips to 1/sqrt(2) in the middle."""
    return (1 - weight) * a + weight * b


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Along the great circle (Shoemake 1985), one angle for each row: sin((1-w) o)/sin(o) a + sin(w o)/sin(o) b.

    a, b: (B, ...). Where the two are parallel (angle below 1e-4) it is lerp. Refuses opposite directions: no circle is shortest.
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


def interpolate(model: Callable, a: Tensor, b: Tensor, *, weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
                encode: str = "invert", mix: str = "slerp", t: int | None = None, steps: int = 50, noise: str = "shared",
                fixed_point: int = 0, cond: object = None, generator: torch.Generator | None = None) -> Iterator[Step]:
    """Encode two pictures, mix the codes, decode: yields the decoding steps; x is (len(weights) * B, C, H, W), weight by weight.

    a, b: (B, C, H, W). encode: "invert" (DDIM, section 5.3 of Song et al. 2021) or "q_sample" (Ho et al. 2020, section 4: noise
    both to level t, noise "shared" or each its "own"). mix: "slerp" or "lerp". t: the level of the codes, None for the highest.
    The code is at level t, so the first network call is at t: published code that starts at t - 1 leaves one step of noise in.
    """
    check_model(model)
    check_state("a", a)
    check_state("b", b)
    require(a.shape == b.shape, "b", f"shape {tuple(b.shape)}", f"the shape of a, {tuple(a.shape)}")
    check_choice("encode", encode, ("invert", "q_sample"))
    check_choice("mix", mix, ("slerp", "lerp"))
    check_choice("noise", noise, ("shared", "own"))
    require(len(weights) > 0, "weights", list(weights), "at least one weight", "weights=(0.0, 0.5, 1.0)")
    T = model.schedule.T
    level = max(timesteps(T, steps)) if t is None else t
    require(0 <= level < T, "t", t, f"a step in [0, {T - 1}]", f"t={T // 2}")
    visited = [level] + [u for u in timesteps(T, steps) if u < level]
    return _interpolate(model, a, b, list(weights), encode, mix, visited, noise, fixed_point, cond, generator)


def _interpolate(model: Callable, a: Tensor, b: Tensor, weights: list[float], encode: str, mix: str, visited: list[int],
                 noise: str, fixed_point: int, cond: object, generator: torch.Generator | None) -> Iterator[Step]:
    if encode == "invert":
        codes = [last(invert(model, x, steps=visited, fixed_point=fixed_point, cond=cond)).x for x in (a, b)]
    else:
        draw = rng.generator("interpolate", 0) if generator is None else generator
        first = torch.randn(a.shape, generator=draw, device=draw.device).to(a)
        second = first if noise == "shared" else torch.randn(a.shape, generator=draw, device=draw.device).to(a)
        codes = [q_sample(x, visited[0], n, model.schedule) for x, n in ((a, first), (b, second))]
    between = slerp if mix == "slerp" else lerp
    start = torch.cat([between(*codes, weight) for weight in weights])
    many = cond.repeat(len(weights), *[1] * (cond.ndim - 1)) if isinstance(cond, Tensor) else cond
    yield from ddim(model, start, steps=visited, cond=many)
