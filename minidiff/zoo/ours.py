"""Models in the course's own format: config.json says of which kind, model.safetensors holds the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from minidiff.diffusion import X0, Eps, LearnedRange, V, make_schedule
from minidiff.diffusion.ddgan import ddgan_schedule
from minidiff.editing.style_tokens import StyleTokens
from minidiff.errors import CheckpointError
from minidiff.measure.reader import Reader
from minidiff.nets import UNet
from minidiff.nets.adversarial import LatentUNet, SmallVAE
from minidiff.nets.classifier import NoisyClassifier

__all__ = ["build", "fill"]

_WRAP = {"eps": Eps, "x0": X0, "v": V}


def build(config: dict[str, Any], weights: int, name: str) -> nn.Module:
    """A model of random weights, as a config.json of ours says. weights: how many numbers its file holds.

    Raises CheckpointError for a config that no network of ours has, or one of another size.
    """
    try:
        with torch.device("meta"):                            # takes no memory, whatever the config says
            size = sum(p.numel() for p in _network(config, name).parameters())
        if size > 2 * weights + 1_000_000:
            raise ValueError(f"{size:,} weights, {weights:,} are in the file")
        net = _network(config, name)
        if config["kind"] == "pixel":
            model = _WRAP[config["predicts"]](net, make_schedule(**config["schedule"]))
            return LearnedRange(model) if config["net"].get("learned_variance") else model
        if config["kind"] == "ddgan":
            net.schedule = ddgan_schedule(config["T"])
        return net
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError("name", f"{name!r}, whose config.json describes no network of ours ({type(error).__name__}: "
                              f"{error})", "the config.json that was written with the weights") from None


def _network(config: dict[str, Any], name: str) -> nn.Module:
    kind, net = config.get("kind"), config.get("net", {})
    made = {"reader": lambda: Reader(**{"edition": 1} | net),            # readers of the first edition do not name it
            "pixel": lambda: UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in net.items()}),
            "noisy-classifier": lambda: NoisyClassifier(**net), "ddgan": lambda: LatentUNet(**net),
            "small-vae": lambda: SmallVAE(**net), "style-tokens": lambda: StyleTokens(**net)}
    if kind not in made:
        raise CheckpointError("name", f"{name!r} of kind {kind!r}", f"a config.json of kind {', '.join(map(repr, made))}")
    return made[kind]()


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


