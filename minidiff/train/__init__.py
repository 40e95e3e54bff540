"""One training loop for the whole course: recipes, checkpoints that survive kills, a moving average of the weights."""

from minidiff.guard import guard
from minidiff.train.folder import load_ema, read_losses
from minidiff.train.loop import fit
from minidiff.train.optimiser import Ema
from minidiff.train.progress import Progress, TrainState, describe
from minidiff.train.recipe import Budget, Recipe, lr_at
from minidiff.train.stored import newest, newest_meta

__all__ = ["Budget", "Ema", "Progress", "Recipe", "TrainState", "describe", "fit", "load_ema", "lr_at", "newest", "newest_meta",
           "read_losses"]

guard(globals(), __all__)
