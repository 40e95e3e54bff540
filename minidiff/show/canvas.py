"""Panels that need more than sliders: a mask painted by hand on a picture, and a prompt typed into a box.

The brush is an anywidget whose JavaScript is the text below, so nothing is fetched. Whoever cannot use a pointer sets the
same mask with four sliders; without anywidget the sliders are what there is.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from torch import Tensor

from minidiff.errors import BadInput, require
from minidiff.show import DENSITY, pixels
from minidiff.show.sheet import encode, picture

__all__ = ["ESM", "MaskPanel", "PromptPanel", "box_mask", "brush"]

ESM = """
function render({ model, el }) {
  const side = model.get("side"), scale = model.get("scale"), wide = side * scale;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = wide;
  canvas.style.cssText = `width:${wide}px;height:${wide}px;cursor:crosshair;touch-action:none;image-rendering:pixelated`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", model.get("label"));
  el.appendChild(canvas);
  const pen = canvas.getContext("2d"), image = new Image();
  let cells = [];
  const draw = () => {
    pen.imageSmoothingEnabled = false;
    pen.clearRect(0, 0, wide, wide);
    if (image.complete && image.naturalWidth) pen.drawImage(image, 0, 0, wide, wide);
    pen.fillStyle = "rgba(191, 63, 219, 0.62)";
    cells.forEach((on, i) => { if (on) pen.fillRect((i % side) * scale, Math.floor(i / side) * scale, scale, scale); });
  };
  const read = () => { cells = Array.from(model.get("cells"), c => c === "1"); draw(); };
  const show = () => { image.src = model.get("picture"); };
  image.onload = draw;
  let held = false;
  const paint = event => {
    const frame = canvas.getBoundingClientRect(), reach = model.get("brush");
    const x = (event.clientX - frame.left) / frame.width * side, y = (event.clientY - frame.top) / frame.height * side;
    for (let j = Math.max(0, Math.floor(y - reach)); j < Math.min(side, y + reach); j++)
      for (let i = Math.max(0, Math.floor(x - reach)); i < Math.min(side, x + reach); i++)
        if ((i + 0.5 - x) ** 2 + (j + 0.5 - y) ** 2 <= reach ** 2) cells[j * side + i] = !event.shiftKey;
    draw();
  };
  const send = () => {
    if (!held) return;
    held = false;
    model.set("cells", cells.map(on => (on ? "1" : "0")).join(""));
    model.save_changes();
  };
  canvas.addEventListener("pointerdown", e => { held = true; canvas.setPointerCapture(e.pointerId); paint(e); });
  canvas.addEventListener("pointermove", e => { if (held) paint(e); });
  canvas.addEventListener("pointerup", send);
  canvas.addEventListener("pointercancel", send);
  model.on("change:cells", read);
  model.on("change:picture", show);
  read();
  show();
}
export default { render };
"""


def brush(image: Tensor, *, scale: int = 4) -> Any:
    """A canvas over one square picture (3, S, S): its trait ``cells`` is the mask, S * S digits row by row, 1 where painted.

    None where anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None
    side = image.shape[-1]

    class Brush(anywidget.AnyWidget):
        _esm = ESM
        side = traitlets.Int(1).tag(sync=True)
        scale = traitlets.Int(4).tag(sync=True)
        brush = traitlets.Float(4.0).tag(sync=True)
        picture = traitlets.Unicode("").tag(sync=True)
        label = traitlets.Unicode("").tag(sync=True)
        cells = traitlets.Unicode("").tag(sync=True)

    data = base64.b64encode(encode(pixels(image[None])[0])).decode()
    return Brush(side=side, scale=scale, brush=side / 16, cells="0" * side * side, picture=f"data:image/png;base64,{data}",
                 label="The picture; paint over what is to be drawn anew. The four sliders set a rectangle instead.")


def box_mask(side: int, x: int, y: int, width: int, height: int) -> Tensor:
    """A mask (side, side) of 0 and 1: one rectangle, x and y its left upper corner in pixels, cut off at the edge."""
    mask = torch.zeros(side, side)
    mask[y:y + height, x:x + width] = 1
    return mask


_TEXT = '<div style="max-width: 700px; line-height: 1.45">{}</div>'


