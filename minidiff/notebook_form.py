"""What nbformat 4 demands of the cells of a notebook, asked before anything is done with them."""

from __future__ import annotations

from typing import Any

__all__ = ["well_formed"]


def well_formed(cell: Any) -> bool:
    """Whether a cell and its outputs have what nbformat 4 demands of them."""
    def text(value: Any) -> bool:
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))

    def output(one: Any) -> bool:
        if not isinstance(one, dict) or not isinstance(one.get("metadata", {}), dict):
            return False
        kind = one.get("output_type")
        if kind == "stream":
            return isinstance(one.get("name"), str) and text(one.get("text"))
        if kind == "error":
            return isinstance(one.get("ename"), str) and isinstance(one.get("evalue"), str) and text(one.get("traceback"))
        return kind in ("display_data", "execute_result", "update_display_data") and isinstance(one.get("data"), dict)

    return (isinstance(cell, dict) and cell.get("cell_type") in ("code", "markdown", "raw") and text(cell.get("source"))
            and isinstance(cell.get("metadata", {}), dict) and isinstance(cell.get("outputs", []), list)
            and all(map(output, cell.get("outputs", []))))
