"""Panels in JupyterLab as `make lab` starts it: with the kernel stopped, saved and opened again, by keyboard and by name."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import FLAGS, HELP, Lab, chromium, lab, visit, write

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chromium() is None, reason=HELP), pytest.mark.timeout(900)]

COURSE = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("0*.ipynb"))
START = """
import os
import numpy as np
import torch
from minidiff import show
def grey(t):
    return np.full((40, 40, 3), 20 * t, np.uint8), f"standing at {t} of kernel {os.getpid()}"
"""
NOTEBOOKS = {
    "paint": [START, """
def filled(hole, seed):
    return show.pixels((torch.zeros(3, 32, 32) + hole - 0.1 * seed)[None])[0], f"{int(hole.sum())} pixels, seed {seed}"
show.panel(filled, show.mask("hole", torch.zeros(3, 32, 32), start=show.box_mask(32, 2, 2, 8, 8)), show.seed(), action="fill",
           check=lambda hole, seed: f"{int(hole.sum())} pixels painted", caption="Paint.", alt="a square")"""],
    "flip": [START, 'show.panel(grey, show.slider("t", 0, 9, 1, 4), alt="grey")'],
    "press": [START, 'show.panel(grey, show.slider("t", 0, 9, 1, 4), action="draw", alt="grey")'],
    "names": [START, 'show.panel(grey, show.play("t", 0, 9, 1, 4), alt="a grey square")'],
    "long": [START, 'show.panel(lambda t: (np.zeros((40, 40, 3), np.uint8), "long " * 60), show.slider("t", 0, 9, 1), alt="x")'],
    "saved": [START, 'show.panel(grey, show.slider("t", 0, 9, 1, 4), alt="grey")',
              "import ipywidgets\nipywidgets.IntSlider(description='without a still')", "print('done')"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("panels")
    for path in COURSE:
        shutil.copy(path, folder)
    for name, cells in NOTEBOOKS.items():
        write(folder / f"{name}.ipynb", cells)
    with lab(folder, tmp_path_factory.mktemp("lab")) as running:
        yield running


@contextlib.contextmanager
def stopped(kernel: int) -> Iterator[None]:
    """Whatever happens in here happens without the kernel."""
    os.kill(kernel, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(kernel, signal.SIGCONT)


def pictures(page: Any) -> list[str]:
    knob = page.evaluate_handle("minidiff.knobs()[0]").as_element()
    return json.loads(knob.evaluate("minidiff.around"))[0]


def told(page: Any, words: str) -> str:
    """The text above the picture, once it holds these words."""
    text = page.locator(".minidiff-status").filter(has_text=words)
    text.wait_for(timeout=10_000)
    return text.inner_text()


def test_a_mask_is_painted_with_the_pointer(server: Lab) -> None:
    def paint(page: Any) -> None:
        frame = page.locator("canvas").first.bounding_box()
        ends = [(frame["x"] + part * frame["width"], frame["y"] + frame["height"] / 2) for part in (0.2, 0.8)]
        for key in (None, "Shift"):
            if key:
                page.keyboard.down(key)
            page.mouse.move(*ends[0])
            page.mouse.down()
            page.mouse.move(*ends[1], steps=20)
            page.mouse.up()
            if key:
                page.keyboard.up(key)
            told(page, "pixels painted")
            page.wait_for_timeout(500)
            counts.append(int(told(page, "pixels painted").split()[0]))
        for seed in (first := int(page.locator(".widget-readout").inner_text()), first + 1):
            page.get_by_role("button", name="fill").click()
            told(page, f"pixels, seed {seed}")
        page.locator("canvas").first.focus()
        for key in ("ArrowDown", "Space"):                 # JupyterLab would go to the next cell, and scroll
            page.keyboard.press(key)
        told(page, "pixels painted")

    counts: list[int] = []
    seen = visit(server, "paint.ipynb", then=paint)
    assert (seen.stuck, seen.errors, seen.strangers) == ([], [], [])
    assert counts[0] > 64 + 40, "a stroke across the picture, besides the rectangle"
    assert counts[1] < counts[0] - 40, "Shift takes away"


def test_a_slider_turns_the_pictures_without_the_kernel(server: Lab) -> None:
    """Once a hand has moved it; else each picture would wait for the kernel's answer, and the hand with it."""
    def silent(page: Any) -> None:
        page.wait_for_timeout(3000)                        # the knob has been moved once; time to fetch the rest
        text, before = page.locator(".minidiff-status"), pictures(page)
        words = text.inner_text()
        page.locator(".noUi-handle").focus()
        with stopped(int(words.split()[-1])):
            for key in ("ArrowRight", "ArrowRight"):
                page.keyboard.press(key)
                page.wait_for_timeout(500)
                found.append((pictures(page) != before, text.inner_text() != words))
        page.wait_for_timeout(2000)
        found.append((pictures(page) != before, text.inner_text() != words))

    found: list[tuple[bool, bool]] = []
    seen = visit(server, "flip.ipynb", then=silent)
    assert (seen.stuck, seen.errors, seen.strangers) == ([], [], [])
    assert found == [(True, True)] * 3


