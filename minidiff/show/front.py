"""What the page does for a panel without waiting for the kernel.

A question to the kernel and its answer take some 50 ms, and all the time that the kernel is at work with something else. So
the page asks for pictures ahead: once a hand has moved a slider, the page fetches the pictures of the slider's other values,
nearest first and one at a time, so that the kernel can hear other requests in between, and shows those that it has at once. It
also says "drawing" as soon as a button is pressed, which it disables, or a slow knob is moved, and where the kernel has not
answered another knob in a tenth of a second, until the kernel has told how that ended; and it gives the picture and the
sliders the names that screen readers look for.

Without anywidget all of this is left to the kernel, and to the text beside the knobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from minidiff.show.knobs import Knob, Slider

if TYPE_CHECKING:
    from anywidget import AnyWidget

__all__ = ["BUSY", "LATE", "STALE", "front", "position_of", "values_at"]

BUSY, STALE = "drawing", "minidiff-stale"
MOST = 400                # pictures that a page keeps for one panel
LATE = 100                # milliseconds of silence after which a move that is mostly drawn at once counts as a slow one

ESM = """
async function start({ model }) {
  const find = id => model.widget_manager.get_model(id);
  const parts = model.get("parts");
  const [image, status] = await Promise.all([find(parts.image), find(parts.status)]);
  const mark = (text, stale) => {
    const classes = image.get("_dom_classes").filter(c => c !== parts.stale);
    image.set("_dom_classes", stale ? [...classes, parts.stale] : classes);
    status.set("value", text);
  };
  let late;
  const done = () => clearTimeout(late);
  for (const k of parts.told) {
    const knob = await find(k.id);
    knob.on(`change:${k.trait}`, () => {             // by a hand, not by the kernel, and with a kernel to draw it
      if (knob._state_lock || knob.comm_live === false) return;
      done();
      if (k.after) late = setTimeout(mark, k.after, parts.busy, true); else mark(parts.busy, true);
    });
  }
  model.on("msg:custom", async ({ settled }) => {
    if (!settled) return;
    done();
    mark(settled.text, settled.stale);
    if (parts.button) (await find(parts.button)).set({ disabled: false, description: parts.action });
  });
  if (parts.knobs.length) await ahead(model, parts, image, status, find, done);
}

async function ahead(model, parts, image, status, find, done) {
  const knobs = await Promise.all(parts.knobs.map(async k => ({ ...k, model: await find(k.id) })));
  const here = () => knobs.map(k => Math.round((Number(k.model.get(k.trait)) - k.low) / k.step));
  const pages = new Map();                         // positions of the knobs -> what to show; null: asked for, or impossible
  let rest;
  const turn = () => {
    const page = pages.get(here().join());
    if (page) done();
    if (page && image.get("value") !== page.value) {
      const { text, ...shown } = page;
      image.set(shown);
      status.set("value", text);
    }
  };
  const fetch = () => {
    const at = here(), live = knobs.filter(k => k.live);
    const far = Math.min(parts.most / 4 / live.length, Math.max(...live.map(k => k.count)));      // from empty, half of the most
    if (pages.size > parts.most) pages.clear();
    for (let gap = 0; gap < far; gap++)
      for (let i = 0; i < knobs.length; i++)
        for (const place of [at[i] + gap, at[i] - gap]) {
          const there = at.with(i, place);
          if (!knobs[i].live || place < 0 || place >= knobs[i].count || pages.has(there.join())) continue;
          pages.set(there.join(), null);
          model.send({ want: there });
          return;
        }
  };
  const soon = wait => { clearTimeout(rest); rest = setTimeout(fetch, wait); };
  model.on("msg:custom", (message, [value]) => {
    if (!message.at) return;
    if (value) pages.set(message.at.join(), { value, ...message.shown });
    turn();
    soon(10);
  });
  for (const k of knobs) k.model.on(`change:${k.trait}`, () => { turn(); soon(150); });
  image.on("change:value", turn);                  // a late answer of the kernel does not turn the page back
}

