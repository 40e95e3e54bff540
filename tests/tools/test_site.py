"""The static site: every picture with its words, every formula drawn by the browser, every link inside, nothing fetched."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from minidiff.cli import main
from minidiff.errors import BadInput
from minidiff.site_command import MARK, build

ROOT = Path(__file__).resolve().parents[2]
BOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert build(folder / "out") == len(BOOKS) >= 23
    assert [path.name for path in folder.iterdir()] == ["out"]
    return folder / "out"


def page(site: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


@pytest.mark.parametrize("name", ["index", *BOOKS])
def test_nothing_is_fetched_and_every_link_inside_leads_somewhere(site: Path, name: str) -> None:
    soup = page(site, name)
    loaded = [tag.get("src") or tag.get("href") for tag in soup.select("[src], link[href]")]
    for address in loaded:
        assert address.startswith("data:") or (site / address).is_file(), address[:60]
    assert not soup.select("script[src], iframe, object, form, input[type=search]")
    assert "http" not in (site / "style.css").read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    inside = [a["href"] for a in soup.select("a[href]") if "://" not in a["href"]]
    for address in inside:
        file, _, anchor = address.partition("#")
        assert not file or (site / file).is_file(), address
        assert not anchor or (page(site, Path(file).stem) if file else soup).find(id=anchor), address


@pytest.mark.parametrize("name", ["index", *BOOKS])
def test_every_picture_has_words_and_no_formula_is_raw(site: Path, name: str) -> None:
    soup = page(site, name)
    pictures = soup.select("img")
    words = [picture.get("alt", "") for picture in pictures]
    assert len(words) >= 3 and all(len(alt) > 10 and "No description" not in alt for alt in words), "nbconvert's own is none"
    assert name == "index" or len(soup.select("math")) >= 3
    for code in soup.select("pre, code, script, style"):
        code.decompose()
    assert not re.search(r"\$[^$]*\\|\\[a-zA-Z]+\b|\$\$", soup.get_text())


def test_the_index_has_a_card_with_a_picture_for_each_lesson(site: Path) -> None:
    cards = page(site, "index").select(".card")
    assert [card.a["href"] for card in cards] == [f"{name}.html" for name in BOOKS]
    for card, name in zip(cards, BOOKS, strict=True):
        assert card.h2.get_text().startswith(name[:2]) and len(card.p.get_text()) >= 60
        assert (site / card.img["src"]).read_bytes().startswith(b"\x89PNG")
    assert [a.get_text() for a in page(site, "03_ddim").select("nav a")] == ["All lessons", "Before: 02", "Next: 04"]


def test_a_folder_with_something_else_is_left_alone_and_an_older_site_replaced(site: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    assert main(["site", "-o", str(tmp_path / "mine")]) == 2 and [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    shutil.copytree(site, tmp_path / "old")
    (tmp_path / "old/stale.html").write_text("x")
    (tmp_path / "books").mkdir()
    shutil.copy(ROOT / "notebooks/20_dreambooth_lora.ipynb", tmp_path / "books")
    assert build(tmp_path / "old", notebooks=tmp_path / "books") == 1
    assert {path.name for path in (tmp_path / "old").glob("*.html")} == {"20_dreambooth_lora.html", "index.html"}
    assert (tmp_path / "old" / MARK).is_file()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no notebooks"):
        build(tmp_path / "out", notebooks=tmp_path / "empty")
