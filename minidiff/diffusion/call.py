"""One call of a model inside a loop: at one t, recorded for gradients or not, clipped or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.diffusion.schedule import Schedule
from minidiff.errors import BadInput, require

__all__ = ["check_clip", "check_model", "clipped", "predict_at"]


def check_model(model: object) -> None:
    """Raise unless the model states what it predicts and on which schedule."""
    if not isinstance(getattr(model, "schedule", None), Schedule) or not callable(model):
        raise BadInput("model", type(model).__name__, "a model that states what it predicts",
                       "Eps(net, schedule), X0(net, schedule) or V(net, schedule)")


def check_clip(clip: object) -> None:
    """Raise unless clip is None, "x0" or "both"."""
    require(clip is None or (isinstance(clip, str) and clip in ("x0", "both")), "clip", repr(clip), "None, 'x0' or 'both'",
            "clip='x0' for pixels in [-1, 1], None for latents")


def _leaves(cond: object) -> Iterator[Tensor]:
    if isinstance(cond, Tensor):
        yield cond
    elif isinstance(cond, (tuple, list, dict)):
        for part in cond.values() if isinstance(cond, dict) else cond:
            yield from _leaves(part)


def predict_at(model: Callable, x: Tensor, t: int | float, cond: object = None, *, method: str = "__call__") -> Any:
    """The model (or network) at one t for the whole batch; recorded for gradients only if x or cond requires them.

    method: "with_variance" for the prediction and the variance's fraction of a :class:`LearnedRange`.
    """
    between = torch.float64 if x.dtype == torch.float64 else torch.float32
    ts = torch.full((len(x),), t, device=x.device, dtype=torch.long if isinstance(t, int) else between)
    wanted = torch.is_grad_enabled() and (x.requires_grad or any(part.requires_grad for part in _leaves(cond)))
    with torch.set_grad_enabled(wanted):
        return getattr(model, method)(x, ts) if cond is None else getattr(model, method)(x, ts, cond)


def clipped(prediction: Prediction, x: Tensor, abar: float, clip: str | None) -> Prediction:
    """The prediction after the rule ``clip``: None; "x0" clips x0 to [-1, 1] and keeps eps; "both" works eps out again:

    eps = (x - sqrt(abar) x0) / sqrt(1 - abar).
    """
    if clip is None:
        return prediction
    x0 = prediction.x0.clamp(-1, 1)
    return Prediction(x0, (x - abar**0.5 * x0) / (1 - abar) ** 0.5 if clip == "both" else prediction.eps)
