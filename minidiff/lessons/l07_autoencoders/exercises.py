"""Exercises of lesson 07: the Gaussian bottleneck, the perceptual distance, the codebook, the discriminator, the scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.latent.bottleneck import kl_standard_normal, reparametrise
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


@exercise("07.kl", "The KL of a Gaussian from the standard one", points=2, hints=(
    "For one number: half of mu^2 + sigma^2 - 1 - log sigma^2. It is 0 at mu = 0, sigma = 1.",
    "flatten(1) keeps the pictures apart; then sum over dimension 1.",
))
def kl_per_picture(mu, logvar):
    """KL(N(mu, sigma^2) || N(0, 1)) of each picture in nats, summed over its latent: (B, C, h, w) twice ->
    (B,)."""
    ### BEGIN SOLUTION
    each = 0.5 * (mu ** 2 + logvar.exp() - 1 - logvar)
    return each.flatten(1).sum(1)
    ### END SOLUTION


@checks(kl_per_picture)
def _kl(fn: Callable) -> None:
    def total(x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)

    for shape in LATENTS:
        mu, logvar = normal((2, *shape), "lesson 07 kl", 0, dtype=torch.float64)
        want, var = kl_standard_normal(mu, logvar), logvar.exp()
        expect(call(fn, mu, logvar, shape=want.shape), want, wrong=fits({
            "It is averaged over the latent; the task (and latent diffusion) sums.": want / mu[0].numel(),
            "The factor one half is missing.": 2 * want,
            "The sign is wrong: a KL is never below zero.": -want,
            "The 1 is missing: at mu = 0 and sigma = 1 the answer must be 0.": total(0.5 * (mu**2 + var - logvar)),
            "logvar is used as the variance: its exp is missing.": total(0.5 * (mu**2 + logvar - 1 - logvar)),
            "exp(2 logvar) takes logvar for the logarithm of sigma; it is that of sigma squared.":
                total(0.5 * (mu**2 + (2 * logvar).exp() - 1 - 2 * logvar)),
            "sigma stands where sigma squared belongs.": total(0.5 * (mu**2 + (0.5 * logvar).exp() - 1 - logvar)),
            "This is the other KL, of the standard Gaussian from the posterior; KL is not symmetric.":
                total(0.5 * ((mu**2 + 1) / var - 1 + logvar)),
            "mu is not squared.": total(0.5 * (mu + var - 1 - logvar)),
            "The sign of logvar is wrong.": total(0.5 * (mu**2 + var - 1 + logvar)),
        }, want), otherwise="Not the KL. Check it at mu = 0, logvar = 0 (0 nats) and mu = 1, logvar = 0 (half a nat a number).")


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
    "F.pad(x, (left, right, top, bottom)), then F.conv2d without any padding of its own.",
    "F.pad(x, (0, 1, 0, 1))",
))
def halve(x, weight, bias):
    """Zeros below and at the right (one row, one column), then a 3 x 3 convolution of stride 2:
    (B, D, H/2, W/2).

    Somebody wrote F.conv2d(x, weight, bias, stride=2, padding=1). The shape is right; published weights give
    a wrong latent with it.
    """
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


@exercise("07.perceptual", "A distance between features", points=2, hints=(
    "Dimension 1 holds the channels: a / a.norm(dim=1, keepdim=True) has length 1 at each place.",
    "Square the difference, sum over dimension 1, mean over the two dimensions of place; then over the depths.",
))
def feature_distance(layers_x, layers_y):
    """Two lists of feature maps, (B, C, h, w) at each depth, of two pictures -> (B,). Unit vectors at each
    place, squared difference summed over channels, mean over places, mean over depths."""
    ### BEGIN SOLUTION
    total = 0
    for a, b in zip(layers_x, layers_y):
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        total = total + ((a - b) ** 2).sum(1).mean((1, 2))
    return total / len(layers_x)
    ### END SOLUTION


@checks(feature_distance)
def _perceptual(fn: Callable) -> None:
    for shapes in (((2, 4, 6, 5), (2, 8, 3, 4), (2, 3, 2, 7)), ((3, 5, 4, 2), (3, 2, 6, 4))):
        xs = [normal(s, "lesson 07 features", i, dtype=torch.float64) * (1 + i) for i, s in enumerate(shapes)]
        ys = [x + 0.7 * normal(tuple(x.shape), "lesson 07 other", i, dtype=torch.float64) for i, x in enumerate(xs)]

        def of(each: Callable[[Tensor, Tensor], Tensor], dims: tuple[int, ...] | None = (1,), sum_depths: bool = False,
               xs: list[Tensor] = xs, ys: list[Tensor] = ys) -> Tensor:
            def unit(a: Tensor) -> Tensor:
                return a if dims is None else a / a.square().sum(dims, keepdim=True).sqrt()

            depths = torch.stack([each(unit(a), unit(b)) for a, b in zip(xs, ys, strict=True)])
            return depths.sum(0) if sum_depths else depths.mean(0)

        def right(a: Tensor, b: Tensor) -> Tensor:
            return (a - b).square().sum(1).mean((1, 2))

        want = of(right)
        expect(call(fn, xs, ys, shape=want.shape), want, wrong=fits({
            "The features are not brought to length 1 first: one loud depth then rules the sum.": of(right, None),
            "The length was taken over the places; it is that of the channels at each place (dim=1).": of(right, (2, 3)),
            "The length was taken over channels and places together; each place has its own.": of(right, (1, 2, 3)),
            "The channels are averaged; the squares are summed over them.": of(lambda a, b: (a - b).square().mean((1, 2, 3))),
            "The places are summed; take their mean, or large maps count more.": of(lambda a, b: (a - b).square().sum((1, 2, 3))),
            "The depths are summed; take their mean.": of(right, sum_depths=True),
            "The difference is not squared (its absolute value is used).": of(lambda a, b: (a - b).abs().sum(1).mean((1, 2))),
            "A square root too many: the distance stays squared.": of(lambda a, b: (a - b).square().sum(1).sqrt().mean((1, 2))),
            "This is the cosine between the features, not a distance: it must be 0 for equal pictures.":
                of(lambda a, b: (a * b).sum(1).mean((1, 2))),
        }, want), otherwise="Not the distance. It must be 0 for x = y, and not change when a feature map is multiplied by 3.")


@exercise("07.nearest", "The nearest code", hints=(
    "Bring the channels to the end with permute before anything is flattened.",
    "torch.cdist(vectors, codes) has one row a place and one column a code; argmin over the columns.",
))
def nearest_code(h, codes):
    """h: (B, C, height, width); codes: (K, C). For each place the number of its nearest code: (B, height,
    width)."""
    ### BEGIN SOLUTION
    vectors = h.permute(0, 2, 3, 1)                        # channels last: one vector a place
    far = torch.cdist(vectors.flatten(0, 2), codes)        # (B * height * width, K)
    return far.argmin(1).view(vectors.shape[:3])
    ### END SOLUTION


@checks(nearest_code)
def _nearest(fn: Callable) -> None:
    for (B, C, height, width), K in (((2, 3, 4, 5), 16), ((3, 2, 6, 4), 11)):
        h = normal((B, C, height, width), "lesson 07 nearest", 0, dtype=torch.float64)
        length = torch.linspace(0.3, 2, K, dtype=torch.float64)[:, None]
        codes = normal((K, C), "lesson 07 codes", 0, dtype=torch.float64) * length
        flat = h.permute(0, 2, 3, 1).flatten(0, 2)
        square = (flat[:, None] - codes[None]).square().sum(2)
        shape = (B, height, width)
        dot = flat @ codes.T
        want = square.argmin(1).view(shape)
        got = call(fn, h, codes, shape=shape, dtype=torch.int64)
        mixed = (h.reshape(-1, C)[:, None] - codes[None]).square().sum(2)
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
                square.argmin(1).view(shape).transpose(1, 2).reshape(shape),
            "Only the first channel was compared.":
                (flat[:, None, 0] - codes[None, :, 0]).abs().argmin(1).view(shape),
        }, want), tol=1e-9, otherwise="Not the nearest code everywhere. Try h made of codes: the answer must be their numbers.")


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


@exercise("07.collapse", "Break it: a codebook that collapses", hints=(
    "One code that is near to all vectors, and all others too far away to be the nearest to any.",
    "The origin is near to all of them; ten times the largest number that they hold is far from all of them.",
))
def collapsed(vectors, K):  # noqa: N803
    """vectors: (N, C), what an encoder says at N places. Returns a codebook (K, C) of K different codes, one
    of which alone is the nearest to every vector."""
    ### BEGIN SOLUTION
    distant = vectors.abs().max() * torch.arange(K)
    return 10 * distant[:, None].expand(K, vectors.shape[1])
    ### END SOLUTION


@checks(collapsed)
def _collapse(fn: Callable) -> None:
    for N, C, K in ((30, 4, 8), (17, 3, 5)):
        vectors = normal((N, C), "lesson 07 collapse", 0, dtype=torch.float64) * 2 + 0.7
        codes = call(fn, vectors, K, shape=(K, C))
        between = torch.cdist(codes, codes) + torch.eye(K, dtype=torch.float64)
        if float(between.min()) < 1e-9:
            raise Mistake("Two of the codes are the same; K different ones are asked for.")
        chosen = torch.cdist(vectors, codes).argmin(1)
        if len(chosen.unique()) > 1:
            raise Mistake(f"{len(chosen.unique())} of the codes are the nearest to some vector; it must be one.")


@exercise("07.bits", "Predict: how small is a picture?", hints=(
    "How many places has the latent? How many bits name one of 256 codes?",
    "16 * 16 places, 8 bits each.",
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


@exercise("07.hinge", "The discriminator's hinge loss", hints=(
    "Real patches should get logits above 1, false ones below -1: beyond that the loss is 0.",
    "First relu for each patch, then the mean over the dimensions 1, 2, 3.",
))
def discriminator_loss(real, fake):
    """Half of relu(1 - real) + relu(1 + fake), mean over patches. real, fake: logits (B, 1, h, w) -> (B,)."""
    ### BEGIN SOLUTION
    return 0.5 * (F.relu(1 - real) + F.relu(1 + fake)).mean((1, 2, 3))
    ### END SOLUTION


@checks(discriminator_loss)
def _hinge(fn: Callable) -> None:
    def mean(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))

    for B, h, w in ((3, 5, 4), (2, 3, 6)):
        shift = torch.tensor([[2.5, 0.4, -1.0], [-2.5, 0.4, 0.5]], dtype=torch.float64)[:, :B].reshape(2, B, 1, 1, 1)
        real, fake = 1.5 * normal((2, B, 1, h, w), "lesson 07 hinge", 0, dtype=torch.float64) + shift
        want = 0.5 * mean(F.relu(1 - real) + F.relu(1 + fake))
        expect(call(fn, real, fake, shape=(B,)), want, wrong=fits({
            "The signs are turned: real patches should get high logits, false ones low.":
                0.5 * mean(F.relu(1 + real) + F.relu(1 - fake)),
            "Both terms ask for high logits: the false ones should be low.": 0.5 * mean(F.relu(1 - real) + F.relu(1 - fake)),
            "Without relu the discriminator is rewarded for ever larger logits.": 0.5 * mean(2 - real + fake),
            "The one half is missing.": 2 * want,
            "The mean was taken before the relu: then good patches excuse bad ones.":
                0.5 * (F.relu(1 - mean(real)) + F.relu(1 + mean(fake))),
            "The patches are summed; take their mean.": want * h * w,
            "The margin of 1 is missing.": 0.5 * mean(F.relu(-real) + F.relu(fake)),
            "That is the logistic loss (softplus), not the hinge.": 0.5 * mean(F.softplus(-real) + F.softplus(fake)),
            "The false pictures are missing.": 0.5 * mean(F.relu(1 - real)),
            "The real pictures are missing.": 0.5 * mean(F.relu(1 + fake)),
        }, want), otherwise="Not the hinge loss. Logits of 2 on real and -2 on false patches must cost nothing.")


@exercise("07.adaptive", "Equal pull", points=2, hints=(
    "torch.autograd.grad(loss, last, retain_graph=True)[0] gives one gradient and leaves the graph standing.",
    "norm() of a tensor of any shape is that of all its numbers.",
))
def balance(rec, adv, last):
    """|d rec / d last| / (|d adv / d last| + 1e-4), between 0 and 1e4, a number without a graph. rec, adv:
    losses whose graph is still needed afterwards; last: the weight of the decoder's last layer."""
    ### BEGIN SOLUTION
    (a,) = torch.autograd.grad(rec, last, retain_graph=True)
    (b,) = torch.autograd.grad(adv, last, retain_graph=True)
    return (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4)
    ### END SOLUTION


