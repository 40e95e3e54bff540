"""What a panel looks like without a kernel, and what a hand at its knobs can rely on."""

import base64
import io

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from minidiff import show
from minidiff.errors import BadInput
from minidiff.show import front
from minidiff.show.stills import with_knobs
from minidiff.show.theme import DENSITY, rgb


def _widgets() -> list[widgets.Widget]:
    """Every widget of this process, in ipywidgets 8 and in Google Colab's 7."""
    known = widgets.widget._instances if hasattr(widgets.widget, "_instances") else widgets.Widget.widgets
    return list(known.values())


def _blank(**_: object) -> np.ndarray:
    return np.full((40, 60, 3), 128, np.uint8)


def _every() -> show.Panel:
    knobs = (show.play("part", 0, 100, 2, 60), show.slider("amount", 0.0, 1.0, 0.25, 0.5))
    caption = "Look for a < b, over and over " + "again " * 40
    return show.panel(_blank, *knobs, show.toggle("clip"), show.choice("way", ("a", "b")), caption=caption, alt="a grey box")


def _all(widget: widgets.Widget) -> list[widgets.Widget]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in _all(child))]


def _grey(panel: show.Panel) -> int:
    return int(np.asarray(Image.open(io.BytesIO(panel.image.value)).convert("RGB"))[0, 0, 0])


def _faint(panel: show.Panel) -> bool:
    return "minidiff-stale" in panel.image._dom_classes


def test_the_play_button_starts_where_the_slider_stands_and_follows_it():
    """A link syncs its source to its target when it is made: with the button as source the slider would jump to the start."""
    panel = _every()
    player = next(w for w in _all(panel) if isinstance(w, widgets.Play))
    assert (player.value, player.min, player.max, player.step) == (60, 0, 100, 2)
    links = [w for w in _widgets() if isinstance(w, widgets.widget_link.Link) and player in (w.source[0], w.target[0])]
    assert [link.source[0] for link in links] == [panel.knobs["part"]]


def test_every_knob_has_a_visible_name_and_text_may_break():
    panel = _every()
    assert {w.description for w in panel.knobs.values()} == {"part", "amount", "clip", "way"}
    texts = [w.value for w in _all(panel) if isinstance(w, widgets.HTML)]
    assert any("a &lt; b" in text for text in texts)          # shown as written, in a widget that wraps
    assert not any(isinstance(w, widgets.Label) for w in _all(panel)), "a Label cuts long text off"


def test_the_text_stands_above_the_picture_and_the_caption_below():
    panel = show.panel(lambda **_: (_blank(), "what it shows"), show.slider("t", 0, 3, 1), caption="what to try", alt="x")
    order = [w.value if isinstance(w, widgets.HTML) else type(w).__name__ for w in panel.children[:4]]
    assert order == ["IntSlider", "what it shows", "Image", "what to try"]


def test_an_error_is_shown_as_it_was_written_and_the_picture_is_marked():
    def fails(*, t: int) -> np.ndarray:
        if t:
            raise ValueError("t < 0 <b>")
        return _blank()

    panel = show.panel(fails, show.slider("t", 0, 3, 1, 0), alt="x")
    good = bytes(panel.image.value)
    with pytest.raises(ValueError, match="t < 0"):
        panel.knobs["t"].value = 2
    assert "t &lt; 0 &lt;b&gt;" in panel.status.value and panel.text == "ValueError: t < 0 <b>"
    assert bytes(panel.image.value) == good and panel.stale and _faint(panel)
    panel.set(t=0)
    assert panel.text == "" and not panel.stale and not _faint(panel)


def test_a_picture_keeps_its_size_in_a_panel_whatever_its_density():
    noise = np.random.default_rng(0).integers(0, 256, (800, 400, 3), dtype=np.uint8)
    large = show.picture(noise, alt="noise")                   # too many bytes, so it is stored at half the density
    assert np.asarray(Image.open(io.BytesIO(large.png))).shape[1] == large.width
    small = show.picture(np.full((800, 400, 3), 9, np.uint8), alt="flat")
    assert (large.width, large.height) == (small.width, small.height)
    sizes = []
    for shown in (large, small):
        panel = show.panel(lambda *, t, shown=shown: shown, show.slider("t", 0, 3, 1), alt="x")
        sizes.append((panel.image.width, panel.image.height))
    assert sizes[0] == sizes[1] == (str(small.width), str(small.height))


# The still ------------------------------------------------------------------------------------------------------------------


