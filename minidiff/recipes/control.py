"""Recipe of mini-control: a ControlNet that reads silhouettes, on the frozen mini-sd."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.diffusion import Schedule
from minidiff.editing.controlnet import add_control, control_loss, new_controlnet, silhouettes
from minidiff.files import data_folder
from minidiff.latent.autoencoder import encode
from minidiff.latent.pipeline import encode_prompt, schedule_from
from minidiff.recipes.blocks import Blocks, Draw, fingerprint, mixed_batch, mixed_identity, noise
from minidiff.recipes.stable import draw_t
from minidiff.rng import generator, key, uniform
from minidiff.train import Budget, Recipe
from minidiff.world import Scenes, captions
from minidiff.zoo import card, load

__all__ = ["CONTROLS", "control_recipe"]

_PORTIONS = (("simple", 64, 0.5), ("pairs", 64, 0.3), ("full", 64, 0.2))
_KEPT = 400_000     # pictures that a GPU draws and encodes once


def control_recipe(name: str, *, seed: int, start: str, images: tuple[int, int], minutes: tuple[float, float], lr: float = 8e-4,
                   drop: float = 0.3, expect: str = "") -> Recipe:
    """A recipe for a ControlNet of the shipped pipeline ``start``, which stays frozen. images, minutes: (laptop, gpu).

    drop: share of captions that are left empty, so that it reads the hint where no word helps (the paper drops half). Scenes are
    those of the world that ``start`` was trained in: without variation of the backdrop where its card says the first edition.
    """
    @functools.lru_cache(maxsize=2)
    def base(device: torch.device) -> Any:
        return load(start).to(device)

    @functools.lru_cache(maxsize=1)
    def schedule() -> Schedule:
        return schedule_from(base(torch.device("cpu")).scheduler)

    def as_in_training(scenes: Scenes) -> Scenes:
        return scenes if card(start)["world_edition"] > 1 else scenes.replace(vary=torch.zeros_like(scenes.vary))

    def build() -> nn.Module:
        pipe = base(torch.device("cpu"))
        return new_controlnet(pipe.unet, shrink=pipe.vae_scale_factor).requires_grad_(True)

    def make(index: Tensor, number: int) -> Draw:
        device, pipe = index.device, base(index.device)
        scenes, images, masks = mixed_batch(index, 64, seed, _PORTIONS, change=as_in_training)
        gone = uniform(key(seed, "drop"), index.cpu(), 1)[:, 0] < drop
        texts = ["" if empty else text for text, empty in zip(captions(scenes, index, seed=seed), gone.tolist(), strict=True)]
        whole = {"z": encode(pipe.vae, images, chunk=1024 if device.type == "cuda" else 64),
                 "context": encode_prompt(pipe, texts), "hint": silhouettes(masks)[:, :1] > 0.5}
        mix = torch.randperm(len(index), generator=generator(seed, "mix", number)).to(device)
        return {name: value.to(device)[mix] for name, value in whole.items()}

    blocks = Blocks(make, keep=_KEPT)

    def draw(i: int, n: int, device: torch.device) -> Draw:
        batch = blocks.rows(i, n, device)
        rng = generator(seed, "t", i, device=device)
        return batch | {"t": draw_t(n, 1000, rng), "noise": noise(batch["z"].shape, rng)}

    def loss(model: nn.Module, batch: Draw) -> Tensor:
        unet = base(batch["z"].device).unet
        hint = batch["hint"].float().expand(-1, 3, -1, -1)
        return control_loss(model, unet, schedule(), batch["z"], batch["t"], batch["noise"],
                            batch["context"], hint)

    return Recipe(name=name, seed=seed, build=build, draw=draw, loss=loss, batch=16, lr=lr, warmup=800, ema=0.995,
                  budgets={"laptop": Budget(images[0], minutes[0]), "gpu": Budget(images[1], minutes[1], batch=32, lr=lr)},
                  expect=expect, identity={"start": start, "drop": drop, "hint": "silhouettes", "weighting": "snr_weight",
                                           "begins_with": lambda: fingerprint(base(torch.device("cpu")).unet),
                                           "data": mixed_identity(_PORTIONS)},
                  export=functools.partial(_export, start))


def _export(start: str, net: nn.Module, folder: Path) -> dict[str, Any]:
    """A ``StableDiffusionControlNetPipeline``, U-Net, autoencoder and ControlNet in half precision; see ``recipes.stable``."""
    pipe = load(start)
    for part in (pipe.unet, pipe.vae, net):
        part.half()
    made = add_control(pipe, net)
    made.save_pretrained(folder)
    for path in (data_folder() / start / "tokenizer").glob("*.json"):      # ``load`` gives out a tokenizer that knows more
        shutil.copyfile(path, folder / "tokenizer" / path.name)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in made.components.items()
             if isinstance(part, nn.Module)}
    return {"parameters": sum(sizes.values()), "parts": sizes}


# name -> what control_recipe is called with
CONTROLS: dict[str, dict] = {
    "mini-control": {"seed": 61, "start": "mini-sd", "images": (6_000, 400_000), "minutes": (4, 2),
                     "expect": "IoU of silhouette and drawn thing >= 0.7"},
}
