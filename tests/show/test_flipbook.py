"""What is sent to the page ahead of a hand, and when."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minidiff import show
from minidiff.show import flipbook


class Page:
    """A page that writes down what it is sent."""

    def __init__(self) -> None:
        self.pictures: dict[str, bytes] = {}
        self.order: list[str] = []

    def send(self, message: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        if message.get("forget"):
            self.pictures.clear()
        else:
            self.pictures[message["key"]] = buffers[0]
            self.order.append(message["key"])

    def on_msg(self, heard: Any) -> None:
        self.heard = heard


def _render(*, t: int, kind: str = "a", on: bool = False) -> np.ndarray:
    if t == 7:
        raise ValueError("seven")
    return np.full((8, 8, 3), t * 20 + 5 * (kind == "b") + on, np.uint8)


def _panel() -> tuple[show.Panel, Page]:
    panel = show.panel(_render, show.slider("t", 0, 9, 1, 4), show.choice("kind", ("a", "b")), show.toggle("on"), alt="grey")
    page = Page()
    panel.pages = flipbook.Flipbook(page, panel.pages.draw, panel.pages.around)
    return panel, page


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flipbook, "SOON", 0.0)
    monkeypatch.setattr(flipbook, "LATER", 0.0)


def _grey(png: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))[0, 0, 0])


@pytest.mark.usefixtures("_quick")
def test_pictures_go_ahead_nearest_first_and_are_those_the_kernel_would_show():
    async def hold() -> None:
        panel, page = _panel()
        panel.knobs["t"].value = 5                         # nobody looks yet: nothing is sent
        await asyncio.sleep(0.02)
        assert page.order == []
        page.heard(None, {"ready": True}, [])
        await asyncio.sleep(0.1)
        first = [key.split()[0] for key in page.order]
        assert first[0] == "5.000000" and set(first[1:3]) == {"4.000000", "6.000000"} and len(first) <= flipbook.FIRST
        panel.knobs["kind"].value = "b"
        await asyncio.sleep(0.1)
        now = {float(key.split()[0]) for key in page.order if key.split()[1] == "1.000000"}
        assert now == {*range(10)} - {7}, "the others as they stand; the one that fails is left out"
        for key, png in page.pictures.items():
            t, kind, on = (float(part) for part in key.split())
            panel.set(t=int(t), kind="ab"[int(kind)], on=bool(on))
            assert png == bytes(panel.image.value) and _grey(png) == int(t) * 20 + 5 * int(kind)

    asyncio.run(hold())


@pytest.mark.usefixtures("_quick")
def test_a_page_is_not_sent_the_same_picture_twice_but_a_new_page_is():
    async def hold() -> None:
        panel, page = _panel()
        page.heard(None, {"ready": True}, [])
        for t in (3, 5, 3):
            panel.knobs["t"].value = t
            await asyncio.sleep(0.05)
        assert len(page.order) == len(set(page.order)) == 9
        page.heard(None, {"ready": True}, [])
        assert page.pictures == {}
        await asyncio.sleep(0.05)
        assert "3.000000 0.000000 0.000000" in page.pictures

    asyncio.run(hold())


@pytest.mark.usefixtures("_quick")
def test_a_page_keeps_so_many_pictures_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flipbook, "MOST", 12)

    async def hold() -> None:
        panel, page = _panel()
        page.heard(None, {"ready": True}, [])
        for kind in ("b", "a", "b", "a"):
            panel.knobs["kind"].value = kind
            await asyncio.sleep(0.05)
            assert len(page.pictures) <= 12 + 9

    asyncio.run(hold())


def test_panels_without_a_slider_to_follow_or_with_a_button_send_nothing_ahead():
    for knobs in ((show.slider("t", 0, 9, 1, live=False),), (show.slider("t", 0, 9, 1), show.button("again")),
                  (show.toggle("on"),)):
        assert show.panel(lambda **_: np.zeros((4, 4, 3), np.uint8), *knobs, alt="black").pages is None