def test_the_still_shows_where_the_knobs_stand():
    """The blue part of a slider's track is as long as its value says; the picture below is untouched."""
    def blue(value: int) -> int:
        drawn = with_knobs(_blank(), [(show.slider("t", 0, 100, 1, value), value)])
        head = drawn[: -len(_blank())]
        assert (drawn[-40:, :60] == 128).all()
        return int((head == rgb("blue")).all(2).any(0).sum()) // DENSITY

    lengths = [blue(value) for value in (20, 50, 80)]
    assert [b - a for a, b in zip(lengths, lengths[1:], strict=False)] == [45, 45]        # 30 % of a track of 150 pixels
    assert _every().still.height > 40 // DENSITY + 2 * 24                                 # four knobs in two rows, and the text


def test_the_still_shows_text_button_and_mask():
    """Each of them changes the head of the still, and nothing else does."""
    knobs = [(show.slider("t", 0, 9, 1), 0)]
    plain = with_knobs(_blank(), knobs)
    for more in ({"text": "what it shows"}, {"action": "draw"}):
        assert len(with_knobs(_blank(), knobs, **more)) > len(plain)
    first = show.box_mask(16, 2, 2, 4, 4)
    canvas = show.mask("hole", torch.ones(3, 16, 16), start=first)
    head = with_knobs(_blank(), [(canvas, first), *knobs])[:64, :64]
    violet = (head != 255).any(2)
    assert violet[8:24, 8:24].all() and int(violet.sum()) == 16 * 16, "16 painted pixels, four times as large"


def test_the_still_stays_as_it_was_when_knobs_move():
    panel = show.panel(lambda *, t: np.full((20, 20, 3), t, np.uint8), show.slider("t", 0, 9, 1, 2), alt="x")
    before = panel._repr_mimebundle_()[0]["image/png"]
    panel.set(t=7)
    assert panel._repr_mimebundle_()[0]["image/png"] == before


def test_the_still_comes_with_its_words():
    data, meta = _every()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data and base64.b64decode(data["image/png"])[:4] == b"\x89PNG"
    assert meta["image/png"]["alt"] == "a grey box" and "a grey box" in data["text/plain"]


# The grid of a slider -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knob", [show.slider("t", 3, 23, 4), show.slider("t", 0.13, 0.30, 0.01), show.slider("t", -2.0, 2.0, .1),
                                  show.play("t", 0, 100, 2), show.seed(7, name="t")])
def test_a_slider_only_stands_on_its_grid(knob):
    """Wherever a hand (or what is typed beside the slider) puts the widget, render and the widget get a value of the grid."""
    seen = []
    panel = show.panel(lambda *, t: seen.append(t) or _blank(), knob, alt="x")
    widget = panel.knobs["t"]
    assert (widget.min, widget.max) == (knob.values[0], knob.values[-1])
    for share in np.linspace(0, 1, 23):
        typed = knob.values[0] + share * (knob.values[-1] - knob.values[0])
        widget.value = round(typed) if isinstance(knob.value, int) else typed
        assert widget.value in knob.values and panel.values["t"] in knob.values
    assert set(seen) <= set(knob.values) and len(set(seen)) > 4


@pytest.mark.parametrize("make", [
    lambda: show.slider("t", 0, 10, 3), lambda: show.slider("t", 0, 10, 2, 5), lambda: show.slider("t", 0.0, 1.0, 0.3),
    lambda: show.play("t", 0, 9, 2), lambda: _every().set(amount=0.6), lambda: _every().set(part=61),
    lambda: _every().set(part=102)])
def test_what_lies_off_the_grid_is_refused(make):
    with pytest.raises(BadInput):
        make()


# A button, a check ----------------------------------------------------------------------------------------------------------


def _check(*, word: str, seed: int) -> str:
    if word == "catt":
        raise BadInput("word", "'catt'", "a word", "'cat'")
    return f"{len(word)} letters"


def _slow(**more: object) -> tuple[show.Panel, list[tuple[str, int]]]:
    drawn: list[tuple[str, int]] = []

    def render(*, word: str, seed: int) -> tuple[np.ndarray, str]:
        drawn.append((word, seed))
        return np.full((8, 8, 3), 10 * seed + len(word), np.uint8), f"{word} of seed {seed}"

    return show.panel(render, show.text("word", "cat"), show.seed(4), action="draw", check=_check, alt="x", **more), drawn


