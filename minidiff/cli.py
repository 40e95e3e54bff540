"""The command ``minidiff``: doctor, draw, edit, morph, train, remake, score, ... Each part is imported when it is asked for."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from minidiff.options import AnyOrder, number, path, whole

__all__ = ["main", "parser"]

_HOMES = {"edit": "edit", "morph": "morph", "train": "train", "sample": "train", "remake": "remake",
          "unpack": "remake", "export": "remake", "score": "score", "start": "course", "grade": "course", "assignment": "course",
          "site": "site"}
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def parser() -> argparse.ArgumentParser:
    """The arguments of every subcommand; ``minidiff COMMAND --help`` prints them."""
    top = argparse.ArgumentParser(prog="minidiff", description="A course on diffusion models, and the tools that remake it.")
    top.add_argument("--version", action="store_true", help="print the version and stop")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=AnyOrder)

    commands.add_parser("doctor", help="what is installed, what is missing or broken, and how to mend it")

    draw = commands.add_parser("draw", help='draw a caption: minidiff draw "a red cat on the grass" -o cat.png')
    draw.add_argument("caption", metavar="CAPTION")
    draw.add_argument("-o", "--out", required=True, type=path, metavar="FILE", help=", ".join(PICTURES))
    draw.add_argument("--size", type=int, default=256, help="pixels along one side, 16 to 2048 (256)")
    draw.add_argument("--seed", type=int, default=0, help="chooses what the caption leaves open (0)")
    draw.add_argument("--model", help="let a pipeline draw it, such as mini-sd; left out, the world itself does")

    change = commands.add_parser("edit", help='minidiff edit prompt-to-prompt "a red cat" "a blue cat" --out DIR')
    change.add_argument("method", metavar="METHOD", help="prompt-to-prompt, ...; any other word lists them")
    change.add_argument("source", metavar="SOURCE", help="the prompt of the source; - takes captions from metadata.jsonl")
    change.add_argument("target", metavar="TARGET", nargs="?", help="the prompt to edit to, for methods that have one")
    change.add_argument("--images", type=path, metavar="DIR",
                        help="edit the pictures of a folder (--set inversion=null-text: how they are "
                        "inverted); left out, pictures of seeds")
    change.add_argument("--seed", type=whole(0), default=0, help="the first seed (0)")
    change.add_argument("--seeds", type=int, default=4, metavar="N", help="how many seeds from there on (4)")
    change.add_argument("--model", default="mini-sd", help="a shipped name, a diffusers folder or a Hub id (mini-sd)")
    change.add_argument("--steps", type=int, default=25, help="sampling steps (25)")
    change.add_argument("--guidance", type=number(-1000, 1000), default=4.0, help="weight of classifier-free guidance (4)")
    change.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an argument of the method's function")
    change.add_argument("--out", required=True, type=path, metavar="DIR", help="where the pictures and sheet.png go")

    for module in ("morph", "train", "remake", "score", "course", "site"):
        importlib.import_module(f"minidiff.{module}_command").add_parsers(commands)

    mine = commands.add_parser("personalise", help="teach a pipeline a new word from a folder of three to five pictures")
    mine.add_argument("folder", type=path, metavar="FOLDER",
                      help="pictures of one subject; metadata.jsonl with captions if you like")
    mine.add_argument("--word", default="<mine>", help='the new word ("<mine>")')
    mine.add_argument("--class", dest="class_word", metavar="WORD",
                      help="what it is, in a word the model knows (left out: what the course's reader takes it for)")
    mine.add_argument("--method", default="lora", choices=("ti", "lora", "dreambooth", "custom"),
                      help="one vector, a low-rank adapter, all weights, or keys and values of cross-attention (lora)")
    mine.add_argument("--model", default="mini-sd", help="mini-sd, a folder in diffusers' format, or a Hub id (mini-sd)")
    mine.add_argument("--iterations", type=whole(1), default=80)
    mine.add_argument("--rank", type=whole(1), default=8, help="of the adapter (8)")
    mine.add_argument("--prior", type=whole(0, 10_000), default=0, metavar="N",
                      help="pictures of the class for the prior loss (none)")
    mine.add_argument("--every", type=whole(1), default=40, help="iterations between two sheets of samples (40)")
    mine.add_argument("--prompt", default="", help='of the samples, with {} where the subject goes ("a {} on the beach")')
    mine.add_argument("--seed", type=whole(0), default=0)
    mine.add_argument("--out", type=path, metavar="DIR", help="where word, adapter and samples go (runs/personal)")

    commands.add_parser("bench", help="measure this machine: images a second, rendering, sampling", add_help=False)

    books = commands.add_parser("notebooks", help="bring notebooks into the form that is committed")
    books.add_argument("action", choices=("normalise", "check", "run", "exercises"),
                       help="normalise: tidy the file; check: say what is wrong; run: execute from the top, then tidy; "
                            "exercises: write stubs and folded solutions anew from their source")
    books.add_argument("files", type=path, metavar="FILE", nargs="*", help="notebooks or folders; the course's own when left out")
    books.add_argument("--timeout", type=number(0, above=True), default=120.0, help="seconds a cell may take when run (120)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 something is wrong, 2 it could not be used so, 130 interrupted by
    Ctrl-C, 143 by SIGTERM, 141 when nobody reads what it prints any more (``| head``).
    """
    try:
        try:
            return _run(argv)
        finally:                                               # also after --help, which ends in SystemExit
            sys.stdout.flush()
    except BrokenPipeError:
        return _hush(141)
    except OSError as error:                                   # the last of what was printed, to a disk that is full
        return _hush(_refuse(f"what was printed cannot be written: {error.strerror or error}"))


