"""Readers and measures: from a picture back to its scene, and how far two sets of pictures are apart."""

from minidiff.guard import guard
from minidiff.measure.attributes import Memorisation, attribute_tv, histogram, memorisation, total_variation
from minidiff.measure.distance import (
           Kid,
           Moments,
           Prdc,
           frechet,
           frechet_between,
           frechet_limit,
           kid,
           mmd2,
           moments,
           nearest,
           prdc,
)
from minidiff.measure.edit_pairs import EDITS, EditPairs, EditTruth, edit_pairs
from minidiff.measure.edit_score import EditScores, edit_score, masked_psnr, score_table
from minidiff.measure.features import features, mini_lpips
from minidiff.measure.interval import Estimate, bootstrap, frechet_interval, frechet_ratio, wilson
from minidiff.measure.reader import FEATURES, RawReading, Reader, reader_loss
from minidiff.measure.reading import Reading, decode, read, silhouette_iou
from minidiff.measure.scores import ReaderScore, score_reader
from minidiff.measure.synthesis import SEEN_ABOVE, VALID_BELOW, Explanation, explain, explain_between, gain, residual
from minidiff.measure.validity import bad_pictures, calibrate, passing

__all__ = ["Memorisation", "attribute_tv", "histogram", "memorisation", "total_variation", "Kid", "Moments", "Prdc", "frechet",
           "frechet_between", "frechet_limit", "kid", "mmd2", "moments", "nearest", "prdc", "features", "mini_lpips",
           "Estimate", "bootstrap", "frechet_interval", "frechet_ratio", "wilson", "FEATURES", "RawReading", "Reader",
           "reader_loss", "Reading", "decode", "read", "silhouette_iou", "ReaderScore", "score_reader", "VALID_BELOW",
           "Explanation", "explain", "explain_between", "residual", "SEEN_ABOVE", "gain", "bad_pictures", "calibrate", "passing",
           "EDITS", "EditPairs", "EditTruth", "edit_pairs",
           "EditScores", "edit_score", "masked_psnr", "score_table"]

guard(globals(), __all__)
