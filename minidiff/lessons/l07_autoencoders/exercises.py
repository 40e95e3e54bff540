"""Exercises of lesson 07: the Gaussian bottleneck, the halving layer, the codebook, and a paste in the latent."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.latent.bottleneck import reparametrise
from minidiff.rng import normal

__all__: list[str] = []


@exercise("07.reparametrise", "Draw from the posterior", hints=(
    "moments.chunk(2, dim=1) gives the two halves.",
    "The second half is log sigma^2. What must it be multiplied by before exp, to give sigma?",
))
def draw(moments, noise):
    """z (B, C, h, w) from moments (B, 2C, h, w): means, then log variances, clamped to [-30, 20]. noise: (B,
    C, h, w)."""
    ### BEGIN SOLUTION
    mu, logvar = moments.chunk(2, dim=1)
    sigma = (0.5 * logvar.clamp(-30, 20)).exp()
    return mu + sigma * noise
    ### END SOLUTION


LATENTS = ((2, 3, 4, 5), (3, 2, 6, 4))             # (B, C, h, w)


@checks(draw)
def _reparametrise(fn: Callable) -> None:
    for B, C, h, w in LATENTS:
        moments = normal((B, 2 * C, h, w), "lesson 07 moments", 0, dtype=torch.float64)
        noise = normal((B, C, h, w), "lesson 07 noise", 0, dtype=torch.float64)
        mu, logvar = moments.chunk(2, dim=1)
        want = reparametrise(moments, noise)[0]
        expect(call(fn, moments, noise, shape=noise.shape), want, wrong=fits({
            "exp(logvar) is the variance; the noise is multiplied by the standard deviation.": mu + logvar.exp() * noise,
            "The second half is used as sigma itself; it is the logarithm of the variance.": mu + logvar * noise,
            "The second half is used as the variance itself; it is its logarithm.": mu + logvar.abs().sqrt() * noise,
            "exp(2 logvar) takes the second half for half a logarithm; sigma is exp(logvar / 2).":
                mu + (2 * logvar).exp() * noise,
            "The halves are the wrong way round: the means come first.": logvar + (0.5 * mu).exp() * noise,
            "The channels are taken in turns; the means are the first half of them.":
                moments[:, ::2] + (0.5 * moments[:, 1::2]).exp() * noise,
            "The noise has no effect: this is the mean.": mu,
            "The mean is missing.": (0.5 * logvar).exp() * noise,
            "mu is multiplied as well; only the noise is.": (mu + noise) * (0.5 * logvar).exp(),
            "sigma has the wrong sign in the exponent.": mu + (-0.5 * logvar).exp() * noise,
        }, want), otherwise="Not mu + sigma * noise. Try moments of zeros: the answer is then the noise itself.")
        for far in (44, -44):                      # beyond both ends of the clamp; without a mean, so that the small end shows
            loud = torch.cat([0 * mu, far + logvar], 1)
            expect(call(fn, loud, noise, shape=noise.shape), reparametrise(loud, noise)[0], wrong={
                "The log variance is not clamped to [-30, 20]: an untrained encoder can overflow here.":
                    (0.5 * (far + logvar)).exp() * noise,
                "The clamp is put on half the log variance; it belongs on the log variance.":
                    (0.5 * (far + logvar)).clamp(-30, 20).exp() * noise,
            }, otherwise="Right for small log variances, wrong for large ones: is it clamped to [-30, 20] before the exp?")


@exercise("07.kl_weight", "Sums and means", hints=(
    "Write both sums as (how many) times (mean), and divide the whole loss by the number of pixel values.",
    "1e-6 * 1024 * mean KL against 12288 * mean error: what stands before the mean KL after dividing by 12288?",
))
def kl_weight():
    """The weight on means over 3 x 64 x 64 pixel values and over 4 x 16 x 16 latent values."""
    ### BEGIN SOLUTION
    return 1e-6 * (4 * 16 * 16) / (3 * 64 * 64)        # 1e-6 / 12 = 8.3e-8
    ### END SOLUTION


@checks(kl_weight)
def _kl_weight(answer: object) -> None:
    expect_number(answer, 1e-6 / 12, tol=4e-10, wrong={
        "With the sums' own weight the KL counts twelve times too much: the two means divide by different numbers.": 1e-6,
        "The wrong way round: the latent has fewer numbers than the picture, so its mean is worth less, not more.": 1.2e-5,
        "That is the weight for a KL that is still a sum, beside a mean error. Here both are means.": 1e-6 / 12288,
        "That forgets the channels: 3 in the picture, 4 in the latent.": 1e-6 / 16,
        "That takes the KL's mean, but leaves the error a sum.": 1e-6 * 1024,
        "One side is divided by the other once too often: 64 / 16 is only one direction.": 1e-6 / 4,
    }, otherwise="Not the same training. (Number of latent values) / (number of pixel values) times 1e-6.")


@exercise("07.halve", "Spot the bug: half the size", hints=(
    "With padding=1, around which pixel lies output (0, 0), and which zeros does a stride of 2 ever meet?",
    "Put the zeros there yourself, with F.pad (left, right, top, bottom); the convolution then has no padding of its own.",
))
def halve(x, weight, bias):
    """A 3 x 3 convolution of stride 2 in which output (i, j) looks at the pixels around (2 i + 1, 2 j + 1),
    with zeros outside: (B, C, H, W), H and W even -> (B, D, H/2, W/2)."""
    ### BEGIN SOLUTION
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)
    ### END SOLUTION


@checks(halve)
def _halve(fn: Callable) -> None:
    for (B, C, H, W), D in (((2, 3, 8, 6), 5), ((3, 2, 4, 10), 1)):
        x = normal((B, C, H, W), "lesson 07 halve", 0, dtype=torch.float64)
        weight = normal((D, C, 3, 3), "lesson 07 weight", 0, dtype=torch.float64)
        bias = torch.arange(0.5, D, dtype=torch.float64)

        def conv(pad: tuple[int, ...], mode: str = "constant", x: Tensor = x, weight: Tensor = weight,
                 bias: Tensor = bias) -> Tensor:
            return F.conv2d(F.pad(x, pad, mode=mode), weight, bias, stride=2)

        want = conv((0, 1, 0, 1))
        full = F.conv2d(x, weight, bias, padding=1)
        expect(call(fn, x, weight, bias, shape=want.shape), want, wrong=fits({
            "That pads at the left and on top; so does padding=1, whose lower and right zeros a stride of 2 never meets. The "
            "size is right, but each output looks one pixel too far to the upper left: published weights give a slightly wrong "
            "latent.":
                conv((1, 0, 1, 0)),
            "That pads at the left and below: F.pad counts left, right, top, bottom.": conv((1, 0, 0, 1)),
            "That pads at the right and on top: F.pad counts left, right, top, bottom.": conv((0, 1, 1, 0)),
            "The border is repeated; the padding is zeros.": conv((0, 1, 0, 1), "replicate"),
            "The border is mirrored; the padding is zeros.": conv((0, 1, 0, 1), "reflect"),
            "The bias is missing.": want - bias.view(1, -1, 1, 1),
            "That is a convolution of stride 1, then an average over 2 x 2; the stride does the halving here.":
                F.avg_pool2d(full, 2),
        }, want), otherwise="Not the layer. Look at its last column: there the kernel's right third must meet zeros.")


def _graded(got: Tensor, leaves: tuple[Tensor, ...], weight: Tensor) -> list[Tensor]:
    """Gradients of the weighted sum of ``got`` to the leaves, zeros where there is none."""
    if not got.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad((got * weight).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


@exercise("07.straight_through", "Straight through", points=2, hints=(
    "Start from h, whose gradient you want, and add something that brings its value to e.",
    "What you add must not have a gradient: detach it.",
))
def straight_through(h, e):
    """Has the value of e; hands its gradient to h unchanged, and none to e. h, e: tensors of one shape."""
    ### BEGIN SOLUTION
    return h + (e - h).detach()
    ### END SOLUTION


@checks(straight_through)
def _straight_through(fn: Callable) -> None:
    for shape in LATENTS:
        h, e, weight = normal((3, *shape), "lesson 07 straight", 0, dtype=torch.float64)
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


@exercise("07.codebook_loss", "Spot the bug: who moves towards whom?", points=2, hints=(
    "sg(x) is x.detach().",
    "In the first term e moves, so h is detached; the second is the other way round, times beta.",
))
def codebook_loss(h, e, beta):
    """The loss of a codebook, mean over a picture's numbers: (B, C, h, w) twice -> (B,). Somebody wrote

        ((1 + beta) * (h - e) ** 2).mean((1, 2, 3))

    Its value is right for every h and e, and training with it goes wrong. Write it right.
    """
    ### BEGIN SOLUTION
    codes_move = (h.detach() - e) ** 2
    encoder_moves = (h - e.detach()) ** 2
    return (codes_move + beta * encoder_moves).mean((1, 2, 3))
    ### END SOLUTION


@checks(codebook_loss)
def _codebook_loss(fn: Callable) -> None:
    for shape, beta in zip(LATENTS, (0.25, 1.7), strict=True):
        h, e = normal((2, *shape), "lesson 07 codebook loss", 0, dtype=torch.float64)
        h, e = h.requires_grad_(), e.requires_grad_()
        weight = torch.arange(1.0, 1 + len(h), dtype=torch.float64)
        square = (h - e).detach().square()
        mean = square.mean((1, 2, 3))
        got = call(fn, h, e, beta, shape=weight.shape)
        expect(got.detach(), (1 + beta) * mean, wrong={
            "beta has no effect: both terms count in full.": 2 * mean,
            "The commitment term, beta |h - sg(e)|^2, is missing.": mean,
            "The first term, which moves the codes, is missing.": beta * mean,
            "beta stands before both terms; only the second has it.": 2 * beta * mean,
            "It is summed; take the mean over channels and places.": (1 + beta) * square.sum((1, 2, 3)),
            "It is summed over the channels; take their mean as well.": (1 + beta) * square.sum(1).mean((1, 2)),
            "The differences are not squared.": (1 + beta) * square.sqrt().mean((1, 2, 3)),
            "beta is always 0.25 in your code; use the argument.": 1.25 * mean,
        }, otherwise="The value must be (1 + beta) times the mean squared difference.")
        step = 2 * (h - e).detach() / h[0].numel() * weight.view(-1, 1, 1, 1)
        to_h, to_e = _graded(got, (h, e), weight)

        def pulls(to: Tensor, share: float, step: Tensor = step) -> bool:
            return bool((to - share * step).abs().max() < 1e-5 * step.abs().max())

        if pulls(to_h, beta) and pulls(to_e, -1):
            continue
        if pulls(to_h, 1) and pulls(to_e, -beta):
            raise Mistake("The value is right, but beta is on the wrong term: here the codes move slowly and the encoder fast. "
                          "(diffusers keeps this very mistake as legacy=True.)")
        if pulls(to_h, 1 + beta) and pulls(to_e, -1 - beta):
            raise Mistake("The value is right, but nothing is stopped: each side is pulled by both terms. Where is sg?")
        if not bool(to_h.any()):
            raise Mistake("The value is right, but the encoder gets no gradient: detach e in the second term, not h.")
        if not bool(to_e.any()):
            raise Mistake("The value is right, but the codes get no gradient: detach h in the first term, not e.")
        if pulls(to_h, 1 + beta):
            raise Mistake("The value is right, but h is pulled by both terms: detach it in the first.")
        if pulls(to_e, -1 - beta):
            raise Mistake("The value is right, but e is pulled by both terms: detach it in the second.")
        raise Mistake("The value is right, but not the gradients: e must feel the first term only, h the second.")


@exercise("07.perplexity", "Measure: how many codes are at work", hints=(
    "How often does each code come? Turn the counts into shares.",
    "exp of the entropy - sum p log p; a share of 0 adds nothing.",
))
def perplexity(index):
    """index: (B, h, w), the number of a code at each place. exp of the entropy in nats of the shares of the
    codes: 1 where one code does all the work, k where k codes share it evenly."""
    ### BEGIN SOLUTION
    share = torch.bincount(index.flatten()) / index.numel()
    share = share[share > 0]
    return torch.exp(-(share * share.log()).sum())
    ### END SOLUTION


@checks(perplexity)
def _perplexity(fn: Callable) -> None:
    for B, h, w, codes in ((2, 3, 4, [0, 0, 3, 3, 3, 5, 9]), (3, 2, 5, [1, 2, 2, 7])):
        index = torch.tensor(codes).repeat(B * h * w)[: B * h * w].view(B, h, w)
        share = torch.bincount(index.flatten()).double() / index.numel()
        share = share[share > 0]
        entropy = -(share * share.log()).sum()
        try:
            got = call(fn, index, shape=())
        except Mistake as mistake:
            unused = Mistake("A code that never comes gives 0 times the logarithm of 0; leave it out.")
            raise unused if "NaN" in str(mistake) else mistake from None
        expect(got, entropy.exp(), wrong={
            "That is the entropy; take its exponential.": entropy,
            "That is the entropy in bits; exp of the entropy in nats is asked for.": entropy / math.log(2),
            "That is exp of the entropy in bits; take the natural logarithm, or a power of 2.": (entropy / math.log(2)).exp(),
            "That is how many codes come at all; a code that comes once counts as much there as one that comes always.":
                torch.tensor(float(len(share))),
            "That is one over the largest share.": 1 / share.max(),
            "That is one over the sum of squared shares, another count of the same kind.": 1 / share.square().sum(),
            "The sign is turned round: the entropy is - sum p log p.": (-entropy).exp(),
        }, otherwise="Four codes, each as often, must give 4; a single code must give 1.")


@exercise("07.bits", "Predict: how small is a picture?", hints=(
    "How many places has the latent, and what is written down for each of them?",
    "A place needs only the number of its code; the vectors stand in the codebook, once for all pictures.",
))
def bits():
    """Bits for one 64 x 64 picture: f = 4, a codebook of 256 vectors with 4 numbers each."""
    ### BEGIN SOLUTION
    return (64 // 4) * (64 // 4) * 8        # 256 places, each the number of one of 2^8 codes
    ### END SOLUTION


@checks(bits)
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


@exercise("07.revive", "Break it, and mend it: dead codes", points=2, hints=(
    "A code is dead if its number is nowhere in taken. Which vectors are served worst by the codes they have?",
    "bincount(taken, minlength=...) counts; argsort(descending=True) of the distances puts the worst served vectors first.",
))
def revive(codes, vectors, taken):
    """The codebook (K, C) with each dead code put on a vector: the first on the vector that lies farthest
    from its code, the second on the next, and so on. Codes in use stay. codes: (K, C); vectors: (N, C);
    taken: (N,), the number of each vector's code."""
    ### BEGIN SOLUTION
    dead = torch.bincount(taken, minlength=len(codes)) == 0
    far = (vectors - codes[taken]).norm(dim=1)
    mended = codes.clone()
    mended[dead] = vectors[far.argsort(descending=True)[:int(dead.sum())]]
    return mended
    ### END SOLUTION


