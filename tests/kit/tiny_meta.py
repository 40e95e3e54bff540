"""A checkpoint that is nothing but its meta.json, under its hash, for tests that play a run. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FILES = ("model.safetensors", "ema.safetensors", "optimiser.pt", "losses.f32")


def write_meta(folder: Path, *, seconds: float, planned: float, **more: object) -> None:
    """folder: step-NNNNNNNN, which exists."""
    settings = {"recipe": "played", "seed": 0, "seconds_planned": planned}
    text = json.dumps({"step": int(folder.name[5:]), "seconds": seconds, "images": 1, "settings": settings, **more})
    lines = [f"{'0' * 64}  {name}\n" for name in FILES] + [f"{hashlib.sha256(text.encode()).hexdigest()}  meta.json\n"]
    (folder / "SHA256SUMS").write_text("".join(lines))
    (folder / "meta.json").write_text(text)
