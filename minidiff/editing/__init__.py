"""Floor 4: editing methods, one short file each, all on the engine of ``steer``."""

from minidiff.editing.blended import Blend
from minidiff.editing.controlnet import add_control, control, control_images, new_controlnet, silhouettes
from minidiff.editing.coupled import Coupled, edict_inversion
from minidiff.editing.diffuseit import diffuseit, text_target
from minidiff.editing.drag import ShareKV, drag, dragging
from minidiff.editing.drag_points import blob, cells, features_at, motion_loss, swept, track
from minidiff.editing.emphasis import EmphasiseValue, IgnoreKey
from minidiff.editing.h_directions import DeltaBlock, MeanDirection, causal_share, fit_delta, mean_direction
from minidiff.editing.h_space import Asymmetric, Boost, ShiftH, h_space, shift_strength
from minidiff.editing.inversion import FitEmpty, Inversion, direct_inversion, negative_prompt_inversion, null_text_inversion
from minidiff.editing.key_losses import clip_features
from minidiff.editing.noise_maps import AddNoise, edit_friendly_inversion
from minidiff.editing.parasol import (
    Alone,
    Switch,
    blend_styles,
    colour_statistics,
    invert_content,
    match_colours,
    parasol,
    styled,
    token_texts,
)
from minidiff.editing.paste import cut_and_paste, paste_moved
from minidiff.editing.pix2pix_zero import NoiseRegularizer, edit_direction, pix2pix_zero
from minidiff.editing.plug_and_play import CopyModule, CopyQK, feature_layer, later_sites, plug_and_play
from minidiff.editing.prompt_swap import swap_prompt
from minidiff.editing.prompt_to_prompt import LocalBlend, Refine, Replace, Reweight, SelfCopy, coarse_level, prompt_to_prompt
from minidiff.editing.result import INVERSIONS, EditResult, Source, anchors, inverted, run_edit, source_of
from minidiff.editing.sdedit import sdedit
from minidiff.editing.self_guidance import appearance_of, self_guidance
from minidiff.editing.sentence_bank import edit_words, put_word, sentence_bank, word_direction
from minidiff.editing.style_tokens import StyleTokens, content_code, info_nce, style_statistics
from minidiff.editing.triplets import Triplets, rendered_triplets, retrieved_triplets
from minidiff.editing.words import align_words, refine_mapper, replace_mapper, word_values
from minidiff.guard import guard
from minidiff.steer import Guider, Hook

__all__ = ["AddNoise", "Alone", "Asymmetric", "Blend", "Boost", "CopyModule", "CopyQK", "Coupled", "DeltaBlock", "EditResult",
           "EmphasiseValue", "FitEmpty", "INVERSIONS", "IgnoreKey", "Inversion", "LocalBlend", "MeanDirection",
           "NoiseRegularizer", "Refine", "Replace", "Reweight", "SelfCopy", "ShareKV", "ShiftH", "Source", "StyleTokens",
           "Switch", "Triplets", "add_control", "align_words", "anchors", "appearance_of", "blend_styles", "blob",
           "causal_share", "cells", "clip_features", "coarse_level", "colour_statistics", "content_code", "control",
           "control_images", "cut_and_paste", "diffuseit", "direct_inversion", "drag", "dragging", "edict_inversion",
           "edit_direction", "edit_friendly_inversion", "edit_words", "feature_layer", "features_at", "fit_delta", "h_space",
           "info_nce", "invert_content", "inverted", "later_sites", "match_colours", "mean_direction", "motion_loss",
           "negative_prompt_inversion", "new_controlnet", "null_text_inversion", "parasol", "paste_moved", "pix2pix_zero",
           "plug_and_play", "prompt_to_prompt", "put_word", "refine_mapper", "rendered_triplets", "replace_mapper",
           "retrieved_triplets", "run_edit", "sdedit", "self_guidance", "sentence_bank", "shift_strength", "silhouettes",
           "source_of", "style_statistics", "styled", "swap_prompt", "swept", "text_target", "token_texts", "track",
           "word_direction", "word_values"]

guard(globals(), __all__, classes=(Hook, Guider))
