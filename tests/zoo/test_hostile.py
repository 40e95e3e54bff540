"""Hostile folders: no code of theirs runs, nobody is asked, the memory stays, and the error is ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "kit"))

from hostile import HOSTILE  # noqa: E402

# a word of the error that each family must give
SAYS = {"code": "code in", "pickle": "pickle", "index to": "names files that are not beside it", "link": "links out",
        "wide": "weights; expected", "deep": "at most", "long": "", "variant": "variant 'fp16'", "adapter": "adapter",
        "more words": "beyond the 299 vectors", "NaN": "NaN or infinite", "module": "parts of diffusers and transformers only"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("hostile")
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "tests/kit/hostile.py", str(place)], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_refused_and_does_nothing(found, case):
    one = found[case]
    assert one["ran"] is False, "its code has run"
    assert one["asked"] == [], "somebody was asked"
    assert one["error"] and not one["error"].startswith("RAW") and len(one["error"]) < 700, one["error"]
    assert "got" in one["error"] and "expected" in one["error"]
    said = [word for family, word in SAYS.items() if re.search(rf"\b{family}\b", case)
            and case not in ("remote code", "compiled code", "a pickle called safetensors")]
    assert all(word in one["error"] for word in said), one["error"]


def test_the_memory_stays_and_the_network_was_watched(found):
    assert found["memory"]["megabytes"] < 200
    assert found["control"]["asked"], "an id of the Hub does ask, and the watch sees it"
