"""Lesson 11: what its notebook imports."""

__all__ = []
