"""JupyterLab as ``make lab`` starts it, in headless Chromium: run a notebook, move every knob by keyboard, see what changes.

What counts as a change is what a person sees: the bytes of the pictures around the knob, or the text there that is not
the knob's own readout. What counts as an error is any the kernel reports, also from a callback whose traceback goes
nowhere. Chromium resolves no name but 127.0.0.1, and every request is written down.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["CHROMIUM", "HELP", "READY", "Lab", "Reopened", "Visit", "chromium", "lab", "make_lab", "opened", "reopen", "save",
           "visit", "write"]

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium")
HELP = "no Chromium found: install it (Debian: apt-get install chromium; macOS: brew install --cask chromium) " \
       "or set MINIDIFF_CHROMIUM to its path"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
SETTINGS = {"@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
            "@jupyterlab/docmanager-extension/plugin.jupyterlab-settings": {"autosave": False}}
HOME = ("127.0.0.1", "localhost")
READY = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
LONG = 600.0               # seconds for a start, a draw or an answer: these tests also run beside other work on one core

PAGE = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")


def chromium() -> str | None:
    """The path of a Chromium or Chrome, or None."""
    named = os.environ.get("MINIDIFF_CHROMIUM")
    return named or next((found for found in map(shutil.which, CHROMIUM) if found), None)


@dataclass
class Lab:
    """A running JupyterLab: its address, its token and the folder that it serves."""

    url: str
    token: str
    folder: Path


def make_lab(folder: Path, arguments: str, venv: str | None = None) -> list[str]:
    """The command that starts Lab: `make lab` in the environment of these tests, installing nothing, on ``folder``."""
    venv = venv or sys.prefix
    plan = subprocess.run(["make", "-n", "setup", f"VENV={venv}"], cwd=ROOT, capture_output=True, text=True).stdout
    stamps = re.findall(r"touch (.*)", plan)
    old = [flag for stamp in (stamps[0].split() if stamps else []) for flag in ("-o", stamp)]
    return ["make", "--no-print-directory", *old, "lab", f"VENV={venv}", f"NOTEBOOKS={folder}", f"ARGS={arguments}"]


def write(path: Path, cells: list[str]) -> None:
    """A notebook of these code cells, not yet run."""
    content = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
               for i, source in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": content, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def lab(folder: Path, scratch: Path) -> Iterator[Lab]:
    """Start `make lab` on ``folder`` with its own settings under ``scratch``; end it, kernels and all, on the way out."""
    for name, content in SETTINGS.items():
        path = scratch / "settings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    token, port = secrets.token_hex(16), free_port()
    arguments = (f"--no-browser --ServerApp.ip=127.0.0.1 --ServerApp.port={port} --ServerApp.port_retries=0 "
                 f"--IdentityProvider.token={token} --LabApp.expose_app_in_browser=True "
                 f"--LabApp.user_settings_dir={scratch}/settings --LabApp.workspaces_dir={scratch}/workspaces")
    environment = os.environ | {"JUPYTER_CONFIG_DIR": f"{scratch}/config", "JUPYTER_RUNTIME_DIR": f"{scratch}/runtime",
                                "IPYTHONDIR": f"{scratch}/ipython",
                                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    url = f"http://127.0.0.1:{port}"
    with (scratch / "lab.log").open("w") as log:
        server = subprocess.Popen(make_lab(folder, arguments), cwd=ROOT, env=environment, stdout=log, stderr=log,
                                  start_new_session=True)
        try:
            deadline = time.monotonic() + LONG
            while True:
                with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                    urllib.request.urlopen(f"{url}/api?token={token}", timeout=30).close()
                    break
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("JupyterLab did not start:\n" + (scratch / "lab.log").read_text()[-3000:])
                time.sleep(0.2)
            yield Lab(url, token, folder)
        finally:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                stop = urllib.request.Request(f"{url}/api/shutdown", method="POST", headers={"Authorization": f"token {token}"})
                urllib.request.urlopen(stop, timeout=10).close()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@dataclass
class Visit:
    """What happened in one notebook. knobs: each knob's name, and the seconds until what is around it changed; None: never.

    Seconds are those of the page's own clock, from the key to the loaded picture; where no picture is loaded, those until
    this program saw the change, and it looks for one after half a second only.
    signs: of the same knobs, the seconds until the panel gave a sign of life: the button's words, the line of text, or a mark
    on the picture; None where it gave none, or the knob belongs to no panel.
    stands: the alternative text of the panel's picture, the knob's label and what it stood at, before any knob was moved.
    strangers: addresses outside this machine that were asked for; complaints: errors in the browser's console; popups: dialogs
    and messages that JupyterLab showed.
    """

    counts: list[int | None] = field(default_factory=list)
    knobs: list[tuple[str, float | None]] = field(default_factory=list)
    signs: list[float | None] = field(default_factory=list)
    stands: list[tuple[str, str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    popups: list[str] = field(default_factory=list)

    @property
    def stuck(self) -> list[str]:
        """Knobs whose move showed nothing."""
        return [name for name, seconds in self.knobs if seconds is None]

    @property
    def table(self) -> str:
        """A line a knob: milliseconds to the sign of life, and to what it changes. For a reader; no test rests on a clock."""
        def cell(seconds: float | None) -> str:
            return "   nothing" if seconds is None else f"{1000 * seconds:7.0f} ms"
        return "\n".join(f"{name:45s} sign {cell(sign)}, change {cell(seconds)}"
                         for (name, seconds), sign in zip(self.knobs, self.signs, strict=True))

    @property
    def wrong(self) -> list[str]:
        """All that must be empty, each with its kind."""
        kinds = ("errors", "stuck", "strangers", "complaints", "popups")
        return [f"{kind}: {text}" for kind in kinds for text in getattr(self, kind)]

    def watch(self, context: Any) -> None:
        """Write down what a browser's context asks for, opens and complains of."""
        def note(address: str) -> None:
            parts = urlsplit(address)
            if parts.scheme not in ("data", "blob", "about") and parts.hostname not in HOME:
                self.strangers.append(address)

        def new(page: Any) -> None:
            self.popups += [f"a window: {page.url}"] if len(context.pages) > 1 else []
            page.on("websocket", lambda socket: note(socket.url))
            page.on("pageerror", lambda error: self.complaints.append(str(error)))

        context.on("request", lambda request: note(request.url))
        context.on("page", new)
        context.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        context.on("dialog", lambda dialog: (self.popups.append(dialog.message), dialog.dismiss()))


