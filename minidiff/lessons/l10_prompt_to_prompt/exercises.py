"""Exercises of lesson 10: mappers, attention mixed and masked, local blending, defects, and a paired gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.course.answers import Mistake, call, expect, expect_number, fits
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__ = ["mapper_of"]


def _probs(*shape: int, seed: int = 0) -> Tensor:
    """Attention: the last axis sums to 1."""
    return normal(shape, "lesson 10 attention", seed, dtype=torch.float64).mul(1.5).softmax(-1)


def mapper_of(source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], length: int, *, share: bool = True,
              corner: str = "cross") -> Tensor:
    """M (length, length) for words that stand for each other; share and corner spoil it on purpose."""
    mapper = torch.zeros(length, length, dtype=torch.float64)
    for i, j in zip(source, target, strict=True):
        if len(i) == len(j) and corner != "all":
            mapper[list(i), list(j)] = 1
        else:
            mapper[torch.tensor(i)[:, None], torch.tensor(j)] = 1 / len(j) if share else 1.0
    return mapper


# M --------------------------------------------------------------------------------------------------------------------------


@exercise("10.swap_mapper", "The mapper of a word swap", points=3, hints=(
    "M[w, n] says which share of the attention to source token w goes on to target token n; A_source @ M sums over w.",
    "As many tokens on both sides: token by token, M[i, j] = 1 with two lists of equal length as indices.",
    "Else every source token of the word is shared out equally: M[torch.tensor(i)[:, None], j] = 1 / len(j).",
))
def swap_mapper(source, target, length):
    """source, target: for each word the list of its tokens' positions; word k of one stands for word k
    of the other. Begin, end and every padding token are listed as words of one token.

    Returns M (length, length), so that A @ M is attention over the target's tokens where A (...,
    length) is attention over the source's. Words of equally many tokens: token by token. Others: each
    source token is shared out equally over the target's.
    """
    ### BEGIN SOLUTION
    mapper = torch.zeros(length, length)
    for i, j in zip(source, target):
        if len(i) == len(j):
            mapper[i, j] = 1
        else:
            mapper[torch.tensor(i)[:, None], j] = 1 / len(j)
    return mapper
    ### END SOLUTION


@checks(swap_mapper)
def _swap_mapper(fn: Callable) -> None:
    cases = [
        ([[0], [1, 2, 3], [4], [5, 6], [7]], [[0], [1, 2], [3], [4, 5], [6, 7]], 8),
        ([[0], [1], [2], [3], [4], [5]], [[0], [1], [2, 3], [4], [5], [5]], 6),                        # cat -> mush room
        ([[0], [1], [2, 3], [4], [5], [6], [7], [8]], [[0], [1], [2], [3], [4], [5], [6, 7], [8]], 9),
    ]
    for source, target, length in cases:
        want = mapper_of(source, target, length)
        got = call(fn, [list(i) for i in source], [list(j) for j in target], length, shape=(length, length))
        words = torch.zeros_like(want)
        for k in range(min(len(source), length)):
            words[k, k] = 1
        firsts = torch.zeros_like(want)
        for i, j in zip(source, target, strict=True):
            firsts[i[0], j[0]] = 1
        back = mapper_of(target, source, length)
        over_source = want.clone()
        for i, j in zip(source, target, strict=True):
            if len(i) != len(j):
                over_source[torch.tensor(i)[:, None], torch.tensor(j)] = 1 / len(i)
        expect(got, want, wrong=fits({
            "Rows and columns are exchanged: M[w, n] has the source's token first.": want.T,
            "That is the mapper from the target back to the source.": back,
            "A source token gives each target token its whole attention, so rows sum to more than 1: share it out.":
                mapper_of(source, target, length, share=False),
            "You divide by the number of the source's tokens; a source token is shared out over the target's.": over_source,
            "Words of equally many tokens go token by token, not every token to every token.":
                mapper_of(source, target, length, corner="all"),
            "Only the first token of each word is mapped.": firsts,
            "You map word number k to token number k; words have several tokens.": words,
            "M is the identity: nothing is moved.": torch.eye(length, dtype=torch.float64),
        }, want), otherwise="Check one word: the block of its tokens must have rows that sum to 1, and all else is 0.")


# Attention, mixed ------------------------------------------------------------------------------------------------------------


@exercise("10.mix_attention", "One step of the edit", points=2, hints=(
    "Forget the time first: what does section 2's table say for Refine? Then choose, token by token, whether its time is over.",
    "The kept words: source @ mapper. The new ones: edit * new, which is 0 elsewhere.",
    "torch.where(progress < until, mixed, edit): every token has its own share of the steps.",
))
def mix_attention(source, edit, mapper, new, until, progress):
    """source, edit: attention of the two branches (heads, N, L); mapper (L, L); new (L,): 1 at the
    target's new tokens. until (L,): the share of the steps during which a token is controlled;
    progress: the share that is done, in [0, 1).

    Returns the edit's new attention: kept tokens from the source, new ones its own; tokens whose time
    is over, its own.
    """
    ### BEGIN SOLUTION
    mixed = source @ mapper + edit * new
    return torch.where(progress < until, mixed, edit)
    ### END SOLUTION


@checks(mix_attention)
def _mix_attention(fn: Callable) -> None:
    for case, (heads, places, length, progress) in enumerate([(3, 4, 6, 0.25), (2, 5, 7, 0.0), (2, 9, 5, 0.5), (4, 6, 8, 0.9)]):
        source, edit = (_probs(heads, places, length, seed=10 * case + k) for k in range(2))
        mapper = _probs(length, length, seed=10 * case + 5)
        new = (torch.arange(length) % 3 == 1).double()
        mapper = mapper * (1 - new)
        until = torch.linspace(0, 1, length, dtype=torch.float64).roll(case)
        until[length // 2] = progress
        got = call(fn, source, edit, mapper, new, until, progress, shape=source.shape)
        mixed = source @ mapper + edit * new
        want = torch.where(progress < until, mixed, edit)
        expect(got, want, wrong=fits({
            "The branches are exchanged: the kept tokens come from the source.":
                torch.where(progress < until, edit @ mapper + source * new, source),
            "The mapper is turned round: attention stands on its left.":
                torch.where(progress < until, source @ mapper.T + edit * new, edit),
            "The new tokens get nothing: add the edit's own attention there.":
                torch.where(progress < until, source @ mapper, edit),
            "The edit's attention is added everywhere; it belongs to the new tokens only.":
                torch.where(progress < until, source @ mapper + edit, edit),
            "The new tokens take the source's attention; it has none for them.":
                torch.where(progress < until, source @ mapper + source * new, edit),
            "That controls the tokens whose time is over, and lets go of the others.": torch.where(progress < until, edit, mixed),
            "Every step is controlled: `until` has no effect.": mixed,
            "A token whose share is `progress` exactly is over: progress < until.": torch.where(progress <= until, mixed, edit),
            "Nothing is changed.": edit,
            "A token whose time is over keeps its own attention, not the source's.": torch.where(progress < until, mixed, source),
        }, want), otherwise="Check the two ends: until all 0 gives the edit's own attention, until all 1 the mixed one.")


@exercise("10.row_sum", "What a fader does to a row", hints=(
    "Only one of the three numbers is multiplied, and nothing is divided.",
    "0.5 + 4 * 0.3 + 0.2",
))
def row_sum():
    """A place gives 0.5 of its attention to the padding, 0.3 to "cat", 0.2 to the rest. The fader of
    "cat" is set to 4. What does its row of attention sum to now?
    """
    ### BEGIN SOLUTION
    return 0.5 + 4 * 0.3 + 0.2          # 1.9: only the message of "cat" gets louder, and nothing is divided again
    ### END SOLUTION


@checks(row_sum)
def _row_sum(value: Any) -> None:
    expect_number(value, 1.9, tol=1e-4, wrong={
        "Nothing divides the row again: the fader acts after the softmax.": 1.0,
        "You multiply the whole row; only the share of \"cat\" is.": 4.0,
        "That is the share of \"cat\" alone; the others are still there.": 1.2,
        "That adds 4; the fader multiplies.": 5.0,
        "That is how much comes on top; the row had 1 already.": 0.9,
        "That would be its share if the row were divided by its sum.": 1.2 / 1.9,
    }, otherwise="Multiply the share of \"cat\" by 4 and add up the three.")


@exercise("10.break_refine", "Break it: the loudest row", points=2, hints=(
    "The kept words take the source's shares; the new word takes the edit's. Nothing makes the two fit.",
    "Let the source look at kept words alone, and the edit at the new word alone.",
))
def break_refine():
    """"a cat" becomes "a red cat". Tokens of the source: a, cat; of the target: a, red, cat. Refine
    gives "a" and "cat" the source's attention, and "red" the edit's. Give one row of each, (source,
    edit), both not negative and summing to 1, such that the refined row sums to 2.
    """
    ### BEGIN SOLUTION
    return [0.5, 0.5], [0.0, 1.0, 0.0]
    ### END SOLUTION


@checks(break_refine)
def _break_refine(value: Any) -> None:
    try:
        source, edit = (torch.as_tensor([float(v) for v in row], dtype=torch.float64) for row in value)
    except (TypeError, ValueError):
        raise Mistake("The answer is two lists of numbers: (source, edit).") from None
    for name, row, words in (("source", source, "a, cat"), ("edit", edit, "a, red, cat")):
        if len(row) != len(words.split(", ")):
            raise Mistake(f"The {name}'s row has one number for each of its tokens: {words}.")
        if float(row.min()) < 0:
            raise Mistake(f"The {name}'s row has a negative share; a softmax gives none.")
        if abs(float(row.sum()) - 1) > 1e-4:
            raise Mistake(f"The {name}'s row sums to {float(row.sum()):g}; a softmax gives 1.")
    total = float(source.sum() + edit[1])
    if abs(total - 2) > 1e-4:
        raise Mistake(f"The refined row is {[float(source[0]), float(edit[1]), float(source[1])]} and sums to {total:g}. "
                      "Where may the edit look so that all of its attention is used?")


# A word ignored ------------------------------------------------------------------------------------------------------------


@exercise("10.ignore_word", "A word that nobody can look at", points=2, hints=(
    "Write attention first, as in section 2. What must a score be so that the softmax makes a share of exactly 0 of it?",
    "A score of -infinity does, and the other shares still sum to 1.",
    "scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5; mask; softmax over the last axis.",
))
def ignore_word(q, k, v, tokens):
    """q (heads, N, d), k (heads, L, d), v (heads, L, e); tokens: positions of the word to ignore, a
    list.

    Returns what attention gives when the scores of these tokens are masked before the softmax:
    (heads, N, e).
    """
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores[..., tokens] = -torch.inf
    return scores.softmax(-1) @ v
    ### END SOLUTION


@checks(ignore_word)
def _ignore_word(fn: Callable) -> None:
    for case, (heads, places, length, d, e, tokens) in enumerate([(2, 5, 7, 4, 6, [2]), (3, 9, 5, 7, 4, [0, 3]),
                                                                  (4, 3, 8, 5, 9, [5, 6, 7])]):
        q, k, v = (normal(shape, "lesson 10 ignore", 3 * case + n, dtype=torch.float64)
                   for n, shape in enumerate([(heads, places, d), (heads, length, d), (heads, length, e)]))
        q = 2 * q
        got = call(fn, q, k, v, list(tokens), shape=(heads, places, e))
        raw = q @ k.transpose(-1, -2)
        scores = raw / d**0.5
        plain, keep = scores.softmax(-1), torch.ones(length, dtype=torch.float64)
        keep[list(tokens)] = 0

        def masked(scores: Tensor, keep: Tensor = keep) -> Tensor:
            return scores.masked_fill(keep == 0, -torch.inf).softmax(-1)

        want = masked(scores) @ v
        expect(got, want, wrong=fits({
            "You set the shares to 0 after the softmax, so the rows no longer sum to 1: mask the scores.": (plain * keep) @ v,
            "A score of 0 is no mask: e^0 = 1 is a share like any other.": (scores * keep).softmax(-1) @ v,
            "Nothing is masked.": plain @ v,
            "Only the masked word is left; it should be the one that is gone.": masked(scores, 1 - keep) @ v,
            "The scores are not divided by the square root of d.": masked(raw) @ v,
            "You divide by d; it is its square root.": masked(raw / d) @ v,
            "Only one token of the word is masked; it may have several.":
                masked(scores, torch.ones(length).index_fill(0, torch.tensor(tokens[:1]), 0)) @ v,
        }, want), otherwise="With the word gone the result must be attention over the other tokens alone.")


# Local blending ------------------------------------------------------------------------------------------------------------


@exercise("10.blend", "Keep the edit where the word is looked at", points=3, hints=(
    "Three steps: spread the map, compare it with a share of its own largest value, choose between the two latents.",
    "F.max_pool2d(maps[:, None], 3, 1, 1) spreads at the same size; each picture has its own near.amax((2, 3), keepdim=True).",
    "torch.where(mask, edit, source): inside the mask the edit, outside the source, untouched.",
))
def keep_where(edit, source, maps, threshold):
    """edit, source: latents (n, C, h, w); maps: a word's attention (n, h, w), not negative.

    Spread each map by a 3 x 3 maximum, keep the places at which it reaches `threshold` times its
    largest value (that of the same picture). Returns the edit's latent there and the source's
    everywhere else.
    """
    ### BEGIN SOLUTION
    near = F.max_pool2d(maps[:, None], 3, 1, 1)
    mask = near >= threshold * near.amax((2, 3), keepdim=True)
    return torch.where(mask, edit, source)
    ### END SOLUTION


@checks(keep_where)
def _keep_where(fn: Callable) -> None:
    for case, (n, c, h, w, threshold) in enumerate([(3, 4, 8, 5, 0.95), (2, 3, 6, 9, 0.5), (4, 2, 7, 7, 0.3), (2, 5, 6, 8, 1.0)]):
        edit, source = (normal((n, c, h, w), "lesson 10 blend", 2 * case + k, dtype=torch.float64) for k in range(2))
        maps = normal((n, h, w), "lesson 10 maps", case, dtype=torch.float64).mul(1.3).exp()
        maps = maps * torch.arange(1, n + 1).double()[:, None, None] ** 3 / 20          # some below the threshold everywhere
        got = call(fn, edit, source, maps, threshold, shape=edit.shape)
        near = F.max_pool2d(maps[:, None], 3, 1, 1)
        top = near.amax((2, 3), keepdim=True)

        def mixed(mask: Tensor, edit: Tensor = edit, source: Tensor = source) -> Tensor:
            return torch.where(mask, edit, source)

        want = mixed(near >= threshold * top)
        expect(got, want, wrong=fits({
            "Inside and outside are exchanged: the word's place keeps the edit.": mixed(~(near >= threshold * top)),
            "The map is not spread: take the 3 x 3 maximum first.": mixed(maps[:, None] >= threshold * top),
            "The maximum is that of all pictures together; each has its own.": mixed(near >= threshold * near.amax()),
            "The edit is kept everywhere.": edit,
            "The threshold is a share of the map's maximum, not a number of its own.": mixed(near >= threshold),
            "The place of the maximum itself is lost: at least, not more than.": mixed(near > threshold * top),
            "You spread by an average; one strong place should carry its neighbours along.":
                mixed(F.avg_pool2d(maps[:, None], 3, 1, 1) >= threshold * F.avg_pool2d(maps[:, None], 3, 1, 1)
                      .amax((2, 3), keepdim=True)),
            "That adds the edit to the source; it replaces it.": source + (near >= threshold * top) * edit,
            "The mask is soft; here a place is either edited or not.": source + near / top * (edit - source),
        }, want), otherwise="Check threshold = 0, which keeps the edit everywhere, and then one picture by hand.")


# Defects and a measure --------------------------------------------------------------------------------------------------------


@exercise("10.lost_tokens", "Debug: where attention goes missing", points=2, hints=(
    "Row w of M says where the attention to source token w goes on to. When does all of it arrive?",
    "torch.isclose(mapper.sum(1), torch.ones(...)) is True where all is well; nonzero() lists the others.",
))
def lost_tokens(mapper):
    """mapper: M (L, T) of a word swap, perhaps a wrong one. Returns the list of source tokens whose
    attention does not arrive whole: some of it is lost, or it is there more than once.
    """
    ### BEGIN SOLUTION
    sums = mapper.sum(1)
    return (~torch.isclose(sums, torch.ones_like(sums))).nonzero().flatten().tolist()
    ### END SOLUTION


@checks(lost_tokens)
def _lost_tokens(fn: Callable) -> None:
    good = mapper_of([[0], [1], [2, 3], [4], [5]], [[0], [1, 2, 3], [4], [5], [6]], 7)[:6].float()
    tail = torch.zeros(7, 9)
    tail[[0, 1], [0, 1]], tail[2, 2:5] = 1, 1 / 3
    for j in range(5, 7):
        tail[j, j] = 1                                       # the published one: rows 3 and 4 lead nowhere
    twice = torch.eye(5, 6)
    twice[2, 4] = 1
    signs = torch.eye(4)
    signs[1] = torch.tensor([0.5, -0.25, 0.5, 0.25])         # a row of any numbers that sums to 1 loses nothing
    signs[3] = torch.tensor([0.0, 1.5, 0.0, -1.0])
    for mapper, want in ((good, []), (twice, [2]), (tail, [3, 4]), (torch.zeros(3, 4), [0, 1, 2]), (signs, [3])):
        out = fn(mapper.clone())
        if out is None:
            raise Mistake("It returns nothing; is a return missing?")
        try:
            got = sorted(int(v) for v in (out.tolist() if isinstance(out, Tensor) else out))
        except (TypeError, ValueError):
            raise Mistake(f"It returns {type(out).__name__}, but a list of token positions is expected.") from None
        if got == want:
            continue
        sums = mapper.sum(1)
        seen = {
            "You look at columns: those are the target's tokens. A target token may well get nothing.":
                [k for k, s in enumerate(mapper.sum(0).tolist()) if abs(s - 1) > 1e-4],
            "Those are the tokens that arrive whole; the others are asked for.":
                [k for k, s in enumerate(sums.tolist()) if abs(s - 1) < 1e-4],
            "A word may share its attention out: a third three times is whole. Allow for rounding, too.":
                [k for k, row in enumerate(mapper.tolist()) if 1.0 not in row],
            "Sums of thirds are not exactly 1 in floating point.": [k for k, s in enumerate(sums.tolist()) if s != 1],
            "A row that is not all zero can still lose a part, or count double.":
                [k for k, row in enumerate(mapper) if not row.any()],
        }
        if mapper is twice and got == []:
            raise Mistake("A row that is not all zero can lose a part, or count double: too much is as wrong as too little.")
        for message, value in seen.items():
            if got == value:
                raise Mistake(message)
        raise Mistake(f"Here the rows sum to {[round(s, 2) for s in sums.tolist()]}: that is tokens {want}, not {got}.")


@exercise("10.controlled", "Debug: the step that is missed", hints=(
    "Steps are counted from 0. In how many of 10 steps is the share 0.4?",
    "The share that is done before step `index` is index / steps.",
))
def controlled(index, steps, share):
    """Is step `index` (0 to steps - 1) among the first `share` of the steps? Returns True or False.

    share 0: never. share 1: always. Of 50 steps, a share of 0.8 is 40 steps.
    """
    ### BEGIN SOLUTION
    return index / steps < share
    ### END SOLUTION


@checks(controlled)
def _controlled(fn: Callable) -> None:
    for steps in (50, 20, 10):
        for share in (0.4, 0.5, 0.8, 1.0, 0.0):
            answers = [fn(index, steps, share) for index in range(steps)]
            if any(a is None for a in answers):
                raise Mistake("It returns nothing; is a return missing?")
            try:
                got = [bool(a) for a in answers]
            except (TypeError, ValueError, RuntimeError):
                raise Mistake("The answer is True or False.") from None
            want = [index / steps < share for index in range(steps)]
            if got == want:
                continue
            if got == [0 < index <= round(share * steps) for index in range(steps)] and share > 0:
                raise Mistake("Step 0 is missed: counting begins at 0, and step 0 is where the layout is decided.")
            if got == [index / steps <= share for index in range(steps)]:
                raise Mistake(f"That is one step too many: {sum(got)} of {steps} for a share of {share:g}.")
            if got == [not w for w in want]:
                raise Mistake("That is the other steps.")
            if got == [steps - index <= round(share * steps) for index in range(steps)]:
                raise Mistake("Those are the last steps; the first ones are asked for.")
            raise Mistake(f"For a share of {share:g} of {steps} steps you control {sum(got)}, not the first {sum(want)}.")


@exercise("10.paired_gain", "Measure: a gain and its interval", points=2, hints=(
    "The same edits were scored twice: the gain of each is a difference, (ours - plain).",
    "gain[rows] has shape (R, N): every row is one resample. Its mean over N is one possible gain.",
    "torch.quantile(means, torch.tensor([0.025, 0.975]).to(means)) gives both ends.",
))
def paired_gain(ours, plain, rows):
    """ours, plain: scores (N,) of the same N edits by two methods. rows: (R, N) whole numbers below N, R
    resamples of the edits.

    Returns a tensor of three: the mean gain of ours over plain, and the 2.5 % and 97.5 % quantiles of
    the mean gains of the resamples, in which both methods are scored on the same edits.
    """
    ### BEGIN SOLUTION
    gain = ours - plain
    means = gain[rows].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975]).to(means))
    return torch.stack([gain.mean(), low, high])
    ### END SOLUTION


@checks(paired_gain)
def _paired_gain(fn: Callable) -> None:
    for case, (n, repeats) in enumerate([(9, 60), (14, 41), (6, 200)]):
        ours, plain = (normal((n,), "lesson 10 gain", 2 * case + k, dtype=torch.float64) * 2 + 3 * k for k in range(2))
        plain = plain + ours                                     # paired: the two go together
        rows = (normal((repeats, n), "lesson 10 rows", case, dtype=torch.float64).abs() * 1e4).long() % n
        got = call(fn, ours, plain, rows, shape=(3,))
        gain, ends = ours - plain, torch.tensor([0.025, 0.975], dtype=torch.float64)

        def three(means: Tensor, value: Tensor, q: Tensor = ends) -> Tensor:
            return torch.stack([value, *torch.quantile(means, q)])

        means = gain[rows].mean(1)
        apart = ours[rows].mean(1) - plain[rows.roll(1, 0)].mean(1)
        want = three(means, gain.mean())
        expect(got, want, wrong=fits({
            "The gain is ours minus plain, not the other way round.": three(-means, -gain.mean()),
            "The two methods are resampled apart; on the same edits most of the spread cancels.": three(apart, gain.mean()),
            "Those are the quantiles of single gains, not of the means of resamples.": three(gain, gain.mean()),
            "The mean runs over the resamples; each resample has its own mean.": three(gain[rows].mean(0), gain.mean()),
            "The first number is the gain that was measured, not the mean of the resamples.": three(means, means.mean()),
            "The ends are exchanged: low first.": three(means, gain.mean(), ends.flip(0)),
            "Those are the 5 % and 95 % quantiles: 90 % in all.":
                three(means, gain.mean(), torch.tensor([0.05, 0.95], dtype=torch.float64)),
            "Those are the smallest and the largest resample; leave 2.5 % outside at each end.":
                torch.stack([gain.mean(), means.min(), means.max()]),
        }, want), otherwise="Check with rows that list every edit once: all three numbers are then the mean gain.")
