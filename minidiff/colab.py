"""Google Colab: the first code cell of every notebook, which fetches the course there and says why if it cannot."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ADDED", "FIRST_LINE", "KEPT", "REPOSITORY", "SETUP_CELL", "TAG", "needs", "prepare"]

REPOSITORY = "https://github.com/minidiff/minidiff"
"""The course's address; a test holds all that name it (notebooks, README, CITATION.cff, pyproject.toml) to this one."""

TAG = "v0.1.0"
"""What Colab fetches: a release, not a branch that moves."""

FIRST_LINE = "# Google Colab only: fetch the course, once. On your own machine this cell does nothing."

SETUP_CELL = FIRST_LINE + f'''
import os
import sys

if "google.colab" in sys.modules:
    course = "{REPOSITORY}"
    if not os.path.isdir("minidiff-course/minidiff"):
        !git clone --quiet --depth 1 --branch {TAG} {{course}} minidiff-course
    if not os.path.isdir("minidiff-course/minidiff"):
        raise RuntimeError(f"No course here; git says why above. Does {{course}} open in your browser?")
    sys.path.insert(0, os.path.abspath("minidiff-course"))
    from minidiff.colab import prepare

    prepare()'''
"""It may be run again. Outside Colab it does nothing."""

KEPT = ("matplotlib", "numpy", "pillow", "torch")
"""What Colab is built on: a runtime falls apart when one of these changes, so they stay as they are."""

ADDED = ("accelerate", "anywidget", "diffusers", "einops", "peft", "safetensors", "transformers")
"""What may be missing there, or older than the course has been tested with."""


def needs() -> list[str]:
    """What the package asks of those, in the words of its pyproject.toml."""
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    return [line for line in lines if re.split(r"[<>=!~ \[]", line)[0] in ADDED]


def prepare(wanted: Sequence[str] | None = None) -> None:
    """Install on Colab what is missing there, and let its pages show the widgets of packages.

    wanted: requirements as pip takes them; left out, :func:`needs`. What is there already costs a second. Raises RuntimeError
    with the words of pip and what to do about it.
    """
    wanted = needs() if wanted is None else wanted
    kept = [name for name in KEPT if find_spec({"pillow": "PIL"}.get(name, name))]
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "kept.txt").write_text("".join(f"{name}=={version(name)}\n" for name in kept), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(file), *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The course is here, but pip could not install {', '.join(wanted)}. Run this cell again; if it fails "
                           "again, choose Runtime > Disconnect and delete runtime, and start over. pip said: "
                           f"{(done.stderr or done.stdout).strip()[-600:]}")
    from google.colab import output

    output.enable_custom_widget_manager()
