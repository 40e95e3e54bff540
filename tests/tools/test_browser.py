"""The course as a learner meets it: `make lab`, Chromium, every notebook run, every knob moved by keyboard."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import HELP, Lab, chromium, lab, visit

ROOT = Path(__file__).resolve().parents[2]
COURSE = sorted((ROOT / "notebooks").glob("0*.ipynb"))

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chromium() is None, reason=HELP), pytest.mark.timeout(900)]

START = """
import io
import ipywidgets as w
import numpy as np
from matplotlib import image

def png(seed):
    buffer = io.BytesIO()
    image.imsave(buffer, np.random.default_rng(abs(hash(str(seed))) % 2**32).random((16, 16)), format="png")
    return buffer.getvalue()

def panel(knob, *more):
    picture = w.Image(format="png", value=png(0), width=64, height=64)
    def show(change):
        picture.value = png(change["new"])
    knob.observe(show, "value")
    return w.VBox([knob, *more, picture])
"""
GOOD = [
    "panel(w.IntSlider(description='seed'))",
    "panel(w.FloatSlider(description='at its end', value=1.0, max=1.0))",
    "panel(w.SelectionSlider(description='word', options=['a', 'b', 'c']))",
    "panel(w.Dropdown(description='list', options=['a', 'b', 'c']))",
    "panel(w.ToggleButtons(description='one of', options=['a', 'b']))",
    "panel(w.RadioButtons(description='radio', options=['a', 'b']))",
    "panel(w.Checkbox(description='tick'))",
    "panel(w.ToggleButton(description='toggle'))",
    "panel(w.IntText(description='number', value=7))",
    "panel(w.Play(description='play', interval=300, max=500))",
    "slider = w.IntSlider(description='slow', continuous_update=False)\npanel(slider)",
    "status = w.Label('at rest')\n"
    "button = w.Button(description='run')\n"
    "button.on_click(lambda _: setattr(status, 'value', 'has run'))\n"
    "w.VBox([button, status])",
    "w.interact(lambda k: print('k is', k), k=(0, 9));",
]
BAD = {
    "w.IntSlider(description='idle')": "idle",
    "slider = w.IntSlider(description='raises')\n"
    "slider.observe(lambda change: 1 / 0, 'value')\nslider": "raises",
    "w.interact(lambda gone=(0, 9): {}[gone] if gone != 4 else None);": "gone",
    "from IPython.display import HTML\n"
    "HTML('<img src=\"http://pictures.example.org/cat.png\">')": None,
    "raise RuntimeError('the last cell')": None,
}

PAINT = """
import torch
from minidiff.show.canvas import MaskPanel
from minidiff.show import pixels
grey = torch.zeros(3, 32, 32)
MaskPanel(grey, lambda mask: (pixels((grey + mask)[None])[0], "drawn anew"), start=(2, 2, 8, 8), caption="Paint.",
          alt="A square.")
"""

FLIP = """
import os
import numpy as np
from minidiff import show
def grey(t):
    return np.full((40, 40, 3), 20 * t, np.uint8), f"standing at {t} of kernel {os.getpid()}"
show.panel(grey, show.slider("t", 0, 9, 1, 4), alt="grey")
"""


def write(path: Path, cells: list[str]) -> None:
    content = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
               for i, source in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": content, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """`make lab` on copies of the course's notebooks and on some of our own."""
    folder = tmp_path_factory.mktemp("course")
    for path in COURSE:
        shutil.copy(path, folder)
    write(folder / "good.ipynb", [START, *GOOD])
    write(folder / "bad.ipynb", [START, *BAD])
    write(folder / "paint.ipynb", [PAINT])
    write(folder / "flip.ipynb", [FLIP])
    with lab(folder, tmp_path_factory.mktemp("lab")) as running:
        yield running


def test_every_kind_of_knob_is_moved_and_seen_to_act(server: Lab) -> None:
    seen = visit(server, "good.ipynb")
    assert len(seen.knobs) == len(GOOD), seen.knobs
    assert (seen.stuck, seen.errors, seen.strangers) == ([], [], [])
    assert seen.counts == list(range(1, len(GOOD) + 2))


def test_a_dead_knob_a_failing_callback_and_a_request_outside_are_seen(server: Lab) -> None:
    """Else the tests of the course's notebooks below could not fail."""
    seen = visit(server, "bad.ipynb", patience=8)
    assert any("idle" in name for name in seen.stuck)
    for word in ("ZeroDivisionError: division by zero", "KeyError: ", "RuntimeError: the last cell"):
        assert any(word in error for error in seen.errors), word
    assert set(seen.strangers) == {"http://pictures.example.org/cat.png"}


def test_a_mask_can_be_painted_with_the_pointer(server: Lab) -> None:
    def paint(page: Any) -> None:
        canvas = page.locator("canvas").first
        frame = canvas.bounding_box()
        at = [(frame["x"] + part * frame["width"], frame["y"] + frame["height"] / 2) for part in (0.2, 0.8)]
        for key in (None, "Shift"):
            if key:
                page.keyboard.down(key)
            page.mouse.move(*at[0])
            page.mouse.down()
            page.mouse.move(*at[1], steps=20)
            page.mouse.up()
            if key:
                page.keyboard.up(key)
            page.get_by_text("pixels painted").wait_for(timeout=10_000)
            page.wait_for_timeout(500)
            said.append(int(page.get_by_text("pixels painted").inner_text().split()[0]))
        page.get_by_role("button", name="draw anew").click()
        page.get_by_text("drawn anew (press 2)").wait_for(timeout=10_000)

    said: list[int] = []
    seen = visit(server, "paint.ipynb", then=paint)
    assert (seen.stuck, seen.errors, seen.strangers) == ([], [], [])
    assert said[0] > 64 + 40, "a stroke across the picture, besides the rectangle"
    assert said[1] < said[0] - 40, "Shift takes away"


def test_a_slider_turns_the_pictures_without_the_kernel(server: Lab) -> None:
    """Else each picture would wait for the kernel's answer, and the hand with it."""
    def silent(page: Any) -> None:
        page.wait_for_timeout(2000)                        # a moment to send pictures ahead
        text = page.locator(".widget-label", has_text="standing at")
        knob = page.evaluate_handle("minidiff.knobs()[0]").as_element()
        said, pictures = text.inner_text(), json.loads(knob.evaluate("minidiff.around"))[0]
        kernel = int(said.split()[-1])
        os.kill(kernel, signal.SIGSTOP)
        try:
            knob.focus()
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(500)
            found["new picture"] = json.loads(knob.evaluate("minidiff.around"))[0] != pictures
            found["old text"] = text.inner_text() == said
        finally:
            os.kill(kernel, signal.SIGCONT)
        page.wait_for_timeout(2000)
        found["new text at last"] = text.inner_text() != said

    found: dict[str, bool] = {}
    seen = visit(server, "flip.ipynb", then=silent)
    assert (seen.stuck, seen.errors, seen.strangers) == ([], [], [])
    assert found == {"new picture": True, "old text": True, "new text at last": True}


@pytest.mark.parametrize("name", [path.name for path in COURSE])
def test_the_notebook_runs_and_every_knob_acts(server: Lab, name: str) -> None:
    seen = visit(server, name)
    assert seen.errors == []
    assert seen.counts == list(range(1, len(seen.counts) + 1))
    assert seen.knobs, "a notebook of the course has something to play with"
    assert seen.stuck == []
    assert seen.strangers == []
