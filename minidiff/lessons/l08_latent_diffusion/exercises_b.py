"""Exercises of lesson 08, second part: a map against a mask, a wider first convolution, inpainting without training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.tasks import Mistake, call, exercise, expect, expect_number, number
from minidiff.rng import normal

__all__: list[str] = []


def _blob() -> tuple[Tensor, Tensor]:
    """A map (4, 6) and a mask (16, 24) that overlap in part."""
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    maps = (0.02 + 0.3 * torch.exp(-((y - 1.3) ** 2 + 0.6 * (x - 3.8) ** 2))).double()
    mask = torch.zeros(16, 24, dtype=torch.float64)
    mask[2:11, 10:18] = 1
    return maps, mask


def _iou(maps: Tensor, mask: Tensor, threshold: float, *, low: float = 0.0, top: float | None = None,
         combine: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
    big = maps.repeat_interleave(mask.shape[0] // maps.shape[0], 0).repeat_interleave(mask.shape[1] // maps.shape[1], 1)
    on, off = (big - low) / ((float(big.max()) if top is None else top) - low) >= threshold, mask > 0.5
    return (combine or (lambda a, b: (a & b).sum() / (a | b).sum()))(on, off).double()


@exercise("08.map_iou", "How well does a map cover its thing?", name="map_iou", points=2,
          stub='''
def map_iou(attention, mask, threshold):
    """attention: a map (h, w); mask: (H, W) of 0 and 1, where H and W are multiples of h and w. Returns a number.

    Enlarge the map to the mask's size (each value fills its block), divide it by its maximum, call a pixel "on" where it
    is at least `threshold`, and give intersection over union with the mask.
    """
    ...
''',
          solution='''
import torch

def map_iou(attention, mask, threshold):
    """attention: a map (h, w); mask: (H, W) of 0 and 1, where H and W are multiples of h and w. Returns a number.

    Enlarge the map to the mask's size (each value fills its block), divide it by its maximum, call a pixel "on" where it
    is at least `threshold`, and give intersection over union with the mask.
    """
    big = torch.nn.functional.interpolate(attention[None, None], size=mask.shape, mode="nearest")[0, 0]
    on = big / big.max() >= threshold
    thing = mask > 0.5
    return (on & thing).sum() / (on | thing).sum()
''',
          hints=("interpolate(attention[None, None], size=mask.shape, mode='nearest')[0, 0], or repeat_interleave twice.",
                 "Attention is shared out over 34 tokens, so a map's values are small: divide by the maximum first.",
                 "Of two truth-valued tensors, & is the intersection and | the union."))
def _map_iou(fn: Callable) -> None:
    maps, mask = _blob()
    for threshold in (0.4, 0.7):
        got = call(fn, maps, mask, threshold, shape=())

        def other(combine: Callable[[Tensor, Tensor], Tensor], t: float = threshold) -> Tensor:
            return _iou(maps, mask, t, combine=combine)

        raw = _iou(maps, mask, threshold, top=1.0)

        expect(got, _iou(maps, mask, threshold), wrong={
            "The map is not divided by its maximum, so almost nothing reaches the threshold.": raw,
            "You stretch the map from its minimum to its maximum; divide by the maximum only.":
                _iou(maps, mask, threshold, low=float(maps.min())),
            "That is the Dice overlap, 2 |A and B| / (|A| + |B|).": other(lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum())),
            "You divide by the mask's area: that is the share of the thing that is covered.":
                other(lambda a, b: (a & b).sum() / b.sum()),
            "You divide by what is on: that is the share of the map that lies on the thing.":
                other(lambda a, b: (a & b).sum() / a.sum()),
            "You count the pixels that agree, also those where both are off.": other(lambda a, b: (a == b).double().mean()),
            "You divide by all pixels of the picture.": other(lambda a, b: (a & b).double().mean()),
            "The pixels below the threshold are on.": other(lambda a, b: (~a & b).sum() / (~a | b).sum()),
        }, otherwise="Not the intersection over union; try a map that is the mask itself, which must give 1.")
        same = call(fn, F.max_pool2d(mask[None], 2)[0], F.max_pool2d(mask[None], 2)[0], threshold)
        expect(same, torch.tensor(1.0), otherwise="A map that is the mask itself must give 1.")


@exercise("08.unet_rows", "What a batch costs", name="answer",
          stub='''
# Pictures that the U-Net sees (rows of its batches, added up over all steps) for 8 prompts, 25 DDIM steps, guidance w = 4.
answer = ...
''',
          solution='''
answer = 8 * 25 * 2      # two rows a prompt and step: one with the prompt, one with the empty prompt
''',
          hints=("How many predictions does one guided step need?", "25 steps, 8 prompts, two predictions each."))
def _rows(value: Any) -> None:
    expect_number(value, 400, tol=0.5, wrong={
        "Guidance needs two predictions a step: with the prompt and without.": 200,
        "The empty prompt needs a row beside every prompt, because each picture has its own latent.": 225,
        "w is a weight, not a number of calls.": 800,
        "That counts the calls; each call holds all prompts, twice.": 25,
        "That counts the calls as if each row came alone and only once a step: add up rows over the steps.": 16,
        "w + 1 rows a prompt? Whatever w is, there are two predictions.": 1000,
        "One call holds both halves, but it still has 16 rows.": 50,
    }, otherwise="Rows a step, times steps.")


@exercise("08.widen", "A wider first convolution", name="widen", points=2,
          stub='''
def widen(weight, extra):
    """weight: (O, C, k, k) of a convolution. Returns (O, C + extra, k, k): `extra` more input channels after the old ones,

    such that the convolution says what it said before, whatever the new channels hold.
    """
    ...
''',
          solution='''
import torch

def widen(weight, extra):
    """weight: (O, C, k, k) of a convolution. Returns (O, C + extra, k, k): `extra` more input channels after the old ones,

    such that the convolution says what it said before, whatever the new channels hold.
    """
    o, c, k, _ = weight.shape
    return torch.cat((weight, weight.new_zeros(o, extra, k, k)), dim=1)
''',
          hints=("The input channels are dimension 1.", "Whatever the new channels hold: their weights are zero."))
def _widen(fn: Callable) -> None:
    weight, extra = normal((6, 4, 3, 3), "lesson 08 widen", 0, dtype=torch.float64), 5
    if tuple(getattr(out := fn(weight.clone(), extra), "shape", ())) == (6 + extra, 4, 3, 3):
        raise Mistake("The output channels grew; dimension 1 holds the input channels.")
    got = call(fn, weight, extra, shape=(6, 4 + extra, 3, 3))
    zeros = torch.zeros(6, extra, 3, 3, dtype=torch.float64)
    mean = weight.mean(1, keepdim=True).expand(-1, extra, -1, -1)
    expect(got, torch.cat((weight, zeros), 1), wrong={
        "The new channels stand before the old ones, so the latent meets weights of zero.": torch.cat((zeros, weight), 1),
        "The new channels are copies of old weights; then the output changes with what they hold.":
            torch.cat((weight, weight[:, :1].expand(-1, extra, -1, -1)), 1),
        "The new weights are the mean of the old ones; they must not change the output at all.": torch.cat((weight, mean), 1),
        "The old weights were made smaller; they must stay as they are.": torch.cat((weight * 4 / 9, zeros), 1),
        "All weights are zero: the old ones must stay.": torch.cat((0 * weight, zeros), 1),
        "The new weights are ones.": torch.cat((weight, zeros + 1), 1),
    }, otherwise="The new weights are not zero, so the output changes with what the new channels hold. Random weights are right "
                 "for a new network, not for one that is to go on from where it was.")
    if out.dtype != weight.dtype:
        raise Mistake(f"The weights came as {weight.dtype} and go as {out.dtype}.")


@exercise("08.blend", "Known part, made part", name="blend", points=3,
          stub='''
def blend(z_prev, known, noise, mask, abar_prev):
    """One correction after a sampling step. z_prev: the latent that the step made, at noise level abar_prev (B, C, h, w);
    known: the clean latent of the picture; noise: like it; mask: (B, 1, h, w), 1 where the picture is to be made anew.

    Returns the latent that keeps z_prev inside the mask and the known picture, noised to the same level, outside.
    """
    ...
''',
          solution='''
def blend(z_prev, known, noise, mask, abar_prev):
    """One correction after a sampling step. z_prev: the latent that the step made, at noise level abar_prev (B, C, h, w);
    known: the clean latent of the picture; noise: like it; mask: (B, 1, h, w), 1 where the picture is to be made anew.

    Returns the latent that keeps z_prev inside the mask and the known picture, noised to the same level, outside.
    """
    noised = abar_prev ** 0.5 * known + (1 - abar_prev) ** 0.5 * noise
    return mask * z_prev + (1 - mask) * noised
''',
          hints=("Two lines: noise the known latent to the level of z_prev, then choose by the mask.",
                 "The forward process of notebook 01: sqrt(abar) x0 + sqrt(1 - abar) noise."))
def _blend(fn: Callable) -> None:
    z, known, noise = normal((3, 2, 4, 6, 6), "lesson 08 blend", 0, dtype=torch.float64)
    mask = torch.zeros(2, 1, 6, 6, dtype=torch.float64)
    mask[0, :, 1:4, 2:] = 1
    mask[1, :, 3:] = 1
    for a in (0.3, 0.9):
        noised = a**0.5 * known + (1 - a) ** 0.5 * noise

        def put(outside: Tensor, inside: Tensor = z) -> Tensor:
            return mask * inside + (1 - mask) * outside

        expect(call(fn, z, known, noise, mask, number(a), shape=z.shape), put(noised), wrong={
            "The known latent is put in clean; the network then sees a picture with two noise levels.": put(known),
            "The mask is the wrong way round: 1 is where the picture is made anew.": put(z, noised),
            "abar is a variance: the factors are its square root and that of 1 - abar.": put(a * known + (1 - a) * noise),
            "The two factors are exchanged.": put((1 - a) ** 0.5 * known + a**0.5 * noise),
            "The noise is missing its factor sqrt(1 - abar).": put(a**0.5 * known + noise),
            "The noise is missing.": put(a**0.5 * known),
            "The made part is noised once more; z_prev is at its level already.":
                put(noised, a**0.5 * z + (1 - a) ** 0.5 * noise),
            "The known part is added to all of z_prev; inside the mask only z_prev stays.": z + (1 - mask) * noised,
            "The two are averaged; the mask has no effect.": (z + noised) / 2,
        }, otherwise="Inside the mask z_prev, outside q(z | known) at abar_prev, nothing else.")


@exercise("08.paste", "Bit for bit", name="paste",
          stub='''
def paste(known, made, mask):
    """known, made: pictures (B, 3, H, W); mask: (B, 1, H, W), 1 where the picture was made anew.

    Returns `made` inside the mask and the pixels of `known`, bit for bit, outside.
    """
    ...
''',
          solution='''
import torch

def paste(known, made, mask):
    """known, made: pictures (B, 3, H, W); mask: (B, 1, H, W), 1 where the picture was made anew.

    Returns `made` inside the mask and the pixels of `known`, bit for bit, outside.
    """
    return torch.where(mask > 0.5, made, known)
''',
          hints=("A choice, not a sum.", "torch.where(mask > 0.5, ..., ...)"))
def _paste(fn: Callable) -> None:
    known, made = normal((2, 2, 3, 8, 8), "lesson 08 paste", 0).clamp(-1, 1)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 2:6, 1:5] = 1
    mask[1, :, :, 4:] = 1
    got = call(fn, known, made, mask, shape=known.shape)
    inside, soft = mask.expand(-1, 3, -1, -1) > 0.5, F.avg_pool2d(mask, 3, 1, 1)
    want = torch.where(inside, made, known)
    expect(got, want, wrong={
        "The mask is the wrong way round: 1 is where the picture was made anew.": torch.where(inside, known, made),
        "That is the made picture; nothing is pasted back.": made,
        "That is the known picture; nothing of the made one is left.": known,
        "The two are averaged; the mask has no effect.": (made + known) / 2,
        "Inside, both are added; there only the made picture counts.": known + mask * made,
        "The edge of the mask is softened: that hides the seam, but known pixels change.": soft * made + (1 - soft) * known,
    }, tol=0.02, otherwise="Inside the mask the made pixels, outside the known ones, nothing else.")
    if not torch.equal(got[~inside], known[~inside].double()):
        raise Mistake("Right to rounding, but not bit for bit: the known pixels must come back exactly as they were.")
