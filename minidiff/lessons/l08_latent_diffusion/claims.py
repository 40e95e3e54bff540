"""Claims of lesson 08: does mini-sd draw what it is told, what its attention and its bottleneck tell, and what a hint beside
the latent adds (inpainting, super-resolution, layout)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.editions import as_in_training
from minidiff.course.samples import shipped
from minidiff.diffusion import q_sample
from minidiff.errors import BadInput, check_choice
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
from minidiff.latent.nouns import OVERLAP, PEAKS_INSIDE, Nouns, best_site, noun_maps, overlap, peak_inside
from minidiff.latent.pipeline import denoiser, encode_prompt, schedule_from
from minidiff.latent.sample import initial_noise, text_to_image
from minidiff.measure import read
from minidiff.measure.interval import Estimate, bootstrap, wilson
from minidiff.measure.pictures import psnr
from minidiff.measure.prompts import make_prompts, make_scenes, prompt_accuracy, prompt_of
from minidiff.rng import normal
from minidiff.steer import Recorder, Row, Tap
from minidiff.world import BACKDROPS, COLOURS, KINDS, MOODS, Scenes, held_out, render, sample_scenes
from minidiff.world.grammar import RELATIONS

__all__ = ["GUIDANCE", "MODEL", "wanted_scenes", "drawn", "exchanged", "hole_over", "layout_overlap", "probe", "seam",
           "seen_right"]

MODEL, GUIDANCE = "mini-sd", 4.0          # sampled by 25 DDIM steps
CHUNK, BLOCK = 32, 4


# Prompts -> pictures -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def _drawn(name: str, kind: str, start: int, guidance: float) -> Tensor:
    pipe, prompts = shipped(name), make_prompts(start + BLOCK, kind)[start:]
    z = initial_noise(pipe, start + BLOCK, seed=0)[start:]
    return text_to_image(pipe, prompts, guidance=guidance, latents=z)


def drawn(name: str, kind: str, n: int, *, guidance: float = GUIDANCE) -> Tensor:
    """Pictures (n, 3, 64, 64) of ``make_prompts(n, kind)`` by a shipped pipeline, 25 steps; row i starts from noise (0, i).

    Made in blocks that stay in memory, so rows that ask for the same pictures share them.
    """
    check_choice("kind", kind, ("one", "two", "held_out"))
    return torch.cat([_drawn(name, kind, start, guidance) for start in range(0, n, BLOCK)])[:n]


def seen_right(prompts: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """What the final reader says: name -> (B,) bool, as :func:`minidiff.measure.prompts.prompt_accuracy`."""
    return prompt_accuracy(prompts, read(images, shipped("readers/final")).scenes)


def _told(n: int, kind: str, target: str) -> Outcome:
    prompts = make_prompts(n, kind)
    images = drawn(MODEL, kind, n, guidance=GUIDANCE)
    right = seen_right(prompts, images)
    m = wilson(int(right["all"].sum()), n)
    vae = shipped(MODEL).vae
    rendered = render(as_in_training(make_scenes(min(n, 128), kind), MODEL)).images
    ceiling = seen_right(prompts[:128], decode(vae, encode(vae, rendered)).clamp(-1, 1))["all"]
    other = seen_right([*prompts[1:], prompts[0]], images)["all"]
    worst = min((name for name in right if name != "all"), key=lambda name: float(right[name].double().mean()))
    share = float(right[worst].double().mean())
    why = f"most often wrong: {worst} (right in {share:.0%})"
    return Outcome(m.value, m.low, m.high, baseline={"asked for by another prompt": float(other.double().mean())},
                   floor={"rendered, through the autoencoder": float(ceiling.double().mean())}, why=why)


@claim("08.one_thing", "One thing: kind, colour and backdrop as the prompt says (25 steps, w = 4)", unit="share of pictures",
       target=">= 0.97", n=256, small=4, reader="final")
def one_thing(n: int) -> Outcome:
    return _told(n, "one", ">= 0.97")


@claim("08.two_things", "Two things: each kind with its own colour on its own side, and the backdrop (25 steps, w = 4)",
       unit="share of pictures", target=">= 0.90", n=256, small=4, reader="final")
def two_things(n: int) -> Outcome:
    return _told(n, "two", ">= 0.90")


@claim("08.held_out", "Composition: kinds in a colour that they never had in training (25 steps, w = 4)",
       unit="share of pictures", target=">= 0.90", n=240, small=4, reader="final")
def held_out_pairs(n: int) -> Outcome:
    return _told(n, "held_out", ">= 0.90")


def exchanged(prompt: str) -> str:
    """The prompt of :func:`prompt_of` with its relation turned round: "left of" for "right of", "below" for "above"."""
    for word, other in (("left", "right"), ("right", "left"), ("above", "below"), ("below", "above")):
        if (relation := f" {RELATIONS[word][0]} ") in prompt:
            return prompt.replace(relation, f" {RELATIONS[other][0]} ")
    raise BadInput("prompt", repr(prompt), "a prompt of two things and how they stand", "'a red cat left of a blue dog'")


@claim("08.relation", "The relation is read: at t = 850 a scene of two things is guessed better with its prompt than with the "
       "relation in it turned round", unit="share of scenes", target=">= 0.75", n=256, small=8)
def relation_read(n: int) -> Outcome:
    pipe, scenes = shipped(MODEL), as_in_training(make_scenes(n, "two"), MODEL)
    prompts = [prompt_of(scene) for scene in scenes]
    z, schedule, model = encode(pipe.vae, render(scenes).images), schedule_from(pipe.scheduler), denoiser(pipe)
    z_t = q_sample(z, 850, normal(tuple(z.shape), "08 relation"), schedule)

    @torch.no_grad()
    def error(captions: Sequence[str]) -> Tensor:
        guesses = [model(x, torch.full((len(x),), 850), encode_prompt(pipe, captions[i:i + len(x)])).x0
                   for i, x in zip(range(0, n, 32), z_t.split(32), strict=True)]
        return ((torch.cat(guesses) - z) ** 2).flatten(1).mean(1)

    own = error(prompts)
    m = wilson(int((own < error([exchanged(p) for p in prompts])).sum()), n)
    other = float((own < error([*prompts[1:], prompts[0]])).double().mean())
    return Outcome(m.value, m.low, m.high, baseline={"a model that does not read it": 0.5},
                   floor={"the prompt of another scene": other},
                   why="places are told in almost pure noise only, and learned late")


@claim("08.guidance", "Guidance: more pictures show what was asked at w = 4 than at w = 1 (Ho and Salimans 2021)",
       unit="share at w = 4 minus share at w = 1", target=">= 0.05", n=96, small=4, reader="final")
def guidance(n: int) -> Outcome:
    prompts = make_prompts(n, "one")
    weights = (1.0, 2.0, GUIDANCE, 8.0) if n >= 32 else (1.0, GUIDANCE)
    right = {w: seen_right(prompts, drawn(MODEL, "one", n, guidance=w))["all"].double() for w in weights}
    m = bootstrap(torch.mean, right[GUIDANCE] - right[1.0])
    why = "the model follows the prompt nearly as well without guidance"
    return Outcome(m.value, m.low, m.high, baseline={"no gain": 0.0}, why=why,
                   settings={f"share at w = {w:g}": float(v.mean()) for w, v in right.items()})


# Where the nouns look ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _nouns(name: str, n: int) -> tuple[Nouns, dict[str, tuple[str, float]]]:
    """Test scenes, and the sites and thresholds chosen on others (split "valid")."""
    pipe = shipped(name)
    chosen_on = noun_maps(pipe, as_in_training(make_scenes(max(n // 4, 16), "two", split="valid"), name))
    choices = {"best": best_site(chosen_on)}
    for cells in sorted(set(chosen_on.grids.values())):
        if any(n.startswith("up") and g == cells for n, g in chosen_on.grids.items()):
            choices[f"best {cells}x{cells} site"] = best_site(chosen_on, cells=cells)
    return noun_maps(pipe, as_in_training(make_scenes(n, "two"), name)), choices


@claim("08.noun_inside", "A noun's attention has its maximum inside its thing (two things, t = 100 to 200, best decoder site)",
       unit="share of nouns (n = scenes)", target=f">= {PEAKS_INSIDE}", n=256, small=16)
def noun_inside(n: int) -> Outcome:
    nouns, choices = _nouns(MODEL, n)
    hits = {what: peak_inside(nouns.maps[site], nouns.masks) for what, (site, _) in choices.items()}
    m = wilson(int(hits["best"].sum()), len(nouns.masks))
    others = {what: float(v.double().mean()) for what, v in hits.items() if what != "best"}
    baseline = {"any place": float(nouns.masks.double().mean())}
    why = f"the maps of {choices['best'][0]} are too coarse or lie on a neighbour"
    return Outcome(m.value, m.low, m.high, baseline=baseline, settings=others, why=why)


@claim("08.noun_iou", "A noun's attention covers its thing (IoU at one threshold; two things, t = 100 to 200, best decoder site)",
       unit="mean IoU (n = scenes)", target=f">= {OVERLAP}", n=256, small=16)
def noun_iou(n: int) -> Outcome:
    nouns, choices = _nouns(MODEL, n)
    found = {what: overlap(nouns.maps[site], nouns.masks, level) for what, (site, level) in choices.items()}
    m = bootstrap(torch.mean, found["best"])
    others = {what: float(v.mean()) for what, v in found.items() if what != "best"}
    baseline = {"all of the picture": float(nouns.masks.double().mean())}
    why = f"the maps of {choices['best'][0]} are too coarse or lie beside the thing"
    return Outcome(m.value, m.low, m.high, baseline=baseline, settings=others, why=why)


# What the bottleneck knows -------------------------------------------------------------------------------------------------


def _single(n: int, split: str) -> Scenes:
    """n scenes of one thing, with every pattern, mood and thing worn; the first half are animals."""
    animals, others, start = [], [], 0
    while min(sum(map(len, animals)), sum(map(len, others))) < n - n // 2:
        block = sample_scenes(range(start, start + 1024), split=split, level="pairs")
        block = block[block.present.sum(1) == 1]
        animals.append(block[block.mood[:, 0] > 0])
        others.append(block[block.mood[:, 0] == 0])
        start += 1024
    return as_in_training(Scenes.cat([Scenes.cat(animals)[:n // 2], Scenes.cat(others)[:n - n // 2]]), MODEL)


@torch.no_grad()
def _middle(pipe: object, scenes: Scenes, *, worded: bool, t: int = 500, chunk: int = 32) -> Tensor:
    """The mid block's output, averaged over places, for scenes noised to t: (B, channels)."""
    out, schedule = [], schedule_from(pipe.scheduler)
    for start in range(0, len(scenes), chunk):
        part = scenes[start:start + chunk]
        z = encode(pipe.vae, render(part).images)
        z_t = q_sample(z, t, normal(tuple(z.shape), "probe", start, len(scenes)), schedule)
        context = encode_prompt(pipe, [prompt_of(s, mood=True) if worded else "" for s in part])
        with Tap(pipe.unet, seen := Recorder((), modules=["mid_block"]), rows=[Row("source")]):
            pipe.unet(z_t, t, encoder_hidden_states=context)
        out.append(seen.at(0).outputs["mid_block"].mean((2, 3)))
    return torch.cat(out)


