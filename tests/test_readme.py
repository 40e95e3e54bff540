"""The README as a visitor takes it: every block runs in a fresh shell as it stands, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from readme_shims import check_command

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEACHING = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
SPANS = sorted({span for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S))
                if re.match(r"(minidiff|make|accelerate|conda|uv|pip|jupyter) ", span)})
SHIMS = ("make", "uv", "conda", "py")                          # on every machine that has them
INSIDE = ("minidiff", "jupyter", "accelerate", "pip")          # in the environment alone
LEADS = ("https://docs.astral.sh/uv/", "https://download.pytorch.org/whl/cpu")      # looked at on 2026-11-26


def blocks(*languages: str) -> list[str]:
    return [text for language, text in BLOCKS if language in languages]


def environment(folder: Path) -> dict[str, str]:
    """A fresh shell's variables: nothing of this test's own but where the package and the processor are."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MINIDIFF_", "LC_", "LANG", "HOME"))}
    return kept | {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "BASH_ENV": str(folder / "profile")}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like a checkout whose environment is set up: commands lie where activation finds them, and nowhere else."""
    for place, names in (("bin", SHIMS), (".venv/bin", INSIDE)):
        (tmp_path / place).mkdir(parents=True)
        for name in names:
            shim = tmp_path / place / name
            shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/kit/readme_shims.py" {name} "$@"\n')
            shim.chmod(0o755)
    activate = f"PATH={tmp_path}/.venv/bin:$PATH"
    (tmp_path / ".venv/bin/activate").write_text(f"{activate}\n")
    (tmp_path / "profile").write_text(f'conda() {{ command conda "$@"; if [ "$1" = activate ]; then {activate}; fi; }}\n')
    return tmp_path


def test_there_are_blocks_of_each_kind_and_of_no_other() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh", "bat"}
    assert README.count("```") == 2 * len(BLOCKS)
    assert "mini-sd" in blocks("python")[0], "the first example shows the strongest model"


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_block_runs_in_a_fresh_process(number: int, checkout: Path) -> None:
    text = blocks("python")[number]
    done = subprocess.run([sys.executable, "-c", text], cwd=checkout, env=environment(checkout), capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    for name in re.findall(r'save\("([^"]+)"\)', text):
        with Image.open(checkout / name) as made, Image.open(ROOT / "data" / name) as shown:
            assert made.size == shown.size, "the README shows what its block draws: python tools/readme_pictures.py"
    assert all(len(line) <= 130 for line in text.splitlines())


@pytest.mark.parametrize("number", range(len(blocks("sh"))))
def test_shell_block_runs_as_it_stands(number: int, checkout: Path) -> None:
    text = blocks("sh")[number]
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=checkout, env=environment(checkout), capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    for name in re.findall(r"^minidiff draw .* -o (\S+\.png)", text, re.M):
        assert (checkout / name).stat().st_size > 1000


def test_the_block_for_windows() -> None:
    for text in blocks("bat"):
        for line in text.strip().splitlines():
            if line != r".venv\Scripts\activate":
                check_command(shlex.split(line))


@pytest.mark.parametrize("span", SPANS)
def test_a_command_in_the_text_would_be_taken(span: str) -> None:
    check_command(shlex.split(span.partition("#")[0]))


@pytest.mark.parametrize("wrong", [
    "minidiff trian x", "minidiff train pixel-ddmp", "minidiff score 99.x", "minidiff edit p2p 'a cat' 'a dog' --out x",
    "minidiff edit prompt-to-prompt 'a zebra' 'a dog' --out x", "make lob", "jupyter lab books", "conda activate other", "curl x",
    "pip install minidiff", "uv pip install --constraint constraints.txt --editable .[all]", "uv run jupyter lab notebooks",
    "uv venv --python 3.9", "py -2.7 -m venv .venv", "accelerate launch -m minidiff trian pixel-ddpm"])
def test_a_wrong_command_is_seen(wrong: str) -> None:
    with pytest.raises((AssertionError, SystemExit, ValueError)):
        check_command(shlex.split(wrong))


def test_links_and_pictures_are_there() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README) + re.findall(r"<(?:img|a)[^>]+(?:src|href)=\"([^\"]+)\"", README)
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 10 and not [target for target in local if not (ROOT / target.partition("#")[0]).exists()]
    assert set(re.findall(r"https?://[^\s)`>]+", README)) <= set(LEADS), "an address that nobody has looked at"
    alts = re.findall(r"!\[([^\]]*)\]", README)
    assert len(alts) >= 2 and all(len(alt) > 30 for alt in alts)


def test_what_a_visitor_reads_first_is_short() -> None:
    """The scoreboard is a page of its own; what stands here is at most a fifth of the text."""
    board = README[README.index("<!-- scoreboard"):README.index("<!-- /scoreboard")]
    assert len(board) < 0.25 * len(README) < 6000 and README.index("make lab") < 3500


SAID = [    # words of the README with N where a number stands; row; where in the row; factor and decimals it is printed with
    ("The autoencoder reaches N dB", "07.psnr", "value", 1, 1), ("read with confidence in N %", "02.readable", "value", 100, 0),
    ("explains every part of the picture, are N %", "02.validity", "value", 100, 0),
    ("colour asked for in N %", "05.as_asked", "value", 100, 0),
    ("right in kind, colour and backdrop in N %", "08.one_thing", "value", 100, 0),
    ("N % in pairs of kind and colour", "08.held_out", "value", 100, 0),
    ("its colour on its side in N %", "08.two_things", "value", 100, 0),
    ("its guess is worse for N %", "08.relation", "value", 100, 0), ("N % of the maxima", "08.noun_inside", "value", 100, 0),
    ("IoU N at the 8 x 8 site", "08.noun_iou", "value", 1, 2), ("site; N % and", "08.noun_inside", "best 16x16 site", 100, 0),
    ("and N at the best 16 x 16 site", "08.noun_iou", "best 16x16 site", 1, 2), ("Layout (IoU N)", "08.layout", "value", 1, 2),
    ("undecided (ratio N", "08.seam", "value", 1, 2), ("asked in N % (pasted", "08.inpaint", "value", 100, 0),
    ("pasted without tinting: N %", "08.inpaint", "pasted as it is", 100, 0),
    ("enlarging by two gains N dB", "08.upscale_x2", "value", 1, 1), ("by four N dB", "08.upscale_x4", "value", 1, 1),
]


@pytest.mark.parametrize(("words", "id", "where", "factor", "decimals"), SAID, ids=[words for words, *_ in SAID])
def test_what_the_readme_says_of_a_model_is_its_row(words: str, id: str, where: str, factor: float, decimals: int) -> None:
    from minidiff.course import stored
    text, row = " ".join(README.split()), stored()[id]
    found = re.findall(re.escape(words).replace("N", r"(-?[\d.]+)", 1), text)
    want = row.value if where == "value" else (row.settings | row.baseline)[where]
    assert len(found) == 1 and abs(float(found[0]) - factor * want) <= 0.5 * 10**-decimals + 1e-9, (found, factor * want)


def test_the_notebooks_that_are_there_stand_in_the_course() -> None:
    named = re.findall(r"\(notebooks/([^)]+\.ipynb)\)", README)
    assert sorted(named) == sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def test_the_instructors_page_holds_commands_that_exist_and_an_exercise_that_works() -> None:
    from minidiff.course.checking import check
    from minidiff.course.tasks import EXERCISES, exercises
    counts = Counter(id[:2] for id in exercises())
    assert counts.pop("23") == 6 and "(the last one six, three of them projects)" in TEACHING
    words = "seven eight nine ten eleven twelve thirteen fourteen".split()
    least, most = (words[end(counts.values()) - 7] for end in (min, max))
    assert f"has {least} to {most} exercises" in TEACHING
    for text in re.findall(r"^```sh\n(.*?)^```$", TEACHING, re.M | re.S):
        for line in text.strip().splitlines():
            check_command(shlex.split(line.partition(">")[0]))
    for span in re.findall(r"`(minidiff [^`]+)`", TEACHING):
        check_command(shlex.split(span))
    text = re.search(r"^```python\n(.*?)^```$", TEACHING, re.M | re.S)[1]
    space: dict[str, object] = {}
    try:
        exec(text, space)
        assert check("02.twice", lambda x: x + x).state == "correct" and check("02.twice", lambda x: x).state == "wrong"
    finally:
        EXERCISES.pop("02.twice", None)
    ours = "\n".join(line for line in TEACHING.splitlines() if "nbgrader generate_assignment" not in line)
    for name in re.findall(r"--(\w+)", ours):
        assert f'"--{name}"' in (ROOT / "minidiff/course_command.py").read_text(encoding="utf-8"), name