@checks(balance)
def _adaptive(fn: Callable) -> None:
    # An ordinary ratio, one below 1, a gradient as small as the 1e-4, none at all; the last layer of several shapes.
    for loud, scale, (D, C, k, j) in ((30.0, 1.0, (3, 4, 3, 1)), (0.2, 5.0, (2, 3, 1, 5)), (30.0, 2e-4, (3, 2, 5, 3)),
                                      (20.0, 0.0, (3, 4, 3, 1))):
        last = normal((D, C, k, j), "lesson 07 last", 0, dtype=torch.float64).requires_grad_()
        x = normal((2, C, 7, 6), "lesson 07 adaptive", 0, dtype=torch.float64)
        y = F.conv2d(x, last, padding="same").tanh()
        truth = normal(tuple(y.shape), "lesson 07 truth", 0, dtype=torch.float64)
        rec, adv = (y - truth).abs().mean() * loud, -scale * (y**3).mean()
        a, b = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rec, adv))
        got = fn(rec, adv, last)
        if not isinstance(got, (Tensor, float, int)):
            raise Mistake("It returns nothing; is a return missing?" if got is None else f"It returns {type(got).__name__}.")
        if last.grad is not None:
            raise Mistake("It leaves something in last.grad (backward() does); use torch.autograd.grad.")
        if isinstance(got, Tensor) and got.requires_grad:
            raise Mistake("The weight carries a graph; it is a number: detach it.")
        try:
            torch.autograd.grad(rec + adv, last)
        except RuntimeError:
            raise Mistake("Afterwards the losses have lost their graph: retain_graph=True in both calls.") from None
        got, ratio = torch.as_tensor(got).double(), (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4)
        if got.shape != ():
            raise Mistake(f"The shape is {tuple(got.shape)}, but one number is expected.")
        if not math.isfinite(float(got)):
            raise Mistake("It divides by zero when the discriminator's gradient vanishes: add 1e-4 to the norm below.")
        wrong = {
            "The ratio is upside down: a weak discriminator needs a large weight.": (b.norm() / (a.norm() + 1e-4)).clamp(0, 1e4),
            "The norms are squared.": (a.norm() ** 2 / (b.norm() ** 2 + 1e-4)).clamp(0, 1e4),
            "That is the ratio of the sums of absolute values; norm() is the Euclidean one.":
                (a.abs().sum() / (b.abs().sum() + 1e-4)).clamp(0, 1e4),
            "That is the ratio of the losses, not of their gradients.": (rec / (adv.abs() + 1e-4)).detach().clamp(0, 1e4),
            "The 1e-4 below is missing: it is small beside most gradients, but not beside a vanishing one.":
                (a.norm() / b.norm()).clamp(0, 1e4),
            "It is not clamped: at most 1e4.": a.norm() / (b.norm() + 1e-4),
            "The 1e-4 is added to the ratio; it belongs to the norm below.": (a.norm() / b.norm() + 1e-4).clamp(0, 1e4),
        }
        expect(got, ratio, tol=1e-6, wrong=fits(wrong, ratio),
               otherwise="Not the ratio of the gradients' norms on the last layer. With adv = rec it must be about 1.")


