"""Floor 4: editing methods, one short file each, all on the engine of ``steer``."""

from minidiff.editing.blended import Blend
from minidiff.editing.result import EditResult, Source, anchors, source_of
from minidiff.editing.self_guidance import look, self_guidance

__all__ = ["Blend", "EditResult", "Source", "anchors", "look", "self_guidance", "source_of"]
