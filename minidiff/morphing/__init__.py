"""Floor 4: morphing, pictures between two pictures, one method a file, all on the engine of ``steer``."""

from minidiff.guard import guard
from minidiff.morphing.aid import Inner, Outer, aid
from minidiff.morphing.ends import FIRST, OTHER, Ends, MorphResult, check_weights, ends_of, frames_of, named, walk
from minidiff.morphing.interpolate import cross_fade, latent_lerp, lerp, midpoints, noise_levels, slerp, slerp_morph, wang_golland
from minidiff.morphing.prior import beta_cdf, beta_quantile, explore, fit_beta, smoothest

__all__ = ["FIRST", "OTHER", "Ends", "Inner", "MorphResult", "Outer", "aid", "beta_cdf", "beta_quantile", "check_weights",
           "cross_fade", "ends_of", "explore", "fit_beta", "frames_of", "latent_lerp", "lerp", "midpoints", "named",
           "noise_levels", "slerp", "slerp_morph", "smoothest", "walk", "wang_golland"]

guard(globals(), __all__)
