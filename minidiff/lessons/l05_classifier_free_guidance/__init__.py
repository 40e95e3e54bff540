"""Lesson 05: what its notebook imports."""

__all__: list[str] = []
