"""One training loop for the whole course: recipes, checkpoints that survive kills, a moving average of the weights."""

from minidiff.train.ema import Ema
from minidiff.train.export import export, load_ema, newest
from minidiff.train.loop import fit
from minidiff.train.losses import read_losses
from minidiff.train.progress import Progress, describe
from minidiff.train.recipe import Budget, Recipe, lr_at
from minidiff.train.state import TrainState

__all__ = ["Budget", "Ema", "Progress", "Recipe", "TrainState", "describe", "export", "fit", "load_ema", "lr_at", "newest",
           "read_losses"]
