"""Claims of lesson 13: moved as far as asked, the other thing left alone, both at once, size, and a look from another picture.

The scale, the share of steps and the weights were tuned on prompts of split "valid"; the rows use split "test".
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.samples import shipped
from minidiff.editing import appearance_of, self_guidance
from minidiff.editing.result import decode_images
from minidiff.errors import require
from minidiff.latent.sample import denoise, text_to_image
from minidiff.lessons.l13_self_guidance.data import SIDE, Requested, colours_of, noise_of, positions, requested
from minidiff.measure import Reader
from minidiff.measure.interval import bootstrap, wilson
from minidiff.measure.prompts import make_scenes, prompt_of
from minidiff.world import COLOUR_NAMES, KINDS, held_out

__all__ = ["Moves", "joint", "measured", "slope"]

MODEL, STEPS, GUIDANCE, SEED, NEAR = "mini-sd", 20, 4.0, 130, 2.0      # NEAR: pixels


class Moves(NamedTuple):
    """What a method did to n rows, in pixels: requested (n, 2); got, drift (n, 2) of moved and kept thing, NaN if gone."""

    requested: Tensor
    got: Tensor
    drift: Tensor


def measured(rows: Requested, images: Tensor, reader: Reader) -> Moves:
    """Read the pictures again and compare with ``rows.before``."""
    moved, kept = (SIDE * (positions(images, nouns, reader) - rows.before[which])[:, :2]
                   for nouns, which in ((rows.moved, "moved"), (rows.kept, "kept")))
    return Moves(SIDE * rows.shifts, moved, kept)


def slope(requested: Tensor, got: Tensor) -> Tensor:
    """Least squares through the origin of what was got on what was asked (n, 2); rows that are NaN are left out."""
    there = ~got.isnan().any(1)
    return (requested[there] * got[there]).sum() / requested[there].square().sum()


def joint(m: Moves) -> Tensor:
    """(n,) bool: both things found, the one within NEAR pixels of where it should be, the other within NEAR of where it was."""
    return ((m.got - m.requested).norm(dim=1) < NEAR) & (m.drift.norm(dim=1) < NEAR)


def _edited(rows: Requested, *, keep: bool, chunk: int = 16) -> Tensor:
    out = []
    for i in range(0, len(rows.prompts), chunk):
        part = slice(i, i + chunk)
        made = self_guidance(shipped(MODEL), rows.prompts[part], move={rows.moved[part]: rows.shifts[part]},
                             keep=[rows.kept[part]] if keep else [], latents=rows.noise[part], steps=STEPS, guidance=GUIDANCE)
        out.append(made.edit)
    return torch.cat(out)


def _rolled(rows: Requested) -> Tensor:
    """The trivial way: the noise moved by the same shift, to whole cells, wrapped round; sampled plainly."""
    cells = (rows.shifts * rows.noise.shape[-1]).round().int().tolist()
    z = torch.stack([x.roll((dy, dx), (1, 2)) for x, (dx, dy) in zip(rows.noise, cells, strict=True)])
    return text_to_image(shipped(MODEL), rows.prompts, latents=z, steps=STEPS, guidance=GUIDANCE)


@functools.lru_cache(maxsize=2)
def _rows(n: int) -> Requested:
    return requested(shipped(MODEL), n, shipped("readers/final"), seed=SEED, steps=STEPS, guidance=GUIDANCE, chunk=min(2 * n, 16))


def _first(rows: Requested, n: int) -> Requested:
    before = {name: place[:n] for name, place in rows.before.items()}
    return Requested(rows.prompts[:n], rows.moved[:n], rows.kept[:n], rows.shifts[:n], rows.noise[:n], before, rows.images[:n])


@functools.lru_cache(maxsize=8)
def _moves(n: int, method: str) -> Moves:
    """method: "guided", "rolled", or "free": guided without the keep term, on half of the rows."""
    rows = _first(_rows(n), n // 2) if method == "free" else _rows(n)
    images = _rolled(rows) if method == "rolled" else _edited(rows, keep=method == "guided")
    return measured(rows, images, shipped("readers/final"))


def _against(n: int, statistic: Any) -> dict[str, dict[str, float]]:
    """What the guided rows are compared with: the trivial way, and without the keep term where n is large enough."""
    free = {f"nothing kept, N = {n // 2}": float(statistic(_moves(n, "free")))} if n >= 16 else {}
    return {"baseline": {"noise rolled by the same shift": float(statistic(_moves(n, "rolled")))}, "settings": free}


def _enough(n: int, found: Tensor) -> Tensor:
    """found (n,) bool, as it came; fewer than two leave nothing to measure."""
    require(int(found.sum()) >= 2, "n", f"{n}, of which {int(found.sum())} things are found again", "two found ones at least",
            f"n={4 * n}")
    return found


@claim("13.slope", "A thing moves as far as it is asked to: realised over requested shift, things that are found (Epstein et al. "
       "2023, fig. 4)", unit="slope (1: as far as asked)", target="1.0 +- 0.1", n=64, small=3, reader="final")
def move_slope(n: int) -> Outcome:
    m = _moves(n, "guided")
    there = _enough(n, ~m.got.isnan().any(1))
    found = bootstrap(slope, m.requested[there], m.got[there], paired=True)
    lost = int(m.got.isnan().any(1).sum())
    return Outcome(found.value, found.low, found.high, **_against(n, lambda v: slope(v.requested, v.got)),
                   why=f"{lost} of {n} things were not found again")


@claim("13.others", "The other thing stays where it was: its median distance, where it is found", unit="pixels (of 64)",
       target="<= 1", n=64, small=3, reader="final")
def others_stay(n: int) -> Outcome:
    def median(m: Moves) -> Tensor:
        return m.drift.norm(dim=1).nanmedian()

    m = _moves(n, "guided").drift.norm(dim=1)
    found = bootstrap(torch.median, m[_enough(n, ~m.isnan())])
    return Outcome(found.value, found.low, found.high, **_against(n, median), why="the keep term is met on maps, not on pixels")


@claim("13.joint", "Strictly: both things are found, one within 2 pixels of where it should be, the other of where it was",
       unit="share of pictures", target=">= 0.6", n=64, small=3, reader="final")
def both(n: int) -> Outcome:
    m = _moves(n, "guided")
    found = wilson(int(joint(m).sum()), n)
    there = float((~(m.got + m.drift).isnan().any(1)).double().mean())
    near = float(((m.got - m.requested).norm(dim=1) < NEAR).double().mean())
    return Outcome(found.value, found.low, found.high, **_against(n, lambda v: joint(v).double().mean()),
                   why=f"both things are still found in {there:.0%}, the moved one is within {NEAR:g} pixels in {near:.0%}")


class Looks(NamedTuple):
    """One thing a picture, to be given the colour that the same kind has in another picture."""

    prompts: list[str]
    others: list[str]
    captions: list[str]
    nouns: tuple[str, ...]
    colours: list[str]


def _looks(n: int) -> Looks:
    """The source prompt leaves the colour out, so that nothing that is said contradicts the look; the other prompt says it."""
    scenes, rows = list(make_scenes(n, "one")), []
    for i, scene in enumerate(scenes):
        thing = scene.things[0]
        free = [c for c in COLOUR_NAMES if c != thing.colour and not held_out(thing.kind, c)]
        colour = free[(5 * i + 2) % len(free)]
        other, bare = prompt_of(scene.replace_thing(0, colour=colour), backdrop=False), prompt_of(scene)
        rows.append((bare.replace(f"{thing.colour} ", "", 1), other, prompt_of(scene.replace_thing(0, colour=colour)), thing.kind,
                     colour))
    prompts, others, captions, nouns, colours = (list(column) for column in zip(*rows, strict=True))
    fixed = [("an " if p.split()[1][0] in "aeiou" else "a ") + p.split(" ", 1)[1] for p in prompts]
    assert all(noun in KINDS for noun in nouns)
    return Looks(fixed, others, captions, tuple(nouns), colours)


def _share(images: Tensor, rows: Looks, part: slice = slice(None)) -> Tensor:
    found = colours_of(images, rows.nouns[part], shipped("readers/final"))
    return torch.tensor([a == b for a, b in zip(found, rows.colours[part], strict=True)])


@claim("13.appearance", "A thing takes its look (here its colour) from another picture, by features under that thing's shape",
       unit="share of pictures", target=">= 0.75", n=64, small=3, reader="final")
def appearance_carried(n: int) -> Outcome:
    pipe, rows, right, before, moved = shipped(MODEL), _looks(n), [], [], []
    for i in range(0, n, 16):
        part, numbers = slice(i, min(i + 16, n)), range(i, min(i + 16, n))
        other = appearance_of(pipe, rows.others[part], rows.nouns[part], latents=noise_of(pipe, numbers, SEED + 1), steps=STEPS,
                     guidance=GUIDANCE)
        made = self_guidance(pipe, rows.prompts[part], restyle={rows.nouns[part]: other},
                             latents=noise_of(pipe, numbers, SEED + 2), steps=STEPS, guidance=GUIDANCE)
        right.append(_share(made.edit, rows, part))
        before.append(_share(made.images["source"], rows, part))
        moved.append(SIDE * (positions(made.edit, rows.nouns[part], shipped("readers/final"))
                             - positions(made.images["source"], rows.nouns[part], shipped("readers/final")))[:, :2].norm(dim=1))
    found = wilson(int(torch.cat(right).sum()), n)
    baseline = {"before": float(torch.cat(before).double().mean())}
    if n >= 16:
        z = noise_of(pipe, range(n), SEED + 2)
        plain = torch.cat([decode_images(pipe, list(denoise(pipe, rows.captions[i:i + 16], latents=z[i:i + 16], steps=STEPS,
                                                          guidance=GUIDANCE))[-1].x) for i in range(0, n, 16)])
        baseline["said in the prompt"] = float(_share(plain, rows).double().mean())
    drift = float(torch.cat(moved).nanmedian())
    why = f"the features hold more than colour; the thing moves {drift:.1f} px"
    return Outcome(found.value, found.low, found.high, baseline=baseline, why=why)


@claim("13.size", "One thing is resized as asked: slope of log(size after / before) on log(factor), factors 0.7 to 1.4",
       unit="slope (1: as asked)", target=">= 0.8", n=48, small=3, reader="final")
def resized(n: int) -> Outcome:
    scenes = list(make_scenes(n, "one"))
    prompts, nouns = [prompt_of(s) for s in scenes], tuple(s.things[0].kind for s in scenes)
    factors = torch.tensor([(0.7, 1.4, 0.85, 1.2)[i % 4] for i in range(n)])
    before, after = [], []
    for i in range(0, n, 16):
        part = slice(i, min(i + 16, n))
        made = self_guidance(shipped(MODEL), prompts[part], resize={nouns[part]: factors[part]},
                             latents=noise_of(shipped(MODEL), range(n)[part], SEED + 3), steps=STEPS, guidance=GUIDANCE)
        before.append(positions(made.images["source"], nouns[part], shipped("readers/final"))[:, 2])
        after.append(positions(made.edit, nouns[part], shipped("readers/final"))[:, 2])
    got = (torch.cat(after) / torch.cat(before)).log()[:, None]
    there = ~got.isnan().any(1)
    found = bootstrap(slope, factors.log()[there, None], got[there], paired=True)
    why = "sizes outside those of training cannot be drawn, and the map is coarse"
    return Outcome(found.value, found.low, found.high, baseline={"no edit": 0.0}, why=why)
