"""Floor 4: editing methods, one short file each, all on the engine of ``steer``."""

from minidiff.editing.blended import Blend

__all__ = ["Blend"]
