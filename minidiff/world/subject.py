"""Subjects: what the world can place though no caption names it. Personalisation learns them and is scored on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import BadInput, check_choice, check_pictures, require
from minidiff.rng import key, uniform
from minidiff.world.backdrops import backdrop_table, paint_backdrops
from minidiff.world.blend import colour_rgb
from minidiff.world.grammar import BACKDROP_WORDS
from minidiff.world.render import render
from minidiff.world.scene import COLOUR_NAMES, Scene, Scenes, Thing
from minidiff.world.sprites import Part
from minidiff.world.vocab import BACKDROPS, KINDS, STYLES, VARY

__all__ = ["Shots", "Subject"]

_SIDE = 128            # pixels of a sprite along one side
_REACH = 1.28          # half-side of a sprite, in half-heights of the thing


class Shots(NamedTuple):
    """Pictures of a subject: images (n, 3, S, S) in [-1, 1], masks (n, S, S) in [0, 1], place (n, 3) as x, y, size.

    captions: of each, with "{}" where the subject's name goes: "a {} on the grass".
    """

    images: Tensor
    masks: Tensor
    place: Tensor
    backdrops: list[str]
    captions: list[str]


@dataclass(frozen=True, eq=False)
class Subject:
    """A sprite with a name. sprite (4, P, P): red, green, blue and opacity in [0, 1], a square of 1.28 half-heights each way.

    word: the class that it belongs to, a word that a model of the world knows ("bear" for a panda): what Textual Inversion
    starts from and what DreamBooth preserves. Make one with :meth:`of`, :meth:`from_parts` or :meth:`from_png`.
    """

    name: str
    word: str
    sprite: Tensor

    def __post_init__(self) -> None:
        ok = isinstance(self.sprite, Tensor) and self.sprite.ndim == 3 and self.sprite.shape[0] == 4
        require(ok, "sprite", tuple(getattr(self.sprite, "shape", ())), "a tensor (4, P, P)",
                "Subject.from_png('panda.png', word='bear')")
        require(self.sprite.shape[1] == self.sprite.shape[2], "sprite", tuple(self.sprite.shape), "a square")
        require(bool((self.sprite[3] > 0.5).any()), "sprite", "a sprite without any opaque pixel", "one that can be seen")
        check_choice("word", self.word, KINDS)

    @staticmethod
    def of(thing: Thing, *, second_colour: str | tuple[float, float, float] | None = None, name: str = "") -> Subject:
        """A thing of the world; second_colour (a colour's name or sRGB in [0, 1]) goes into its pattern.

        The opacity is measured: the same thing before a dark and before a light backdrop (triangulation, Smith and Blinn 1996).
        """
        require(isinstance(thing, Thing), "thing", type(thing).__name__, "a Thing", "Subject.of(Thing('cat', 'red'))")
        require(second_colour is None or thing.pattern != "plain", "second_colour", f"{second_colour!r} on a plain thing",
                "a thing with a pattern", "Thing('cat', 'red', 'striped')")
        half = 0.5 / _REACH
        scenes = Scenes.of([Scene((thing.replace(size=half, x=0.5, y=0.5),), b) for b in ("night", "snow")])
        if second_colour is not None:
            scenes = scenes.blended()
            second = torch.tensor(second_colour) if isinstance(second_colour, tuple) else _named(second_colour)
            scenes = scenes.__class__(**scenes.tensors(), blend=scenes.blend.replace(second=second.expand(2, 3, 3)))
        with torch.no_grad():
            dark, light = (render(scenes, 2 * _SIDE).images + 1) / 2
        behind = backdrop_table(2 * _SIDE)
        low, high = behind[BACKDROPS.index("night"), 0], behind[BACKDROPS.index("snow"), 0]
        through = ((light - dark) * (high - low)).sum(0) / ((high - low) ** 2).sum(0)
        alpha = (1 - through).clamp(0, 1)
        solid = dark - (1 - alpha) * low                     # colour times opacity
        both = F.avg_pool2d(torch.cat((solid, alpha[None]))[None], 2)[0]
        return Subject(name or f"{thing.colour} {thing.kind}", thing.kind, _unmultiplied(both))

    @staticmethod
    def from_parts(draw: Callable[[Tensor, Tensor], Iterable[Part]], *, word: str, name: str,
                   colour: tuple[float, float, float] = (0.6, 0.6, 0.65)) -> Subject:
        """A new kind, from painted parts back to front: ``draw(u, v)`` yields (signed distance, paint) as in world.sprites.

        u to the right, v downwards, in half-heights; paint is sRGB in [0, 1], or "body", "dark", "light" for shades of
        ``colour``.
        """
        big = 4 * _SIDE
        line = ((torch.arange(big) + 0.5) / big * 2 - 1) * _REACH
        v, u = torch.meshgrid(line, line, indexing="ij")
        base = torch.tensor(colour)
        shades = {"body": base, "dark": base * 0.74, "light": base + 0.5 * (1 - base)}
        rgb, alpha = torch.zeros(3, big, big), torch.zeros(big, big)
        for distance, paint in draw(u, v):
            cover = (0.5 - distance * big / (2 * _REACH)).clamp(0, 1)
            fill = shades[paint] if isinstance(paint, str) else torch.tensor(paint)
            rgb = torch.lerp(rgb, fill[:, None, None].expand_as(rgb), cover.expand_as(rgb))
            alpha = torch.maximum(alpha, cover)
        both = F.avg_pool2d(torch.cat((rgb * alpha, alpha[None]))[None], 4)[0]
        return Subject(name, word, _unmultiplied(both))

    @staticmethod
    def from_png(path: str | Path, *, word: str, name: str = "") -> Subject:
        """A picture with a transparent background, of any size; it is put into the middle of the sprite, 2 half-heights tall."""
        from PIL import Image

        path = Path(path)
        require(path.is_file(), "path", str(path), "a picture file", "data/subjects/panda.png")
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGBA")
        except OSError as error:
            raise BadInput("path", f"{str(path)!r}, which cannot be read as an image ({error})",
                           "an image file that is whole") from None
        box = picture.getchannel("A").getbbox()
        require(box is not None, "path", f"{str(path)!r}, which is transparent everywhere", "a picture of something")
        require(picture.getextrema()[3][0] < 128, "path", f"{str(path)!r}, without a transparent background", "a cut-out subject",
                "a PNG whose background is transparent; photographs go to `minidiff personalise` as they are")
        picture = picture.crop(box)
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(picture.height, picture.width, 4)
        pixels = pixels.permute(2, 0, 1).float() / 255
        rgb, alpha = pixels[:3] * pixels[3:], pixels[3:]
        longest = max(picture.size)
        scale = _SIDE / _REACH / longest
        small = F.interpolate(torch.cat((rgb, alpha))[None], scale_factor=scale, mode="bilinear", antialias=True)[0]
        left, top = (_SIDE - small.shape[2]) // 2, (_SIDE - small.shape[1]) // 2
        whole = F.pad(small, (left, _SIDE - left - small.shape[2], top, _SIDE - top - small.shape[1]))
        return Subject(name or path.stem, word, _unmultiplied(whole))

    def place(self, images: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Lay the sprite over pictures (B, 3, S, S): place (B, 3) holds x, y and size (half-height) as parts of the side.

        Returns the pictures and the opacity (B, S, S). Differentiable in ``place``.
        """
        check_pictures("images", images)
        require(place.shape == (len(images), 3), "place", tuple(place.shape), f"({len(images)}, 3): x, y, size")
        sprite = _premultiplied(self.sprite).to(images)
        x, y, half = place.to(images).unbind(1)
        theta = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
        theta = theta + _row(1 / (2 * half * _REACH), 0) + _row((1 - 2 * x) / (2 * half * _REACH), 1, 0)
        theta = theta + _row((1 - 2 * y) / (2 * half * _REACH), 1, 1)
        fine = 3                                                       # drawn at three times the size and averaged: smooth edges
        size = images.shape[-1] * fine
        grid = F.affine_grid(theta, [len(images), 4, size, size], align_corners=False)
        drawn = F.grid_sample(sprite.expand(len(images), -1, -1, -1), grid, padding_mode="zeros", align_corners=False)
        drawn = F.avg_pool2d(drawn, fine)
        alpha = drawn[:, 3:].clamp(0, 1)
        return images * (1 - alpha) + (2 * drawn[:, :3] - alpha), alpha[:, 0]

    def shots(self, n: int, *, seed: int = 0, size: int = 64, backdrops: Sequence[str] = BACKDROPS, style: str = "flat",
              vary: float = 1.0) -> Shots:
        """n pictures of the subject alone, shot i a pure function of (seed, i): backdrops in turn, the rest at random.

        vary: how far the backdrops go from plain, 0 (each as the world's first edition draws it) to 1; places and sizes do not
        depend on it.
        """
        require(isinstance(n, int) and n >= 1, "n", repr(n), "a whole number, 1 or more", "4")
        for name in backdrops:
            check_choice("backdrops", name, BACKDROPS)
        check_choice("style", style, STYLES)
        require(isinstance(vary, int | float) and 0 <= vary <= 1, "vary", repr(vary), "a number from 0 to 1",
                "0 for plain backdrops")
        u = uniform(key("shots", seed), torch.arange(n), 3 + VARY).float()
        half = 0.20 + 0.10 * u[:, 2]
        x, y = (half * 1.12 + (1 - 2.24 * half) * u[:, i] for i in (0, 1))
        place = torch.stack((x, y, half), 1)
        names = [backdrops[i % len(backdrops)] for i in range(n)]
        which = torch.tensor([BACKDROPS.index(b) for b in names])
        behind = paint_backdrops(which, torch.full((n,), STYLES.index(style)), vary * (2 * u[:, 3:] - 1), size) * 2 - 1
        images, masks = self.place(behind, place)
        return Shots(images.clamp(-1, 1), masks, place, names, [f"a {{}} {BACKDROP_WORDS[b][0]}" for b in names])

    def identity(self, images: Tensor, *, steps: int = 24) -> Identity:  # noqa: F821
        """How unlike the subject the most subject-like spot of each picture (B, 3, S, S) is, and where that spot is.

        Every place and size is tried (by convolution: the squared difference inside the silhouette is I^2*m - 2 I*(m s) + m s^2),
        then the best one is refined by gradient. 0 is a perfect copy; clean shots at any place give less than about 0.1.
        """
        from minidiff.world.identity import identity

        return identity(self, images, steps=steps)


def _named(colour: str) -> Tensor:
    check_choice("second_colour", colour, COLOUR_NAMES)
    return colour_rgb(torch.tensor(COLOUR_NAMES.index(colour)))


def _row(value: Tensor, kind: int, axis: int = 0) -> Tensor:
    """(B,) placed in a (B, 2, 3) affine map: kind 0 on the diagonal, kind 1 in the last column of row ``axis``."""
    out = torch.zeros(2, 3, dtype=value.dtype, device=value.device)
    if kind == 0:
        out[0, 0] = out[1, 1] = 1
    else:
        out[axis, 2] = 1
    return value[:, None, None] * out


def _premultiplied(sprite: Tensor) -> Tensor:
    return torch.cat((sprite[:3] * sprite[3:], sprite[3:]))


def _unmultiplied(both: Tensor) -> Tensor:
    colour, alpha = both[:3], both[3:]
    return torch.cat(((colour / alpha.clamp(min=1e-4)).clamp(0, 1) * (alpha > 1e-4), alpha)).clamp(0, 1)
