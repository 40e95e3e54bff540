"""Exercises of lesson 00: scenes and counterfactuals, pixels, overlap, and what a distance of two sets cannot see."""

from __future__ import annotations

import torch

from minidiff.course.answers import Mistake, call, expect, expect_number
from minidiff.course.tasks import checks, exercise
from minidiff.measure import wilson
from minidiff.rng import normal, uniform
from minidiff.world import Scene, Thing

__all__: list[str] = []


@exercise("00.make_it_snow", "A counterfactual", hints=(
    "scene.replace(...) changes what belongs to the whole picture.",
    "scene.replace_thing(0, ...) changes one thing.",
    "Both return a new scene, so they can be chained.",
))
def make_it_snow(scene):
    """The same scene before a snowy backdrop, its first thing wearing a hat; everything else as it was."""
    ### BEGIN SOLUTION
    return scene.replace(backdrop="snow").replace_thing(0, wears="hat")
    ### END SOLUTION


@checks(make_it_snow)
def _make_it_snow(fn) -> None:
    for scene in (
        Scene((Thing("cat", "red", x=0.3), Thing("house", "blue", x=0.7)), "grass", "flat"),
        Scene((Thing("bear", "brown", wears="glasses", mood="sad"),), "night", "neon"),
    ):
        got = fn(scene)
        if not isinstance(got, Scene):
            raise Mistake(f"It returns {type(got).__name__}; a Scene is expected (render comes later).")
        want = Scene((scene.things[0].replace(wears="hat"), *scene.things[1:]), "snow", scene.style)
        if got == want:
            continue
        if got == scene:
            raise Mistake("Nothing changed: replace returns a new scene, it does not change the old one.")
        if got.backdrop != "snow":
            raise Mistake("The backdrop is not snow.")
        if got.things[0].wears != "hat":
            raise Mistake("The first thing wears no hat.")
        if got.style != scene.style:
            raise Mistake("The style changed too; only backdrop and hat should.")
        if len(got.things) != len(scene.things):
            raise Mistake("A thing was lost: replace_thing keeps the others.")
        if any(a.wears != b.wears for a, b in zip(got.things[1:], scene.things[1:], strict=True)):
            raise Mistake("Only the first thing gets a hat.")
        raise Mistake("Something else of the first thing changed too (its place, colour, size or mood).")


@exercise("00.to_pixels", "Spot the bugs: from [-1, 1] to bytes", hints=(
    "-1 becomes 0, 0 becomes 127.5 and 1 becomes 255 before rounding.",
    "uint8 wraps around: clamp first.",
    "Pictures on screen have the channels last: permute.",
))
def to_pixels(images):
    """images: (B, 3, H, W) float in [-1, 1], sometimes a little outside. Returns (B, H, W, 3) uint8, rounded.

    A colleague wrote (127.5 * images + 127.5).to(torch.uint8).view(B, H, W, 3). It runs. Three faults.
    """
    ### BEGIN SOLUTION
    bytes_ = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return bytes_.permute(0, 2, 3, 1)
    ### END SOLUTION