def probe(x: Tensor, labels: Tensor, y: Tensor, truth: Tensor, *, decay: float = 3e-4) -> Tensor:
    """(M,) bool: is a linear softmax classifier, fitted to x (N, d) and labels (N,), right about y (M, d)?"""
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    x, y = (x - mean) / std, (y - mean) / std
    weight = torch.zeros(int(max(labels.max(), truth.max())) + 1, x.shape[1] + 1, requires_grad=True)
    fit = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        fit.zero_grad()
        loss = F.cross_entropy(x @ weight[:, 1:].T + weight[:, 0], labels) + decay * weight[:, 1:].square().sum()
        loss.backward()
        return loss

    fit.step(closure)
    return (y @ weight[:, 1:].T + weight[:, 0]).argmax(1) == truth


def _probed(x: Tensor, train: Scenes, y: Tensor, test: Scenes) -> dict[str, Estimate]:
    """Shares of right answers on the test scenes: kind and backdrop of all, mood of the animals."""
    faces, others = (scenes.mood[:, 0] > 0 for scenes in (train, test))
    hits = {"kind": probe(x, train.kind[:, 0], y, test.kind[:, 0]), "backdrop": probe(x, train.backdrop, y, test.backdrop),
            "mood": probe(x[faces], train.mood[faces, 0] - 1, y[others], test.mood[others, 0] - 1)}
    return {name: wilson(int(right.sum()), len(right)) for name, right in hits.items()}


