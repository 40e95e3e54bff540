"""Guiders: how the predictions of several texts become one. Each says which texts it needs at a step, and combines them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.errors import BadInput, require
from minidiff.steer.hooks import StepContext

__all__ = ["CFG", "Composable", "Dual", "Guider", "InstructPix2Pix"]

Weight = float | Callable[[StepContext], float]


def _weight(value: Weight, ctx: StepContext | None) -> float:
    return float(value(ctx)) if callable(value) else value


def _checked(name: str, value: Weight) -> Weight:
    """A finite number, or a function of the step's context."""
    if callable(value):
        return value
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    require(good, name, repr(value), "a finite number, or a function of the step's context", f"{name}=4.0")
    return float(value)


def _sum(predictions: Mapping[str, Prediction], weights: Mapping[str, float]) -> Prediction:
    """The weighted sum; x0 and eps are both linear in what the network predicts as long as the weights sum to 1."""

    def part(name: str) -> Tensor:
        terms = [w * getattr(predictions[text], name) for text, w in weights.items()]
        return sum(terms[1:], terms[0])

    return Prediction(part("x0"), part("eps"))


class Guider:
    """``texts`` names everything it may ever need; ``needs(ctx)`` what it needs at one step, in the order of the batch."""

    texts: tuple[str, ...] = ("prompt",)

    def needs(self, ctx: StepContext) -> tuple[str, ...]:
        return self.texts

    def __call__(self, predictions: Mapping[str, Prediction], ctx: StepContext | None = None) -> Prediction:
        raise NotImplementedError


class CFG(Guider):
    """Classifier-free guidance (Ho and Salimans 2021, eq. 6, in Stable Diffusion's weight): u + w (c - u).

    u: "empty", c: "prompt". weight: a number, or a function of the step's context (a schedule, a limited interval). Where it is
    1 the empty prompt is not run at all.
    """

    def __init__(self, weight: Weight = 4.0) -> None:
        self.weight = _checked("weight", weight)
        self.texts = ("prompt",) if self.weight == 1.0 else ("empty", "prompt")

    def needs(self, ctx: StepContext) -> tuple[str, ...]:
        return ("prompt",) if _weight(self.weight, ctx) == 1.0 else ("empty", "prompt")

    def __call__(self, predictions: Mapping[str, Prediction], ctx: StepContext | None = None) -> Prediction:
        w = _weight(self.weight, ctx)
        if w == 1.0:
            return predictions["prompt"]
        u, c = predictions["empty"], predictions["prompt"]
        return Prediction(u.x0 + w * (c.x0 - u.x0), u.eps + w * (c.eps - u.eps))


class Composable(Guider):
    """Composable Diffusion (Liu et al. 2022, eq. 11): u + sum_i w_i (c_i - u). weights: text -> w_i, negative ones subtract."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        require(
            isinstance(weights, Mapping) and len(weights) > 0,
            "weights",
            repr(weights),
            "a weight for each text",
            'Composable({"cat": 4.0, "dog": 4.0})',
        )
        if "empty" in weights:
            raise BadInput("weights", "a weight for 'empty'", "weights of the other texts: u is what they start from")
        self.weights = {text: _checked(f"weights[{text!r}]", w) for text, w in weights.items()}
        self.texts = ("empty", *self.weights)

    def __call__(self, predictions: Mapping[str, Prediction], ctx: StepContext | None = None) -> Prediction:
        weights = {text: _weight(w, ctx) for text, w in self.weights.items()}
        return _sum(predictions, {"empty": 1 - sum(weights.values()), **weights})


class Dual(Composable):
    """PARASOL's guidance (Tarres et al. 2023): u + g_s (s - u) + g_y (y - u), with texts "style" and "content".

    The joint prediction is never asked for: at g_s = g_y = 1 this is s + y - u, which differs from it by the interaction term.
    """

    def __init__(self, style: Weight = 5.0, content: Weight = 5.0) -> None:
        super().__init__({"style": style, "content": content})


class InstructPix2Pix(Guider):
    """Brooks et al. 2023, eq. 3: u + s_I (i - u) + s_T (t - i). Texts: "empty", "image" (the picture alone), "prompt" (both).

    At s_I = s_T = 1 it is exactly the prediction of "prompt".
    """

    texts = ("empty", "image", "prompt")

    def __init__(self, image: Weight = 1.5, text: Weight = 7.5) -> None:
        self.image, self.text = _checked("image", image), _checked("text", text)

    def __call__(self, predictions: Mapping[str, Prediction], ctx: StepContext | None = None) -> Prediction:
        i, t = _weight(self.image, ctx), _weight(self.text, ctx)
        return _sum(predictions, {"empty": 1 - i, "image": i - t, "prompt": t})
