"""The scoreboard: claims, rows, and the table in the README."""

from .core import CLAIMS, Claim, Outcome, Row, claim, claims, compute, meets, score, stored, table
from .samples import fd_mini, reader_features, real, sampled

__all__ = [
    "CLAIMS",
    "Claim",
    "Outcome",
    "Row",
    "claim",
    "claims",
    "compute",
    "meets",
    "score",
    "stored",
    "table",
    "fd_mini",
    "real",
    "reader_features",
    "sampled",
]
