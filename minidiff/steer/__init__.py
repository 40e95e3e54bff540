"""Floor 4: reading and steering what goes on inside a U-Net while it samples."""

from __future__ import annotations

from minidiff.steer.record import Recorder
from minidiff.steer.tap import Hook, Row, StepContext, Tap, rows_of

__all__ = ["Hook", "Recorder", "Row", "StepContext", "Tap", "rows_of"]