@checks(revive)
def _revive(fn: Callable) -> None:
    for N, C, K, some in ((30, 4, 9, (1, 4, 5)), (23, 3, 7, (0, 2, 3, 6))):
        vectors = normal((N, C), "lesson 07 revive", 0, dtype=torch.float64)
        codes = 3 * normal((K, C), "lesson 07 revived", 0, dtype=torch.float64)
        used = torch.tensor(some)
        taken = used[torch.cdist(vectors, codes[used]).argmin(1)]                  # the others are dead
        taken[: len(some)] = used                                                  # and each of these is in use
        dead = torch.ones(K, dtype=torch.bool)
        dead[used] = False
        many, distance = int(dead.sum()), (vectors - codes[taken]).norm(dim=1)
        order = distance.argsort(descending=True)

        def put(on: Tensor, where: Tensor = dead, codes: Tensor = codes) -> Tensor:
            out = codes.clone()
            out[where] = on
            return out

        want = put(vectors[order[:many]])
        first = torch.nonzero(dead)[:1, 0]
        expect(call(fn, codes, vectors, taken, shape=(K, C)), want, wrong=fits({
            "Nothing moved: the dead codes are where they were.": codes,
            "They stand on the vectors that are served best; take the farthest.": put(vectors[order.flip(0)[:many]]),
            "They stand on the first vectors, whatever their distance; take the farthest.": put(vectors[:many]),
            "All dead codes stand on one vector, and so on each other: only one of them will be taken.": put(vectors[order[0]]),
            "Only the first dead code was moved.": put(vectors[order[:1]], first),
            "The right vectors, in the wrong order: the first dead code goes to the farthest.":
                put(vectors[order[:many].flip(0)]),
            "That is farthest from the middle of the vectors, not from the code that each of them has.":
                put(vectors[(vectors - vectors.mean(0)).norm(dim=1).argsort(descending=True)[:many]]),
            "The codes in use moved, and the dead ones stayed.": put(vectors[order[: K - many]], ~dead),
        }, want), tol=1e-9, otherwise="Not the codebook. Codes in use stay, and each dead one gets a vector of its own.")