@checks(to_pixels)
def _to_pixels(fn) -> None:
    for B, H, W in ((2, 5, 7), (3, 8, 4)):
        x = normal((B, 3, H, W), "to_pixels", H, dtype=torch.float64) * 0.7
        x[0, 0, 0, :4] = torch.tensor([-1.3, 1.4, 1.0, 0.99999])
        x[1, 2, :4, 0] = torch.tensor([-1.0, 0.0, -0.5, -1.05])
        scaled = (x.clamp(-1, 1) + 1) * 127.5
        want = scaled.round().permute(0, 2, 3, 1)
        got = call(fn, x.float())
        if got.is_floating_point():
            raise Mistake("The result has fractions; convert it to uint8.")
        if got.dtype is not torch.uint8:
            raise Mistake(f"The result is {got.dtype}; pictures are torch.uint8, one byte a number.")
        if got.ndim == 4 and got.shape[1] == 3:
            raise Mistake("The channels still come before rows and columns; permute them to the end.")
        if got.shape == (B, W, H, 3):
            raise Mistake("Rows and columns are swapped: (B, H, W, 3) is expected.")
        if torch.equal(got.double(), scaled.round().reshape(B, H, W, 3)):
            raise Mistake("view gives the sizes, but leaves every number where it was; permute moves the channels.")
        expect(got.double(), want, tol=1e-6, wrong={
            "Values outside [-1, 1] wrapped around: clamp before converting.":
                ((x + 1) * 127.5).round().permute(0, 2, 3, 1) % 256,
            "It cuts fractions off instead of rounding.": scaled.floor().permute(0, 2, 3, 1),
            "It maps -1 to 1 instead of 0: add 1 before scaling.": (x.clamp(0, 1) * 255).round().permute(0, 2, 3, 1),
            "It scales by 128; the largest byte is 255, so the factor is 127.5.":
                ((x.clamp(-1, 1) + 1) * 128).round().clamp(max=255).permute(0, 2, 3, 1),
        }, otherwise="Some bytes are wrong: 0 should become 127 or 128, -1 should become 0, 1 should become 255.")


@exercise("00.iou", "Overlap of two masks", hints=(
    "The intersection is where both masks are 1, the union where at least one is.",
    "Sum over rows and columns, not over the batch.",
    "clamp(min=1) keeps an empty union from dividing by zero.",
))
def iou(a, b):
    """a, b: (B, H, W) masks in {0, 1}. Intersection over union of each pair, (B,); 0 where both are empty."""
    ### BEGIN SOLUTION
    a, b = a.bool(), b.bool()
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return both / either.clamp(min=1)
    ### END SOLUTION


@checks(iou)
def _iou(fn) -> None:
    for B, H, W in ((5, 6, 4), (6, 3, 7)):
        u = uniform(H, torch.arange(B), 2 * H * W).reshape(B, 2, H, W)
        a, b = (u[:, 0] < 0.5).double(), (u[:, 1] < 0.35).double()
        a[3], b[3] = 0, 0
        a[4], b[4] = 0, 0
        a[4, 0, 1] = b[4, 0, 1] = 1                                     # one pixel in all, and both have it
        a[0] = b[0]
        both, either = (a * b).sum((1, 2)), torch.maximum(a, b).sum((1, 2))
        try:
            got = call(fn, a.float(), b.float())
        except Mistake as mistake:
            raise Mistake("Two empty masks give 0 / 0; return 0 there.") if "NaN" in str(mistake) else mistake from None
        if got.ndim == 0:
            raise Mistake("One number for the whole batch: sum over rows and columns only, so that one value a pair is left.")
        areas = (a.sum((1, 2)) + b.sum((1, 2))).clamp(min=1)
        expect(got, both / either.clamp(min=1), wrong={
            "This is the Dice score: 2 |A and B| / (|A| + |B|).": 2 * both / areas,
            "It divides by |A| + |B|, which counts the intersection twice.": both / areas,
            "It divides by the area of the first mask: that is recall, not overlap.": both / a.sum((1, 2)).clamp(min=1),
            "It divides by the area of the second mask: that is precision, not overlap.": both / b.sum((1, 2)).clamp(min=1),
            "It counts where the masks agree, background included: that is pixel accuracy.": (a == b).double().mean((1, 2)),
        }, otherwise="Equal masks must give 1, also masks of a single pixel; masks without a common pixel must give 0.")


@exercise("00.psnr", "Peak signal-to-noise ratio", hints=(
    "The peak is the distance from the darkest to the brightest value: here it is 2.",
    "The mean runs over channels, rows and columns of one picture.",
    "Decibels: ten times the logarithm to base ten.",
))
def psnr(x, y):
    """x, y: (B, 3, H, W) in [-1, 1]. 10 log10(peak^2 / mean squared error) of each pair in decibels, (B,)."""
    ### BEGIN SOLUTION
    error = ((x - y) ** 2).mean((1, 2, 3))
    return 10 * torch.log10(4 / error)                 # the peak is 2
    ### END SOLUTION


