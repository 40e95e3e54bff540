"""The code cells of a page in one kernel: from the top, and then each of them twice more, in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

__all__ = ["broken_cells"]


@contextmanager
def _kernel(folder: Path):
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder))
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _error(client: Any, source: str, timeout: float) -> str:
    """What running ``source`` raised, "" if nothing. Errors inside the callback of a widget count as well."""
    inside: list[str] = []

    def listen(message: dict[str, Any]) -> None:
        content = message["content"]
        outputs = content.get("data", {}).get("state", {}).get("outputs", []) if message["msg_type"] == "comm_msg" else []
        inside.extend(f"{o['ename']} in a widget: {o['evalue']}" for o in outputs if o["output_type"] == "error")

    reply = client.execute_interactive(source, timeout=timeout, allow_stdin=False, output_hook=listen)["content"]
    found = [f"{reply['ename']}: {reply['evalue']}"] if reply["status"] == "error" else inside
    return found[0].splitlines()[0] if found else ""


def broken_cells(sources: Sequence[str], folder: Path, *, seed: int = 0, timeout: float = 600.0) -> list[str]:
    """Run the cells from the top, then backwards, then shuffled by ``seed``: "order, cell, error" for each that failed.

    Where the first way down fails the others are not begun: what follows from a missing name says nothing.
    """
    down = range(len(sources))
    orders = {"from the top": down, "backwards": down[::-1], "shuffled": random.Random(seed).sample(down, len(down))}
    found: list[str] = []
    with _kernel(folder) as client:
        for order, numbers in orders.items():
            for i in numbers:
                if error := _error(client, sources[i], timeout):
                    found.append(f"{order}, code cell {i + 1} ({sources[i].strip().splitlines()[0][:60]}): {error}")
            if found:
                return found
    return found
