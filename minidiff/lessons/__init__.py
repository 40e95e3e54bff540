"""The lessons, one folder each: exercises, panels and claims of a notebook. They are found by looking into this folder."""

__all__: list[str] = []
