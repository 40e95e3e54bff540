"""A notebook on disk keeps the still of a panel and not its live view, which no later kernel knows.

JupyterLab writes of a widget the number of a model that lives in the kernel, and prefers it to the picture beside it: whoever
opens the file the next day reads "Error displaying widget". This extension of the Jupyter server takes those numbers out of what
is about to be written. The open page stays live. And a notebook of the course that was only opened is written as it was: what
JupyterLab would put in is the version of Python. Installing the package enables it (``jupyter/server.json`` beside this file).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["STATE", "VIEW", "as_on_disk", "without_views"]

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def without_views(model: dict[str, Any], **_: Any) -> None:
    """Take the live views out of a notebook that is about to be saved, but for those whose state is saved with it.

    model: what the server's contents manager writes, changed in place; anything but a notebook is left alone.
    """
    content = model.get("content")
    if model.get("type") != "notebook" or not isinstance(content, dict):
        return
    kept = content.get("metadata", {}).get("widgets", {}).get(STATE, {}).get("state", {})
    for cell in content.get("cells", []):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if VIEW in data and len(data) > 1 and data[VIEW].get("model_id") not in kept:
                del data[VIEW]


def as_on_disk(model: dict[str, Any], path: str = "", contents_manager: Any = None, **_: Any) -> None:
    """Keep what a notebook says of kernel and language while both stay, where they are in the committed form.

    model: what the server's contents manager writes to ``path``, changed in place. Notebooks that name a version of it
    are not the course's, and left alone.
    """
    content = model.get("content")
    if model.get("type") != "notebook" or not isinstance(content, dict) or contents_manager is None:
        return
    try:
        old = json.loads(Path(contents_manager._get_os_path(path)).read_text(encoding="utf-8"))["metadata"]
        new = content["metadata"]
        same = all(old[part]["name"] == new[part]["name"] for part in ("kernelspec", "language_info"))
        if same and set(old["language_info"]) == {"name"}:
            new.update(kernelspec=old["kernelspec"], language_info=old["language_info"])
    except (AttributeError, KeyError, OSError, TypeError, ValueError):     # a new file, or no notebook: nothing to keep
        return


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    for hook in (without_views, as_on_disk):
        server.contents_manager.register_pre_save_hook(hook)
