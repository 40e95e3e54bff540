"""What a panel looks like without a kernel, and what a hand at its knobs can rely on."""

import io

import ipywidgets as widgets
import numpy as np
import pytest
from ipywidgets.widgets.widget import _instances
from PIL import Image

from minidiff import show
from minidiff.show.stills import with_knobs
from minidiff.show.theme import DENSITY, rgb


def _blank(**_: object) -> np.ndarray:
    return np.full((40, 60, 3), 128, np.uint8)


def _every() -> show.Panel:
    knobs = (show.play("part", 0, 100, 2, 60), show.slider("amount", 0.0, 1.0, 0.25, 0.5))
    caption = "Look for a < b, over and over " + "again " * 40
    return show.panel(_blank, *knobs, show.toggle("clip"), show.button("again"), caption=caption, alt="a grey box")


def _all(widget: widgets.Widget) -> list[widgets.Widget]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in _all(child))]


def test_the_play_button_starts_where_the_slider_stands_and_follows_it():
    """A link syncs its source to its target when it is made: with the button as source the slider would jump to the start."""
    panel = _every()
    player = next(w for w in _all(panel) if isinstance(w, widgets.Play))
    assert (player.value, player.min, player.max, player.step) == (60, 0, 100, 2)
    links = [w for w in _instances.values() if isinstance(w, widgets.widget_link.Link) and player in (w.source[0], w.target[0])]
    assert [link.source[0] for link in links] == [panel.knobs["part"]]


def test_every_knob_has_a_visible_name_and_a_long_caption_may_break():
    panel = _every()
    assert {w.description for w in panel.knobs.values()} == {"part", "amount", "clip", "again"}
    texts = [w.value for w in _all(panel) if isinstance(w, widgets.HTML)]
    assert any("a &lt; b" in text for text in texts)          # shown as written, in a widget that wraps
    assert not any("over and over" in w.value for w in _all(panel) if type(w) is widgets.Label)


def test_an_error_is_shown_as_it_was_written():
    def fails(*, t: int) -> np.ndarray:
        if t:
            raise ValueError("t < 0 <b>")
        return _blank()

    panel = show.panel(fails, show.slider("t", 0, 3, 1, 0), alt="x")
    good = bytes(panel.image.value)
    with pytest.raises(ValueError, match="t < 0"):
        panel.knobs["t"].value = 2
    assert "t &lt; 0 &lt;b&gt;" in panel.failed.value and bytes(panel.image.value) == good


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


def test_the_still_stays_as_it_was_when_knobs_move():
    panel = show.panel(lambda *, t: np.full((20, 20, 3), t, np.uint8), show.slider("t", 0, 9, 1, 2), alt="x")
    before = panel._repr_mimebundle_()[0]["image/png"]
    panel.set(t=7)
    assert panel._repr_mimebundle_()[0]["image/png"] == before
