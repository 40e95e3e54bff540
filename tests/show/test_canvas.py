"""The painted mask: what the kernel gets of it, and the module itself in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from browser import FLAGS, HELP, chromium

from minidiff import show
from minidiff.errors import BadInput
from minidiff.show.canvas import ESM
from minidiff.world import WorldData

SIDE = 16


def test_the_canvas_knows_its_picture_and_its_mask():
    image = WorldData(32, "test", "simple").images(1)[0]
    knob = show.mask("hole", image, start=show.box_mask(32, 4, 8, 3, 2))
    made = knob.widget()
    assert made.side == 32 and made.picture.startswith("data:image/png;base64,")
    assert [divmod(i, 32) for i, c in enumerate(made.cells) if c == "1"] == [(y, x) for y in (8, 9) for x in (4, 5, 6)]
    assert torch.equal(knob.read(made), knob.value)
    for word in ("http:", "https:", "import(", "fetch("):
        assert word not in ESM, "the canvas must work without a network"


def test_a_mask_of_another_size_is_refused():
    knob = show.mask("hole", torch.zeros(3, 8, 8))
    for bad in (torch.zeros(8, 9), torch.full((8, 8), 0.5), np.zeros((8, 8)), None):
        with pytest.raises(BadInput, match="hole"):
            knob.check(bad)
    for image in (torch.zeros(3, 8, 9), torch.zeros(8, 8), torch.zeros(1, 3, 8, 8)):
        with pytest.raises(BadInput, match="image"):
            show.mask("hole", image)


def test_a_rectangle_is_cut_off_at_the_edge():
    made = show.box_mask(8, 6, 2, 4, 3)
    assert made.sum() == 2 * 3 and made[2:5, 6:].all()


MODEL = """async ([source, side]) => {
  const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' })), heard = {};
  const traits = { side, scale: 10, label: 'a picture', paint: 'rgb(255 0 255 / 0.6)', cells: '0'.repeat(side * side),
    picture: 'data:image/gif;base64,R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=' };
  window.model = { get: n => traits[n], set: (n, v) => { traits[n] = v; }, save_changes: () => { model.saved++; }, saved: 0,
    on: (n, f) => { heard[n] = f; }, off: () => {}, traits, heard };
  (await import(url)).default.render({ model, el: document.body });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if chromium() is None:
        pytest.skip(HELP)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """The module with a stand-in for the widget's model, on a page of its own."""
    made = browser.new_page()
    made.set_content("<body style='margin:0'></body>")
    made.evaluate(MODEL, [ESM, SIDE])
    yield made
    made.close()


def _cells(page: Any) -> str:
    return page.evaluate("model.traits.cells")


def _stroke(page: Any, *, y: int = 80) -> None:
    page.mouse.move(80, y)
    page.mouse.down()
    page.mouse.move(120, y, steps=8)
    page.mouse.up()


def _button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name)


@pytest.mark.browser
def test_a_stroke_paints_and_is_sent_when_it_ends(page: Any):
    assert page.locator("canvas").get_attribute("aria-label") == "a picture"
    page.mouse.move(80, 80)
    page.mouse.down()
    page.mouse.move(120, 80, steps=8)
    assert page.evaluate("model.saved") == 0
    page.mouse.up()
    cells = _cells(page)
    assert page.evaluate("model.saved") == 1
    assert len(cells) == 256 and cells[8 * 16 + 8] == cells[8 * 16 + 11] == "1" and cells[0] == cells[2 * 16 + 8] == "0"


@pytest.mark.browser
@pytest.mark.parametrize("way", ["Shift", "erase"])
def test_what_is_painted_can_be_erased(page: Any, way: str):
    _stroke(page)
    painted = _cells(page).count("1")
    page.get_by_label("erase").set_checked(way == "erase")
    if way == "Shift":
        page.keyboard.down("Shift")
    page.mouse.click(80, 80)
    assert _cells(page)[8 * 16 + 8] == "0" and 0 < _cells(page).count("1") < painted


@pytest.mark.browser
def test_undo_goes_back_stroke_by_stroke_and_clear_can_be_undone(page: Any):
    assert _button(page, "undo").is_disabled() and _button(page, "clear").is_disabled()
    _stroke(page)
    one = _cells(page)
    _stroke(page, y=130)
    two = _cells(page)
    assert one != two
    _button(page, "clear").click()
    assert "1" not in _cells(page)
    for before in (two, one, "0" * 256):
        _button(page, "undo").click()
        assert _cells(page) == before
    assert _button(page, "undo").is_disabled()


@pytest.mark.browser
def test_a_larger_brush_paints_more(page: Any):
    def dot(size: str) -> int:
        page.get_by_label("brush").fill(size)
        page.mouse.click(80, 80)
        count = _cells(page).count("1")
        _button(page, "clear").click()
        return count

    small, large = dot("0.5"), dot("2.5")
    assert 1 <= small <= 4 and 16 <= large <= 24, "about pi r^2 of the cells"


@pytest.mark.browser
def test_all_of_it_can_be_done_by_keyboard(page: Any):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    page.keyboard.press("Space")
    one = _cells(page)
    assert one[8 * 16 + 8] == "1"
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    two = _cells(page)
    assert two.count("1") == 2 * one.count("1") and two[7 * 16 + 12] == "1"
    page.keyboard.press("Shift+Space")
    assert _cells(page) == one
    page.keyboard.press("Control+z")
    assert _cells(page) == two


@pytest.mark.browser
def test_a_mask_set_by_a_program_is_drawn_and_loses_no_painting(page: Any):
    _stroke(page)
    painted, sent = _cells(page), page.evaluate("model.saved")
    page.evaluate("model.traits.cells = '1'.repeat(256); model.heard['change:cells']()")
    shown = page.evaluate("Array.from(document.querySelector('canvas').getContext('2d').getImageData(5, 5, 1, 1).data)")
    assert shown[3] > 0 and shown[0] > shown[1], "the mask is drawn"
    assert page.evaluate("model.saved") == sent, "and not sent back"
    _button(page, "undo").click()
    assert _cells(page) == painted


def test_a_box_is_cut_off_at_every_edge():
    whole = torch.zeros(8, 8)
    whole[:2, :3] = 1
    assert torch.equal(show.box_mask(8, -1, -2, 4, 4), whole)
    assert torch.equal(show.box_mask(8, 5, 6, 4, 4), whole.flip(0, 1))
    assert not show.box_mask(8, -4, 0, 4, 4).any()
    for wrong in ({"width": 0}, {"height": -1}, {"side": 0}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            show.box_mask(**{"side": 8, "x": 1, "y": 1, "width": 2, "height": 2} | wrong)