@exercise("07.scale", "One number for the latent", hints=(
    "One number for everything: over pictures, channels and places together.",
    "The standard deviation goes below.",
))
def scale_factor(z):
    """z: (N, C, h, w), unscaled latents of many pictures. The number that brings their standard deviation to
    1."""
    ### BEGIN SOLUTION
    return 1 / z.std()
    ### END SOLUTION


@checks(scale_factor)
def _scale(fn: Callable) -> None:
    for N, C, h, w in ((400, 3, 4, 5), (300, 2, 6, 7)):
        spread = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)[:C].view(1, C, 1, 1)
        z = normal((N, C, h, w), "lesson 07 scale", 0, dtype=torch.float64) * spread * torch.linspace(0.5, 2, N).view(-1, 1, 1, 1)
        z = z + torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)[:C].view(1, C, 1, 1)
        got = call(fn, z)
        if got.numel() > 1:
            raise Mistake(f"One number for all, not {got.numel()}: the published pipelines know a single scaling_factor.")
        expect(got.reshape(()), 1 / z.std(), tol=1e-4, wrong={                         # N or N - 1 below: both will do
            "That is the standard deviation itself; latents are multiplied by the factor.": z.std(),
            "That is one over the variance.": 1 / z.var(),
            "The mean is not taken off: that is one over the root mean square.": 1 / z.square().mean().sqrt(),
            "That is the mean of each channel's own factor.": (1 / z.std((0, 2, 3))).mean(),
            "That averages the channels' standard deviations; take one over everything.": 1 / z.std((0, 2, 3)).mean(),
            "That averages the pictures' standard deviations, and so leaves out how pictures differ.":
                1 / z.std((1, 2, 3)).mean(),
            "Only the first picture was looked at; the factor then hangs on the draw.": 1 / z[0].std(),
            "That is one over the mean absolute value.": 1 / z.abs().mean(),
            "That is the factor of Stable Diffusion 1; each autoencoder has its own.": torch.tensor(0.18215, dtype=torch.float64),
        }, otherwise="(z * factor).std() must be 1.")
