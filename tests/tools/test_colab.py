"""The first cell of a notebook on Google Colab: that it works there, and what it says where it cannot."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import minidiff
from minidiff.colab import ADDED, KEPT, REPOSITORY, SETUP_CELL, TAG, needs, prepare

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], BaseException | None]]:
    """Run a cell as Colab does, in an empty folder and without any package index; gives the error that ended it, or None."""
    from IPython.core.interactiveshell import InteractiveShell

    google, module, output = types.ModuleType("google"), types.ModuleType("google.colab"), types.ModuleType("google.colab.output")
    output.enable_custom_widget_manager = lambda: enabled.append(True)
    google.colab, module.output = module, output
    enabled: list[bool] = []
    for name, fake in (("google", google), ("google.colab", module), ("google.colab.output", output)):
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "0")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "content").mkdir()
    monkeypatch.chdir(tmp_path / "content")
    shell = InteractiveShell.instance()

    def run(cell: str) -> BaseException | None:
        done = shell.run_cell(cell)
        return done.error_before_exec or done.error_in_exec

    run.enabled = enabled
    yield run
    InteractiveShell.clear_instance()


def repository(folder: Path, tag: str) -> str:
    """A repository with the package's front door and one tag."""
    (folder / "minidiff").mkdir(parents=True)
    for name in ("__init__.py", "colab.py"):
        shutil.copy(ROOT / "minidiff" / name, folder / "minidiff")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"], ["tag", tag]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True)
    return folder.as_uri()


def test_it_fetches_the_course_once_and_lets_the_page_show_widgets(tmp_path: Path, colab: Any) -> None:
    cell = SETUP_CELL.replace(REPOSITORY, repository(tmp_path / "there", TAG))
    assert colab(cell) is None and Path("minidiff-course/minidiff/colab.py").is_file()
    assert sys.path[0] == str(Path("minidiff-course").resolve())
    shutil.rmtree(tmp_path / "there")
    assert colab(cell) is None, "a second time it needs no network"
    assert colab.enabled == [True, True]


@pytest.mark.parametrize(("tag", "words"), [(None, "does not (appear to be a git repository|exist)"),
                                            ("v9", f"{TAG}.*not found")])
def test_it_says_why_the_course_could_not_be_fetched(tmp_path: Path, colab: Any, tag: str | None, words: str,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    address = (tmp_path / "nowhere").as_uri() if tag is None else repository(tmp_path / "there", tag)
    error = colab(SETUP_CELL.replace(REPOSITORY, address))
    assert isinstance(error, RuntimeError), "run all stops here"
    assert address in str(error) and "git says why above" in str(error) and not colab.enabled
    assert re.search(words, "".join(capfd.readouterr()))


def test_it_says_why_a_package_could_not_be_installed(colab: Any) -> None:
    with pytest.raises(RuntimeError, match=r"Run this cell again[\s\S]*No matching distribution found for minidiff-none"):
        prepare(["minidiff-none>=1"])
    assert not colab.enabled


def test_it_does_nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.chdir(tmp_path)
    plain = InteractiveShell.instance().transform_cell(SETUP_CELL)
    InteractiveShell.clear_instance()
    exec(compile(plain, "setup", "exec"), {"get_ipython": lambda: pytest.fail("it touched the machine outside Colab")})
    assert list(tmp_path.iterdir()) == []


def test_what_colab_is_built_on_stays_as_it_is(colab: Any) -> None:
    with pytest.raises(RuntimeError, match=r"could not install numpy<1\.[\s\S]*(conflict|constraint)"):
        prepare(["numpy<1"])
    assert not colab.enabled


def test_it_asks_for_what_the_package_asks_for() -> None:
    wanted = {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["notebooks"]}
    names = [line.partition(">=")[0] for line in needs()]
    assert sorted(names) == sorted(ADDED) and set(needs()) <= wanted
    there = {"filelock", "packaging", "psutil", "tqdm",
             "ipykernel", "ipywidgets", "jupyterlab", "nbclient", "nbconvert", "nbformat"}
    assert {line.partition(">=")[0] for line in wanted} - {*ADDED, *KEPT} <= there, "Colab has these, or does without"


def tracked() -> list[Path]:
    """Every text file of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    kinds = {".py", ".md", ".ipynb", ".toml", ".cff", ".yml", ".json", ".txt", ".html", ""}
    return [ROOT / name for name in listed if Path(name).suffix in kinds and (ROOT / name).is_file()]


def test_all_places_agree_on_the_address_and_on_the_release() -> None:
    owner = REPOSITORY.removeprefix("https://github.com/")
    links = re.compile(r"(?:github\.com|colab\.research\.google\.com/github|codespaces\.new|raw\.githubusercontent\.com|"
                       r"nbviewer\.org/github)/([\w.-]+/[\w.-]+)")
    for path in tracked():
        for found in links.findall(path.read_text(encoding="utf-8", errors="replace")):
            assert "minidiff" not in found or found.removesuffix(".git") == owner, f"{path.relative_to(ROOT)}: {found}"
    assert all(address.startswith(REPOSITORY) for address in PROJECT.get("urls", {}).values())
    citation = (ROOT / "CITATION.cff").read_text()
    assert all(address == REPOSITORY for address in re.findall(r"^(?:repository-code|url): (.*)$", citation, re.M))
    assert TAG == f"v{minidiff.__version__}" and f"version: {minidiff.__version__}\n" in citation
