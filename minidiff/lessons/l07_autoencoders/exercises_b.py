"""Exercises of lesson 07, second part: the codebook. The critic and the scale are in lesson07_critic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.course.tasks import Mistake, call, exercise, expect, expect_number, fits
from minidiff.rng import normal

__all__: list[str] = []


@exercise("07.nearest", "The nearest code", name="nearest_code",
          stub='''
def nearest_code(h, codes):
    """h: (B, C, height, width); codes: (K, C). For each place the number of its nearest code: (B, height, width)."""
    ...
''',
          solution='''
import torch


def nearest_code(h, codes):
    """h: (B, C, height, width); codes: (K, C). For each place the number of its nearest code: (B, height, width)."""
    vectors = h.permute(0, 2, 3, 1)                        # channels last: one vector a place
    far = torch.cdist(vectors.flatten(0, 2), codes)        # (B * height * width, K)
    return far.argmin(1).view(vectors.shape[:3])
''',
          hints=("Bring the channels to the end with permute before anything is flattened.",
                 "torch.cdist(vectors, codes) has one row a place and one column a code; argmin over the columns."))
def _nearest(fn: Callable) -> None:
    h = normal((2, 3, 4, 5), "lesson 07 nearest", 0, dtype=torch.float64)
    codes = normal((16, 3), "lesson 07 codes", 0, dtype=torch.float64) * torch.linspace(0.3, 2, 16, dtype=torch.float64)[:, None]
    flat = h.permute(0, 2, 3, 1).flatten(0, 2)
    square = (flat[:, None] - codes[None]).square().sum(2)
    shape = (2, 4, 5)
    dot = flat @ codes.T
    want = square.argmin(1).view(shape)
    got = call(fn, h, codes, shape=shape)
    if got.is_floating_point() and not torch.equal(got, got.round()):
        raise Mistake("The answer is the number of a code: whole numbers.")
    mixed = (h.reshape(-1, 3)[:, None] - codes[None]).square().sum(2)
    expect(got, want, wrong=fits({
        "That is the furthest code: argmax of the distance.": square.argmax(1).view(shape),
        "That is the largest scalar product, which favours long codes; the distance has |e|^2 in it as well.":
            dot.argmax(1).view(shape),
        "That is the most parallel code (cosine); the length counts too.": (dot / codes.norm(dim=1)).argmax(1).view(shape),
        "That is the nearest by the sum of absolute differences; take the Euclidean distance.":
            (flat[:, None] - codes[None]).abs().sum(2).argmin(1).view(shape),
        "The channels were not brought to the end before flattening, so each vector mixes places: permute first.":
            mixed.argmin(1).view(shape),
        "Width and height were exchanged on the way back.":
            square.argmin(1).view(2, 4, 5).transpose(1, 2).reshape(shape),
        "Only the first channel was compared.":
            (flat[:, None, 0] - codes[None, :, 0]).abs().argmin(1).view(shape),
    }, want), tol=1e-9, otherwise="Not the nearest code everywhere. Try h made of codes: the answer must be their numbers.")


def _graded(got: Tensor, leaves: tuple[Tensor, ...], weight: Tensor) -> list[Tensor]:
    """Gradients of the weighted sum of ``got`` to the leaves, zeros where there is none."""
    if not got.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad((got * weight).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


@exercise("07.straight_through", "Straight through", name="straight_through", points=2,
          stub='''
def straight_through(h, e):
    """Has the value of e; hands its gradient to h unchanged, and none to e. h, e: tensors of one shape."""
    ...
''',
          solution='''
def straight_through(h, e):
    """Has the value of e; hands its gradient to h unchanged, and none to e. h, e: tensors of one shape."""
    return h + (e - h).detach()
''',
          hints=("Start from h, whose gradient you want, and add something that brings its value to e.",
                 "What you add must not have a gradient: detach it."))
def _straight_through(fn: Callable) -> None:
    h, e, weight = normal((3, 2, 3, 4, 4), "lesson 07 straight", 0, dtype=torch.float64)
    h, e = h.requires_grad_(), e.requires_grad_()
    got = call(fn, h, e, shape=h.shape)
    expect(got.detach(), e.detach(), wrong={
        "The value is still h; the decoder would see what no codebook holds.": h.detach(),
        "The difference has the wrong sign: h + (e - h) is e.": (2 * h - e).detach(),
        "The value is half way between h and e.": (h + e).detach() / 2,
        "The value is h + e; add the difference e - h instead.": (h + e).detach(),
    }, otherwise="The value must be that of e.")
    to_h, to_e = _graded(got, (h, e), weight)
    if not bool(to_h.any()) and not bool(to_e.any()):
        raise Mistake("The value is right, but no gradient flows at all: too much is detached.")
    if not bool(to_h.any()):
        raise Mistake("The value is right, but the gradient goes to e, not to h: the encoder would learn nothing.")
    if bool(to_e.any()):
        raise Mistake("h gets its gradient, but e gets one as well: detach the difference.")
    expect(to_h, weight, wrong={"The gradient of h is twice what comes in.": 2 * weight, "Its sign is wrong.": -weight},
           otherwise="The gradient that reaches h is not the one that came in.")


@exercise("07.codebook_loss", "Who moves towards whom?", name="codebook_loss", points=2,
          stub='''
def codebook_loss(h, e, beta):
    """|sg(h) - e|^2 + beta |h - sg(e)|^2, mean over a picture's numbers: (B, C, h, w) twice -> (B,). sg stops gradients."""
    ...
