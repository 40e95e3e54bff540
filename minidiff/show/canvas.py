"""The painted mask: a knob that is a picture to paint on, with brush, undo and clear.

The canvas is an anywidget whose JavaScript is the text below, so nothing is fetched. The page alone paints: the kernel hears of
each finished stroke, and sets the mask only where a program asks for it. All of it can be done by keyboard.
"""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets as widgets
import numpy as np
import torch
from torch import Tensor

from minidiff.errors import check_images, require
from minidiff.show.knobs import Knob
from minidiff.show.sheet import encode
from minidiff.show.theme import rgb
from minidiff.show.tiles import pixels

__all__ = ["ESM", "Mask", "box_mask", "mask"]

SCALE = 4                        # display pixels a picture pixel
_VIOLET, _COVER = "purple", 0.62   # how the painted part is marked

ESM = """
function render({ model, el }) {
  const side = model.get("side"), scale = model.get("scale"), wide = side * scale;
  const add = (parent, tag, fields = {}) => parent.appendChild(Object.assign(document.createElement(tag), fields));
  const canvas = add(el, "canvas", { width: wide, height: wide, tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", model.get("label"));
  el.setAttribute("data-lm-suppress-shortcuts", "true");         // else JupyterLab takes the arrow keys for itself
  el.classList.add("minidiff-canvas");
  const tools = add(el, "div");
  const reach = add(add(tools, "label", { textContent: "brush " }), "input",
                    { type: "range", min: 0.5, max: side / 6, step: 0.5, value: side / 16 });
  const erase = add(tools, "label");
  const eraser = add(erase, "input", { type: "checkbox" });
  erase.append(" erase");
  const undo = add(tools, "button", { textContent: "undo" }), clear = add(tools, "button", { textContent: "clear" });
  const pen = canvas.getContext("2d"), image = new Image(), before = [];
  let cells = [], held = false, x = side / 2, y = side / 2, keys = false;
  const digits = () => cells.map(on => (on ? "1" : "0")).join("");
  const draw = () => {
    pen.imageSmoothingEnabled = false;
    pen.clearRect(0, 0, wide, wide);
    if (image.complete && image.naturalWidth) pen.drawImage(image, 0, 0, wide, wide);
    pen.fillStyle = model.get("paint");
    cells.forEach((on, i) => { if (on) pen.fillRect((i % side) * scale, Math.floor(i / side) * scale, scale, scale); });
    if (keys) for (const [colour, more] of [["white", 1.5], ["black", 0]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = 1.5;
      pen.beginPath();
      pen.arc(x * scale, y * scale, reach.value * scale + more, 0, 7);
      pen.stroke();
    }
    undo.disabled = !before.length;
    clear.disabled = !cells.includes(true);
  };
  const begin = () => { before.push(digits()); before.splice(0, before.length - 100); };
  const dab = on => {
    const r = Number(reach.value);
    for (let j = Math.max(0, Math.floor(y - r)); j < Math.min(side, y + r); j++)
      for (let i = Math.max(0, Math.floor(x - r)); i < Math.min(side, x + r); i++)
        if ((i + 0.5 - x) ** 2 + (j + 0.5 - y) ** 2 <= Math.max(r ** 2, 0.5)) cells[j * side + i] = on;
    draw();
  };
  const end = () => { draw(); model.set("cells", digits()); model.save_changes(); };
  const take = text => { cells = Array.from(text, c => c === "1"); draw(); };
  const at = event => {
    const frame = canvas.getBoundingClientRect();
    [x, y] = [(event.clientX - frame.left) / frame.width * side, (event.clientY - frame.top) / frame.height * side];
    dab(!(event.shiftKey || eraser.checked));
  };
  canvas.addEventListener("pointerdown", e => {
    [held, keys] = [true, false];
    canvas.setPointerCapture(e.pointerId);
    begin();
    at(e);
  });
  canvas.addEventListener("pointermove", e => { if (held) at(e); });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => { if (held) { held = false; end(); } });
  canvas.addEventListener("keydown", e => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (way) {
      [x, y] = [x + way[0] * reach.value, y + way[1] * reach.value].map(v => Math.min(side, Math.max(0, v)));
      keys = true;
      draw();
    } else if (e.key === " ") {
      begin();
      dab(!(e.shiftKey || eraser.checked));
      end();
    } else if (e.key === "z" && (e.ctrlKey || e.metaKey)) {
      undo.click();
    } else return;
    e.preventDefault();
    e.stopPropagation();
  });
  canvas.addEventListener("blur", () => { keys = false; draw(); });
  reach.addEventListener("input", draw);
  undo.addEventListener("click", () => { if (before.length) { take(before.pop()); end(); } });
  clear.addEventListener("click", () => { begin(); cells.fill(false); end(); });
  const set = () => { if (model.get("cells") !== digits()) { begin(); take(model.get("cells")); } };
  model.on("change:cells", set);                   // a program has set the mask: what was painted can be had back
  image.onload = draw;
  image.src = model.get("picture");
  take(model.get("cells"));
  return () => model.off("change:cells", set);
}
export default { render };
"""

