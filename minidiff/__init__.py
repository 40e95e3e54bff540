"""minidiff: diffusion models from one noised pixel to image editing, in a toy world where every right answer is known.

Importing this module loads nothing else: the names below are fetched from their homes when they are first used.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# Every name that ``from minidiff import ...`` gives, and where it lives.
EXPORTS = {
    "load": "minidiff.zoo",
    "Scenes": "minidiff.world",
    "ImageFolder": "minidiff.world",
    "fit": "minidiff.train",
    "recipe": "minidiff.recipes",
    "Scene": "minidiff.world",
    "Thing": "minidiff.world",
    "WorldData": "minidiff.world",
    "render": "minidiff.world",
    "sample_scenes": "minidiff.world",
    "UNet": "minidiff.nets",
    "BadInput": "minidiff.errors",
}

__all__ = ["__version__", *EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name in EXPORTS:
        value = getattr(import_module(EXPORTS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"minidiff has no {name!r}; it has {', '.join(EXPORTS)}, and its parts such as minidiff.world")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
