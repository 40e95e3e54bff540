"""Stands in for the commands of the README in a fresh shell: what is cheap runs, what is not has its arguments checked.

Called as ``python readme_shims.py NAME ARGUMENT...``; exit code 0 if the real command would have taken the arguments.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

__all__ = ["check_command", "main"]

ROOT = Path(__file__).resolve().parents[2]
CHEAP = ("draw", "start")          # subcommands of minidiff that take a second or two


def _pip(arguments: list[str]) -> None:
    """pip install and uv pip install as the Makefile writes it: the constraints are there, the extra exists."""
    extra = re.fullmatch(r"--constraint (\S+) --editable \.\[(\w+)\]", " ".join(arguments))
    assert extra, f"not as in the Makefile: {arguments}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (ROOT / extra[1]).is_file() and extra[2] in project["optional-dependencies"], arguments


def _minidiff(arguments: list[str]) -> None:
    from minidiff.cli import parser
    given = parser().parse_args([a for a in arguments if a not in ("CLAIM", "ID")])
    if given.command == "train" and given.recipe:
        from minidiff.recipes import recipe
        recipe(given.recipe).plan(given.budget)
    elif given.command == "score":
        from minidiff.course.claims import ids_of
        assert ids_of(given.claims), arguments
    elif given.command == "edit":
        from minidiff.edit_command import METHODS
        from minidiff.latent.text import check_prompt
        from minidiff.zoo import load
        assert given.method in METHODS, arguments
        for prompt in (given.source, given.target):
            check_prompt(load(given.model).tokenizer, prompt)


def check_command(words: list[str]) -> None:
    """Raise unless the command would be taken: an argument nobody knows, a file, a recipe or a target that is not there."""
    name, *rest = words
    if name == "minidiff":
        _minidiff(rest)
    elif name == "make":
        make = shutil.which("make", path=os.defpath)               # not this stand-in again
        made = subprocess.run([make, "-n", "-C", str(ROOT), *rest], capture_output=True, text=True, timeout=30)
        assert made.returncode == 0, made.stderr
    elif name == "jupyter":
        assert rest[0] == "lab" and all((ROOT / folder).is_dir() for folder in rest[1:]), words
    elif name == "pip":
        assert rest[0] == "install", words
        _pip(rest[1:])
    elif name == "uv":
        if rest[:2] == ["pip", "install"]:
            _pip(rest[2:])
        elif rest[0] == "run":
            assert rest[1] == "--no-sync", "uv run would install what it likes"
            check_command(rest[2:])
        else:
            assert rest[:2] == ["venv", "--python"], words
            _version(rest[2])
    elif name == "conda":
        assert rest in (["env", "create", "-f", "environment.yml"], ["activate", "minidiff"]), words
        assert "name: minidiff" in (ROOT / "environment.yml").read_text()
    elif name == "py":
        assert rest[1:] == ["-m", "venv", ".venv"], words
        _version(rest[0].removeprefix("-"))
    elif name == "accelerate":
        from accelerate.commands.launch import launch_command_parser
        given = launch_command_parser().parse_args(rest[1:])
        assert rest[0] == "launch" and given.module and given.training_script == "minidiff", words
        _minidiff(given.training_script_args)
    else:
        raise AssertionError(f"nobody checks {name!r}")


def _version(text: str) -> None:
    assert text in ("3.11", "3.12", "3.13"), text


def main() -> None:
    """Run or check one command, then say which of the two it was."""
    words = sys.argv[1:]
    assert "IN_A_SHIM" not in os.environ, "a stand-in must not call a stand-in"
    os.environ["IN_A_SHIM"] = "1"
    if words[0] == "minidiff" and words[1] in CHEAP:
        sys.argv = words
        runpy.run_module("minidiff", run_name="__main__")
    check_command(words)
    print(f"checked: {' '.join(words)}", flush=True)
    os._exit(0)                    # nothing of the libraries' farewells


if __name__ == "__main__":
    main()
