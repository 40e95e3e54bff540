"""What lesson 16 measures with: codes of rendered pictures, edits by shifts of the bottleneck alone, shares, strengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.diffusion import Schedule, invert, last, visits
from minidiff.diffusion.noise import row_noise
from minidiff.diffusion.predict import signal_noise
from minidiff.editing import Asymmetric, ShiftH, causal_share, mean_direction
from minidiff.editing.h_directions import bottleneck
from minidiff.editing.h_space import MIDDLE, Delta
from minidiff.editing.result import decode_images
from minidiff.errors import check_choice, require
from minidiff.latent import denoise, denoiser, encode, encode_prompt, invert_image
from minidiff.measure import EditPairs
from minidiff.recipes.directions import EDITS, direction_pairs
from minidiff.steer import Hook, StepContext, Tap, Trajectory, run
from minidiff.world import Scenes, render

__all__ = ["BOTH", "CHUNK", "PIXEL_MIDDLE", "STEPS", "Change", "Inverted", "Response", "changes", "end_ratio",
           "inverted_pairs", "linear_step", "moved", "passes", "pictures_of", "pixel_edit", "response", "shares", "two_changes"]

STEPS, CHUNK = 25, 16
BOTH = {"dog + blue": "blue", "dog + night": "night"}
PIXEL_MIDDLE = "middle.change"                      # the block of the pixel models' U-Net that runs as a module


class Inverted(NamedTuple):
    """n pictures to edit: pairs (scenes, right answers, prompts), pictures (n, 3, H, W), and the noise that gives them back."""

    pairs: EditPairs
    images: Tensor
    noise: Tensor


def _parts(n: int) -> list[slice]:
    return [slice(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]


@torch.no_grad()
def inverted_pairs(pipe: Any, name: str, n: int, *, split: str = "valid", steps: int = STEPS) -> Inverted:
    """n sources of an edit (one of EDITS or of BOTH), rendered and inverted at w = 1 with the prompts of its recipe."""
    pairs = two_changes(name, n, split=split) if name in BOTH else direction_pairs(name, n, split=split)
    images = render(pairs.source).images
    noise = [Trajectory.of(invert_image(pipe, images[part], pairs.prompts[part], steps=steps)).noise for part in _parts(n)]
    return Inverted(pairs, images, torch.cat(noise))


def two_changes(name: str, n: int, *, split: str = "valid") -> EditPairs:
    """n cats that become dogs and change in a second respect as well. name: one of BOTH."""
    check_choice("name", name, BOTH)
    many, second = direction_pairs("dog", 2 * n, split=split), EDITS[BOTH[name]]
    some = many[[k for k, scene in enumerate(many.source) if second.begin(scene) is not None][:n]]
    return dataclasses.replace(some, edit=name, target=Scenes.of(map(second.end, some.target)))


class Change(NamedTuple):
    """Of n pictures at one noise level, (n, C, h, w) each: their bottleneck h, that of their right answers under the same noise,
    and the change that a direction makes of h."""

    h: Tensor
    after: Tensor
    change: Tensor


@torch.no_grad()
def changes(pipe: Any, delta: Delta, name: str, t: int, n: int, *, split: str = "valid") -> Change:
    """What a direction does to the bottleneck of n noised sources, beside what the right answer does."""
    pairs, model, seen = direction_pairs(name, n, split=split), denoiser(pipe), []

    class _Look(Hook):
        modules = (MIDDLE,)

        def on_module(self, path: str, out: Any, ctx: StepContext, inputs: Any) -> None:
            seen.append((out, delta(out, inputs, ctx)))

    for scenes in (pairs.source, pairs.target):
        z = encode(pipe.vae, render(scenes).images)
        noise = row_noise(z.shape, seed=0, t=t, rows=range(n), dtype=z.dtype, device=z.device)
        level = torch.full((n,), t)
        a, s = signal_noise(model.schedule, level, z)
        with Tap(pipe.unet, _Look()):
            model(a * z + s * noise, level, encode_prompt(pipe, pairs.prompts))
    return Change(seen[0][0], seen[1][0], seen[0][1])


@torch.no_grad()
def moved(pipe: Any, noise: Tensor, prompts: Sequence[str], deltas: Sequence[Tensor | Delta], strength: float | Tensor, *,
          symmetric: bool = False, t_edit: float = 0, hooks: Sequence[Hook] = (), steps: int = STEPS) -> Tensor:
    """Latents (n, C, h, w) of the edit alone, at w = 1: as ``h_space`` does it, without the branch of the source.

    strength: of each direction, before 1 / sqrt(k); hooks: more of them, such as a :class:`~minidiff.editing.Boost`.
    """
    require(len(deltas) > 0, "deltas", "none", "one direction or more", "moved(pipe, noise, [''] * n, [f], 0.2)")
    scale, out = torch.as_tensor(strength, dtype=torch.float32) / len(deltas) ** 0.5, []
    for part in _parts(len(noise)):
        shifts = [ShiftH(delta, scale if scale.ndim == 0 else scale[part], t_edit=t_edit) for delta in deltas]
        mine = shifts if symmetric else [Asymmetric(*shifts)]
        out.append(last(denoise(pipe, list(prompts[part]), latents=noise[part], steps=steps, guidance=1.0,
                                hooks=[*mine, *hooks])).x)
    return torch.cat(out)


def pictures_of(pipe: Any, z: Tensor) -> Tensor:
    """Latents as pictures (n, 3, H, W), some at a time."""
    return torch.cat([decode_images(pipe, z[part]) for part in _parts(len(z))])


@torch.no_grad()
def pixel_edit(pixel: Any, name: str, n: int, strengths: Sequence[float], *, split: str = "valid", pairs: int = 16,
               steps: int = STEPS) -> dict[float, Tensor]:
    """c -> n edits (n, 3, 64, 64) by the mean direction of a pixel model of 32 x 32: rendered sources inverted, asymmetric step.

    The mean is over ``pairs`` of the training split, at three levels. c = 0: inverted and drawn again. Enlarged for the reader.
    """
    some = direction_pairs(name, pairs)
    mean = mean_direction(pixel, *(render(side, 32).images for side in (some.source, some.target)), None, (161, 481, 801),
                          path=PIXEL_MIDDLE)
    noise = last(invert(pixel, render(direction_pairs(name, n, split=split).source, 32).images, steps=steps)).x
    made = {c: last(run(pixel, noise, steps=steps, hooks=[Asymmetric(ShiftH(mean, c, path=PIXEL_MIDDLE))])).x for c in strengths}
    return {c: F.interpolate(x.clamp(-1, 1), scale_factor=2, mode="bilinear") for c, x in made.items()}


@torch.no_grad()
def passes(model: Any, name: str, t: int, n: int, *, pipe: Any = None, split: str = "valid") -> tuple[Tensor, Tensor, Tensor]:
    """Predicted pictures x0 (n, C, h, w) of n sources of the direction ``name``, of their right answers, and of the sources with
    the answers' bottleneck put into their pass, all under the same noise.

    pipe: mini-sd, whose latents and prompts are then used; without it ``model`` is a pixel model of pictures of 32 x 32.
    """
    before, after, cond, path = _ends(name, n, pipe, split)
    noise = row_noise(before.shape, seed=0, t=t, rows=range(n), dtype=before.dtype, device=before.device)
    level = torch.full((n,), t)
    a, s = signal_noise(model.schedule, level, before)
    _, here = bottleneck(model, a * before + s * noise, level, cond, path)
    h, there = bottleneck(model, a * after + s * noise, level, cond, path)
    return here, there, bottleneck(model, a * before + s * noise, level, cond, path, h)[1]


def _ends(name: str, n: int, pipe: Any, split: str) -> tuple[Tensor, Tensor, Any, str]:
    """Sources, right answers, condition of both, and the path of the bottleneck."""
    pairs = direction_pairs(name, n, split=split)
    if pipe is None:
        before, after = (render(scenes, 32).images for scenes in (pairs.source, pairs.target))
        return before, after, None, PIXEL_MIDDLE
    before, after = (encode(pipe.vae, render(scenes).images) for scenes in (pairs.source, pairs.target))
    return before, after, encode_prompt(pipe, pairs.prompts), MIDDLE


@torch.no_grad()
def shares(model: Any, name: str, timesteps: Sequence[int], n: int, *, pipe: Any = None, split: str = "valid") -> Tensor:
    """(n, len(timesteps)): the causal share of each pair of the direction ``name``.

    pipe: mini-sd, whose latents and prompts are then used; without it ``model`` is a pixel model of pictures of 32 x 32.
    """
    *ends, cond, path = _ends(name, n, pipe, split)
    return torch.stack([causal_share(model, *ends, cond, t, path=path) for t in timesteps], 1)


# Strength --------------------------------------------------------------------------------------------------------------------


def linear_step(abar: Tensor, prev: Tensor, spread: float) -> Tensor:
    """A DDIM step's factor dx'/dx on Gaussian data of standard deviation ``spread``, where the best eps is linear in x."""
    slope = (1 - abar).sqrt() / (abar * spread**2 + 1 - abar)                        # eps = slope x
    return (prev / abar).sqrt() * (1 - (1 - abar).sqrt() * slope) + (1 - prev).sqrt() * slope


def end_ratio(schedule: Schedule, steps: int, *, push: Tensor | None = None, spread: float = 1.0, **conventions: Any) -> float:
    """How much further the asymmetric run ends than the symmetric one, on Gaussian data, for a push of eps at every step.

    push: (steps,), the change of eps at each step, in one direction; None: equal pushes. Both are sums over the steps of
    strength x push x the factors of the later steps; the ratio of the two sums. conventions: as ``visits`` takes them.
    """
    route = visits(schedule, steps, **conventions)
    abar, prev = torch.tensor([[v.abar, v.abar_prev] for v in route], dtype=torch.float64).T
    through = (prev * (1 - abar) / abar).sqrt()
    factors = linear_step(abar, prev, spread).roll(-1)
    factors[-1] = 1                                                                  # no step comes after the last
    weight = factors.flip(0).cumprod(0).flip(0) * (1.0 if push is None else push.double())
    return float((through * weight).sum() / ((through - (1 - prev).sqrt()) * weight).sum())


class Response(NamedTuple):
    """How n runs answer a small shift. asymmetric, symmetric (n,): how far the end moves along the asymmetric one's own
    direction; push (steps,): the mean change of eps at each step; spread: standard deviation of the data."""

    asymmetric: Tensor
    symmetric: Tensor
    push: Tensor
    spread: float


@torch.no_grad()
def response(pipe: Any, found: Inverted, delta: Tensor | Delta, strength: float, *, steps: int = STEPS) -> Response:
    """Run with the shift (both ways) and without it, and measure how far the ends are apart."""

    class _Push(Hook):
        """The change of eps that the shift makes, rows' mean length, at each step."""

        def __init__(self) -> None:
            self.sizes: list[float] = []

        def before_step(self, z: Any, ctx: StepContext, predict: Any) -> None:
            self.z = z["source"]

        def on_predict(self, pred: Any, z: Any, ctx: StepContext) -> None:
            plain = pred["source"].eps                                       # of Asymmetric: eps plain, x0 shifted
            shifted = (self.z - ctx.abar**0.5 * pred["source"].x0) / (1 - ctx.abar) ** 0.5
            self.sizes.append(float((shifted - plain).flatten(1).norm(dim=1).mean()))

    prompts, push = found.pairs.prompts, _Push()
    plain = moved(pipe, found.noise, prompts, [delta], 0.0, symmetric=True, steps=steps)
    asym = moved(pipe, found.noise, prompts, [delta], strength, hooks=[push], steps=steps) - plain
    sym = moved(pipe, found.noise, prompts, [delta], strength, symmetric=True, steps=steps) - plain
    way = asym / asym.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    sizes = torch.tensor(push.sizes).reshape(-1, steps).mean(0)
    along = [(x * way).flatten(1).sum(1).double() for x in (asym, sym)]
    return Response(*along, sizes, float(encode(pipe.vae, found.images).std()))

