"""Personalisation: Textual Inversion, DreamBooth, LoRA, Custom Diffusion, on any Stable Diffusion pipeline of diffusers."""

from minidiff.guard import guard
from minidiff.personal.dreambooth import dreambooth, prior_examples, unet_parameters
from minidiff.personal.fit import TEMPLATES, Examples, Progress, denoising_loss, draw_t, examples, fit, pictures
from minidiff.personal.lora import ATTENTION, CROSS_KV, EVERYWHERE, LoRA, load_lora
from minidiff.personal.picture import picture_lora
from minidiff.personal.textual_inversion import textual_inversion
from minidiff.personal.words import FreeRows, encode_words, load_word, nearest_words, new_word

__all__ = ["dreambooth", "prior_examples", "unet_parameters", "TEMPLATES", "Examples", "Progress", "denoising_loss", "draw_t",
           "examples", "fit", "pictures", "ATTENTION", "CROSS_KV", "EVERYWHERE", "LoRA", "load_lora", "picture_lora",
           "textual_inversion", "FreeRows", "encode_words", "load_word", "nearest_words", "new_word"]

guard(globals(), __all__)