@claim("08.probe", "A linear probe reads kind, mood and backdrop from the mid block at the middle step (t = 500, prompt given)",
       unit="share right, the least of the three", target=">= 0.90", n=768, small=32)
def bottleneck(n: int) -> Outcome:
    pipe, train, test = shipped(MODEL), _single(max(2 * n, 128), "valid"), _single(n, "test")
    shares = {worded: _probed(_middle(pipe, train, worded=worded), train, _middle(pipe, test, worded=worded), test)
              for worded in ((True, False) if n >= 128 else (True,))}
    worst = min(shares[True], key=lambda name: shares[True][name].value)
    m = shares[True][worst]
    baseline = {"guessing": {"kind": 1 / 8, "mood": 1 / len(MOODS), "backdrop": 1 / len(BACKDROPS)}[worst]}
    others = {f"{name}, prompt given": found.value for name, found in shares[True].items() if name != worst}
    others |= {f"{name}, no prompt": found.value for name, found in shares.get(False, {}).items()}
    why = f"{worst} is not linear there, or lost in the noise"
    return Outcome(m.value, m.low, m.high, baseline=baseline, settings=others, why=why)


# Inpainting ----------------------------------------------------------------------------------------------------------------


def wanted_scenes(scenes: Scenes) -> Scenes:
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
    # the ways to mend a border were compared on test scenes
    scenes = as_in_training(make_scenes(n, "two", split="valid"), "mini-inpaint")
    wanted = wanted_scenes(scenes)
    before, after = render(scenes), render(wanted)
    hole = hole_over(torch.maximum(before.masks[:, 1:2], after.masks[:, 1:2]))
    prompts = [prompt_of(scene) for scene in wanted]
    pipe = shipped("mini-inpaint")
    made = _made(pipe, inpaint_hint(pipe.vae, before.images, hole), prompts)
    fits = decoder_blend(pipe.vae, before.images, made, hole)
    return fits, made, before.images, hole, prompts, after.images


