"""``minidiff morph A B -o morph.gif``: a film from one picture to another, or from one prompt to another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minidiff.options import number

__all__ = ["METHODS", "add_parsers", "morph"]

# name on the command line -> where it is; a method takes (pipe, first, other, prompts, weights=, steps=, guidance=)
METHODS = {"slerp": "minidiff.morphing.interpolate:slerp_morph", "aid": "minidiff.morphing.aid:aid",
           "diffmorpher": "minidiff.morphing.diffmorpher:diffmorpher", "impus": "minidiff.morphing.impus:impus"}
FIXED = ("pipe", "first", "other", "prompts", "weights", "steps", "guidance")
FILES = (".gif", ".png")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def add_parsers(commands: Any) -> None:
    """Add the command to those of ``minidiff``."""
    between = commands.add_parser("morph", help="minidiff morph a.png b.png -o morph.gif: a film from one picture to another")
    between.add_argument("first", metavar="A", help="a picture, or a prompt")
    between.add_argument("other", metavar="B", help="another one of the same sort")
    between.add_argument("-o", "--out", required=True, metavar="FILE", help=".gif plays there and back, .png has all frames")
    between.add_argument("--method", default="slerp", metavar="NAME", help=f"{', '.join(METHODS)} (slerp)")
    between.add_argument("--text", nargs=2, metavar=("A", "B"), help="what the two pictures show; left out, the empty prompt")
    between.add_argument("--frames", type=int, default=9, help="frames, both ends included (9)")
    between.add_argument("--steps", type=int, default=12, help="of inversion and of sampling (12)")
    between.add_argument("--guidance", type=number(-1000, 1000),
                         help="weight of guidance; left out, 1 for pictures and 4 for prompts")
    between.add_argument("--model", default="mini-sd", help="a shipped name, a diffusers folder or a Hub id (mini-sd)")
    between.add_argument("--milliseconds", type=int, default=120, help="a frame of the gif (120)")
    between.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an argument of the method's function")


def morph(given: argparse.Namespace) -> int:
    """Check everything that was asked for, then load the model, draw the frames and write the file."""
    import importlib

    from minidiff.edit_command import options_of
    from minidiff.errors import check_choice, require
    from minidiff.guard import guarded
    from minidiff.zoo import load

    check_choice("--method", given.method, METHODS)
    module, name = METHODS[given.method].split(":")
    function = guarded(getattr(importlib.import_module(module), name))
    options, out = options_of(function, given.set, fixed=FIXED), Path(given.out)
    require(out.suffix.lower() in FILES, "--out", repr(given.out), f"a file that ends in {' or '.join(FILES)}",
            f"--out {out.stem or 'morph'}.gif")
    require(out.parent.is_dir(), "--out", repr(given.out), f"a file in a folder that is there; {str(out.parent)!r} is not")
    require(given.frames >= 3, "--frames", given.frames, "3 or more: both ends and something between", "--frames 9")
    require(given.steps >= 1, "--steps", given.steps, "a whole number, 1 or more", "--steps 12")
    require(given.milliseconds >= 20, "--milliseconds", given.milliseconds, "20 or more", "--milliseconds 120")
    files = [Path(side).is_file() for side in (given.first, given.other)]
    named = [Path(side).suffix.lower() in PICTURES for side in (given.first, given.other)]
    for side, there, picture in zip((given.first, given.other), files, named, strict=True):
        require(there or not picture, "A, B", f"{side!r}, which is not there", "a picture that can be read")
    require(len(set(files)) == 1, "A, B", "a picture and a prompt", "two pictures, or two prompts")
    require(given.text is None or files[0], "--text", repr(given.text), "no text beside prompts, which say it themselves")
    pipe = load(given.model)
    ends, said = (given.first, given.other), None
    if files[0]:
        ends, said = tuple(_read(side, pipe) for side in ends), None if given.text is None else tuple(given.text)
    made = function(pipe, *ends, said, weights=given.frames, steps=given.steps, guidance=given.guidance, **options)
    side = made.images.shape[-1]
    made.save(out, milliseconds=given.milliseconds, scale=max(1, 256 // side))
    print(f"{out}: {given.frames} frames by {given.method}, {given.first} -> {given.other}")
    return 0


def _read(path: str, pipe: Any) -> Any:
    """The picture's middle square at the size that the model draws: (1, 3, S, S) in [-1, 1]."""
    from minidiff.world.folder import read_image

    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return read_image(path, size=side, channels=3)[None].float() / 127.5 - 1