def test_with_a_button_moves_draw_nothing_and_mark_the_picture_as_old():
    panel, drawn = _slow()
    assert drawn == [("cat", 0)] and panel.text == "cat of seed 0" and not panel.stale
    panel.knobs["word"].value = "rabbit"
    assert drawn == [("cat", 0)] and panel.stale and _faint(panel)
    assert panel.text == '6 letters; press "draw"'
    panel.button.click()
    assert drawn[1:] == [("rabbit", 0)] and panel.text == "rabbit of seed 0" and not panel.stale and not _faint(panel)
    assert _grey(panel) == 6


def test_a_second_press_draws_the_next_seed():
    panel, drawn = _slow()
    for _ in range(5):
        panel.button.click()
    assert [seed for _, seed in drawn] == [0, 1, 2, 3, 0, 1] and panel.knobs["seed"].value == 1
    panel.set(seed=3)
    panel.button.click()
    assert drawn[-1] == ("cat", 3), "a seed that was chosen is the one that is drawn"


def test_a_refusal_is_shown_and_nothing_is_drawn():
    panel, drawn = _slow()
    before = bytes(panel.image.value)
    panel.knobs["word"].value = "catt"
    assert "'cat'" in panel.text and panel.stale
    panel.button.click()
    assert panel.text.startswith("Nothing drawn.") and "'cat'" in panel.text and bytes(panel.image.value) == before
    assert drawn == [("cat", 0)] and not panel.button.disabled
    live = show.panel(lambda *, word, seed: _blank(), show.text("word", "cat"), show.seed(4), check=_check, alt="x")
    live.knobs["word"].value = "catt"
    assert "'cat'" in live.text and live.stale, "without a button too"
    live.knobs["word"].value = "dog"
    assert not live.stale


def test_while_it_draws_the_button_is_disabled_and_says_so():
    seen = []

    def render(*, t: int) -> np.ndarray:
        if t == 2:
            raise RuntimeError("broken")
        if seen:
            seen.append((panel.button.disabled, panel.button.description, panel.text, _faint(panel)))
        return _blank()

    panel = show.panel(render, show.slider("t", 0, 3, 1), action="paint", alt="x")
    seen.append(None)
    panel.button.click()
    assert seen[1:] == [(True, front.BUSY, front.BUSY, True)]
    assert (panel.button.disabled, panel.button.description) == (False, "paint")
    panel.set(t=2)
    with pytest.raises(RuntimeError, match="broken"):
        panel.draw()
    assert (panel.button.disabled, panel.button.description) == (False, "paint") and "broken" in panel.text


def test_a_knob_that_is_slow_says_so_before_it_draws():
    seen = []
    knobs = (show.slider("slow", 0, 3, 1, live=False), show.slider("quick", 0, 3, 1))
    panel = show.panel(lambda **_: seen.append(panel.text if seen else "first") or (_blank(), "done"), *knobs, alt="x")
    panel.knobs["slow"].value = 1
    panel.knobs["quick"].value = 1
    assert seen == ["first", front.BUSY, "done"] and panel.text == "done"


def test_the_page_hears_how_a_press_and_a_slow_move_ended():
    """It has said "drawing" by itself, and a text that stays the same is not sent again."""
    sent: list[dict[str, object]] = []
    panel, _ = _slow()
    panel.front.send = lambda message, buffers=(): sent.append(message["settled"])
    panel.knobs["word"].value = "catt"
    assert sent == []
    for _ in range(2):
        panel.button.click()
    assert sent == [{"text": panel.status.value, "stale": True}] * 2 and "Nothing drawn" in panel.text
    panel.knobs["word"].value = "dog"
    panel.button.click()
    assert sent[2:] == [{"text": "dog of seed 0", "stale": False}]
    panel = show.panel(lambda *, t: 1 / 0 if t == 2 else _blank(), show.slider("t", 0, 3, 1, live=False), alt="x")
    panel.front.send = lambda message, buffers=(): sent.append(message["settled"])
    with pytest.raises(ZeroDivisionError):
        panel.knobs["t"].value = 2
    assert sent[3:] == [{"text": "ZeroDivisionError: division by zero", "stale": True}]


# What the page does by itself -----------------------------------------------------------------------------------------------