def _press(page: Any, knob: Any) -> Iterator[None]:
    """Move one knob by keyboard, in one way or another: a slider at its end goes back."""
    kind = knob.evaluate("minidiff.kind")
    if kind == "choice":
        knob = knob.evaluate_handle("minidiff.other").as_element()
    knob.focus()
    if kind == "slider":
        for key in ("ArrowRight", "ArrowLeft", "PageUp", "PageDown"):
            page.keyboard.press(key)
            yield
    elif kind == "select":
        for key in ("End", "Home"):                       # JupyterLab takes the arrows for itself
            page.keyboard.press(key)
            yield
    elif kind in ("text", "number"):
        page.keyboard.press("End")
        page.keyboard.type("1")
        page.keyboard.press("Enter")
        yield
        knob.focus()                                       # as it was: knobs beside an unreadable prompt have nothing to show
        page.keyboard.press("End")
        page.keyboard.press("Backspace")
        page.keyboard.press("Enter")
    else:
        page.keyboard.press("Space")
        yield
        if kind == "play":                                 # let it rest again
            page.keyboard.press("Space")


def _move_all(page: Any, seen: Visit, patience: float, rest: float) -> None:
    """Move every knob of the page once; wait up to ``patience`` seconds for what is around it to change."""
    for number in range(page.evaluate("minidiff.knobs().length")):
        knob = page.evaluate_handle(f"minidiff.knobs()[{number}]").as_element()
        if knob is None:                                   # the move of an earlier knob took this one away
            continue
        name = knob.evaluate("minidiff.name")
        if knob.evaluate("minidiff.settle"):               # an old picture is marked once only
            end = time.monotonic() + patience
            while not knob.evaluate("minidiff.fresh") and time.monotonic() < end:
                page.wait_for_timeout(50)
            page.evaluate("minidiff.answered()")           # the button can be pressed again a little later
        before = knob.evaluate("minidiff.around")
        knob.evaluate("minidiff.arm")
        seconds = sign = None
        page.wait_for_timeout(1000 * rest)
        for _ in (moves := _press(page, knob)):
            start = time.monotonic()
            page.wait_for_timeout(1000 * rest)
            answered = False
            while seconds is None and time.monotonic() < start + patience:
                page.wait_for_timeout(10)
                if page.evaluate("minidiff.took()") is None and time.monotonic() < start + 0.5:
                    continue                               # looking at all the pictures would slow down what is measured
                if not knob.evaluate("minidiff.busy") and knob.evaluate("minidiff.around") != before:
                    seconds = page.evaluate("minidiff.took()") or time.monotonic() - start
                elif answered and time.monotonic() > start + 2:
                    break                                  # the kernel has done all it was asked for, and showed nothing new
                else:
                    page.evaluate("minidiff.answered()")
                    answered = True
            if seconds is not None:
                sign = page.evaluate("minidiff.spoke()")   # before the knob is put to rest
                next(moves, None) if name.startswith(("widget-play", "widget-text")) else None
                break
        seen.knobs.append((name, seconds))
        seen.signs.append(sign)
        page.evaluate("minidiff.answered()")


