"""A notebook on disk keeps the still of a panel and not its live view, which no later kernel knows.

JupyterLab writes of a widget the number of a model that lives in the kernel, and prefers it to the picture beside it: whoever
opens the file the next day reads "Error displaying widget". This extension of the Jupyter server takes those numbers out of what
is about to be written. The open page stays live. Installing the package enables it (``jupyter/server.json`` beside this file).
"""

from __future__ import annotations

from typing import Any

__all__ = ["STATE", "VIEW", "without_views"]

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


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    server.contents_manager.register_pre_save_hook(without_views)
