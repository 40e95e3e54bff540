"""Floor 4: morphing, pictures between two pictures, one method a file, all on the engine of ``steer``."""

from minidiff.guard import guard
from minidiff.morphing.adapt import LerpLoRA, fit_pictures, invert_with, picture_loras
from minidiff.morphing.aid import Inner, Outer, aid
from minidiff.morphing.diffmorpher import STAGES, adain, diffmorpher, mixed_attention, respaced, slerp_adain
from minidiff.morphing.ends import FIRST, OTHER, Ends, MorphResult, check_weights, ends_of, frames_of, named, walk
from minidiff.morphing.impus import Impus, RowCFG, fit_embeddings, fit_impus, impus, impus_guidance, twin
from minidiff.morphing.interpolate import cross_fade, latent_lerp, lerp, midpoints, noise_levels, slerp, slerp_morph, wang_golland
from minidiff.morphing.prior import beta_cdf, beta_quantile, explore, fit_beta, smoothest
from minidiff.morphing.uniform import lora_rank, relative_diversity, uniform_path, uniform_paths
from minidiff.steer import Guider, Hook

__all__ = ["FIRST", "OTHER", "STAGES", "Ends", "Impus", "Inner", "LerpLoRA", "MorphResult", "Outer", "RowCFG", "adain", "aid",
           "beta_cdf", "beta_quantile", "check_weights", "cross_fade", "diffmorpher", "ends_of", "explore", "fit_beta",
           "fit_embeddings", "fit_impus", "fit_pictures", "frames_of", "impus", "impus_guidance", "invert_with", "latent_lerp",
           "lerp", "lora_rank", "midpoints", "mixed_attention", "named", "noise_levels", "picture_loras", "relative_diversity",
           "respaced", "slerp", "slerp_adain", "slerp_morph", "smoothest", "twin", "uniform_path", "uniform_paths", "walk",
           "wang_golland"]

guard(globals(), __all__, classes=(Hook, Guider))
