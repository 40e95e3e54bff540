"""Says where pip finds the build of torch that this machine can use: python tools/torch_index.py [auto|cpu|cuda].

Prints the address of PyTorch's index of CPU builds, or nothing where PyPI's own build is right (macOS, Windows, an NVIDIA GPU,
an index chosen with PIP_EXTRA_INDEX_URL). PyPI's build for Linux brings gigabytes of CUDA with it. On stderr: what was decided.
"""

from __future__ import annotations

import os
import shutil
import sys
import urllib.request
from collections.abc import Callable

__all__ = ["CPU_INDEX", "choose", "reachable"]

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def reachable(url: str) -> bool:
    """True if a page answers within five seconds."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, ValueError):
        return False


def choose(wanted: str, *, linux: bool, gpu: bool, chosen: bool, answers: Callable[[str], bool]) -> tuple[str, str]:
    """(address or "", a sentence). wanted: auto, cpu or cuda; chosen: pip has another index already; answers: reachable."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise SystemExit(f"TORCH={wanted}: expected auto, cpu or cuda, such as make lab TORCH=cpu")
    if not linux or chosen:
        return "", ""
    if wanted == "cuda" or (wanted == "auto" and gpu):
        return "", "torch: the build with CUDA, some gigabytes (make lab TORCH=cpu takes the small one)"
    if answers(f"{CPU_INDEX}/torch/"):
        return CPU_INDEX, "torch: the CPU build, about 200 MB (make lab TORCH=cuda takes the one with CUDA)"
    return "", f"torch: {CPU_INDEX} does not answer, so PyPI's build is taken, which may bring gigabytes of CUDA"


def main() -> None:
    """Print the address on stdout and the sentence on stderr."""
    index, said = choose(sys.argv[1] if len(sys.argv) > 1 else "auto", linux=sys.platform == "linux",
                         gpu=bool(shutil.which("nvidia-smi")) or os.path.exists("/dev/nvidia0"),
                         chosen=bool(os.environ.get("PIP_EXTRA_INDEX_URL")), answers=reachable)
    if said:
        print(said, file=sys.stderr)
    print(index)


if __name__ == "__main__":
    main()
