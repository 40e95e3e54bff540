"""Rows of the scoreboard on a page: measured now at a small size beside the stored ones, three lines each, and a picture."""

from __future__ import annotations

import dataclasses
import math
import textwrap

from minidiff.course.claims import UNDECIDED, Row, claims, compute, limits, stored
from minidiff.errors import check_choice, require
from minidiff.show import Picture, colour, figure, picture

__all__ = ["board", "three_lines"]

WIDTH = 110
FAR = 12     # a baseline that would make an axis so many times as long stays off it


def _listed(row: Row) -> list[str]:
    named = (("floor", row.floor), ("trivial baseline", row.baseline), ("also measured", row.settings))
    return [f"{name}: " + ", ".join(f"{k} {v:.3g}" for k, v in d.items()) for name, d in named if d]


def three_lines(row: Row, now: Row | None = None) -> str:
    """Claim; value, interval and what to hold it against; verdict in words. Wrapped to 110 columns.

    now: the same row at a small size, whose value and interval stand before the stored ones.
    """
    here = f"now {now.value:.3g} [{now.low:.3g}, {now.high:.3g}] at N = {now.n}; " if now else ""
    again = "" if now else f", {row.seconds:.0f} s by minidiff score {row.id}"
    value = f"{here}stored {row.value:.3g} [{row.low:.3g}, {row.high:.3g}] at N = {row.n} ({row.unit}){again}"
    verdict = row.verdict if row.verdict != UNDECIDED else f"undecided at N = {row.n}, the target lies inside the interval"
    why = f". {row.why[:1].upper()}{row.why[1:]}" if row.why and not row.passed else ""
    lines = [f"{row.id}  {row.claim}", "; ".join([value, *_listed(row)]), f"target {row.target}: {verdict}{why}"]
    return "\n".join("\n".join(textwrap.wrap(line, WIDTH, initial_indent="" if k == 0 else "    ", subsequent_indent="    "))
                     for k, line in enumerate(lines))


def _levels(row: Row) -> Row:
    """The row with the baselines and floors that its own axis can show.

    A claim keeps what is in another unit among its settings. Only a paired gain, which its unit names, holds the two levels that
    it is the difference of: its axis shows no gain in their place.
    """
    paired = any(word in row.unit.split() for word in ("gained", "lost", "minus", "saved"))
    return dataclasses.replace(row, baseline={"no gain": 0.0}, floor={}) if paired else row


def _range(row: Row, now: Row | None = None) -> tuple[float, float]:
    """What the axis of one row shows: both intervals, target, floor, and the trivial baseline that is nearest to the value.

    A baseline so far away that the rest would shrink to a dot stays outside, and is told at the edge.
    """
    values = [row.value, row.low, row.high, *(v for v in limits(row.target) if math.isfinite(v)), *row.floor.values()]
    values += [now.low, now.high] if now else []
    values = [v for v in values if math.isfinite(v)]
    low, high = min(values), max(values)
    bad = [v for v in row.baseline.values() if math.isfinite(v)]
    nearest = min(bad, key=lambda v: abs(v - row.value), default=row.value)
    if max(high, nearest) - min(low, nearest) <= FAR * (high - low) or high == low:
        low, high = min(low, nearest), max(high, nearest)
    margin = 0.08 * (high - low) or 0.1 * max(abs(high), 1e-9)
    return low - margin, high + margin


def _drawn(rows: list[Row], small: list[Row | None]) -> Picture:
    fig, first = figure("value in the row's own unit", "row", height=0.3 + 0.72 * len(rows))
    first.remove()
    axes = fig.subplots(len(rows), 1, squeeze=False)[:, 0]
    for ax, row, now in zip(axes, rows, small, strict=True):
        (left, right), (least, most) = _range(row, now), limits(row.target)
        ax.axvspan(max(least, left), min(most, right), color=colour("green"), alpha=0.16, linewidth=0)
        if now:
            ax.plot([now.low, now.high], [-0.34, -0.34], color=colour("grey"), linewidth=1.4)
        ax.plot([row.low, row.high], [0, 0], color=colour("blue"), linewidth=2.6, marker="|", markersize=8)
        ax.plot([row.value], [0], color=colour("blue"), marker="o")
        ax.plot(list(row.baseline.values()), [0] * len(row.baseline), color=colour("red"), marker="x", linestyle="none")
        for edge, step, beyond in ((left, 1, [v for v in row.baseline.values() if v < left]),
                                   (right, -1, [v for v in row.baseline.values() if v > right])):
            if beyond:                                         # off the axis: an arrow and the nearest of them
                ax.annotate(f"{'←' if step > 0 else '→'} {min(beyond, key=lambda v: abs(v - edge)):.3g}", (edge, 0.3),
                            color=colour("red"), size=8, va="center", ha="left" if step > 0 else "right")
        ax.plot(list(row.floor.values()), [0] * len(row.floor), color=colour("ink"), marker="^", linestyle="none")
        ax.set(xlim=(left, right), ylim=(-0.6, 0.6), xlabel=row.unit.split(" (")[0], ylabel=" ")
        ax.set_yticks([0], [f"{row.id}\n{row.verdict}"])
        ax.grid(visible=False)
        ax.locator_params(axis="x", nbins=6)
        ax.xaxis.label.set(size=8)
        ax.xaxis.labelpad = 1
    told = "; ".join(f"{r.id} {r.value:.3g}, interval {r.low:.3g} to {r.high:.3g}, target {r.target}, {r.verdict}" for r in rows)
    grey = "Grey: measured now. " if any(small) else ""
    marks = [text for text, there in (("Cross: trivial baseline.", any(r.baseline for r in rows)),
                                      ("Triangle: floor.", any(r.floor for r in rows))) if there]
    return picture(fig, alt=f"One line a row, its value and interval against its target. {told}",
                   caption=" ".join([f"Blue: the stored value and its 95 % interval. {grey}Shaded: what meets the target.",
                                     *marks]))


def board(*ids: str, now: bool = True) -> Picture | None:
    """Measure each claim at its small size, print it beside its stored row (three lines), and draw the stored rows.

    ids: claims that are stored, such as "08.inpaint". now=False: only the stored rows, where even a small size is too slow for a
    page. Every row keeps an axis of its own, in its own unit; a row alone is only printed.
    """
    require(len(ids) > 0, "ids", "none", "one claim or more", "board('08.guidance')")
    known, kept = claims(), stored()
    for id in ids:
        check_choice("claim", id, known)
        require(id in kept, "claim", repr(id), "a claim that is stored", f"minidiff score {id}")
    small = [compute(id, known[id].small) if now else None for id in ids]
    rows = [kept[id] for id in ids]
    print("\n".join(three_lines(row, here) for row, here in zip(rows, small, strict=True)))
    return _drawn([_levels(row) for row in rows], small) if len(rows) > 1 else None
