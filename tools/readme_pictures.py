"""Draws the two pictures of the README anew: python tools/readme_pictures.py

data/samples.png is what the README's first example saves; data/panel.png is the still of a panel of notebook 08.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from minidiff import show
from minidiff.lessons.l08_latent_diffusion import Film
from minidiff.zoo import load

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Overwrites both files."""
    os.chdir(ROOT / "data")
    exec(re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1], {})
    film = Film(load("mini-sd"), "a red cat left of a blue house on the grass", seed=0)
    site = next(label for label in film.sites if label.startswith("up 16x16"))
    knobs = show.play("step", 0, 24, 1, 16), show.choice("word", film.words, "cat"), show.choice("site", list(film.sites), site)
    panel = show.panel(film.render, *knobs, alt="One step of sampling, and where the word cat looks")
    Path("panel.png").write_bytes(panel.still.png)


if __name__ == "__main__":
    main()