def test_a_pressed_button_says_so_at_once(server: Lab) -> None:
    """With the kernel stopped: the page itself disables it and says that it draws."""
    def press(page: Any) -> None:
        text, button = page.locator(".minidiff-status"), page.locator(".minidiff-action")
        page.wait_for_timeout(500)
        with stopped(int(text.inner_text().split()[-1])):
            button.click()
            page.wait_for_timeout(200)
            found["at once"] = (button.inner_text(), button.is_disabled())
        page.wait_for_timeout(2000)
        found["in the end"] = (button.inner_text(), button.is_disabled())
        found["focus"] = button.evaluate("b => b === document.activeElement")
        page.locator(".noUi-handle").press("ArrowRight")
        told(page, 'press "draw"')
        found["old"] = page.locator("img.minidiff-picture").evaluate("i => Number(getComputedStyle(i).opacity) < 0.9")

    found: dict[str, Any] = {}
    seen = visit(server, "press.ipynb", then=press)
    assert (seen.errors, seen.strangers) == ([], [])
    assert found == {"at once": ("drawing", True), "in the end": ("draw", False), "focus": True, "old": True}


def test_screen_readers_find_names(server: Lab) -> None:
    def read(page: Any) -> None:
        found["picture"] = page.locator("img.minidiff-picture").get_attribute("alt")
        found["slider"] = page.get_by_role("slider").get_attribute("aria-label")
        found["text"] = page.get_by_role("status").count()
        found["play"] = page.locator(".widget-play button").evaluate_all("b => b.filter(x => !x.ariaLabel).length")

    found: dict[str, Any] = {}
    visit(server, "names.ipynb", then=read)
    assert found == {"picture": "a grey square", "slider": "t", "text": 1, "play": 0}


def test_long_text_wraps(server: Lab) -> None:
    def measure(page: Any) -> None:
        text, picture = page.locator(".minidiff-status"), page.locator("img.minidiff-picture")
        found["high"] = text.bounding_box()["height"]
        found["cut"] = text.evaluate("e => e.scrollWidth - e.clientWidth")
        found["above"] = text.bounding_box()["y"] < picture.bounding_box()["y"]

    found: dict[str, Any] = {}
    visit(server, "long.ipynb", then=measure)
    assert found["high"] > 50 and found["cut"] <= 1 and found["above"]


def reopened(server: Lab, name: str) -> tuple[list[str], int, dict[str, Any]]:
    """Run all, save, end the kernel, open the file in a new page: errors of widgets there, pictures there, and the saved file."""
    from playwright.sync_api import sync_playwright

    def save(page: Any) -> None:
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty", timeout=30_000)

    visit(server, name, run_seconds=600, then=save, move=False)
    with sync_playwright() as driver:
        page = (opened := driver.chromium.launch(executable_path=chromium(), args=FLAGS)).new_page()
        page.goto(f"{server.url}/lab/tree/{name}?token={server.token}&reset", timeout=180_000)
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
                               timeout=180_000)
        page.wait_for_timeout(3000)
        wrong = [text for words in ("Error displaying widget", "Loading widget")
                 for text in page.get_by_text(words).all_inner_texts()]
        shown = page.locator(".jp-OutputArea-output img").count()
        page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        opened.close()
    return wrong, shown, json.loads((server.folder / name).read_text())


def test_a_saved_panel_comes_back_as_its_still(server: Lab) -> None:
    wrong, shown, saved = reopened(server, "saved.ipynb")
    assert wrong == [] and shown == 1
    kinds = [set(output.get("data", {})) for cell in saved["cells"] for output in cell["outputs"]]
    assert kinds == [{"image/png", "text/plain"}, {"text/plain"}, set()]


@pytest.mark.parametrize("name", [path.name for path in COURSE])
def test_a_saved_notebook_of_the_course_shows_no_dead_widget(server: Lab, name: str) -> None:
    wrong, shown, saved = reopened(server, name)
    assert wrong == []
    assert shown >= sum("image/png" in output.get("data", {}) for cell in saved["cells"] for output in cell.get("outputs", []))