def _hush(code: int) -> int:
    """Print no more: Python would try once again at its end, and complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):                              # standard output is no file, in a test or a notebook
        pass
    return code


def _run(argv: Sequence[str] | None) -> int:
    top = parser()
    given, rest = top.parse_known_args(argv)
    if rest and given.command != "bench":
        top.error(f"unrecognised: {' '.join(rest)}; minidiff {given.command or ''} --help shows what there is")
    if given.version:
        from minidiff import __version__
        print(f"minidiff {__version__}")
        return 0
    if given.command is None:
        top.print_help()
        return 2
    commands = {"doctor": _doctor, "draw": _draw, "personalise": _personalise, "notebooks": _notebooks,
                **dict.fromkeys(_HOMES, _elsewhere)}
    try:
        return _bench(rest) if given.command == "bench" else commands[given.command](given)
    except KeyboardInterrupt as stop:
        print("\nstopped", file=sys.stderr)
        return 143 if type(stop).__name__ == "Terminated" else 130
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "minidiff":
            raise
        return _refuse(f"{error.name} is not installed. `minidiff doctor` says how to mend it.")
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return _refuse(f"{error.filename or 'a file'}: {error.strerror or error}. Name a path that can be read and written.")
    except ValueError as error:
        from minidiff.errors import BadInput
        if not isinstance(error, BadInput):
            raise
        return _refuse(str(error))


def _refuse(message: str) -> int:
    print(f"minidiff: {message}", file=sys.stderr)
    return 2


def _doctor(given: argparse.Namespace) -> int:
    from minidiff.doctor import main as doctor
    return doctor()


def _draw(given: argparse.Namespace) -> int:
    from minidiff.errors import require
    from minidiff.files import replace
    from minidiff.show import pixels
    from minidiff.world import Scenes, render
    from minidiff.world.caption import parse
    out = Path(given.out)
    require(out.suffix.lower() in PICTURES, "--out", repr(given.out), f"a file that ends in {', '.join(PICTURES)}",
            f"--out {out.stem or 'picture'}.png")
    require(16 <= given.size <= 2048, "--size", given.size, "16 to 2048 pixels", "--size 256")
    require(given.seed >= 0, "--seed", given.seed, "a number from 0 up", "--seed 0")
    require(bool(given.caption.strip()), "CAPTION", repr(given.caption), "a caption", '"a red cat on the grass"')
    said = parse(given.caption)
    from PIL import Image
    buffer = io.BytesIO()
    if given.model:
        from minidiff.latent.sample import text_to_image
        from minidiff.zoo import load
        pipe = load(given.model)
        require(hasattr(pipe, "unet") and hasattr(pipe, "tokenizer"), "--model", f"{given.model!r}, a {type(pipe).__name__}",
                "a text-to-image pipeline", "--model mini-sd")
        picture = Image.fromarray(pixels(text_to_image(pipe, given.caption, seed=given.seed))[0])
        picture = picture.resize((given.size, given.size), Image.Resampling.BICUBIC)
    else:
        picture = Image.fromarray(pixels(render(Scenes.of([said.scene(given.seed)]), given.size).images)[0])
    picture.save(buffer, PICTURES[out.suffix.lower()])
    replace(out, buffer.getvalue())
    print(f"{out}: {given.caption}, seed {given.seed}, drawn by {given.model or 'the world itself'}")
    return 0


def _elsewhere(given: argparse.Namespace) -> int:
    home = _HOMES[given.command]
    return getattr(importlib.import_module(f"minidiff.{home}_command"), given.command)(given)


def _personalise(given: argparse.Namespace) -> int:
    from tqdm import tqdm

    from minidiff.errors import require
    from minidiff.personal.command import guess_class, personalise
    from minidiff.zoo import load
    out = Path(given.out or os.path.join("runs", "personal"))
    pipe = load(given.model)
    require(hasattr(pipe, "unet") and hasattr(pipe, "tokenizer"), "--model", f"{given.model!r}, a {type(pipe).__name__}",
            "a text-to-image pipeline", "--model mini-sd")
    class_word = given.class_word
    if class_word is None:
        class_word, agree, n = guess_class(given.folder, load("readers/final"))
        print(f"No --class is given: {class_word!r} is taken, which the reader sees in {agree} of {n} pictures. "
              "If it is something else, say so: --class WORD", flush=True)
    steps = personalise(pipe, given.folder, word=given.word, class_word=class_word, out=out,
                        method=given.method, iterations=given.iterations, rank=given.rank, prior=given.prior,
                        every=given.every, prompt=given.prompt, seed=given.seed)
    with tqdm(steps, total=given.iterations, unit="step", desc=given.word) as bar:
        for step in bar:
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
    print(f"{out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
    return 0


def _bench(rest: list[str]) -> int:
    from minidiff.bench import main as bench
    return bench(rest)


def _notebooks(given: argparse.Namespace) -> int:
    from minidiff.course.cells import refresh
    from minidiff.notebooks import check, find, run, tidy
    wrong = 0
    for book in find(given.files):
        if given.action in ("normalise", "exercises"):
            changed = tidy(book) if given.action == "normalise" else tidy(book, change=refresh)
            print(f"{book}: {'tidied' if changed else 'as it should be'}")
        elif given.action == "run":
            start = time.monotonic()
            run(book, timeout=given.timeout)
            print(f"{book}: ran in {time.monotonic() - start:.0f} s", flush=True)
        else:
            problems = check(book)
            wrong += len(problems)
            print("\n".join(f"{book}: {problem}" for problem in problems or ["as it should be"]))
    return int(wrong > 0)
