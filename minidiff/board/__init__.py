"""The scoreboard: claims, rows, and the table in the README."""

from minidiff.board.cards import pixel_scores, reader_scores, update_cards
from minidiff.board.core import CLAIMS, Claim, Outcome, Row, claim, claims, compute, meets, score, stored, table
from minidiff.board.samples import fd_mini, reader_features, real, sampled

__all__ = [
    "pixel_scores",
    "reader_scores",
    "update_cards",
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
