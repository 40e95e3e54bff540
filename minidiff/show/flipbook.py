"""Pictures sent to the page before they are asked for, so that a slider turns them over without waiting for the kernel.

A question to the kernel and its answer take some 60 to 100 ms, however little there is to draw. So the page keeps a panel's
pictures by where the knobs stand, and shows one it has at once; the kernel answers as before, and its answer is the same
picture. On a page without a kernel, or without anywidget, nothing of this happens.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ipywidgets as widgets

from minidiff.show.knobs import Knob

__all__ = ["Flipbook", "flipbook", "mark"]

MOST = 400            # pictures that a page keeps for one panel
FIRST, AROUND = 8, 60  # places looked at when a panel is shown, and after each move
SOON, LATER = 0.02, 0.12  # seconds of rest before each of the first, and of the others; then the kernel hears other requests

ESM = """
export default {
  async initialize({ model }) {
    const find = id => model.widget_manager.get_model(id);
    const image = await find(model.get("image"));
    const knobs = await Promise.all(model.get("knobs").map(async ([id, trait]) => [await find(id), trait]));
    const pages = new Map();                       // where the knobs stand -> an image of that, loaded and decoded
    const key = () => knobs.map(([knob, trait]) => Number(knob.get(trait)).toFixed(6)).join(" ");
    const turn = async () => {
      for (const view of Object.values(image.views ?? {})) {
        const { el } = await view, page = pages.get(key());
        if (page && el.src !== page.src) el.src = page.src;
      }
    };
    model.on("msg:custom", (message, buffers) => {
      if (message.forget) return pages.clear();
      const reader = new FileReader(), page = new Image();
      reader.onload = () => {
        page.src = reader.result;                  // a data URL: the widget revokes the others that it finds in its place
        page.decode().then(() => pages.set(message.key, page), () => {});
      };
      reader.readAsDataURL(new Blob([buffers[0]], { type: "image/png" }));
    });
    for (const [knob, trait] of knobs) knob.on(`change:${trait}`, turn);
    image.on("change:value", turn);                // a late answer of the kernel does not turn the page back
    model.send({ ready: true });
  },
};
"""


def mark(knobs: Iterable[Knob], values: dict[str, Any]) -> str:
    """Where knobs stand, in the words of the page: a number each, for a choice its position in the list."""
    return " ".join(f"{float(k.values.index(values[k.name]) if k.kind == 'choice' else values[k.name]):.6f}" for k in knobs)


class Flipbook:
    """Sends pictures to the page whenever the kernel has nothing else to do.

    book: the widget of :func:`flipbook`; draw: values of the knobs -> PNG; around: () -> pairs of a mark and the values
    worth having there, nearest first. Call ``moved()`` after each move. Only the panel moved last sends more than the first
    few, so that many panels on a page do not wait for one another.
    """

    latest: Flipbook | None = None

    def __init__(self, book: Any, draw: Callable[[dict[str, Any]], bytes],
                 around: Callable[[], Iterator[tuple[str, dict[str, Any]]]]) -> None:
        self.book, self.draw, self.around = book, draw, around
        self.sent: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the thread which hears the page; None: nobody looks
        self._plan: Iterator[tuple[int, tuple[str, dict[str, Any]]]] = iter(())
        self._waiting: asyncio.TimerHandle | None = None
        book.on_msg(self._heard)

    def _heard(self, _: Any, message: dict[str, Any], __: Any) -> None:
        """A page says that it shows the panel; as yet it has no picture but the first."""
        if message.get("ready"):
            self._loop = asyncio.get_running_loop()
            self._forget()
            self.moved(FIRST)

    def _forget(self) -> None:
        self.sent.clear()
        self.book.send({"forget": True})

    def moved(self, most: int = AROUND) -> None:
        """Plan anew from where the knobs stand now: at most so many pictures."""
        Flipbook.latest = self if most > FIRST else Flipbook.latest
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._plan_anew, most)  # a cell may move knobs in another thread

    def _plan_anew(self, most: int) -> None:
        if len(self.sent) > MOST:
            self._forget()
        self._plan = enumerate(itertools.islice(self.around(), most))
        self._later(SOON)

    def _later(self, seconds: float) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._loop.call_later(seconds, self._next)

    def _next(self) -> None:
        """Draw and send the next picture that the page lacks."""
        for count, (name, values) in self._plan:
            if count >= FIRST and Flipbook.latest is not self:
                return
            if name in self.sent:
                continue
            try:
                png = self.draw(values)
            except Exception:                      # the same error comes, and is shown, when a hand moves the knob there
                continue
            self.sent.add(name)
            self.book.send({"key": name}, [png])
            self._later(SOON if count < FIRST else LATER)
            return


def flipbook(image: widgets.Image, knobs: Iterable[Knob], handles: dict[str, widgets.Widget]) -> Any:
    """The widget behind a Flipbook; None where anywidget is not installed. handles: name of a knob -> its widget."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class Book(anywidget.AnyWidget):
        _esm = ESM
        image = traitlets.Unicode("").tag(sync=True)
        knobs = traitlets.List().tag(sync=True)

    places = [[handles[k.name].model_id, "index" if k.kind == "choice" else "value"] for k in knobs]
    return Book(image=image.model_id, knobs=places)
