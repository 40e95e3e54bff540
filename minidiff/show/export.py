"""Pages made by nbconvert say what their pictures show: its own templates leave alternative texts out.

Installing the package puts :class:`AltText` into nbconvert's settings, and into those of JupyterLab for *Save and Export*.
"""

from __future__ import annotations

import html
from typing import Any

from nbconvert.preprocessors import Preprocessor

__all__ = ["AltText"]


class AltText(Preprocessor):
    """Writes each PNG that has an alternative text as an HTML image with that text, which every HTML template takes as it is."""

    def preprocess_cell(self, cell: Any, resources: dict[str, Any], index: int) -> tuple[Any, dict[str, Any]]:
        """Called by nbconvert for every cell of a copy of the notebook."""
        for output in cell.get("outputs", []):
            words = output.get("metadata", {}).get("image/png", {})
            if "image/png" in output.get("data", {}) and words.get("alt"):
                sizes = "".join(f' {name}="{int(words[name])}"' for name in ("width", "height") if name in words)
                source = output["data"].pop("image/png").replace("\n", "")
                output["data"]["text/html"] = (f'<img src="data:image/png;base64,{source}"{sizes} '
                                               f'alt="{html.escape(words["alt"])}">')
        return cell, resources