function render({ model, el }) {
  const named = root => {
    const parts = model.get("parts");
    root.querySelector("img.minidiff-picture")?.setAttribute("alt", parts.alt);
    root.querySelector(".minidiff-status")?.setAttribute("role", "status");
    for (const handle of root.querySelectorAll(".widget-slider :is([role=slider], .ui-slider-handle)")) {
      handle.setAttribute("role", "slider");
      handle.setAttribute("aria-label", handle.closest(".widget-slider").querySelector(".widget-label")?.textContent ?? "");
    }
    for (const player of root.querySelectorAll(".widget-play")) {
      const buttons = [...player.querySelectorAll("button")];                      // ipywidgets 7 has four of them
      const first = buttons.length > 3 ? ["play", "pause"] : ["play or pause"];
      [...first, "back to the start", "play again and again"].forEach((label, i) => {
        buttons[i]?.setAttribute("aria-label", label);
        buttons[i]?.setAttribute("title", label);
      });
    }
    const button = root.querySelector(".minidiff-action");
    if (!button) return;
    model.widget_manager.get_model(parts.button).then(action => {
      let focused = false;
      button.addEventListener("click", () => {
        if (action.comm_live === false) return;
        focused = document.activeElement === button;
        action.set({ disabled: true, description: parts.busy });
      });
      action.on("change:disabled", () => setTimeout(() => {                        // a disabled button loses the focus
        if (focused && !button.disabled && document.activeElement === document.body) button.focus();
      }));
    });
  };
  const watch = new IntersectionObserver(() => {
    const root = el.closest(".minidiff-panel");
    if (root) { watch.disconnect(); named(root); }
  });
  watch.observe(el);
  return () => watch.disconnect();
}

export default { initialize: context => { start(context); }, render };
"""

CSS = """
.minidiff-picture { transition: opacity 0.15s; }
.minidiff-picture.minidiff-stale { opacity: 0.35; }
.minidiff-panel .widget-html-content { line-height: 1.45; padding: 2px 0; }
.minidiff-panel .widget-dropdown > select {        /* ipywidgets' own arrow is black on a dark page */
  background-image: url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E\
%3Cpath d='M5 7.5h8L9 12z' fill='%238a909b'/%3E%3C/svg%3E");
}
"""


def position_of(knobs: Sequence[Knob], values: dict[str, Any]) -> list[int]:
    """Where the knobs stand as the page counts: for each, the position in its values."""
    return [k.nearest(values[k.name]) if isinstance(k, Slider) else k.values.index(values[k.name]) for k in knobs]


def values_at(knobs: Sequence[Knob], position: Sequence[int]) -> dict[str, Any]:
    """The inverse of :func:`position_of`."""
    return {k.name: k.values[i] for k, i in zip(knobs, position, strict=True)}


def _places(knobs: Sequence[Knob], handles: dict[str, widgets.Widget]) -> list[dict[str, Any]]:
    """How the page reads each knob's position; nothing where a knob has no positions or none follows the hand."""
    if any(k.place is None for k in knobs) or not any(k.live and isinstance(k, Slider) for k in knobs):
        return []
    return [{"id": handles[k.name].model_id, "trait": k.place, "count": len(k.values), "live": k.live and isinstance(k, Slider),
             "low": k.values[0] if isinstance(k, Slider) else 0, "step": k.step if isinstance(k, Slider) else 1} for k in knobs]


def front(panel: Any, picture: Callable[[dict[str, Any]], tuple[bytes, dict[str, Any]]]) -> AnyWidget | None:
    """The widget that does it for ``panel``; None where anywidget is not installed.

    picture: values of the knobs -> PNG bytes, and what goes with them on the page (text, width and height).
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class Front(anywidget.AnyWidget):
        _esm, _css = ESM, CSS
        parts = traitlets.Dict().tag(sync=True)

    knobs = tuple(panel.specs.values())
    told = [{"id": panel.knobs[k.name].model_id, "trait": k.place or k.trait, "after": after} for k in knobs
            if (after := panel.says_after(k)) is not None]
    made = Front(parts={
        "image": panel.image.model_id, "status": panel.status.model_id, "alt": panel.alt,
        "busy": BUSY, "stale": STALE, "most": MOST,
        "button": panel.button.model_id if panel.button else "", "action": panel.action, "told": told,
        "knobs": [] if panel.button else _places(knobs, panel.knobs)})

    def answer(widget: Any, message: dict[str, Any], buffers: Any) -> None:
        try:
            png, shown = picture(values_at(knobs, message["want"]))
        except Exception:                  # the same error comes, and is shown, when a hand moves the knob there
            widget.send({"at": message["want"], "shown": {}})
        else:
            widget.send({"at": message["want"], "shown": shown}, [png])

    made.on_msg(answer)
    return made
