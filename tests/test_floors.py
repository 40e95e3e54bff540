"""The shape of the house: floors import downwards, modules are short and say what they offer, the top level is known."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minidiff"
MODULES = sorted(PACKAGE.rglob("*.py"))

BASE, TOP = -1, 8
FLOORS = {
    "errors": BASE, "guard": BASE, "rng": BASE, "files": BASE, "manifest": BASE, "silence": BASE,
    "world": 0, "show": 0,
    "nets": 1, "diffusion": 1, "train": 1, "measure": 1,
    "steer": 2,
    "latent": 3,
    "editing": 4, "personal": 4, "morphing": 4.5,              # morphs fit adapters to their pictures: on top of personal
    "zoo": 5, "recipes": 5,
    "course": 6,
    "lessons": 7,
    "colab": TOP,
    "bench": TOP, "bench_edits": TOP, "bench_peers": TOP, "bench_serve": TOP, "bench_settings": TOP, "bench_works": TOP,
    "notebooks": TOP, "notebook_form": TOP, "doctor": TOP, "cli": TOP, "options": TOP,
    "edit_command": TOP, "morph_command": TOP, "remake_command": TOP, "score_command": TOP, "course_command": TOP,
    "site_command": TOP, "train_command": TOP, "__main__": TOP,
}
MIXED = (BASE, 5, TOP)     # floors of single modules, which may import each other
TOP_LEVEL = {"notebooks", "minidiff", "data", "tests", "environment.yml", "README.md", "pyproject.toml", "constraints.txt",
             "Makefile", "LICENSE", "TEACHING.md", "tools", "CITATION.cff", ".ci", ".gitignore", ".gitattributes", ".github",
             ".devcontainer"}
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".bin"}
MACHINE_PATH = re.compile(r"(?<![\w.~:/\\*}\-])(?:/(?:home|Users|root|tmp|work|mnt)/|[A-Z]:\\)[\w.]+")


def imported(tree: ast.AST, module: tuple[str, ...], *, package: bool) -> set[tuple[str, ...]]:
    """What a module imports of minidiff, as dotted names in parts, wherever the import stands; relative ones resolved."""
    found: set[tuple[str, ...]] = set()
    here = module if package else module[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else ()
            base = (*start, *(node.module.split(".") if node.module else ()))
            if base == ("minidiff",):
                found |= {(*base, alias.name) for alias in node.names}
            else:
                found.add(base)
    return {name for name in found if name[0] == "minidiff"}


def trespasses(source: str, module: str, *, package: bool = False) -> list[str]:
    """The imports of a module that do not go down: sentences, none if all is well."""
    parts = tuple(module.split("."))
    if len(parts) < 2 or parts[1] not in FLOORS:
        return [] if parts == ("minidiff",) else [f"{module} is on no floor; give {parts[1]} one in tests/test_floors.py"]
    wrong = []
    for name in imported(ast.parse(source), parts, package=package):
        if len(name) == 1 or name[1] == "__version__":
            continue
        if name[1] not in FLOORS:
            wrong.append(f"{module} imports {'.'.join(name)} from the package's own front door; import it from its home")
            continue
        here, there = FLOORS[parts[1]], FLOORS[name[1]]
        beside = name[1] == parts[1] or here == there in MIXED
        if there >= here and not beside:
            wrong.append(f"{module} (floor {here}) imports {'.'.join(name)} (floor {there})")
    return wrong


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_imports_downwards(path: Path) -> None:
    assert not trespasses(path.read_text(), dotted(path), package=path.name == "__init__.py")


@pytest.mark.parametrize(("source", "module"), [
    ("from minidiff.train import fit", "minidiff.world.scene"),
    ("from ..train import fit", "minidiff.world.scene"),
    ("def f():\n    import minidiff.diffusion.sample", "minidiff.measure.reader"),
    ("from .. import train", "minidiff.world.scene"),
    ("from ..world import Scene", "minidiff.show.grid"),             # same floor, another folder
    ("from minidiff import Scene", "minidiff.nets.unet"),            # through the front door
    ("from ...cli import main", "minidiff.steer.maps.deep"),
    ("import os", "minidiff.attic.box"),
])
def test_an_upward_import_is_seen(source: str, module: str) -> None:
    assert len(trespasses(source, module)) == 1


@pytest.mark.parametrize(("source", "module", "package"), [
    ("from ..errors import BadInput", "minidiff.world.scene", False),
    ("from .scene import Scene", "minidiff.world", True),
    ("from .grid import tile\nimport numpy", "minidiff.show.picture", False),
    ("from . import __version__\nfrom .world import render", "minidiff.cli", False),
    ("from ..zoo import load", "minidiff.course.cards", False),
])
def test_a_downward_import_is_let_through(source: str, module: str, package: bool) -> None:
    assert not trespasses(source, module, package=package)


def test_no_circles() -> None:
    """Modules that import each other when they are loaded; imports inside functions do not count."""
    graph: dict[str, set[str]] = {}
    names = {dotted(path) for path in MODULES}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for function in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]:
            function.body = []
        typing_only = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
        tree.body = [n for n in tree.body if n not in typing_only]
        found = imported(tree, tuple(dotted(path).split(".")), package=path.name == "__init__.py")
        graph[dotted(path)] = {".".join(n) for n in found if ".".join(n) in names} - {dotted(path)}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name):], name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_is_short_and_says_what_it_offers(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    lines = len(source.splitlines())
    if "lessons" not in path.parts:                # a lesson's room is as long as its lesson; library files are short
        assert lines <= 250, f"{lines} lines; at most 250: split it by subject"
    assert ast.get_docstring(tree), "a module begins with a sentence that says what it is for"
    offered, defined = None, {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            for name in [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]:
                defined[name] = node
                if name == "__all__" and node.value is not None:
                    offered = [ast.literal_eval(item) for item in node.value.elts if not isinstance(item, ast.Starred)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[node.name] = node
        if isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name.split(".")[0]: node for alias in node.names}
    assert offered is not None, "no __all__ = [...]"
    assert len(offered) == len(set(offered)), "a name stands twice in __all__"
    for name in offered:
        assert name in defined, f"__all__ promises {name}, which is not here"
        if isinstance(defined[name], ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            assert ast.get_docstring(defined[name]), f"{name} is public and has no docstring"


def tracked() -> list[Path]:
    """The files that git has; all but the ignored ones where the course was unpacked without git."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        paths = [p for name in TOP_LEVEL for p in [ROOT / name, *(ROOT / name).rglob("*")] if "__pycache__" not in p.parts]
    return [path for path in paths if path.is_file()]


def test_top_level_holds_what_the_design_says() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_no_file_is_a_pickle_and_data_is_small() -> None:
    """At most 60 MB, and 15 more for the models of lessons 14 to 18."""
    files = tracked()
    assert not [str(path) for path in files if path.suffix in PICKLES], "pickles run code when opened: ship safetensors"
    sizes = {path.relative_to(ROOT): path.stat().st_size for path in files if path.relative_to(ROOT).parts[0] == "data"}
    later = sum(n for path, n in sizes.items() if path.parts[1] in ("mini-control", "mini-parasol", "parasol-tokens")
                or path.parent.name.endswith("-direction"))
    assert sum(sizes.values()) - later <= 60e6 and later <= 15e6, f"data/ holds {sum(sizes.values()) / 1e6:.0f} MB"


def test_no_file_names_a_place_on_one_machine() -> None:
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{path.relative_to(ROOT)}: {found.group()}" for found in MACHINE_PATH.finditer(text)]
    assert not wrong


def test_ruff_finds_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
