"""The course as a learner meets it: `make lab`, Chromium, every notebook run, every knob moved by keyboard."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import HELP, Lab, chromium, lab, reopen, save, visit, write
from standing import SAID, page_words, plain

ROOT = Path(__file__).resolve().parents[2]
COURSE = sorted((ROOT / "notebooks").glob("*.ipynb"))

in_browser = [pytest.mark.browser, pytest.mark.skipif(chromium() is None, reason=HELP), pytest.mark.timeout(7200)]

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
    "panel(w.Dropdown(description='list', options=['a b', 'c']))",
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
    "from IPython.display import Javascript\n"
    "Javascript('console.error(\"an error of the page\"); setTimeout(() => alert(\"unasked\"), 0)')": None,
    "raise RuntimeError('the last cell')": None,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """`make lab` on copies of the course's notebooks and on some of our own."""
    folder = tmp_path_factory.mktemp("course")
    for path in COURSE:
        shutil.copy(path, folder)
    write(folder / "good.ipynb", [START, *GOOD])
    write(folder / "bad.ipynb", [START, *BAD])
    with lab(folder, tmp_path_factory.mktemp("lab")) as running:
        yield running


def browser(test):
    """A test that needs Chromium, and patience on a machine with other work."""
    for mark in in_browser:
        test = mark(test)
    return test


@browser
def test_every_kind_of_knob_is_moved_and_seen_to_act(server: Lab) -> None:
    seen = visit(server, "good.ipynb")
    assert len(seen.knobs) == len(GOOD), seen.knobs
    assert seen.wrong == []
    assert seen.counts == list(range(1, len(GOOD) + 2))
    stands = {label: value for _, label, value in seen.stands}
    assert stands == {"seed": "0", "at its end": "1.00", "word": "a", "list": "a b", "one of": "a", "radio": "a", "tick": "false",
                      "toggle": "false", "number": "7", "slow": "0", "k": "4"}


@browser
def test_a_dead_knob_a_failing_callback_and_a_request_outside_are_seen(server: Lab) -> None:
    """Else the tests of the course's notebooks below could not fail."""
    seen = visit(server, "bad.ipynb", patience=60)
    assert any("idle" in name for name in seen.stuck)
    for word in ("ZeroDivisionError: division by zero", "KeyError: ", "RuntimeError: the last cell"):
        assert any(word in error for error in seen.errors), word
    assert set(seen.strangers) == {"http://pictures.example.org/cat.png"}
    assert "an error of the page" in seen.complaints and "unasked" in seen.popups


def _number(shown: str | None) -> float | str | None:
    """What a knob shows, as a number where it is one: "6" and "6.0" are the same place."""
    try:
        return float(shown.replace("\N{MINUS SIGN}", "-"))
    except (AttributeError, ValueError):
        return shown


@browser
@pytest.mark.visit
@pytest.mark.parametrize("name", [path.name for path in COURSE])
def test_the_notebook_runs_every_knob_acts_and_the_saved_file_shows_no_dead_widget(server: Lab, name: str) -> None:
    """Run all; knobs stand where the page says; each is moved; saved and opened again with a new kernel there are the stills."""
    seen = visit(server, name, then=save)
    print(seen.table)                                      # `pytest -rP` shows it
    assert seen.wrong == []
    assert seen.counts == list(range(1, len(seen.counts) + 1))
    assert seen.knobs, "a notebook of the course has something to play with"
    for row in SAID[name[:2]]:
        there = {label: value for alt, label, value in seen.stands if alt.startswith(row.alt)}
        assert {k: _number(there.get(k)) for k in row.at} == {k: _number(value) for k, value in row.at.items()}, row.alt
    again = reopen(server, name)
    assert again.dead + again.visit.wrong == []
    assert again.pictures >= again.stills > 0


def _begins(source: str) -> dict[str, str]:
    """label -> where a knob begins, of the knobs that a cell makes with a value written out."""
    found = {}
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        kind = getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {word.arg: word.value for word in call.keywords}
        place = {"slider": 4, "play": 4, "choice": 2, "toggle": 1, "text": 1, "seed": 1}.get(kind)
        value = given.get("value") or (call.args[place] if place is not None and len(call.args) > place else None)
        name = given.get("name", ast.Constant("seed")) if kind == "seed" else call.args[0] if call.args else None
        if place is not None and isinstance(value, ast.Constant) and isinstance(name, ast.Constant):
            found[name.value.replace("_", " ")] = str(value.value).lower() if kind == "toggle" else str(value.value)
    return found


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_of_every_panel_it_is_known_where_the_page_says_it_stands(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = [output["metadata"].get("image/png", {}).get("alt", "") for cell in cells if cell["cell_type"] == "code"
             and "panel(" in "".join(cell["source"]) for output in cell["outputs"] if "image/png" in output.get("data", {})]
    rows = SAID.get(path.name[:2], [])
    assert shown and all(any(alt.startswith(row.alt) for row in rows) for alt in shown), "add the panel to tests/kit/standing.py"
    for row in rows:
        assert plain(row.words) in page_words(cells) and row.words and row.at
        assert sum(alt.startswith(row.alt) for alt in shown) == 1, row.alt
    page = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    room = next((ROOT / "minidiff/lessons").glob(f"l{path.name[:2]}_*")) / "panels.py"
    knobs = {"seed"} if re.search(r"\bseed\(", page) else set()
    knobs |= set(re.findall(r"""\b(?:slider|play|choice|toggle|text|mask)\(\s*["'](\w+)""", page))
    knobs |= set(re.findall(r'"(\w+)"', room.read_text(encoding="utf-8")))
    knobs = {name.replace("_", " ") for name in knobs}
    begins = {}
    for cell in cells:
        if cell["cell_type"] == "code" and "panel(" in (source := "".join(cell["source"])):
            for output in cell["outputs"]:
                if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                    begins[alt] = _begins(source)
    for row in rows:
        there = next(values for alt, values in begins.items() if alt.startswith(row.alt))
        wrong = {k: v for k, v in there.items() if k in row.at and _number(v) != _number(row.at[k])}
        assert not wrong, f"{row.alt}: the page's cell says {wrong}"
    assert {label for row in rows for label in row.at} <= knobs, "a knob of tests/kit/standing.py that the page does not have"
