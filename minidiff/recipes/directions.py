"""Recipes of the shipped directions in h-space: ``python -m minidiff.recipes.directions [NAME ...]`` makes them again.

Each is one f_t (:class:`~minidiff.editing.DeltaBlock`) of mini-sd's bottleneck, learnt from pairs of a rendered scene and its
counterfactual. One to two minutes each on one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minidiff.editing import DeltaBlock, EditResult, fit_delta, h_space
from minidiff.errors import check_choice, require
from minidiff.files import data_folder
from minidiff.latent import text_to_image
from minidiff.measure import EditPairs
from minidiff.measure.prompts import prompt_of
from minidiff.world import Scene, Scenes, Thing, held_out, parse, render, sample_scenes
from minidiff.zoo import load, ship
from minidiff.zoo.parts import check_files

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["DIRECTIONS", "EDITS", "Edit", "direction_pairs", "edit_towards", "load_direction", "make_direction"]

_FILE = "delta.safetensors"


class Edit(NamedTuple):
    """An edit of one scene. begin: the scene as the edit needs it, or None where it cannot be; end: the right answer; prompt: the
    source's prompt, which does not name what changes."""

    begin: Callable[[Scene], Scene | None]
    end: Callable[[Scene], Scene]
    prompt: Callable[[Scene], str] = lambda scene: ""


def _first_edition(scene: Scene) -> Scene:
    """The scene with a backdrop that does not vary, half-heights of 0.20 to 0.30, and room for a hat."""
    thing = scene.things[0]
    size = 0.20 + (thing.size - 0.20) * 10 / 16              # from 0.20 to 0.36
    thing = thing.replace(size=size, y=max(thing.y, 1.31 * size))
    return Scene((thing,), scene.backdrop)


def _cat(scene: Scene) -> Scene | None:
    free = not held_out("cat", scene.things[0].colour) and not held_out("dog", scene.things[0].colour)
    return scene.replace_thing(0, kind="cat", mood="happy") if free else None


def _not_blue(scene: Scene) -> Scene | None:
    thing = scene.things[0]
    return scene if thing.colour != "blue" and not held_out(thing.kind, "blue") else None


def _by_day(scene: Scene) -> Scene | None:
    return scene if scene.backdrop != "night" else None


def _bare_head(scene: Scene) -> Scene | None:
    return scene if scene.things[0].animal else None


EDITS: dict[str, Edit] = {
    "dog": Edit(_cat, lambda scene: scene.replace_thing(0, kind="dog")),
    "blue": Edit(_not_blue, lambda scene: scene.replace_thing(0, colour="blue")),
    "hat": Edit(_bare_head, lambda scene: scene.replace_thing(0, wears="hat")),
    "night": Edit(_by_day, lambda scene: scene.replace(backdrop="night"), lambda scene: prompt_of(scene, backdrop=False)),
}
DIRECTIONS: dict[str, int] = {"dog": 300, "blue": 200, "night": 200}        # what ships, and the steps of its training
_PICTURES = 512


def direction_pairs(name: str, n: int, *, split: str = "train", seed: int = 0) -> EditPairs:
    """n scenes, their counterfactuals, and the prompts that do not name what changes; from the world's first edition.

    mini-sd was trained there: backdrops do not vary, half-heights are 0.20 to 0.30. A pure function of its arguments.
    """
    check_choice("name", name, EDITS)
    require(isinstance(n, int) and n >= 1, "n", repr(n), "a whole number, 1 or more")
    edit, found, start = EDITS[name], [], 0
    while len(found) < n:
        drawn = map(_first_edition, sample_scenes(range(start, start + 2 * n), split=split, seed=seed, level="simple"))
        found += [scene for scene in map(edit.begin, drawn) if scene is not None]
        start += 2 * n
    begins, prompts = found[:n], [edit.prompt(scene) for scene in found[:n]]
    return EditPairs(name, Scenes.of(begins), Scenes.of(map(edit.end, begins)), prompts, prompts)


