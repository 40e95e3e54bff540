"""A page of one's own: everything inside one file, nothing overwritten, and a browser that shows it without a network."""

from __future__ import annotations

import base64
import re
import stat
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import HELP, chromium

from minidiff import show
from minidiff.errors import BadInput

PICTURE = show.picture(np.full((20, 30, 3), 90, np.uint8), alt='a "grey" <picture>', caption="look at it")


def energy(maps, state):
    """Smaller is < better & "quoted"."""
    return state.x0.square().mean((1, 2, 3))


class Seen(HTMLParser):
    """Tags, their attributes, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open += [tag] if tag not in ("meta", "link", "img") else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags are nested"

    def handle_data(self, data):
        self.text += data


def made(folder, name="mine.html"):
    return show.html_page(folder / name, "Mine & yours", "A text with a < in it.", PICTURE, energy,
                          {"joint": 0.123456, "three": (1, 2.5, "a < b")})


def test_everything_is_in_the_file_and_escaped(tmp_path):
    path = made(tmp_path)
    text = path.read_text(encoding="utf-8")
    seen = Seen(text)
    assert seen.open == [] and {tag for tag, _ in seen.tags}.isdisjoint({"script", "iframe", "a"})
    assert not re.search(r"https?://|url\(", text)
    assert all(value.startswith("data:") for _, attrs in seen.tags for key, value in attrs.items() if key in ("src", "href"))
    (image,) = [attrs for tag, attrs in seen.tags if tag == "img"]
    assert image["alt"] == PICTURE.alt and base64.b64decode(image["src"].partition(",")[2]) == PICTURE.png
    for words in ("Mine & yours", "A text with a < in it.", 'Smaller is < better & "quoted"', "state.x0.square()", "0.123",
                  "a < b"):
        assert words in seen.text
    assert "0.123456" not in seen.text and [tag for tag, _ in seen.tags].count("td") == 4


def test_a_file_that_is_there_is_never_touched(tmp_path):
    (tmp_path / "mine.html").write_text("older")
    (tmp_path / "mine-2.html").symlink_to(tmp_path / "nowhere.html")
    first, second = made(tmp_path), made(tmp_path)
    assert (first.name, second.name) == ("mine-3.html", "mine-4.html")
    assert (tmp_path / "mine.html").read_text() == "older" and not (tmp_path / "nowhere.html").exists()
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("path", "title", "parts", "word"), [
    ("mine.txt", "t", ["x"], "path"), ("none/mine.html", "t", ["x"], "path"), ("mine.html", " ", ["x"], "title"),
    ("mine.html", "t", [], "parts"), ("mine.html", "t", ["x", 3], r"parts\[1\]"), ("mine.html", "t", [len], r"parts\[0\]"),
])
def test_what_cannot_be_written_is_refused_before_a_file_is_there(tmp_path, path, title, parts, word):
    with pytest.raises(BadInput, match=word):
        show.html_page(tmp_path / path, title, *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(BadInput, match="No space left"):
        show.html_page(tmp_path / "mine.html", "t", "x")


def test_a_page_that_the_disk_has_no_room_for_leaves_no_half_of_it(tmp_path, monkeypatch):
    real = open

    def small(path, *args, **kwargs):
        return Small(real(path, *args, **kwargs))

    class Small:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:100])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", small)
    with pytest.raises(BadInput, match="No space left"):
        show.html_page(tmp_path / "mine.html", "t", "x")
    assert list(tmp_path.iterdir()) == []


def test_the_usual_permissions(tmp_path):
    other = tmp_path / "other"
    other.write_text("")
    assert stat.S_IMODE(made(tmp_path).stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason=HELP)
def test_a_browser_shows_it_and_asks_for_nothing(tmp_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        asked, complaints = [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("console", lambda m: complaints.append(m.text))
        page.on("pageerror", lambda e: complaints.append(str(e)))
        path = made(tmp_path)
        page.goto(path.as_uri())
        assert page.title() == "Mine & yours" and complaints == []
        assert page.evaluate("document.images[0].complete && document.images[0].naturalWidth") > 0
        assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