@exercise("07.paste", "Cut and paste in the latent", points=2, hints=(
    "A box of pixels rarely ends where a cell ends; every cell that it touches is wanted.",
    "Round the start of the box down and its end up, to whole cells. Work on a copy.",
))
def paste(z_a, z_b, box, f):
    """z_a with every cell that a box of pixels touches taken from z_b. z_a, z_b: latents (B, C, h, w) of one
    shape; box: (top, left, bottom, right) in pixels, bottom and right not included; f: pixels a side of a
    cell."""
    ### BEGIN SOLUTION
    top, left, bottom, right = box
    rows, columns = slice(top // f, -(-bottom // f)), slice(left // f, -(-right // f))
    pasted = z_a.clone()
    pasted[:, :, rows, columns] = z_b[:, :, rows, columns]
    return pasted
    ### END SOLUTION


@checks(paste)
def _paste(fn: Callable) -> None:
    for (B, C, h, w), f, box in (((2, 3, 8, 9), 4, (6, 3, 21, 14)), ((3, 4, 11, 7), 2, (5, 2, 9, 11)),
                                 ((1, 2, 6, 6), 8, (8, 16, 24, 40))):
        a, b = normal((2, B, C, h, w), "lesson 07 paste", 0, dtype=torch.float64)
        top, left, bottom, right = box
        inside = (top // f, left // f, math.ceil(bottom / f), math.ceil(right / f))

        def cells(t: int, l: int, u: int, r: int, ground: Tensor = a, over: Tensor = b) -> Tensor:  # noqa: E741
            out = ground.clone()
            out[:, :, t:u, l:r] = over[:, :, t:u, l:r]
            return out

        want = cells(*inside)
        expect(call(fn, a, b, box, f, shape=want.shape), want, wrong=fits({
            "The wrong way round: the ground is z_a, and the box is filled from z_b.": cells(*inside, b, a),
            "The box is in pixels, and the latent has one cell for f of them: divide.": cells(*box),
            "The end is rounded down: cells that the box only touches at its lower and right border are missing.":
                cells(top // f, left // f, bottom // f, right // f),
            "The start is rounded up: cells that the box only touches at its upper and left border are missing.":
                cells(math.ceil(top / f), math.ceil(left / f), inside[2], inside[3]),
            "The start is rounded up and the end down: that is only the cells that lie in the box as a whole.":
                cells(math.ceil(top / f), math.ceil(left / f), bottom // f, right // f),
            "One cell too many below and at the right: a box that ends where a cell ends does not touch the next.":
                cells(top // f, left // f, bottom // f + 1, right // f + 1),
            "Rows and columns are exchanged: the box is (top, left, bottom, right).":
                cells(inside[1], inside[0], inside[3], inside[2]),
            "Nothing was pasted.": a,
            "Only the first picture of the batch was changed.": torch.cat([want[:1], a[1:]]),
        }, want), tol=1e-9, otherwise="Not the paste. Inside the box's cells the answer is z_b, outside it is z_a.")
