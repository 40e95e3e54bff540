"""``python -m minidiff`` is the command ``minidiff``; ``accelerate launch -m minidiff train RECIPE`` comes in here too."""

from __future__ import annotations

import sys

from minidiff.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
