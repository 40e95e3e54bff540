"""One training loop for the whole course: recipes, checkpoints that survive kills, a moving average of the weights."""

from minidiff.train.checkpoint import newest
from minidiff.train.folder import load_ema, read_losses
from minidiff.train.loop import fit
from minidiff.train.optimiser import Ema
from minidiff.train.progress import Progress, TrainState, describe
from minidiff.train.recipe import Budget, Recipe, lr_at

__all__ = ["Budget", "Ema", "Progress", "Recipe", "TrainState", "describe", "fit", "load_ema", "lr_at", "newest", "read_losses"]