CSS = """
.minidiff-canvas canvas { cursor: crosshair; touch-action: none; image-rendering: pixelated; }
.minidiff-canvas canvas:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }
.minidiff-canvas div { display: flex; gap: 8px; align-items: center; color: var(--jp-ui-font-color1, inherit); font-size: 13px; }
.minidiff-canvas label { display: flex; gap: 4px; align-items: center; white-space: nowrap; }
.minidiff-canvas input[type=range] { width: 80px; vertical-align: middle; }
"""


def _canvas(**state: Any) -> Any:
    """The widget: its trait ``cells`` is the mask, side * side digits row by row, 1 where painted.

    Where anywidget is not installed it is a line of text that says so, and the mask stays what it is.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        made = widgets.HTML(html.escape("Painting needs anywidget: %pip install anywidget, then restart the kernel and run the "
                                        "page again. Until then the mask is the one in the picture."))
        made.cells = state["cells"]
        return made

    class Canvas(anywidget.AnyWidget):
        _esm, _css = ESM, CSS
        side = traitlets.Int(1).tag(sync=True)
        scale = traitlets.Int(SCALE).tag(sync=True)
        picture, label, paint, cells = (traitlets.Unicode("").tag(sync=True) for _ in range(4))

    return Canvas(**state)


@dataclass(frozen=True, eq=False)
class Mask(Knob):
    """A picture (3, S, S) to paint on; the value is a mask (S, S) of 0 and 1."""

    image: Tensor | None = None
    trait: ClassVar[str] = "cells"

    def widget(self) -> Any:
        """The canvas."""
        data = base64.b64encode(encode(pixels(self.image[None])[0])).decode()
        label = f"{self.label}: a picture to paint on. Arrows move the brush, Space paints, Shift Space erases, Control Z undoes."
        return _canvas(side=self.image.shape[-1], cells=_digits(self.value), picture=f"data:image/png;base64,{data}", label=label,
                       paint="rgb({} {} {} / {})".format(*rgb(_VIOLET), _COVER))

    def read(self, widget: Any) -> Tensor:
        """The mask as painted."""
        return torch.tensor([float(c == "1") for c in widget.cells]).view(self.value.shape)

    def write(self, widget: Any, value: Tensor) -> None:
        """Set the mask from a program."""
        widget.cells = _digits(value)

    def check(self, value: Any) -> None:
        """Raise BadInput for what is no mask of the picture's size."""
        want = tuple(self.value.shape)
        require(isinstance(value, Tensor) and tuple(value.shape) == want and bool(((value == 0) | (value == 1)).all()), self.name,
                f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__,
                f"a tensor of 0 and 1 of shape {want}", f"box_mask({want[0]}, 8, 8, 24, 24)")

    def drawn(self) -> np.ndarray:
        """The picture with the first mask upon it, as the canvas shows it: uint8 (4 S, 4 S, 3)."""
        cover = _COVER * self.value[..., None].numpy()
        shown = (1 - cover) * pixels(self.image[None])[0] + cover * np.array(rgb(_VIOLET))
        return np.repeat(np.repeat(shown.round().astype(np.uint8), SCALE, 0), SCALE, 1)


def _digits(value: Tensor) -> str:
    return "".join("1" if v else "0" for v in value.flatten().tolist())


def box_mask(side: int, x: int, y: int, width: int, height: int) -> Tensor:
    """A mask (side, side) of 0 and 1: one rectangle, x and y its left upper corner in pixels, cut off at the edge."""
    for name, value in (("side", side), ("width", width), ("height", height)):
        require(value >= 1, name, value, "1 pixel or more")
    made = torch.zeros(side, side)
    made[max(y, 0):max(y + height, 0), max(x, 0):max(x + width, 0)] = 1
    return made


def mask(name: str, image: Tensor, *, start: Tensor | None = None) -> Mask:
    """A mask painted on ``image`` (3, S, S) in [-1, 1]. start: the mask (S, S) to begin with; a middle square if left out."""
    check_images("image", image[None], channels=3)
    require(image.shape[1] == image.shape[2], "image", f"shape {tuple(image.shape)}", "a square picture (3, S, S)")
    side = image.shape[-1]
    first = box_mask(side, side // 4, side // 4, side // 2, side // 2) if start is None else start
    halves = box_mask(side, 0, 0, side // 2, side), box_mask(side, 0, side // 2, side, side)
    made = Mask(name, first, (first, *halves), False, image)
    made.check(first)
    return made
