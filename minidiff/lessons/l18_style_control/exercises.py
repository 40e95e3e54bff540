"""Exercises of lesson 18: statistics that forget places, the sum and the joint form, tokens, colours, leakage, search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, "lesson 18", seed, dtype=torch.float64)


# Codes -----------------------------------------------------------------------------------------------------------------------


@exercise(
    "18.break_style",
    "Break it: two pictures of one style",
    points=2,
    hints=(
        "Mean and standard deviation do not change when the numbers change places.",
        "Take 16 numbers. Sorted into halves, few neighbours differ; by turns, all of them do.",
        "Zeros on the left and ones on the right; then 0 and 1 by turns.",
    ),
)
def break_style():
    """Give two 4 x 4 tables of numbers (lists of lists) with the same mean and the same standard deviation,
    which style statistics of this one channel cannot tell apart, such that the mean absolute difference
    of horizontal neighbours is at least three times as large in the second as in the first.
    """
    ### BEGIN SOLUTION
    return [[0.0, 0.0, 1.0, 1.0]] * 4, [[0.0, 1.0, 0.0, 1.0]] * 4
    ### END SOLUTION


@checks(break_style)
def _break_style(value: Any) -> None:
    try:
        tables = [torch.as_tensor(table, dtype=torch.float64) for table in value]
    except (TypeError, ValueError, RuntimeError):
        raise Mistake("The answer is a pair of tables of numbers: two lists of lists.") from None
    if len(tables) != 2 or any(tuple(x.shape) != (4, 4) for x in tables):
        raise Mistake(f"Two tables of 4 x 4 are asked for, not shapes {[tuple(x.shape) for x in tables]}.")
    if not all(bool(torch.isfinite(x).all()) for x in tables):
        raise Mistake("Only finite numbers.")
    (a, b), tol = tables, 1e-6
    if abs(float(a.mean() - b.mean())) > tol:
        raise Mistake(f"The means differ, {float(a.mean()):.3g} and {float(b.mean()):.3g}: statistics see that.")
    if abs(float(a.std() - b.std())) > tol:
        raise Mistake(f"The deviations differ, {float(a.std()):.3g} and {float(b.std()):.3g}: statistics see that.")
    rough = [float((x[:, 1:] - x[:, :-1]).abs().mean()) for x in tables]
    if rough[1] <= 0:
        raise Mistake("In the second table no neighbours differ at all.")
    if rough[1] < 3 * rough[0] - 1e-6:
        raise Mistake(
            f"Neighbours differ by {rough[0]:.3g}, then by {rough[1]:.3g}; three times as much is asked for."
        )


@exercise(
    "18.neighbour",
    "Measure: does the nearest have the same label?",
    points=2,
    hints=(
        "Cosines of all pairs: codes divided by their lengths, times their own transpose.",
        "Nobody is his own neighbour: put minus infinity on the diagonal before argmax.",
    ),
)
def nearest_label(codes, labels):
    """codes (N, D), of any length; labels (N,) whole numbers. For each row: the row with the largest cosine
    among the *others*. Returns the share of rows whose nearest has their own label, one number.
    """
    ### BEGIN SOLUTION
    unit = codes / codes.norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return (labels[cosine.argmax(1)] == labels).double().mean()
    ### END SOLUTION


@checks(nearest_label)
def _nearest_label(fn: Callable) -> None:
    for case, (n, d, k) in enumerate([(24, 5, 3), (31, 7, 4), (18, 4, 2)]):
        labels = (torch.arange(n) * 7 + case) % k
        centres = _noise(k, d, seed=case)
        codes = (centres[labels] + 0.8 * _noise(n, d, seed=10 + case)) * (0.2 + 3 * _noise(n, 1, seed=20 + case).abs())
        unit = codes / codes.norm(dim=1, keepdim=True)
        own = torch.eye(n, dtype=torch.bool)

        def share(close: Tensor, labels: Tensor = labels) -> Tensor:
            return (labels[close.argmax(1)] == labels).double().mean()

        cosine = unit @ unit.T
        want = share(cosine.masked_fill(own, -torch.inf))
        gap = (codes[:, None] - codes[None]).norm(dim=2)
        counts = torch.bincount(labels).double() / n
        expect(
            call(fn, codes, labels, shape=()),
            want,
            wrong=fits(
                {
                    "A row is its own nearest: leave it out.": torch.ones((), dtype=torch.float64),
                    "Codes of different lengths: divide by them before the product.": share(
                        (codes @ codes.T).masked_fill(own, -torch.inf)
                    ),
                    "That is the largest distance between points, not a cosine.": share((-gap).masked_fill(own, -torch.inf)),
                    "That is the *least* like row.": share((-cosine).masked_fill(own, -torch.inf)),
                    "That is what guessing gives; compare with the nearest.": counts.square().sum(),
                    "A share, not a count.": want * n,
                    "That is the share of wrong neighbours.": 1 - want,
                },
                want,
            ),
            otherwise="With two rows of each label, far from all others, the share is 1.",
        )


# Guidance --------------------------------------------------------------------------------------------------------------------


@exercise(
    "18.sum",
    "What the sum draws",
    hints=(
        "eps of N(m, 1) is affine in m at every t: adding predictions adds means.",
        "m_s + m_y - m_0 at g_s = g_y = 1. Is the joint mean used anywhere?",
    ),
)
def sum_mean():
    """A model draws exactly from N(m, 1): m = 0 with nothing said, 2 with the style alone, 5 with the content
    alone, 5.5 with both. PARASOL's guidance with g_s = g_y = 1 never asks for both. Around which mean do its
    samples lie?
    """
    ### BEGIN SOLUTION
    return 0 + (2 - 0) + (5 - 0)  # the interaction, 5.5 - 7 = -1.5, is never seen
    ### END SOLUTION


@checks(sum_mean)
def _sum_mean(value: Any) -> None:
    expect_number(
        value,
        7.0,
        tol=1e-6,
        wrong={
            "That is the joint mean; the sum never evaluates it.": 5.5,
            "That is the mean of the two; they are added.": 3.5,
            "That is the interaction.": -1.5,
            "The interaction is not subtracted either: it is not there.": 8.5,
            "That is the content alone; with g_s = 1 the style has its say.": 5.0,
            "All three are added; the joint one is never evaluated.": 12.5,
        },
        otherwise="Add to m = 0 what each condition alone moves it.",
    )


@exercise(
    "18.joint",
    "Two weights that reach the joint prediction",
    points=2,
    hints=("Go in two steps: from nothing to the content, and from the content to both.", "u + g_y (y - u) + g_s (both - y)."),
)
def joint_guidance(nothing, content, both, g_style, g_content):
    """Predictions (B, C, H, W) with nothing said, with the content alone, with content and style.

    Returns a guided prediction, linear in the three, such that g_style = g_content = 1 gives exactly
    `both`, g_style = 0 is ordinary guidance with the content alone and weight g_content, and the
    direction that g_style scales is what the style adds where the content is said already.
    """
    ### BEGIN SOLUTION
    return nothing + g_content * (content - nothing) + g_style * (both - content)
    ### END SOLUTION


@checks(joint_guidance)
def _joint_guidance(fn: Callable) -> None:
    for case, (shape, gs, gy) in enumerate([((2, 3, 4, 5), 5.0, 3.0), ((3, 2, 2, 6), 0.5, 2.0), ((2, 4, 3, 3), 1.0, 4.0)]):
        u, y, b = (_noise(*shape, seed=40 * case + k) for k in range(3))
        want = u + gy * (y - u) + gs * (b - y)
        expect(
            call(fn, u, y, b, gs, gy, shape=shape),
            want,
            wrong=fits(
                {
                    "The weights are exchanged.": u + gs * (y - u) + gy * (b - y),
                    "What the style adds is measured from nothing; the content is said already: both - content.": u
                    + gy * (y - u)
                    + gs * (b - u),
                    "The content's step is left out of the sum.": u + gs * (b - y),
                    "That is ordinary guidance by `both`, with one weight.": u + gy * (b - u),
                    "You begin at the content; begin with nothing said.": y + gy * (y - u) + gs * (b - y),
                    "That begins at the content and ignores g_content.": y + gs * (b - y),
                    "Without `nothing` at the front, weights of 1 give `both` minus it.": gy * (y - u) + gs * (b - y),
                    "The style's direction points away from `both`.": u + gy * (y - u) + gs * (y - b),
                },
                want,
            ),
            otherwise="Try both weights 1: only `both` may be left.",
        )


@exercise(
    "18.put_tokens",
    "Debug: a style without effect",
    points=2,
    hints=(
        "How long is the context after the concatenation, and which part does the cut keep?",
        "The style must take the place of padding: the last k positions.",
        "Work on a copy: context.clone(), then the slice from -k on.",
    ),
)
def put_tokens(context, style):
    """context (B, L, D): the content's tokens and padding; style (B, k, D), k < L.

    This ran without an error, and the style had no effect at all:
        torch.cat((context, style), 1)[:, :context.shape[1]]
    Returns (B, L, D): the context with the style's tokens, in their order, in its last k positions.
    """
    ### BEGIN SOLUTION
    k = style.shape[1]
    return torch.cat((context[:, :-k], style), 1)
    ### END SOLUTION


@checks(put_tokens)
def _put_tokens(fn: Callable) -> None:
    for case, (n, length, d, k) in enumerate([(2, 7, 3, 2), (3, 9, 4, 4), (4, 6, 5, 1)]):
        context, style = _noise(n, length, d, seed=60 * case), _noise(n, k, d, seed=60 * case + 1)
        want = torch.cat((context[:, : length - k], style), 1)
        added = torch.cat((context[:, : length - k], context[:, length - k :] + style), 1)
        expect(
            call(fn, context, style, shape=(n, length, d)),
            want,
            wrong=fits(
                {
                    "That is the faulty line: the cut takes away what was just added.": context,
                    "The style stands in front, where the content's words are: it takes their places.": torch.cat(
                        (style, context[:, k:]), 1
                    ),
                    "Everything is pushed back and the end is cut off: its positions are not the content's any more.": torch.cat(
                        (style, context[:, : length - k]), 1
                    ),
                    "The end of the context is kept and its beginning lost.": torch.cat((context[:, k:], style), 1),
                    "The style is added to the padding; it takes its place.": added,
                    "The style's tokens are in reverse order.": torch.cat((context[:, : length - k], style.flip(1)), 1),
                    "Only the style's first token, everywhere.": torch.cat(
                        (context[:, : length - k], style[:, :1].expand(-1, k, -1)), 1
                    ),
                },
                want,
            ),
            otherwise="All but the last k positions must be the context's, the last k the style's.",
        )


# Colours ---------------------------------------------------------------------------------------------------------------------


@exercise(
    "18.whiten",
    "The colour step",
    points=3,
    hints=(
        "Three moves: take the mean off, make the covariance the identity, give it the style's.",
        "Symmetric roots from torch.linalg.eigh: V diag(w ** p) V^T, with p = 1/2 or -1/2.",
        "root(style, 1/2) @ root(image, -1/2) @ (x - mean of x) + mean of the style, on pixels as columns.",
    ),
)
def colour_step(image, style):
    """image (3, N), style (3, M): the colours of all pixels, as columns. Both covariances are invertible.

    Returns (3, N): the image's colours moved so that mean and covariance (divided by N) are those of the
    style, by the symmetric roots of both covariances; unchanged where they are so already.
    """

    ### BEGIN SOLUTION
    def root(covariance, power):
        values, vectors = torch.linalg.eigh(covariance)
        return vectors @ torch.diag(values**power) @ vectors.T

    mean, goal = image.mean(1, keepdim=True), style.mean(1, keepdim=True)
    cov_x, cov_s = torch.cov(image, correction=0), torch.cov(style, correction=0)
    return root(cov_s, 0.5) @ root(cov_x, -0.5) @ (image - mean) + goal
    ### END SOLUTION


def _root(covariance: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag(values**power) @ vectors.T


@checks(colour_step)
def _colour_step(fn: Callable) -> None:
    for case, (n, m) in enumerate([(12, 30), (25, 9), (40, 17)]):
        x = _noise(3, 3, seed=80 * case) @ _noise(3, n, seed=80 * case + 1) + _noise(3, 1, seed=80 * case + 2)
        s = _noise(3, 3, seed=80 * case + 3) @ _noise(3, m, seed=80 * case + 4) + 2 * _noise(3, 1, seed=80 * case + 5)
        mx, ms = x.mean(1, keepdim=True), s.mean(1, keepdim=True)
        cx, cs = torch.cov(x, correction=0), torch.cov(s, correction=0)
        want = _root(cs, 0.5) @ _root(cx, -0.5) @ (x - mx) + ms
        lx, ls = torch.linalg.cholesky(cx), torch.linalg.cholesky(cs)
        scale = (cs.diagonal() / cx.diagonal()).sqrt()[:, None]
        expect(
            call(fn, x, s, shape=(3, n)),
            want,
            tol=1e-7,
            wrong=fits(
                {
                    "Each channel is stretched by itself; the covariance between channels is not the style's then.": scale
                    * (x - mx)
                    + ms,
                    "The roots are Cholesky's: right statistics, but the channels are not treated alike; take symmetric ones.": ls
                    @ torch.linalg.inv(lx)
                    @ (x - mx)
                    + ms,
                    "The image's mean is put back; the style's is wanted.": want - ms + mx,
                    "The style's mean is missing.": want - ms,
                    "The image's own covariance is not taken out first.": _root(cs, 0.5) @ (x - mx) + ms,
                    "White is not the goal: give it the style's covariance.": _root(cx, -0.5) @ (x - mx) + ms,
                    "Roots, not the covariances themselves.": cs @ torch.linalg.inv(cx) @ (x - mx) + ms,
                    "The two products stand in the wrong order.": _root(cx, -0.5) @ _root(cs, 0.5) @ (x - mx) + ms,
                    "The image's mean is not taken off before.": _root(cs, 0.5) @ _root(cx, -0.5) @ x + ms,
                    "The covariances are divided by N - 1: with different numbers of pixels the factor does not cancel.": _root(
                        torch.cov(s), 0.5
                    )
                    @ _root(torch.cov(x), -0.5)
                    @ (x - mx)
                    + ms,
                },
                want,
            ),
            otherwise="Where image and style are the same, nothing may change.",
        )


# Leakage and search -----------------------------------------------------------------------------------------------------------


@exercise(
    "18.leak",
    "Measure: what came from the wrong picture",
    points=2,
    hints=(
        "Only where s and y differ can one tell from whom an attribute came.",
        "Two counts over those places: all of them, and those at which the result agrees with s.",
        "Count (result == style's) where style's != content's, over the count of those places.",
    ),
)
def leakage(result, content, style):
    """Three (N, k) tables of whole numbers: k content attributes of N results, of their content pictures y
    and of their style pictures s. Returns one number: among all attributes in which s and y differ, the share
    that the result has from s.
    """
    ### BEGIN SOLUTION
    differ = content != style
    return ((result == style) & differ).sum() / differ.sum()
    ### END SOLUTION


@checks(leakage)
def _leakage(fn: Callable) -> None:
    for case, (n, k, values) in enumerate([(30, 3, 4), (17, 2, 3), (41, 4, 2)]):
        y, s, other = ((_noise(n, k, seed=90 * case + j) * 50).long() % values for j in range(3))
        die = _noise(n, k, seed=90 * case + 9)
        r = torch.where(die > 0.2, y, torch.where(die > -0.7, s, other))
        differ, from_s = y != s, r == s
        want = (from_s & differ).double().sum() / differ.sum()
        rows = (from_s & differ).double().sum(1) / differ.sum(1).clamp(min=1)
        expect(
            call(fn, r, y, s, shape=()),
            want,
            wrong=fits(
                {
                    "Where s and y agree nothing can leak; those places do not count.": from_s.double().mean(),
                    "Divide by the places where s and y differ, not by all.": (from_s & differ).double().mean(),
                    "That is what was kept of y.": ((r == y) & differ).double().sum() / differ.sum(),
                    "Not right is not yet leaked: it must be s's value.": ((r != y) & differ).double().sum() / differ.sum(),
                    "Every differing attribute counts once; you averaged the rows' own shares.": rows.mean(),
                    "A share, not a count.": (from_s & differ).double().sum(),
                    "That is the share of pictures with any leak.": (from_s & differ).any(1).double().mean(),
                },
                want,
            ),
            tol=1e-6,
            otherwise="With results equal to y the share is 0, with results equal to s it is 1.",
        )


@exercise(
    "18.search",
    "Search by style and by content",
    points=2,
    hints=(
        "Two lists of cosines, one for each modality; unit lengths first.",
        "Weigh the two lists into one, w and 1 - w, and take the place of the largest.",
        "w * cosine of styles + (1 - w) * cosine of contents, then argmax.",
    ),
)
def best_match(style, content, gallery_style, gallery_content, w):
    """style (D,) and content (E,): codes of the two queries; gallery_style (N, D), gallery_content (N, E):
    those of N pictures. w in [0, 1]: how much the style counts.

    Returns the position of the picture with the largest w cos(style) + (1 - w) cos(content), a whole number.
    """
    ### BEGIN SOLUTION
    by_style = torch.nn.functional.cosine_similarity(style[None], gallery_style)
    by_content = torch.nn.functional.cosine_similarity(content[None], gallery_content)
    return (w * by_style + (1 - w) * by_content).argmax()
    ### END SOLUTION


@checks(best_match)
def _best_match(fn: Callable) -> None:
    for case, (n, d, e) in enumerate([(300, 6, 7), (25, 7, 4), (60, 3, 6)]):
        for w in (0.3, 0.8, 0.6, 0.0, 1.0):
            seed = 2200 + 70 * case               # with these every mistake below finds another picture
            long = 0.2 + 4 * _noise(n, 2, seed=seed + int(10 * w)).abs()
            s, c = _noise(d, seed=seed + 20), _noise(e, seed=seed + 21)
            gs, gc = _noise(n, d, seed=seed + 22) * long[:, :1], _noise(n, e, seed=seed + 23) * long[:, 1:]
            by = [torch.nn.functional.cosine_similarity(q[None], g) for q, g in ((s, gs), (c, gc))]
            raw = [g @ q for q, g in ((s, gs), (c, gc))]
            want = (w * by[0] + (1 - w) * by[1]).argmax()
            expect(
                call(fn, s, c, gs, gc, w, shape=(), dtype=torch.int64),
                want,
                wrong=fits(
                    {
                        "The weight is turned: w belongs to the style.": ((1 - w) * by[0] + w * by[1]).argmax(),
                        "Cosines are multiplied; a weighted sum is meant.": (by[0] * by[1]).argmax(),
                        "Only the style counts in your answer.": by[0].argmax(),
                        "Only the content counts in your answer.": by[1].argmax(),
                        "Both count by half, whatever w.": (by[0] + by[1]).argmax(),
                        "Products of raw codes favour long ones; divide by the lengths.": (
                            w * raw[0] + (1 - w) * raw[1]
                        ).argmax(),
                        "That is the least fitting picture.": (w * by[0] + (1 - w) * by[1]).argmin(),
                    },
                    want,
                ),
                otherwise="At w = 1 it is the nearest by style, at w = 0 the nearest by content.",
            )
