"""Claims of lesson 07, each measured by a function of the sample size."""

from __future__ import annotations

__all__: list[str] = []
