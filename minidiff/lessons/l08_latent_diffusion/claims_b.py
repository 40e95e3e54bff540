"""Claims of lesson 08 on the models that see a hint beside the latent: inpainting, super-resolution, layout."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.claims import Outcome, claim, meets
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.concat import (
    back_project,
    decoder_blend,
    inpaint_hint,
    layout_hint,
    lowres_hint,
    paste,
    poisson_blend,
    sample_concat,
)
from minidiff.measure import read
from minidiff.measure.interval import bootstrap, wilson
from minidiff.measure.pictures import psnr
from minidiff.measure.prompts import make_scenes, prompt_accuracy, prompt_of
from minidiff.world import COLOURS, KINDS, Scenes, held_out, render
from minidiff.zoo import load

__all__ = ["asked_for", "hole_over", "layout_overlap", "seam"]

CHUNK = 32


# Inpainting ----------------------------------------------------------------------------------------------------------------


def asked_for(scenes: Scenes) -> Scenes:
    """The same scenes with another second thing: the kind and the colour five and three places on, one step further where
    the other thing has the kind already or training never saw the pair."""
    out = []
    kinds, colours = tuple(KINDS), tuple(COLOURS)
    for scene in scenes:
        kept, gone = scene.things[:2]
        k, c = kinds.index(gone.kind) + 5, colours.index(gone.colour) + 3
        while kinds[k % len(kinds)] in (kept.kind, gone.kind) or held_out(kinds[k % len(kinds)], colours[c % len(colours)]):
            k += 1
        out.append(scene.replace_thing(1, kind=kinds[k % len(kinds)], colour=colours[c % len(colours)], mood="none",
                                       wears="nothing"))
    return Scenes.of(out)


def hole_over(masks: Tensor, *, reach: int = 4) -> Tensor:
    """A hole (B, 1, H, W) of 0 and 1 over things: their masks (B, 1, H, W) and ``reach`` pixels more."""
    return (F.max_pool2d(masks, 2 * reach + 1, 1, reach) > 0.1).float()


def seam(images: Tensor, mask: Tensor, *, reach: int = 3) -> Tensor:
    """(B,): mean step between neighbouring pixels across the border of ``mask``, over the mean step beside the border.

    Steps are absolute differences, averaged over channels. Beside: both pixels on one side, and within ``reach`` pixels of
    the border. 1 means that the border cannot be told from its surroundings; real pictures vary around 1.
    """
    total = {"across": images.new_zeros(len(images), 2), "beside": images.new_zeros(len(images), 2)}
    near = F.max_pool2d(mask, 2 * reach + 1, 1, reach) + F.max_pool2d(-mask, 2 * reach + 1, 1, reach)   # grown minus shrunk
    for dim in (-1, -2):
        n = images.shape[dim] - 1
        pairs = [(x.narrow(dim, 0, n), x.narrow(dim, 1, n)) for x in (images, mask, near)]
        step = (pairs[0][0] - pairs[0][1]).abs().mean(1, keepdim=True)
        crosses = (pairs[1][0] != pairs[1][1]).to(images)
        beside = (1 - crosses) * (pairs[2][0] * pairs[2][1] > 0)
        for name, where in (("across", crosses), ("beside", beside)):
            total[name] += torch.stack(((step * where).sum((1, 2, 3)), where.sum((1, 2, 3))), 1)
    means = {name: value[:, 0] / value[:, 1].clamp(min=1) for name, value in total.items()}
    return means["across"] / means["beside"].clamp(min=1e-6)


@functools.lru_cache(maxsize=2)
def _inpainted(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str], Tensor]:
    """(harmonised, as it was made, the pictures, the holes, the prompts, what the world would paint) for n scenes of two."""
    scenes = make_scenes(n, "two", split="valid")   # the ways to mend a border were compared on test scenes
    wanted = asked_for(scenes)
    before, after = render(scenes), render(wanted)
    hole = hole_over(torch.maximum(before.masks[:, 1:2], after.masks[:, 1:2]))
    prompts = [prompt_of(scene) for scene in wanted]
    pipe = load("mini-inpaint")
    made = _made(pipe, inpaint_hint(pipe.vae, before.images, hole), prompts)
    fits = decoder_blend(pipe.vae, before.images, made, hole)
    return fits, made, before.images, hole, prompts, after.images


def _made(pipe: object, hint: Tensor, prompts: list[str], *, guidance: float = 4.0) -> Tensor:
    return torch.cat([sample_concat(pipe, hint[i:i + CHUNK], prompts[i:i + CHUNK], guidance=guidance, seed=i)
                      for i in range(0, len(prompts), CHUNK)])


def _right(prompts: list[str], images: Tensor) -> Tensor:
    return prompt_accuracy(prompts, read(images, load("readers/final")).scenes)["all"]


@claim("08.inpaint", "mini-inpaint paints another thing into a hole over a thing: kind, colour, place as asked (25 steps, w = 4)",
       unit="share of pictures", target=">= 0.90", n=96, small=2, reader="final")
def inpaint(n: int) -> Outcome:
    fits, made, before, hole, prompts, after = _inpainted(n)
    m = wilson(int(_right(prompts, fits).sum()), n)
    baseline = {"nothing painted (the old thing)": float(_right(prompts, before).double().mean()),
                "a grey hole": float(_right(prompts, before * (1 - hole)).double().mean()),
                "pasted as it is": float(_right(prompts, paste(before, made, hole)).double().mean())}
    floor = {"painted by the world": float(_right(prompts, after).double().mean())}
    return Outcome(m.value, m.low, m.high, baseline, floor,
                   "" if meets(m.value, ">= 0.90") else
                   "tuned for 16,000 pictures only: some of the new shapes are blots")


@claim("08.seam", "mini-inpaint leaves no seam: steps across the border of the hole against steps beside it",
       unit="mean ratio", target="<= 1.2", n=96, small=2)
def seams(n: int) -> Outcome:
    fits, made, before, hole, _, after = _inpainted(n)
    m = bootstrap(torch.mean, seam(fits, hole))
    others = {"pasted as it is": paste(before, made, hole), "tinted only": poisson_blend(before, made, hole),
              "filled from another picture": paste(before, before.roll(1, 0), hole)}
    baseline = {name: float(seam(x, hole).mean()) for name, x in others.items()}
    return Outcome(m.value, m.low, m.high, baseline,
                   {"painted by the world": float(seam(after, hole).mean())},
                   "" if meets(m.value, "<= 1.2") else
                   "what the model makes beside the border is not what is there: tuned for 16,000 pictures only")


# Super-resolution and layout -------------------------------------------------------------------------------------------------


def _upscaled(n: int, factor: int, target: str) -> Outcome:
    scenes = make_scenes(n, "two")
    images, pipe = render(scenes).images, load(f"mini-upscale-x{factor}")
    small = F.avg_pool2d(images, factor)
    drawn = _made(pipe, lowres_hint(small, (16, 16)), [prompt_of(scene) for scene in scenes], guidance=1.0)
    with torch.no_grad():
        back = decode(pipe.vae, encode(pipe.vae, images)).clamp(-1, 1)
    bicubic = F.interpolate(small, size=64, mode="bicubic", antialias=False).clamp(-1, 1)

    def gain(made: Tensor) -> Tensor:
        return psnr(images, made) - psnr(images, bicubic)

    m = bootstrap(torch.mean, gain(back_project(small, drawn)))
    baseline = {"bicubic": bicubic, "nearest pixel": F.interpolate(small, size=64),
                "bicubic, made true": back_project(small, bicubic), "not made true": drawn}
    floor = {"the autoencoder's round trip": back, "the same, made true": back_project(small, back)}
    baseline, floor = ({name: float(gain(x).mean()) for name, x in row.items()} for row in (baseline, floor))
    return Outcome(m.value, m.low, m.high, baseline, floor, "" if meets(m.value, target) else
                   "tuned for a few thousand pictures only; the autoencoder itself loses fine detail")


@claim("08.upscale_x4", "mini-upscale-x4 (16 to 64 pixels, 25 steps, w = 1, made true to the small picture) is closer to the "
       "picture than bicubic enlargement", unit="dB PSNR over bicubic", target=">= 3", n=128, small=2)
def upscale_x4(n: int) -> Outcome:
    return _upscaled(n, 4, ">= 3")


@claim("08.upscale_x2", "mini-upscale-x2 (32 to 64 pixels, 25 steps, w = 1, made true to the small picture) is closer to the "
       "picture than bicubic enlargement", unit="dB PSNR over bicubic", target=">= 0", n=128, small=2)
def upscale_x2(n: int) -> Outcome:
    return _upscaled(n, 2, ">= 0")


def layout_overlap(images: Tensor, scenes: Scenes, masks: Tensor) -> Tensor:
    """(B,): how well things stand where they were asked: IoU of each thing's mask with what the final reader sees of its kind.

    images (B, 3, H, W); masks (B, 3, H, W) of the scenes' things; the mean over the things of a scene.
    """
    seen = read(images, load("readers/final"))
    ious = []
    for k in range(masks.shape[1]):
        same = (seen.scenes.kind == scenes.kind[:, k:k + 1]) & seen.scenes.present
        found = (seen.masks * same[:, :, None, None]).amax(1) > 0.5
        asked = masks[:, k] > 0.5
        ious.append((found & asked).sum((1, 2)) / (found | asked).sum((1, 2)).clamp(min=1))
    there = scenes.present.float()
    return (torch.stack(ious, 1) * there).sum(1) / there.sum(1)


@claim("08.layout", "mini-layout puts each thing where the map of kinds says, in two-thing scenes (25 steps, w = 4)",
       unit="mean IoU", target=">= 0.6", n=64, small=2, reader="final")
def layout(n: int) -> Outcome:
    scenes = make_scenes(n, "two")
    drawn, pipe = render(scenes), load("mini-layout")
    made = _made(pipe, layout_hint(scenes.kind, drawn.masks, (16, 16)), [prompt_of(scene) for scene in scenes])
    m = bootstrap(torch.mean, layout_overlap(made, scenes, drawn.masks).double())
    other = layout_overlap(made.roll(1, 0), scenes, drawn.masks).mean()
    return Outcome(m.value, m.low, m.high, {"another scene's picture": float(other)},
                   {"the world's own pictures": float(layout_overlap(drawn.images, scenes, drawn.masks).mean())},
                   "" if meets(m.value, ">= 0.6") else
                   "tuned for 12,000 pictures only: things are there, but too often not read as the kind asked for")
