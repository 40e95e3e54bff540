"""Floor 4: reading and steering what goes on inside a U-Net while it samples."""

from __future__ import annotations

from .record import Recorder
from .tap import Controller, Row, StepContext, Tap, rows_of

__all__ = ["Controller", "Recorder", "Row", "StepContext", "Tap", "rows_of"]
