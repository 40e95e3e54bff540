"""``minidiff doctor``: what this machine has, what is missing or broken, and the one line that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from minidiff.files import data_folder
from minidiff.manifest import faults, files_below, models_in

__all__ = ["Finding", "examine", "main"]

ROOT = Path(__file__).resolve().parents[1]


class Finding(NamedTuple):
    """One thing looked at. state: "ok", "note" (works without it) or "broken"; mend: a command, empty where none is needed."""

    state: str
    text: str
    mend: str = ""


def _requirements() -> tuple[str, dict[str, list[str]]]:
    """The range of Pythons, and the requirements of the package ("core") and of its extras."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        import tomllib
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], {"core": project["dependencies"], **project["optional-dependencies"]}
    from packaging.requirements import Requirement

    meta = importlib.metadata.metadata("minidiff")
    groups: dict[str, list[str]] = {"core": []}
    extras = meta.get_all("Provides-Extra") or []
    for line in meta.get_all("Requires-Dist") or []:
        wanted = Requirement(line)
        group = next((e for e in extras if wanted.marker and wanted.marker.evaluate({"extra": e})), "core")
        groups.setdefault(group, []).append(f"{wanted.name}{wanted.specifier}")
    return meta["Requires-Python"], groups


def _python(wanted: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if SpecifierSet(wanted).contains(".".join(map(str, sys.version_info[:3])), prereleases=True):
        return Finding("ok", here)
    return Finding("broken", f"{here}; minidiff needs {wanted}", "make clean, then make lab PYTHON=python3.12")


def _packages(groups: dict[str, list[str]]) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    for group, lines in groups.items():
        if group not in ("core", "notebooks"):
            continue
        install = f"pip install --constraint constraints.txt --editable '.{'' if group == 'core' else f'[{group}]'}'"
        for wanted in map(Requirement, lines):
            try:
                version = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                what = "" if group == "core" else f" (only the {group} need it)"
                yield Finding("broken" if group == "core" else "note", f"{wanted.name} is not installed{what}", install)
                continue
            if wanted.specifier.contains(version, prereleases=True):
                yield Finding("ok", f"{wanted.name} {version}")
            else:
                yield Finding("broken", f"{wanted.name} {version} does not do; it must be {wanted.specifier}", install)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # whatever a damaged install raises, the doctor must go on to say what else is wrong
        yield Finding("broken", f"torch does not import: {type(error).__name__}: {error}", "make clean, then make lab")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    from minidiff.show import plural
    threads = plural(torch.get_num_threads(), "thread")
    yield Finding("ok", f"CPU: {plural(cores or 1, 'core')}, torch uses {threads}, {torch.backends.cpu.get_cpu_capability()}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(i)
            yield Finding("ok", f"cuda:{i}: {card.name}, {card.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "mps: Apple GPU")
    else:
        yield Finding("note", "no GPU that this torch can use; the course needs none")


def _model(folder: Path, name: str, data: Path) -> Iterator[Finding]:
    """Compare one folder with its card, file by file."""
    if wrong := faults(folder, data):
        again = "" if (ROOT / "pyproject.toml").is_file() else "install the package again; in a checkout: "
        strays = any("is not on the card" in said or "no plain file" in said for said in wrong)
        mend = f"git clean -fd -- {folder}; git checkout -- {folder}" if strays else f"git checkout -- {folder}"
        yield Finding("broken", f"{name}: {'; '.join(wrong)}", f"{again}{mend}   (or make it anew: minidiff train {name} --ship)")
    else:
        size = sum(path.stat().st_size for path in files_below(folder))
        yield Finding("ok", f"{name}: {f'{size / 1e6:.1f} MB' if size >= 1e5 else f'{size / 1e3:.0f} kB'}, as its card says")


def _models() -> Iterator[Finding]:
    data = data_folder()
    if not data.is_dir():
        yield Finding("broken", f"no folder {data}, where the models should be",
                      "work in a checkout of the course, or set MINIDIFF_DATA to its data folder")
        return
    carded = {data / name for name in models_in(data)}
    there = carded | {path.parent for path in data.rglob("*.safetensors") if not carded & set(path.parents)}
    for name in sorted(folder.relative_to(data).as_posix() for folder in there):
        yield from _model(data / name, name, data)
    if not there:
        yield Finding("broken", f"{data} holds no model", f"git checkout -- {data}")
    for name in _lost(data):
        yield Finding("broken", f"{name} has been deleted", f"git checkout -- {data / name}")


def _lost(data: Path) -> list[str]:
    """Files of the data folder that git has and the disk has not; empty where there is no git."""
    try:
        done = subprocess.run(["git", "ls-files", "--deleted", "-z", "."], cwd=data, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(filter(None, done.stdout.split("\0"))) if done.returncode == 0 else []


def examine() -> Iterator[tuple[str, Finding]]:
    """Look at everything: pairs of a heading and a finding. Never raises for what it finds broken."""
    if importlib.util.find_spec("packaging") is None:
        yield "packages", Finding("broken", "packaging is not installed; without it the others cannot be looked at",
                                  "pip install --constraint constraints.txt --editable .")
        return
    pythons, groups = _requirements()
    yield "Python", _python(pythons)
    for heading, findings in (("packages", _packages(groups)), ("devices", _devices()), ("models", _models())):
        for finding in findings:
            yield heading, finding


def main() -> int:
    """Print every finding with its remedy; 0 if all is well, 1 if something is broken."""
    from minidiff import __version__
    print(f"minidiff {__version__} in {ROOT}")
    last, broken = "", 0
    for heading, finding in examine():
        if heading != last:
            print(f"\n{heading}")
            last = heading
        mark = {"ok": "  ok      ", "note": "  note    ", "broken": "  BROKEN  "}[finding.state]
        print(mark + finding.text)
        if finding.mend:
            print(f"          mend: {finding.mend}")
        broken += finding.state == "broken"
    print("\nAll is well." if not broken else f"\n{broken} broken; the lines after 'mend' put it right.")
    return int(broken > 0)
