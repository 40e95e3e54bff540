"""Claims of lesson 01, each measured by a function of the sample size."""

from __future__ import annotations

__all__: list[str] = []
