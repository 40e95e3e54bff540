"""Readers and measures: from a picture back to its scene, and how far two sets of pictures are apart."""

from .attributes import Memorisation, attribute_tv, histogram, memorisation, total_variation
from .distance import Kid, Moments, Prdc, frechet, frechet_between, frechet_limit, kid, mmd2, moments, nearest, prdc
from .features import features, mini_lpips
from .interval import Measured, bootstrap, frechet_interval, frechet_ratio, wilson
from .reader import FEATURES, RawReading, Reader, reader_loss
from .reading import Reading, decode, read
from .scores import ReaderScore, score_reader
from .synthesis import VALID_BELOW, Explanation, explain, residual

__all__ = ["Memorisation", "attribute_tv", "histogram", "memorisation", "total_variation", "Kid", "Moments", "Prdc", "frechet",
           "frechet_between", "frechet_limit", "kid", "mmd2", "moments", "nearest", "prdc", "features", "mini_lpips",
           "Measured", "bootstrap", "frechet_interval", "frechet_ratio", "wilson", "FEATURES", "RawReading", "Reader",
           "reader_loss", "Reading", "decode", "read", "ReaderScore", "score_reader", "VALID_BELOW", "Explanation", "explain",
           "residual"]
