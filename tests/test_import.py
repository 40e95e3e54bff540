"""``import minidiff`` is light and silent, and every name of its table is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import minidiff

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("diffusers", "transformers", "matplotlib", "ipywidgets", "scipy", "accelerate")


def fresh(code: str) -> str:
    """Run code in a new interpreter that turns every warning into an error; hand back what it printed, on either stream."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_import_loads_nothing_else_and_says_nothing() -> None:
    """Not even torch, which is what takes seconds: so the time of the import is bounded without a stopwatch."""
    code = "import sys; import minidiff; print([m for m in sys.modules if m.partition('.')[0] in {names}])"
    assert fresh(code.format(names=("torch", "numpy", *HEAVY))).strip() == "[]"


def test_every_export_comes_without_the_heavy_libraries() -> None:
    code = ("import sys, minidiff\nfor name in minidiff.__all__: getattr(minidiff, name)\n"
            f"print(sorted({{m.partition('.')[0] for m in sys.modules}} & {set(HEAVY)}))")
    assert fresh(code).strip() == "[]"


def test_a_network_of_our_own_is_loaded_and_samples_without_the_heavy_libraries() -> None:
    """The first cell of lessons 00 to 06 waits for none of them."""
    code = ("import sys, torch; from minidiff import ddim, last, load\n"
            "models = [load('pixel-ddpm'), load('readers/final')]\n"
            "last(ddim(models[0], torch.zeros(1, 3, 32, 32), steps=2))\n"
            f"print(sorted({{m.partition('.')[0] for m in sys.modules}} & {{*{HEAVY}, 'huggingface_hub'}}))")
    assert fresh(code).strip() == "[]"


@pytest.mark.parametrize("name", minidiff.EXPORTS)
def test_export_is_there_and_at_home(name: str) -> None:
    value = getattr(minidiff, name)
    assert name in dir(minidiff) and name in minidiff.__all__
    assert name in sys.modules[minidiff.EXPORTS[name]].__all__
    assert value is getattr(sys.modules[minidiff.EXPORTS[name]], name)


def test_the_parts_come_with_the_package() -> None:
    """`import minidiff; minidiff.show.grid` works without a second import, and every folder below the top is a part."""
    folders = {path.parent.name for path in (ROOT / "minidiff").glob("*/__init__.py")}
    assert folders - {"lessons", "recipes"} == set(minidiff.PARTS)
    assert fresh("import minidiff; print(minidiff.nets.UNet.__name__)").strip() == "UNet"


def test_an_unknown_name_is_an_attribute_error_that_helps() -> None:
    with pytest.raises(AttributeError, match="no 'scheduel'; it has .*Scene"):
        minidiff.scheduel  # noqa: B018


def test_the_version_is_the_projects() -> None:
    import tomllib
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == minidiff.__version__
    assert f"version: {minidiff.__version__}\n" in (ROOT / "CITATION.cff").read_text()
