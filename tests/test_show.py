"""Pictures and panels: what is shown is what was given, at integer scale; knobs reach render; errors come through."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff import show
from minidiff.errors import BadInput


def _opened(picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))


def test_tile_places_every_picture_at_integer_scale():
    x = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 3, 5, 6)
    sheet = show.tile(x, columns=2, scale=3, gap=4)
    assert sheet.shape == (2 * 15 + 4, 2 * 18 + 4, 3) and sheet.dtype == np.uint8
    for k, want in enumerate((0, 85, 170, 255)):
        row, column = divmod(k, 2)
        block = sheet[row * 19 : row * 19 + 15, column * 22 : column * 22 + 18]
        assert (block == want).all(), k


def test_grid_holds_the_pixels_and_its_alternative_text():
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    picture = show.grid(x, columns=3, scale=4, labels=["a", "b", "c"], alt="three pictures", caption="look")
    data, meta = picture._repr_mimebundle_()
    assert meta["image/png"]["alt"] == "three pictures" and data["text/plain"] == "<Picture>"
    colours = {tuple(c) for c in show.pixels(x)[0].reshape(-1, 3).tolist()}
    assert colours <= {tuple(c) for c in _opened(picture).reshape(-1, 3).tolist()}
    with pytest.raises(BadInput, match="labels"):
        show.grid(x, labels=["a"], alt="x")
    with pytest.raises(BadInput, match="alt"):
        show.picture(np.zeros((4, 4, 3), np.uint8), alt="")


def test_strip_keeps_the_first_and_the_last_frame():
    assert show.spread(100, 5) == [0, 25, 50, 74, 99] and show.spread(3, 8) == [0, 1, 2]
    frames = [torch.full((1, 3, 8, 8), v) for v in torch.linspace(-1, 1, 20).tolist()]
    seen = _opened(show.strip(frames, count=4, scale=2, alt="film"))
    assert {(0, 0, 0), (255, 255, 255)} <= {tuple(c) for c in seen.reshape(-1, 3).tolist()}


def test_plots_need_names_and_come_without_stamps():
    xs = torch.arange(4)
    names = {"x": "t (steps)", "y": "error (nats)", "level": {"floor": 1.0}, "alt": "a parabola"}
    picture = show.curve({"one": (xs, xs**2)}, **names)
    assert b"Software" not in picture.png and picture.width <= 720
    assert (
        picture.png
        == show.curve({"one": (xs, xs**2)}, x="t (steps)", y="error (nats)", level={"floor": 1.0}, alt="a parabola").png
    )
    show.bars({"ours": (1.0, 0.8, 1.2)}, x="ratio", level={"floor": 0.5}, alt="one bar")
    show.scatter2d({"points": torch.randn(9, 2)}, alt="points")
    show.heatmap(torch.rand(2, 4, 4), over=torch.zeros(2, 3, 16, 16), alt="two maps")
    with pytest.raises(BadInput):
        show.figure("", "error")
    with pytest.raises(BadInput):
        show.scatter2d({"points": torch.randn(9, 3)}, alt="points")


def _render(*, t: int, kind: str, bright: bool, amount: float) -> tuple[np.ndarray, str]:
    value = t * 10 + (100 if bright else 0) + int(amount * 10)
    return np.full((20, 30, 3), value, np.uint8), f"{kind} {t} {bright} {amount:.1f}"


def _panel() -> show.Panel:
    return show.panel(_render, show.slider("t", 0, 9, 1, 2), show.choice("kind", ("a", "b")), show.toggle("bright"),
                      show.slider("amount", 0.0, 1.0, 0.1, 0.5, live=False), caption="move", alt="a grey box")  # fmt: skip


def test_a_panel_draws_what_its_knobs_say():
    p = _panel()
    assert p.status.value == "a 2 False 0.5"
    first = bytes(p.image.value)
    p.set(t=5, kind="b")
    assert p.status.value == "b 5 False 0.5" and bytes(p.image.value) != first and p.values["t"] == 5
    p.knobs["bright"].value = True  # as a hand would
    assert p.status.value == "b 5 True 0.5"
    assert not p.knobs["amount"].continuous_update and p.knobs["t"].continuous_update
    assert (np.asarray(Image.open(io.BytesIO(p.image.value)).convert("RGB")) == 155).all()


def test_a_panel_carries_a_still_with_alternative_text():
    data, meta = _panel()._repr_mimebundle_()
    assert data["text/plain"] == "<Panel>" and meta["image/png"]["alt"] == "a grey box" and len(data["image/png"]) > 100
    assert "application/vnd.jupyter.widget-view+json" in data


def test_sweep_visits_both_ends_and_comes_back():
    p = _panel()
    seen = list(show.sweep(p))
    assert {v["t"] for v in seen} == set(range(10)) and {v["kind"] for v in seen} == {"a", "b"}
    assert {0.0, 1.0} <= {round(v["amount"], 6) for v in seen}
    assert p.values == {
        "t": 2,
        "kind": "a",
        "bright": False,
        "amount": 0.5,
    }


def test_errors_in_render_are_shown_and_raised():
    def fails(*, t: int) -> np.ndarray:
        if t > 1:
            raise RuntimeError("too far")
        return np.zeros((4, 4, 3), np.uint8)

    p = show.panel(fails, show.slider("t", 0, 3, 1, 0), alt="x")
    with pytest.raises(RuntimeError, match="too far"):
        p.set(t=2)
    assert "too far" in p.failed.value
    p.set(t=1)
    assert p.failed.value == ""
    for bad in ({"u": 1}, {"t": 9}):
        with pytest.raises(BadInput):
            p.set(**bad)
    with pytest.raises(BadInput, match="render"):
        show.panel(lambda *, t: "text", show.slider("t", 0, 3, 1, 0), alt="x")


def test_buttons_count_their_presses_and_play_is_not_the_only_control():
    p = show.panel(lambda *, again: (np.zeros((4, 4, 3), np.uint8), str(again)), show.button("again"), alt="x")
    p.knobs["again"].click()
    p.knobs["again"].click()
    assert p.status.value == "2"
    q = show.panel(lambda *, t: (np.zeros((4, 4, 3), np.uint8), str(t)), show.play("t", 0, 5), alt="x")
    q.set(t=3)
    assert q.status.value == "3"


def test_nothing_heavy_is_loaded_before_it_is_used():
    code = (
        "import sys, minidiff.show as s; s.grid; s.slider; "
        "print([m for m in ('matplotlib', 'ipywidgets', 'diffusers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
