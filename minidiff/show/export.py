"""Pages made by nbconvert say what their pictures show and draw their formulas by themselves.

Its own templates leave alternative texts out, and fetch a script from the network for every formula. Installing the package puts
:class:`AltText` and :class:`Formulas` into nbconvert's settings, and into those of JupyterLab for *Save and Export*.
"""

from __future__ import annotations

import html
import re
from typing import Any

from nbconvert.preprocessors import Preprocessor

from minidiff.errors import BadInput
from minidiff.show.mathml import mathml

__all__ = ["AltText", "Formulas", "formulas"]

CODE_OR_FORMULA = re.compile(r"(?P<code>^ *(`{3,}|~{3,}).*?^ *\2`*|(`+)(?!`).+?(?<!`)\3(?!`))"
                             r"|(?<!\\)\$\$(?P<block>.+?)(?<!\\)\$\$|(?<![\\$])\$(?P<inline>.+?)(?<![$\\])\$", re.S | re.M)


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


class Formulas(Preprocessor):
    """Writes the formulas of text cells as MathML; one that minidiff.show.mathml does not know is left to the page's script."""

    def preprocess_cell(self, cell: Any, resources: dict[str, Any], index: int) -> tuple[Any, dict[str, Any]]:
        """Called by nbconvert for every cell of a copy of the notebook."""
        if cell.cell_type == "markdown":
            cell.source = formulas(cell.source)
        return cell, resources


def formulas(text: str) -> str:
    """Markdown with its formulas as MathML; those outside the subset, and all code, as they are."""
    return CODE_OR_FORMULA.sub(_formula, text)


def _formula(found: re.Match[str]) -> str:
    if found["code"]:
        return found[0]
    try:
        return mathml(found["block"] or found["inline"], display=bool(found["block"]))
    except BadInput:
        return found[0]