def _made(pipe: object, hint: Tensor, prompts: list[str], *, guidance: float = 4.0) -> Tensor:
    return torch.cat([sample_concat(pipe, hint[i:i + CHUNK], prompts[i:i + CHUNK], guidance=guidance, seed=i)
                      for i in range(0, len(prompts), CHUNK)])


def _right(prompts: list[str], images: Tensor) -> Tensor:
    return prompt_accuracy(prompts, read(images, shipped("readers/final")).scenes)["all"]


@claim("08.inpaint", "mini-inpaint paints another thing into a hole over a thing: kind, colour, place as asked (25 steps, w = 4)",
       unit="share of pictures", target=">= 0.90", n=96, small=2, reader="final")
def inpaint(n: int) -> Outcome:
    fits, made, before, hole, prompts, after = _inpainted(n)
    m = wilson(int(_right(prompts, fits).sum()), n)
    baseline = {"nothing painted (the old thing)": float(_right(prompts, before).double().mean()),
                "a grey hole": float(_right(prompts, before * (1 - hole)).double().mean())}
    others = {"pasted as it is": float(_right(prompts, paste(before, made, hole)).double().mean())}
    floor = {"painted by the world": float(_right(prompts, after).double().mean())}
    return Outcome(m.value, m.low, m.high, baseline, floor,
                   "tuned for 16,000 pictures only: some of the new shapes are blots", others)


