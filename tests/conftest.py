"""Set before anything imports torch: one thread a worker, no model hub, no display. And no connection off this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "MPLBACKEND": "Agg"}
for word in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"):      # tests run make afresh
    os.environ.pop(word, None)

ROOT = Path(__file__).resolve().parents[1]
_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: object) -> None:
    """Tests reach this machine only; one that reaches out fails, also where a network happens to be."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"a test tried to reach {address}; the course works without a network")
    return _connect(self, address)


socket.socket.connect = _connect_here


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT
