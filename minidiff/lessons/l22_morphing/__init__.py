"""Lesson 22: what its notebook imports."""

__all__: list[str] = []