def make_direction(name: str) -> Path:
    """Train one direction and write ``data/adapters/NAME-direction``."""
    check_choice("name", name, DIRECTIONS)
    start, pipe, pairs = time.monotonic(), load("mini-sd"), direction_pairs(name, _PICTURES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = DeltaBlock.of(pipe)
    way = list(fit_delta(pipe, block, render(pairs.source).images, render(pairs.target).images, pairs.prompts,
                         steps=DIRECTIONS[name], watch=5))
    tail = way[-50::5]
    facts = {"recipe": f"python -m minidiff.recipes.directions {name}", "base": "mini-sd", "edit": name, "world_edition": 1,
             "pictures": len(pairs), "prompt": "empty" if not any(pairs.prompts) else "colour and kind",
             "iterations": DIRECTIONS[name], "parameters": sum(p.numel() for p in block.parameters()),
             "error_without": round(sum(s.plain for s in tail) / len(tail), 4),
             "error_with": round(sum(s.loss for s in tail) / len(tail), 4), "seconds": round(time.monotonic() - start)}

    def write(folder: Path) -> None:
        save_file({k: v.detach().half().contiguous() for k, v in block.state_dict().items()}, folder / _FILE, {"format": "pt"})

    return ship(f"adapters/{name}-direction", write, facts)


def load_direction(pipe: StableDiffusionPipeline, name: str) -> DeltaBlock:
    """A shipped direction of mini-sd's h-space, ready to be a ``delta`` of ``ShiftH``; without gradients."""
    check_choice("name", name, DIRECTIONS)
    folder = data_folder() / "adapters" / f"{name}-direction"
    require(folder.is_dir(), "name", f"{name!r}, which is not in {folder.parent}", "a shipped direction",
            f"python -m minidiff.recipes.directions {name}")
    check_files(f"adapters/{name}-direction", data_folder())
    block, weights = DeltaBlock.of(pipe), load_file(folder / _FILE)
    ours, theirs = tuple(block.into.weight.shape), tuple(weights["into.weight"].shape)
    require(ours == theirs, "pipe", f"a bottleneck of {ours[0]} channels", f"mini-sd, whose bottleneck has {theirs[0]}",
            'load("mini-sd")')
    block.load_state_dict({k: v.to(block.into.weight) for k, v in weights.items()})
    return block.eval().requires_grad_(False)


def _without_backdrop(prompt: str) -> str:
    """"a red cat" of "a red cat on the grass"; "" where kind and colour are not both said."""
    things = [Thing(facts.kind, facts.colour) for facts in parse(prompt).things[:1] if facts.colour is not None]
    return prompt_of(Scene(tuple(things)), backdrop=False) if things else ""


def edit_towards(pipe: StableDiffusionPipeline, prompt: str, *, direction: str = "dog", strength: float = 0.2, t_edit: float = 0,
                 symmetric: bool = False, seed: int = 0, image: Tensor | None = None, steps: int = 25,
                 guidance: float = 4.0) -> EditResult:
    """Edit a picture by shipped directions, ``direction="dog"`` or several, ``"dog blue"``: ``minidiff edit h-space``.

    image: (B, 3, H, W), or None for what ``prompt`` draws from ``seed`` at ``guidance``. Either is inverted and edited at w = 1
    with the prompt that its directions were learnt with: the empty one, or for the night alone what ``prompt`` says of the thing.
    """
    names = direction.split() if isinstance(direction, str) else []
    require(len(names) > 0, "direction", repr(direction), f"one or more of {', '.join(DIRECTIONS)}", 'direction="dog"')
    blocks = [load_direction(pipe, name) for name in names]
    if image is None:
        image = text_to_image(pipe, prompt, seed=seed, steps=steps, guidance=guidance)
    prompt = _without_backdrop(prompt) if names == ["night"] else ""
    return h_space(pipe, prompt, blocks, strength=strength, t_edit=t_edit, symmetric=symmetric, image=image, steps=steps)


def main(names: Sequence[str]) -> None:
    """Make these directions, or all of them."""
    for name in names or DIRECTIONS:
        print(make_direction(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
