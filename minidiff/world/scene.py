"""Scenes: what a picture of the toy world shows, one at a time (words) or as a batch (tensors)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from minidiff.errors import BadInput, check_choice, require
from minidiff.world.blend import Blend, shortest_float
from minidiff.world.thing import COLOUR_NAMES, MOOD_INDEX, PLACE, SIZE_LIMITS, WORDS, Thing, known_names, number
from minidiff.world.vocab import BACKDROPS, MAX_THINGS, STYLES, VARY

__all__ = ["COLOUR_NAMES", "MOOD_INDEX", "SIZE_LIMITS", "Scene", "Scenes", "Thing"]


def _between(a: float, b: float, t: float) -> float:
    """A straight line that is exact at both ends, and constant when a = b."""
    return a + t * (b - a) if t < 0.5 else b - (1 - t) * (b - a)


@dataclass(frozen=True)
class Scene:
    """One to three things, drawn back to front (the first is the furthest away), before a backdrop, in a style.

    vary: how this backdrop differs from the usual one, five numbers from -1 to 1: the horizon lower; what stands in the
    picture's back to the right; what stands in the sky lower; brighter; warmer. Captions never speak of it.
    """

    things: tuple[Thing, ...]
    backdrop: str = "grass"
    style: str = "flat"
    vary: tuple[float, ...] = (0.0,) * VARY

    def __post_init__(self) -> None:
        things = (self.things,) if isinstance(self.things, Thing) else self.things
        ok = isinstance(things, (tuple, list)) and all(isinstance(t, Thing) for t in things)
        require(ok, "things", repr(things), "a tuple of Thing", "Scene((Thing('cat', 'red'),))")
        require(1 <= len(things) <= MAX_THINGS, "things", f"{len(things)} things", f"1 to {MAX_THINGS} things")
        object.__setattr__(self, "things", tuple(things))
        check_choice("backdrop", self.backdrop, BACKDROPS)
        check_choice("style", self.style, STYLES)
        ok = isinstance(self.vary, (tuple, list)) and len(self.vary) == VARY
        require(ok, "vary", repr(self.vary), f"{VARY} numbers from -1 to 1", f"vary={(0.0,) * VARY}")
        object.__setattr__(self, "vary", tuple(number("vary", v, -1.0, 1.0) for v in self.vary))

    def __repr__(self) -> str:
        vary = f", vary={self.vary}" if any(self.vary) else ""
        return f"Scene(things={self.things}, backdrop={self.backdrop!r}, style={self.style!r}{vary})"

    def replace(self, **changes: object) -> Scene:
        """The counterfactual with another backdrop, style, vary or things: ``scene.replace(backdrop="snow")``."""
        known_names("replace", changes, ("things", "backdrop", "style", "vary"))
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def replace_thing(self, index: int = 0, **changes: object) -> Scene:
        """The counterfactual with one thing changed: ``scene.replace_thing(0, kind="dog")``."""
        ok = isinstance(index, int) and -len(self.things) <= index < len(self.things)
        require(ok, "index", repr(index), f"0 to {len(self.things) - 1}: the scene has {len(self.things)} things")
        things = list(self.things)
        things[index] = things[index].replace(**changes)
        return dataclasses.replace(self, things=tuple(things))

    def interpolate(self, other: Scene, t: float) -> Scene:
        """The morph in words, t from 0 (self) to 1 (other): x, y, size and vary move in a straight line, words switch at t = 0.5.

        Thing i meets thing i; a thing without a partner keeps its place and comes or goes at t = 0.5.
        """
        t = number("t", t, 0.0, 1.0)
        near = other if t >= 0.5 else self
        things = list(near.things)
        for i, (a, b) in enumerate(zip(self.things, other.things, strict=False)):
            between = {n: _between(getattr(a, n), getattr(b, n), t) for n in PLACE}
            things[i] = dataclasses.replace(things[i], **between)
        vary = tuple(_between(a, b, t) for a, b in zip(self.vary, other.vary, strict=True))
        return dataclasses.replace(near, things=tuple(things), vary=vary)

    def to_dict(self) -> dict:
        """Plain dicts, lists, words and numbers, ready for JSON; a vary of zeros is left out."""
        plain = {"things": [dataclasses.asdict(t) for t in self.things], "backdrop": self.backdrop, "style": self.style}
        return plain | ({"vary": list(self.vary)} if any(self.vary) else {})

    @staticmethod
    def from_dict(data: dict) -> Scene:
        """The inverse of :meth:`to_dict`; missing entries take their defaults, unknown ones are an error."""
        ok = isinstance(data, dict) and isinstance(data.get("things"), (list, tuple)) and all(
            isinstance(t, dict) and {"kind", "colour"} <= t.keys() for t in data["things"])
        require(ok, "data", repr(data), "a dict with things, each with kind and colour",
                "{'things': [{'kind': 'cat', 'colour': 'red'}]}")
        known_names("data", data, ("things", "backdrop", "style", "vary"))
        for thing in data["things"]:
            known_names("things", thing, (f.name for f in dataclasses.fields(Thing)))
        return Scene(**{**data, "things": tuple(Thing(**t) for t in data["things"])})


@dataclass(frozen=True, eq=False)
class Scenes:
    """A batch of B scenes as tensors; slot j < 3 is thing j (back to front), and only ``present`` slots count.

    backdrop, style (B,) int64; present (B, 3) bool; kind, colour, pattern, mood, wears (B, 3) int64 positions in KINDS,
    COLOUR_NAMES, PATTERNS, MOOD_INDEX, WEARS; x, y, size (B, 3) float; vary (B, 5) float in [-1, 1]: how each backdrop differs
    from the usual one (see :class:`Scene`), zeros when left out. All floats may carry gradients. blend: colours as numbers
    and how far each scene is on its way to another (``world.morph``); None for scenes that words describe.
    """

    backdrop: Tensor
    style: Tensor
    present: Tensor
    kind: Tensor
    colour: Tensor
    pattern: Tensor
    mood: Tensor
    wears: Tensor
    x: Tensor
    y: Tensor
    size: Tensor
    vary: Tensor = None  # type: ignore[assignment]
    blend: Blend | None = None

    def __post_init__(self) -> None:
        b = self.backdrop.shape[0]
        if self.vary is None:
            object.__setattr__(self, "vary", torch.zeros(b, VARY, device=self.x.device, dtype=self.x.dtype))
        for name, value in self.tensors().items():
            shape = (b,) if name in ("backdrop", "style") else (b, VARY if name == "vary" else MAX_THINGS)
            require(value.shape == shape, name, f"shape {tuple(value.shape)}", f"shape {shape}")
            ok = (value.is_floating_point() if name in (*PLACE, "vary") else
                  value.dtype == (torch.bool if name == "present" else torch.int64))
            require(ok, name, f"dtype {value.dtype}", "float for x, y, size, vary; bool for present; int64 for words")

    def tensors(self) -> dict[str, Tensor]:
        """The twelve tensors by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "blend"}

    def map(self, change: Callable[[Tensor], Tensor]) -> Scenes:
        """The same change to every tensor: ``scenes.map(lambda t: t[:4])``."""
        return Scenes(**{n: change(v) for n, v in self.tensors().items()}, blend=self.blend and self.blend.map(change))

    def blended(self) -> Scenes:
        """The same scenes with a :class:`Blend`, on the way to themselves; unchanged if they have one."""
        return self if self.blend is not None else dataclasses.replace(self, blend=Blend.of(self))

    @staticmethod
    def of(scenes: Iterable[Scene]) -> Scenes:
        """A batch on the CPU from a list of scenes; empty slots hold zeros, with x = y = 0.5 and size 0.22."""
        scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
        require(all(isinstance(s, Scene) for s in scenes), "scenes", "something else", "a list of Scene")
        columns: dict[str, Tensor] = {
            "backdrop": torch.tensor([BACKDROPS.index(s.backdrop) for s in scenes], dtype=torch.int64),
            "style": torch.tensor([STYLES.index(s.style) for s in scenes], dtype=torch.int64),
            "present": torch.arange(MAX_THINGS) < torch.tensor([len(s.things) for s in scenes], dtype=torch.int64)[:, None],
        }
        columns["vary"] = torch.tensor([s.vary for s in scenes], dtype=torch.float32).reshape(-1, VARY)
        rows = [[*s.things, *[None] * (MAX_THINGS - len(s.things))] for s in scenes]
        for name, words in WORDS.items():
            values = [[words.index(getattr(t, name)) if t else 0 for t in row] for row in rows]
            columns[name] = torch.tensor(values, dtype=torch.int64).reshape(-1, MAX_THINGS)
        for name in PLACE:
            empty = 0.22 if name == "size" else 0.5
            values = [[getattr(t, name) if t else empty for t in row] for row in rows]
            columns[name] = torch.tensor(values, dtype=torch.float32).reshape(-1, MAX_THINGS)
        return Scenes(**columns)

    @staticmethod
    def cat(parts: Iterable[Scenes]) -> Scenes:
        """Several batches one after another."""
        parts = list(parts)
        require(len(parts) > 0, "parts", "an empty list", "at least one Scenes")
        parts = [p.blended() for p in parts] if any(p.blend is not None for p in parts) else parts
        return Scenes(**{n: torch.cat([p.tensors()[n] for p in parts]) for n in parts[0].tensors()},
                      blend=parts[0].blend and Blend.cat([p.blend for p in parts]))

    def replace(self, **tensors: Tensor) -> Scenes:
        """A changed copy: ``scenes.replace(backdrop=torch.full_like(scenes.backdrop, 3))``."""
        known_names("replace", tensors, self.tensors())
        return dataclasses.replace(self, **tensors)

    def to(self, device: torch.device | str) -> Scenes:
        """The same scenes on another device."""
        return self.map(lambda value: value.to(device))

    def __len__(self) -> int:
        return self.backdrop.shape[0]

    def __iter__(self) -> Iterator[Scene]:
        host = self.to("cpu")
        return (host._scene(i) for i in range(len(host)))

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> Scene | Scenes:
        """One Scene for an int; a smaller Scenes for a slice, a list, or a tensor of positions or of truth values."""
        if not isinstance(index, int):
            return self.map(lambda value: value[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of a batch of {len(self)}")
        return self._scene(index % len(self))

    def _scene(self, i: int) -> Scene:
        row = {name: value[i].tolist() for name, value in self.tensors().items()}
        try:
            things = tuple(
                Thing(**{n: words[row[n][j]] for n, words in WORDS.items()}, **{n: shortest_float(row[n][j]) for n in PLACE})
                for j in range(MAX_THINGS) if row["present"][j])
            vary = tuple(map(shortest_float, row["vary"]))
            return Scene(things, BACKDROPS[row["backdrop"]], STYLES[row["style"]], vary)
        except IndexError:
            raise BadInput("scenes", f"a word number out of range in scene {i}", "positions in the vocabulary") from None