class _Shown(widgets.VBox):
    """A picture with a line of text and a caption; on pages without a kernel the first picture stands in for it all."""

    def __init__(self, above: list[widgets.Widget], first: tuple[np.ndarray, str], caption: str, alt: str) -> None:
        self.image, self.status = widgets.Image(format="png"), widgets.Label()
        self.image.add_class("minidiff-picture")
        self.alt = alt
        self.still = picture(first[0], alt=alt, caption=f"{first[1]}. {caption}" if first[1] else caption)
        self.place(*first)
        super().__init__([*above, self.image, self.status, widgets.HTML(_TEXT.format(html.escape(caption)))])

    def place(self, array: np.ndarray, text: str) -> None:
        width = min(700, -(-array.shape[1] // DENSITY))
        with self.image.hold_sync():
            self.image.width, self.image.height = str(width), str(round(array.shape[0] * width / array.shape[1]))
            self.image.value = encode(array, fast=True)
        self.status.value = text

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, meta = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        still = {"image/png": base64.b64encode(self.still.png).decode(), "text/plain": f"<{type(self).__name__}>"}
        return {**data, **still}, {**meta, "image/png": {"alt": self.alt, "width": self.still.width, "height": self.still.height}}


class MaskPanel(_Shown):
    """A picture to paint a mask on, a button, and what ``render(mask)`` makes of it.

    render: mask (S, S) of 0 and 1 -> (uint8 pixels, a line of text). Painting adds to the mask (with Shift it takes away);
    moving a slider sets the mask to a rectangle. ``panel.set(x=8, y=8, width=24, height=24)`` and ``panel.draw()`` do the same.
    """

    def __init__(self, image: Tensor, render: Callable[[Tensor], tuple[np.ndarray, str]], *, start: tuple[int, int, int, int],
                 caption: str, alt: str) -> None:
        require(image.ndim == 3 and image.shape[1] == image.shape[2], "image", f"shape {tuple(image.shape)}", "(3, S, S)")
        self.side, self.render, self.canvas, self._quiet = image.shape[-1], render, brush(image), False
        self.mask = box_mask(self.side, *start)
        self.knobs = {}
        for name, value in zip(("x", "y", "width", "height"), start, strict=True):
            least = 4 if name in ("width", "height") else 0
            self.knobs[name] = widgets.IntSlider(value=value, min=least, max=self.side, step=2, description=name,
                                                 layout=widgets.Layout(width="330px"))
            self.knobs[name].observe(lambda _: self._boxed(), "value")
        self.button = widgets.Button(description="draw anew", layout=widgets.Layout(width="160px"))
        self.button.on_click(lambda _: self.draw())
        self.presses = 0
        sliders = widgets.VBox([*self.knobs.values(), self.button])
        above = widgets.HBox([self.canvas, sliders]) if self.canvas is not None else sliders
        if self.canvas is not None:
            self.canvas.observe(lambda change: self._painted(change["new"]), "cells")
            self.canvas.cells = self._digits()
        super().__init__([above], render(self.mask), caption, alt)

    def _digits(self) -> str:
        return "".join("1" if v else "0" for v in self.mask.flatten().tolist())

    def _boxed(self) -> None:
        if self._quiet:
            return
        self.mask = box_mask(self.side, *(k.value for k in self.knobs.values()))
        if self.canvas is not None:
            self._quiet = True
            self.canvas.cells = self._digits()
            self._quiet = False
        x, y, width, height = (k.value for k in self.knobs.values())
        self.status.value = (f"a rectangle {width} x {height} from column {x}, row {y}, {int(self.mask.sum())} pixels; "
                             "press the button")

    def _painted(self, cells: str) -> None:
        if self._quiet or not hasattr(self, "status") or len(cells) != self.side**2:
            return
        self.mask = torch.tensor([float(c == "1") for c in cells]).view(self.side, self.side)
        self.status.value = f"{int(self.mask.sum())} pixels painted; press the button"

    def set(self, **values: int) -> None:
        """Move sliders as a hand would."""
        for name, value in values.items():
            require(name in self.knobs, "knob", repr(name), f"one of {', '.join(self.knobs)}")
            knob = self.knobs[name]
            require(knob.min <= value <= knob.max, name, value, f"a number from {knob.min} to {knob.max}")
        self._quiet = True
        for name, value in values.items():
            self.knobs[name].value = value
        self._quiet = False
        self._boxed()

    def draw(self) -> None:
        """What the button does."""
        self.presses += 1
        if not 0 < float(self.mask.sum()) < self.side**2:
            self.status.value = f"Nothing drawn (press {self.presses}): the mask is empty or covers everything."
            return
        array, text = self.render(self.mask)
        self.place(array, f"{text} (press {self.presses})")


class PromptPanel(_Shown):
    """A prompt typed in, a seed, the guidance weight, a button; ``render(prompt=, seed=, guidance=)`` gives pixels and text.

    check: raises BadInput for a prompt that the model does not understand; its words are shown, and nothing is drawn.
    """

    def __init__(self, prompt: str, render: Callable[..., tuple[np.ndarray, str]], check: Callable[[str], str], *,
                 seeds: int = 20, weight: float = 4.0, caption: str, alt: str) -> None:
        self.render, self.check, self.presses = render, check, 0
        wide = widgets.Layout(width="560px")
        style = {"description_width": "90px"}
        self.prompt = widgets.Text(value=prompt, description="prompt", continuous_update=False, layout=wide, style=style)
        self.seed = widgets.IntSlider(value=0, min=0, max=seeds - 1, description="seed", continuous_update=False, style=style)
        self.guidance = widgets.FloatSlider(value=weight, min=1.0, max=10.0, step=0.5, description="guidance",
                                            continuous_update=False, style=style)
        self.button = widgets.Button(description="draw", layout=widgets.Layout(width="160px"))
        self.button.on_click(lambda _: self.draw())
        for knob in (self.prompt, self.seed, self.guidance):
            knob.observe(lambda _: self._changed(), "value")
        super().__init__([self.prompt, self.seed, self.guidance, self.button], render(prompt=prompt, seed=0, guidance=weight),
                         caption, alt)

    def _changed(self) -> None:
        try:
            said = f"seed {self.seed.value}, guidance {self.guidance.value:g}: {self.check(self.prompt.value)}; press the button"
        except BadInput as problem:
            said = str(problem)
        self.status.value = said

    def set(self, *, prompt: str | None = None, seed: int | None = None, guidance: float | None = None) -> None:
        """Move the knobs as a hand would; nothing is drawn yet."""
        for knob, value in ((self.prompt, prompt), (self.seed, seed), (self.guidance, guidance)):
            if value is not None:
                knob.value = value

    def draw(self) -> None:
        """What the button does."""
        self.presses += 1
        try:
            self.check(self.prompt.value)
            array, text = self.render(prompt=self.prompt.value, seed=self.seed.value, guidance=self.guidance.value)
        except BadInput as problem:
            self.status.value = f"Nothing drawn (press {self.presses}): {problem}"
            return
        self.place(array, f"{text} (press {self.presses})")