@checks(psnr)
def _psnr(fn) -> None:
    for B, H, W in ((4, 6, 5), (2, 3, 8)):
        x, step = (normal((B, 3, H, W), "psnr", H, k, dtype=torch.float64) * 0.4 for k in range(2))
        y = x + step * torch.tensor([0.01, 0.1, 0.5, 1.0])[:B].view(B, 1, 1, 1).double()
        error = ((x - y) ** 2).mean((1, 2, 3))
        want = 10 * torch.log10(4 / error)
        got = call(fn, x, y)
        if got.ndim == 0:
            raise Mistake("One number for the whole batch: take the mean over channels, rows and columns only.")
        expect(got, want, wrong={
            "The peak is 1 there; values run from -1 to 1, so the peak is 2.": 10 * torch.log10(1 / error),
            "The peak is 255 there, which belongs to bytes; here it is 2.": 10 * torch.log10(255**2 / error),
            "The factor is 20 there; with a squared error it is 10.": 20 * torch.log10(4 / error),
            "It takes the natural logarithm; decibels use base ten.": 10 * torch.log(4 / error),
            "The peak is not squared.": 10 * torch.log10(2 / error),
            "The sign is turned round: peak over error, not error over peak.": -want,
        }, otherwise="Pictures that differ by 0.02 everywhere must give 40 decibels.")


