"""The package outside the checkout: what pyproject.toml puts into the wheel runs the README's first lines, offline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from minidiff.manifest import faults, in_part, read_card

ROOT = Path(__file__).resolve().parents[2]
TARGETS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
README = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]
OFFLINE = """
import socket
def nobody(*a, **k): raise OSError("no network")
socket.getaddrinfo = nobody
"""


@pytest.fixture
def site(tmp_path):
    """site-packages as the wheel's table fills it, without the environment's own minidiff."""
    place = tmp_path / "site"
    shutil.copytree(ROOT / "minidiff", place / "minidiff", ignore=shutil.ignore_patterns("__pycache__"))
    for here, there in TARGETS["wheel"]["force-include"].items():
        shutil.copytree(ROOT / here, place / there)
    return place


def run(code: str, site: Path, cwd: Path) -> subprocess.CompletedProcess:
    cwd.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in ("MINIDIFF_DATA", "PYTHONPATH")}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True,
                          env=env | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"})


def test_the_first_lines_of_the_readme_run_from_a_wheel(site, tmp_path):
    done = run(f"{OFFLINE}\n{README}\nprint(minidiff.__file__)", site, tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().startswith(str(site)) and (tmp_path / "elsewhere" / "samples.png").stat().st_size > 10_000


def test_what_a_wheel_lacks_is_an_error_whose_advice_works(site, tmp_path):
    code = OFFLINE + "import minidiff\ntry:\n    minidiff.load('mini-inpaint')\n" \
        "except minidiff.CheckpointError as error:\n    print(error)\n" \
        "from minidiff.doctor import _models\nprint([f.state for f in _models()])"
    done = run(code, site, tmp_path / "elsewhere")
    assert "MINIDIFF_DATA" in done.stdout and "mini-sd, pixel-ddpm, readers/final" in done.stdout, done.stdout + done.stderr
    assert "train" not in done.stdout and "['ok', 'ok', 'ok']" in done.stdout
    advice = f"import os\nos.environ['MINIDIFF_DATA'] = {str(ROOT / 'data')!r}\nimport minidiff\n" \
        "print(type(minidiff.load('mini-inpaint')).__name__)"
    assert "StableDiffusionPipeline" in run(advice, site, tmp_path / "elsewhere").stdout


def test_the_wheel_and_the_archive_of_sources_hold_whole_models():
    wheel, sources = (TARGETS[kind]["force-include"] for kind in ("wheel", "sdist"))
    assert {there.removeprefix("minidiff/"): here for here, there in wheel.items()} == {name: name for name in sources}
    assert all(here == there for here, there in sources.items()), "a wheel is also built from the archive"
    for here in wheel:
        assert faults(ROOT / here, ROOT / "data") == [] and not in_part(read_card(ROOT / here))
    assert set(re.findall(r'load\("([^"]+)"', README)) <= {here.removeprefix("data/") for here in wheel}
