"""Panels in JupyterLab as `make lab` starts it: with the kernel stopped, saved and opened again, by keyboard and by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from browser import HELP, READY, Lab, chromium, lab, reopen, save, visit, write

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chromium() is None, reason=HELP), pytest.mark.timeout(3600)]

HANDLE = ".noUi-handle, .ui-slider-handle"      # of ipywidgets 8, and of 7, which Google Colab has
START = """
import os
import numpy as np
import torch
from minidiff import show
from minidiff.errors import require
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
    "long slider": [START, 'show.panel(lambda t: grey(t % 10), show.slider("t", 0, 2999, 1, 1500), alt="grey")'],
    "slow": [START, 'show.panel(grey, show.slider("t", 0, 9, 1, 4, live=False), alt="grey")'],
    "dark": [START, """
show.panel(lambda hole, way: (show.pixels(hole[None, None].expand(1, 3, 32, 32))[0], f"{way} {int(hole.sum())}"),
           show.mask("hole", torch.zeros(3, 32, 32)), show.choice("way", ("up", "down")), caption="Look here.", alt="grey")"""],
    "refuse": [START, """
def low(t):
    require(t < 7, "t", t, "less than 7")
    return "can be drawn"
show.panel(grey, show.slider("t", 0, 9, 1, 4), action="draw", check=low, alt="grey")"""],
    "choice": [START, """
def way(way):
    return np.full((40, 40, 3), 90 * len(way), np.uint8), f"{way} of kernel {os.getpid()}"
show.panel(way, show.choice("way", ("a", "aa")), alt="grey")"""],
    "quarters": [START, 'show.panel(lambda t: (np.full((40, 40, 3), int(90 * t), np.uint8), f"t is {t!r}"),'
                      ' show.slider("t", 0.0, 1.0, 0.25, 0.5), alt="grey")'],
    "press": [START, 'show.panel(grey, show.slider("t", 0, 9, 1, 4), action="draw", alt="grey")'],
    "names": [START, 'show.panel(grey, show.play("t", 0, 9, 1, 4), alt="a grey square")'],
    "long": [START, 'show.panel(lambda t: (np.full((40, 40, 3), 20 * t, np.uint8), "long " * 60), show.slider("t", 0, 9, 1), '
                    'alt="x")'],
    "saved": [START, 'show.panel(grey, show.slider("t", 0, 9, 1, 4), alt="grey")',
              "import ipywidgets\nipywidgets.IntSlider(description='without a still')", "print('done')"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("panels")
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
    text.wait_for()
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
            page.evaluate("minidiff.answered()")
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
    assert seen.wrong == []
    assert counts[0] > 64 + 40, "a stroke across the picture, besides the rectangle"
    assert counts[1] < counts[0] - 40, "Shift takes away"


def test_a_slider_turns_the_pictures_without_the_kernel(server: Lab) -> None:
    """Once a hand has moved it; else each picture would wait for the kernel's answer, and the hand with it."""
    def silent(page: Any) -> None:
        for _ in range(12):                                # the knob has been moved once; each answer fetches at least one more
            page.evaluate("minidiff.answered()")
        text = page.locator(".minidiff-status")
        with stopped(int(text.inner_text().split()[-1])):
            for key in ("ArrowRight", "ArrowRight"):
                before, words = pictures(page), text.inner_text()
                page.locator(HANDLE).press(key)
                page.wait_for_function("w => document.querySelector('.minidiff-status').innerText !== w", arg=words)
                found.append(pictures(page) != before)
            last = pictures(page), text.inner_text()
        page.evaluate("minidiff.answered()")
        found.append((pictures(page), text.inner_text()) == last)

    found: list[bool] = []
    seen = visit(server, "flip.ipynb", then=silent)
    assert seen.wrong == []
    assert found == [True] * 3, "turned, turned again, and the kernel's late answer turns nothing back"


def test_the_kernel_comes_to_rest_beside_a_long_slider(server: Lab) -> None:
    """The page fetches what is near, not one picture after another for ever: then it would never be silent for three seconds."""
    def move(page: Any) -> None:
        page.evaluate("""() => {
            window.asked = [performance.now()];
            window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.anyMessage.connect((_, { msg, direction }) => {
                if (direction === 'send' && msg.header.msg_type === 'comm_msg') window.asked.push(performance.now());
            });
        }""")
        page.locator(HANDLE).press("ArrowRight")
        page.wait_for_function("performance.now() - window.asked.at(-1) > 3000")
        found.append(page.evaluate("window.asked.length"))

    found: list[int] = []
    assert visit(server, "long slider.ipynb", then=move, move=False).wrong == []
    assert 10 < found[0] < 400


def test_a_pressed_button_says_so_at_once(server: Lab) -> None:
    """With the kernel stopped, before the click has returned: nothing is waited for, so on no machine does it take longer."""
    def press(page: Any) -> None:
        text, button = page.locator(".minidiff-status"), page.locator(".minidiff-action")
        with stopped(int(text.inner_text().split()[-1])):
            found["at once"] = button.evaluate("b => { b.focus(); b.click(); return [b.innerText, b.disabled]; }")
        page.locator(".minidiff-action:not([disabled])").wait_for()
        page.evaluate("minidiff.answered()")
        found["in the end"] = (button.inner_text(), button.is_disabled())
        found["focus"] = button.evaluate("b => b === document.activeElement")
        page.locator(HANDLE).press("ArrowRight")
        told(page, 'press "draw"')
        page.wait_for_function("getComputedStyle(document.querySelector('img.minidiff-picture')).opacity < 0.9")

    found: dict[str, Any] = {}
    seen = visit(server, "press.ipynb", then=press, move=False)
    assert seen.wrong == []
    assert found == {"at once": ["drawing", True], "in the end": ("draw", False), "focus": True}


def test_screen_readers_find_names(server: Lab) -> None:
    def read(page: Any) -> None:
        found["picture"] = page.locator("img.minidiff-picture").get_attribute("alt")
        found["slider"] = page.get_by_role("slider").get_attribute("aria-label")
        found["text"] = page.get_by_role("status").count()
        labels = page.locator(".widget-play button").evaluate_all("b => b.map(x => x.ariaLabel)")
        found["play"] = len(labels) in (3, 4) and len(set(labels)) == len(labels) and None not in labels

    found: dict[str, Any] = {}
    seen = visit(server, "names.ipynb", then=read)
    assert seen.wrong == [] and found == {"picture": "a grey square", "slider": "t", "text": 1, "play": True}


def test_long_text_wraps(server: Lab) -> None:
    def measure(page: Any) -> None:
        text, picture = page.locator(".minidiff-status"), page.locator("img.minidiff-picture")
        found["high"] = text.bounding_box()["height"]
        found["cut"] = text.evaluate("e => e.scrollWidth - e.clientWidth")
        found["above"] = text.bounding_box()["y"] < picture.bounding_box()["y"]

    found: dict[str, Any] = {}
    seen = visit(server, "long.ipynb", then=measure)
    assert seen.wrong == []
    assert found["high"] > 50 and found["cut"] <= 1 and found["above"]


CONTRAST = """e => {
    const rgba = text => text.match(/[\\d.]+/g).map(Number);
    const light = text => rgba(text).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    let behind = e;
    while (behind.parentElement && (rgba(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def test_a_panel_can_be_read_on_a_dark_page(server: Lab) -> None:
    def look(page: Any) -> None:
        page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
        page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
        page.wait_for_function("getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor.match(/\\d+/)[0] < 60")
        for part in (".minidiff-status", ".widget-html-content", ".widget-dropdown label", ".minidiff-canvas label", "select"):
            found[part] = page.locator(f".minidiff-panel {part}, .minidiff-panel{part}").first.evaluate(CONTRAST)
        found["arrow"] = page.locator(".minidiff-panel select").evaluate("e => getComputedStyle(e).backgroundImage")

    found: dict[str, Any] = {}
    seen = visit(server, "dark.ipynb", then=look, move=False)
    assert seen.wrong == []
    assert "%238a909b" in found.pop("arrow"), "grey on white and on black"
    assert all(value >= 4.5 for value in found.values()), found


def test_a_refusal_leaves_the_button_as_it_was(server: Lab) -> None:
    def press(page: Any) -> None:
        button = page.locator(".minidiff-action")
        page.locator(HANDLE).press("End")
        told(page, "less than 7")
        for _ in range(2):                                 # the second refusal has the words of the first
            button.click()
            told(page, "Nothing drawn.")
            page.evaluate("minidiff.answered()")
            found.append((button.inner_text(), button.is_disabled()))
        page.locator(HANDLE).press("Home")
        told(page, "can be drawn")
        button.click()
        told(page, "standing at 0")
        page.evaluate("minidiff.answered()")
        found.append((button.inner_text(), button.is_disabled()))

    found: list[Any] = []
    seen = visit(server, "refuse.ipynb", then=press, move=False)
    assert seen.wrong == []
    assert found == [("draw", False)] * 3


def test_a_slow_knob_says_at_once_that_it_draws(server: Lab) -> None:
    """With the kernel stopped: the page itself says so, and marks the picture as an old one."""
    def move(page: Any) -> None:
        text = page.locator(".minidiff-status")
        with stopped(int(text.inner_text().split()[-1])):
            page.locator(HANDLE).press("ArrowRight")
            found.append((text.inner_text(), page.locator("img.minidiff-stale").count()))
        told(page, "standing at 5")
        found.append(page.locator("img.minidiff-stale").count())

    found: list[Any] = []
    seen = visit(server, "slow.ipynb", then=move, move=False)
    assert seen.wrong == []
    assert found == [("drawing", 1), 0]


def test_a_menu_says_that_it_draws_where_the_kernel_is_silent(server: Lab) -> None:
    def choose(page: Any) -> None:
        text, menu = page.locator(".minidiff-status"), page.locator(".minidiff-panel select")
        with stopped(int(text.inner_text().split()[-1])):
            menu.select_option("a")
            page.locator("img.minidiff-stale").wait_for()
            found.append(text.inner_text())
        told(page, "a of kernel")
        page.evaluate("minidiff.answered()")
        found.append(page.locator("img.minidiff-stale").count())

    found: list[Any] = []
    seen = visit(server, "choice.ipynb", then=choose)
    assert seen.wrong == []
    assert found == ["drawing", 0]


def test_a_number_typed_beside_a_slider_is_moved_onto_its_grid(server: Lab) -> None:
    def type_it(page: Any) -> None:
        number = page.locator(".widget-readout")
        for typed, nearest in (("0.30", 0.25), ("0.04", 0.0), ("7", 1.0), ("0.62", 0.5)):
            number.fill(typed)
            number.press("Enter")
            told(page, f"t is {nearest}")
            page.evaluate("minidiff.answered()")
            found.append((float(number.inner_text()), nearest))

    found: list[tuple[float, float]] = []
    seen = visit(server, "quarters.ipynb", then=type_it)
    assert seen.wrong == []
    assert [shown for shown, _ in found] == [nearest for _, nearest in found]


def test_no_stroke_is_lost_while_the_kernel_is_busy_or_a_slider_moves(server: Lab) -> None:
    def paint(page: Any) -> None:
        frame, seeds = page.locator("canvas").first.bounding_box(), page.locator(HANDLE)
        for share in (0.3, 0.5, 0.7):                      # faster than any answer
            page.mouse.move(frame["x"] + 0.55 * frame["width"], frame["y"] + share * frame["height"])
            page.mouse.down()
            page.mouse.move(frame["x"] + 0.9 * frame["width"], frame["y"] + share * frame["height"], steps=3)
            page.mouse.up()
            seeds.press("ArrowRight")
        drawn.append(painted(page))
        page.evaluate("minidiff.answered()")
        drawn.append(painted(page))
        seeds.press("ArrowRight")
        page.evaluate("minidiff.answered()")
        drawn.append(painted(page))
        told_counts.append(int(told(page, "pixels painted").split()[0]))

    def painted(page: Any) -> int:
        """Cells of the canvas that look painted."""
        return page.evaluate("""() => {
            const c = document.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            let n = 0;
            for (let y = 2; y < c.height; y += 4) for (let x = 2; x < c.width; x += 4) n += d[4 * (y * c.width + x)] !==
                d[4 * (y * c.width + x) + 1];
            return n;
        }""")

    drawn: list[int] = []
    told_counts: list[int] = []
    seen = visit(server, "paint.ipynb", then=paint, move=False)
    assert seen.wrong == []
    assert drawn[0] > 64 + 60, "the rectangle and three strokes"
    assert drawn == [drawn[0]] * 3 and told_counts == drawn[:1]


def test_a_saved_panel_comes_back_as_its_still(server: Lab) -> None:
    seen = visit(server, "saved.ipynb", then=save, move=False)
    again = reopen(server, "saved.ipynb")
    assert seen.wrong + again.visit.wrong + again.dead == [] and again.pictures == 1
    kinds = [set(output.get("data", {})) for cell in again.saved["cells"] for output in cell["outputs"]]
    assert kinds == [{"image/png", "text/plain"}, {"text/plain"}, set()]


def test_after_a_restart_of_the_kernel_nothing_pretends_to_draw(server: Lab) -> None:
    def restart(page: Any) -> None:
        button = page.locator(".minidiff-action")
        page.evaluate("void (window.restart = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart())")
        page.locator(".jupyter-widgets-disconnected").first.wait_for(state="attached")
        button.click()
        found.append((button.inner_text(), button.is_disabled()))
        page.evaluate("window.restart")                    # a kernel that is being restarted cannot be ended
        page.wait_for_function(READY)

    found: list[Any] = []
    seen = visit(server, "press.ipynb", then=restart, move=False)
    assert seen.errors + seen.strangers == [] and found == [("draw", False)]
