"""minidiff: diffusion models from one noised pixel to image editing, in a toy world where every right answer is known.

Importing this module loads nothing else: the names below are fetched from their homes when they are first used.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# Every name that ``from minidiff import ...`` gives, and where it lives.
_HOMES = {
    "minidiff.world": ("Scene", "Scenes", "Thing", "WorldData", "ImageFolder", "caption", "parse", "render", "sample_scenes"),
    "minidiff.nets": ("UNet",),
    "minidiff.diffusion": ("Eps", "X0", "V", "linear", "cosine", "make_schedule", "q_sample", "simple_loss", "ddpm", "ddim",
                           "dpm2m", "invert", "last"),
    "minidiff.latent": ("text_to_image",),
    "minidiff.train": ("Budget", "Recipe", "fit"),
    "minidiff.course": ("check", "hint", "solution", "grade"),
    "minidiff.zoo": ("load",),
    "minidiff.errors": ("BadInput", "CheckpointError"),
}
EXPORTS = {name: home for home, names in _HOMES.items() for name in names}
PARTS = ("world", "show", "train", "measure", "nets", "diffusion", "latent", "steer", "editing", "personal", "morphing", "zoo",
         "course")

__all__ = ["__version__", *EXPORTS, *PARTS]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name in PARTS:
        return import_module(f"minidiff.{name}")
    if name in EXPORTS:
        value = getattr(import_module(EXPORTS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"minidiff has no {name!r}; it has {', '.join([*PARTS, *EXPORTS])}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
