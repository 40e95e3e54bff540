"""The ladder of lessons 19 and 20: subjects from what a model can already draw to what it has never seen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from minidiff.world.scene import Thing
from minidiff.world.shapes import box, circle, segment
from minidiff.world.sprites import Part
from minidiff.world.subject import Subject

__all__ = ["subjects"]


def subjects(folder: str | Path) -> dict[str, Subject]:
    """The ladder of lesson 19, from what the model can already draw to what it has never seen; folder: ``data/subjects``.

    "inside": a pair that was held out of training; "crowded": five attributes at once; "paint": a second colour that no
    caption can name; "kind": a robot; then four drawings from outside, each with the nearest word of the world.
    """
    folder = Path(folder)
    out = {
        "inside": Subject.of(Thing("rabbit", "pink"), name="pink rabbit"),
        "crowded": Subject.of(Thing("dog", "orange", "checked", mood="sad", wears="hat"),
                              name="sad checked orange dog with a hat"),
        "paint": Subject.of(Thing("fish", "yellow", "striped"), second_colour=(0.15, 0.30, 0.75),
                            name="yellow fish with blue stripes"),
        "kind": Subject.from_parts(_robot, word="house", name="robot"),
    }
    for name, word in {"panda": "bear", "owl": "bird", "teapot": "house", "octopus": "fish"}.items():
        out[name] = Subject.from_png(folder / f"{name}.png", word=word)
    return out


def _robot(u: Tensor, v: Tensor) -> Iterable[Part]:
    ink, glow = (0.17, 0.15, 0.22), (0.35, 0.85, 0.80)
    yield segment(u, v, 0.0, -0.95, 0.0, -0.60, 0.05), ink
    yield circle(u, v, 0.0, -0.92, 0.11), (0.90, 0.30, 0.30)
    yield box(u.abs(), v, 0.72, 0.52, 0.14, 0.30), "dark"
    yield box(u.abs(), v, 0.28, 0.92, 0.15, 0.10), "dark"
    yield box(u, v, 0.0, -0.22, 0.62, 0.42), "body"
    yield box(u, v, 0.0, 0.54, 0.52, 0.32), "light"
    yield circle(u.abs(), v, 0.27, -0.28, 0.16), glow
    yield circle(u.abs(), v, 0.27, -0.28, 0.07), ink
    yield box(u, v, 0.0, 0.04, 0.30, 0.06), ink
    yield circle(u, v, 0.0, 0.52, 0.13), (0.96, 0.75, 0.25)