def test_the_page_is_told_how_to_read_the_knobs_and_gets_what_the_kernel_would_show():
    def render(*, t: float, way: str, on: bool) -> tuple[np.ndarray, str]:
        if t == 0.75:
            raise ValueError("not there")
        return np.full((8, 8 + 4 * on, 3), round(100 * t) + (way == "b"), np.uint8), f"<{way}> {t}"

    knobs = (show.slider("t", 0.0, 1.0, 0.25, 0.5), show.choice("way", ("a", "b")), show.toggle("on"))
    panel = show.panel(render, *knobs, alt="grey")
    told = panel.front.parts["knobs"]
    assert [(k["trait"], k["low"], k["step"], k["count"], k["live"]) for k in told] == [
        ("value", 0.0, 0.25, 5, True), ("index", 0, 1, 2, False), ("value", 0, 1, 2, False)]
    sent = []
    panel.front.send = lambda message, buffers=(): sent.append((message, buffers))
    for want in ([0, 1, 1], [4, 0, 0], [3, 0, 0]):
        panel.front._handle_custom_msg({"want": want}, [])
        message, buffers = sent.pop()
        assert message["at"] == want
        if want[0] == 3:
            assert not buffers, "what fails is not sent; the error comes when a hand moves the knob there"
            continue
        panel.set(**front.values_at(list(panel.specs.values()), want))
        assert front.position_of(list(panel.specs.values()), panel.values) == want
        assert buffers == [bytes(panel.image.value)]
        assert message["shown"] == {"text": panel.status.value, "width": panel.image.width, "height": panel.image.height}


@pytest.mark.parametrize(("knobs", "more"), [
    ((show.slider("t", 0, 9, 1, live=False),), {}), ((show.toggle("on"),), {}),
    ((show.slider("t", 0, 9, 1), show.text("word", "cat")), {}), ((show.slider("t", 0, 9, 1),), {"action": "draw"})])
def test_nothing_is_fetched_ahead_where_it_would_cost_too_much(knobs, more):
    panel = show.panel(lambda **_: _blank(), *knobs, alt="black", **more)
    assert panel.front.parts["knobs"] == [] and panel.front.parts["alt"] == "black"


WAY = show.choice("way", ("a", "b"))


@pytest.mark.parametrize(("knobs", "more", "told"), [
    ((show.slider("t", 0, 9, 1), WAY), {}, [("index", front.LATE)]),
    ((WAY, show.toggle("on")), {}, [("index", front.LATE), ("value", front.LATE)]),
    ((show.slider("t", 0, 9, 1, live=False), WAY, show.slider("s", 0, 9, 1)), {}, [("value", 0), ("index", 0)]),
    ((show.text("word", "cat"), show.toggle("on")), {}, [("value", 0), ("value", 0)]),
    ((show.slider("t", 0, 9, 1, live=False),), {"action": "draw"}, [])])
def test_the_page_knows_which_knobs_are_slow(knobs, more, told):
    panel = show.panel(lambda **_: _blank(), *knobs, alt="x", **more)
    assert [(k["trait"], k["after"]) for k in panel.front.parts["told"]] == told
    sent: list[dict[str, object]] = []
    panel.front.send = lambda message, buffers=(): sent.append(message["settled"])
    for knob in knobs:
        panel.knobs[knob.name].value = "b" if knob is WAY else "dog" if knob.name == "word" else 1
    assert len(sent) == len(told), "the page hears of the end of all that it was told to speak of, and of nothing else"


def test_panel_and_still_with_ipywidgets_7(monkeypatch):
    """Google Colab's: it has no _repr_mimebundle_ and shows the live view by itself."""
    shown = []
    monkeypatch.delattr(widgets.Widget, "_repr_mimebundle_", raising=False)
    monkeypatch.setattr(widgets.DOMWidget, "_ipython_display_", lambda self, **_: shown.append(self), raising=False)
    formatter = InteractiveShell.instance().display_formatter
    panel = _every()
    try:
        data, meta = formatter.format(panel)
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id and shown == []
        assert base64.b64decode(data["image/png"]) == panel.still.png and meta["image/png"]["alt"] == "a grey box"
        assert formatter.format(panel.image) == ({}, {}) and shown == [panel.image], "this is what it does with other widgets"
    finally:
        InteractiveShell.clear_instance()


def test_without_anywidget_there_are_panel_and_still_but_no_front(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anywidget", None)
    panel, drawn = _slow()
    assert panel.front is None and None not in panel.children
    panel.button.click()
    assert drawn[-1] == ("cat", 1)
    hole = show.mask("hole", torch.zeros(3, 8, 8))
    painted = show.panel(lambda *, hole: (_blank(), str(int(hole.sum()))), hole, action="draw", alt="x")
    assert painted.text == "16" and any("pip install anywidget" in w.value for w in _all(painted) if isinstance(w, widgets.HTML))
    painted.set(hole=show.box_mask(8, 0, 0, 3, 3))
    painted.draw()
    assert painted.text == "9"
