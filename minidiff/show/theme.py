"""One look for the whole course: colours, fonts, sizes, and matplotlib figures that must name their axes.

Pictures carry their own warm off-white paper with a margin, so that they read on light and on dark pages alike.
Nothing here imports matplotlib until a figure is asked for.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minidiff.errors import BadInput, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PAPER", "INK", "SOFT", "HAIR", "PALETTE", "CYCLE", "DASHES", "MARKERS", "COLUMN", "PIXELS", "DENSITY",
           "colour", "rgb", "font_file", "set_theme", "figure", "png"]

PAPER, INK, SOFT, HAIR = "#fcfbf7", "#23272f", "#666b76", "#dedad0"

# Told apart under all three kinds of colour blindness, each at contrast 3 or more on PAPER (tests/test_show.py).
PALETTE = {
    "blue": "#17409a", "orange": "#dd7410", "green": "#16a468", "purple": "#bf3fdb", "red": "#9c1a2c", "grey": "#8a909b",
    "ink": INK,
}
CYCLE = ("blue", "orange", "purple", "green", "red")
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.5, 1.4, 1.5)), (0, (9, 2)))
MARKERS = ("o", "s", "^", "D", "v")

COLUMN = 7.0                 # inches: the width of a notebook column
PIXELS = 100                 # display pixels an inch, so a full-width picture is 700 wide
DENSITY = 2                  # device pixels a display pixel: text stays crisp on fine screens


def colour(name: str) -> str:
    """The hex code of a colour of :data:`PALETTE`; any other colour text is handed back unchanged if it is a hex code."""
    if name in PALETTE:
        return PALETTE[name]
    if isinstance(name, str) and name.startswith("#") and len(name) == 7:
        return name
    raise BadInput("colour", repr(name), f"one of {', '.join(PALETTE)} or a hex code such as '#17409a'", "colour='blue'")


def rgb(name: str) -> tuple[int, int, int]:
    """(red, green, blue) in 0..255 of a palette name or hex code."""
    code = colour(name)
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def font_file(bold: bool = False) -> Path:
    """DejaVu Sans as matplotlib bundles it: the same letters on every machine, with Greek and subscripts."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput("matplotlib", "not installed", "matplotlib, whose fonts the pictures use", "pip install matplotlib")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(next(iter(spec.submodule_search_locations))) / "mpl-data" / "fonts" / "ttf" / name


def _settings() -> dict[str, object]:
    from matplotlib import cycler

    return {
        "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.facecolor": PAPER, "figure.dpi": PIXELS,
        "savefig.dpi": PIXELS * DENSITY, "figure.figsize": (COLUMN, 3.2), "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1,
        "font.family": ["DejaVu Sans"], "font.size": 9.5, "text.color": INK, "mathtext.fontset": "dejavusans",
        "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK,
        "axes.titlepad": 8, "axes.labelsize": 9.5, "axes.labelcolor": SOFT, "axes.labelpad": 5, "axes.edgecolor": "#b9b6ac",
        "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "axes.prop_cycle": cycler(color=[PALETTE[name] for name in CYCLE]),
        "grid.color": HAIR, "grid.linewidth": 0.7, "xtick.color": "#b9b6ac", "ytick.color": "#b9b6ac",
        "xtick.labelcolor": SOFT, "ytick.labelcolor": SOFT, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
        "xtick.major.size": 3, "ytick.major.size": 3, "lines.linewidth": 1.9, "lines.markersize": 4.5,
        "lines.solid_capstyle": "round", "legend.frameon": False, "legend.fontsize": 9, "image.interpolation": "nearest",
        "image.cmap": "viridis", "svg.hashsalt": "minidiff",
    }


def set_theme() -> None:
    """Set the course's theme for every matplotlib figure made from now on. Calling it again changes nothing."""
    import matplotlib

    matplotlib.rcParams.update(_settings())


def figure(x: str | Sequence[str], y: str | Sequence[str], *, title: str | Sequence[str] = "", columns: int | None = None,
           width: float = COLUMN, height: float = 3.0, share_y: bool = False) -> tuple[Figure, Axes]:
    """A figure in the course's theme, with named axes; end the cell with ``show.picture(fig, alt=...)``.

    x, y:       the axis names with their units, e.g. "noising step t" and "signal-to-noise ratio (dB)";
                lists of names give that many plots side by side, and then an array of axes comes back
    width, height: inches; a notebook column is 7 wide
    The figure belongs to no window and is shown once, by ``picture``; ``plt.show`` is not needed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lists = [value for value in (x, y, title) if not isinstance(value, str)]
    count = columns or (max(map(len, lists)) if lists else 1)
    names = {}
    for argument, value in {"x": x, "y": y, "title": title}.items():
        names[argument] = [value] * count if isinstance(value, str) else list(value)
        require(len(names[argument]) == count, argument, f"{len(names[argument])} names", f"{count}, one for each plot")
    for argument in ("x", "y"):
        require(all(isinstance(name, str) and name.strip() for name in names[argument]), argument, repr(names[argument]),
                "the name of the axis with its unit", f'{argument}="noising step t"')
    set_theme()
    fig = Figure(figsize=(width, height))
    FigureCanvasAgg(fig)
    axes = fig.subplots(1, count, sharey=share_y, squeeze=False)[0]
    for place, axis in enumerate(axes):
        axis.set(xlabel=names["x"][place], ylabel="" if share_y and place else names["y"][place], title=names["title"][place])
    return fig, (axes[0] if count == 1 else axes)


def png(fig: Figure) -> bytes:
    """The figure as PNG bytes without the stamp of matplotlib's version, so that equal figures give equal files."""
    for axis in fig.axes:
        named = (axis.get_xlabel() and axis.get_ylabel()) or not axis.axison or hasattr(axis, "_colorbar")
        shared = axis.get_xlabel() and any(other.get_ylabel() for other in fig.axes)
        require(bool(named or shared), "fig", "an axis without a name", "a name and unit on every axis",
                'ax.set(xlabel="noising step t", ylabel="signal-to-noise ratio (dB)")')
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=PIXELS * DENSITY, facecolor=fig.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()