''',
          solution='''
def codebook_loss(h, e, beta):
    """|sg(h) - e|^2 + beta |h - sg(e)|^2, mean over a picture's numbers: (B, C, h, w) twice -> (B,). sg stops gradients."""
    codes_move = (h.detach() - e) ** 2
    encoder_moves = (h - e.detach()) ** 2
    return (codes_move + beta * encoder_moves).mean((1, 2, 3))
''',
          hints=("sg(x) is x.detach().",
                 "In the first term e moves, so h is detached; the second is the other way round, times beta."))
def _codebook_loss(fn: Callable) -> None:
    h, e = normal((2, 2, 3, 4, 4), "lesson 07 codebook loss", 0, dtype=torch.float64)
    h, e, beta = h.requires_grad_(), e.requires_grad_(), 0.25
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64)
    square = (h - e).detach().square()
    mean = square.mean((1, 2, 3))
    got = call(fn, h, e, beta, shape=(2,))
    expect(got.detach(), (1 + beta) * mean, wrong={
        "beta has no effect: both terms count in full.": 2 * mean,
        "The commitment term, beta |h - sg(e)|^2, is missing.": mean,
        "The first term, which moves the codes, is missing.": beta * mean,
        "beta stands before both terms; only the second has it.": 2 * beta * mean,
        "It is summed; take the mean over channels and places.": (1 + beta) * square.sum((1, 2, 3)),
        "It is summed over the channels; take their mean as well.": (1 + beta) * square.sum(1).mean((1, 2)),
        "The differences are not squared.": (1 + beta) * square.sqrt().mean((1, 2, 3)),
    }, otherwise="The value must be (1 + beta) times the mean squared difference.")
    step = 2 * (h - e).detach() / h[0].numel() * weight.view(2, 1, 1, 1)
    to_h, to_e = _graded(got, (h, e), weight)

    def same(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() < 1e-9)

    if same(to_h, beta * step) and same(to_e, -step):
        return
    if same(to_h, step) and same(to_e, -beta * step):
        raise Mistake("The value is right, but beta is on the wrong term: here the codes move slowly and the encoder fast. "
                      "(diffusers keeps this very mistake as legacy=True.)")
    if same(to_h, (1 + beta) * step) and bool(to_e.any()):
        raise Mistake("The value is right, but nothing is stopped: each side is pulled by both terms. Where is sg?")
    if not bool(to_h.any()):
        raise Mistake("The value is right, but the encoder gets no gradient: detach e in the second term, not h.")
    if not bool(to_e.any()):
        raise Mistake("The value is right, but the codes get no gradient: detach h in the first term, not e.")
    raise Mistake("The value is right, but not the gradients: e must feel the first term only, h the second.")


@exercise("07.bits", "Predict: how small is a picture?", name="bits",
          stub='''
bits = ...                  # for one 64 x 64 picture: f = 4, a codebook of 256 vectors with 4 numbers each
''',
          solution='''
bits = (64 // 4) * (64 // 4) * 8        # 256 places, each the number of one of 2^8 codes
''',
          hints=("How many places has the latent? How many bits name one of 256 codes?", "16 * 16 places, 8 bits each."))
def _bits(answer: object) -> None:
    expect_number(answer, 2048, tol=1e-6, wrong={
        "256 is the number of places (or the answer in bytes); naming one of 256 codes takes 8 bits.": 256,
        "The number of a code takes log2(256) = 8 bits, not 256.": 256 * 256,
        "One number names a whole vector of four; nothing has to be stored for each channel.": 4 * 2048,
        "The latent has 64 / 4 = 16 places a side, not 64.": 64 * 64 * 8,
        "Both sides are divided by f; that is one row of places only.": 16 * 8,
        "That is the picture itself, 8 bits for each of its values.": 3 * 64 * 64 * 8,
        "The codebook itself is shared by all pictures; it is not stored with each.": 2048 + 256 * 4 * 32,
    })