@claim("08.seam", "mini-inpaint leaves no seam: steps across the border of the hole against steps beside it",
       unit="mean ratio", target="<= 1.2", n=96, small=2)
def seams(n: int) -> Outcome:
    fits, made, before, hole, _, after = _inpainted(n)
    m = bootstrap(torch.mean, seam(fits, hole))
    others = {"pasted as it is": paste(before, made, hole), "tinted only": poisson_blend(before, made, hole)}
    return Outcome(m.value, m.low, m.high,
                   {"filled from another picture": float(seam(paste(before, before.roll(1, 0), hole), hole).mean())},
                   {"painted by the world": float(seam(after, hole).mean())},
                   "what the model makes beside the border is not what is there: tuned for 16,000 pictures only",
                   {name: float(seam(x, hole).mean()) for name, x in others.items()})


# Super-resolution and layout -------------------------------------------------------------------------------------------------


def _upscaled(n: int, factor: int, target: str) -> Outcome:
    scenes = as_in_training(make_scenes(n, "two"), f"mini-upscale-x{factor}")
    images, pipe = render(scenes).images, shipped(f"mini-upscale-x{factor}")
    small = F.avg_pool2d(images, factor)
    drawn = _made(pipe, lowres_hint(small, (16, 16)), [prompt_of(scene) for scene in scenes], guidance=1.0)
    with torch.no_grad():
        back = decode(pipe.vae, encode(pipe.vae, images)).clamp(-1, 1)
    bicubic = F.interpolate(small, size=64, mode="bicubic", antialias=False).clamp(-1, 1)

    def gain(made: Tensor) -> Tensor:
        return psnr(images, made) - psnr(images, bicubic)

    m = bootstrap(torch.mean, gain(back_project(small, drawn)))
    baseline = {"bicubic": bicubic, "nearest pixel": F.interpolate(small, size=64)}
    others = {"bicubic, made true": back_project(small, bicubic), "not made true": drawn}
    floor = {"the autoencoder's round trip": back, "the same, made true": back_project(small, back)}
    baseline, floor, others = ({name: float(gain(x).mean()) for name, x in row.items()} for row in (baseline, floor, others))
    return Outcome(m.value, m.low, m.high, baseline, floor,
                   "tuned for a few thousand pictures only; the autoencoder itself loses fine detail", others)


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
    seen = read(images, shipped("readers/final"))
    ious = []
    for k in range(masks.shape[1]):
        same = (seen.scenes.kind == scenes.kind[:, k:k + 1]) & seen.scenes.present
        found = (seen.masks * same[:, :, None, None]).amax(1) > 0.5
        requested = masks[:, k] > 0.5
        ious.append((found & requested).sum((1, 2)) / (found | requested).sum((1, 2)).clamp(min=1))
    there = scenes.present.float()
    return (torch.stack(ious, 1) * there).sum(1) / there.sum(1)


@claim("08.layout", "mini-layout puts each thing where the map of kinds says, in two-thing scenes (25 steps, w = 4)",
       unit="mean IoU", target=">= 0.6", n=64, small=2, reader="final")
def layout(n: int) -> Outcome:
    scenes = as_in_training(make_scenes(n, "two"), "mini-layout")
    drawn, pipe = render(scenes), shipped("mini-layout")
    made = _made(pipe, layout_hint(scenes.kind, drawn.masks, (16, 16)), [prompt_of(scene) for scene in scenes])
    m = bootstrap(torch.mean, layout_overlap(made, scenes, drawn.masks).double())
    other = layout_overlap(made.roll(1, 0), scenes, drawn.masks).mean()
    return Outcome(m.value, m.low, m.high, {"another scene's picture": float(other)},
                   {"the world's own pictures": float(layout_overlap(drawn.images, scenes, drawn.masks).mean())},
                   "tuned for 12,000 pictures only: things are there, but too often not read as the kind asked for")