@exercise("00.frechet_1d", "Frechet distance of two Gaussians on the line", points=2, hints=(
    "In one dimension the trace term S_a + S_b - 2 sqrt(S_a S_b) is a square.",
    "It is (sigma_a - sigma_b)^2.",
    "Add the squared distance of the means.",
))
def frechet_1d(a, b):
    """a: (N,), b: (M,) numbers. Fit a Gaussian to each (unbiased variance); return the squared Frechet
    distance, a 0-d tensor."""
    ### BEGIN SOLUTION
    return (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    ### END SOLUTION


@checks(frechet_1d)
def _frechet_1d(fn) -> None:
    for N, M, stretch in ((9, 7, 0.7), (6, 11, 3.0)):
        a = normal((N,), "frechet", 0, dtype=torch.float64) * 2 + 1
        b = normal((M,), "frechet", 1, dtype=torch.float64) * stretch - 0.5
        mean, spread = (a.mean() - b.mean()) ** 2, (a.std() - b.std()) ** 2
        expect(call(fn, a, b), mean + spread, wrong={
            "The spread term compares variances; it is the standard deviations that are subtracted.":
                mean + (a.var() - b.var()) ** 2,
            "It uses the biased standard deviation (divided by N).": mean + (a.std(correction=0) - b.std(correction=0)) ** 2,
            "The cross term is missing: S_a + S_b - 2 sqrt(S_a S_b).": mean + a.var() + b.var(),
            "The means are not squared.": (a.mean() - b.mean()).abs() + spread,
            "Only the means are compared; the spreads count too.": mean,
            "Only the spreads are compared; the means count too.": spread,
            "It takes the root; the squared distance is what FID reports.": (mean + spread).sqrt(),
        }, otherwise="A set against itself moved by 3 must give 9; against itself stretched to twice its width about its mean, "
                     "its variance.")


@exercise("00.total_variation", "Total variation of two histograms", hints=(
    "Turn counts into shares first: the two sets may differ in size.",
    "Then half the sum of absolute differences.",
))
def total_variation(counts_a, counts_b):
    """counts_a, counts_b: (K,) how often each of K values came. Half the sum of |p - q| over the shares, a
    0-d tensor."""
    ### BEGIN SOLUTION
    p, q = counts_a / counts_a.sum(), counts_b / counts_b.sum()
    return (p - q).abs().sum() / 2
    ### END SOLUTION


@checks(total_variation)
def _total_variation(fn) -> None:
    for a, b in ((torch.tensor([5.0, 0.0, 3.0, 12.0]).double(), torch.tensor([1.0, 4.0, 9.0, 2.0]).double()),
                 (torch.tensor([7.0, 1.0, 0.0]).double(), torch.tensor([0.0, 30.0, 20.0]).double())):
        p, q = a / a.sum(), b / b.sum()
        expect(call(fn, a, b), (p - q).abs().sum() / 2, wrong={
            "The half is missing: two histograms without overlap should be 1 apart, not 2.": (p - q).abs().sum(),
            "Counts are compared, not shares: divide each by its own sum.": (a - b).abs().sum() / 2,
            "It takes the largest difference instead of half the sum.": (p - q).abs().max(),
            "It squares the differences; take absolute values.": ((p - q) ** 2).sum() / 2,
            "The signs cancel: take absolute values before summing.": (p - q).sum() / 2,
            "It takes a mean over the values; it is a sum.": (p - q).abs().mean() / 2,
        }, otherwise="Counts (1, 0) against (0, 5) must give 1; the same counts twice must give 0.")


@exercise("00.fool", "Break it: fool the Frechet distance", points=2, hints=(
    "The distance knows mean and covariance and nothing else. What can be done to all rows that changes neither?",
    "A covariance is made of products of two deviations from the mean, so their sign cancels.",
))
def look_alike(features):
    """features: (N, d), one row a picture. Returns (N, d): another set with the same mean and covariance,
    whose Frechet distance to ``features`` is 0. Each row has moved by half of its distance from the mean or
    more."""
    ### BEGIN SOLUTION
    return 2 * features.mean(0) - features
    ### END SOLUTION


@checks(look_alike)
def _fool(fn) -> None:
    for N, d in ((40, 5), (25, 8)):
        x = normal((N, d), "fool", N, dtype=torch.float64) @ normal((d, d), "fool mix", d, dtype=torch.float64) + 1.5
        got = call(fn, x, shape=(N, d))
        mean, covariance = x.mean(0), torch.cov(x.T)
        if float((got.mean(0) - mean).abs().max()) > 1e-4 * float(mean.abs().max()):
            raise Mistake("The mean of the rows has moved, and the distance counts its square.")
        if float((torch.cov(got.T) - covariance).abs().max()) > 1e-4 * float(covariance.abs().max()):
            raise Mistake("The covariance is another one: how far the rows spread, or in which directions, has changed.")
        if torch.equal(got, x):
            raise Mistake("These are the same rows; each has to move.")
        same = torch.cdist(got, x).min(1).values.max() < 1e-6
        moved, reach = (got - x).norm(dim=1), (x - mean).norm(dim=1)
        if same:
            raise Mistake("These are the same rows in another order: as a set nothing has changed.")
        if bool((moved < 0.5 * reach).any()):
            raise Mistake("Some rows have hardly moved; every one has to, by half its distance from the mean or more.")


@exercise("00.forty_of_forty", "What forty of forty proves", hints=(
    "It is not 1: forty samples cannot tell 100 % from 99 %.",
    "The rule of three says about 1 - 3 / 40; Wilson is a bit lower.",
    "from minidiff.measure import wilson",
))
def forty_of_forty():
    """All of 40 samples were valid. Predict: how low may the true share of valid samples still be (95 %,
    Wilson)?"""
    ### BEGIN SOLUTION
    return wilson(40, 40).low
    ### END SOLUTION


@checks(forty_of_forty)
def _forty(value) -> None:
    expect_number(
        value,
        0.9124,
        tol=0.006,
        wrong={
            "1 is the share that was seen; the interval reaches below it.": 1.0,
            "That is 39 of 40 seen.": 0.975,
            "That is 95 %, the confidence, not the bound.": 0.95,
            "That is the rule of three (1 - 3 / N), near but a different bound.": 0.925,
            "That is the width of the interval, not its lower end.": 0.0876,
        },
        otherwise="Not quite; compute it with minidiff.measure.wilson(40, 40).",
    )
