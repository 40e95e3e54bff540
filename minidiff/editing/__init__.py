"""Floor 4: editing methods, one short file each, all on the engine of ``steer``."""

from minidiff.editing.blended import Blend
from minidiff.editing.emphasis import EmphasiseValue, IgnoreKey
from minidiff.editing.pix2pix_zero import NoiseRegularizer, edit_direction, pix2pix_zero
from minidiff.editing.prompt_to_prompt import LocalBlend, Refine, Replace, Reweight, SelfCopy, coarse_level, prompt_to_prompt
from minidiff.editing.result import EditResult, Source, anchors, run_edit, source_of
from minidiff.editing.self_guidance import look, self_guidance
from minidiff.editing.words import align_words, refine_mapper, replace_mapper, word_values

__all__ = ["Blend", "EditResult", "EmphasiseValue", "IgnoreKey", "LocalBlend", "NoiseRegularizer", "Refine", "Replace",
           "Reweight", "SelfCopy", "Source", "align_words", "anchors", "coarse_level", "edit_direction", "look", "pix2pix_zero",
           "prompt_to_prompt", "refine_mapper", "replace_mapper", "run_edit", "self_guidance", "source_of", "word_values"]
