"""One look for the whole course: picture grids, film strips, heat maps, plots, and panels with knobs.

Everything here comes back as a :class:`Picture` (or a live panel that carries one), with alternative text and a caption.
Nothing is loaded until it is used: matplotlib only by plots, ipywidgets only by panels.
"""

from __future__ import annotations

from importlib import import_module
from types import FunctionType

# Modules are named apart from their functions, so that neither hides the other.
_HOMES = {
    "theme": ("set_theme", "figure", "png", "colour", "rgb", "PALETTE", "CYCLE", "PAPER", "INK", "SOFT", "DENSITY", "PIXELS"),
    "sheet": ("Picture", "picture", "plural", "paper", "write_text"),
    "tiles": ("grid", "strip", "tile", "pixels", "spread", "save_grid"),
    "heat": ("heatmap", "animation", "Animation"),
    "plots": ("curve", "bars", "scatter2d"),
    "knobs": ("slider", "play", "seed", "choice", "toggle", "text", "Knob"),
    "canvas": ("mask", "box_mask"),
    "panels": ("panel", "Panel"),
    "sweeps": ("sweep",),
    "document": ("html_page",),
}
EXPORTS = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in EXPORTS:
        raise AttributeError(f"minidiff.show has no {name!r}; it has {', '.join(EXPORTS)}")
    value = getattr(import_module(f"{__name__}.{EXPORTS[name]}"), name)
    if isinstance(value, FunctionType):
        from minidiff.guard import guarded  # loads torch, and so not before it is needed

        value = guarded(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
