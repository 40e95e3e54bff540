"""Recipes of the shipped adapters of mini-sd: ``python -m minidiff.recipes.adapters [NAME ...]`` makes them again.

Each is a word (``learned_embeds.safetensors``) with, for some, a LoRA beside it, learnt from four pictures of a subject of
lesson 19's ladder. Seconds to a minute each on one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from minidiff.errors import check_choice, require
from minidiff.files import data_folder
from minidiff.personal import (
    ATTENTION,
    EVERYWHERE,
    FreeRows,
    LoRA,
    dreambooth,
    load_lora,
    load_word,
    prior_examples,
    textual_inversion,
)
from minidiff.world import Shots, Subject, Thing, subjects
from minidiff.world.grammar import BACKDROP_WORDS
from minidiff.zoo import load, ship
from minidiff.zoo.parts import check_files

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["ADAPTERS", "BACKDROPS_SEEN", "Adapter", "ladder", "load_adapter", "make_adapter",
           "new_prompts", "subject_of", "train_shots"]

BACKDROPS_SEEN = ("grass", "night", "room")            # the other three are for scoring
WORD = "<mine>"


class Adapter(NamedTuple):
    """A recipe. method: "ti" or "lora"; rank and targets of the LoRA; prior: with the prior loss."""

    subject: str
    method: str = "ti"
    rank: int = 8
    targets: Sequence[str] = EVERYWHERE
    prior: bool = False
    iterations: int = 120


_LADDER = ("inside", "crowded", "paint", "kind", "panda", "owl", "teapot", "octopus")
ADAPTERS: dict[str, Adapter] = {f"{name}-word": Adapter(name) for name in _LADDER}
ADAPTERS |= {f"{kind}-word": Adapter(f"{colour} {kind}") for colour, kind in
             (("purple", "cat"), ("orange", "dog"), ("yellow", "bear"))}          # held out of training, as "inside" is
ADAPTERS |= {"panda-lora-small": Adapter("panda", "lora", 2, ATTENTION), "panda-lora": Adapter("panda", "lora"),
             "panda-lora-prior": Adapter("panda", "lora", prior=True),
             "inside-lora-small": Adapter("inside", "lora", 2, ATTENTION)}


def ladder() -> dict[str, Subject]:
    """The subjects of lesson 19, pictures from outside among them."""
    return subjects(data_folder() / "subjects")


def subject_of(name: str) -> Subject:
    """A rung of the ladder, or "purple cat": a thing of the world."""
    colour, _, kind = name.partition(" ")
    return Subject.of(Thing(kind, colour)) if kind else ladder()[name]


def train_shots(subject: Subject, *, n: int = 4, seed: int = 7) -> Shots:
    """The n pictures that everything is learnt from, on three of the six backdrops.

    Plain backdrops (``vary=0``): mini-sd was trained on them, and so were the shipped adapters.
    """
    return subject.shots(n, seed=seed, backdrops=BACKDROPS_SEEN, vary=0)


def new_prompts(what: str, n: int) -> list[str]:
    """n prompts of ``what`` ("<mine>", "<mine> bear") on the three backdrops that no picture to learn from has, in turn."""
    unseen = [words[0] for name, words in BACKDROP_WORDS.items() if name not in BACKDROPS_SEEN]
    return [f"a {what} {unseen[i % len(unseen)]}" for i in range(n)]


def make_adapter(name: str) -> Path:
    """Train one adapter and write ``data/adapters/NAME``."""
    check_choice("name", name, ADAPTERS)
    recipe, start = ADAPTERS[name], time.monotonic()
    subject = subject_of(recipe.subject)
    pipe, shots, lora = load("mini-sd"), train_shots(subject), None
    common = {"word": WORD, "captions": shots.captions, "iterations": recipe.iterations}
    if recipe.method == "ti":
        word_of_one_token = len(pipe.tokenizer(subject.word, add_special_tokens=False).input_ids) == 1
        rows, loop = textual_inversion(pipe, shots.images, start=subject.word if word_of_one_token else None, **common)
    else:
        prior = prior_examples(pipe, subject.word) if recipe.prior else None
        lora = LoRA(pipe.unet, rank=recipe.rank, targets=recipe.targets)
        rows, loop = dreambooth(pipe, shots.images, class_word=subject.word, lora=lora, prior=prior, **common)
    losses = [step.loss for step in loop]

    def write(folder: Path) -> None:
        rows.save(folder)
        if lora is not None:
            lora.save(folder, half=True)

    facts = {"recipe": f"python -m minidiff.recipes.adapters {name}", "base": "mini-sd", "subject": subject.name,
             "class": subject.word, "word": WORD, "pictures": len(shots.images),
             "iterations": recipe.iterations, "prior": recipe.prior,
             "parameters": rows.v.numel() + (lora.count() if lora is not None else 0),
             "loss_first_20": round(sum(losses[:20]) / 20, 4), "loss_last_20": round(sum(losses[-20:]) / 20, 4),
             "seconds": round(time.monotonic() - start), "norm": round(float(rows.v.detach().norm()), 3)}
    return ship(f"adapters/{name}", write, facts)


def load_adapter(pipe: StableDiffusionPipeline, name: str) -> tuple[FreeRows, LoRA | None]:
    """Give ``pipe`` the word ``<mine>`` of a shipped adapter, and its LoRA if it has one (attached)."""
    check_choice("name", name, ADAPTERS)
    folder = data_folder() / "adapters" / name
    require(folder.is_dir(), "name", f"{name!r}, which is not in {folder.parent}", "a shipped adapter",
            f"python -m minidiff.recipes.adapters {name}")
    check_files(f"adapters/{name}", data_folder())
    rows = load_word(pipe, folder)
    return rows, load_lora(pipe, folder) if ADAPTERS[name].method == "lora" else None


def main(names: Sequence[str]) -> None:
    """Make these adapters, or all of them."""
    for name in names or ADAPTERS:
        torch.manual_seed(0)
        print(make_adapter(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
