"""Models in the course's own format: config.json says of which kind, model.safetensors holds the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from minidiff.diffusion import X0, Eps, LearnedRange, V, make_schedule
from minidiff.diffusion.ddgan import ddgan_schedule
from minidiff.errors import CheckpointError
from minidiff.measure.reader import Reader
from minidiff.nets import UNet
from minidiff.nets.adversarial import LatentUNet, SmallVAE
from minidiff.nets.classifier import NoisyClassifier

__all__ = ["build", "fill"]

_WRAP = {"eps": Eps, "x0": X0, "v": V}


def build(config: dict[str, Any], name: str) -> nn.Module:
    """A network of random weights, as a config.json of ours says. Raises CheckpointError for one that no network has."""
    try:
        return _made(config, name)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError("name", f"{name!r}, whose config.json describes no network of ours ({type(error).__name__}: "
                              f"{error})", "the config.json that was written with the weights") from None


def _made(config: dict[str, Any], name: str) -> nn.Module:
    kind = config.get("kind")
    if kind == "reader":
        return Reader(**{"edition": 1} | config["net"])       # readers of the first edition do not name it
    if kind == "pixel":
        net = config["net"] | {k: tuple(v) for k, v in config["net"].items() if isinstance(v, list)}
        model = _WRAP[config["predicts"]](UNet(**net), make_schedule(**config["schedule"]))
        return LearnedRange(model) if net.get("learned_variance") else model
    if kind == "noisy-classifier":
        return NoisyClassifier(**config["net"])
    if kind == "ddgan":
        generator = LatentUNet(**config["net"])
        generator.schedule = ddgan_schedule(config["T"])
        return generator
    if kind == "small-vae":
        return SmallVAE(**config["net"])
    kinds = "'reader', 'pixel', 'noisy-classifier', 'ddgan' or 'small-vae'"
    raise CheckpointError("name", f"{name!r} of kind {kind!r}", f"a config.json of kind {kinds}")


def _net(model: nn.Module) -> nn.Module:
    while hasattr(model, "base") or hasattr(model, "net"):
        model = model.base if hasattr(model, "base") else model.net
    return model


def fill(model: nn.Module, weights: Path, name: str) -> None:
    """Put the weights of a file into a network, as float32. Raises CheckpointError where they are not its own."""
    try:
        state = {k: v.float() for k, v in load_file(weights).items()}
        _net(model).load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            "name",
            f"{name!r}, whose weights do not fit its config ({str(error).splitlines()[0]})",
            "weights and config from the same training run",
            "git checkout -- data",
        ) from None