def _start(page: Any, server: Lab, name: str) -> None:
    """Open a notebook in JupyterLab and wait for its kernel."""
    page.goto(f"{server.url}/lab/tree/{name}?token={server.token}&reset", timeout=1000 * LONG)
    try:
        page.wait_for_function(READY, timeout=1000 * LONG)
    except Exception as error:                             # most often a dialog that waits for an answer
        page.screenshot(path=server.folder / f"{name}.png")
        dialog = " ".join(page.locator(".jp-Dialog").all_inner_texts())
        raise AssertionError(f"{name} got no kernel. Dialog: {dialog!r}; see {server.folder / name}.png") from error


@contextlib.contextmanager
def opened(server: Lab, name: str, seen: Visit) -> Iterator[Any]:
    """A page of playwright with a notebook of the lab's folder; its kernel is ended on the way out."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        context.add_init_script(PAGE)
        seen.watch(context)
        page = context.new_page()
        page.set_default_timeout(1000 * LONG / 4)
        _start(page, server, name)
        page.evaluate("minidiff.listen()")
        yield page
        seen.popups += page.evaluate("minidiff.popups")
        page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        browser.close()


def visit(server: Lab, name: str, *, run_seconds: float = 3 * LONG, patience: float = LONG, rest: float = 0.0,
          move: bool = True, then: Callable[[Any], None] | None = None) -> Visit:
    """Open a notebook of the lab's folder, run all its cells, move every knob (unless ``move`` is False).

    run_seconds: time for all cells together. patience: seconds for one knob to show something. rest: seconds in which
    nobody touches or asks the page, before and after each move: a hand needs them too to go from one knob to the next, and
    questions to the page slow down what is measured. then: called with the page
    (of playwright) at the end, to do what no keyboard does.
    """
    seen = Visit()
    with opened(server, name, seen) as page:
        page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        page.wait_for_function("minidiff.counts().every(n => n === null)")
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        deadline = time.monotonic() + run_seconds
        while not page.evaluate("minidiff.reports.length || minidiff.counts().every(n => n !== null) && minidiff.idle()"):
            assert time.monotonic() < deadline, f"{name} has not run in {run_seconds:g} s: {page.evaluate('minidiff.counts()')}"
            page.wait_for_timeout(200)
        drawn, before = 0, -1                              # widgets are drawn after their cell has ended
        while drawn != before or page.get_by_text("Loading widget...").count():
            page.evaluate("minidiff.answered()")
            page.wait_for_timeout(1000)
            drawn, before = page.evaluate("minidiff.knobs().length"), drawn
        seen.counts = page.evaluate("minidiff.counts()")
        seen.stands = [tuple(row) for row in page.evaluate(
            "minidiff.knobs().filter(k => !k.matches('.widget-button, .widget-play *'))"
            ".map(k => [minidiff.alt(k), minidiff.label(k), minidiff.value(k)])")]
        if move:
            _move_all(page, seen, patience, rest)
        if then is not None:
            then(page)
        seen.errors = page.evaluate("minidiff.reports")
        seen.errors += page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
    return seen


def save(page: Any) -> None:
    """Save the notebook of the page, and wait until that is done."""
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")


@dataclass
class Reopened:
    """A notebook opened again with a new kernel, which has run nothing.

    dead: the texts of live views that no kernel knows; pictures: how many are shown; saved: the file.
    """

    dead: list[str]
    pictures: int
    saved: dict[str, Any]
    visit: Visit

    @property
    def stills(self) -> int:
        """How many pictures the file holds."""
        return sum("image/png" in output.get("data", {}) for cell in self.saved["cells"] for output in cell.get("outputs", []))


def reopen(server: Lab, name: str) -> Reopened:
    """Open a saved notebook with a new kernel, in a new page, and run nothing."""
    seen = Visit()
    with opened(server, name, seen) as page:
        page.wait_for_function("window.jupyterapp.shell.currentWidget.context.isReady")
        page.evaluate("minidiff.answered()")
        page.wait_for_function("""() => [...document.querySelectorAll('.jp-OutputArea-output')].every(o => o.childElementCount) &&
            [...document.querySelectorAll('.jp-OutputArea-output img')].every(i => i.complete)""")
        views = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.widget-view+json']").all_inner_texts()
        dead = [f"a live view: {text}" for text in views] + page.get_by_text("Error displaying widget").all_inner_texts()
        pictures = page.locator(".jp-OutputArea-output img").count()
    return Reopened(dead, pictures, json.loads((server.folder / name).read_text()), seen)


def main(names: list[str]) -> None:
    """Print for every knob of some notebooks how long a sign of life and the change take: what a learner waits here."""
    import tempfile
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "course"
        shutil.copytree(ROOT / "notebooks", folder)
        with lab(folder, Path(scratch) / "lab") as running:
            for name in names or sorted(path.name for path in folder.glob("*.ipynb")):
                print(f"{Path(name).name}\n{visit(running, Path(name).name, rest=1.0).table}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
