"""One set of requirements: pyproject.toml says what, constraints.txt which versions, and everything else asks for these."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from minidiff.bench_peers import PEERS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
PYTHONS = ["3.11", "3.12", "3.13"]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "a constraint is NAME==VERSION"
    return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}


def requirements() -> list[tuple[str, str]]:
    """(name, lower bound) of everything that pyproject.toml asks for, in lower case."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    lines = [line for group in groups for line in group if not line.startswith("minidiff[")]
    return [(name.strip().lower(), bound.strip()) for name, bound in (line.split(">=") for line in lines)]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


@pytest.mark.parametrize(("name", "bound"), requirements())
def test_every_requirement_is_pinned_above_its_lower_bound(name: str, bound: str) -> None:
    assert numbers(pins()[name]) >= numbers(bound)


OTHERS = ROOT / "minidiff/bench_works.py"        # the one module that runs other libraries, in environments of their own


def imported(paths: Iterable[Path]) -> set[str]:
    """What these modules import from outside the standard library, at the top or inside a function."""
    found: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return {{"PIL": "pillow"}.get(name, name) for name in found} - sys.stdlib_module_names - {"minidiff"}


def test_what_is_declared_is_imported_and_what_is_imported_is_declared() -> None:
    """Packages of the test extra serve the tests alone: scipy is an oracle there, and no part of the package. What the peers'
    bench runs is declared in its table, with the version, and imported there only."""
    core, notebooks = ({line.partition(">=")[0] for line in group}
                       for group in (PROJECT["dependencies"], PROJECT["optional-dependencies"]["notebooks"]))
    brought = {"huggingface_hub", "tokenizers", "traitlets", "IPython", "google"}      # of transformers, ipykernel; Colab
    found = imported(path for path in (ROOT / "minidiff").rglob("*.py") if path != OTHERS)
    assert core <= found and found <= core | notebooks | brought
    peers = [packages[0].partition("==") for packages in PEERS.values()]
    assert imported([OTHERS]) - found == {name.replace("-", "_") for name, _, _ in peers} and all(v for _, _, v in peers)
    assert "scipy" in {line.partition(">=")[0] for line in PROJECT["optional-dependencies"]["test"]}


def test_torch_is_the_one_that_was_tested_and_brings_no_sister() -> None:
    assert pins()["torch"] == "2.13.0"
    assert not {"torchvision", "torchaudio"} & {*pins(), *(name for name, _ in requirements())}


def test_the_test_extra_holds_the_notebooks_extra() -> None:
    assert "minidiff[notebooks]" in PROJECT["optional-dependencies"]["test"]


def test_conda_installs_the_extras_that_make_installs() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    assert conda["name"] == PROJECT["name"]
    *plain, nested = conda["dependencies"]
    assert plain == [f"python{PROJECT['requires-python']}", "pip"], "everything else comes through pip, from pyproject.toml"
    asked = set(re.findall(r"--editable '(\.\[\w+\])'", MAKEFILE))
    assert asked == {".[notebooks]", ".[test]"}
    assert nested == {"pip": ["--constraint constraints.txt", "--editable .[test]"]}      # and test holds notebooks, see above


def test_one_range_of_pythons_everywhere() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert [c.split()[-1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)] == PYTHONS
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    assert jobs["pinned"]["strategy"]["matrix"]["python"] == PYTHONS
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in MAKEFILE


def test_the_workflow_runs_make_test_and_weekly_the_newest() -> None:
    flow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    runs = {name: [step["run"] for step in job["steps"] if "run" in step][0] for name, job in flow["jobs"].items()}
    assert runs == {"pinned": "make test PYTHON=python", "newest": "make test PYTHON=python CONSTRAINTS="}
    assert flow[True]["schedule"], "YAML reads the key `on` as true"


def test_continuous_integration_runs_all_and_the_training_tests_in_both_precisions() -> None:
    script = (ROOT / ".ci/run").read_text()
    _, _, again = script.partition("make --no-print-directory test\n")
    assert "for precision in bf16 float32; do\n    MINIDIFF_PRECISION=$precision make --no-print-directory test ARGS=" in again
    assert (ROOT / re.search(r"ARGS=(\S+)\n", again).group(1)).is_dir()


def test_codespaces_sets_up_with_make() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make setup"
    assert container["image"].rpartition(":")[2] in PYTHONS


def plan(target: str, venv: Path, *more: str) -> str:
    """What make would do, without doing it."""
    done = subprocess.run(["make", "-n", "--no-print-directory", target, f"VENV={venv}", *more],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ready(venv: Path, *more: str) -> str:
    """The name of the stamp that make would leave in a new environment."""
    return re.search(r"ready-test-\d+", plan("test", venv, *more)).group()


def test_make_installs_once_and_again_when_the_requirements_change(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    assert "pip install" in plan("test", tmp_path) and "pip install" in plan("lab", tmp_path)
    stamp = ready(tmp_path)
    (tmp_path / f".{stamp}").touch()
    (tmp_path / f".{stamp.replace('test', 'notebooks')}").touch()
    assert "pip" not in plan("test", tmp_path) + plan("lab", tmp_path)
    assert ready(tmp_path / "other", "CONSTRAINTS=") != stamp, "other constraints, other stamp"
    assert "pip install" in plan("test", tmp_path, "CONSTRAINTS=")


def test_make_uses_the_constraints_and_refuses_an_unfit_python(tmp_path: Path) -> None:
    assert "--constraint constraints.txt --editable '.[test]'" in plan("test", tmp_path)
    done = subprocess.run(["make", "setup", f"VENV={tmp_path}/venv", "PYTHON=false"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "No Python 3.11, 3.12 or 3.13 found" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_lab_asks_no_one_for_news() -> None:
    from jupyterlab.handlers.announcements import NeverCheckForUpdate  # noqa: F401  the class that the Makefile names
    recipe = plan("lab", ROOT / ".venv")
    assert "--LabApp.news_url=None" in recipe and "announcements.NeverCheckForUpdate" in recipe


def torch_index() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("torch_index", ROOT / "tools/torch_index.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("wanted", "linux", "gpu", "chosen", "answers", "small", "said"), [
    ("auto", True, False, False, True, True, "the CPU build"), ("auto", True, True, False, True, False, "the build with CUDA"),
    ("cpu", True, True, False, True, True, "the CPU build"), ("cuda", True, False, False, True, False, "the build with CUDA"),
    ("auto", True, False, False, False, False, "does not answer"), ("auto", False, False, False, True, False, ""),
    ("cpu", True, False, True, True, False, "")])
def test_without_a_gpu_make_takes_the_small_torch(wanted: str, linux: bool, gpu: bool, chosen: bool, answers: bool, small: bool,
                                                  said: str) -> None:
    tool, asked = torch_index(), []
    index, sentence = tool.choose(wanted, linux=linux, gpu=gpu, chosen=chosen, answers=lambda url: asked.append(url) or answers)
    assert index == (tool.CPU_INDEX if small else "") and said in sentence and bool(sentence) == bool(said)
    assert asked == [f"{tool.CPU_INDEX}/torch/"] * (small or "answer" in said), "the network is asked only where it decides"
    with pytest.raises(SystemExit, match="TORCH=gpu: expected auto, cpu or cuda"):
        tool.choose("gpu", linux=True, gpu=False, chosen=False, answers=asked.append)


def test_make_shows_what_it_fetches_and_asks_which_torch(tmp_path: Path) -> None:
    recipe = plan("lab", tmp_path, "TORCH=cpu")
    assert "--quiet" not in recipe and "GB on the disk" in recipe and "tools/torch_index.py cpu" in recipe
    assert recipe.index("torch_index.py") < recipe.index('--extra-index-url "$index" torch') < recipe.index("--editable")
    assert torch_index().CPU_INDEX in (ROOT / "README.md").read_text(encoding="utf-8")
