"""Exercises of lesson 08: cross-attention, tokens, caption dropout, maps, concat tasks."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal
from minidiff.steer.attention import attention

__all__ = ["crossed"]


def _heads(x: Tensor, n: int) -> Tensor:
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def crossed(x: Tensor, words: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, heads: int) -> Tensor:
    """Cross-attention of places x (B, N, C) to words (B, L, D) -> (B, N, E); weights (E, C), (E, D), (E, D)."""
    out, _ = attention(_heads(x @ wq.T, heads), _heads(words @ wk.T, heads), _heads(words @ wv.T, heads))
    return out.transpose(1, 2).flatten(2)


@exercise("08.latent_numbers", "What the U-Net has to draw", hints=(
    "f = 4 shortens both sides by 4.",
    "12288 numbers in the picture, 1024 in the latent.",
))
def latent_numbers():
    """Numbers in a 64 x 64 colour picture divided by numbers in its latent (4 channels, f = 4)."""
    ### BEGIN SOLUTION
    return (3 * 64 * 64) / (4 * (64 // 4) ** 2)      # 12: the picture has twelve times as many numbers
    ### END SOLUTION


@checks(latent_numbers)
def _numbers(value: Any) -> None:
    expect_number(value, 12.0, tol=1e-6, wrong={
        "Both sides shrink by f, not only one.": 3.0,
        "That counts places, not numbers: a pixel has 3 channels, a place of the latent has 4.": 16.0,
        "That is the other way round: the picture's numbers over the latent's.": 1 / 12,
        "The picture has 3 channels and the latent 4, not the other way round.": 16 * 4 / 3,
        "That is f alone.": 4.0,
        "You forgot the latent's four channels.": 48.0,
    }, otherwise="Count both: channels times height times width.")


@exercise("08.cross_attention", "Cross-attention", points=3, hints=(
    "Queries from the picture, keys and values from the words: x @ wq.T, words @ wk.T, words @ wv.T.",
    "unflatten(-1, (heads, -1)).transpose(1, 2) splits the channels: (B, heads, places, d). d is what goes under the root.",
    "The softmax runs over the words, the last axis of q k^T. At last transpose(1, 2).flatten(2) joins the heads.",
))
def cross_attention(x, words, wq, wk, wv, heads):
    """x: places of the picture (B, N, C); words: (B, L, D); wq (E, C), wk and wv (E, D). Returns (B, N, E).

    The E channels are split into `heads` blocks of neighbours, each block attends by itself, and the blocks
    are joined.
    """
    ### BEGIN SOLUTION
    q, k, v = x @ wq.T, words @ wk.T, words @ wv.T
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))     # (B, heads, N or L, d)
    probs = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)                    # (B, heads, N, L)
    return (probs @ v).transpose(1, 2).flatten(2)
    ### END SOLUTION


@checks(cross_attention)
def _cross(fn: Callable) -> None:
    # First words as wide as the places, so that self-attention runs; then all sizes apart.
    for heads, d, (B, N, L, C, D) in ((3, 5, (2, 10, 7, 6, 6)), (2, 3, (3, 8, 5, 4, 9))):
        E = heads * d
        x, words = (normal(size, "lesson 08 cross", 0, dtype=torch.float64) for size in ((B, N, C), (B, L, D)))
        wq, wk, wv = (normal((E, n), "lesson 08 weights", i, dtype=torch.float64) for i, n in enumerate((C, D, D)))
        got = call(fn, x, words, wq, wk, wv, heads, shape=(B, N, E))
        q, k, v = x @ wq.T, words @ wk.T, words @ wv.T

        def other(split: Callable[[Tensor], Tensor] = lambda t, heads=heads: _heads(t, heads), root: float = d**0.5,
                  axis: int = -1, join: Callable[[Tensor], Tensor] = lambda t: t.transpose(1, 2).flatten(2), q: Tensor = q,
                  k: Tensor = k, v: Tensor = v) -> Tensor:
            return join((split(q) @ split(k).transpose(-1, -2) / root).softmax(axis) @ split(v))

        wrong = {
            "The scores are not divided by the square root of d.": other(root=1.0),
            "You divide by the square root of all E channels; d is the width of one head.": other(root=E**0.5),
            "You divide by d; it is its square root.": other(root=float(d)),
            "The softmax runs over the places of the picture; each place shares out its attention over the words.":
                other(axis=-2),
            "There is only one head: the channels are not split.": other(split=lambda t: t[:, None], root=E**0.5),
            "Only one head, and scaled as if there were more.": other(split=lambda t: t[:, None]),
            f"The heads take every channel number {heads}; here a head is a block of neighbouring channels.":
                other(split=lambda t, heads=heads: t.unflatten(-1, (-1, heads)).movedim(-1, 1)),
            "The heads are joined without moving their axis back, so that places and heads are mixed up.":
                other(join=lambda t, B=B, N=N, E=E: t.reshape(B, N, E)),
            "wk and wv are exchanged.": other(k=words @ wv.T, v=words @ wk.T),
        }
        if C == D:
            wrong["Keys and values come from the picture here: that is self-attention, and the words are never read."] = \
                other(k=x @ wk.T, v=x @ wv.T)
        expect(got, crossed(x, words, wq, wk, wv, heads), wrong=wrong,
               otherwise="Not what cross-attention gives. Follow one place of one head: its scores are q k^T / sqrt(d), one for "
                         "each word; their softmax weighs the words' values.")
        single = call(fn, x, words[:, :1], wq, wk, wv, heads)
        expect(single, v[:, :1].expand(B, N, E), otherwise="With a single word every place must get that word's value.")


_PIECES = {"mushroom": ["mush", "room"], "watercolour": ["water", "colour"], "snowflake": ["snow", "fl", "ake"]}


def _positions(text: str, word: str, pieces: dict[str, list[str]], start: int = 1) -> list[int]:
    at = start
    for w in text.split():
        n = len(pieces.get(w, [w]))
        if w == word:
            return list(range(at, at + n))
        at += n
    return []


@exercise("08.token_positions", "Where is the word?", points=2, hints=(
    "Walk through the words and count tokens, starting at 1.",
    "Every word before it counts with all its pieces, and so does the word itself.",
))
def token_positions(text, word, pieces):
    """Positions of the tokens of the first `word` in `text`, a list of whole numbers.

    Words are separated by spaces. pieces: word -> its tokens, for words of several tokens; every other word
    is one token. Position 0 is the begin token.
    """
    ### BEGIN SOLUTION
    at = 1                                     # after the begin token
    for w in text.split():
        count = len(pieces[w]) if w in pieces else 1
        if w == word:
            return list(range(at, at + count))
        at += count
    ### END SOLUTION


_OTHERS = {"grass": ["gr", "ass"], "cat": ["c", "a", "t"]}


@checks(token_positions)
def _token_positions(fn: Callable) -> None:
    cases = [("a red cat on the grass", "cat", _PIECES), ("a red mushroom on the grass", "mushroom", _PIECES),
             ("watercolour of a red cat", "cat", _PIECES), ("a mushroom and a blue mushroom", "blue", _PIECES),
             ("snowflake and mushroom and cat and cat", "cat", _PIECES), ("a catfish and a cat", "cat", _PIECES),
             ("watercolour of a snowflake", "snowflake", _PIECES), ("a mushroom and a red mushroom", "mushroom", _PIECES),
             ("a red mushroom and a cat on the grass", "grass", _OTHERS), ("cat on grass", "on", _OTHERS)]

    def index(text: str, word: str) -> int:
        return 1 + text.split().index(word)

    wrong: dict[str, Callable[[str, str, dict], list[int]]] = {
        "Position 0 is the begin token, so the first word starts at 1.": lambda t, w, p: _positions(t, w, p, 0),
        "You count words; a word before it may have several tokens.":
            lambda t, w, p: list(range(index(t, w), index(t, w) + len(p.get(w, [w])))),
        "You give the first of its tokens only.": lambda t, w, p: _positions(t, w, p)[:1],
        "You give the last of its tokens only.": lambda t, w, p: _positions(t, w, p)[-1:],
        "You count words and give one position a word; some words are several tokens.": lambda t, w, p: [index(t, w)],
    }
    answers = []
    for text, word, pieces in cases:
        table = {key: list(tokens) for key, tokens in pieces.items()}
        out = fn(text, word, table)
        if out is None:
            raise Mistake("It returns nothing; is a return missing?")
        if table != pieces:
            raise Mistake("It changes the table of pieces; work on a copy.")
        try:
            found = out.tolist() if isinstance(out, Tensor) else list(out)
        except TypeError:
            raise Mistake(f"It returns {type(out).__name__}, but a list of whole numbers is expected.") from None
        if not all(isinstance(v, numbers.Integral) for v in found):
            raise Mistake("A list of whole numbers is expected; they number tokens.")
        answers.append([int(v) for v in found])
    want = [_positions(*case) for case in cases]
    if answers == want:
        return
    for message, formula in wrong.items():
        if answers == [formula(*case) for case in cases]:
            raise Mistake(message)
    (text, word, _), got, right = next((c, g, r) for c, g, r in zip(cases, answers, want, strict=True) if g != r)
    raise Mistake(f"In {text!r} the tokens of {word!r} are {right}, not {got}.")


@exercise("08.caption_dropout", "Leaving out captions", points=2, hints=(
    "A whole caption goes or stays: the choice has shape (B,), and broadcasts as (B, 1, 1).",
    "What stands in its place is what the sampler will use as well: the empty prompt, embedded.",
))
def drop_captions(context, empty, u, p):
    """context: embedded captions (B, L, D); empty: the embedded empty prompt (L, D); u: (B,) uniform numbers
    in [0, 1).

    Returns the context for one training batch, in which row i has lost its caption where u[i] < p.
    """
    ### BEGIN SOLUTION
    return torch.where((u < p)[:, None, None], empty, context)
    ### END SOLUTION


@checks(drop_captions)
def _dropped(fn: Callable) -> None:
    for (B, L, D), p, drawn in (((6, 5, 4), 0.2, [0.05, 0.9, 0.15, 0.5, 0.19, 0.7]), ((4, 3, 6), 0.65, [0.6, 0.66, 0.9, 0.0]),
                                ((3, 4, 5), 0.0, [0.0, 0.3, 0.9])):                                     # p = 0: no caption goes
        context, empty = (normal(size, "lesson 08 drop", 0, dtype=torch.float64) for size in ((B, L, D), (L, D)))
        u = torch.tensor(drawn, dtype=torch.float64)
        gone = (u < p)[:, None, None]
        keep, want = context * (u >= p).double()[:, None, None], torch.where(gone, empty, context)
        expect(call(fn, context, empty, u, p, shape=context.shape), want, wrong=fits({
            "A left-out caption becomes zeros; the sampler shows the network the embedded empty prompt, so training must too.":
                keep,
            "It keeps the captions that should go, and the other way round.": torch.where(gone, context, empty),
            "That is nn.Dropout: it scales what stays by 1 / (1 - p). A caption is either there or not.": keep / (1 - p),
            "Nothing is left out.": context,
            "The whole batch loses its captions at once; each row decides for itself.": empty.expand_as(context),
            "The empty prompt is added to the caption instead of replacing it.": context + gone * empty,
            "With p = 0 no caption may go, not even where u is 0: u < p, not u <= p.":
                torch.where((u <= p)[:, None, None], empty, context),
        }, want), otherwise="Row i of the answer is either row i of context or the empty prompt, whole.")


@exercise("08.swapped_rows", "Break it: guidance with its rows exchanged", hints=(
    "both.chunk(2) gives the two halves. Which of them does that program take for the prompt's?",
    "Guidance starts at what it takes for the empty prompt, and goes w times the way to what it takes for the prompt.",
))
def swapped_rows(both, w):
    """both: (2B, C, h, w), a network's answers to B rows of the empty prompt and then B of the prompt.

    Returns the guided answer (B, C, h, w) of a program that has them the wrong way round: it takes the first
    half for the prompt's and the second for the empty prompt's, and guides with weight w.
    """
    ### BEGIN SOLUTION
    taken_for_prompt, taken_for_empty = both.chunk(2)
    return taken_for_empty + w * (taken_for_prompt - taken_for_empty)
    ### END SOLUTION


@checks(swapped_rows)
def _swapped_rows(fn: Callable) -> None:
    for (B, C, h, width), w in (((2, 3, 4, 5), 4.0), ((3, 2, 5, 3), -0.7), ((1, 4, 2, 6), 1.0), ((4, 1, 3, 2), 2.5)):
        both = normal((2 * B, C, h, width), "lesson 08 swapped", B, dtype=torch.float64)
        empty, prompt = both[:B], both[B:]
        want = prompt + w * (empty - prompt)
        expect(call(fn, both, w, shape=empty.shape), want, wrong=fits({
            "That is guidance as it should be; break it: the first half is taken for the prompt's.": empty + w * (prompt - empty),
            "The rows are taken in turns; the first half of the batch is the empty prompt's.":
                both[1::2] + w * (both[::2] - both[1::2]),
            "That starts at the first half, or goes 1 + w times the way; start at the second, what is taken for empty.":
                empty + w * (empty - prompt),
            "The weight has no effect.": empty,
            "It goes the other way: from what is taken for the empty prompt towards what is taken for the prompt's.":
                prompt - w * (empty - prompt),
            "w is always 4 in your code; use the argument.": prompt + 4 * (empty - prompt),
        }, want), otherwise="At w = 1 the answer is the first half of the batch, at w = 0 the second.")


@exercise("08.noun_map", "Spot the bug: the map of a guided run", points=2, hints=(
    "Which rows of the batch belong to the prompt? In diffusers' order the empty prompt's come first.",
    "A noun may have several tokens, and the heads are an axis of their own: both are averaged, the places stay.",
    "unflatten(1, grid): the places run row by row, and a grid need not be square.",
))
def noun_map(probs, tokens, grid):
    """Where a guided run looks for one noun. probs (2B, heads, N, L): B rows of the empty prompt, then B of
    the prompt; tokens: the noun's positions, a list; grid: (h, w) with h * w = N. Somebody wrote

        probs.mean((0, 1))[:, tokens[0]].view(int(N ** 0.5), -1)

    which has four faults. Write it right: (B, h, w), heads and tokens averaged.
    """
    ### BEGIN SOLUTION
    asked = probs[len(probs) // 2:]
    return asked[..., tokens].mean((1, 3)).unflatten(1, grid)
    ### END SOLUTION


@checks(noun_map)
def _noun_map(fn: Callable) -> None:
    cases = (((2, 3, 5), [2, 3], (3, 4)), ((3, 2, 7), [4], (5, 2)), ((1, 4, 6), [1, 4, 5], (2, 2)))
    for (B, heads, length), tokens, grid in cases:
        scores = normal((2 * B, heads, grid[0] * grid[1], length), "lesson 08 noun map", B, dtype=torch.float64)
        probs = (2 * scores).softmax(-1)
        rows, heads_kept = probs[B:], probs[B:][..., tokens].mean(3)

        def lay(flat: Tensor, grid: tuple[int, int] = grid) -> Tensor:
            return flat.reshape(len(flat), *grid)

        want = lay(heads_kept.mean(1))
        expect(call(fn, probs, tokens, grid, shape=want.shape), want, wrong=fits({
            "Both halves of the batch are mixed; the empty prompt's rows look at an empty sentence.":
                lay(((probs[:B] + rows) / 2)[..., tokens].mean((1, 3))),
            "Those are the empty prompt's rows; the prompt's come after them.": lay(probs[:B][..., tokens].mean((1, 3))),
            "Every second row is taken; the prompt's rows are the second half.": lay(probs[1::2][..., tokens].mean((1, 3))),
            "Only the noun's first token is used.": lay(rows[..., tokens[0]].mean(1)),
            "The tokens are added up; the maps of a long word would be larger than those of a short one.":
                lay(rows[..., tokens].mean(1).sum(-1)),
            "The heads are added up, not averaged.": lay(heads_kept.sum(1)),
            "One head only; average over all of them.": lay(heads_kept[:, 0]),
            "Height and width are exchanged.": heads_kept.mean(1).reshape(B, grid[1], grid[0]).transpose(1, 2),
        }, want), otherwise="Take the prompt's rows, average heads and tokens, then lay the places out row by row.")


def _iou(maps: Tensor, mask: Tensor, threshold: float, *, low: float = 0.0, top: float | None = None,
         combine: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
    big = maps.repeat_interleave(mask.shape[0] // maps.shape[0], 0).repeat_interleave(mask.shape[1] // maps.shape[1], 1)
    on, off = (big - low) / ((float(big.max()) if top is None else top) - low) >= threshold, mask > 0.5
    return (combine or (lambda a, b: (a & b).sum() / (a | b).sum()))(on, off).double()


@exercise("08.map_iou", "How well does a map cover its thing?", points=2, hints=(
    "interpolate(attention[None, None], size=mask.shape, mode='nearest')[0, 0], or repeat_interleave twice.",
    "Attention is shared out over 34 tokens, so a map's values are small: divide by the maximum first.",
    "Of two truth-valued tensors, & is the intersection and | the union.",
))
def map_iou(attention, mask, threshold):
    """attention: a map (h, w); mask: (H, W) of 0 and 1, where H and W are multiples of h and w. Returns a
    number.

    Enlarge the map to the mask's size (each value fills its block), divide it by its maximum, call a pixel
    "on" where it is at least `threshold`, and give intersection over union with the mask.
    """
    ### BEGIN SOLUTION
    big = torch.nn.functional.interpolate(attention[None, None], size=mask.shape, mode="nearest")[0, 0]
    on = big / big.max() >= threshold
    thing = mask.bool()
    return (on & thing).sum() / (on | thing).sum()
    ### END SOLUTION


def _blobs() -> list[tuple[Tensor, Tensor, tuple[float, ...]]]:
    """Maps with masks that overlap in part, (4, 6) with (16, 24) and (3, 5) with (6, 15), and thresholds; one is met exactly."""
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    round_ = (0.02 + 0.3 * torch.exp(-((y - 1.3) ** 2 + 0.6 * (x - 3.8) ** 2))).double()
    thing = torch.zeros(16, 24, dtype=torch.float64)
    thing[2:11, 10:18] = 1
    steps = torch.tensor([[1, 2, 4, 2, 1], [2, 8, 4, 4.2, 2], [1, 2, 2, 1, 1]], dtype=torch.float64) / 20
    half = torch.zeros(6, 15, dtype=torch.float64)
    half[1:5, 2:9] = 1
    return [(round_, thing, (0.4, 0.7)), (steps, half, (0.5, 0.25))]


@checks(map_iou)
def _map_iou(fn: Callable) -> None:
    for maps, mask, thresholds in _blobs():
        for threshold in thresholds:
            def other(combine: Callable[[Tensor, Tensor], Tensor], t: float = threshold, maps: Tensor = maps,
                      mask: Tensor = mask) -> Tensor:
                return _iou(maps, mask, t, combine=combine)

            want = _iou(maps, mask, threshold)
            expect(call(fn, maps, mask, threshold, shape=()), want, wrong=fits({
                "The map is not divided by its maximum, so almost nothing reaches the threshold.":
                    _iou(maps, mask, threshold, top=1.0),
                "You stretch the map from its minimum to its maximum; divide by the maximum only.":
                    _iou(maps, mask, threshold, low=float(maps.min())),
                "That is the Dice overlap, 2 |A and B| / (|A| + |B|).":
                    other(lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum())),
                "You divide by the mask's area: that is the share of the thing that is covered.":
                    other(lambda a, b: (a & b).sum() / b.sum()),
                "You divide by what is on: that is the share of the map that lies on the thing.":
                    other(lambda a, b: (a & b).sum() / a.sum()),
                "You count the pixels that agree, also those where both are off.": other(lambda a, b: (a == b).double().mean()),
                "You divide by all pixels of the picture.": other(lambda a, b: (a & b).double().mean()),
                "The pixels below the threshold are on.": other(lambda a, b: (~a & b).sum() / (~a | b).sum()),
                "A pixel that meets the threshold exactly is on: at least, not more than.": _iou(maps, mask, threshold + 1e-6),
            }, want), otherwise="Not the intersection over union; try a map that is the mask itself, which must give 1.")
            small = F.max_pool2d(mask[None], 2 if mask.shape[0] % 2 == 0 and mask.shape[1] % 2 == 0 else 1)[0]
            expect(call(fn, small, small, threshold), torch.tensor(1.0), otherwise="A map that is the mask itself must give 1.")


@exercise("08.unet_rows", "What a batch costs", hints=(
    "How many predictions does one guided step need?",
    "25 steps, 8 prompts, two predictions each.",
))
def unet_rows():
    """Pictures that the U-Net sees (rows of its batches, added up over steps) for 8 prompts, 25 DDIM steps,
    guidance w = 4."""
    ### BEGIN SOLUTION
    return 8 * 25 * 2      # two rows a prompt and step: one with the prompt, one with the empty prompt
    ### END SOLUTION


@checks(unet_rows)
def _rows(value: Any) -> None:
    expect_number(value, 400, tol=0.5, wrong={
        "Guidance needs two predictions a step: with the prompt and without.": 200,
        "The empty prompt needs a row beside every prompt, because each picture has its own latent.": 225,
        "w is a weight, not a number of calls.": 800,
        "That counts the calls; each call holds all prompts, twice.": 25,
        "That counts the calls as if each row came alone and only once a step: add up rows over the steps.": 16,
        "w + 1 rows a prompt? Whatever w is, there are two predictions.": 1000,
        "One call holds both halves, but it still has 16 rows.": 50,
    }, otherwise="Rows a step, times steps.")


@exercise("08.add_input_channels", "A wider first convolution", points=2, hints=(
    "The input channels are dimension 1.",
    "Whatever the new channels hold: their weights are zero.",
))
def add_input_channels(weight, extra):
    """weight: (O, C, k, k) of a convolution. Returns (O, C + extra, k, k): `extra` more input channels after
    the old ones,

    such that the convolution says what it said before, whatever the new channels hold.
    """
    ### BEGIN SOLUTION
    zeros = weight.new_zeros(len(weight), extra, *weight.shape[2:])
    return torch.cat((weight, zeros), dim=1)
    ### END SOLUTION


@checks(add_input_channels)
def _widen(fn: Callable) -> None:
    for (o, c, k), extra in (((6, 4, 3), 5), ((3, 5, 1), 2)):
        weight = normal((o, c, k, k), "lesson 08 widen", 0, dtype=torch.float64)
        if tuple(getattr(out := fn(weight.clone(), extra), "shape", ())) == (o + extra, c, k, k):
            raise Mistake("The output channels grew; dimension 1 holds the input channels.")
        got = call(fn, weight, extra, shape=(o, c + extra, k, k))
        zeros = torch.zeros(o, extra, k, k, dtype=torch.float64)
        mean = weight.mean(1, keepdim=True).expand(-1, extra, -1, -1)
        expect(got, torch.cat((weight, zeros), 1), tol=1e-7, wrong={
            "The new channels stand before the old ones, so the latent meets weights of zero.": torch.cat((zeros, weight), 1),
            "The new channels are copies of old weights; then the output changes with what they hold.":
                torch.cat((weight, weight[:, :1].expand(-1, extra, -1, -1)), 1),
            "The new weights are the mean of the old ones; they must not change the output at all.": torch.cat((weight, mean), 1),
            "The old weights were made smaller; they must stay as they are.": torch.cat((weight * c / (c + extra), zeros), 1),
            "All weights are zero: the old ones must stay.": torch.cat((0 * weight, zeros), 1),
            "The new weights are ones.": torch.cat((weight, zeros + 1), 1),
        }, otherwise="The new weights are not zero, so the output changes with what the new channels hold. Random weights are "
                     "right for a new network, not for one that is to go on from where it was.")
        if out.dtype != weight.dtype:
            raise Mistake(f"The weights came as {weight.dtype} and go as {out.dtype}.")


@exercise("08.blend", "Known part, made part", points=3, hints=(
    "Two lines: noise the known latent to the level of z_prev, then choose by the mask.",
    "The forward process of notebook 01: sqrt(abar) x0 + sqrt(1 - abar) noise.",
))
def blend(z_prev, known, noise, mask, abar_prev):
    """One correction after a sampling step. z_prev: the latent that the step made, at noise level abar_prev
    (B, C, h, w); known: the clean latent of the picture; noise: like it; mask: (B, 1, h, w), 1 where the
    picture is to be made anew.

    Returns the latent that keeps z_prev inside the mask and the known picture, noised to the same level,
    outside.
    """
    ### BEGIN SOLUTION
    noised = abar_prev ** 0.5 * known + (1 - abar_prev) ** 0.5 * noise
    return mask * z_prev + (1 - mask) * noised
    ### END SOLUTION


@checks(blend)
def _blend(fn: Callable) -> None:
    for shape, levels in (((2, 4, 6, 5), (0.3, 0.9)), ((3, 1, 4, 7), (0.65,))):
        z, known, noise = normal((3, *shape), "lesson 08 blend", 0, dtype=torch.float64)
        mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.float64)
        mask[0, :, 1:4, 2:] = 1
        mask[1:, :, 3:] = 1
        for a in levels:
            noised = a**0.5 * known + (1 - a) ** 0.5 * noise

            def put(outside: Tensor, inside: Tensor = z, mask: Tensor = mask) -> Tensor:
                return mask * inside + (1 - mask) * outside

            expect(call(fn, z, known, noise, mask, number(a), shape=z.shape), put(noised), wrong={
                "The known latent is put in clean; the network then sees a picture with two noise levels.": put(known),
                "The mask is the wrong way round: 1 is where the picture is made anew.": put(z, noised),
                "abar is a variance: the factors are its square root and that of 1 - abar.": put(a * known + (1 - a) * noise),
                "The two factors are exchanged.": put((1 - a) ** 0.5 * known + a**0.5 * noise),
                "The noise is missing its factor sqrt(1 - abar).": put(a**0.5 * known + noise),
                "The noise is missing.": put(a**0.5 * known),
                "The made part is noised once more; z_prev is at its level already.":
                    put(noised, a**0.5 * z + (1 - a) ** 0.5 * noise),
                "The known part is added to all of z_prev; inside the mask only z_prev stays.": z + (1 - mask) * noised,
                "The two are averaged; the mask has no effect.": (z + noised) / 2,
            }, otherwise="Inside the mask z_prev, outside q(z | known) at abar_prev, nothing else.")


@exercise("08.paste", "Bit for bit", hints=("A choice, not a sum.", "torch.where(mask.bool(), ..., ...)"))
def paste(known, made, mask):
    """known, made: pictures (B, 3, H, W); mask: (B, 1, H, W), 1 where the picture was made anew.

    Returns `made` inside the mask and the pixels of `known`, bit for bit, outside.
    """
    ### BEGIN SOLUTION
    return torch.where(mask.bool(), made, known)
    ### END SOLUTION


@checks(paste)
def _paste(fn: Callable) -> None:
    for B, H, W in ((2, 8, 6), (3, 5, 9)):
        known, made = normal((2, B, 3, H, W), "lesson 08 paste", 0).clamp(-1, 1)
        mask = torch.zeros(B, 1, H, W)
        mask[0, :, 2:6, 1:5] = 1
        mask[1:, :, :, 4:] = 1
        got = call(fn, known, made, mask, shape=known.shape)
        inside, soft = mask.expand(-1, 3, -1, -1) > 0.5, F.avg_pool2d(mask, 3, 1, 1)
        want = torch.where(inside, made, known)
        if torch.allclose(got, want.double(), atol=0.02, rtol=0) and not torch.equal(got[~inside], known[~inside].double()):
            raise Mistake("Right to rounding, but not bit for bit: the known pixels must come back exactly as they were.")
        expect(got, want, tol=1e-6, wrong={
            "The mask is the wrong way round: 1 is where the picture was made anew.": torch.where(inside, known, made),
            "That is the made picture; nothing is pasted back.": made,
            "That is the known picture; nothing of the made one is left.": known,
            "The two are averaged; the mask has no effect.": (made + known) / 2,
            "Inside, both are added; there only the made picture counts.": known + mask * made,
            "The edge of the mask is softened: that hides the seam, but known pixels change.": soft * made + (1 - soft) * known,
        }, otherwise="Inside the mask the made pixels, outside the known ones, nothing else.")
